//! Memoised jobs: one that is equal to another one that has succeeded is not run, it is given that one's result.
//!
//! It is decided when a job would enter the queue, since its input may be another job's result. One that is equal to a job under
//! way waits for that, and is tried itself when that does not succeed. A result is not in memory: the edge is asked for it, as for
//! that of a dependency. Nothing of the waiting is journaled; after a restart it is decided anew, once all jobs are back.

use shoal_protocol::object::function::{Function, Grant};
use shoal_protocol::object::job::{Ending, Outcome, State};
use shoal_protocol::{BlobId, Kind, ObjectId, Problem};

use super::Machine;
use super::runs::empty_outcome;
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::{End, NewJob, Now};
use crate::jobs::{Job, Phase};
use crate::memos::key_of;
use crate::record::{Accepted, Record, Standing};

impl<F: Faults> Machine<F> {
    /// Takes back which jobs have results that may be given again: before [`Self::restore`].
    pub fn restore_memos(&mut self, memos: impl Iterator<Item = (ObjectId, BlobId)>) {
        for (job, key) in memos.filter(|_| !F::has(Fault::MemosForgotten)) {
            self.memos.keep(key, job);
        }
    }

    /// Puts a job into the queue, or lets it wait for the result of an equal one.
    pub(super) fn enter_queue(&mut self, now: Now, id: ObjectId) {
        let Some(job) = self.jobs.get(id) else { return };
        if !job.accepted.terms.memo {
            return self.enqueue(now, id);
        }
        let (key, fresh) = (key_of(&job.accepted), job.is_fresh());
        let first = if fresh { self.memos.enter(key, id) } else { None };
        match first {
            Some(first) => self.wait_for_equal(now, id, first),
            None => {
                self.memos.lead(key, id);
                self.enqueue(now, id);
            }
        }
    }

    fn wait_for_equal(&mut self, now: Now, id: ObjectId, first: ObjectId) {
        self.set_aside(id, Phase::Alike(Box::new(first)));
        self.limit_wait(now, id);
    }

    /// A job that is memoised has a run: others wait for it.
    pub(super) fn lead_equals(&mut self, id: ObjectId) {
        if let Some(job) = self.jobs.get(id).filter(|job| job.accepted.terms.memo) {
            self.memos.lead(key_of(&job.accepted), id);
        }
    }

    /// Asks for the results that somebody waits for, and tells those who wait of all ends that they have not heard of.
    pub(super) fn tell_equals(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some((first, end, waiting)) = self.memos.next() {
            if end.as_ref().is_none_or(|end| end.state != State::Succeeded) && self.memos.forget(first) {
                effects.push(Effect::Write(Record::Memo(first, None)));
            }
            for id in waiting {
                self.hears_of_equal(now, id, first, end.as_ref(), effects);
            }
        }
        effects.extend(self.memos.take_asks().into_iter().map(|job| Effect::Learn { job }));
    }

    fn hears_of_equal(
        &mut self,
        now: Now,
        id: ObjectId,
        first: ObjectId,
        end: Option<&End>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.phase == Phase::Alike(Box::new(first))) else { return };
        let Some(end) = end.filter(|end| end.state == State::Succeeded) else {
            self.take_out(id);
            self.enter_queue(now, id);
            effects.push(Effect::Changed { job: id, settled: false });
            return;
        };
        job.extras.memo_of = Some(Box::new(first));
        self.counters.memoised += 1;
        let outcome = Outcome { output: end.output.clone(), ..empty_outcome(Ending::Succeeded) };
        self.settle(now, id, State::Succeeded, Some(outcome), effects);
    }

    /// The key under which the result of a job that has ended may be given again, if it may.
    pub(super) fn memo_key(accepted: &Accepted, standing: &Standing) -> Option<BlobId> {
        let own = accepted.terms.memo && standing.state == State::Succeeded && standing.memo_of.is_none();
        own.then(|| key_of(accepted))
    }

    /// The result of a job may be given again from now on: also to the one that was to be run for it, since this one was held, or is of
    /// another home.
    pub(super) fn remember(&mut self, now: Now, id: ObjectId, key: BlobId, effects: &mut Vec<Effect>) {
        effects.push(Effect::Write(Record::Memo(id, Some(key))));
        let gone = self.memos.keep(key, id);
        effects.extend(gone.into_iter().map(|job| Effect::Write(Record::Memo(job, None))));
        let is_to_run = |job: &Job| job.is_fresh() && matches!(job.phase, Phase::Queued { .. });
        let leader = self.memos.leader(key).filter(|leader| self.jobs.get(*leader).is_some_and(is_to_run));
        if let Some(leader) = leader {
            self.take_out(leader);
            self.enter_queue(now, leader);
            effects.push(Effect::Changed { job: leader, settled: false });
        }
    }
}

/// Checks that a job may be memoised.
pub(super) fn check_memo(function: &Function, job: &NewJob) -> Result<(), Problem> {
    let invalid = |detail: String| Err(Problem::new(Kind::InvalidField, detail));
    if !job.terms.memo {
        return Ok(());
    }
    if job.array.is_some() {
        return invalid("memo: an array is not memoised; submit its elements one by one, each with `memo`".into());
    }
    if job.terms.effects.is_once() {
        return invalid(
            "memo: what has effects that may happen `once` only is no result to be given again; choose one of both"
                .into(),
        );
    }
    if function.grants.contains(&Grant::Kv) {
        return invalid(format!(
            "memo: the function {} may use KV, so that equal inputs need not give equal results; submit the job without `memo`",
            function.name
        ));
    }
    Ok(())
}
