//! Jobs that wait for the worker or the peer that has their run, when that is out of reach and its lease has ended: they were
//! submitted with `on_disconnect`. They stay with it, in the same epoch, so that its run counts when it is back.
//!
//! Since when a job waits is journaled: a restart gives nobody more time. A run of another home waits in the same way, for as long
//! as it is here; there the time begins anew with a restart of this node.

use std::collections::BTreeSet;

use shoal_protocol::object::job::OnDisconnect;
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{ObjectId, WorkerId};

use super::Machine;
use super::runs::Loss;
use super::waiting::left_ms;
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::Now;
use crate::jobs::Disconnected;
use crate::timers::Timer;

/// Why a run is lost whose worker has not come back in time.
const OUT_OF_REACH: &str = "the worker was out of reach until its lease ended";

impl<F: Faults> Machine<F> {
    /// The lease of a worker has ended: its runs are lost, but for those whose jobs wait for it.
    pub(super) fn out_of_reach(&mut self, now: Now, id: WorkerId, effects: &mut Vec<Effect>) {
        if F::has(Fault::LostRunStays) {
            return;
        }
        let runs = self.runs_of(id).into_iter().map(|(job, ..)| job);
        let ending: Vec<ObjectId> = runs.filter(|job| !self.awaits_worker(*job)).collect();
        self.counters.leases_ended += u64::from(!ending.is_empty());
        for job in ending {
            match self.on_disconnect(job) {
                Some(on_disconnect) => self.await_worker(now, job, on_disconnect, effects),
                None => self.lose(now, job, Loss::WithWorker, OUT_OF_REACH, effects),
            }
        }
    }

    /// What a job is to do that has a run; none where it is to be run again, or to end.
    fn on_disconnect(&self, id: ObjectId) -> Option<OnDisconnect> {
        if let Some(guest) = self.guests.get(id) {
            return guest.accepted.terms.on_disconnect.filter(|_| !guest.cancelled);
        }
        self.jobs.get(id).filter(|job| !job.is_stopping()).and_then(|job| job.accepted.terms.on_disconnect)
    }

    fn awaits_worker(&self, id: ObjectId) -> bool {
        self.placed(id).is_some_and(|placed| placed.disconnected.is_some())
    }

    /// A job begins to wait for its worker.
    fn await_worker(&mut self, now: Now, id: ObjectId, on_disconnect: OnDisconnect, effects: &mut Vec<Effect>) {
        self.counters.disconnected += 1;
        self.wait_for_worker(id, now.wall_ms, on_disconnect.patience_ms().map(|ms| now.mono_ms.saturating_add(ms)));
        if self.guests.contains(id) {
            return;
        }
        self.write_standing(id, effects);
        effects.push(Effect::Changed { job: id, settled: false });
    }

    fn wait_for_worker(&mut self, id: ObjectId, since_wall_ms: u64, until_ms: Option<u64>) {
        let Some(placed) = self.placed_of_mut(id) else { return };
        placed.disconnected = Some(Disconnected { since_wall_ms, until_ms });
        if let Some(until_ms) = until_ms {
            self.timers.set(until_ms, Timer::Replace(id));
        }
    }

    /// Lets a job that is taken back after a restart wait on, if it did before.
    pub(super) fn restore_disconnect(&mut self, now: Now, id: ObjectId, disconnected_ms: Option<u64>) {
        let on_disconnect = self.jobs.get(id).filter(|job| !job.is_stopping());
        let on_disconnect = on_disconnect.and_then(|job| job.accepted.terms.on_disconnect);
        let Some((since_wall_ms, on_disconnect)) = disconnected_ms.zip(on_disconnect) else { return };
        let left_ms = on_disconnect.patience_ms().map(|ms| left_ms(since_wall_ms, ms, now));
        self.wait_for_worker(id, since_wall_ms, left_ms.map(|ms| now.mono_ms.saturating_add(ms)));
    }

    /// A worker is back with these runs: their jobs wait for it no more.
    pub(super) fn are_back(&mut self, runs: &BTreeSet<Run>, effects: &mut Vec<Effect>) {
        for id in runs.iter().map(|run| run.job).filter(|id| self.awaits_worker(*id)).collect::<Vec<_>>() {
            self.waits_no_more(id);
            if self.guests.contains(id) {
                continue;
            }
            self.write_standing(id, effects);
            effects.push(Effect::Changed { job: id, settled: false });
        }
    }

    /// A job waits for its worker no more, whatever comes of it.
    pub(super) fn waits_no_more(&mut self, id: ObjectId) {
        let wait = self.placed_of_mut(id).and_then(|placed| placed.disconnected.take());
        if let Some(until_ms) = wait.and_then(|wait| wait.until_ms) {
            self.timers.remove(until_ms, Timer::Replace(id));
        }
    }

    /// A job has waited for its worker for as long as it wants to.
    pub(super) fn replace_due(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        if self.awaits_worker(id) {
            self.counters.replaced += 1;
            self.lose(now, id, Loss::WithWorker, OUT_OF_REACH, effects);
        }
    }
}
