//! Which job goes to which worker, and what is said to those that wait.

use shoal_kernel::{Command, Effect, Input};
use shoal_protocol::object::function::Needs;
use shoal_protocol::object::job::{Ending, FailureCode, ReasonCode, State};
use shoal_protocol::object::worker::{Offer, WorkerPatch};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Kind, Problem};

use super::harness::*;

#[test]
fn the_oldest_is_first_within_needs_and_between_them() {
    let mut node = Node::new();
    for (n, memory_mb) in [(4, 100), (2, 200), (3, 100), (1, 100)] {
        let mut job = new_job(n);
        job.needs = needs_mb(memory_mb);
        node.submit(job);
    }
    let effects = node.attach_with(1, 1, offer(1, 1_000), Vec::new());
    assert_eq!(started_jobs(&effects), [1]);
    for (running, next) in [(1, 2), (2, 3), (3, 4)] {
        // Long runs: nothing is handed ahead.
        let mut result = outcome(Ending::Succeeded);
        result.usage.run_us = 60_000_000;
        let effects = node.ended(1, Run { job: id(running), epoch: 1 }, result);
        assert_eq!(started_jobs(&effects), [next]);
    }
}

#[test]
fn what_fits_nowhere_holds_up_nothing_and_says_why() {
    let mut node = Node::new();
    node.submit(new_job(1));
    assert_eq!(node.reason(1).code, ReasonCode::NoWorker);
    let mut big = new_job(0);
    big.needs = needs_mb(4_096);
    let mut picky = new_job(2);
    picky.needs = Needs { capabilities: ["gpu".to_owned()].into(), ..Needs::default() };
    let mut local = new_job(3);
    local.needs = Needs { labels: [("zone".to_owned(), "a".to_owned())].into(), ..Needs::default() };
    for job in [big, picky, local] {
        node.submit(job);
    }
    let mut offered = offer(1, 2_048);
    offered.labels = [("zone".to_owned(), "b".to_owned())].into();
    let effects = node.attach_with(1, 1, offered, Vec::new());
    assert_eq!(started_jobs(&effects), [1]);
    for (n, says) in [(0, "2048 MiB"), (2, "gpu"), (3, "zone=a")] {
        let reason = node.reason(n);
        assert_eq!(reason.code, ReasonCode::NoFit);
        assert_eq!(reason.candidates.len(), 1);
        assert!(reason.candidates[0].message.contains(says), "{reason:?}");
    }
    node.submit(new_job(5));
    node.submit(new_job(6));
    assert_eq!(node.reason(5).code, ReasonCode::Busy);
    assert_eq!(node.reason(6).code, ReasonCode::Behind);
    let able = Offer {
        slots: 9,
        memory_mb: 8_192,
        labels: [("zone".to_owned(), "a".to_owned())].into(),
        capabilities: ["gpu".to_owned()].into(),
    };
    assert_eq!(started_jobs(&node.attach_with(2, 1, able, Vec::new())), [0, 2, 3, 5, 6]);
    node.assert_conserved();
}

#[test]
fn a_reason_names_at_most_sixteen_workers() {
    let mut node = Node::new();
    for n in 0..40 {
        node.attach_with(n, 1, offer(1, 10), Vec::new());
    }
    node.submit(new_job(1));
    let reason = node.reason(1);
    assert_eq!((reason.code, reason.candidates.len()), (ReasonCode::NoFit, 16));
}

#[test]
fn a_worker_that_is_away_and_a_node_that_is_closed_are_reasons() {
    let mut node = Node::new();
    let connection = node.attach(1, 1);
    node.detach(1, connection, true);
    node.submit(new_job(1));
    let reason = node.reason(1);
    assert_eq!((reason.code, reason.candidates.len()), (ReasonCode::NoWorker, 1));
    assert_eq!(reason.candidates[0].code, ReasonCode::WorkerUnreachable, "it may be what the job waits for");
    node.attach(2, 1);
    node.submit(new_job(2));
    node.handle(Input::Refuse(Problem::new(Kind::StorageUnavailable, "the disk is full")));
    let reason = node.reason(2);
    assert_eq!((reason.code, reason.message.contains("the disk is full")), (ReasonCode::NodeClosed, true));
    node.handle(Input::Accept);
    assert_eq!(node.reason(2).code, ReasonCode::Busy);
}

#[test]
fn memory_in_use_is_never_more_than_offered() {
    let mut node = Node::new();
    node.attach_with(1, 1, offer(8, 1_000), Vec::new());
    let mut started = Vec::new();
    for n in 1..=5 {
        let mut job = new_job(n);
        job.needs = needs_mb(300);
        started.extend(started_jobs(&node.submit(job)));
    }
    assert_eq!(started, [1, 2, 3]);
    assert!(node.reason(4).candidates[0].message.contains("in use"), "{:?}", node.reason(4));
    let effects = node.ended(1, Run { job: id(2), epoch: 1 }, outcome(Ending::Succeeded));
    assert_eq!(started_jobs(&effects), [4], "memory, unlike slots, is not handed out ahead");
}

#[test]
fn cordoned_and_leaving_workers_get_nothing_new() {
    let mut node = Node::new();
    node.attach(1, 2);
    let patch = WorkerPatch { cordoned: Some(true) };
    let (reply, _) = node.command(owner(), Command::PatchWorker(worker_id(1), patch.clone()));
    assert!(reply.is_err(), "only operators");
    let (reply, _) = node.command(operator(), Command::PatchWorker(worker_id(1), patch));
    assert!(matches!(reply, Ok(shoal_kernel::Reply::Worker(worker)) if worker.cordoned));
    node.submit(new_job(1));
    assert_eq!(node.reason(1).code, ReasonCode::Cordoned);
    // It stays cordoned over a reconnect.
    let connection = node.attach(1, 2);
    node.detach(1, connection, false);
    node.attach(1, 2);
    assert_eq!(node.state(1), State::Queued);
    let patch = WorkerPatch { cordoned: Some(false) };
    let (_, effects) = node.command(operator(), Command::PatchWorker(worker_id(1), patch));
    assert_eq!(started_jobs(&effects), [1]);
    node.handle(Input::Leaving { worker: worker_id(1) });
    node.submit(new_job(2));
    assert_eq!(node.reason(2).code, ReasonCode::Cordoned);
}

/// Lets the kernel learn that runs of the function take `run_us`.
pub(crate) fn learn(node: &mut Node, n: u64, run_us: u64) {
    let (worker, run) = start(&node.submit(new_job(n)));
    let mut result = outcome(Ending::Succeeded);
    result.usage.run_us = run_us;
    let number = if worker == worker_id(1) { 1 } else { 2 };
    node.ended(number, run, result);
}

#[test]
fn short_runs_are_handed_ahead_and_only_so_many() {
    let mut node = Node::new();
    node.attach(1, 2);
    for n in 1..=6 {
        node.submit(new_job(n));
    }
    assert_eq!(node.kernel.load().running, 2, "how long it takes is not known yet");
    node.started(1, Run { job: id(1), epoch: 1 });
    node.ended(1, Run { job: id(1), epoch: 1 }, outcome(Ending::Succeeded));
    assert_eq!(node.kernel.load().running, 5, "2 ms each: all of them start soon");
    for n in 7..=40 {
        node.submit(new_job(n));
    }
    // 2 in slots, 2 × 2 and 8 ahead.
    assert_eq!(node.kernel.load().running, 14);
    assert_eq!(node.kernel.counters().prefetched, 12);
    node.assert_conserved();
}

#[test]
fn long_runs_are_not_handed_ahead() {
    let mut node = Node::new();
    node.attach(1, 1);
    learn(&mut node, 1, 200_000);
    node.submit(new_job(2));
    node.submit(new_job(3));
    assert_eq!(node.kernel.load().running, 1);
    // A run beyond its time promises nothing either.
    let mut node = Node::new();
    node.attach(1, 1);
    learn(&mut node, 1, 2_000);
    let (_, run) = start(&node.submit(new_job(2)));
    node.started(1, run);
    node.pass(400);
    node.submit(new_job(3));
    assert_eq!(node.kernel.load().running, 1);
}

#[test]
fn nothing_is_handed_ahead_of_an_older_job_that_waits_for_a_slot() {
    let mut node = Node::new();
    node.handle(Input::Function(Box::new(function(FUNCTION + 1))));
    node.attach(1, 1);
    learn(&mut node, 1, 2_000);
    let (_, run) = start(&node.submit(new_job(2)));
    // How long a run of the new function takes nobody knows: it is not handed ahead.
    let mut unknown = new_job(3);
    unknown.function = id(FUNCTION + 1);
    node.submit(unknown);
    for n in 4..10 {
        let mut short = new_job(n);
        short.needs = needs_mb(100);
        node.submit(short);
    }
    assert_eq!(node.kernel.load().running, 1);
    assert_eq!(started_jobs(&node.ended(1, run, outcome(Ending::Succeeded)))[0], 3);
}

#[test]
fn nothing_is_handed_ahead_while_another_worker_is_free() {
    let mut node = Node::new();
    node.attach(1, 1);
    learn(&mut node, 1, 2_000);
    node.attach(2, 1);
    let first = start(&node.submit(new_job(2))).0;
    let second = start(&node.submit(new_job(3))).0;
    assert_ne!(first, second);
    assert_eq!(node.kernel.counters().prefetched, 0);
}

#[test]
fn a_job_that_waits_at_a_worker_goes_to_one_that_is_idle() {
    let mut node = Node::new();
    node.attach(1, 1);
    learn(&mut node, 1, 2_000);
    let (_, running) = start(&node.submit(new_job(2)));
    node.started(1, running);
    let (_, waiting) = start(&node.submit(new_job(3)));
    // The first takes longer than promised, and another worker comes.
    let effects = node.attach_with(2, 1, offer(1, 1_000), Vec::new());
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Wake { .. })));
    assert!(starts(&effects).is_empty());
    let effects = node.pass(200);
    assert!(effects.contains(&Effect::Cancel { worker: worker_id(1), run: waiting }));
    let moved = Run { job: id(3), epoch: 2 };
    assert_eq!(start(&effects), (worker_id(2), moved));
    assert_eq!(node.standing(3).attempts_total, 1, "what never began is not counted");
    // What the first worker still says of it counts for nothing.
    let effects = node.ended(1, waiting, outcome(Ending::Succeeded));
    assert!(effects.contains(&Effect::Settled { worker: worker_id(1), run: waiting }));
    assert_eq!(node.state(3), State::Offered);
    node.ended(2, moved, outcome(Ending::Succeeded));
    assert_eq!(node.state(3), State::Succeeded);
    assert_eq!(node.kernel.counters().withdrawn, 1);
    node.assert_conserved();
}

#[test]
fn a_run_that_compiles_in_its_slot_is_not_withdrawn() {
    let mut node = Node::new();
    node.attach(1, 1);
    learn(&mut node, 1, 2_000);
    // Neither has said that it started; the first has the slot.
    for n in 2..4 {
        assert_eq!(start(&node.submit(new_job(n))).0, worker_id(1));
    }
    node.attach(2, 1);
    assert_eq!(start(&node.pass(500)), (worker_id(2), Run { job: id(3), epoch: 2 }));
    node.pass(500);
    assert_eq!((node.kernel.counters().withdrawn, node.standing(2).epoch), (1, 1));
}

#[test]
fn a_job_that_needs_much_is_not_starved_by_small_ones() {
    let mut node = Node::new();
    node.attach_with(1, 1, offer(4, 1_000), Vec::new());
    let small = |n: u64| {
        let mut job = new_job(n);
        job.needs = needs_mb(250);
        job
    };
    for n in 1..=4 {
        node.submit(small(n));
    }
    let mut big = new_job(5);
    big.needs = needs_mb(900);
    node.submit(big);
    // A stream of small jobs: as one ends, the next is there.
    let mut slow = outcome(Ending::Succeeded);
    slow.usage.run_us = 10_000_000;
    for n in 1..=40 {
        node.submit(small(n + 5));
        node.pass(500);
        let running: Vec<u64> =
            (1..=45).filter(|n| node.jobs.contains_key(&id(*n)) && node.state(*n) == State::Offered).collect();
        if running.contains(&5) {
            return;
        }
        let held: Vec<Run> = running.iter().map(|n| Run { job: id(*n), epoch: 1 }).collect();
        node.heartbeat(1, &held);
        node.ended(1, held[0], slow.clone());
    }
    panic!("the job that needs much never ran");
}

#[test]
fn a_job_is_tried_elsewhere_after_a_fault() {
    let mut node = Node::new();
    node.attach(1, 4);
    node.attach(2, 1);
    let (first, run) = start(&node.submit(new_job(1)));
    let number = if first == worker_id(1) { 1 } else { 2 };
    node.started(number, run);
    node.ended(number, run, failed(FailureCode::WorkerFault));
    let (second, _) = start(&node.pass(100));
    assert_ne!(first, second);
}

#[test]
fn a_worker_that_has_the_component_is_preferred() {
    let mut node = Node::new();
    node.attach(1, 4);
    let (_, run) = start(&node.submit(new_job(1)));
    node.started(1, run);
    node.attach(2, 4);
    assert_eq!(start(&node.submit(new_job(2))).0, worker_id(1));
}
