//! Jobs that run after others, and what becomes of them when these end otherwise.

use shoal_kernel::{Command, Effect, End, Input, NewJob, Record};
use shoal_protocol::object::job::{After, Ending, FailureCode, Payload, ReasonCode, State, When};
use shoal_protocol::{Kind, NodeId, ObjectId};

use super::harness::*;

/// A job of the node of these tests: what it may wait for.
fn ours(n: u64) -> ObjectId {
    ObjectId::from_parts(n, 0, NodeId([9; 32]).tag())
}

fn job(n: u64) -> NewJob {
    NewJob { id: ours(n), ..new_job(n) }
}

fn after(n: u64, list: &[(u64, When)]) -> NewJob {
    let after = list.iter().map(|(earlier, when)| After { job: ours(*earlier), when: *when }).collect();
    NewJob { after, ..job(n) }
}

fn state(node: &Node, n: u64) -> State {
    node.jobs[&ours(n)].1.state
}

fn learn(node: &mut Node, n: u64, state: State, output: &[u8]) -> Vec<Effect> {
    let end = Some(End { state, output: Payload::Inline(output.into()) });
    node.handle(Input::Learned { job: ours(n), end })
}

fn why(node: &Node, n: u64) -> (FailureCode, String) {
    match &node.jobs[&ours(n)].1.outcome.as_ref().unwrap().ending {
        Ending::Failed(failure) => (failure.code, failure.message.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_job_runs_when_all_that_it_waits_for_has_ended_as_it_wants() {
    let mut node = Node::new();
    node.attach(1, 4);
    let (_, first) = start(&node.submit(job(1)));
    let (_, second) = start(&node.submit(job(2)));
    assert_eq!(starts(&node.submit(after(3, &[(1, When::Ok), (2, When::NotOk)]))), []);
    assert_eq!(state(&node, 3), State::Blocked);
    node.assert_conserved();
    assert_eq!(starts(&node.ended(1, first, outcome(Ending::Succeeded))), []);
    let effects = node.ended(1, second, failed(FailureCode::Guest));
    assert_eq!(starts(&effects).iter().map(|(_, run)| run.job).collect::<Vec<_>>(), [ours(3)]);
    let ended = place(&effects, |e| matches!(e, Effect::Write(Record::Standing(id, _)) if *id == ours(2)));
    let freed = place(&effects, |e| matches!(e, Effect::Write(Record::Standing(id, _)) if *id == ours(3)));
    assert!(ended < freed);
    node.assert_conserved();
}

#[test]
fn a_dependency_that_can_no_longer_be_met_ends_the_job_and_those_behind_it() {
    let mut node = Node::new();
    node.submit(job(1));
    for n in 2..2_000 {
        node.submit(after(n, &[(n - 1, When::Ok)]));
    }
    node.submit(after(3_000, &[(1_500, When::NotOk)]));
    node.command(owner(), Command::Cancel(ours(1))).0.expect("cancelled");
    for n in [2, 1_999] {
        assert_eq!((state(&node, n), why(&node, n).0), (State::Failed, FailureCode::Dependency));
    }
    assert!(why(&node, 2).1.contains("was cancelled"), "{}", why(&node, 2).1);
    assert_eq!(state(&node, 3_000), State::Queued);
    node.assert_conserved();
}

#[test]
fn the_result_of_the_earlier_job_is_the_input_of_the_later() {
    let mut node = Node::new();
    node.attach(1, 4);
    let (_, first) = start(&node.submit(job(1)));
    let mut next = after(2, &[(1, When::Ok)]);
    next.input_of = Some(ours(1));
    node.submit(next);
    let effects = node.ended(1, first, outcome(Ending::Succeeded));
    let supplied = place(&effects, |e| matches!(e, Effect::Write(Record::Supplied(_))));
    let started = place(&effects, |e| matches!(e, Effect::Start { .. }));
    assert!(supplied < started);
    assert!(
        matches!(&effects[started], Effect::Start { start, .. } if start.input == Payload::Inline(b"out".as_slice().into()))
    );
    assert_eq!(node.jobs[&ours(2)].0.input.size(), 3, "it is journaled");
}

#[test]
fn what_is_not_in_memory_is_looked_up() {
    let mut node = Node::new();
    node.attach(1, 4);
    let effects = node.submit(after(3, &[(1, When::Any), (2, When::Ok)]));
    let asked = |n| Effect::Learn { job: ours(n) };
    assert!(effects.contains(&asked(1)) && effects.contains(&asked(2)));
    let view = match node.command(owner(), Command::Show(ours(3))).0 {
        Ok(shoal_kernel::Reply::Job(Some(view))) => view,
        other => panic!("{other:?}"),
    };
    let reason = view.reason.expect("a reason");
    assert_eq!((view.state, reason.code), (State::Blocked, ReasonCode::Dependency));
    assert!(reason.message.contains("2 jobs"), "{}", reason.message);
    learn(&mut node, 1, State::Failed, b"");
    // What has ended may be forgotten; after a restart only the other is asked for.
    let (mut again, effects) = node.restarted();
    assert!(!effects.contains(&asked(1)) && effects.contains(&asked(2)));
    again.attach(2, 1);
    assert_eq!(starts(&learn(&mut again, 2, State::Succeeded, b"")).len(), 1);
    assert_eq!(starts(&learn(&mut again, 2, State::Succeeded, b"")), [], "once is enough");
    node.handle(Input::Learned { job: ours(2), end: None });
    assert_eq!(state(&node, 3), State::Failed);
    assert!(why(&node, 3).1.contains("not known any more"));
}

#[test]
fn a_held_job_hears_of_ends_and_runs_when_it_is_released() {
    let mut node = Node::new();
    node.attach(1, 4);
    let (_, first) = start(&node.submit(job(1)));
    node.submit(after(2, &[(1, When::Ok)]));
    node.submit(after(3, &[(1, When::Ok)]));
    for n in [2, 3] {
        assert!(node.command(owner(), Command::Hold(ours(n))).0.is_ok());
    }
    assert!(node.command(owner(), Command::Release(ours(3))).0.is_ok());
    assert_eq!((state(&node, 2), state(&node, 3)), (State::Held, State::Blocked));
    let effects = node.ended(1, first, outcome(Ending::Succeeded));
    assert_eq!(starts(&effects).iter().map(|(_, run)| run.job).collect::<Vec<_>>(), [ours(3)]);
    assert_eq!(state(&node, 2), State::Held);
    let (_, effects) = node.command(owner(), Command::Release(ours(2)));
    assert_eq!(starts(&effects).len(), 1);
    node.assert_conserved();
}

#[test]
fn a_blocked_job_is_cancelled_and_hears_of_nothing_more() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, first) = start(&node.submit(job(1)));
    node.submit(after(2, &[(1, When::Ok)]));
    assert!(node.command(owner(), Command::Cancel(ours(2))).0.is_ok());
    assert_eq!(state(&node, 2), State::Cancelled);
    assert_eq!(starts(&node.ended(1, first, outcome(Ending::Succeeded))), []);
    node.assert_conserved();
}

#[test]
fn wrong_dependencies_are_refused_and_named() {
    let mut node = Node::new();
    node.submit(job(1));
    let refused = |node: &mut Node, job| {
        let problem = node.refused(owner(), job);
        (problem.kind, problem.detail)
    };
    let (kind, detail) = refused(&mut node, NewJob { after: vec![After { job: id(1), when: When::Ok }], ..job(5) });
    assert!(kind == Kind::InvalidField && detail.contains("another node"), "{detail}");
    let (kind, detail) = refused(&mut node, after(5, &[(1, When::Ok), (1, When::Any)]));
    assert!(kind == Kind::InvalidField && detail.contains("twice"), "{detail}");
    let many: Vec<_> = (0..65).map(|n| (n, When::Ok)).collect();
    assert!(refused(&mut node, after(5, &many)).1.contains("at most 64"));
    let (_, detail) = refused(&mut node, NewJob { input_of: Some(ours(1)), ..after(5, &[(1, When::Any)]) });
    assert!(detail.contains("after its success"), "{detail}");
    assert_eq!(node.refused(other(), after(5, &[(1, When::Ok)])).kind, Kind::NotFound, "whose job it is not");
}
