//! Leases, connections, and what a worker's word counts for.

use shoal_kernel::{Command, Effect, Input, Reply};
use shoal_protocol::object::job::{Ending, FailureCode, ReasonCode, State};
use shoal_protocol::wire::worker::Run;

use super::harness::*;

/// A node with one worker that runs one job.
fn running() -> (Node, u64, Run) {
    let mut node = Node::new();
    let connection = node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(1)));
    node.started(1, run);
    (node, connection, run)
}

fn dropped(effects: &[Effect]) -> Vec<Run> {
    let welcome = effects.iter().find_map(|effect| match effect {
        Effect::Attached { drop, .. } => Some(drop.clone()),
        _ => None,
    });
    welcome.expect("a welcome")
}

#[test]
fn a_run_outlives_its_workers_connection() {
    let (mut node, connection, run) = running();
    node.detach(1, connection, false);
    assert_eq!(node.reason(1).code, ReasonCode::WorkerUnreachable);
    node.pass(GRANTED_MS - 1);
    assert_eq!(node.state(1), State::Offered);
    let effects = node.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    assert!(dropped(&effects).is_empty() && starts(&effects).is_empty());
    node.pass(GRANTED_MS - 1);
    node.heartbeat(1, &[run]);
    node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!((node.state(1), node.standing(1).attempts_total), (State::Succeeded, 1));
}

#[test]
fn a_run_that_was_on_its_way_when_the_connection_broke_is_handed_over_again() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(1)));
    let effects = node.attach_with(1, 1, offer(1, 64 * 1024), Vec::new());
    // The journal may still hold its `Start` back, and let it out on the new connection.
    let welcome = place(&effects, |e| matches!(e, Effect::Attached { .. }));
    assert!(welcome < place(&effects, |e| *e == Effect::Cancel { worker: worker_id(1), run }));
    assert_eq!(start(&effects), (worker_id(1), Run { job: id(1), epoch: 2 }));
    assert_eq!(node.standing(1).attempts_total, 1);
}

#[test]
fn a_run_is_lost_when_the_lease_of_its_worker_ends() {
    let (mut node, connection, run) = running();
    node.attach(2, 1);
    node.detach(1, connection, false);
    for _ in 0..3 {
        node.pass(GRANTED_MS / 3 - 1);
        node.heartbeat(2, &[]);
    }
    let effects = node.pass(10);
    assert_eq!(start(&effects), (worker_id(2), Run { job: id(1), epoch: 2 }));
    let lost = &node.standing(1).attempts[0];
    assert!(matches!(&lost.ending, Some(Ending::Failed(failure)) if failure.code == FailureCode::WorkerLost));
    // It comes back with the old run, which no longer counts.
    let effects = node.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    assert_eq!(dropped(&effects), [run]);
    assert_eq!(node.kernel.counters().leases_ended, 1);
}

#[test]
fn a_job_that_kills_its_workers_fails_in_the_end() {
    let (mut node, mut connection, _) = running();
    for attempts in 1..3 {
        assert_eq!((node.state(1), node.standing(1).attempts_total), (State::Offered, attempts));
        node.detach(1, connection, true);
        node.pass(10_000);
        assert_eq!(node.state(1), State::Queued);
        connection = node.attach(1, 1);
        let epoch = node.standing(1).epoch;
        node.started(1, Run { job: id(1), epoch });
    }
    node.detach(1, connection, true);
    assert_eq!((node.state(1), node.standing(1).attempts_total), (State::Failed, 3));
}

#[test]
fn a_dead_worker_loses_its_runs_at_once() {
    let (mut node, connection, _) = running();
    node.attach(2, 1);
    let effects = node.detach(1, connection, true);
    assert_eq!(start(&effects), (worker_id(2), Run { job: id(1), epoch: 2 }), "and the first time without a pause");
}

#[test]
fn the_death_of_a_worker_may_be_known_after_its_connection_ended() {
    let (mut node, connection, _) = running();
    node.detach(1, connection, false);
    node.attach(2, 1);
    assert_eq!(started_jobs(&node.detach(1, connection, true)), [1]);
}

#[test]
fn another_process_has_lost_the_runs_of_the_former() {
    let (mut node, _, run) = running();
    let effects = node.attach_with(1, 2, offer(1, 64 * 1024), vec![run]);
    assert_eq!(dropped(&effects), [run], "whatever it says");
    assert_eq!(start(&effects).1, Run { job: id(1), epoch: 2 });
}

#[test]
fn the_end_of_a_replaced_connection_says_nothing() {
    let (mut node, connection, run) = running();
    node.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    for dead in [false, true] {
        assert_eq!(node.detach(1, connection, dead), []);
    }
    assert!(node.kernel.load().workers == 1 && node.state(1) == State::Offered);
}

#[test]
fn a_run_that_waits_for_its_turn_does_not_pay_for_its_neighbour() {
    let mut node = Node::new();
    let mut connection = node.attach(1, 1);
    for round in 0..6 {
        let (_, run) = match round {
            0 => start(&node.submit(new_job(1))),
            _ => (worker_id(1), Run { job: id(1), epoch: node.standing(1).epoch }),
        };
        assert_eq!(node.standing(1).attempts_total, 1, "round {round}");
        assert_eq!(run.epoch, node.standing(1).epoch);
        node.detach(1, connection, true);
        node.pass(10_000);
        connection = node.attach(1, 1);
    }
}

#[test]
fn a_job_that_kills_workers_before_it_starts_comes_to_an_end() {
    let mut node = Node::new();
    let mut connection = node.attach(1, 1);
    node.submit(new_job(1));
    for _ in 0..20 {
        node.detach(1, connection, true);
        node.pass(10_000);
        if node.state(1) == State::Failed {
            return;
        }
        connection = node.attach(1, 1);
    }
    panic!("it went on for ever");
}

#[test]
fn a_heartbeat_that_misses_a_known_run_loses_it() {
    let (mut node, _, _) = running();
    let effects = node.heartbeat(1, &[]);
    assert_eq!(start(&effects), (worker_id(1), Run { job: id(1), epoch: 2 }));
}

#[test]
fn a_heartbeat_may_have_crossed_a_start_on_its_way() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(1)));
    for _ in 0..2 {
        node.pass(GRANTED_MS / 2);
        node.heartbeat(1, &[]);
        assert_eq!(node.standing(1).epoch, 1);
    }
    node.pass(GRANTED_MS / 2);
    let effects = node.heartbeat(1, &[]);
    assert!(effects.contains(&Effect::Cancel { worker: worker_id(1), run }));
    assert_eq!(start(&effects).1.epoch, 2);
    assert_eq!(node.standing(1).attempts_total, 1, "what did not arrive is not counted");
}

#[test]
fn a_run_that_should_not_be_there_is_stopped() {
    let (mut node, _, run) = running();
    let stale = Run { job: id(1), epoch: 0 };
    let effects = node.heartbeat(1, &[stale, run]);
    assert_eq!(effects, [Effect::Cancel { worker: worker_id(1), run: stale }]);
}

#[test]
fn a_worker_that_says_nothing_is_sent_away() {
    let (mut node, _, _) = running();
    let effects = node.pass(GRANTED_MS);
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Detach { .. })));
    assert_eq!(node.state(1), State::Queued);
    assert_eq!(node.kernel.load().workers, 0);
    assert_eq!(node.heartbeat(1, &[]), [], "what it says after that counts for nothing");
}

#[test]
fn heartbeats_keep_a_run_for_ever() {
    let (mut node, _, run) = running();
    for _ in 0..100 {
        node.pass(LEASE_MS);
        assert_eq!(node.heartbeat(1, &[run]), []);
    }
    assert_eq!(node.standing(1).epoch, 1);
}

#[test]
fn a_cancellation_is_repeated_to_a_worker_that_returns() {
    let (mut node, connection, run) = running();
    node.detach(1, connection, false);
    assert!(node.command(owner(), Command::Cancel(id(1))).0.is_ok());
    let effects = node.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    let welcome = place(&effects, |e| matches!(e, Effect::Attached { .. }));
    assert!(welcome < place(&effects, |e| *e == Effect::Cancel { worker: worker_id(1), run }));
}

#[test]
fn an_operator_sends_a_worker_away() {
    let (mut node, _, _) = running();
    assert!(node.command(owner(), Command::DetachWorker(worker_id(1))).0.is_err());
    assert!(node.command(operator(), Command::DetachWorker(worker_id(9))).0.is_err());
    let (reply, effects) = node.command(operator(), Command::DetachWorker(worker_id(1)));
    assert_eq!(reply, Ok(Reply::Done));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Detach { .. })));
    assert_eq!(node.state(1), State::Queued);
}

#[test]
fn workers_are_shown_with_the_jobs_that_the_reader_may_see() {
    let (mut node, connection, _) = running();
    let jobs = |node: &mut Node, principal| match node.command(principal, Command::Workers).0 {
        Ok(Reply::Workers(workers)) => workers[0].running.len(),
        other => panic!("{other:?}"),
    };
    assert_eq!((jobs(&mut node, owner()), jobs(&mut node, other()), jobs(&mut node, operator())), (1, 0, 1));
    let nobody = shoal_kernel::Principal { user: None, operator: false };
    assert!(node.command(nobody, Command::Workers).0.is_err());
    // Once it is gone for long it is forgotten.
    node.detach(1, connection, true);
    node.pass(600_000);
    node.pass(600_000);
    assert_eq!(node.command(owner(), Command::Workers).0, Ok(Reply::Workers(Vec::new())));
}

#[test]
fn workers_are_bounded() {
    let mut node = Node::new();
    for n in 0..1_024 {
        node.attach(n, 1);
    }
    let effects = node.attach_with(5_000, 1, offer(1, 1), Vec::new());
    assert!(matches!(&effects[..], [Effect::Detach { .. }]));
    assert_eq!(node.kernel.load().slots, 1_024);
}

#[test]
fn the_kernel_says_when_it_wants_to_be_woken() {
    let mut node = Node::new();
    let effects = node.attach_with(1, 1, offer(1, 1_000), Vec::new());
    assert!(effects.contains(&Effect::Wake { at_ms: node.now.mono_ms + GRANTED_MS }));
    // Woken too early it says so again.
    let expected = Effect::Wake { at_ms: node.now.mono_ms + GRANTED_MS };
    assert_eq!(node.pass(10), [expected]);
    // A renewed lease moves the time when that comes.
    node.pass(900);
    assert_eq!(node.heartbeat(1, &[]), []);
    let renewed = node.now.mono_ms + GRANTED_MS;
    assert_eq!(node.pass(290), [Effect::Wake { at_ms: renewed }]);
    assert_eq!(node.handle(Input::Leaving { worker: worker_id(1) }), []);
}
