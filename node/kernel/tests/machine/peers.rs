//! The home's side of the mesh: a peer as one more worker.

use shoal_kernel::{Command, Effect, Input, Record, Reply};
use shoal_protocol::object::job::{Ending, FailureCode, ReasonCode, State};
use shoal_protocol::object::worker::WorkerPatch;
use shoal_protocol::wire::peer::{Hint, WorkerHint};
use shoal_protocol::wire::worker::Run;

use super::harness::*;

fn labelled(n: u64, key: &str, value: &str) -> shoal_kernel::NewJob {
    let mut job = new_job(n);
    job.needs.labels.insert(key.into(), value.into());
    job
}

/// A node without workers whose job is offered to peer 1.
fn placed_at_peer() -> (Node, u64, Run) {
    let mut node = Node::new();
    let connection = node.peer(1, 1);
    let (to, run) = offered(&node.submit(new_job(1)));
    assert_eq!(to, peer(1));
    (node, connection, run)
}

#[test]
fn a_job_goes_to_the_peer_whose_worker_carries_the_label() {
    let mut node = Node::new();
    node.attach(1, 4);
    node.peer(1, 4);
    node.peer(2, 4);
    let mut zone = offer(1, 1_000);
    zone.labels.insert("zone".into(), "b".into());
    node.hint(2, vec![free(offer(4, 1_000)), free(zone)]);
    let effects = node.submit(labelled(1, "zone", "b"));
    let (to, run) = offered(&effects);
    assert_eq!((to, run), (peer(2), Run { job: id(1), epoch: 1 }));
    // The epoch is written before the peer hears of it.
    let written = place(&effects, |e| matches!(e, Effect::Write(Record::Standing(..))));
    assert!(written < place(&effects, |e| matches!(e, Effect::Offer { .. })));
    let attempt = &node.standing(1).attempts[0];
    assert_eq!((attempt.node, attempt.worker), (Some(peer(2)), at(2)));
    // One place there, and that is taken; elsewhere it fits nowhere.
    assert_eq!(offers(&node.submit(labelled(2, "zone", "b"))), []);
    let reason = node.reason(2);
    assert_eq!(reason.code, ReasonCode::Busy);
    let of = |n: usize| (reason.candidates[n].node, reason.candidates[n].code);
    assert_eq!(reason.candidates[0].worker, worker_id(1), "our own first");
    let mut peers = [of(1), of(2)];
    peers.sort();
    assert_eq!(peers, [(Some(peer(1)), ReasonCode::NoFit), (Some(peer(2)), ReasonCode::Busy)]);
    node.assert_conserved();
}

#[test]
fn a_run_at_a_peer_is_followed_to_its_end() {
    let (mut node, _, run) = placed_at_peer();
    assert_eq!(node.reason(1).code, ReasonCode::Starting);
    node.peer_taken(1, run);
    node.peer_started(1, run);
    let view = node.show(1).unwrap();
    assert_eq!((view.state, view.attempts[0].worker_name.as_str()), (State::Running, "w-of-p1"));
    let effects = node.peer_ended(1, run, outcome(Ending::Succeeded));
    let written = place(&effects, |e| matches!(e, Effect::Write(Record::Standing(..))));
    assert!(written < place(&effects, |e| *e == Effect::Settled { worker: at(1), run }));
    assert_eq!(node.state(1), State::Succeeded);
    assert_eq!((node.standing(1).attempts[0].node, node.kernel.counters().peer_offers), (Some(peer(1)), 1));
    // What it had is free again, without a new hint.
    assert_eq!(offered(&node.submit(new_job(2))).0, peer(1));
}

#[test]
fn a_run_whose_result_is_on_its_way_is_not_timed_out() {
    for delivering in [false, true] {
        let mut node = Node::new();
        node.peer(1, 1);
        let mut job = new_job(1);
        job.limits.run_ms = Some(2_000);
        let (_, run) = offered(&node.submit(job));
        node.peer_taken(1, run);
        node.peer_started(1, run);
        if delivering {
            node.handle(Input::Delivering { node: peer(1), run });
        }
        for _ in 0..8 {
            node.pass(500);
            node.handle(Input::Heartbeat { worker: at(1), runs: vec![run] });
        }
        assert_eq!(node.state(1), if delivering { State::Offered } else { State::TimedOut });
        if delivering {
            node.peer_ended(1, run, outcome(Ending::Succeeded));
            assert_eq!(node.state(1), State::Succeeded);
        }
    }
}

#[test]
fn an_own_worker_that_is_free_or_soon_will_be_is_preferred() {
    let mut node = Node::new();
    node.attach(1, 1);
    node.peer(1, 4);
    let (worker, run) = start(&node.submit(new_job(1)));
    assert_eq!(worker, worker_id(1));
    // How long a run takes is not known yet: the next does not wait behind the first.
    let (_, at_peer) = offered(&node.submit(new_job(2)));
    node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(start(&node.submit(new_job(3))).0, worker_id(1));
    // Runs take 2 ms: a few of them ahead of the slot are sooner than any peer.
    assert_eq!(start(&node.submit(new_job(4))).0, worker_id(1));
    node.peer_ended(1, at_peer, outcome(Ending::Succeeded));
    assert_eq!(node.state(2), State::Succeeded);
}

#[test]
fn of_peers_the_freest_and_then_the_nearest_is_chosen() {
    let mut node = Node::new();
    for n in 1..=3 {
        node.peer(n, 4);
    }
    let hint = |node: &mut Node, n: u8, free_slots, rtt_us| {
        let workers = vec![WorkerHint { free_slots, ..free(offer(4, 64 * 1024)) }];
        let hint = Box::new(Hint { name: format!("p{n}"), workers, ..Hint::default() });
        node.handle(Input::PeerHint { node: peer(n), hint, rtt_us });
    };
    hint(&mut node, 1, 4, 9_000);
    hint(&mut node, 2, 4, 3_000);
    hint(&mut node, 3, 2, 100);
    assert_eq!(offered(&node.submit(new_job(1))).0, peer(2));
    assert_eq!(offered(&node.submit(new_job(2))).0, peer(1), "it has more free than the nearer ones");
    // One that has run the component is better than one that is free.
    let run = Run { job: id(2), epoch: 1 };
    node.peer_started(1, run);
    hint(&mut node, 1, 1, 9_000);
    assert_eq!(offered(&node.submit(new_job(3))).0, peer(1));
}

#[test]
fn what_a_peer_declines_goes_elsewhere_and_its_words_are_shown() {
    let (mut node, _, run) = placed_at_peer();
    node.submit(new_job(2));
    let effects = node.peer_declined(1, run, "the cat sits on it");
    assert_eq!(offers(&effects), [], "it is not asked again at once, for neither job");
    let standing = node.standing(1).clone();
    assert_eq!((standing.state, standing.attempts_total, standing.epoch), (State::Queued, 0, 1));
    let reason = node.reason(1);
    assert_eq!(reason.code, ReasonCode::Busy);
    assert!(reason.candidates[0].message.contains("the cat sits on it"), "{reason:?}");
    // A job of other needs is no matter of that.
    let mut other = new_job(3);
    other.needs = needs_mb(7);
    assert_eq!(offered(&node.submit(other)).1.job, id(3));
    // Another peer comes, and has it.
    node.meet(2, Vec::new());
    let effects = node.hint(2, vec![free(offer(2, 64 * 1024))]);
    assert_eq!(offers(&effects), [(peer(2), Run { job: id(1), epoch: 2 }), (peer(2), Run { job: id(2), epoch: 1 })]);
}

#[test]
fn a_peer_that_goes_on_declining_is_asked_less_and_less() {
    let (mut node, _, mut run) = placed_at_peer();
    let mut asked_ms = Vec::new();
    for _ in 0..300 {
        node.peer_declined(1, run, "no");
        for _ in 0..400 {
            let effects = node.pass(100);
            node.peer_heartbeat(1, &[]);
            if let [(_, again)] = offers(&effects)[..] {
                run = again;
                break;
            }
        }
        asked_ms.push(node.now.mono_ms);
    }
    let pauses: Vec<u64> = asked_ms.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses[0] <= 500 && pauses.iter().all(|pause| *pause <= 30_100), "{pauses:?}");
    assert_eq!(pauses[100], 30_000);
    assert_eq!(node.standing(1).attempts_total, 1, "the one that is offered now");
    // As soon as it takes one the next is offered at once, and it begins anew.
    node.peer_taken(1, run);
    node.peer_ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(node.state(1), State::Succeeded);
    let (_, run) = offered(&node.submit(new_job(2)));
    node.peer_declined(1, run, "no");
    assert_eq!(offered(&node.pass(200)).1.job, id(2));
}

#[test]
fn declines_that_were_on_their_way_together_count_as_one() {
    let mut node = Node::new();
    node.peer(1, 4);
    let runs: Vec<Run> = (1..=4).map(|n| offered(&node.submit(new_job(n))).1).collect();
    runs.iter().for_each(|run| drop(node.peer_declined(1, *run, "no")));
    assert_eq!(offers(&node.pass(200)).len(), 4);
}

#[test]
fn a_peer_that_dies_loses_its_runs_when_its_lease_ends() {
    let (mut node, connection, run) = placed_at_peer();
    node.peer_taken(1, run);
    node.peer_started(1, run);
    node.part(1, connection);
    assert_eq!(node.reason(1).code, ReasonCode::WorkerUnreachable);
    assert!(node.reason(1).message.contains("peer p1"));
    node.peer(2, 1);
    node.pass(GRANTED_MS - 1);
    node.peer_heartbeat(2, &[]);
    assert_eq!(node.standing(1).epoch, 1);
    let effects = node.pass(1);
    assert_eq!(offered(&effects), (peer(2), Run { job: id(1), epoch: 2 }));
    let lost = &node.standing(1).attempts[0];
    assert!(matches!(&lost.ending, Some(Ending::Failed(failure)) if failure.code == FailureCode::WorkerLost));
    // It comes back with an ending: that is fenced, and it may forget the run.
    let (_, effects) = node.meet(1, vec![run]);
    let dropped = effects.iter().any(|e| matches!(e, Effect::Attached { drop, .. } if *drop == [run]));
    assert!(dropped, "{effects:?}");
    let effects = node.peer_ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(effects[0], Effect::Settled { worker: at(1), run });
    assert_eq!((node.state(1), node.kernel.counters().fenced), (State::Offered, 1));
    let run = Run { job: id(1), epoch: 2 };
    node.peer_ended(2, run, outcome(Ending::Succeeded));
    assert_eq!(node.state(1), State::Succeeded);
    node.assert_conserved();
}

#[test]
fn a_peer_that_is_gone_and_holds_nothing_is_forgotten() {
    let peers = |node: &mut Node| match node.command(owner(), Command::Peers).0 {
        Ok(Reply::Peers(peers)) => peers,
        other => panic!("{other:?}"),
    };
    let (mut node, connection, run) = placed_at_peer();
    node.part(1, connection);
    let seen = peers(&mut node);
    assert_eq!((seen[0].node, seen[0].attached, seen[0].placed), (peer(1), false, 1));
    node.pass(GRANTED_MS);
    assert_eq!(peers(&mut node), []);
    assert_eq!(node.state(1), State::Queued);
    // One that says nothing is sent away, and forgotten as well.
    node.peer(2, 1);
    let effects = node.pass(GRANTED_MS);
    assert!(effects.iter().any(|e| matches!(e, Effect::Detach { worker, .. } if *worker == at(2))));
    node.peer_ended(1, run, outcome(Ending::Succeeded));
    node.pass(LEASE_MS);
    assert_eq!(peers(&mut node), []);
}

#[test]
fn a_run_outlives_the_connection_of_its_peer_and_a_restart_of_its_home() {
    let (mut node, connection, run) = placed_at_peer();
    node.peer_taken(1, run);
    node.peer_started(1, run);
    node.part(1, connection);
    let (_, effects) = node.meet(1, vec![run]);
    assert!(offers(&effects).is_empty());
    let (mut again, _) = node.restarted();
    assert_eq!(again.reason(1).code, ReasonCode::Recovering);
    again.peer(2, 1);
    let (_, effects) = again.meet(1, vec![run]);
    let kept = effects.iter().any(|e| matches!(e, Effect::Attached { drop, .. } if drop.is_empty()));
    assert!(kept && offers(&effects).is_empty());
    again.peer_ended(1, run, outcome(Ending::Succeeded));
    assert_eq!((again.state(1), again.standing(1).epoch), (State::Succeeded, 1));
    again.assert_conserved();
}

#[test]
fn a_run_that_its_peer_comes_back_without_is_lost_or_never_came() {
    let (mut node, connection, run) = placed_at_peer();
    node.part(1, connection);
    let (_, effects) = node.meet(1, Vec::new());
    assert!(effects.contains(&Effect::Cancel { worker: at(1), run }));
    let (_, run) = offered(&node.hint(1, vec![free(offer(1, 1_000))]));
    assert_eq!((run.epoch, node.standing(1).attempts_total), (2, 1));
    node.peer_taken(1, run);
    node.peer_started(1, run);
    node.peer_heartbeat(1, &[]);
    assert_eq!(offers(&node.pass(500)), [(peer(1), Run { job: id(1), epoch: 3 })]);
    assert_eq!(node.standing(1).attempts_total, 2);
}

#[test]
fn a_run_that_was_lost_with_the_peers_worker_runs_again() {
    let (mut node, _, run) = placed_at_peer();
    node.peer_taken(1, run);
    let effects = node.peer_ended(1, run, failed(FailureCode::WorkerLost));
    assert!(effects.contains(&Effect::Settled { worker: at(1), run }));
    assert_eq!(offered(&effects).1.epoch, 2);
    assert_eq!(node.standing(1).attempts_total, 1, "one that had not started is not counted");
}

#[test]
fn a_cancellation_reaches_the_peer_and_is_repeated() {
    let (mut node, connection, run) = placed_at_peer();
    node.peer_taken(1, run);
    let (reply, effects) = node.command(owner(), Command::Cancel(id(1)));
    assert!(reply.is_ok() && effects.contains(&Effect::Cancel { worker: at(1), run }));
    node.part(1, connection);
    let (_, effects) = node.meet(1, vec![run]);
    assert!(effects.contains(&Effect::Cancel { worker: at(1), run }));
    node.peer_ended(1, run, outcome(Ending::Cancelled));
    assert_eq!(node.state(1), State::Cancelled);
}

#[test]
fn a_job_that_waits_too_long_at_an_own_worker_goes_to_an_idle_peer() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, first) = start(&node.submit(new_job(1)));
    node.ended(1, first, outcome(Ending::Succeeded));
    node.submit(new_job(2));
    node.submit(new_job(3));
    node.peer(1, 1);
    let moved: Vec<_> = [150, 150, 150].map(|ms| offers(&node.pass(ms))).concat();
    assert_eq!(moved, [(peer(1), Run { job: id(3), epoch: 2 })]);
}

#[test]
fn a_peer_that_stops_or_has_not_spoken_gets_nothing() {
    let mut node = Node::new();
    node.meet(1, Vec::new());
    assert_eq!(offers(&node.submit(new_job(1))), []);
    assert_eq!(node.reason(1).candidates[0].code, ReasonCode::WorkerUnreachable);
    let workers = vec![free(offer(1, 1_000))];
    let hint = Box::new(Hint { name: "p1".into(), workers, stopping: true, ..Hint::default() });
    assert_eq!(offers(&node.handle(Input::PeerHint { node: peer(1), hint, rtt_us: 1 })), []);
    assert_eq!(node.reason(1).code, ReasonCode::Cordoned);
    node.hint(1, Vec::new());
    assert_eq!(node.reason(1).code, ReasonCode::NoFit);
    assert_eq!(offers(&node.hint(1, vec![free(offer(1, 1_000))])).len(), 1);
}

#[test]
fn peers_are_no_workers_of_this_node() {
    let (mut node, _, _) = placed_at_peer();
    assert_eq!(node.command(operator(), Command::Workers).0, Ok(Reply::Workers(Vec::new())));
    let patch = WorkerPatch { cordoned: Some(true) };
    assert!(node.command(operator(), Command::PatchWorker(at(1), patch)).0.is_err());
    assert!(node.command(operator(), Command::DetachWorker(at(1))).0.is_err());
    assert_eq!((node.kernel.load().workers, node.kernel.load().slots), (0, 0));
    assert!(node.kernel.hints().is_empty());
    let nobody = shoal_kernel::Principal { user: None, operator: false };
    assert!(node.command(nobody, Command::Peers).0.is_err());
}

#[test]
fn what_a_peer_says_of_runs_that_it_was_never_offered_counts_for_nothing() {
    let (mut node, _, run) = placed_at_peer();
    node.meet(2, Vec::new());
    let before = node.journal.clone();
    assert_eq!(node.peer_taken(2, run), [Effect::Cancel { worker: at(2), run }]);
    assert_eq!(node.peer_started(2, run), [Effect::Cancel { worker: at(2), run }]);
    assert_eq!(node.peer_declined(2, run, "mine"), []);
    assert_eq!(node.peer_ended(2, run, outcome(Ending::Succeeded)), [Effect::Settled { worker: at(2), run }]);
    let later = Run { epoch: 2, ..run };
    for unknown in [later, Run { job: id(77), epoch: 1 }] {
        node.peer_taken(1, unknown);
        node.peer_started(1, unknown);
        node.peer_ended(1, unknown, outcome(Ending::Succeeded));
        node.peer_declined(1, unknown, "no");
    }
    assert_eq!((node.journal.clone(), node.state(1)), (before, State::Offered));
    // A heartbeat of many runs that nobody knows is answered within bounds.
    let strangers: Vec<Run> = (0..5_000).map(|n| Run { job: id(10_000 + n), epoch: 1 }).collect();
    assert_eq!(node.peer_heartbeat(2, &strangers).len(), 512);
}

#[test]
fn a_hint_beyond_its_bounds_says_nothing() {
    let mut node = Node::new();
    node.meet(1, Vec::new());
    node.submit(new_job(1));
    assert_eq!(offers(&node.hint(1, vec![free(offer(1, 1_000)); 17])), []);
    let mut wild = offer(1, 1_000);
    wild.labels.insert("x".into(), "y".repeat(1_000));
    assert_eq!(offers(&node.hint(1, vec![free(wild)])), []);
    assert_eq!(node.kernel.counters().hints_refused, 2);
    assert_eq!(offers(&node.hint(1, vec![free(offer(1, 1_000)); 16])).len(), 1);
    // A hint of somebody who is no peer says nothing either.
    assert_eq!(node.hint(3, vec![free(offer(1, 1_000))]), []);
}

#[test]
fn peers_are_bounded_and_are_not_taken_for_each_other() {
    let mut node = Node::new();
    let detached = |effects: &[Effect]| effects.iter().any(|e| matches!(e, Effect::Detach { .. }));
    for n in 10..=255 {
        assert!(!detached(&node.meet(n, Vec::new()).1));
    }
    for n in 0..9 {
        assert!(!detached(&node.meet(n, Vec::new()).1));
    }
    let (connection, stranger) = (node.link(1), shoal_protocol::NodeId([1; 32].map(|b: u8| b + 200)));
    assert!(!detached(&node.handle(Input::PeerConnected { node: stranger, connection })));
    let mut more = [3; 32];
    more[0] = 4;
    for byte in 0..2 {
        more[1] = byte;
        let one_more = shoal_protocol::NodeId(more);
        drop(node.handle(Input::PeerConnected { node: one_more, connection }));
    }
    more[1] = 99;
    assert!(detached(&node.handle(Input::PeerConnected { node: shoal_protocol::NodeId(more), connection })));
    assert!(detached(&node.meet(9, Vec::new()).1), "it is the node itself");
    // A worker that comes under the id of a peer is sent away.
    let attached = shoal_kernel::WorkerAttached {
        worker: at(10),
        connection: 1,
        name: "w".into(),
        local: false,
        incarnation: 1,
        offer: offer(1, 1),
        runs: Vec::new(),
    };
    assert!(detached(&node.handle(Input::WorkerAttached(Box::new(attached)))));
    assert_eq!(node.kernel.load().workers, 0);
}
