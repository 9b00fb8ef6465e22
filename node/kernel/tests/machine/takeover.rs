//! Jobs of a home that is away: who claims them, who votes, what a regent goes on with, and what holds when the home is back.

use shoal_kernel::{Accepted, Effect, Group, Input, Keep, NewJob, Record, Reign, Retention, SWEEP_LEN_MAX, Standing};
use shoal_protocol::custody::{Custody, SignedCustodians};
use shoal_protocol::key::Signature;
use shoal_protocol::object::job::{After, Ending, KeyId, State, Terms, When};
use shoal_protocol::regency::{Regency, Regent, SignedVote, Vote, first_of_term};
use shoal_protocol::wire::custody::{KeepJob, Kept};
use shoal_protocol::wire::peer::{PeerMessage, Right, RunOffer};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{NodeId, ObjectId, Octets};

use super::charges::{keep, record};
use super::guests::job_of;
use super::harness::*;
use super::placing::learn;

/// How long a home may be away in these tests.
pub(crate) const AWAY_MS: u64 = 20_000;

pub(crate) fn job(n: u64) -> ObjectId {
    job_of(peer(1), n)
}

/// A node that keeps jobs of peer 1, with these members of its set, and that peer gone for as long as it may be. This node is 9.
fn orphaned(members: &[u8], jobs: &[u64]) -> (Node, Vec<Effect>) {
    orphaned_keeping(members, jobs, Retention::default())
}

/// The same, with so many settled jobs that are kept.
fn orphaned_keeping(members: &[u8], jobs: &[u64], retention: Retention) -> (Node, Vec<Effect>) {
    orphaned_with(members, jobs.iter().map(|n| record(*n, 0, true)).collect(), retention)
}

/// The same, with these jobs.
pub(crate) fn orphaned_with(members: &[u8], jobs: Vec<KeepJob>, retention: Retention) -> (Node, Vec<Effect>) {
    let mut node = Node::with(|config| (config.takeover_after_ms, config.retention) = (AWAY_MS, retention));
    let (connection, _) = node.keeper(1);
    keep(&mut node, members, jobs);
    node.handle(Input::PeerDetached { node: peer(1), connection });
    node.pass(5_000);
    let mut effects = Vec::new();
    for _ in 0..5 {
        effects.extend(node.pass(5_000));
    }
    (node, effects)
}

pub(crate) fn regent(term: u32) -> Regent {
    Regent { home: peer(1), set: 4, term, regent: NodeId([9; 32]) }
}

pub(crate) fn signed() -> Box<SignedVote> {
    Box::new(SignedVote { bytes: Octets::default(), signature: Signature([0; 64]) })
}

/// What the store is asked for, answered.
pub(crate) fn take(node: &mut Node, effects: &[Effect]) -> Vec<Effect> {
    let asked = effects.iter().find_map(|effect| match effect {
        Effect::Take { home, set, jobs } => Some((*home, *set, jobs.clone())),
        _ => None,
    });
    let Some((home, set, jobs)) = asked else { panic!("{effects:?}") };
    let known: Vec<(Accepted, Standing)> =
        jobs.iter().map(|job| (node.charges[job].1.clone(), node.charges[job].2.clone())).collect();
    node.handle(Input::Took { home, set, jobs: known })
}

fn claims(effects: &[Effect]) -> Vec<NodeId> {
    let claims = effects.iter().filter_map(|effect| match effect {
        Effect::Claim { to, .. } => Some(*to),
        _ => None,
    });
    claims.collect()
}

/// What the regent tells this node, which is peer 1 to it.
pub(crate) fn told(node: &mut Node, from: u8, term: u32, jobs: Vec<KeepJob>) -> Vec<Effect> {
    let regent = Regent { home: NodeId([9; 32]), set: 1, term, regent: peer(from) };
    let reign = Box::new(Reign { regent, acts: true, confirmed: true, votes: Vec::new() });
    node.handle(Input::KeepTaken { from: peer(from), reign, jobs })
}

#[test]
fn in_a_set_of_two_the_other_goes_on_by_its_own_word_and_says_so() {
    let (mut node, effects) = orphaned(&[1, 9], &[1]);
    node.attach(1, 1);
    let effects = take(&mut node, &effects);
    let taken = &node.jobs[&job(1)].1;
    assert_eq!((taken.regent, taken.unconfirmed), (Some(NodeId([9; 32])), true));
    assert_eq!(taken.epoch, first_of_term(1) + 1, "it runs at once");
    let run = Run { job: job(1), epoch: first_of_term(1) + 1 };
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Start { start, .. } if start.run == run)));
    node.ended(1, run, outcome(Ending::Succeeded));
    let settled = &node.jobs[&job(1)].1;
    assert!(settled.state == State::Succeeded && settled.unconfirmed, "{settled:?}");
}

/// A job of peer 1 that waits for another one of it.
fn waiting(n: u64, earlier: u64) -> KeepJob {
    let mut told = record(n, 1, true);
    let (Some(accepted), Some(standing)) = (&mut told.accepted, &mut told.standing) else { panic!("{told:?}") };
    accepted.extras.after = vec![After { job: job(earlier), when: When::Ok }];
    (standing.state, standing.unmet) = (State::Blocked, [job(earlier)].into());
    told
}

#[test]
fn a_job_that_waits_for_one_that_its_home_has_forgotten_ends() {
    let (mut node, effects) = orphaned_with(&[1, 9], vec![waiting(1, 77), waiting(2, 1)], Retention::default());
    take(&mut node, &effects);
    assert!(!node.jobs.contains_key(&job(1)), "what it waits for is not kept here");
    assert_eq!(node.jobs[&job(2)].1.state, State::Blocked);
    node.keeper(1);
    let effects = node.handle(Input::Forget { home: peer(1), jobs: vec![job(1)] });
    assert_eq!(node.jobs[&job(2)].1.state, State::Failed, "{effects:?}");
    node.assert_conserved();
}

/// Whether the other custodian is told who acts.
fn is_announced(effects: &[Effect]) -> bool {
    let alone =
        |effect: &Effect| matches!(effect, Effect::KeepTaken { to, jobs, .. } if *to == peer(2) && jobs.is_empty());
    effects.iter().any(alone)
}

#[test]
fn what_its_home_has_ended_while_the_store_was_asked_is_not_taken_over() {
    let (mut node, asked) = orphaned(&[1, 9], &[1]);
    let mut told = record(1, 2, false);
    let standing = told.standing.as_mut().unwrap();
    (standing.state, standing.outcome, standing.settled_ms) =
        (State::Succeeded, Some(outcome(Ending::Succeeded)), Some(5));
    // A late message of a connection that has ended.
    keep(&mut node, &[1, 9], vec![told]);
    let effects = take(&mut node, &asked);
    assert!(node.jobs.is_empty() && effects.iter().all(|effect| !matches!(effect, Effect::Write(_))), "{effects:?}");
}

#[test]
fn what_its_home_has_refused_or_ended_and_forgotten_a_regent_does_not_go_on_with() {
    let (mut node, effects) = orphaned(&[1, 9], &[1]);
    node.attach(1, 1);
    take(&mut node, &effects);
    let run = Run { job: job(1), epoch: first_of_term(1) + 1 };
    node.keeper(1);
    let effects = node.handle(Input::Forget { home: peer(1), jobs: vec![job(1)] });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Cancel { run: stopped, .. } if *stopped == run)));
    assert!(node.jobs.is_empty() && node.charges.is_empty(), "{effects:?}");
    node.assert_conserved();
    node.restarted().0.assert_conserved();
}

#[test]
fn a_home_that_was_there_for_a_moment_is_away_from_then_on() {
    let mut node = Node::with(|config| config.takeover_after_ms = AWAY_MS);
    let (connection, _) = node.keeper(1);
    keep(&mut node, &[1, 9], vec![record(1, 0, true)]);
    node.handle(Input::PeerDetached { node: peer(1), connection });
    (0..4).for_each(|_| drop(node.pass(5_000)));
    let (connection, _) = node.keeper(1);
    node.pass(1);
    node.handle(Input::PeerDetached { node: peer(1), connection });
    let mut asked = Vec::new();
    (0..4).for_each(|_| asked.extend(node.pass(5_000)));
    assert!(asked.iter().all(|effect| !matches!(effect, Effect::Take { .. })), "{asked:?}");
    (0..2).for_each(|_| asked.extend(node.pass(5_000)));
    assert!(asked.iter().any(|effect| matches!(effect, Effect::Take { .. })), "{asked:?}");
}

#[test]
fn of_three_one_needs_the_word_of_another() {
    let (mut node, effects) = orphaned(&[1, 9, 2], &[1]);
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Take { .. })), "nobody has voted");
    node.keeper(2);
    let effects = node.pass(5_000);
    assert_eq!(claims(&effects), [peer(2)]);
    let vote = Vote::new(regent(1), peer(3));
    let effects = node.handle(Input::Voted { vote, signed: signed() });
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Take { .. })), "it is no member");
    let vote = Vote::new(regent(1), peer(2));
    let effects = node.handle(Input::Voted { vote, signed: signed() });
    assert!(is_announced(&effects), "also if it takes nothing over: {effects:?}");
    let effects = take(&mut node, &effects);
    let reign = &node.reigns[&(peer(1), 4, true)];
    assert!(reign.acts && reign.confirmed && reign.votes.len() == 1);
    let claim = Vote::new(Regent { regent: peer(2), ..regent(2) }, peer(2));
    let refused = node.handle(Input::Claimed { vote: claim });
    assert!(is_announced(&refused), "who claims it hears why that has no vote: {refused:?}");
    assert!(!node.jobs[&job(1)].1.unconfirmed);
    let sent = effects.iter().any(
        |effect| matches!(effect, Effect::KeepTaken { to, jobs, .. } if *to == peer(2) && jobs.iter().any(|job| job.revision() >= first_of_term(1))),
    );
    assert!(sent, "the other custodian hears of it: {effects:?}");
}

#[test]
fn a_vote_is_given_once_a_term_and_written_before_it_leaves_and_not_while_the_home_is_there() {
    let mut node = Node::with(|config| config.takeover_after_ms = AWAY_MS);
    let (connection, _) = node.keeper(1);
    keep(&mut node, &[1, 2, 9, 3][..3], vec![record(1, 0, true)]);
    let claim = |node: &mut Node, by: u8, term: u32| {
        let regent = Regent { regent: peer(by), ..regent(term) };
        let effects = node.handle(Input::Claimed { vote: Vote::new(regent, peer(by)) });
        let voted = effects.iter().position(|effect| matches!(effect, Effect::Voted { .. }));
        let written = effects.iter().position(|effect| matches!(effect, Effect::Write(Record::Reign(_))));
        voted.inspect(|voted| assert!(written.is_none_or(|written| written < *voted))).is_some()
    };
    assert!(!claim(&mut node, 2, 1), "its home is there");
    node.handle(Input::PeerDetached { node: peer(1), connection });
    assert!(!claim(&mut node, 3, 1), "it is no custodian of this set");
    assert!(claim(&mut node, 2, 1) && claim(&mut node, 2, 1), "the same word twice");
    let (mut again, _) = node.restarted();
    let other = Regent { regent: NodeId([9; 32]), ..regent(1) };
    assert_eq!(again.reigns[&(peer(1), 4, false)].regent.regent, peer(2));
    let effects = again.handle(Input::Voted { vote: Vote::new(other, peer(1)), signed: signed() });
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Take { .. })), "this term was given away");
}

#[test]
fn a_later_claim_that_comes_to_nothing_takes_no_voice_from_a_regent() {
    let (mut node, _) = orphaned(&[1, 9, 2], &[1]);
    node.keeper(2);
    node.pass(5_000);
    let effects = node.handle(Input::Voted { vote: Vote::new(regent(1), peer(2)), signed: signed() });
    take(&mut node, &effects);
    let (connection, _) = node.keeper(1);
    keep(&mut node, &[1, 9, 2], vec![record(2, 0, true)]);
    node.handle(Input::PeerDetached { node: peer(1), connection });
    for _ in 0..6 {
        node.pass(5_000);
    }
    assert_eq!(node.reigns[&(peer(1), 4, false)].regent.term, 2, "it claims again, and nobody answers");
    for mut node in [node.restarted().0, node] {
        let (_, effects) = node.keeper(1);
        let told = effects.iter().any(|effect| matches!(effect, Effect::KeepTaken { to, .. } if *to == peer(1)));
        assert!(told, "its home hears of what it has taken over: {effects:?}");
    }
}

#[test]
fn a_home_that_hands_over_is_followed_at_once() {
    let mut node = Node::new();
    node.keeper(1);
    keep(&mut node, &[1, 9], vec![record(1, 0, true)]);
    let effects = node.handle(Input::Voted { vote: Vote::new(regent(1), peer(1)), signed: signed() });
    take(&mut node, &effects);
    let taken = &node.jobs[&job(1)].1;
    assert!(taken.regent.is_some() && !taken.unconfirmed);
}

#[test]
fn a_home_that_comes_back_yields_and_ends_as_its_regent_says() {
    let mut node = Node::new();
    node.attach(1, 1);
    node.keeper(1);
    let keyed = shoal_kernel::NewJob { key: Some("a".into()), ..new_job(1) };
    node.handle(Input::Request { request: 8, principal: owner(), command: shoal_kernel::Command::Submit(vec![keyed]) });
    node.hand_over(&[2], None);
    node.says_kept(1, 1, &[(1, 0), (2, 0)]);
    let first = id(1);
    let ours = node.standing(1).clone();
    assert_eq!(ours.state, State::Offered);
    let theirs =
        Standing { epoch: first_of_term(1) + 1, revision: first_of_term(1) + 1, regent: Some(peer(1)), ..ours.clone() };
    let accepted = node.jobs[&first].0.clone();
    let effects = told(&mut node, 1, 1, vec![KeepJob::news(&accepted, theirs.clone())]);
    assert!(
        effects.iter().any(|effect| matches!(effect, Effect::Cancel { run, .. } if run.job == first)),
        "{effects:?}"
    );
    assert_eq!(*node.standing(1), theirs);
    let refused = node.command(owner(), shoal_kernel::Command::Cancel(first)).0.unwrap_err();
    assert!(refused.detail.contains("has gone on with it"), "{}", refused.detail);
    let (key, body) = (KeyId::of(&accepted).unwrap(), accepted.extras.key.as_ref().unwrap().body);
    assert_eq!(node.handle(Input::KeyTold { key, job: id(0), body }), [], "whether it is a duplicate its regent says");
    // What still comes of its own run counts for nothing, whatever happens.
    let (mut node, _) = node.restarted();
    node.attach(1, 1);
    node.ended(1, Run { job: first, epoch: ours.epoch }, outcome(Ending::Succeeded));
    assert_eq!(*node.standing(1), theirs);
    let settled = Standing {
        state: State::Failed,
        revision: first_of_term(1) + 2,
        settled_ms: Some(77),
        outcome: Some(outcome(Ending::TimedOut)),
        ..theirs
    };
    let effects = told(&mut node, 1, 1, vec![KeepJob::news(&accepted, settled.clone())]);
    assert_eq!(*node.standing(1), settled);
    let says = effects.iter().any(|effect| {
        matches!(effect, Effect::ToHome { message: PeerMessage::Kept(Kept { jobs, .. }), .. } if jobs == &[(first, settled.revision)])
    });
    assert!(says, "{effects:?}");
}

#[test]
fn what_a_regent_runs_at_the_home_of_a_job_that_one_does_not_take_back() {
    let mut node = Node::new();
    node.attach(1, 1);
    learn(&mut node, 1, 2_000);
    node.keeper(1);
    let held = NewJob { terms: Terms { hold: true, ..Terms::default() }, ..new_job(2) };
    node.handle(Input::Request { request: 8, principal: owner(), command: shoal_kernel::Command::Submit(vec![held]) });
    node.hand_over(&[3], None);
    let (_, running) = start(&node.says_kept(1, 1, &[(2, 0), (3, 0)]));
    node.started(1, running);
    let (accepted, ours) = node.jobs[&id(2)].clone();
    let first = first_of_term(1) + 1;
    let theirs = Standing { state: State::Offered, epoch: first, revision: first, regent: Some(peer(1)), ..ours };
    told(&mut node, 1, 1, vec![KeepJob::news(&accepted, theirs.clone())]);
    // It waits at a worker that is busy, and another one comes.
    let run = Run { job: id(2), epoch: first };
    let set = SignedCustodians { bytes: Octets::default(), signature: Signature([0; 64]) };
    let regent = Regent { home: NodeId([9; 32]), set: 1, term: 1, regent: peer(1) };
    let right = Right { set, regency: Regency { regent, votes: Vec::new() } };
    let offer = Box::new(RunOffer { run, attempt: 1, accepted, checkpoint: None, right: Some(Box::new(right)) });
    let connection = node.link(1);
    let effects = node.handle(Input::Offered { home: peer(1), connection, offer });
    assert_eq!(start(&effects), (worker_id(1), run));
    node.attach(2, 1);
    let effects = node.pass(500);
    assert!(
        !effects.iter().any(|effect| matches!(effect, Effect::Cancel { .. } | Effect::Start { .. })),
        "{effects:?}"
    );
    assert_eq!(*node.standing(2), theirs);
}

#[test]
fn a_home_that_asks_hears_what_its_regent_said_from_who_keeps_it() {
    let mut node = Node::new();
    keep(&mut node, &[1, 9, 2], vec![record(1, 0, true)]);
    let mut told = record(1, first_of_term(1) + 2, true);
    let custody = Custody { set: 4, durability: std::num::NonZeroU8::MIN };
    told.accepted.as_mut().unwrap().custody = Some(custody);
    let by_two = Regent { regent: peer(2), ..regent(1) };
    let reign = Reign { regent: by_two, acts: true, confirmed: true, votes: vec![*signed()] };
    node.handle(Input::KeepTaken { from: peer(2), reign: Box::new(reign.clone()), jobs: vec![told.clone()] });
    let (_, accepted, standing) = node.charges[&job(1)].clone();
    assert_eq!(standing.revision, first_of_term(1) + 2);
    // The regent has forgotten the job by now, and the home has not heard of its end.
    node.keeper(1);
    let kept = Kept { home: Some(peer(1)), missing: vec![job(1)], ..Kept::default() };
    let effects = node.handle(Input::Kept { node: peer(1), kept });
    let recall = effects.into_iter().find_map(|effect| match effect {
        Effect::Recall(recall) => Some(recall),
        _ => None,
    });
    let found = Some(Box::new((accepted, standing)));
    let effects = node.handle(Input::Recalled { recall: recall.expect("the store is asked"), record: found });
    let says = |to: NodeId, jobs: Vec<KeepJob>| Effect::KeepTaken { to, reign: reign.clone().into(), jobs };
    assert_eq!(effects, [says(peer(1), vec![told])]);
}

/// A job that has settled here, and how its regent has settled it otherwise.
fn settled_on_both_sides() -> (Node, Accepted, Standing, Standing) {
    let mut node = Node::new();
    node.attach(1, 1);
    node.keeper(1);
    node.hand_over(&[1], None);
    node.says_kept(1, 1, &[(1, 0)]);
    node.ended(1, Run { job: id(1), epoch: 1 }, outcome(Ending::Succeeded));
    let (accepted, ours) = node.jobs[&id(1)].clone();
    let theirs = Standing {
        state: State::Failed,
        epoch: first_of_term(1) + 1,
        revision: first_of_term(1) + 3,
        outcome: Some(outcome(Ending::TimedOut)),
        ..ours.clone()
    };
    (node, accepted, ours, theirs)
}

/// What the kernel asks the store about.
pub(crate) fn asked_to_merge(effects: &[Effect]) -> Box<KeepJob> {
    let told = effects.iter().find_map(|effect| match effect {
        Effect::Merge { told, .. } => Some(told.clone()),
        _ => None,
    });
    told.expect("the store is asked")
}

#[test]
fn of_two_settlements_the_higher_term_stands_and_the_other_is_kept_beside_it() {
    let (mut node, accepted, ours, theirs) = settled_on_both_sides();
    let asked = asked_to_merge(&told(&mut node, 1, 1, vec![KeepJob::news(&accepted, theirs.clone())]));
    let record = Some(Box::new((accepted.clone(), ours.clone())));
    node.handle(Input::Merge { from: peer(1), told: asked, record });
    let merged = node.standing(1);
    let superseded = merged.superseded.as_deref().expect("the lower one is kept");
    assert_eq!((superseded.epoch, superseded.state), (1, State::Succeeded));
    assert_eq!((merged.state, merged.epoch, merged.revision), (State::Failed, theirs.epoch, theirs.revision + 1));
    let unsettled = Standing { state: State::Queued, revision: first_of_term(2), outcome: None, ..ours.clone() };
    let asked = asked_to_merge(&told(&mut node, 1, 1, vec![KeepJob::news(&accepted, unsettled)]));
    let record = Some(Box::new((accepted, ours)));
    let effects = node.handle(Input::Merge { from: peer(1), told: asked, record });
    let sent = effects.iter().any(|effect| matches!(effect, Effect::Keep { to, .. } if *to == peer(1)));
    assert!(sent, "a regent that still runs it hears that it has ended: {effects:?}");
}

#[test]
fn what_is_forgotten_while_its_record_is_read_is_not_written_again() {
    let (mut node, accepted, ours, theirs) = settled_on_both_sides();
    let asked = asked_to_merge(&told(&mut node, 1, 1, vec![KeepJob::news(&accepted, theirs)]));
    let group = Group::of(&accepted, ours.state);
    node.pass(Retention::default().of(group).age_ms);
    let swept = node.handle(Input::Oldest { group, jobs: vec![(0, accepted.id, 0)] });
    assert!(swept.iter().any(|effect| matches!(effect, Effect::Write(Record::Swept(id)) if *id == accepted.id)));
    let record = Some(Box::new((accepted, ours)));
    assert_eq!(node.handle(Input::Merge { from: peer(1), told: asked, record }), []);
}

/// What is swept when the edge has said that these are the oldest.
fn swept(node: &mut Node, group: Group, jobs: &[(u64, ObjectId)]) -> (Vec<ObjectId>, Vec<Effect>) {
    let jobs = jobs.iter().map(|(settled_ms, job)| (*settled_ms, *job, 0)).collect();
    let effects = node.handle(Input::Oldest { group, jobs });
    let swept = effects.iter().filter_map(|effect| match effect {
        Effect::Write(Record::Swept(job)) => Some(*job),
        _ => None,
    });
    (swept.collect(), effects)
}

#[test]
fn a_job_stays_until_its_home_has_heard_how_it_ended_and_no_longer_than_a_week_more() {
    let (mut node, effects) = orphaned(&[1, 9], &[1]);
    node.attach(1, 1);
    take(&mut node, &effects);
    node.ended(1, Run { job: job(1), epoch: first_of_term(1) + 1 }, outcome(Ending::Succeeded));
    let (_, run) = start(&node.submit(new_job(2)));
    node.ended(1, run, outcome(Ending::Succeeded));
    let (mut accepted, standing) = node.jobs[&job(1)].clone();
    let (group, settled_ms) = (Group::of(&accepted, standing.state), standing.settled_ms.unwrap());
    let due = [(settled_ms, job(1)), (settled_ms, id(2))];
    assert_eq!(swept(&mut node, group, &due).0, [], "they are not old");
    let age_ms = Retention::default().of(group).age_ms;
    node.pass(age_ms);
    assert_eq!(swept(&mut node, group, &due).0, [id(2)], "others go");
    // Its home is there again, and is told once more, also after a restart.
    let (mut node, _) = node.restarted();
    node.keeper(1);
    let (gone, effects) = swept(&mut node, group, &due[..1]);
    let recall = effects.into_iter().find_map(|effect| match effect {
        Effect::Recall(recall) => Some(recall),
        _ => None,
    });
    assert_eq!(gone, []);
    accepted.custody = Some(Custody { set: 4, durability: std::num::NonZeroU8::MIN });
    let record = Some(Box::new((accepted, standing.clone())));
    let effects = node.handle(Input::Recalled { recall: recall.expect("the store is asked"), record });
    assert!(matches!(effects[..], [Effect::KeepTaken { to, .. }] if to == peer(1)), "{effects:?}");
    let says = |node: &mut Node, by: u8, revision: u64| {
        let kept = Kept { home: Some(peer(1)), set: 4, jobs: vec![(job(1), revision)], ..Kept::default() };
        node.handle(Input::Kept { node: peer(by), kept });
    };
    says(&mut node, 1, standing.revision - 1);
    says(&mut node, 2, standing.revision);
    assert_eq!(swept(&mut node, group, &due[..1]).0, [], "it knows how the job stood before, another one how it ended");
    let (mut never, _) = node.restarted();
    never.now.wall_ms += 7 * 24 * 3_600_000;
    assert_eq!(swept(&mut never, group, &due[..1]).0, [job(1)]);
    let (mut forgotten, _) = node.restarted();
    forgotten.handle(Input::Forget { home: peer(1), jobs: vec![job(1)] });
    assert_eq!(swept(&mut forgotten, group, &due[..1]).0, [job(1)], "its home wants nothing more of it");
    says(&mut node, 1, standing.revision);
    assert_eq!(swept(&mut node, group, &due[..1]).0, [job(1)]);
}

#[test]
fn jobs_of_which_their_home_has_not_heard_stop_nothing_and_count_for_nothing() {
    let all: Vec<u64> = (1..=SWEEP_LEN_MAX as u64).collect();
    let settled = Keep { age_ms: 100_000, jobs: 1 };
    let (mut node, effects) = orphaned_keeping(&[1, 9], &all, Retention { settled, ..Retention::default() });
    take(&mut node, &effects);
    let ended = all.iter().map(|n| {
        let mut told = record(*n, 5, false);
        let standing = told.standing.as_mut().unwrap();
        (standing.state, standing.outcome, standing.settled_ms) =
            (State::Succeeded, Some(outcome(Ending::Succeeded)), Some(5));
        told
    });
    keep(&mut node, &[1, 9], ended.collect());
    node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(100)));
    node.ended(1, run, outcome(Ending::Succeeded));
    let (accepted, standing) = node.jobs[&id(100)].clone();
    let group = Group::of(&accepted, standing.state);
    let asked = |effects: &[Effect]| {
        effects.iter().find_map(|effect| match effect {
            Effect::Oldest { after, .. } => Some(*after),
            _ => None,
        })
    };
    let page: Vec<(u64, ObjectId)> = all.iter().map(|n| (5, job(*n))).collect();
    let own = [(standing.settled_ms.unwrap(), id(100))];
    let (gone, effects) = swept(&mut node, group, &page);
    assert_eq!((gone, asked(&effects)), (Vec::new(), Some(page.last().copied())), "there may be more behind them");
    let (gone, effects) = swept(&mut node, group, &own);
    assert_eq!((gone, asked(&effects)), (Vec::new(), None), "there is one that counts, as there may be");
    let (_, run) = start(&node.submit(new_job(101)));
    assert_eq!(asked(&node.ended(1, run, outcome(Ending::Succeeded))), Some(None), "of two one goes");
    let (_, effects) = swept(&mut node, group, &page);
    assert_eq!(asked(&effects), Some(page.last().copied()));
    assert_eq!(swept(&mut node, group, &own).0, [id(100)]);
}

#[test]
fn a_home_that_knows_already_how_a_job_ended_says_so_once_more() {
    let (mut node, accepted, _, theirs) = settled_on_both_sides();
    let asked = asked_to_merge(&told(&mut node, 1, 1, vec![KeepJob::news(&accepted, theirs.clone())]));
    let record = Some(Box::new((accepted, theirs.clone())));
    let effects = node.handle(Input::Merge { from: peer(1), told: asked, record });
    let kept = Kept { home: Some(NodeId([9; 32])), jobs: vec![(id(1), theirs.revision)], ..Kept::default() };
    assert_eq!(effects, [Effect::ToHome { home: peer(1), message: PeerMessage::Kept(kept) }]);
}

#[test]
fn what_its_home_has_settled_meanwhile_a_regent_takes_over() {
    let (mut node, effects) = orphaned(&[1, 9], &[1]);
    node.attach(1, 1);
    take(&mut node, &effects);
    let run = Run { job: job(1), epoch: first_of_term(1) + 1 };
    node.keeper(1);
    let mut told = record(1, 5, false);
    let standing = told.standing.as_mut().unwrap();
    (standing.state, standing.outcome, standing.settled_ms) =
        (State::Succeeded, Some(outcome(Ending::Succeeded)), Some(5));
    let effects = keep(&mut node, &[1, 9], vec![told]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Cancel { run: stopped, .. } if *stopped == run)));
    let settled = &node.jobs[&job(1)].1;
    assert_eq!((settled.state, settled.epoch), (State::Succeeded, 5));
    assert!(settled.revision > first_of_term(1), "its home hears so as of any change");
}

#[test]
fn a_cancellation_that_its_regent_has_not_heard_of_is_told_to_it() {
    let mut node = Node::new();
    node.attach(1, 1);
    node.keeper(1);
    node.hand_over(&[1], None);
    node.says_kept(1, 1, &[(1, 0)]);
    node.command(owner(), shoal_kernel::Command::Cancel(id(1))).0.unwrap();
    let (accepted, ours) = node.jobs[&id(1)].clone();
    assert!(ours.cancelled && ours.state == State::Offered, "it ends with its run");
    let (epoch, regent) = (first_of_term(1) + 1, Some(peer(1)));
    let theirs = Standing { epoch, revision: epoch, regent, cancelled: false, ..ours };
    for _ in 0..2 {
        // Again, whenever the regent speaks of the job.
        let effects = told(&mut node, 1, 1, vec![KeepJob::news(&accepted, theirs.clone())]);
        let said = effects.iter().find_map(|effect| match effect {
            Effect::Keep { to, jobs, .. } if *to == peer(1) => jobs[0].standing.clone(),
            _ => None,
        });
        assert!(said.expect("its regent is told").cancelled, "{effects:?}");
        assert!(node.standing(1).cancelled, "what was answered stays true");
    }
}

#[test]
fn a_regent_ends_what_was_cancelled_at_its_home() {
    let (mut node, effects) = orphaned(&[1, 9], &[1]);
    take(&mut node, &effects);
    node.keeper(1);
    let told = record(1, 1, false);
    let cancelled = Standing { cancelled: true, ..*told.standing.clone().unwrap() };
    keep(&mut node, &[1, 9], vec![KeepJob { standing: Some(Box::new(cancelled)), ..told }]);
    assert_eq!(node.jobs[&job(1)].1.state, State::Cancelled);
}
