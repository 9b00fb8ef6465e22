//! Jobs that wait for the worker or the peer that has their run, beyond its lease.

use shoal_kernel::{Command, Effect, NewJob};
use shoal_protocol::object::job::{Ending, OnDisconnect, ReasonCode, State, Terms};
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::wire::worker::Run;

use super::harness::*;

const REPLACE: OnDisconnect = OnDisconnect::ReplaceAfterMs(60_000);

fn patient(n: u64, on_disconnect: OnDisconnect) -> NewJob {
    NewJob { terms: Terms { on_disconnect: Some(on_disconnect), ..Terms::default() }, ..new_job(n) }
}

/// A node whose worker 1 had a job when its lease ended, beside worker 2, which is idle.
fn waiting(on_disconnect: OnDisconnect) -> (Node, Run) {
    let mut node = Node::new();
    let connection = node.attach(1, 1);
    let (_, run) = start(&node.submit(patient(1, on_disconnect)));
    node.started(1, run);
    node.attach(2, 1);
    node.detach(1, connection, false);
    assert_eq!(node.reason(1).code, ReasonCode::WorkerUnreachable);
    let effects = pass(&mut node, GRANTED_MS + 1);
    assert!(starts(&effects).is_empty(), "it is not run elsewhere");
    assert_eq!(node.standing(1).disconnected_ms, Some(node.now.wall_ms));
    (node, run)
}

/// Lets time pass while worker 2 lives.
fn pass(node: &mut Node, ms: u64) -> Vec<Effect> {
    let mut effects = Vec::new();
    let until_ms = node.now.mono_ms + ms;
    while node.now.mono_ms < until_ms {
        effects.extend(node.pass((until_ms - node.now.mono_ms).min(LEASE_MS)));
        effects.extend(node.heartbeat(2, &[]));
    }
    effects
}

fn come_back(node: &mut Node, runs: Vec<Run>) -> Vec<Effect> {
    node.attach_with(1, 1, offer(1, 64 * 1024), runs)
}

#[test]
fn who_waits_is_run_nowhere_else_and_goes_on_when_its_worker_is_back() {
    let (mut node, run) = waiting(OnDisconnect::Wait);
    let since_ms = node.now.wall_ms;
    let effects = pass(&mut node, 10 * 60_000);
    assert!(starts(&effects).is_empty());
    let job = node.show(1).unwrap();
    assert_eq!((job.state, job.disconnected_ms), (State::Running, Some(since_ms)));
    let reason = job.reason.unwrap();
    assert!(reason.code == ReasonCode::Disconnected && reason.message.contains("600 s ago"), "{reason:?}");
    node.assert_conserved();

    let effects = come_back(&mut node, vec![run]);
    assert!(
        starts(&effects).is_empty()
            && effects.iter().any(|e| matches!(e, Effect::Attached { drop, .. } if drop.is_empty()))
    );
    assert_eq!(node.standing(1).disconnected_ms, None);
    assert_eq!(node.show(1).unwrap().reason, None);
    node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!((node.state(1), node.standing(1).epoch), (State::Succeeded, 1));
    assert_eq!(node.kernel.counters().leases_ended, 1);
}

#[test]
fn who_replaces_is_run_again_when_its_time_is_over() {
    let (mut node, run) = waiting(REPLACE);
    assert!(starts(&pass(&mut node, 59_999)).is_empty());
    assert!(node.reason(1).message.contains("run again in 1 s"));
    assert_eq!(start(&pass(&mut node, 1)), (worker_id(2), Run { job: id(1), epoch: 2 }));
    assert_eq!((node.standing(1).disconnected_ms, node.kernel.counters().replaced), (None, 1));
    let effects = come_back(&mut node, vec![run]);
    assert!(effects.iter().any(|e| matches!(e, Effect::Attached { drop, .. } if *drop == [run])), "it is late");
    node.assert_conserved();
}

#[test]
fn a_worker_that_is_back_in_time_starts_the_time_anew() {
    let (mut node, run) = waiting(REPLACE);
    pass(&mut node, 59_000);
    come_back(&mut node, vec![run]);
    let effects = pass(&mut node, GRANTED_MS + 1);
    assert!(starts(&effects).is_empty(), "it is away once more");
    assert!(starts(&pass(&mut node, 59_000)).is_empty());
    assert_eq!(starts(&pass(&mut node, 1_000)).len(), 1);
}

#[test]
fn a_worker_that_is_back_without_the_run_has_lost_it() {
    let (mut node, _) = waiting(OnDisconnect::Wait);
    let effects = come_back(&mut node, Vec::new());
    assert_eq!(starts(&effects).len(), 1);
    let (mut node, run) = waiting(OnDisconnect::Wait);
    let effects = node.attach_with(1, 2, offer(1, 64 * 1024), vec![run]);
    assert_eq!(starts(&effects).len(), 1, "another process, which cannot have it");
}

#[test]
fn a_worker_that_is_known_to_be_dead_is_not_waited_for() {
    let mut node = Node::new();
    let connection = node.attach(1, 1);
    let (_, run) = start(&node.submit(patient(1, OnDisconnect::Wait)));
    node.started(1, run);
    node.attach(2, 1);
    assert_eq!(start(&node.detach(1, connection, true)).0, worker_id(2));
    let (mut node, _) = waiting(OnDisconnect::Wait);
    let (_, effects) = node.command(operator(), Command::DetachWorker(worker_id(1)));
    assert_eq!(start(&effects).0, worker_id(2), "nor one that an operator has sent away");
}

#[test]
fn a_restart_knows_who_waits_and_since_when() {
    let (mut node, run) = waiting(REPLACE);
    pass(&mut node, 30_000);
    let (mut node, _) = node.restarted();
    node.attach(2, 1);
    assert!(starts(&pass(&mut node, 29_000)).is_empty());
    assert_eq!(node.reason(1).code, ReasonCode::Disconnected);
    assert_eq!(starts(&pass(&mut node, 1_000)).len(), 1, "of its minute half was over");

    let (node, _) = waiting(OnDisconnect::Wait);
    let (mut node, _) = node.restarted();
    node.attach(2, 1);
    assert!(starts(&pass(&mut node, 600_000)).is_empty());
    come_back(&mut node, vec![run]);
    node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(node.state(1), State::Succeeded);
}

#[test]
fn who_waits_is_cancelled_at_once_and_ends_when_its_time_in_all_is_over() {
    let (mut node, run) = waiting(OnDisconnect::Wait);
    node.command(owner(), Command::Cancel(id(1))).0.unwrap();
    assert_eq!(node.state(1), State::Cancelled);
    let effects = come_back(&mut node, vec![run]);
    assert!(effects.iter().any(|e| matches!(e, Effect::Attached { drop, .. } if *drop == [run])));
    node.assert_conserved();

    let mut node = Node::new();
    let connection = node.attach(1, 1);
    let mut job = patient(1, OnDisconnect::Wait);
    job.limits.total_ms = Some(100_000);
    let (_, run) = start(&node.submit(job));
    node.started(1, run);
    node.detach(1, connection, false);
    node.pass(GRANTED_MS + 1);
    node.pass(100_000);
    assert_eq!(node.state(1), State::TimedOut);
}

#[test]
fn who_is_cancelled_while_its_worker_is_away_does_not_begin_to_wait() {
    let mut node = Node::new();
    let connection = node.attach(1, 1);
    let (_, run) = start(&node.submit(patient(1, OnDisconnect::Wait)));
    node.started(1, run);
    node.detach(1, connection, false);
    node.command(owner(), Command::Cancel(id(1))).0.unwrap();
    node.pass(GRANTED_MS + 1);
    assert_eq!(node.state(1), State::Cancelled);
}

#[test]
fn a_peer_is_waited_for_as_a_worker_is() {
    let mut node = Node::new();
    let connection = node.peer(1, 1);
    let (_, run) = offered(&node.submit(patient(1, OnDisconnect::Wait)));
    node.peer_taken(1, run);
    node.part(1, connection);
    node.pass(GRANTED_MS + 1);
    node.peer(2, 1);
    assert!(offers(&node.pass(10 * 60_000)).is_empty());
    assert_eq!(node.reason(1).code, ReasonCode::Disconnected);
    node.meet(1, vec![run]);
    node.peer_ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(node.state(1), State::Succeeded);
}

#[test]
fn an_executor_waits_for_its_worker_as_the_job_says() {
    let (mut home, mut executor) = (Node::new(), Node::new());
    home.peer(1, 1);
    let effects = home.submit(patient(1, REPLACE));
    let offer = effects.iter().find_map(|effect| match effect {
        Effect::Offer { offer, .. } => Some((**offer).clone()),
        _ => None,
    });
    let worker = executor.attach(1, 1);
    let (link, _) = executor.meet(2, Vec::new());
    let mut offer = offer.unwrap();
    offer.accepted.id = shoal_protocol::ObjectId::from_parts(1, 0, peer(2).tag());
    offer.run.job = offer.accepted.id;
    let run = offer.run;
    let offered = shoal_kernel::Input::Offered { home: peer(2), connection: link, offer: Box::new(offer) };
    assert_eq!(starts(&executor.handle(offered)), [(worker_id(1), run)]);
    executor.started(1, run);
    executor.detach(1, worker, false);
    let ended = |effects: &[Effect]| to_home(effects, 2).iter().any(|said| matches!(said, PeerMessage::Ended(..)));
    assert!(!ended(&executor.pass(GRANTED_MS + 1)) && !ended(&executor.pass(59_000)));
    executor.pass(2_000);
    assert!(executor.guests[&run.job].1.is_some(), "it is lost, and its home is told");
}
