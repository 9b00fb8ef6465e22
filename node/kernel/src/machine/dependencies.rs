//! Jobs that wait for other jobs of this home. What is not in memory has ended, or is not known: the edge looks into the
//! store and says which. It does so after a restart too, so that an end and what follows from it need not be one write.

use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Ending, Failure, FailureCode, State};

use super::Machine;
use super::runs::empty_outcome;
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::{End, Now};
use crate::jobs::Phase;

impl<F: Faults> Machine<F> {
    /// Enters what a job of the table waits for; of what is not in memory the edge is asked.
    pub(super) fn depend(&mut self, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get(id) else { return };
        for &earlier in &job.extras.unmet {
            self.dependents.insert(earlier, id);
            // Of another home only what is known to have ended has: the rest that home knows, or it is taken over later.
            let ended = !self.is_foreign(id) || self.charges.get(earlier).is_some_and(|known| known.settled());
            if ended && !self.jobs.contains(earlier) && self.jobs.array_ahead(earlier).is_none() {
                effects.push(Effect::Learn { job: earlier });
            }
        }
    }

    /// The edge says how a job ended that is not in memory.
    pub(super) fn learned(&mut self, job: ObjectId, end: Option<End>) {
        if !self.jobs.contains(job) {
            self.memos.learned(job, end.as_ref());
            self.dependents.ended(job, || end);
        }
    }

    /// Tells dependents of all ends that they have not heard of, and of those that follow.
    pub(super) fn tell_dependents(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some((earlier, end, dependents)) = self.dependents.next() {
            for id in dependents {
                self.hears_of(now, id, earlier, end.as_ref(), effects);
            }
        }
    }

    fn hears_of(&mut self, now: Now, id: ObjectId, earlier: ObjectId, end: Option<&End>, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.phase != Phase::Yielded) else { return };
        let Some(when) = job.accepted.extras.after.iter().find(|after| after.job == earlier).map(|after| after.when)
        else {
            return;
        };
        let met = end.filter(|end| when.is_met_by(end.state) || F::has(Fault::AnyEndWillDo));
        let Some(end) = met else {
            let what = end.map_or("is not known any more", |end| how(end.state));
            let message = format!("it was to run after job {earlier} {}; that job {what}", when.words());
            return self.never_met(now, id, message, effects);
        };
        job.extras.unmet.remove(&earlier);
        let supplied = job.accepted.extras.input_of == Some(earlier);
        if supplied {
            self.jobs.supply(id, end.output.clone());
        }
        let Some(job) = self.jobs.get_mut(id) else { return };
        if job.extras.unmet.is_empty() && job.phase == Phase::Blocked {
            self.counters.unblocked += 1;
            job.extras.ready_ms = Some(now.wall_ms);
            self.take_out(id);
            self.line_up(now, id);
        }
        if supplied {
            self.write_supplied(id, effects);
        } else {
            self.write_standing(id, effects);
        }
        effects.push(Effect::Changed { job: id, settled: false });
    }

    fn never_met(&mut self, now: Now, id: ObjectId, message: String, effects: &mut Vec<Effect>) {
        self.counters.never_met += 1;
        let failure = Failure { code: FailureCode::Dependency, message };
        self.settle(now, id, State::Failed, Some(empty_outcome(Ending::Failed(failure))), effects);
    }
}

fn how(end: State) -> &'static str {
    match end {
        State::Succeeded => "has succeeded",
        State::Cancelled => "was cancelled",
        State::TimedOut => "has timed out",
        State::Expired => "has expired",
        _ => "has failed",
    }
}
