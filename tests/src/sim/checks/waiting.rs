//! What must hold of jobs that wait: held ones stay, none runs before its time, none waits or takes longer than it may.

use std::collections::BTreeMap;

use shoal_kernel::{Accepted, Now, Standing};
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Attempt, Ending, Job, OnDisconnect, State};

use super::{Broken, once};

/// The times that the deciding clock has for a job of this life of the node.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    /// It does not run before.
    earliest_ms: u64,
    /// Until then it must have been handed over for the first time.
    queue_until_ms: Option<u64>,
    /// Until then it must have ended, or be stopping.
    total_until_ms: Option<u64>,
}

/// The times of all jobs that have not ended.
#[derive(Debug, Default)]
pub(super) struct Waits {
    times: BTreeMap<ObjectId, Times>,
    /// Until when no other run begins of jobs that wait for their workers, for a time.
    replaced: BTreeMap<ObjectId, u64>,
}

/// What is left of a length that began at a time of the wall clock.
fn left_ms(begun_wall_ms: u64, length_ms: u64, now: Now) -> u64 {
    (begun_wall_ms + length_ms).saturating_sub(now.wall_ms).min(length_ms)
}

impl Waits {
    /// A life of the node begins: what is left of each time is read from the wall clock, once.
    pub(super) fn restarted<'a>(&mut self, now: Now, jobs: impl Iterator<Item = &'a (Accepted, Standing)>) {
        self.times.clear();
        self.replaced.clear();
        jobs.for_each(|(accepted, standing)| self.begins(now, accepted, standing));
    }

    /// A job is accepted, or taken back.
    pub(super) fn begins(&mut self, now: Now, accepted: &Accepted, standing: &Standing) {
        let not_before_ms = accepted.terms.not_before_ms.unwrap_or(0);
        let wait_ms = not_before_ms.saturating_sub(now.wall_ms).min(not_before_ms.saturating_sub(accepted.accepted_ms));
        // What was handed over once had its time.
        let wait_ms = if standing.epoch == 0 { wait_ms } else { 0 };
        let earliest_ms = now.mono_ms + wait_ms;
        let since_ms = accepted.accepted_ms.max(not_before_ms).max(standing.ready_ms.unwrap_or(0));
        let queued = standing.state == State::Queued;
        let queue_until_ms = accepted.spec.limits.queue_ms.filter(|_| queued).map(|queue_ms| {
            // One whose time comes later has all of it then.
            if wait_ms > 0 { earliest_ms + queue_ms } else { now.mono_ms + left_ms(since_ms, queue_ms, now) }
        });
        let total_ms = accepted.spec.limits.total_ms;
        let total_until_ms = total_ms.map(|total_ms| now.mono_ms + left_ms(accepted.accepted_ms, total_ms, now));
        let patience_ms = accepted.terms.on_disconnect.and_then(OnDisconnect::patience_ms);
        if let Some((since_ms, patience_ms)) = standing.disconnected_ms.zip(patience_ms) {
            self.replaced.insert(accepted.id, now.mono_ms + left_ms(since_ms, patience_ms, now));
        }
        self.times.insert(accepted.id, Times { earliest_ms, queue_until_ms, total_until_ms });
    }

    /// A job stands otherwise.
    pub(super) fn changes(
        &mut self,
        now: Now,
        accepted: &Accepted,
        last: &Standing,
        next: &Standing,
    ) -> Result<(), Broken> {
        let id = accepted.id;
        if last.state == State::Held && next.state == State::Offered {
            return Err(("what is held does not run", format!("{id}")));
        }
        if last.state == State::Offered && next.state == State::Queued {
            once::is_repeated(accepted, next)?;
            again(accepted, next)?;
        }
        if last.disconnected_ms.is_none() && next.disconnected_ms.is_some() {
            let patience_ms = accepted.terms.on_disconnect.and_then(OnDisconnect::patience_ms);
            self.replaced.extend(patience_ms.map(|ms| (id, now.mono_ms + ms)));
        }
        let Some(times) = self.times.get_mut(&id) else { return Ok(()) };
        if next.state == State::Offered && now.mono_ms < times.earliest_ms {
            return Err(("nothing runs before its time", format!("{id}: {times:?} at {now:?}")));
        }
        match (last.state, next.state) {
            (_, State::Held | State::Blocked | State::Offered) => times.queue_until_ms = None,
            (State::Held | State::Blocked, State::Queued) => {
                let from_ms = now.mono_ms.max(times.earliest_ms);
                times.queue_until_ms = accepted.spec.limits.queue_ms.map(|queue_ms| from_ms + queue_ms);
            }
            _ => {}
        }
        if next.state.is_settled() {
            self.times.remove(&id);
        }
        Ok(())
    }

    /// A job that was handed over is not any more, although nothing was heard of who had its run: the lease has ended.
    pub(super) fn given_up(&self, now: Now, accepted: &Accepted, last: &Standing) -> Result<(), Broken> {
        let until_ms = self.replaced.get(&accepted.id).filter(|_| last.disconnected_ms.is_some());
        let may = match accepted.terms.on_disconnect {
            None => true,
            Some(OnDisconnect::Wait) => false,
            Some(OnDisconnect::ReplaceAfterMs(_)) => until_ms.is_some_and(|until_ms| *until_ms <= now.mono_ms),
        };
        if may {
            return Ok(());
        }
        let detail = format!("{} is given up at {now:?}, and waits until {until_ms:?}: {last:?}", accepted.id);
        Err(("a job that waits for its worker is not run elsewhere", detail))
    }

    /// Everything that is due has happened.
    pub(super) fn due(&self, now: Now, accepted: &Accepted, standing: &Standing) -> Result<(), Broken> {
        let Some(times) = self.times.get(&accepted.id) else { return Ok(()) };
        let over = |until_ms: Option<u64>| until_ms.is_some_and(|until_ms| now.mono_ms > until_ms);
        if over(times.total_until_ms) && !standing.cancelled && !standing.out_of_time {
            return Err(("nothing takes longer in all than it may", format!("{times:?} at {now:?}: {standing:?}")));
        }
        // One that never runs twice ends only when its custodians let it.
        if over(times.queue_until_ms)
            && !once::needs_word(accepted)
            && standing.epoch == 0
            && standing.state == State::Queued
        {
            return Err(("nothing waits longer than it may", format!("{times:?} at {now:?}: {standing:?}")));
        }
        Ok(())
    }
}

/// A job waits again after a run: because that was lost, or because the job says so of its failure.
fn again(accepted: &Accepted, next: &Standing) -> Result<(), Broken> {
    let Some(Attempt { ending: Some(ending), epoch, .. }) = next.attempts.last() else { return Ok(()) };
    let own = *epoch == next.epoch && accepted.terms.retry.as_ref().is_some_and(|retry| retry.takes(ending));
    let blameless = match ending {
        Ending::Failed(failure) => failure.code.is_transient(),
        Ending::Cancelled => true,
        Ending::Succeeded | Ending::TimedOut => false,
    };
    // Of a run that was struck from the books the last one that stands there says nothing.
    if own || blameless || *epoch < next.epoch {
        return Ok(());
    }
    Err(("a job is tried again after failures that it names", format!("{}: {ending:?}", accepted.id)))
}

/// What a reader is told is what is written: of a job in memory the journal knows the same state.
pub(super) fn told(view: &Job, written: Option<&Standing>) -> Result<(), Broken> {
    let journaled = if view.state == State::Running { State::Offered } else { view.state };
    match written {
        Some(standing) if standing.state == journaled => Ok(()),
        other => Err(("what is told of a job is written", format!("{view:?} and {other:?}"))),
    }
}
