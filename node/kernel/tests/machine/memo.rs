//! Memoised jobs: what has been done for somebody is not done for them again.

use shoal_kernel::{Command, Effect, End, Group, Input, NewJob};
use shoal_protocol::object::function::{Function, Grant};
use shoal_protocol::object::job::{Array, Ending, FailureCode, Payload, ReasonCode, State, Terms};
use shoal_protocol::{Kind, ObjectId};

use super::harness::*;

fn memo(n: u64) -> NewJob {
    NewJob { terms: Terms { memo: true, ..Terms::default() }, ..new_job(n) }
}

fn asked(effects: &[Effect]) -> Vec<ObjectId> {
    let asked = effects.iter().filter_map(|effect| match effect {
        Effect::Learn { job } => Some(*job),
        _ => None,
    });
    asked.collect()
}

/// The edge answers from what is durable.
fn answer(node: &mut Node, effects: &[Effect]) -> Vec<Effect> {
    let mut all = Vec::new();
    for job in asked(effects) {
        let settled = node.jobs.get(&job).filter(|(_, standing)| standing.state.is_settled());
        let end = settled.map(|(_, standing)| End {
            state: standing.state,
            output: standing.outcome.as_ref().map_or_else(Payload::empty, |outcome| outcome.output.clone()),
        });
        all.extend(node.handle(Input::Learned { job, end }));
    }
    all
}

/// A node with a worker, where job 1 has succeeded.
fn done() -> Node {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(memo(1)));
    node.ended(1, run, outcome(Ending::Succeeded));
    node
}

fn was_given(node: &Node, n: u64, first: u64) {
    let (own, other) = (node.standing(n), node.standing(first));
    assert_eq!((own.state, own.memo_of, own.attempts_total), (State::Succeeded, Some(id(first)), 0));
    assert_eq!(own.outcome.as_ref().unwrap().output, other.outcome.as_ref().unwrap().output);
    node.assert_conserved();
}

#[test]
fn what_was_done_is_not_done_again() {
    let mut node = done();
    let effects = node.submit(memo(2));
    assert!(starts(&effects).is_empty());
    answer(&mut node, &effects);
    was_given(&node, 2, 1);
    let effects = node.submit(memo(3));
    answer(&mut node, &effects);
    was_given(&node, 3, 1);
    assert_eq!(node.kernel.counters().memoised, 2);

    let (mut node, _) = node.restarted();
    node.attach(1, 1);
    let effects = node.submit(memo(4));
    answer(&mut node, &effects);
    was_given(&node, 4, 1);
}

#[test]
fn what_is_not_equal_is_done() {
    let mut node = done();
    let mut others = vec![
        new_job(10),
        NewJob { input: Payload::Inline(b"x".as_slice().into()), ..memo(11) },
        NewJob { args: vec!["x".into()], ..memo(12) },
        NewJob { env: [("k".into(), "v".into())].into(), ..memo(13) },
    ];
    for job in others.drain(..) {
        let effects = node.submit(job);
        let (_, run) = start(&effects);
        node.ended(1, run, outcome(Ending::Succeeded));
    }
    let (_, effects) = node.submit_all(other(), vec![memo(14)]);
    let (_, run) = start(&effects);
    node.ended(1, run, outcome(Ending::Succeeded));
    let mut next = function(FUNCTION);
    next.current = shoal_protocol::BlobId([7; 32]);
    next.versions.push(shoal_protocol::object::function::Version { number: 2, component: next.current, size: 1 });
    node.handle(Input::Function(Box::new(next)));
    assert_eq!(starts(&node.submit(memo(15))).len(), 1, "another version");
}

#[test]
fn who_is_equal_to_what_is_under_way_waits_for_it() {
    let mut node = Node::new();
    node.attach(1, 4);
    let (_, run) = start(&node.submit(memo(1)));
    assert!(starts(&node.submit(memo(2))).is_empty());
    node.submit(memo(3));
    let reason = node.reason(2);
    assert!(reason.code == ReasonCode::Memo && reason.message.contains(&id(1).to_string()), "{reason:?}");
    assert_eq!(node.show(2).unwrap().state, State::Queued);
    node.assert_conserved();
    node.command(owner(), Command::Cancel(id(3))).0.unwrap();
    node.ended(1, run, outcome(Ending::Succeeded));
    was_given(&node, 2, 1);
    assert_eq!(node.state(3), State::Cancelled);
}

#[test]
fn when_the_first_fails_the_next_is_tried_and_the_others_wait_for_that() {
    let mut node = Node::new();
    node.attach(1, 4);
    let (_, run) = start(&node.submit(memo(1)));
    node.submit(memo(2));
    node.submit(memo(3));
    let (_, second) = start(&node.ended(1, run, failed(FailureCode::Guest)));
    assert_eq!((second.job, node.reason(3).code), (id(2), ReasonCode::Memo));
    node.command(owner(), Command::Cancel(id(2))).0.unwrap();
    let (_, third) = start(&node.ended(1, second, outcome(Ending::Cancelled)));
    node.ended(1, third, outcome(Ending::Succeeded));
    assert_eq!((node.state(3), node.standing(3).memo_of), (State::Succeeded, None));
}

#[test]
fn who_is_held_is_not_waited_for() {
    let mut node = Node::new();
    node.submit(memo(1));
    node.submit(memo(2));
    node.submit(memo(3));
    node.command(owner(), Command::Hold(id(1))).0.unwrap();
    node.attach(1, 1);
    assert_eq!(node.state(2), State::Offered);
    node.command(owner(), Command::Release(id(1))).0.unwrap();
    assert!(node.reason(1).message.contains(&id(2).to_string()));
    node.command(owner(), Command::Hold(id(3))).0.unwrap();
    node.ended(1, shoal_protocol::wire::worker::Run { job: id(2), epoch: 1 }, outcome(Ending::Succeeded));
    was_given(&node, 1, 2);
    assert_eq!(node.state(3), State::Held);
    let (_, effects) = node.command(owner(), Command::Release(id(3)));
    answer(&mut node, &effects);
    was_given(&node, 3, 2);
}

#[test]
fn who_is_to_be_run_is_given_what_one_before_it_has_done_after_all() {
    let mut node = Node::new();
    let connection = node.attach(1, 1);
    start(&node.submit(memo(1)));
    node.submit(memo(2));
    node.detach(1, connection, true);
    node.command(owner(), Command::Hold(id(1))).0.unwrap();
    assert_eq!(node.reason(2).code, ReasonCode::NoWorker, "it is to be run now");
    // Who has run once runs again, whoever else is under way.
    node.command(owner(), Command::Release(id(1))).0.unwrap();
    let (_, again) = start(&node.attach_with(2, 1, offer(1, 64 * 1024), Vec::new()));
    assert_eq!(again.job, id(1));
    let effects = node.ended(2, again, outcome(Ending::Succeeded));
    assert!(starts(&effects).is_empty());
    answer(&mut node, &effects);
    was_given(&node, 2, 1);
}

#[test]
fn a_restart_knows_who_is_under_way() {
    let mut node = Node::new();
    node.attach(1, 1);
    node.submit(NewJob { terms: Terms { memo: true, hold: true, ..Terms::default() }, ..new_job(1) });
    let (_, run) = start(&node.submit(memo(2)));
    node.submit(memo(3));
    node.command(owner(), Command::Release(id(1))).0.unwrap();
    let (mut node, _) = node.restarted();
    for n in [1, 3] {
        assert!(node.reason(n).message.contains(&id(2).to_string()));
    }
    node.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    node.ended(1, run, outcome(Ending::Succeeded));
    was_given(&node, 1, 2);
    was_given(&node, 3, 2);
}

#[test]
fn a_result_that_is_gone_is_made_again() {
    let mut node = done();
    let group = Group { owner: id(OWNER), dead: false };
    node.command(owner(), Command::Forget { job: id(1), owner: id(OWNER), group, bytes: 0 }).0.unwrap();
    assert_eq!(starts(&node.submit(memo(2))).len(), 1);

    // It goes while the edge looks for it.
    let mut node = done();
    let effects = node.submit(memo(2));
    let job = asked(&effects)[0];
    let end = Some(End { state: State::Succeeded, output: Payload::empty() });
    node.command(owner(), Command::Forget { job: id(1), owner: id(OWNER), group, bytes: 0 }).0.unwrap();
    assert_eq!(starts(&node.handle(Input::Learned { job, end })).len(), 1);

    // The store does not know it.
    let mut node = done();
    let effects = node.submit(memo(2));
    let effects = node.handle(Input::Learned { job: asked(&effects)[0], end: None });
    assert_eq!((starts(&effects).len(), node.memos.len()), (1, 0));
}

#[test]
fn who_waits_for_an_equal_one_waits_no_longer_than_it_may() {
    let mut node = Node::new();
    node.attach(1, 1);
    start(&node.submit(memo(1)));
    let mut job = memo(2);
    job.limits.queue_ms = Some(500);
    node.submit(job);
    node.pass(500);
    assert_eq!(node.state(2), State::Expired);
}

#[test]
fn what_cannot_be_memoised_is_refused_with_the_reason() {
    let mut node = Node::new();
    let array: Array = "0-3".parse().unwrap();
    let problem = node.refused(owner(), NewJob { array: Some(array), ..memo(1) });
    assert!(problem.kind == Kind::InvalidField && problem.detail.contains("array"), "{problem}");
    let with_kv = Function { grants: [Grant::Kv].into(), ..function(FUNCTION) };
    node.handle(Input::Function(Box::new(with_kv)));
    let problem = node.refused(owner(), memo(2));
    assert!(problem.kind == Kind::InvalidField && problem.detail.contains("KV"), "{problem}");
    let with_blobs = Function { grants: [Grant::Blob].into(), ..function(FUNCTION) };
    node.handle(Input::Function(Box::new(with_blobs)));
    node.submit(memo(3));
}
