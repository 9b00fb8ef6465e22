//! Jobs that are submitted under a key: the same key with the same body is the same job, for as long as that is kept.

use shoal_protocol::object::job::{Ending, Failure, FailureCode, KeyId, Outcome, State};
use shoal_protocol::{BlobId, Kind, ObjectId, Problem, codec};

use super::Machine;
use super::runs::empty_outcome;
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::{NewJob, Now, Principal};
use crate::jobs::{Job, Phase};
use crate::keys::Keyed;
use crate::record::Accepted;
use crate::rights;

impl<F: Faults> Machine<F> {
    /// Takes the keys of all jobs of a journal back: after [`Self::restore`], before any input.
    pub fn restore_keys(&mut self, keys: impl Iterator<Item = (KeyId, ObjectId, BlobId)>) {
        for (key, job, body) in keys.filter(|_| !F::has(Fault::KeysForgotten)) {
            self.keys.insert(key, Keyed { job, body });
        }
    }

    /// The job that was submitted before under this key; none: it is new, or has none. With another body it is refused.
    pub(super) fn job_of_key(&self, principal: &Principal, job: &NewJob) -> Result<Option<ObjectId>, Problem> {
        let (Some(key), Some(owner)) = (&job.key, principal.user) else { return Ok(None) };
        // Who may not run the function hears of nothing; the checks that follow say so.
        let function = self.functions.get(job.function);
        let function = function.filter(|f| rights::may_run(principal, f, self.functions.members(f)));
        let known = function.and_then(|f| self.keys.get(KeyId::new(f.project, f.owner, owner, key)));
        match known {
            None => Ok(None),
            Some(Keyed { job: earlier, body }) if body == body_of(owner, job) => Ok(Some(earlier)),
            Some(Keyed { job: earlier, .. }) => {
                let detail = format!(
                    "idempotency_key: {key:?} was used for job {earlier}, which was submitted otherwise: take another key for another job"
                );
                Err(Problem::new(Kind::Conflict, detail))
            }
        }
    }

    /// Enters the key of a job that is accepted now.
    pub(super) fn note_key(&mut self, accepted: &Accepted) {
        if let (Some(id), Some(key)) = (KeyId::of(accepted), &accepted.extras.key) {
            self.keys.insert(id, Keyed { job: accepted.id, body: key.body });
        }
    }

    /// Another node has a job with this key, which was accepted on the other side of a cut. The later of the two, by id, ends
    /// as a duplicate of the first: this one, if it is ours; else the other node sees to it.
    pub(super) fn key_told(&mut self, now: Now, key: KeyId, job: ObjectId, body: BlobId, effects: &mut Vec<Effect>) {
        let ours = self.keys.get(key).filter(|ours| ours.body == body && ours.job > job);
        if let Some(ours) = ours {
            self.end_duplicate(now, ours.job, job, effects);
        }
    }

    /// Ends a job as a duplicate of another one. One that runs is stopped first, an array with its elements; one that has ended
    /// stays as it is, and one that another node decides is left to that, which has its key as well.
    fn end_duplicate(&mut self, now: Now, id: ObjectId, first: ObjectId, effects: &mut Vec<Effect>) {
        let ours = self.jobs.get_mut(id).filter(|job| job.phase != Phase::Yielded);
        let Some(job) = ours.filter(|job| job.extras.duplicate_of.is_none()) else { return };
        self.counters.duplicates += 1;
        job.extras.duplicate_of = Some(first);
        job.cancelled = true;
        if job.extras.elements.is_some() {
            return self.stop_array(now, id, effects);
        }
        let (run, outcome) = (job.run(), duplicate_outcome(job, None));
        let Some(placed) = job.placed_mut().filter(|placed| placed.disconnected.is_none()) else {
            return self.settle(now, id, State::Cancelled, outcome, effects);
        };
        placed.cancel_ms = Some(now.mono_ms);
        let worker = placed.worker;
        self.write_standing(id, effects);
        effects.push(Effect::Cancel { worker, run });
        effects.push(Effect::Changed { job: id, settled: false });
    }
}

/// What comes out of a job that was cancelled: of a duplicate it says so.
pub(super) fn duplicate_outcome(job: &Job, outcome: Option<Outcome>) -> Option<Outcome> {
    let Some(first) = job.extras.duplicate_of else { return outcome };
    let message = format!("it is a duplicate of job {first}, which was submitted under the same key before");
    let ending = Ending::Failed(Failure { code: FailureCode::Duplicate, message });
    Some(match outcome {
        Some(outcome) => Outcome { ending, ..outcome },
        None => empty_outcome(ending),
    })
}

/// The hash of all that somebody submits under a key.
pub(super) fn body_of(owner: ObjectId, job: &NewJob) -> BlobId {
    let what = (owner, job.function, job.version, job.input.id(), &job.args, &job.env);
    let how = (&job.needs, &job.limits, &job.terms, &job.name, &job.labels, &job.array, &job.after, job.input_of);
    BlobId::of(&codec::encode(&(what, how, job.durability)))
}
