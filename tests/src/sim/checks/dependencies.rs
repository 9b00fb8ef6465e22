//! What must hold of jobs that wait for others: none runs before these have ended as it wants, and none with another input.

use std::collections::BTreeMap;

use shoal_kernel::{Accepted, Standing};
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Payload, State};

use super::Broken;
use crate::sim::disk::Disk;

/// How jobs ended, by what the kernel has written. Those that are forgotten stay.
#[derive(Debug, Default)]
pub(super) struct Ends {
    ends: BTreeMap<ObjectId, (State, Payload)>,
    /// Inputs that regents have said jobs of this home to have.
    told: BTreeMap<ObjectId, Payload>,
}

impl Ends {
    /// Ends that were not durable have not happened.
    pub(super) fn restarted(&mut self, disk: &Disk) {
        for (accepted, standing) in disk.jobs.values() {
            self.ends.remove(&accepted.id);
            self.ended(accepted.id, standing);
        }
    }

    /// A regent says how a job was accepted of which it decides.
    pub(super) fn told(&mut self, accepted: &Accepted) {
        self.told.insert(accepted.id, accepted.input.clone());
    }

    /// The store has said how a job ended. It may have ended otherwise before: one settlement gives way to that of a higher term.
    pub(super) fn learned(&mut self, job: ObjectId, state: State, output: &Payload) {
        self.ends.insert(job, (state, output.clone()));
    }

    /// Where a job stands is written: it may have ended.
    pub(super) fn ended(&mut self, job: ObjectId, standing: &Standing) {
        if standing.state.is_settled() {
            let output = standing.outcome.as_ref().map_or_else(Payload::empty, |outcome| outcome.output.clone());
            self.learned(job, standing.state, &output);
        }
    }

    /// A job stands otherwise. That another one has ended as it wants is looked at when it waits for that no more, and not when it
    /// runs: by then that one's end may have given way to another, and what has been heard stays so. Nobody hears of an end but
    /// here: a job waits for all that it was accepted with, and what was taken over for what its home had not seen end.
    pub(super) fn changes(&mut self, accepted: &Accepted, last: &Standing, next: &Standing) -> Result<(), Broken> {
        self.ended(accepted.id, next);
        let waits = |after: ObjectId| next.unmet.contains(&after);
        let broken = |detail| Err(("nothing runs before the jobs that it waits for", detail));
        if next.state == State::Offered && !next.unmet.is_empty() {
            return broken(format!("{} waits for {:?}", accepted.id, next.unmet));
        }
        // What settles runs no more, and may have settled elsewhere.
        let heard = accepted.extras.after.iter().filter(|after| last.unmet.contains(&after.job) && !waits(after.job));
        for after in heard.filter(|_| !next.state.is_settled()) {
            let end = self.ends.get(&after.job);
            if end.is_none_or(|(end, _)| !after.when.is_met_by(*end)) {
                return broken(format!("{}: {after:?}, {end:?}", accepted.id));
            }
            if accepted.extras.input_of == Some(after.job) {
                self.input(accepted)?;
            }
        }
        Ok(())
    }

    /// A job has this input.
    pub(super) fn input(&self, accepted: &Accepted) -> Result<(), Broken> {
        let Some(earlier) = accepted.extras.input_of else { return Ok(()) };
        match self.ends.get(&earlier) {
            Some((State::Succeeded, output)) if *output == accepted.input => Ok(()),
            _ if self.told.get(&accepted.id) == Some(&accepted.input) => Ok(()),
            other => Err(("an input is the result that it waits for", format!("{}: {other:?}", accepted.id))),
        }
    }
}
