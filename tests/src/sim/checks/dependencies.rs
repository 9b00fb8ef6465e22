//! What must hold of jobs that wait for others: none runs before these have ended as it wants, and none with another input.

use std::collections::{BTreeMap, BTreeSet};

use shoal_kernel::{Accepted, Standing};
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Payload, State};

use super::Broken;
use crate::sim::disk::Disk;

/// How jobs ended, by what the kernel has written. Those that are forgotten stay.
#[derive(Debug, Default)]
pub(super) struct Ends {
    ends: BTreeMap<ObjectId, (State, Payload)>,
    /// Jobs of other homes that were taken over, and what these had seen end by then.
    met: BTreeSet<(ObjectId, ObjectId)>,
    /// Inputs that regents have said jobs of this home to have.
    told: BTreeMap<ObjectId, Payload>,
}

impl Ends {
    /// Ends that were not durable have not happened.
    pub(super) fn restarted(&mut self, disk: &Disk) {
        disk.unsettled().for_each(|(accepted, _)| drop(self.ends.remove(&accepted.id)));
    }

    /// A job of another home is taken over: what it waits for no more its home has seen.
    pub(super) fn taken(&mut self, accepted: &Accepted, standing: &Standing) {
        let met =
            accepted.extras.after.iter().map(|after| after.job).filter(|earlier| !standing.unmet.contains(earlier));
        self.met.extend(met.map(|earlier| (accepted.id, earlier)));
    }

    /// A regent says how a job was accepted of which it decides.
    pub(super) fn told(&mut self, accepted: &Accepted) {
        self.told.insert(accepted.id, accepted.input.clone());
    }

    /// The store has said how a job ended.
    pub(super) fn learned(&mut self, job: ObjectId, state: State, output: &Payload) {
        self.ends.entry(job).or_insert_with(|| (state, output.clone()));
    }

    /// A job stands otherwise.
    pub(super) fn changes(&mut self, accepted: &Accepted, next: &Standing) -> Result<(), Broken> {
        if next.state.is_settled() {
            let output = next.outcome.as_ref().map_or_else(Payload::empty, |outcome| outcome.output.clone());
            self.ends.insert(accepted.id, (next.state, output));
        }
        if next.state != State::Offered {
            return Ok(());
        }
        let unmet = accepted
            .extras
            .after
            .iter()
            .filter(|after| !self.met.contains(&(accepted.id, after.job)))
            .find(|after| self.ends.get(&after.job).is_none_or(|(end, _)| !after.when.is_met_by(*end)));
        if let Some(after) = unmet {
            let end = self.ends.get(&after.job);
            return Err((
                "nothing runs before the jobs that it waits for",
                format!("{}: {after:?}, {end:?}", accepted.id),
            ));
        }
        self.input(accepted)
    }

    /// A job has this input.
    pub(super) fn input(&self, accepted: &Accepted) -> Result<(), Broken> {
        let Some(earlier) = accepted.extras.input_of.filter(|earlier| !self.met.contains(&(accepted.id, *earlier)))
        else {
            return Ok(());
        };
        match self.ends.get(&earlier) {
            Some((State::Succeeded, output)) if *output == accepted.input => Ok(()),
            _ if self.told.get(&accepted.id) == Some(&accepted.input) => Ok(()),
            other => Err(("an input is the result that it waits for", format!("{}: {other:?}", accepted.id))),
        }
    }
}
