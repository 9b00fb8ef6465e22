//! Jobs under a key: the same key with the same body is one job, whatever restarts, for as long as it is kept.

use shoal_kernel::{Command, Effect, Group, Input, NewJob, Principal, Record};
use shoal_protocol::object::job::{Ending, FailureCode, KeyId, Receipt, State};
use shoal_protocol::{BlobId, Kind, ObjectId};

use crate::harness::*;

fn keyed(n: u64, key: &str) -> NewJob {
    NewJob { key: Some(key.into()), ..new_job(n) }
}

fn told(node: &mut Node, n: u64, first: ObjectId) -> Vec<Effect> {
    let (accepted, _) = &node.jobs[&id(n)];
    let (key, body) = (KeyId::of(accepted).unwrap(), accepted.extras.key.as_ref().unwrap().body);
    node.handle(Input::KeyTold { key, job: first, body })
}

fn receipt(node: &mut Node, principal: Principal, job: NewJob) -> Receipt {
    node.submit_all(principal, vec![job]).0.remove(0)
}

#[test]
fn the_same_key_gives_the_same_job_until_that_is_forgotten() {
    let mut node = Node::new();
    node.submit(keyed(1, "a"));
    let before = node.journal.len();
    assert_eq!(receipt(&mut node, owner(), keyed(2, "a")), Receipt::Accepted { id: id(1) });
    assert_eq!(node.journal.len(), before, "nothing is written of it");
    let other_body = NewJob { args: vec!["x".into()], ..keyed(3, "a") };
    let problem = node.refused(owner(), other_body);
    assert!(problem.kind == Kind::Conflict && problem.detail.contains(&id(1).to_string()), "{problem}");
    assert_eq!(receipt(&mut node, owner(), keyed(4, "b")), Receipt::Accepted { id: id(4) });
    // Functions in no project are everybody's: another one's keys are theirs.
    assert_eq!(receipt(&mut node, other(), keyed(5, "a")), Receipt::Accepted { id: id(5) });
    assert_eq!(node.refused(owner(), keyed(6, "")).kind, Kind::InvalidField);

    let (mut node, _) = node.restarted();
    assert_eq!(receipt(&mut node, owner(), keyed(7, "a")), Receipt::Accepted { id: id(1) });
    node.command(owner(), Command::Cancel(id(1))).0.unwrap();
    let (mut node, _) = node.restarted();
    assert_eq!(receipt(&mut node, owner(), keyed(8, "a")), Receipt::Accepted { id: id(1) }, "also when it has ended");
    let group = Group { owner: id(OWNER), dead: false };
    node.command(owner(), Command::Forget { job: id(1), owner: id(OWNER), group, bytes: 0 }).0.unwrap();
    assert_eq!(receipt(&mut node, owner(), keyed(9, "a")), Receipt::Accepted { id: id(9) });
    assert_eq!(node.kernel.counters().same_key, 1);
}

#[test]
fn two_of_a_batch_under_one_key_are_one() {
    let mut node = Node::new();
    let (receipts, _) = node.submit_all(owner(), vec![keyed(1, "a"), keyed(2, "a")]);
    assert_eq!(receipts, [Receipt::Accepted { id: id(1) }, Receipt::Accepted { id: id(1) }]);
    assert_eq!(node.jobs.len(), 1);
}

#[test]
fn of_two_jobs_with_one_key_the_later_ends_as_a_duplicate() {
    let mut node = Node::new();
    node.submit(keyed(5, "a"));
    node.submit(keyed(6, "b"));
    assert_eq!(told(&mut node, 5, id(7)), [], "the other one is later: its home sees to it");
    let effects = told(&mut node, 5, id(3));
    assert!(effects.iter().any(|e| matches!(e, Effect::Write(Record::Standing(..)))));
    let standing = node.standing(5);
    assert_eq!((standing.state, standing.duplicate_of), (State::Cancelled, Some(id(3))));
    let Ending::Failed(failure) = &standing.outcome.as_ref().unwrap().ending else { panic!("{standing:?}") };
    assert_eq!(failure.code, FailureCode::Duplicate);
    assert_eq!(told(&mut node, 5, id(3)), [], "it has ended");

    // Another body under the same key is no duplicate.
    let (accepted, _) = &node.jobs[&id(6)];
    let key = KeyId::of(accepted).unwrap();
    assert_eq!(node.handle(Input::KeyTold { key, job: id(3), body: BlobId([1; 32]) }), []);
    assert_eq!(node.kernel.counters().duplicates, 1);
}

#[test]
fn a_duplicate_that_runs_is_stopped_first_also_over_a_restart() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(keyed(5, "a")));
    node.started(1, run);
    let effects = told(&mut node, 5, id(3));
    let written = place(&effects, |e| matches!(e, Effect::Write(Record::Standing(..))));
    assert!(written < place(&effects, |e| *e == Effect::Cancel { worker: worker_id(1), run }));
    let (mut node, _) = node.restarted();
    node.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    node.ended(1, run, outcome(Ending::Cancelled));
    let standing = node.standing(5);
    assert_eq!((standing.state, standing.duplicate_of), (State::Cancelled, Some(id(3))));
    assert!(
        matches!(&standing.outcome.as_ref().unwrap().ending, Ending::Failed(f) if f.code == FailureCode::Duplicate)
    );
}

#[test]
fn an_array_under_a_key_is_one_array() {
    let array = |n, elements: &str| NewJob { array: Some(elements.parse().unwrap()), ..keyed(n, "a") };
    let mut node = Node::new();
    node.attach(1, 4);
    node.submit(array(1, "0-9%2"));
    assert_eq!(receipt(&mut node, owner(), array(50, "0-9%2")), Receipt::Accepted { id: id(1) });
    assert_eq!(node.refused(owner(), array(51, "0-8%2")).kind, Kind::Conflict, "other elements are another body");
    assert_eq!(node.refused(owner(), keyed(52, "a")).kind, Kind::Conflict);
    let (array_record, _) = &node.jobs[&id(1)];
    assert_eq!(array_record.element(3).unwrap().extras.key, None, "the key is the array's");
    let (mut node, _) = node.restarted();
    assert_eq!(receipt(&mut node, owner(), array(53, "0-9%2")), Receipt::Accepted { id: id(1) });
    assert_eq!(node.jobs.len(), 3, "the array, and the two of its elements that have begun");
}

#[test]
fn an_array_that_is_a_duplicate_ends_with_its_elements() {
    let mut node = Node::new();
    node.attach(1, 4);
    let effects = node.submit(NewJob { array: Some("0-9%2".parse().unwrap()), ..keyed(5, "a") });
    let runs = effects.iter().filter_map(|effect| match effect {
        Effect::Start { start, .. } => Some(start.run),
        _ => None,
    });
    let runs: Vec<_> = runs.collect();
    assert_eq!(runs.len(), 2);
    let effects = told(&mut node, 5, id(3));
    for run in runs {
        assert!(effects.contains(&Effect::Cancel { worker: worker_id(1), run }));
        node.ended(1, run, outcome(Ending::Cancelled));
    }
    let standing = node.standing(5);
    assert_eq!((standing.state, standing.duplicate_of), (State::Cancelled, Some(id(3))));
    assert_eq!((standing.elements.unwrap().cancelled, standing.elements.unwrap().cut), (2, 8));
    assert!(
        matches!(&standing.outcome.as_ref().unwrap().ending, Ending::Failed(f) if f.code == FailureCode::Duplicate)
    );
}
