//! Jobs that wait: where each of them waits, who holds and releases it, and what ends it when it waits or takes too long.
//!
//! People give times by the wall clock, and only it survives a restart. What is left of such a time is read from it once,
//! when a job is taken in or back; from there on the deciding clock counts, whatever happens to the other.

use shoal_protocol::limits::PAUSE_TOP_MS_DEFAULT;
use shoal_protocol::object::job::{Ending, Failure, FailureCode, OnDisconnect, Outcome, State};
use shoal_protocol::{Kind, ObjectId, Problem};

use super::Machine;
use super::keys::duplicate_outcome;
use super::runs::empty_outcome;
use crate::custody::KEEP_MS;
use crate::effect::{Effect, Reply};
use crate::faults::{Fault, Faults};
use crate::input::{Now, Principal};
use crate::jobs::{Job, Pause, Phase};
use crate::queue::Lane;
use crate::timers::Timer;

/// What is left of a length that began at a time of the wall clock, in milliseconds: never more than all of it, should
/// that clock have been set back.
pub(super) fn left_ms(begun_wall_ms: u64, length_ms: u64, now: Now) -> u64 {
    begun_wall_ms.saturating_add(length_ms).saturating_sub(now.wall_ms).min(length_ms)
}

impl<F: Faults> Machine<F> {
    /// Takes a job into the table. It waits nowhere yet.
    pub(super) fn take_in(&mut self, now: Now, mut job: Job) {
        self.specs.share(&mut job.accepted.spec);
        // Of a job that was handed over once the time has come, whatever the wall clock says.
        if let Some(at_ms) = job.accepted.terms.not_before_ms.filter(|_| job.is_fresh()) {
            // No longer than it was to wait at first, should the wall clock have been set back.
            let whole_ms = at_ms.saturating_sub(job.accepted.accepted_ms);
            let wait_ms = at_ms.saturating_sub(now.wall_ms).min(whole_ms);
            // Both clocks are read in whole milliseconds, of which one may just have begun and the other nearly be over.
            let wait_ms = if wait_ms > 0 { wait_ms + 1 } else { 0 };
            job.extras.earliest_ms = now.mono_ms.saturating_add(wait_ms);
        }
        if let Some(total_ms) = job.accepted.spec.limits.total_ms {
            let left_ms = left_ms(job.accepted.accepted_ms, total_ms, now);
            let until_ms = now.mono_ms.saturating_add(left_ms);
            job.extras.total_until_ms = Some(until_ms);
            self.timers.set(until_ms, Timer::TotalLimit(job.id()));
        }
        self.jobs.insert(job);
    }

    /// Lets a job of the table wait as its journal says: one that is new, or taken back after a restart.
    pub(super) fn wait_as(&mut self, now: Now, id: ObjectId, state: State, retry_ms: Option<u64>) {
        let Some(job) = self.jobs.get(id) else { return };
        // No longer than a pause of it can be, should the wall clock have been set back.
        let terms = &job.accepted.terms;
        let replaced_ms = terms.on_disconnect.and_then(OnDisconnect::patience_ms).unwrap_or(0);
        let pause_max_ms = terms.retry.as_ref().map_or(0, |retry| retry.pause_max_ms()).max(replaced_ms);
        let pause_ms = retry_ms.map_or(0, |at_ms| at_ms.saturating_sub(now.wall_ms));
        let pause_ms = pause_ms.min(pause_max_ms.max(PAUSE_TOP_MS_DEFAULT));
        if state == State::Held {
            self.set_aside(id, Phase::Held);
        } else if pause_ms > 0 {
            self.pause(now, id, pause_ms);
        } else {
            self.line_up(now, id);
        }
    }

    /// Lets a job wait for other jobs, then for its time, then in the queue.
    pub(super) fn line_up(&mut self, now: Now, id: ObjectId) {
        let Some(job) = self.jobs.get(id) else { return };
        if !job.extras.unmet.is_empty() {
            return self.set_aside(id, Phase::Blocked);
        }
        let until_ms = job.extras.earliest_ms;
        if until_ms <= now.mono_ms {
            return self.enter_queue(now, id);
        }
        self.timers.set(until_ms, Timer::Backoff(id));
        self.set_aside(id, Phase::Later { until_ms });
    }

    /// Puts a job of the table into the queue.
    pub(super) fn enqueue(&mut self, now: Now, id: ObjectId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.phase = Phase::Queued { since_ms: now.mono_ms };
        if let Some(until_ms) = job.queue_limit(now) {
            job.extras.queue_until_ms = Some(until_ms);
            self.timers.set(until_ms, Timer::QueueLimit(id));
        }
        self.end_use(id);
        self.queue_job(id);
        self.placeable = true;
    }

    /// Lets a job wait before it is tried again.
    pub(super) fn pause(&mut self, now: Now, id: ObjectId, pause_ms: u64) {
        let until_ms = now.mono_ms.saturating_add(pause_ms);
        self.timers.set(until_ms, Timer::Backoff(id));
        let until_wall_ms = now.wall_ms.saturating_add(pause_ms);
        self.set_aside(id, Phase::Backoff(Box::new(Pause { until_ms, until_wall_ms })));
    }

    /// Lets a job that is new wait for its custodians. That counts as waiting in the queue, if nothing else keeps it from that.
    pub(super) fn wait_for_custodians(&mut self, now: Now, id: ObjectId) {
        self.set_aside(id, Phase::Keeping);
        let would_queue = |job: &Job| !job.accepted.terms.hold && job.extras.unmet.is_empty();
        if self.jobs.get(id).is_some_and(would_queue) {
            self.limit_wait(now, id);
        }
    }

    /// Bounds how long a job waits that is not in the queue, as if it were.
    pub(super) fn limit_wait(&mut self, now: Now, id: ObjectId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if let Some(until_ms) = job.queue_limit(now) {
            job.extras.queue_until_ms = Some(until_ms);
            self.timers.set(until_ms, Timer::QueueLimit(id));
        }
    }

    /// Lets a job wait beside the queue.
    pub(super) fn set_aside(&mut self, id: ObjectId, phase: Phase) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if matches!(phase, Phase::Held | Phase::Yielded) {
            // Nobody knows when it goes on: those that are equal are tried themselves.
            self.memos.ended(id, || None);
        }
        self.queue.reserve(&job.accepted.spec.needs);
        job.phase = phase;
        self.end_use(id);
    }

    /// Takes a job from where it waits. The caller says where it goes.
    pub(super) fn take_out(&mut self, id: ObjectId) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        match &job.phase {
            Phase::Placed(_) => {}
            Phase::Queued { .. } => {
                self.queue.remove(&job.accepted.spec.needs, Lane::of(&job.accepted), job.rank());
            }
            Phase::Held | Phase::Keeping | Phase::Blocked | Phase::Begun | Phase::Yielded => {
                self.queue.give_back(&job.accepted.spec.needs);
            }
            Phase::Alike(first) => {
                self.memos.leave(**first, id);
                self.queue.give_back(&job.accepted.spec.needs);
            }
            Phase::Ungranted => {
                self.queue.give_back(&job.accepted.spec.needs);
                self.grants.stop_waiting(id);
            }
            Phase::Later { until_ms } => {
                self.timers.remove(*until_ms, Timer::Backoff(id));
                self.queue.give_back(&job.accepted.spec.needs);
            }
            Phase::Backoff(pause) => {
                self.timers.remove(pause.until_ms, Timer::Backoff(id));
                self.queue.give_back(&job.accepted.spec.needs);
            }
        }
        if let Some(until_ms) = job.extras.queue_until_ms {
            job.extras.queue_until_ms = None;
            self.timers.remove(until_ms, Timer::QueueLimit(id));
        }
    }

    /// A pause is over, or the time of a job has come.
    pub(super) fn wait_is_over(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        match job.phase {
            Phase::Later { .. } => {
                self.counters.begun += 1;
                job.extras.ready_ms = Some(now.wall_ms);
            }
            Phase::Backoff(_) => {}
            Phase::Held
            | Phase::Keeping
            | Phase::Blocked
            | Phase::Begun
            | Phase::Alike(_)
            | Phase::Ungranted
            | Phase::Yielded
            | Phase::Queued { .. }
            | Phase::Placed(_) => return,
        }
        self.take_out(id);
        self.enter_queue(now, id);
        effects.push(Effect::Changed { job: id, settled: false });
    }

    /// Holds a job that waits, for whatever. Holding twice changes nothing.
    pub(super) fn hold(
        &mut self,
        now: Now,
        principal: &Principal,
        id: ObjectId,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Problem> {
        let is_ending = self.is_ending(id);
        let job = self.changeable(principal, id, "hold this job")?;
        match job.phase {
            Phase::Ungranted if is_ending => {
                let detail = "the job is about to end: it waits for the word of its custodians, and cannot be held";
                return Err(Problem::new(Kind::Conflict, detail));
            }
            Phase::Held => return self.reply_job(now, id),
            Phase::Placed(_) => {
                let detail = "the job is handed over already: it can be cancelled, but not held";
                return Err(Problem::new(Kind::Conflict, detail));
            }
            Phase::Keeping => {
                let detail = "the job is about to be accepted: hold it when it is";
                return Err(Problem::new(Kind::Conflict, detail).retry_after(KEEP_MS));
            }
            // Nobody changes here what has been yielded (`changeable`).
            Phase::Yielded => return self.reply_job(now, id),
            Phase::Blocked
            | Phase::Begun
            | Phase::Alike(_)
            | Phase::Ungranted
            | Phase::Later { .. }
            | Phase::Queued { .. }
            | Phase::Backoff(_) => {}
        }
        self.take_out(id);
        self.set_aside(id, Phase::Held);
        self.counters.held += 1;
        if !F::has(Fault::HoldUnwritten) {
            self.write_standing(id, effects);
        }
        effects.push(Effect::Changed { job: id, settled: false });
        self.reply_job(now, id)
    }

    /// Releases a held job: it waits for its time if that has not come, else in the queue.
    pub(super) fn release_job(
        &mut self,
        now: Now,
        principal: &Principal,
        id: ObjectId,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Problem> {
        let job = self.changeable(principal, id, "release this job")?;
        if job.phase != Phase::Held {
            return self.reply_job(now, id);
        }
        job.extras.ready_ms = Some(now.wall_ms);
        self.take_out(id);
        self.line_up(now, id);
        self.counters.released += 1;
        self.write_standing(id, effects);
        effects.push(Effect::Changed { job: id, settled: false });
        self.reply_job(now, id)
    }

    /// Gives a job another place among those that wait.
    pub(super) fn set_priority(&mut self, id: ObjectId, priority: i8) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let before = job.rank();
        job.priority = priority;
        if matches!(job.phase, Phase::Queued { .. }) {
            self.queue.remove(&job.accepted.spec.needs, Lane::of(&job.accepted), before);
            self.queue_job(id);
            self.placeable = true;
        }
    }

    /// A job has waited for its first run for as long as it may.
    pub(super) fn queue_limit(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.extras.queue_until_ms = None;
        if job.phase == Phase::Yielded {
            return;
        }
        let queue_ms = job.accepted.spec.limits.queue_ms.unwrap_or(0);
        self.counters.queue_limits += 1;
        let message = format!("it has waited for its first run for the {queue_ms} ms that it may wait at most");
        self.expire(now, id, Failure { code: FailureCode::QueueLimit, message }, effects);
    }

    /// A job has taken as long in all as it may: one that waits ends, one that runs is stopped as if somebody cancelled it.
    pub(super) fn total_limit(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        job.extras.total_until_ms = None;
        if job.is_stopping() || job.phase == Phase::Yielded {
            return;
        }
        self.counters.total_limits += 1;
        job.out_of_time = true;
        if job.extras.elements.as_ref().is_some_and(|elements| elements.begun > 0) {
            return self.stop_array(now, id, effects);
        }
        let (run, failure) = (job.run(), out_of_time(job));
        let Some(placed) = job.placed_mut() else { return self.expire(now, id, failure, effects) };
        if placed.disconnected.is_some() {
            return self.settle_stopped(now, id, None, effects);
        }
        placed.cancel_ms = Some(now.mono_ms);
        let worker = placed.worker;
        self.write_standing(id, effects);
        effects.push(Effect::Cancel { worker, run });
        effects.push(Effect::Changed { job: id, settled: false });
    }

    fn expire(&mut self, now: Now, id: ObjectId, failure: Failure, effects: &mut Vec<Effect>) {
        self.settle(now, id, State::Expired, Some(empty_outcome(Ending::Failed(failure))), effects);
    }

    /// Ends a job that was to end as soon as its run has stopped, with what came out of that.
    pub(super) fn settle_stopped(
        &mut self,
        now: Now,
        id: ObjectId,
        outcome: Option<Outcome>,
        effects: &mut Vec<Effect>,
    ) {
        if self.has_elements_under_way(id) {
            return;
        }
        let Some(job) = self.jobs.get(id) else { return };
        if job.cancelled {
            let outcome = duplicate_outcome(job, outcome);
            return self.settle(now, id, State::Cancelled, outcome, effects);
        }
        let ending = Ending::Failed(out_of_time(job));
        let outcome = match outcome {
            Some(outcome) => Outcome { ending, ..outcome },
            None => empty_outcome(ending),
        };
        self.settle(now, id, State::TimedOut, Some(outcome), effects);
    }
}

impl Job {
    /// Until when it may wait for its first run, if it waits for that from now or its earliest time on and not for ever.
    pub(super) fn queue_limit(&self, now: Now) -> Option<u64> {
        let first = self.is_fresh() && self.extras.elements.as_ref().is_none_or(|elements| elements.begun == 0);
        let queue_ms = self.accepted.spec.limits.queue_ms.filter(|_| first)?;
        let from_ms = now.mono_ms.max(self.extras.earliest_ms);
        Some(from_ms.saturating_add(left_ms(self.may_run_since_ms(), queue_ms, now)))
    }
}

fn out_of_time(job: &Job) -> Failure {
    let total_ms = job.accepted.spec.limits.total_ms.unwrap_or(0);
    let message = format!("it has taken the {total_ms} ms that it may take in all, from acceptance to end");
    Failure { code: FailureCode::TotalLimit, message }
}
