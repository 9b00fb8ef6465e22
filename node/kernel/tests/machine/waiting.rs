//! Jobs that are held, wait for their time, or wait and take too long; and which of those that wait comes first.

use shoal_kernel::{Command, Effect, Input, NewJob, Record, Reply};
use shoal_protocol::object::function::RunLimits;
use shoal_protocol::object::job::{Ending, FailureCode, JobPatch, ReasonCode, Retry, RetryOn, State};
use shoal_protocol::{Kind, Problem};

use super::harness::*;

fn held(n: u64) -> NewJob {
    let mut job = new_job(n);
    job.terms.hold = true;
    job
}

/// A job that does not run before so many milliseconds from now.
fn later(node: &Node, n: u64, ms: u64) -> NewJob {
    let mut job = new_job(n);
    job.terms.not_before_ms = Some(node.now.wall_ms + ms);
    job
}

fn limited(n: u64, queue_ms: Option<u64>, total_ms: Option<u64>) -> NewJob {
    NewJob { limits: RunLimits { queue_ms, total_ms, ..RunLimits::default() }, ..new_job(n) }
}

fn again(n: u64, on: RetryOn) -> NewJob {
    let mut job = new_job(n);
    let retry = Retry { on: [on].into(), pause_ms: Some(600), pause_max_ms: Some(600) };
    job.terms.retry = Some(Box::new(retry));
    job
}

fn state_after(reply: (Result<Reply, Problem>, Vec<Effect>)) -> State {
    match reply.0 {
        Ok(Reply::Job(Some(job))) => job.state,
        other => panic!("{other:?}"),
    }
}

fn code(node: &Node, n: u64) -> FailureCode {
    match &node.standing(n).outcome.as_ref().unwrap().ending {
        Ending::Failed(failure) => failure.code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_held_job_runs_when_somebody_releases_it() {
    let mut node = Node::new();
    node.attach(1, 1);
    assert_eq!(starts(&node.submit(held(1))), []);
    assert_eq!((node.show(1).unwrap().state, node.reason(1).code), (State::Held, ReasonCode::Held));
    assert_eq!(started_jobs(&node.submit(new_job(2))), [2], "it holds up no other");
    node.assert_conserved();
    let (mut again, effects) = node.restarted();
    assert_eq!((again.state(1), starts(&effects).len()), (State::Held, 0));
    let forbidden = again.command(other(), Command::Release(id(1))).0.unwrap_err();
    assert_eq!(forbidden.kind, Kind::Forbidden);
    assert_eq!(state_after(again.command(owner(), Command::Release(id(1)))), State::Queued);
    assert_eq!(again.state(1), State::Queued);
    assert_eq!(state_after(again.command(owner(), Command::Release(id(1)))), State::Queued, "nothing more happens");
    assert_eq!(started_jobs(&again.attach_with(2, 1, offer(1, 64 * 1024), Vec::new())), [1]);
    again.assert_conserved();
}

#[test]
fn what_waits_can_be_held_and_what_is_handed_over_cannot() {
    let mut node = Node::new();
    let job = later(&node, 1, 5_000);
    node.submit(job);
    node.submit(new_job(2));
    node.submit(new_job(3));
    for n in [1, 2] {
        assert_eq!(state_after(node.command(owner(), Command::Hold(id(n)))), State::Held);
        assert_eq!(node.state(n), State::Held, "it is written");
        assert_eq!(state_after(node.command(owner(), Command::Hold(id(n)))), State::Held);
    }
    node.assert_conserved();
    node.pass(10_000);
    node.attach(1, 4);
    let conflict = node.command(owner(), Command::Hold(id(3))).0.unwrap_err();
    assert_eq!((conflict.kind, conflict.detail.contains("handed over")), (Kind::Conflict, true));
    assert_eq!(node.command(other(), Command::Hold(id(2))).0.unwrap_err().kind, Kind::Forbidden);
    assert_eq!(node.command(owner(), Command::Hold(id(9))).0.unwrap_err().kind, Kind::NotFound);
    let (_, effects) = node.command(operator(), Command::Release(id(1)));
    assert_eq!(started_jobs(&effects), [1], "its time came while it was held");
}

#[test]
fn nothing_runs_before_its_time_whatever_the_wall_clock_does() {
    let mut node = Node::new();
    node.now.wall_ms += 10_000_000;
    node.attach(1, 1);
    let job = later(&node, 1, 1_000);
    assert_eq!(starts(&node.submit(job)), []);
    let view = node.show(1).unwrap();
    assert_eq!((view.state, view.reason.unwrap().code), (State::Queued, ReasonCode::NotBefore));
    node.assert_conserved();
    node.now.wall_ms += 3_600_000;
    assert_eq!(starts(&node.pass(1_000)), [], "the clock that decides may have begun its millisecond sooner");
    node.now.wall_ms -= 7_200_000;
    assert_eq!(started_jobs(&node.pass(1)), [1]);
}

#[test]
fn a_restart_reads_a_time_from_the_wall_clock() {
    let mut node = Node::new();
    node.now.wall_ms += 10_000_000;
    let job = later(&node, 1, 5_000);
    node.submit(job);
    let (mut later, mut back) = (node.restarted().0, node);
    later.now.wall_ms += 4_500;
    back.now.wall_ms -= 3_600_000;
    for (node, left_ms) in [(&mut later, 500), (&mut back, 5_000)] {
        let (mut again, _) = node.restarted();
        again.pass(left_ms);
        assert_eq!(again.reason(1).code, ReasonCode::NotBefore, "no longer than it was to wait at first: {left_ms}");
        again.attach(1, 1);
        assert_eq!(started_jobs(&again.pass(1)), [1]);
    }
}

#[test]
fn what_was_handed_over_once_had_its_time_whatever_the_wall_clock_says_after_a_restart() {
    let mut node = Node::new();
    let job = later(&node, 1, 5_000);
    node.submit(job);
    node.pass(5_001);
    let connection = node.attach(1, 1);
    node.detach(1, connection, true);
    node.now.wall_ms -= 900_000;
    let (mut again, _) = node.restarted();
    assert_eq!(started_jobs(&again.attach_with(2, 1, offer(1, 64 * 1024), Vec::new())), [1]);
}

#[test]
fn a_job_that_waits_too_long_for_its_first_run_expires() {
    let mut node = Node::new();
    node.submit(limited(1, Some(1_000), None));
    let mut job = limited(2, Some(1_000), None);
    job.terms.hold = true;
    node.submit(job);
    node.pass(999);
    assert_eq!(node.state(1), State::Queued);
    node.pass(1);
    assert_eq!((node.state(1), code(&node, 1)), (State::Expired, FailureCode::QueueLimit));
    assert_eq!(node.state(2), State::Held, "while it is held does not count");
    assert!(node.command(owner(), Command::Release(id(2))).0.is_ok());
    node.now.wall_ms += 600;
    let (mut node, _) = node.restarted();
    node.pass(399);
    assert_eq!(node.state(2), State::Queued);
    node.pass(1);
    assert_eq!((node.state(2), code(&node, 2)), (State::Expired, FailureCode::QueueLimit));
    node.assert_conserved();
}

#[test]
fn what_was_handed_over_once_waits_as_long_as_it_has_to() {
    let mut node = Node::new();
    let connection = node.attach(1, 1);
    start(&node.submit(limited(1, Some(1_000), None)));
    node.detach(1, connection, true);
    node.pass(60_000);
    assert_eq!(node.state(1), State::Queued);
}

#[test]
fn a_job_that_takes_too_long_in_all_ends_wherever_it_is() {
    let mut node = Node::new();
    node.submit(limited(1, None, Some(1_000)));
    let mut job = limited(2, None, Some(1_000));
    job.terms.hold = true;
    node.submit(job);
    node.pass(1_000);
    for n in [1, 2] {
        assert_eq!((node.state(n), code(&node, n)), (State::Expired, FailureCode::TotalLimit));
    }
    node.attach(1, 2);
    let (_, run) = start(&node.submit(limited(3, None, Some(1_000))));
    node.started(1, run);
    let effects = node.pass(1_000);
    let written = place(&effects, |e| matches!(e, Effect::Write(_)));
    assert!(written < place(&effects, |e| *e == Effect::Cancel { worker: worker_id(1), run }));
    assert!(node.standing(3).out_of_time);
    let (mut again, _) = node.restarted();
    for node in [&mut node, &mut again] {
        node.attach_with(1, 1, offer(2, 64 * 1024), vec![run]);
        node.ended(1, run, outcome(Ending::Cancelled));
        assert_eq!((node.state(3), code(node, 3)), (State::TimedOut, FailureCode::TotalLimit));
        assert_eq!(node.standing(3).attempts[0].ending, Some(Ending::Cancelled));
        node.assert_conserved();
    }
}

#[test]
fn a_run_that_does_not_stop_in_time_is_given_up_and_one_that_was_faster_keeps_its_result() {
    let mut node = Node::new();
    node.attach(1, 2);
    let (_, stubborn) = start(&node.submit(limited(1, None, Some(1_000))));
    let (_, fast) = start(&node.submit(limited(2, None, Some(1_000))));
    node.started(1, stubborn);
    node.pass(1_000);
    node.ended(1, fast, outcome(Ending::Succeeded));
    assert_eq!(node.state(2), State::Succeeded);
    for _ in 0..2 {
        node.now.mono_ms += GRANTED_MS;
        node.heartbeat(1, &[stubborn]);
    }
    assert_eq!((node.state(1), code(&node, 1)), (State::TimedOut, FailureCode::TotalLimit));
}

#[test]
fn a_higher_priority_goes_first_and_is_for_operators() {
    let mut node = Node::new();
    let nice = |n, priority| {
        let mut job = new_job(n);
        job.terms.priority = priority;
        job
    };
    assert_eq!(node.refused(owner(), nice(1, 1)).kind, Kind::Forbidden);
    assert!(node.refused(owner(), nice(1, -101)).detail.contains("-100 to 100"));
    for (n, priority) in [(1, -1), (2, 0), (3, 0)] {
        node.submit(nice(n, priority));
    }
    node.submit_all(operator(), vec![nice(4, 5)]);
    let patch = |priority| JobPatch { priority: Some(priority), ..JobPatch::default() };
    assert_eq!(node.command(owner(), Command::Patch(id(3), patch(1))).0.unwrap_err().kind, Kind::Forbidden);
    assert_eq!(node.command(operator(), Command::Patch(id(3), patch(-128))).0.unwrap_err().kind, Kind::InvalidField);
    assert!(node.command(operator(), Command::Patch(id(3), patch(9))).0.is_ok());
    assert_eq!((node.standing(3).priority, node.show(3).unwrap().priority), (9, 9));
    let (mut again, _) = node.restarted();
    for node in [&mut node, &mut again] {
        assert_eq!(node.reason(2).code, ReasonCode::NoWorker);
        let effects = node.attach_with(1, 1, offer(4, 64 * 1024), Vec::new());
        assert_eq!(started_jobs(&effects), [3, 4, 2, 1]);
    }
}

#[test]
fn a_failure_that_the_job_names_is_tried_again_after_its_pause() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(again(1, RetryOn::Guest)));
    node.ended(1, run, failed(FailureCode::Guest));
    assert_eq!((node.state(1), node.reason(1).code), (State::Queued, ReasonCode::Backoff));
    assert_eq!(node.standing(1).attempts_total, 1);
    let (mut restarted, _) = node.restarted();
    restarted.attach(1, 1);
    for node in [&mut node, &mut restarted] {
        assert_eq!(starts(&node.pass(299)), [], "half of the pause is certain, also after a restart");
        let (_, run) = start(&node.pass(301));
        node.ended(1, run, failed(FailureCode::Guest));
        node.heartbeat(1, &[]);
        let (_, run) = start(&node.pass(600));
        node.ended(1, run, failed(FailureCode::Guest));
        assert_eq!((node.state(1), code(node, 1)), (State::Failed, FailureCode::Guest), "three runs are enough");
        node.assert_conserved();
    }
}

#[test]
fn a_failure_that_the_job_does_not_name_ends_it() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(again(1, RetryOn::TimedOut)));
    node.ended(1, run, failed(FailureCode::Guest));
    assert_eq!(node.state(1), State::Failed);
    let mut job = again(2, RetryOn::TimedOut);
    job.limits.attempts = Some(2);
    let (_, run) = start(&node.submit(job));
    node.ended(1, run, outcome(Ending::TimedOut));
    let (_, run) = start(&node.pass(600));
    node.ended(1, run, outcome(Ending::TimedOut));
    assert_eq!(node.state(2), State::TimedOut);
    let (_, run) = start(&node.submit(again(3, RetryOn::Guest)));
    assert!(node.command(owner(), Command::Cancel(id(3))).0.is_ok());
    node.ended(1, run, failed(FailureCode::Guest));
    assert_eq!(node.state(3), State::Failed, "a cancelled job is not tried again, and says what came of it");
}

#[test]
fn a_job_is_cancelled_wherever_it_waits() {
    let mut node = Node::new();
    node.submit(held(1));
    let job = later(&node, 2, 5_000);
    node.submit(job);
    node.submit(limited(3, Some(9_000), Some(9_000)));
    node.attach(1, 1);
    let run = node.show(3).map(|job| shoal_protocol::wire::worker::Run { job: job.id, epoch: job.epoch }).unwrap();
    node.ended(1, run, failed(FailureCode::WorkerFault));
    assert_eq!(node.reason(3).code, ReasonCode::Backoff);
    for n in 1..=3 {
        assert_eq!(state_after(node.command(owner(), Command::Cancel(id(n)))), State::Cancelled);
        assert_eq!(node.state(n), State::Cancelled);
    }
    node.assert_conserved();
    let effects = node.pass(60_000);
    // But for what was used, which is journaled from time to time.
    let of_jobs = |effect: &&Effect| matches!(effect, Effect::Write(record) if !matches!(record, Record::Tally(_)));
    assert!(effects.iter().find(of_jobs).is_none(), "no timer is left: {effects:?}");
}

#[test]
fn a_time_that_is_more_than_a_year_ahead_is_a_mistake() {
    let mut node = Node::new();
    let job = later(&node, 1, 366 * 24 * 3_600_000);
    let problem = node.refused(owner(), job);
    assert_eq!((problem.kind, problem.detail.contains("not_before_ms")), (Kind::InvalidField, true));
    let job = later(&node, 1, 1_000);
    node.submit(job);
    node.handle(Input::FunctionGone(id(FUNCTION)));
    assert_eq!((node.state(1), code(&node, 1)), (State::Failed, FailureCode::FunctionGone));
}
