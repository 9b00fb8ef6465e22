//! A node leaves: its jobs go to another one, which decides them from then on, and none is lost or runs twice.

use shoal_kernel::{Command, Effect, Inheritance, Input, Leaving, NewJob, Record, Reign, Reply};
use shoal_protocol::custody::{CustodianSet, SignedCustodians};
use shoal_protocol::key::Signature;
use shoal_protocol::object::function::Grant;
use shoal_protocol::object::job::{After, Array, Ending, FailureCode, State, Terms, When};
use shoal_protocol::regency::{Regent, SignedVote, first_of_term};
use shoal_protocol::wire::custody::{KeepJob, Kept};
use shoal_protocol::wire::drain::HandedJob;
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Kind, NodeId, ObjectId, Octets};

use super::guests::job_of;
use super::harness::*;

/// The node that leaves.
const HOME: NodeId = NodeId([9; 32]);

fn job(n: u64) -> ObjectId {
    job_of(HOME, n)
}

fn new(n: u64) -> NewJob {
    NewJob { id: job(n), ..new_job(n) }
}

fn held(n: u64) -> NewJob {
    NewJob { terms: Terms { hold: true, ..Terms::default() }, ..new(n) }
}

/// The other node, which is peer 1 to the one that leaves.
fn heir() -> Node {
    Node::with(|config| config.node = peer(1))
}

fn drain(node: &mut Node, hasten: bool) -> Vec<Effect> {
    let (reply, effects) = node.command(operator(), Command::Drain { to: peer(1), hasten });
    assert_eq!(reply, Ok(Reply::Done));
    effects
}

fn leaving(node: &mut Node) -> Leaving {
    match node.command(operator(), Command::HandOver).0 {
        Ok(Reply::Leaving(leaving)) => *leaving,
        other => panic!("{other:?}"),
    }
}

fn signed() -> SignedVote {
    SignedVote { bytes: Octets::default(), signature: Signature([0; 64]) }
}

/// The other node takes jobs; what it answers.
fn inherit(home: &Node, heir: &mut Node, regent: Regent, jobs: Vec<HandedJob>) -> (Vec<ObjectId>, Vec<Effect>) {
    let set: CustodianSet = home.sets[&(HOME, regent.set)].clone();
    let signed_set = SignedCustodians { bytes: Octets::default(), signature: Signature([0; 64]) };
    let inheritance = Inheritance { set, signed: signed_set, regent, vote: signed(), jobs };
    match heir.command(operator(), Command::Inherit(Box::new(inheritance))) {
        (Ok(Reply::Inherited(taken)), effects) => (taken, effects),
        other => panic!("{other:?}"),
    }
}

/// Sends what can go, and tells the home what has come of it. How many jobs went.
fn hand(home: &mut Node, heir: &mut Node) -> usize {
    let left = leaving(home);
    let went = left.jobs.len();
    for (regent, handed) in left.jobs {
        let (taken, _) = inherit(home, heir, regent, vec![handed]);
        tell(home, heir, regent, &taken);
    }
    went
}

fn tell(home: &mut Node, heir: &Node, regent: Regent, taken: &[ObjectId]) {
    let news = taken.iter().map(|job| {
        let (accepted, standing) = &heir.jobs[job];
        KeepJob::news(accepted, standing.clone())
    });
    let reign = Box::new(Reign { regent, acts: true, confirmed: true, votes: Vec::new() });
    home.handle(Input::KeepTaken { from: peer(1), reign, jobs: news.collect() });
}

fn state(node: &Node, n: u64) -> State {
    node.jobs[&job(n)].1.state
}

#[test]
fn what_waits_goes_at_once_what_runs_when_it_has_ended_and_nothing_new_comes() {
    let (mut home, mut heir) = (Node::new(), heir());
    home.attach(1, 1);
    home.submit(new(1));
    home.submit(new(2));
    home.submit(held(3));
    home.submit(NewJob { after: vec![After { job: job(3), when: When::Ok }], ..new(4) });
    assert_eq!(drain(&mut home, false).iter().filter(|effect| matches!(effect, Effect::Cancel { .. })).count(), 0);
    let refused = home.refused(owner(), new(5));
    assert!(refused.kind == Kind::Draining && refused.detail.contains(&peer(1).to_string()), "{refused}");
    let refused = home.command(owner(), Command::Cancel(job(3))).0.unwrap_err();
    assert_eq!(refused.kind, Kind::Draining, "what is on its way is not changed");
    assert_eq!(hand(&mut home, &mut heir), 3);
    let left = leaving(&mut home);
    assert_eq!((left.jobs.len(), left.running, left.waiting), (0, 1, 0));
    assert_eq!(home.command(operator(), Command::Drained).0.unwrap_err().kind, Kind::Conflict);
    home.ended(1, Run { job: job(1), epoch: 1 }, outcome(Ending::Succeeded));
    assert_eq!(leaving(&mut home).running, 0);
    let (_, effects) = home.command(operator(), Command::Drained);
    assert!(effects.contains(&Effect::Write(Record::Drain(None))));
    // The other one goes on, also after a restart, in epochs above those of the home.
    let (mut heir, _) = heir.restarted();
    assert_eq!([2, 3, 4].map(|n| state(&heir, n)), [State::Queued, State::Held, State::Blocked]);
    heir.assert_conserved();
    heir.attach(1, 1);
    let run = Run { job: job(2), epoch: first_of_term(2) + 1 };
    heir.ended(1, run, outcome(Ending::Succeeded));
    heir.command(owner(), Command::Release(job(3))).0.unwrap();
    heir.ended(1, Run { job: job(3), ..run }, outcome(Ending::Succeeded));
    heir.ended(1, Run { job: job(4), ..run }, outcome(Ending::Succeeded));
    assert_eq!([2, 3, 4].map(|n| state(&heir, n)), [State::Succeeded; 3]);
    // And the home, when it is started again, goes on with none of them.
    let (mut home, _) = home.restarted();
    home.attach(1, 4);
    assert_eq!(home.kernel.load().running, 0);
    assert_eq!(home.jobs[&job(2)].1.regent, Some(peer(1)));
}

#[test]
fn who_does_not_want_to_wait_stops_runs_and_they_begin_anew_at_the_other_node() {
    let (mut home, mut heir) = (Node::new(), heir());
    home.attach(1, 1);
    home.submit(new(1));
    home.started(1, Run { job: job(1), epoch: 1 });
    drain(&mut home, true);
    assert_eq!(hand(&mut home, &mut heir), 1);
    let attempts = &heir.jobs[&job(1)].1.attempts;
    assert!(attempts.len() == 1 && attempts[0].ended_ms.is_some(), "{attempts:?}");
    // What still comes of the run counts for nothing.
    home.ended(1, Run { job: job(1), epoch: 1 }, outcome(Ending::Succeeded));
    assert_eq!(home.jobs[&job(1)].1.regent, Some(peer(1)));
    heir.attach(1, 1);
    heir.ended(1, Run { job: job(1), epoch: first_of_term(2) + 1 }, outcome(Ending::Succeeded));
    assert_eq!(state(&heir, 1), State::Succeeded);
}

#[test]
fn a_crash_of_either_side_loses_nothing_and_doubles_nothing() {
    let (mut home, mut heir) = (Node::new(), heir());
    home.submit(new(1));
    home.submit(new(2));
    drain(&mut home, false);
    let left = leaving(&mut home);
    let (regent, first) = left.jobs[0].clone();
    let (taken, _) = inherit(&home, &mut heir, regent, vec![first]);
    assert_eq!(taken, [job(1)]);
    // The home crashes before it hears so, and the other one has begun meanwhile.
    heir.attach(1, 1);
    let (mut home, _) = home.restarted();
    assert_eq!(home.drain.map(|drain| drain.to), Some(peer(1)));
    home.attach(1, 1);
    assert_eq!(home.refused(owner(), new(5)).kind, Kind::Draining);
    assert_eq!(home.kernel.load().running, 0, "nothing is begun by a node that leaves");
    let (mut heir, _) = heir.restarted();
    let again = leaving(&mut home);
    assert_eq!(again.jobs.len(), 2);
    for (again, handed) in again.jobs {
        assert_eq!(again, regent, "the term stays");
        let (taken, effects) = inherit(&home, &mut heir, regent, vec![handed]);
        let writes = effects.iter().filter(|effect| matches!(effect, Effect::Write(Record::Taken(_)))).count();
        assert_eq!(writes, usize::from(taken == [job(2)]), "what is there is not taken twice");
        tell(&mut home, &heir, regent, &taken);
    }
    assert_eq!(home.command(operator(), Command::Drained).0, Ok(Reply::Done));
    heir.assert_conserved();
}

#[test]
fn an_array_goes_when_none_of_its_elements_runs_and_its_elements_after_it() {
    let (mut home, mut heir) = (Node::new(), heir());
    home.attach(1, 1);
    let array = Array { first: 0, last: 3, step: 1, at_once: None };
    home.submit(NewJob { array: Some(array), ..new(1) });
    let element = |index| job(1).element(index).unwrap();
    home.ended(1, Run { job: element(0), epoch: 1 }, outcome(Ending::Succeeded));
    assert_eq!(home.jobs[&element(1)].1.state, State::Offered);
    drain(&mut home, false);
    assert_eq!(hand(&mut home, &mut heir), 0, "an element runs");
    home.ended(1, Run { job: element(1), epoch: 1 }, outcome(Ending::Succeeded));
    assert_eq!(hand(&mut home, &mut heir), 3, "with those that waited at its worker");
    // Its settled elements follow, as all that has settled.
    let regent = home.reigns.values().next().unwrap().regent;
    let mut settled = Vec::new();
    for index in [0, 1] {
        let (mut accepted, standing) = home.jobs[&element(index)].clone();
        accepted.custody = heir.jobs[&job(1)].0.custody;
        settled.push(HandedJob { accepted: accepted.into(), standing: standing.into(), checkpoint: None });
    }
    assert_eq!(inherit(&home, &mut heir, regent, settled).0, [element(0), element(1)]);
    let (mut heir, _) = heir.restarted();
    heir.attach(1, 2);
    for index in [2, 3] {
        let epoch = heir.jobs[&element(index)].1.epoch;
        heir.ended(1, Run { job: element(index), epoch }, outcome(Ending::Succeeded));
    }
    let (_, standing) = &heir.jobs[&job(1)];
    assert_eq!((standing.state, standing.elements.unwrap().succeeded), (State::Succeeded, 4));
    heir.assert_conserved();
}

#[test]
fn an_element_that_waits_to_be_tried_again_goes_behind_its_array() {
    let (mut home, mut heir) = (Node::new(), heir());
    home.attach(1, 2);
    home.submit(NewJob { array: Some(Array { first: 0, last: 1, step: 1, at_once: None }), ..new(1) });
    drain(&mut home, true);
    let left = leaving(&mut home);
    let ids: Vec<ObjectId> = left.jobs.iter().map(|(_, handed)| handed.accepted.id).collect();
    assert_eq!(ids, [job(1), job(1).element(0).unwrap(), job(1).element(1).unwrap()]);
    let (regent, last) = left.jobs[2].clone();
    assert_eq!(inherit(&home, &mut heir, regent, vec![last]).0, [], "an element without its array is none");
    assert_eq!(hand(&mut home, &mut heir), 3);
    heir.attach(1, 2);
    for index in [0, 1] {
        let element = job(1).element(index).unwrap();
        let epoch = heir.jobs[&element].1.epoch;
        assert!(epoch > first_of_term(2), "{epoch}");
        heir.ended(1, Run { job: element, epoch }, outcome(Ending::Succeeded));
    }
    assert_eq!(state(&heir, 1), State::Succeeded);
    heir.assert_conserved();
}

#[test]
fn what_has_settled_is_kept_and_swept_there_and_dependents_hear_of_it() {
    let (mut home, mut heir) = (Node::new(), heir());
    home.attach(1, 1);
    home.submit(new(1));
    home.submit(NewJob { after: vec![After { job: job(1), when: When::Ok }], ..new(2) });
    drain(&mut home, false);
    assert_eq!(hand(&mut home, &mut heir), 1, "the other one runs");
    home.ended(1, Run { job: job(1), epoch: 1 }, outcome(Ending::Succeeded));
    // It had heard of the end before, and stands as it was when it was handed over.
    let regent = home.reigns.values().next().unwrap().regent;
    let (mut accepted, standing) = home.jobs[&job(1)].clone();
    accepted.custody = heir.jobs[&job(2)].0.custody;
    let settled = HandedJob { accepted: accepted.into(), standing: standing.into(), checkpoint: None };
    let (_, effects) = inherit(&home, &mut heir, regent, vec![settled]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Learn { job: learn } if *learn == job(1))));
    let kept = effects.iter().find_map(|effect| match effect {
        Effect::Write(Record::Retained(kept)) => Some(*kept),
        _ => None,
    });
    assert_eq!(kept.map(|kept| Some(kept.settled_ms)), Some(home.jobs[&job(1)].1.settled_ms));
    let end = shoal_kernel::End { state: State::Succeeded, output: shoal_protocol::object::job::Payload::empty() };
    heir.handle(Input::Learned { job: job(1), end: Some(end) });
    assert_eq!(state(&heir, 2), State::Queued);
}

#[test]
fn custodians_hear_who_decides_their_jobs_from_then_on() {
    let (mut home, mut heir) = (Node::new(), heir());
    home.keeper(2);
    let set = home.sets.keys().next().copied().expect("a set is begun");
    home.handle(Input::Request { request: 6, principal: owner(), command: Command::Submit(vec![new(1)]) });
    let kept = Kept { set: set.1, jobs: vec![(job(1), 0)], ..Kept::default() };
    home.handle(Input::Kept { node: peer(2), kept });
    drain(&mut home, false);
    heir.keeper(2);
    let left = leaving(&mut home);
    let (regent, handed) = left.jobs[0].clone();
    assert_eq!(regent.set, set.1, "a job stays under its set");
    let (_, effects) = inherit(&home, &mut heir, regent, vec![handed]);
    let told = effects.iter().any(|effect| {
        matches!(effect, Effect::KeepTaken { to, reign, jobs } if *to == peer(2) && reign.regent == regent && jobs[0].job == job(1))
    });
    assert!(told, "{effects:?}");
}

#[test]
fn who_may_not_or_cannot_is_told_so() {
    let (mut home, mut heir) = (Node::new(), heir());
    let to = |to| Command::Drain { to, hasten: false };
    assert_eq!(home.command(owner(), to(peer(1))).0.unwrap_err().kind, Kind::Forbidden);
    assert_eq!(home.command(operator(), to(HOME)).0.unwrap_err().kind, Kind::InvalidField);
    home.submit(new(1));
    drain(&mut home, false);
    let left = leaving(&mut home);
    let (regent, handed) = left.jobs[0].clone();
    inherit(&home, &mut heir, regent, vec![handed]);
    let refused = heir.command(operator(), to(peer(5))).0.unwrap_err();
    assert!(refused.kind == Kind::Conflict && refused.detail.contains(&HOME.short()), "{refused}");
}

#[test]
fn what_its_function_does_not_allow_there_is_taken_and_does_not_run() {
    let (mut home, mut heir) = (Node::new(), heir());
    heir.attach(1, 4);
    home.submit(new(1));
    let array = Some(Array { first: 0, last: 3, step: 1, at_once: None });
    home.submit(NewJob { array, ..new(2) });
    drain(&mut home, false);
    let (regent, mut handed) = leaving(&mut home).jobs.remove(0);
    handed.accepted.spec_mut().grants = [Grant::Kv].into();
    heir.handle(Input::FunctionGone(id(FUNCTION)));
    assert_eq!(inherit(&home, &mut heir, regent, vec![handed.clone()]).0, [], "it may come to be known");
    heir.handle(Input::Function(Box::new(function(FUNCTION))));
    let (taken, effects) = inherit(&home, &mut heir, regent, vec![handed]);
    assert!(taken == [job(1)] && starts(&effects).is_empty(), "{effects:?}");
    let failure = match &heir.jobs[&job(1)].1.outcome.as_ref().unwrap().ending {
        Ending::Failed(failure) => failure.clone(),
        other => panic!("{other:?}"),
    };
    assert!(failure.code == FailureCode::FunctionGone && failure.message.contains("not granted"), "{failure:?}");
    let (regent, mut handed) = leaving(&mut home).jobs.remove(1);
    handed.accepted.spec_mut().component.0[0] += 1;
    assert_eq!(inherit(&home, &mut heir, regent, vec![handed.clone()]).0, [handed.accepted.id]);
    assert_eq!(state(&heir, 2), State::Failed);
    heir.assert_conserved();
}
