//! Calls to URLs when jobs have ended: when each is made, and when it is made again. The edge makes them.
//!
//! A call is written with the end of its job, before it in the same list of effects, so that no end is durable without it. It is made
//! at least once: what was under way when the node ended is made again. Who settles a job calls: its home, or the regent that has
//! gone on with it; a home that yields does not.

use shoal_protocol::object::job::{CallState, Called, Retry};
use shoal_protocol::{Kind, ObjectId, Problem};

use super::Machine;
use super::runs::cut;
use crate::backoff::pause_ms;
use crate::calls::CALLS_MAX;
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::{CallEnd, NewJob, Now};
use crate::record::{Accepted, Call, Record, Standing, VERSION};
use crate::timers::Timer;

/// How long a call is tried, in milliseconds: a day. Why: a receiver that was down over night still hears.
const TRY_MS: u64 = 24 * 3_600_000;

/// How often a call is tried at most. Why 48: with the pauses below a day has less.
const TRIES_MAX: u32 = 48;

/// The first pause, in milliseconds, which doubles up to the longest: 5 s, and an hour.
const PAUSE_MS: u64 = 5_000;
const PAUSE_MAX_MS: u64 = 3_600_000;

/// After this a call of which nothing was heard is taken for failed, in milliseconds. Why a minute: the edge gives up after ten
/// seconds.
const SILENT_MS: u64 = 60_000;

/// When to try again after a refusal for want of room, in milliseconds.
const RETRY_FULL_MS: u64 = 10_000;

impl<F: Faults> Machine<F> {
    /// Takes calls back that were not answered: after [`Self::restore`], before any input.
    pub fn restore_calls(&mut self, now: Now, calls: impl Iterator<Item = (ObjectId, Call)>) {
        for (job, call) in calls.filter(|_| !F::has(Fault::CallsForgotten)) {
            // Of one that has not ended after all the call is written again with its end.
            if call.called.state == CallState::Pending && !self.jobs.contains(job) {
                // No longer than its pause was, should the wall clock have been set back.
                let left_ms = call.due_ms.saturating_sub(now.wall_ms).min(pause_after(job, call.called.attempts));
                self.calls.insert(job, call);
                self.call_at(job, now.mono_ms.saturating_add(left_ms));
            }
        }
    }

    /// Checks that there is room for the call that a job wants.
    pub(super) fn check_calls(&self, job: &NewJob) -> Result<(), Problem> {
        if job.terms.notify.is_none() || self.calls.len() < CALLS_MAX {
            return Ok(());
        }
        let detail = format!(
            "notify: {CALLS_MAX} calls to URLs wait for their answers at this node, the most that it keeps; submit the job without one"
        );
        Err(Problem::new(Kind::Full, detail).retry_after(RETRY_FULL_MS))
    }

    /// Writes that a URL is to be called, if the job that ends here wants that. Elements of arrays are told with their array.
    pub(super) fn note_call(&mut self, now: Now, accepted: &Accepted, standing: &Standing, effects: &mut Vec<Effect>) {
        let wanted = accepted.terms.notify.as_ref().is_some_and(|notify| notify.wants(standing.state));
        if !wanted || accepted.extras.index.is_some() {
            return;
        }
        let called = Called { state: CallState::Pending, attempts: 0, last_ms: None, last_error: None };
        let call = Call { version: VERSION, called, since_ms: now.wall_ms, due_ms: now.wall_ms };
        effects.push(Effect::Write(Record::Call(accepted.id, call.clone())));
        self.calls.insert(accepted.id, call);
        self.call_at(accepted.id, now.mono_ms);
    }

    /// The job is forgotten, and nobody is told of it any more.
    pub(super) fn forget_call(&mut self, job: ObjectId) {
        if let Some(due_ms) = self.calls.remove(job).and_then(|pending| pending.due_ms) {
            self.timers.remove(due_ms, Timer::Call(job));
        }
    }

    /// Moves the timer of a call.
    fn call_at(&mut self, job: ObjectId, at_ms: u64) {
        let Some(pending) = self.calls.get_mut(job) else { return };
        if let Some(before_ms) = pending.due_ms.replace(at_ms) {
            self.timers.remove(before_ms, Timer::Call(job));
        }
        self.timers.set(at_ms, Timer::Call(job));
    }

    /// A call is to be made, or nothing was heard of one that was begun.
    pub(super) fn call_due(&mut self, now: Now, job: ObjectId, effects: &mut Vec<Effect>) {
        let Some(pending) = self.calls.get_mut(job) else { return };
        pending.due_ms = None;
        if pending.under_way {
            let attempt = pending.call.called.attempts.saturating_add(1);
            let silent = CallEnd::Failed("the node lost sight of the call".into());
            return self.called(now, job, attempt, silent, effects);
        }
        self.begin_call(now, job, effects);
    }

    fn begin_call(&mut self, now: Now, job: ObjectId, effects: &mut Vec<Effect>) {
        if let Some(attempt) = self.calls.begin(job) {
            self.counters.calls += 1;
            self.call_at(job, now.mono_ms.saturating_add(SILENT_MS));
            effects.push(Effect::Call { job, attempt });
        }
    }

    /// A call has ended. One that was given up meanwhile, or of another number, says nothing.
    pub(super) fn called(&mut self, now: Now, job: ObjectId, attempt: u32, end: CallEnd, effects: &mut Vec<Effect>) {
        let Some(pending) = self.calls.get_mut(job) else { return };
        if pending.call.called.attempts.saturating_add(1) != attempt {
            return;
        }
        let (timer, call) = (pending.due_ms.take(), &mut pending.call);
        let over = attempt >= TRIES_MAX || now.wall_ms.saturating_sub(call.since_ms) >= TRY_MS;
        let (state, error) = match end {
            CallEnd::Delivered => (CallState::Delivered, None),
            CallEnd::Refused(why) => (CallState::GivenUp, Some(cut(why))),
            CallEnd::Failed(why) if over => (CallState::GivenUp, Some(cut(why))),
            CallEnd::Failed(why) => (CallState::Pending, Some(cut(why))),
        };
        let pause_ms = pause_after(job, attempt);
        call.called = Called { state, attempts: attempt, last_ms: Some(now.wall_ms), last_error: error };
        call.due_ms = now.wall_ms.saturating_add(pause_ms);
        effects.push(Effect::Write(Record::Call(job, call.clone())));
        effects.push(Effect::Changed { job, settled: true });
        if let Some(before_ms) = timer {
            self.timers.remove(before_ms, Timer::Call(job));
        }
        let next = self.calls.end(job);
        match state {
            CallState::Pending => self.call_at(job, now.mono_ms.saturating_add(pause_ms)),
            CallState::Delivered | CallState::GivenUp => drop(self.calls.remove(job)),
        }
        self.counters.calls_delivered += u64::from(state == CallState::Delivered);
        self.counters.calls_given_up += u64::from(state == CallState::GivenUp);
        if let Some(next) = next {
            self.begin_call(now, next, effects);
        }
    }
}

/// How long is waited after so many calls, in milliseconds.
fn pause_after(job: ObjectId, calls: u32) -> u64 {
    let hourly = Retry { pause_ms: Some(PAUSE_MS), pause_max_ms: Some(PAUSE_MAX_MS), ..Retry::default() };
    if calls == 0 { 0 } else { pause_ms(job, calls, Some(&hourly)) }
}
