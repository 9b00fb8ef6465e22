//! What must hold across nodes of jobs that never run twice: their guests have started once, and they have settled once.

use std::collections::BTreeMap;

use shoal_kernel::{Accepted, Standing};
use shoal_protocol::ObjectId;

use super::Mesh;
use crate::sim::Violation;
use crate::sim::disk::Disk;
use crate::sim::mutations::Bugs;

impl<F: Bugs> Mesh<F> {
    /// Guests have started at the workers of a node.
    pub(super) fn started_at(&mut self, place: usize) -> Result<(), Violation> {
        for run in std::mem::take(&mut self.world(place).guests_started) {
            let Some(again) = self.may_start_again(run.job) else { continue };
            self.coverage.hit("guests started of jobs that never run twice");
            let runs = self.once.entry(run.job).or_default();
            runs.push(run);
            // By its own policy each epoch is one more run; a run itself starts once in any case.
            let same = runs.iter().filter(|before| **before == run).count();
            if same > 1 || (!again && runs.len() > 1) {
                let detail = format!("node {place}: {runs:?}");
                return Err(self.broken("what runs once has started once", detail));
            }
        }
        Ok(())
    }

    /// Whether a job that never runs twice is tried again after failures that it names; none: it may run twice.
    fn may_start_again(&self, job: ObjectId) -> Option<bool> {
        let known = |disk: &Disk| {
            let own = disk.jobs.get(&job).map(|(accepted, _)| accepted.terms.clone());
            let guest = || disk.guests.get(&job).map(|(guest, _)| guest.accepted.terms.clone());
            own.or_else(guest)
        };
        let terms = self.worlds.iter().find_map(|world| known(&world.disk))?;
        terms.effects.is_once().then_some(terms.retry.is_some())
    }

    /// When all is over, nobody says of such a job that it ended otherwise than another says.
    pub(super) fn settled_once(&self) -> Result<(), Violation> {
        let mut ends: BTreeMap<ObjectId, &Standing> = BTreeMap::new();
        let own = self.worlds.iter().flat_map(|world| world.disk.jobs.values());
        let kept = self.worlds.iter().flat_map(|world| world.disk.charges.values());
        let all = own.map(|(accepted, standing)| (accepted, standing));
        let all = all.chain(kept.map(|(_, _, accepted, standing)| (accepted, standing)));
        let once = |accepted: &Accepted| accepted.terms.effects.is_once();
        for (accepted, standing) in all.filter(|(accepted, standing)| once(accepted) && standing.state.is_settled()) {
            let before = ends.insert(accepted.id, standing).unwrap_or(standing);
            let same =
                (before.epoch, before.state, &before.outcome) == (standing.epoch, standing.state, &standing.outcome);
            if !same || standing.superseded.is_some() {
                let detail = format!("{}: {before:?} and {standing:?}", accepted.id);
                return Err(self.broken("what runs once has settled once", detail));
            }
        }
        Ok(())
    }
}
