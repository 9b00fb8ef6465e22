//! What a kernel makes of the journal after a restart.

use shoal_kernel::{Command, Effect, Input, Record};
use shoal_protocol::object::job::{Ending, ReasonCode, State};
use shoal_protocol::wire::worker::Run;

use super::harness::*;

/// A node with a running job, two that wait at the worker's door, and one that ended.
fn busy() -> (Node, Run) {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, done) = start(&node.submit(new_job(1)));
    let mut slow = outcome(Ending::Succeeded);
    slow.usage.run_us = 60_000_000;
    node.ended(1, done, slow);
    let (_, run) = start(&node.submit(new_job(2)));
    node.started(1, run);
    node.submit(new_job(3));
    node.submit(new_job(4));
    (node, run)
}

#[test]
fn an_accepted_job_without_a_standing_is_queued() {
    let mut node = Node::new();
    let mut named = new_job(1);
    named.name = "mine".into();
    node.submit(named);
    assert!(!node.journal.iter().any(|record| matches!(record, Record::Standing(..))), "one record is enough");
    let (mut again, _) = node.restarted();
    let view = again.show(1).unwrap();
    assert_eq!((view.state, view.epoch, view.name.as_str()), (State::Queued, 0, "mine"));
}

#[test]
fn a_restarted_node_adopts_the_runs_of_its_worker() {
    let (node, run) = busy();
    let (mut again, _) = node.restarted();
    assert_eq!(again.reason(2).code, ReasonCode::Recovering);
    assert_eq!(again.show(1), None);
    again.assert_conserved();
    again.pass(GRANTED_MS - 1);
    let effects = again.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    assert_eq!(starts(&effects), [], "its slot is taken by the run that goes on");
    let effects = again.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!((again.state(2), again.standing(2).epoch), (State::Succeeded, 1));
    assert_eq!(started_jobs(&effects)[0], 3, "in their old order");
    again.assert_conserved();
}

#[test]
fn runs_of_a_worker_that_does_not_come_back_are_lost_after_a_lease() {
    let (node, run) = busy();
    let (mut again, _) = node.restarted();
    again.attach(2, 8);
    assert_eq!((again.state(2), again.state(3)), (State::Offered, State::Offered));
    assert_eq!(again.standing(2).epoch, 1, "nobody else gets it before");
    again.pass(GRANTED_MS - 1);
    again.heartbeat(2, &[]);
    let effects = again.pass(1);
    assert!(starts(&effects).contains(&(worker_id(2), Run { job: id(2), epoch: 2 })));
    // The worker comes back after all.
    let effects = again.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Attached { drop, .. } if *drop == [run])));
}

#[test]
fn a_worker_that_comes_back_without_a_run_has_lost_it() {
    let (node, _) = busy();
    let (mut again, _) = node.restarted();
    let effects = again.attach_with(1, 1, offer(1, 64 * 1024), Vec::new());
    assert_eq!(start(&effects).1, Run { job: id(2), epoch: 2 });
}

#[test]
fn a_dead_worker_is_not_waited_for() {
    let (node, _) = busy();
    let (mut again, _) = node.restarted();
    again.attach(2, 8);
    let effects = again.detach(1, 0, true);
    assert_eq!(started_jobs(&effects), [2]);
}

#[test]
fn a_cancellation_survives() {
    let (mut node, run) = busy();
    assert!(node.command(owner(), Command::Cancel(id(2))).0.is_ok());
    let (mut again, _) = node.restarted();
    let effects = again.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    assert!(effects.contains(&Effect::Cancel { worker: worker_id(1), run }));
    let (mut third, _) = node.restarted();
    third.pass(GRANTED_MS);
    assert_eq!(third.state(2), State::Cancelled);
}

#[test]
fn a_function_that_was_deleted_before_the_restart_is_told_again() {
    let (node, _) = busy();
    let (mut again, _) = node.restarted();
    again.handle(Input::FunctionGone(id(FUNCTION)));
    assert_eq!((again.state(2), again.state(3), again.state(4)), (State::Offered, State::Failed, State::Failed));
}

#[test]
fn the_same_inputs_give_the_same_effects() {
    let trace = || {
        let (node, _) = busy();
        let (mut again, mut effects) = node.restarted();
        effects.extend(again.attach_with(1, 1, offer(1, 64 * 1024), Vec::new()));
        effects.extend(again.pass(10_000));
        (format!("{effects:?}"), format!("{:?}", node.journal))
    };
    assert_eq!(trace(), trace());
}
