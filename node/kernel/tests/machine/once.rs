//! Jobs that never run twice: whose word they wait for, what a member of their set gives, and what becomes of a run that is lost.

use shoal_kernel::{Command, Effect, Group, Input, NewJob, Promise, Recall, Record, Reply};
use shoal_protocol::object::function::RunLimits;
use shoal_protocol::object::job::{
    After, Effects, Ending, FailureCode, ReasonCode, Retry, RetryOn, State, Terms, When,
};
use shoal_protocol::regency::{Vote, first_of_term};
use shoal_protocol::wire::custody::{Begin, Grant, Granted, KeepJob, Kept};
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{NodeId, ObjectId, Seldom};

use super::charges::{keep, record};
use super::harness::*;
use super::takeover::{AWAY_MS, job, regent, signed, take, told};

const ME: NodeId = NodeId([9; 32]);

fn once(n: u64) -> NewJob {
    NewJob { terms: Terms { effects: Effects::Once, ..Terms::default() }, ..new_job(n) }
}

fn ask(job: ObjectId, epoch: u64, after: u64) -> Begin {
    Begin { job, epoch, after }
}

/// A home with two custodians and a worker.
fn home() -> Node {
    let mut node = Node::new();
    node.keeper(1);
    node.keeper(2);
    node.says_kept(1, 2, &[]);
    node.attach(1, 4);
    node
}

/// Submits a job to a home with custodians, and lets one of them keep it.
fn submit(node: &mut Node, job: NewJob) -> Vec<Effect> {
    let id = job.id;
    let mut effects =
        node.handle(Input::Request { request: 7, principal: owner(), command: Command::Submit(vec![job]) });
    effects.extend(node.says_kept(1, 2, &[(id.millis(), 0)]));
    effects
}

/// What is asked of a member by these effects.
fn asks(effects: &[Effect], of: u8) -> Vec<Begin> {
    let asks = effects.iter().filter_map(|effect| match effect {
        Effect::ToCustodian { custodian, message: PeerMessage::Grant(grant) } if *custodian == peer(of) => {
            Some(grant.jobs.clone())
        }
        _ => None,
    });
    asks.flatten().collect()
}

fn grants(node: &mut Node, by: u8, job: ObjectId, epoch: u64) -> Vec<Effect> {
    node.handle(Input::Granted { node: peer(by), granted: Granted { jobs: vec![(job, epoch)], refused: Vec::new() } })
}

fn asked(node: &mut Node, by: u8, ask: Begin) -> Option<Granted> {
    let effects = node.handle(Input::Grant { from: peer(by), grant: Grant { jobs: vec![ask] } });
    let answer = to_home(&effects, by).into_iter().find_map(|message| match message {
        PeerMessage::Granted(granted) => Some(granted),
        _ => None,
    });
    if answer.as_ref().is_some_and(|answer| !answer.jobs.is_empty()) && node.grants.contains_key(&ask.job) {
        let written = effects.iter().position(|effect| matches!(effect, Effect::Write(Record::Granted(_))));
        let said = place(&effects, |effect| matches!(effect, Effect::ToHome { .. }));
        assert!(written.is_none_or(|written| written < said), "written, then said");
    }
    answer
}

#[test]
fn each_run_waits_for_the_word_of_a_majority_and_begins_with_it() {
    let mut node = home();
    let effects = submit(&mut node, once(1));
    assert_eq!((asks(&effects, 1), asks(&effects, 2)), (vec![ask(id(1), 1, 0)], vec![ask(id(1), 1, 0)]));
    assert_eq!((starts(&effects), node.state(1)), (Vec::new(), State::Queued));
    let reason = node.reason(1);
    assert_eq!(reason.code, ReasonCode::NoMajority);
    assert!(reason.message.contains("1 of the 3 nodes") && reason.message.contains("need 2"), "{}", reason.message);
    assert_eq!(starts(&grants(&mut node, 3, id(1), 1)), [], "it is no member");
    assert_eq!(starts(&grants(&mut node, 2, id(1), 9)), [], "it is for another epoch");
    let effects = grants(&mut node, 2, id(1), 1);
    let run = Run { job: id(1), epoch: 1 };
    assert_eq!(start(&effects), (worker_id(1), run));
    let promise = Promise { job: id(1), epoch: 1, to: ME };
    let written = place(&effects, |effect| *effect == Effect::Write(Record::Granted(promise)));
    assert!(written < place(&effects, |effect| matches!(effect, Effect::Start { .. })));
    node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!((node.state(1), node.standing(1).unconfirmed), (State::Succeeded, false));
    node.assert_conserved();
}

#[test]
fn without_a_majority_it_waits_and_says_so_and_others_go_on() {
    let mut node = home();
    let links = [1, 2].map(|n| node.link(n));
    submit(&mut node, NewJob { terms: Terms { hold: true, ..once(1).terms }, ..new_job(1) });
    for (n, link) in [(1, links[0]), (2, links[1])] {
        node.part(n, link);
    }
    let effects = node.command(owner(), Command::Release(id(1))).1;
    assert_eq!(starts(&effects), []);
    let reason = node.reason(1);
    assert_eq!(reason.code, ReasonCode::NoMajority);
    assert!(reason.message.contains("1 of the 3 nodes that keep it are there"), "{}", reason.message);
    let effects = node.hand_over(&[2], None);
    assert_eq!(started_jobs(&effects), [2]);
    let (_, effects) = node.keeper(2);
    assert_eq!(asks(&effects, 2), [ask(id(1), 1, 0)], "it is asked as soon as it is there");
    assert_eq!(started_jobs(&grants(&mut node, 2, id(1), 1)), [1]);
}

#[test]
fn what_has_no_custodians_needs_nobodys_word() {
    let mut node = Node::new();
    node.attach(1, 1);
    assert_eq!(started_jobs(&node.submit(once(1))), [1], "the home is its own majority");
}

#[test]
fn a_run_that_is_lost_is_not_repeated_and_one_that_was_declined_is() {
    let mut node = home();
    submit(&mut node, once(1));
    grants(&mut node, 1, id(1), 1);
    let run = Run { job: id(1), epoch: 1 };
    let refused = shoal_protocol::Problem::new(shoal_protocol::Kind::Full, "no room");
    node.handle(Input::Declined { worker: worker_id(1), run, problem: refused });
    assert_eq!(node.state(1), State::Queued, "it never started");
    let effects = node.pass(1_000);
    assert_eq!(asks(&effects, 1), [ask(id(1), 2, 1)], "for the next run it is asked again");
    let effects = grants(&mut node, 1, id(1), 2);
    assert_eq!(start(&effects).1.epoch, 2);
    node.attach_with(1, 2, offer(4, 64 * 1024), Vec::new());
    let settled = node.standing(1);
    assert_eq!(settled.state, State::Failed);
    let Some(Ending::Failed(failure)) = settled.outcome.as_ref().map(|outcome| outcome.ending.clone()) else {
        panic!("{settled:?}")
    };
    assert_eq!(failure.code, FailureCode::WorkerLost);
    assert!(failure.message.contains("not run again"), "{}", failure.message);
}

#[test]
fn a_failure_of_its_own_that_it_names_is_tried_again_with_another_word() {
    let mut node = home();
    let retry = Some(Box::new(Retry { on: [RetryOn::Guest].into(), ..Retry::default() }));
    let limits = RunLimits { attempts: Some(2), ..RunLimits::default() };
    submit(&mut node, NewJob { terms: Terms { retry, ..once(1).terms }, limits, ..new_job(1) });
    grants(&mut node, 1, id(1), 1);
    node.ended(1, Run { job: id(1), epoch: 1 }, failed(FailureCode::Guest));
    let effects = node.pass(1_000);
    assert_eq!((starts(&effects), asks(&effects, 2)), (Vec::new(), vec![ask(id(1), 2, 1)]));
    assert_eq!(start(&grants(&mut node, 2, id(1), 2)).1.epoch, 2);
}

#[test]
fn an_end_without_a_run_needs_the_same_word() {
    let mut node = home();
    let links = [1, 2].map(|n| node.link(n));
    submit(&mut node, NewJob { terms: Terms { hold: true, ..once(1).terms }, ..new_job(1) });
    for (n, link) in [(1, links[0]), (2, links[1])] {
        node.part(n, link);
    }
    let (reply, _) = node.command(owner(), Command::Cancel(id(1)));
    let Ok(Reply::Job(Some(view))) = reply else { panic!("{reply:?}") };
    assert_eq!((view.state, view.reason.unwrap().code), (State::Queued, ReasonCode::NoMajority));
    assert!(node.standing(1).cancelled, "a restart knows it");
    assert!(node.command(owner(), Command::Hold(id(1))).0.is_err(), "it is about to end");
    let (mut again, _) = node.restarted();
    again.attach(1, 1);
    for node in [&mut node, &mut again] {
        let (_, effects) = node.keeper(1);
        assert_eq!(asks(&effects, 1), [ask(id(1), 1, 0)]);
        assert_eq!(node.state(1), State::Queued);
        let effects = grants(node, 1, id(1), 1);
        assert_eq!((starts(&effects), node.state(1)), (Vec::new(), State::Cancelled));
        node.assert_conserved();
    }
}

#[test]
fn a_job_that_is_never_met_is_blocked_until_it_may_end() {
    let mut node = home();
    let earlier = NewJob { id: ObjectId::from_parts(1, 0, ME.tag()), durability: Some(1), ..new_job(1) };
    let after = vec![After { job: earlier.id, when: When::NotOk }];
    let (_, run) = start(&node.submit(earlier));
    submit(&mut node, NewJob { after, ..once(2) });
    let effects = node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(asks(&effects, 1), [ask(id(2), 1, 0)]);
    let standing = node.standing(2);
    assert_eq!((standing.state, standing.unmet.len()), (State::Blocked, 1), "a regent takes it over as it stands");
    assert_eq!(node.reason(2).code, ReasonCode::NoMajority);
    grants(&mut node, 1, id(2), 1);
    assert_eq!(node.state(2), State::Failed);
}

#[test]
fn a_restart_knows_that_a_job_may_begin_and_asks_anew_where_it_does_not() {
    let mut node = home();
    submit(&mut node, once(1));
    let (mut again, _) = node.restarted();
    again.attach(1, 1);
    let (_, effects) = again.keeper(1);
    assert_eq!(asks(&effects, 1), [ask(id(1), 1, 0)]);
    // Its worker is gone by the time that it may begin.
    let mut node = home();
    submit(&mut node, once(1));
    node.attach_with(1, 2, offer(0, 1), Vec::new());
    assert_eq!(starts(&grants(&mut node, 1, id(1), 1)), []);
    let (mut again, _) = node.restarted();
    let effects = again.attach_with(1, 3, offer(1, 64 * 1024), Vec::new());
    assert_eq!(started_jobs(&effects), [1], "nobody needs to be asked");
}

/// A record of a job of peer 1 with effects `once`.
fn once_record(n: u64, revision: u64) -> KeepJob {
    let mut told = record(n, revision, true);
    let accepted = told.accepted.as_mut().unwrap();
    accepted.terms = Seldom::from(once(n).terms);
    accepted.custody =
        Some(shoal_protocol::custody::Custody { set: 4, durability: std::num::NonZeroU8::new(2).unwrap() });
    told
}

#[test]
fn a_member_gives_its_word_once_and_keeps_it_through_a_restart() {
    let mut node = Node::new();
    node.keeper(1);
    assert_eq!(asked(&mut node, 1, ask(job(1), 1, 0)), None, "the job is not here");
    keep(&mut node, &[1, 9, 2], vec![once_record(1, 0)]);
    node.keeper(2);
    assert_eq!(asked(&mut node, 2, ask(job(1), 1, 0)), None, "it is not the home");
    assert_eq!(asked(&mut node, 3, ask(job(1), first_of_term(1) + 1, 0)), None, "it is no member");
    let granted = asked(&mut node, 1, ask(job(1), 1, 0)).unwrap();
    assert_eq!((granted.jobs, node.grants[&job(1)].to), (vec![(job(1), 1)], peer(1)));
    for mut node in [node.restarted().0, node] {
        node.keeper(1);
        node.keeper(2);
        let later = first_of_term(1) + 1;
        let refused = asked(&mut node, 2, ask(job(1), later, 0)).unwrap();
        assert_eq!((refused.jobs, refused.refused), (Vec::new(), vec![(job(1), later, peer(1))]));
        assert_eq!(asked(&mut node, 1, ask(job(1), 1, 0)).unwrap().jobs, [(job(1), 1)], "the same once more");
        assert_eq!(asked(&mut node, 2, ask(job(1), later, 1)).unwrap().jobs, [(job(1), later)], "it came to nothing");
        assert_eq!(asked(&mut node, 1, ask(job(1), 2, 1)).unwrap().refused, [(job(1), 2, peer(2))]);
    }
}

/// Node 9 as a regent of peer 1, whose job with effects `once` it keeps with peer 2.
fn reigning() -> (Node, Vec<Effect>) {
    let mut node = Node::with(|config| config.takeover_after_ms = AWAY_MS);
    let (connection, _) = node.keeper(1);
    node.keeper(2);
    keep(&mut node, &[1, 9, 2], vec![once_record(1, 0)]);
    node.part(1, connection);
    for _ in 0..6 {
        node.pass(5_000);
        node.peer_heartbeat(2, &[]);
    }
    node.attach(1, 1);
    let effects = node.handle(Input::Voted { vote: Vote::new(regent(1), peer(2)), signed: signed() });
    let effects = take(&mut node, &effects);
    (node, effects)
}

#[test]
fn a_regent_takes_over_what_never_began_and_then_its_home_cannot_begin_it() {
    let (mut node, effects) = reigning();
    let first = first_of_term(1) + 1;
    assert_eq!(asks(&effects, 2), [ask(job(1), first, 0)]);
    assert!(!node.jobs.contains_key(&job(1)), "not before a majority says so");
    assert!(asked(&mut node, 1, ask(job(1), 1, 0)).is_some(), "so far its home may begin it");
    assert_eq!(grants(&mut node, 2, job(1), first), [], "which it may have done by now");
    let (mut node, _) = reigning();
    let effects = grants(&mut node, 2, job(1), first);
    let effects = take(&mut node, &effects);
    assert_eq!(start(&effects).1, Run { job: job(1), epoch: first });
    assert_eq!(node.grants[&job(1)], Promise { job: job(1), epoch: first, to: ME });
    node.keeper(1);
    assert_eq!(asked(&mut node, 1, ask(job(1), 1, 0)).unwrap().refused, [(job(1), 1, ME)]);
    node.ended(1, Run { job: job(1), epoch: first }, outcome(Ending::Succeeded));
    assert!(node.jobs[&job(1)].1.state == State::Succeeded && !node.jobs[&job(1)].1.unconfirmed);
}

#[test]
fn a_regent_that_forgets_how_a_job_ended_keeps_it_for_its_home_and_gives_its_word_no_more() {
    for restarts in [false, true] {
        let (mut node, _) = reigning();
        let first = first_of_term(1) + 1;
        let effects = grants(&mut node, 2, job(1), first);
        let effects = take(&mut node, &effects);
        let run = start(&effects).1;
        node.ended(1, run, outcome(Ending::Succeeded));
        if restarts {
            node = node.restarted().0;
        }
        let (accepted, ended) = node.jobs[&job(1)].clone();
        let group = Group::of(&accepted, ended.state);
        let forget = Command::Forget { job: job(1), owner: accepted.spec.owner, group, bytes: 0 };
        node.command(operator(), forget).0.unwrap();
        assert!(!node.jobs.contains_key(&job(1)) && node.charges[&job(1)].2 == ended);
        if restarts {
            node = node.restarted().0;
        }
        // The home has heard nothing of it: it tells of the job as it was accepted, and wants to begin it.
        node.keeper(1);
        assert_eq!(asked(&mut node, 1, ask(job(1), 1, 0)), None);
        let effects = keep(&mut node, &[1, 9, 2], vec![once_record(1, 0)]);
        let kept = Kept { set: 4, jobs: vec![(job(1), ended.revision)], ..Kept::default() };
        assert_eq!(to_home(&effects, 1), [PeerMessage::Kept(kept)]);
        assert_eq!(asked(&mut node, 1, ask(job(1), 1, 0)), None);
        // It asks for what is newer, and hears how the job has ended.
        let recall = Recall { node: peer(1), job: job(1), set: None, revision: 0 };
        let record = Some(Box::new((accepted.clone(), ended.clone())));
        let effects = node.handle(Input::Recalled { recall, record });
        let whole = KeepJob::whole(accepted, Some(ended));
        let says = |effect: &Effect| matches!(effect, Effect::KeepTaken { to, jobs, .. } if *to == peer(1) && jobs[..] == [whole.clone()]);
        assert!(effects.iter().any(says), "{effects:?}");
        node.handle(Input::Forget { home: peer(1), jobs: vec![job(1)] });
        assert!(!node.charges.contains_key(&job(1)), "as soon as its home has forgotten it");
    }
}

#[test]
fn what_may_have_begun_is_left_to_its_home() {
    // As the other custodian says it, or as the home has said it.
    let (mut node, _) = reigning();
    let refused = vec![(job(1), first_of_term(1) + 1, peer(1))];
    node.handle(Input::Granted { node: peer(2), granted: Granted { jobs: Vec::new(), refused } });
    for _ in 0..6 {
        node.pass(5_000);
    }
    assert!(!node.jobs.contains_key(&job(1)));
    let (mut node, _) = reigning();
    node.keeper(1);
    let mut offered = once_record(1, 1);
    offered.standing.as_mut().unwrap().state = State::Offered;
    keep(&mut node, &[1, 9, 2], vec![offered]);
    let link = node.link(1);
    node.part(1, link);
    for _ in 0..8 {
        node.pass(5_000);
        node.peer_heartbeat(2, &[]);
    }
    let effects = node.handle(Input::Voted { vote: Vote::new(regent(2), peer(2)), signed: signed() });
    let effects = take(&mut node, &effects);
    assert_eq!((asks(&effects, 2), node.jobs.contains_key(&job(1))), (Vec::new(), false));
}

#[test]
fn a_home_that_hears_of_a_regent_gives_its_word_to_it_and_yields() {
    let mut node = home();
    submit(&mut node, once(1));
    let first = first_of_term(1) + 1;
    assert_eq!(asked(&mut node, 1, ask(id(1), first, 0)).unwrap().jobs, [(id(1), first)]);
    assert_eq!(starts(&grants(&mut node, 2, id(1), 1)), [], "its own word is given away");
    let reason = node.reason(1);
    assert_eq!(reason.code, ReasonCode::NoMajority, "{}", reason.message);
    let (accepted, ours) = node.jobs[&id(1)].clone();
    let theirs =
        shoal_kernel::Standing { epoch: first, revision: first, state: State::Offered, regent: Some(peer(1)), ..ours };
    told(&mut node, 1, 1, vec![KeepJob::news(&accepted, theirs.clone())]);
    assert_eq!((node.reason(1).code, node.standing(1)), (ReasonCode::Yielded, &theirs));
    // One that has begun is not given away.
    let mut node = home();
    submit(&mut node, once(1));
    grants(&mut node, 2, id(1), 1);
    assert_eq!(asked(&mut node, 1, ask(id(1), first, 0)).unwrap().refused, [(id(1), first, ME)]);
}
