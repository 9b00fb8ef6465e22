//! What must hold of a run that goes somewhere: its epoch is written, nobody has cancelled it, and the worker has what it needs.

use shoal_kernel::{Accepted, Standing};
use shoal_protocol::WorkerId;
use shoal_protocol::object::function::Needs;
use shoal_protocol::object::job::State;
use shoal_protocol::wire::worker::{Run, Start};

use super::{Broken, Checks};

impl Checks {
    /// A run goes to a worker.
    pub(super) fn start(&self, worker: WorkerId, start: &Start) -> Result<(), Broken> {
        let run = start.run;
        self.saves.begins(run.job, start.checkpoint.as_ref())?;
        let accepted = self.run_of_ours(worker, run)?;
        self.fits(worker, run, &accepted.spec.needs)
    }

    /// A run of this home that goes to a worker or a peer: its job, if it may.
    pub(super) fn run_of_ours(&self, worker: WorkerId, run: Run) -> Result<&Accepted, Broken> {
        let Some((accepted, standing)) = self.emitted.get(&run.job) else {
            return Err(("accepted, then started", format!("{run:?}")));
        };
        if !self.is_current(worker, run) {
            return Err(("an epoch is written before it starts", format!("{run:?} starts; written is {standing:?}")));
        }
        if standing.cancelled {
            return Err(("what is cancelled does not start", format!("{run:?}")));
        }
        Ok(accepted)
    }

    /// Whether a worker of this node can have one more run, which is already in the books.
    pub(super) fn fits(&self, worker: WorkerId, run: Run, needs: &Needs) -> Result<(), Broken> {
        let Some((_, offer)) = self.offers.get(&worker) else {
            return Err(("only attached workers get runs", format!("{run:?} goes to {worker}")));
        };
        let labelled = needs.labels.iter().all(|(key, value)| offer.labels.get(key) == Some(value));
        if !labelled || !needs.capabilities.is_subset(&offer.capabilities) {
            return Err(("a worker has what its runs need", format!("{run:?} goes to {offer:?}")));
        }
        let here = |standing: &Standing| {
            let ours = standing.regent.is_none_or(|regent| Some(regent) == self.node);
            ours && standing.state == State::Offered
                && standing.attempts.last().is_some_and(|last| last.worker == worker)
        };
        let ours = self.emitted.values().filter(|(_, standing)| here(standing)).map(|(accepted, _)| accepted);
        let guests = self.guests.values().filter(|(guest, end)| guest.worker == worker && end.is_none());
        let at_worker = ours.chain(guests.map(|(guest, _)| &guest.accepted));
        let mut memory: Vec<u32> = at_worker.map(|accepted| accepted.spec.needs.memory()).collect();
        memory.sort_unstable_by(|a, b| b.cmp(a));
        let in_use: u64 = memory.iter().take(offer.slots as usize).copied().map(u64::from).sum();
        if in_use > u64::from(offer.memory_mb) {
            return Err(("memory is not promised twice", format!("{run:?}: {in_use} MiB of {}", offer.memory_mb)));
        }
        Ok(())
    }
}
