//! What the end of a run does to its job, and how a job is cancelled.

use shoal_kernel::{Command, Effect, Group, Input, Record, Reply};
use shoal_protocol::object::job::{Ending, FailureCode, JobPatch, Progress, ReasonCode, RefusalCode, State};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Kind, Problem};

use super::harness::*;

fn standing_written(effects: &[Effect]) -> bool {
    effects.iter().any(|effect| matches!(effect, Effect::Write(Record::Standing(..))))
}

#[test]
fn a_job_settles_once() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(1)));
    assert_eq!(node.reason(1).code, ReasonCode::Starting);
    node.started(1, run);
    let view = node.show(1).unwrap();
    assert_eq!((view.state, view.reason), (State::Running, None));
    let effects = node.ended(1, run, outcome(Ending::Succeeded));
    let written = place(&effects, |e| matches!(e, Effect::Write(Record::Standing(..))));
    let told = place(&effects, |e| matches!(e, Effect::Settled { .. }));
    let woken = place(&effects, |e| matches!(e, Effect::Changed { settled: true, .. }));
    assert!(written < told && written < woken);
    assert_eq!(node.show(1), None, "settled jobs are read from the store");
    let again = node.ended(1, run, failed(FailureCode::Guest));
    assert_eq!(again, [Effect::Settled { worker: worker_id(1), run }]);
    assert_eq!(node.state(1), State::Succeeded);
    assert_eq!(node.kernel.counters().fenced, 1);
    let attempt = &node.standing(1).attempts[0];
    assert!(attempt.started_ms.is_some() && attempt.ended_ms.is_some() && attempt.ending == Some(Ending::Succeeded));
    assert_eq!(attempt.usage, Some(outcome(Ending::Succeeded).usage), "what it used stands in its history");
}

#[test]
fn only_the_current_epoch_at_the_current_worker_counts() {
    let mut node = Node::new();
    let connection = node.attach(1, 1);
    let (_, old) = start(&node.submit(new_job(1)));
    node.started(1, old);
    node.attach(2, 1);
    let (to, new) = start(&node.detach(1, connection, true));
    assert_eq!((to, new), (worker_id(2), Run { job: id(1), epoch: 2 }));
    for (from, run) in
        [(1, old), (2, old), (1, new), (2, Run { job: id(1), epoch: 3 }), (1, Run { job: id(9), epoch: 1 })]
    {
        let effects = node.ended(from, run, outcome(Ending::Succeeded));
        assert_eq!(effects, [Effect::Settled { worker: worker_id(from), run }]);
        assert_eq!(node.state(1), State::Offered);
    }
    // A start or progress of another epoch changes nothing; the run is told to stop.
    assert_eq!(node.started(1, old), [Effect::Cancel { worker: worker_id(1), run: old }]);
    let late = Input::Progress { worker: worker_id(1), run: old, progress: Progress::default() };
    assert_eq!(node.handle(late), []);
    node.ended(2, new, outcome(Ending::Succeeded));
    assert_eq!(node.state(1), State::Succeeded);
}

#[test]
fn progress_is_shown_and_not_journaled() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(1)));
    node.started(1, run);
    let before = node.journal.len();
    let progress = Progress { done: 3, total: 10, message: "ä".repeat(2_000) };
    node.handle(Input::Progress { worker: worker_id(1), run, progress });
    let shown = node.show(1).unwrap().progress.unwrap();
    assert_eq!((shown.done, shown.total), (3, 10));
    assert!(shown.message.len() <= 1_024);
    assert_eq!(node.journal.len(), before);
}

#[test]
fn transient_failures_are_retried_with_pauses_until_the_attempts_are_used_up() {
    let mut node = Node::new();
    node.attach(1, 1);
    let mut run = start(&node.submit(new_job(1))).1;
    for attempt in 1..=2 {
        node.started(1, run);
        let effects = node.ended(1, run, failed(FailureCode::WorkerFault));
        assert!(effects.contains(&Effect::Settled { worker: worker_id(1), run }), "its ending is used up");
        assert_eq!(node.state(1), State::Queued);
        assert_eq!(node.reason(1).code, ReasonCode::Backoff);
        assert!(starts(&node.pass(49)).is_empty());
        node.assert_conserved();
        run = start(&node.pass(200 * attempt)).1;
        assert_eq!(run.epoch, attempt + 1);
    }
    node.started(1, run);
    node.ended(1, run, failed(FailureCode::WorkerFault));
    assert_eq!(node.state(1), State::Failed);
    assert_eq!(node.standing(1).attempts_total, 3);
    node.assert_conserved();
}

#[test]
fn a_failure_of_the_guest_is_final() {
    for code in [FailureCode::Guest, FailureCode::Trap, FailureCode::OutOfMemory, FailureCode::BlobUnavailable] {
        let mut node = Node::new();
        node.attach(1, 1);
        let (_, run) = start(&node.submit(new_job(1)));
        node.ended(1, run, failed(code));
        assert_eq!((node.state(1), node.standing(1).attempts_total), (State::Failed, 1));
    }
}

#[test]
fn a_run_that_its_worker_stopped_is_tried_again() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(1)));
    node.ended(1, run, outcome(Ending::Cancelled));
    assert_eq!(node.state(1), State::Queued);
    assert_eq!(start(&node.pass(100)).1.epoch, 2);
}

#[test]
fn a_declined_run_is_not_counted_and_goes_elsewhere() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(1)));
    let problem = Problem::new(Kind::Full, "no room");
    node.handle(Input::Declined { worker: worker_id(1), run, problem: problem.clone() });
    assert_eq!((node.state(1), node.standing(1).attempts_total, node.standing(1).epoch), (State::Queued, 0, 1));
    let shown = node.show(1).unwrap();
    let refusal = &shown.refusals[0];
    assert_eq!((refusal.worker, refusal.epoch, refusal.code), (worker_id(1), 1, RefusalCode::Declined));
    assert_eq!((refusal.message.as_str(), refusal.times, shown.refusals_total), ("no room", 1, 1));
    assert_eq!(node.restarted().0.show(1).unwrap().refusals, shown.refusals, "it is journaled");
    node.submit(new_job(2));
    assert!(node.reason(2).candidates[0].message.contains("no room"), "the worker has its pause");
    node.attach(2, 1);
    let effects = node.pass(100);
    assert_eq!(starts(&effects).len(), 1, "both workers have one now");
    // An old refusal says nothing.
    let before = node.journal.len();
    node.handle(Input::Declined { worker: worker_id(1), run, problem });
    assert_eq!(node.journal.len(), before);
}

#[test]
fn a_queued_job_is_cancelled_at_once() {
    let mut node = Node::new();
    node.submit(new_job(1));
    let (reply, _) = node.command(other(), Command::Cancel(id(1)));
    assert_eq!(reply.unwrap_err().kind, Kind::Forbidden);
    let (reply, effects) = node.command(owner(), Command::Cancel(id(1)));
    assert!(matches!(reply, Ok(Reply::Job(Some(job))) if job.state == State::Cancelled));
    assert!(standing_written(&effects[..place(&effects, |e| matches!(e, Effect::Reply { .. }))]));
    assert_eq!(node.state(1), State::Cancelled);
    let (reply, _) = node.command(owner(), Command::Cancel(id(1)));
    assert_eq!(reply.unwrap_err().kind, Kind::NotFound);
    node.attach(1, 1);
    assert_eq!(node.kernel.load().running, 0);
    node.assert_conserved();
}

#[test]
fn a_running_job_is_cancelled_when_its_run_has_ended_however() {
    let endings = [
        (outcome(Ending::Cancelled), State::Cancelled),
        (outcome(Ending::Succeeded), State::Succeeded),
        (failed(FailureCode::Guest), State::Failed),
        (failed(FailureCode::WorkerFault), State::Cancelled),
        (outcome(Ending::TimedOut), State::TimedOut),
    ];
    for (ending, state) in endings {
        let mut node = Node::new();
        node.attach(1, 1);
        let (_, run) = start(&node.submit(new_job(1)));
        node.started(1, run);
        let (reply, effects) = node.command(operator(), Command::Cancel(id(1)));
        assert!(matches!(reply, Ok(Reply::Job(Some(job))) if job.state == State::Running));
        let written = place(&effects, |e| matches!(e, Effect::Write(Record::Standing(_, s)) if s.cancelled));
        assert!(written < place(&effects, |e| matches!(e, Effect::Cancel { .. })));
        let (_, again) = node.command(owner(), Command::Cancel(id(1)));
        assert!(!standing_written(&again), "asking twice changes nothing");
        node.ended(1, run, ending);
        assert_eq!(node.state(1), state);
        node.assert_conserved();
    }
}

#[test]
fn a_cancelled_job_whose_run_is_lost_is_cancelled() {
    let mut node = Node::new();
    let connection = node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(1)));
    node.started(1, run);
    assert!(node.command(owner(), Command::Cancel(id(1))).0.is_ok());
    node.detach(1, connection, false);
    assert_eq!(node.state(1), State::Offered);
    node.pass(GRANTED_MS);
    assert_eq!(node.state(1), State::Cancelled);
}

/// A node whose worker does not stop a cancelled run: the job has settled without it, and another one waits.
fn stubborn() -> (Node, Run) {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, done) = start(&node.submit(new_job(9)));
    node.ended(1, done, outcome(Ending::Succeeded));
    let (_, run) = start(&node.submit(new_job(1)));
    node.started(1, run);
    assert!(node.command(owner(), Command::Cancel(id(1))).0.is_ok());
    for _ in 0..3 {
        node.pass(GRANTED_MS / 2);
        node.heartbeat(1, &[run]);
    }
    assert_eq!(node.state(1), State::Cancelled);
    // Its slot stays taken until it has let go, and nobody knows when that is.
    node.submit(new_job(2));
    node.heartbeat(1, &[run]);
    assert_eq!(node.state(2), State::Queued);
    (node, run)
}

#[test]
fn a_worker_that_does_not_stop_a_run_does_not_hold_its_job() {
    let (mut node, run) = stubborn();
    let effects = node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(started_jobs(&effects), [2]);
    assert_eq!(node.state(1), State::Cancelled);
}

#[test]
fn a_slot_is_free_again_when_the_worker_no_longer_lists_the_run() {
    let (mut node, _) = stubborn();
    assert_eq!(started_jobs(&node.heartbeat(1, &[])), [2]);
    let (mut node, run) = stubborn();
    let effects = node.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    assert_eq!(started_jobs(&effects), [2], "it is told to drop the run");
}

#[test]
fn a_run_that_outlives_its_limit_times_out_without_its_worker() {
    let mut node = Node::new();
    node.attach(1, 1);
    let mut job = new_job(1);
    job.limits.run_ms = Some(2_000);
    let (_, run) = start(&node.submit(job));
    node.started(1, run);
    let mut effects = Vec::new();
    for _ in 0..7 {
        assert_eq!(node.state(1), State::Offered);
        node.pass(500);
        effects = node.heartbeat(1, &[run]);
    }
    assert_eq!(node.state(1), State::TimedOut);
    assert!(effects.contains(&Effect::Cancel { worker: worker_id(1), run }));
    assert_eq!(node.kernel.counters().overdue, 1);
}

#[test]
fn jobs_of_a_deleted_function_end_unless_they_run() {
    let mut node = Node::new();
    let connection = node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(1)));
    node.started(1, run);
    node.submit(new_job(2));
    node.handle(Input::FunctionGone(id(FUNCTION)));
    assert_eq!((node.state(1), node.state(2)), (State::Offered, State::Failed));
    let failure =
        shoal_kernel::view::job(shoal_protocol::NodeId([9; 32]), &node.jobs[&id(2)].0, node.standing(2), true);
    assert_eq!(failure.failure.unwrap().code, FailureCode::FunctionGone);
    assert_eq!(node.refused(owner(), new_job(3)).kind, Kind::NotFound);
    node.detach(1, connection, true);
    assert_eq!(node.state(1), State::Failed, "it is not tried again");
    node.assert_conserved();
}

#[test]
fn name_and_labels_change_by_their_owner() {
    let mut node = Node::new();
    node.submit(new_job(1));
    let patch = JobPatch {
        name: Some("new".into()),
        labels: Some([("a".to_owned(), "b".to_owned())].into()),
        ..JobPatch::default()
    };
    let (reply, _) = node.command(other(), Command::Patch(id(1), patch.clone()));
    assert_eq!(reply.unwrap_err().kind, Kind::Forbidden);
    let (reply, _) = node.command(owner(), Command::Patch(id(1), patch));
    assert!(matches!(reply, Ok(Reply::Job(Some(job))) if job.name == "new" && job.labels["a"] == "b"));
    assert_eq!(node.standing(1).name, "new");
    let patch = JobPatch { name: Some("Not A Name".into()), ..JobPatch::default() };
    let (reply, _) = node.command(owner(), Command::Patch(id(1), patch));
    assert_eq!(reply.unwrap_err().kind, Kind::InvalidField);
}

#[test]
fn only_settled_jobs_are_forgotten_and_only_by_their_owner() {
    let mut node = Node::new();
    node.submit(new_job(1));
    let forget =
        || Command::Forget { job: id(1), owner: id(OWNER), group: Group { owner: id(OWNER), dead: false }, bytes: 0 };
    assert_eq!(node.command(owner(), forget()).0.unwrap_err().kind, Kind::Conflict);
    assert!(node.command(owner(), Command::Cancel(id(1))).0.is_ok());
    assert_eq!(node.command(other(), forget()).0.unwrap_err().kind, Kind::Forbidden);
    let (reply, effects) = node.command(owner(), forget());
    assert_eq!(reply, Ok(Reply::Done));
    assert_eq!(effects[0], Effect::Write(Record::Swept(id(1))));
}

#[test]
fn a_job_is_read_by_those_who_may() {
    let mut node = Node::new();
    node.submit(new_job(1));
    assert_eq!(node.command(other(), Command::Show(id(1))).0.unwrap_err().kind, Kind::Forbidden);
    assert!(matches!(node.command(operator(), Command::Show(id(1))).0, Ok(Reply::Job(Some(_)))));
    assert_eq!(node.command(other(), Command::Show(id(2))).0, Ok(Reply::Job(None)));
    let (reply, _) = node.command(other(), Command::Describe(vec![id(1), id(2)]));
    assert!(matches!(reply, Ok(Reply::Jobs(jobs)) if jobs.len() == 1));
}
