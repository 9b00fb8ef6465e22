//! Workers that come, speak and go, and what that means for their runs. Peers do as workers do, once they have attached
//! ([`super::peers`]); a worker's runs are this home's and those of others ([`super::guests`]).

use std::collections::BTreeSet;

use shoal_protocol::limits::PEER_RUNS_MAX;
use shoal_protocol::object::job::{Ending, State};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem, WorkerId};

use super::Machine;
use super::runs::{Loss, empty_outcome};
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::{Now, WorkerAttached};
use crate::jobs::{Job, Phase, Placed};
use crate::lease::{Lease, granted_ms};
use crate::peers::Peer;
use crate::timers::Timer;
use crate::workers::{Link, REMEMBERED_MS, WORKERS_MAX, Worker};

/// How long what a run has made may be on its way from a peer, in milliseconds: a day. Why: a large result over a poor line; a
/// peer that only says so is left after that.
const DELIVERING_MAX_MS: u64 = 24 * 3_600_000;

impl<F: Faults> Machine<F> {
    /// A worker is here, for the first time or again. Of the runs that it was believed to hold those count that it
    /// lists; of the runs that it lists those count that it is believed to hold.
    pub(super) fn attach(&mut self, now: Now, attached: WorkerAttached, effects: &mut Vec<Effect>) {
        let id = attached.worker;
        if self.workers.get(id).is_some_and(|known| known.peer.is_some()) {
            let problem = Problem::new(Kind::Conflict, "this id is that of a peer");
            effects.push(Effect::Detach { worker: id, problem });
            return;
        }
        if self.workers.get(id).is_none() {
            if !self.workers.has_room() {
                let detail = format!("this node knows {WORKERS_MAX} workers, the most that it takes");
                effects.push(Effect::Detach { worker: id, problem: Problem::new(Kind::Full, detail) });
                return;
            }
            self.meet(now, id, &attached.name, None);
        }
        let lease = Lease::grant(now.mono_ms, self.config.lease_ms);
        self.look_after(id, lease.until_ms);
        let Some(worker) = self.workers.get_mut(id) else { return };
        let reborn = worker.incarnation.is_some_and(|former| former != attached.incarnation);
        worker.name = attached.name;
        worker.local = attached.local;
        worker.offer = attached.offer;
        worker.link = Link::Up(attached.connection);
        worker.incarnation = Some(attached.incarnation);
        worker.attached_ms = now.wall_ms;
        worker.lease = lease;
        worker.leaving = false;
        worker.pause = None;
        worker.keep_strays(&BTreeSet::new());
        if reborn {
            worker.cool_down();
        }
        self.counters.attachments += 1;
        self.welcome(now, id, attached.connection, attached.runs, reborn, effects);
    }

    /// Compares what a worker or a peer lists with what it is believed to hold, and tells it what counts no more.
    pub(super) fn welcome(
        &mut self,
        now: Now,
        id: WorkerId,
        connection: u64,
        runs: Vec<Run>,
        reborn: bool,
        effects: &mut Vec<Effect>,
    ) {
        self.placeable = true;
        let listed: BTreeSet<Run> = runs.into_iter().collect();
        let held = if reborn { BTreeSet::new() } else { self.reconcile(id, &listed) };
        self.are_back(&held, effects);
        let drop = listed.iter().filter(|run| !held.contains(run)).copied().collect();
        effects.push(Effect::Attached { worker: id, connection, lease_ms: self.config.lease_ms, drop });
        self.lose_unlisted(now, id, &held, reborn, effects);
        self.repeat_cancels(now, id, effects);
    }

    /// A worker that is not known yet, or a peer.
    pub(super) fn meet(&mut self, now: Now, id: WorkerId, name: &str, node: Option<NodeId>) {
        let lease = Lease::grant(now.mono_ms, self.config.lease_ms);
        self.timers.set(lease.until_ms, Timer::Lease(id));
        let mut worker = Worker::new(id, name, lease);
        worker.peer = node.map(Peer::new);
        self.workers.insert(worker);
    }

    /// Moves the timer of a worker.
    pub(super) fn look_after(&mut self, id: WorkerId, at_ms: u64) {
        if let Some(worker) = self.workers.get_mut(id) {
            self.timers.remove(worker.due_ms, Timer::Lease(id));
            worker.due_ms = at_ms;
            self.timers.set(at_ms, Timer::Lease(id));
        }
    }

    /// Of the runs that a worker lists, those that count; they are marked as seen.
    fn reconcile(&mut self, id: WorkerId, listed: &BTreeSet<Run>) -> BTreeSet<Run> {
        let mut held = BTreeSet::new();
        for run in listed {
            if let Some(placed) = self.placed_mut(id, *run) {
                placed.seen = true;
                placed.recovering = false;
                held.insert(*run);
            }
        }
        held
    }

    /// The runs that a worker was believed to hold and does not: lost. One that it had never shown to hold may have been
    /// under way to it when the connection broke, or be held back by the journal still; a `Cancel` follows it.
    fn lose_unlisted(&mut self, now: Now, id: WorkerId, held: &BTreeSet<Run>, reborn: bool, effects: &mut Vec<Effect>) {
        for (job, run, seen) in self.runs_of(id) {
            if held.contains(&run) {
                continue;
            }
            if !seen {
                effects.push(Effect::Cancel { worker: id, run });
            }
            let (loss, why) = match (reborn, seen) {
                (true, _) => (Loss::WithWorker, "the worker's process died"),
                (false, true) => (Loss::WithWorker, "the worker came back without the run"),
                (false, false) => (Loss::NeverArrived, "the worker came back without the run"),
            };
            self.lose(now, job, loss, why, effects);
        }
    }

    /// A cancellation may have been lost with the former connection.
    fn repeat_cancels(&mut self, now: Now, id: WorkerId, effects: &mut Vec<Effect>) {
        for (job, run, _) in self.runs_of(id) {
            let cancelled = self.jobs.get(job).is_some_and(Job::is_stopping)
                || self.guests.get(job).is_some_and(|guest| guest.cancelled);
            if let Some(placed) = self.placed_mut(id, run).filter(|_| cancelled) {
                placed.cancel_ms = Some(now.mono_ms);
                effects.push(Effect::Cancel { worker: id, run });
            }
        }
    }

    /// A worker's connection ended. Its runs stay its own as long as its lease lasts, unless it is dead.
    pub(super) fn detach(&mut self, now: Now, id: WorkerId, connection: u64, dead: bool, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        match worker.link {
            Link::Up(current) if current == connection => {
                worker.link = Link::Down { connection, since_ms: now.mono_ms };
                let jobs = self.runs_of(id).into_iter().map(|(job, _, _)| job).filter(|job| self.jobs.contains(*job));
                effects.extend(jobs.map(|job| Effect::Changed { job, settled: false }));
            }
            Link::Down { connection: last, .. } if last == connection => {}
            Link::Never => {}
            // The end of a connection that another has replaced.
            Link::Up(_) | Link::Down { .. } => return,
        }
        if dead {
            self.lose_all(now, id, "the worker's process died", effects);
        }
    }

    /// A worker lives. Its lease is renewed, and what it lists is compared with what it was handed.
    ///
    /// It may have composed this before a `Start` that is on its way reached it. So a run that it has never shown to
    /// hold is missed only after a whole lease; and then it may still arrive late, so a `Cancel` follows it. A run that
    /// it has once shown to hold (its messages come in order) must be listed until we have answered its ending, and
    /// that we have not: it is in our books. One that is not listed is lost, then and there.
    pub(super) fn heartbeat(&mut self, now: Now, id: WorkerId, mut runs: Vec<Run>, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.attached()) else { return };
        if worker.peer.is_some() {
            runs.truncate(PEER_RUNS_MAX);
        }
        worker.lease = Lease::grant(now.mono_ms, self.config.lease_ms);
        let listed: BTreeSet<Run> = runs.into_iter().collect();
        self.placeable |= worker.keep_strays(&listed);
        let held = self.reconcile(id, &listed);
        // What it lists beyond that has just been settled, and our answer is on its way; or it should have stopped.
        for run in listed.difference(&held) {
            effects.push(Effect::Cancel { worker: id, run: *run });
        }
        let grace_ms = granted_ms(self.config.lease_ms);
        for (job, run, seen) in self.runs_of(id) {
            if held.contains(&run) {
                self.check_overdue(now, job, grace_ms, effects);
            } else if seen {
                self.lose(now, job, Loss::WithWorker, "the worker no longer holds the run", effects);
            } else if self.offered_for(now, job) > grace_ms {
                effects.push(Effect::Cancel { worker: id, run });
                self.lose(now, job, Loss::NeverArrived, "the run did not reach its worker", effects);
            }
        }
    }

    fn offered_for(&self, now: Now, id: ObjectId) -> u64 {
        self.placed(id).map_or(0, |placed| now.mono_ms.saturating_sub(placed.offered_ms))
    }

    /// Backstops for a worker that lives but does not do what it should: it ends runs that have their time, and stops
    /// runs that are cancelled. One lease after it should have, the job settles without it.
    fn check_overdue(&mut self, now: Now, id: ObjectId, grace_ms: u64, effects: &mut Vec<Effect>) {
        let job = self.jobs.get(id).map(|job| job.accepted.spec.limits);
        let limits = job.or_else(|| self.guests.get(id).map(|guest| guest.accepted.spec.limits));
        let (Some(limits), Some(placed)) = (limits, self.placed(id)) else { return };
        let since = |ms: Option<u64>| ms.map_or(0, |ms| now.mono_ms.saturating_sub(ms));
        let ending = if since(placed.cancel_ms) > grace_ms {
            Ending::Cancelled
        } else if placed.delivering_ms.is_some() && since(placed.delivering_ms) <= DELIVERING_MAX_MS {
            return;
        } else if since(placed.started_ms) > limits.run_ms().saturating_add(grace_ms) {
            Ending::TimedOut
        } else {
            return;
        };
        self.counters.overdue += 1;
        self.abandon(id, effects);
        // A job of this home that its regent has run here is no run of this home.
        match self.jobs.get_mut(id).filter(|job| job.placed().is_some()) {
            Some(job) => {
                job.end_attempt(&ending, None, now.wall_ms);
                if ending == Ending::Cancelled {
                    self.settle_stopped(now, id, Some(empty_outcome(ending)), effects);
                } else {
                    self.settle(now, id, State::TimedOut, Some(empty_outcome(ending)), effects);
                }
            }
            None => self.end_guest(now, id, empty_outcome(ending), effects),
        }
    }

    /// A worker takes no new runs.
    pub(super) fn leaving(&mut self, id: WorkerId) {
        if let Some(worker) = self.workers.get_mut(id) {
            worker.leaving = true;
            self.placeable = true;
        }
    }

    /// A worker's lease may have ended; or it is time to forget the worker.
    pub(super) fn lease_due(&mut self, now: Now, id: WorkerId, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if !worker.lease.has_ended(now.mono_ms) {
            let at_ms = worker.lease.until_ms;
            self.look_after(id, at_ms);
            return;
        }
        if let Link::Up(connection) = worker.link {
            worker.link = Link::Down { connection, since_ms: now.mono_ms };
            let detail = "no heartbeat came for the length of a lease".to_owned();
            effects.push(Effect::Detach { worker: id, problem: Problem::new(Kind::Unavailable, detail) });
        }
        if worker.has_runs() {
            self.out_of_reach(now, id, effects);
        }
        let Some(worker) = self.workers.get(id) else { return };
        let remembered_ms = if worker.peer.is_some() { 0 } else { REMEMBERED_MS };
        let since_ms = match worker.link {
            Link::Down { since_ms, .. } => since_ms,
            Link::Never | Link::Up(_) => 0,
        };
        let forget_ms = since_ms.saturating_add(remembered_ms);
        let forgotten = worker.link == Link::Never || forget_ms <= now.mono_ms;
        if forgotten && !worker.has_runs() {
            self.workers.remove(id);
        } else {
            self.look_after(id, forget_ms.max(now.mono_ms.saturating_add(self.config.lease_ms)));
        }
    }

    /// Every run of a worker is lost.
    pub(super) fn lose_all(&mut self, now: Now, id: WorkerId, why: &str, effects: &mut Vec<Effect>) {
        if F::has(Fault::LostRunStays) {
            return;
        }
        for (job, _, _) in self.runs_of(id) {
            self.lose(now, job, Loss::WithWorker, why, effects);
        }
    }

    /// The current runs at a worker, of this home and of others, and whether it has shown that it holds them.
    pub(super) fn runs_of(&self, id: WorkerId) -> Vec<(ObjectId, Run, bool)> {
        let jobs = self.workers.get(id).into_iter().flat_map(Worker::runs);
        let run = |job| {
            let own = self.jobs.get(job).map(|job| job.run());
            own.or_else(|| self.guests.get(job).map(|guest| guest.run))
        };
        jobs.filter_map(|job| Some((job, run(job)?, self.placed(job)?.seen))).collect()
    }

    /// Where a run is, whoever its home is.
    pub(super) fn placed(&self, job: ObjectId) -> Option<&Placed> {
        match self.jobs.get(job) {
            Some(job) if job.phase != Phase::Yielded => job.placed(),
            // Of a job of this home a regent may have a run here.
            _ => self.guests.get(job).and_then(|guest| guest.placed()),
        }
    }

    /// The same, to be changed.
    pub(super) fn placed_of_mut(&mut self, job: ObjectId) -> Option<&mut Placed> {
        let own = self.jobs.get(job).is_some_and(|job| job.phase != Phase::Yielded);
        match own {
            true => self.jobs.get_mut(job).and_then(|job| job.placed_mut()),
            false => self.guests.get_mut(job).and_then(|guest| guest.placed_mut()),
        }
    }

    /// The same, if this run is the current one and at this worker.
    pub(super) fn placed_mut(&mut self, worker: WorkerId, run: Run) -> Option<&mut Placed> {
        match self.jobs.current_mut(worker, run) {
            Some(job) => job.placed_mut(),
            None => self.guests.current_mut(worker, run).and_then(|guest| guest.placed_mut()),
        }
    }
}
