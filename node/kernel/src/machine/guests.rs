//! Runs of other homes, *guest runs*: taken if a worker of this node has room, run like our own, never tried again here.
//! Whatever ends one is its home's to judge: it is written, reported, and kept until the home says that it may go.

use shoal_protocol::limits::PEER_RUNS_MAX;
use shoal_protocol::object::function::Function;
use shoal_protocol::object::job::{Ending, Failure, FailureCode, Outcome, Progress};
use shoal_protocol::regency::term_of;
use shoal_protocol::wire::peer::{PeerMessage, RunOffer};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem, WorkerId};

use super::Machine;
use super::runs::{Loss, cut, empty_outcome};
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::guests::{GUESTS_MAX, Guest, KEPT_MS, Phase};
use crate::input::{Now, Principal};
use crate::jobs::{Phase as JobPhase, Placed};
use crate::record::{Accepted, GuestEnd, GuestRun, Record, VERSION};
use crate::rights;
use crate::timers::Timer;

impl<F: Faults> Machine<F> {
    /// Takes the guest runs of a journal back: after [`Self::restore`], before any input.
    ///
    /// One that was at a worker stays there for one lease, as a job does. Its home is told of its ending when it attaches.
    pub fn restore_guests(
        &mut self,
        now: Now,
        runs: impl Iterator<Item = (GuestRun, Option<GuestEnd>)>,
        effects: &mut Vec<Effect>,
    ) {
        self.grants_restored();
        for (record, end) in runs {
            self.counters.guests_restored += 1;
            let GuestRun { home, run, attempt, accepted, worker, worker_name, checkpoint: given, .. } = record;
            let phase = match end {
                Some(end) => {
                    let until_ms = now.mono_ms.saturating_add(KEPT_MS);
                    self.timers.set(until_ms, Timer::Guest(run.job));
                    Phase::Ended { outcome: Box::new(end.outcome), until_ms }
                }
                None => {
                    if self.workers.get(worker).is_none() {
                        self.meet(now, worker, &worker_name, None);
                    }
                    if let Some(worker) = self.workers.get_mut(worker) {
                        worker.take(run.job, &accepted.spec.needs);
                    }
                    self.turn += 1;
                    let placed = Placed { recovering: true, ..Placed::new(worker, self.turn, now.mono_ms) };
                    Phase::Placed(placed)
                }
            };
            self.guests.insert(Guest { home, run, attempt, accepted, cancelled: false, given, kept: None, phase });
            self.wait_for(now, home);
        }
        self.finish(now, effects);
    }

    /// A home offers a run.
    pub(super) fn offered(
        &mut self,
        now: Now,
        home: NodeId,
        connection: u64,
        offer: RunOffer,
        effects: &mut Vec<Effect>,
    ) {
        let up = self.guests.home(home).is_some_and(|known| known.is_up() && known.connection == Some(connection));
        if !up {
            // From a connection that has ended, or from before its welcome: the home finds out when it compares.
            return;
        }
        let run = offer.run;
        if self.guests.of_home(home, run).is_some() {
            return self.say_again(now, home, run.job, effects);
        }
        match self.admit_guest(now, home, &offer, effects) {
            Ok(worker) => self.take_guest(now, home, offer, worker, effects),
            Err(problem) => {
                self.counters.guests_declined += 1;
                effects.push(Effect::ToHome { home, message: PeerMessage::Declined(run, problem) });
            }
        }
    }

    /// The checks of an offer, cheapest and most general first; the worker that has room for it.
    fn admit_guest(
        &mut self,
        now: Now,
        home: NodeId,
        offer: &RunOffer,
        effects: &mut Vec<Effect>,
    ) -> Result<WorkerId, Problem> {
        if let Some(problem) = &self.refusing {
            return Err(problem.clone());
        }
        let (run, accepted) = (offer.run, &offer.accepted);
        let ours = run.job.tag() == home.tag() || offer.right.is_some();
        if home == self.config.node || !ours {
            return Err(Problem::new(
                Kind::Forbidden,
                "a job is offered by its home or by who acts for it, and by nobody else",
            ));
        }
        let decided_here = self.jobs.get(run.job).is_some_and(|job| job.phase != JobPhase::Yielded);
        // Its home has not heard yet that its terms are over.
        let taken = self.charges.get(run.job).filter(|known| known.taken);
        let is_late = taken.is_some_and(|known| term_of(run.epoch) < term_of(known.revision));
        if decided_here || is_late {
            return Err(Problem::new(Kind::Conflict, "this node has gone on with that job while its home was away"));
        }
        if run.job != accepted.id || run.epoch == 0 || offer.attempt == 0 {
            return Err(Problem::new(Kind::InvalidField, "the offer is not of the job that it describes"));
        }
        accepted.check()?;
        offer.checkpoint.as_ref().map_or(Ok(()), |checkpoint| checkpoint.check())?;
        self.replace_guest(now, run, effects)?;
        self.check_function(accepted)?;
        let held = self.guests.home(home).map_or(0, |home| home.len());
        if held >= PEER_RUNS_MAX {
            let detail = format!("this node holds {held} runs of that home, the most that it takes");
            return Err(Problem::new(Kind::Full, detail));
        }
        let worker = self.find_for_guest(now, accepted).ok_or_else(|| self.no_room())?;
        if self.guests.len() >= GUESTS_MAX {
            let oldest = self.guests.oldest_unasked().ok_or_else(|| {
                Problem::new(
                    Kind::Full,
                    format!("this node holds {GUESTS_MAX} runs of other homes, the most that it takes"),
                )
            })?;
            self.counters.guests_dropped += 1;
            self.drop_guest(now, oldest, effects);
        }
        Ok(worker)
    }

    /// A newer epoch of a job means that its home has given the older one up, whether the newer one finds a place here or
    /// not.
    fn replace_guest(&mut self, now: Now, run: Run, effects: &mut Vec<Effect>) -> Result<(), Problem> {
        let Some(known) = self.guests.get(run.job) else { return Ok(()) };
        if known.run.epoch >= run.epoch && !F::has(Fault::GuestEpochUnchecked) {
            return Err(Problem::new(Kind::Conflict, "a run of a newer epoch is here"));
        }
        self.counters.guests_replaced += 1;
        self.drop_guest(now, run.job, effects);
        Ok(())
    }

    /// Whether the function is known here as the home says it is: the guest gets no more than its owner has granted, and
    /// speaks for nobody but its owner.
    pub(super) fn check_function(&self, accepted: &Accepted) -> Result<(), Problem> {
        let unknown = || Problem::new(Kind::NotFound, "the function is not known here yet, or was deleted");
        let function = self.functions.get(accepted.spec.function).ok_or_else(unknown)?;
        check_version(function, accepted)?;
        let submitter = Principal { user: Some(accepted.spec.owner), operator: false };
        if !rights::may_run(&submitter, function, self.functions.members(function)) {
            let detail = "by what is known here the submitter may not run this function";
            return Err(Problem::new(Kind::Forbidden, detail));
        }
        Ok(())
    }

    fn no_room(&self) -> Problem {
        let load = self.load();
        let detail = match (load.workers, load.waiting) {
            (0, _) => "no worker is attached here".to_owned(),
            (_, 0) => "no worker here that fits has room now".to_owned(),
            (_, waiting) => format!("no worker here that fits has room now, and {waiting} jobs of this node wait"),
        };
        Problem::new(Kind::Full, detail)
    }

    /// Takes a run: it is written before its home or its worker hears of it.
    fn take_guest(&mut self, now: Now, home: NodeId, offer: RunOffer, to: WorkerId, effects: &mut Vec<Effect>) {
        let Some(worker) = self.workers.get_mut(to) else { return };
        let RunOffer { run, attempt, accepted, checkpoint, .. } = offer;
        self.turn += 1;
        worker.take(run.job, &accepted.spec.needs);
        let worker_name = worker.name.clone();
        let phase = Phase::Placed(Placed::new(to, self.turn, now.mono_ms));
        let given = checkpoint.clone();
        let guest =
            Guest { home, run, attempt, accepted: accepted.clone(), cancelled: false, given, kept: None, phase };
        let start = Box::new(guest.start());
        self.guests.insert(guest);
        self.counters.guests_taken += 1;
        if !F::has(Fault::GuestUnwritten) {
            let worker_name = worker_name.clone();
            let record =
                GuestRun { version: VERSION, home, run, attempt, accepted, worker: to, worker_name, checkpoint };
            effects.push(Effect::Write(Record::GuestAccepted(Box::new(record))));
        }
        effects.push(Effect::ToHome { home, message: PeerMessage::Taken { run, worker: worker_name } });
        effects.push(Effect::Start { worker: to, start });
    }

    /// The guest of a guest run has started. Whether it is one.
    pub(super) fn guest_started(&mut self, now: Now, worker: WorkerId, run: Run, effects: &mut Vec<Effect>) -> bool {
        let Some(guest) = self.guests.current_mut(worker, run) else { return false };
        let (home, component) = (guest.home, guest.accepted.spec.component);
        if let Some(placed) = guest.placed_mut() {
            placed.seen = true;
            placed.recovering = false;
            placed.started_ms = placed.started_ms.or(Some(now.mono_ms));
        }
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.warm_up(component);
        }
        self.to_home(home, PeerMessage::Started(run), effects);
        true
    }

    /// A guest run says how far it is.
    pub(super) fn guest_progress(&self, worker: WorkerId, run: Run, progress: Progress, effects: &mut Vec<Effect>) {
        if let Some(guest) = self.guests.current(worker, run) {
            self.to_home(guest.home, PeerMessage::Progress(run, progress), effects);
        }
    }

    /// A guest run has ended, however: written, then reported.
    pub(super) fn end_guest(&mut self, now: Now, id: ObjectId, outcome: Outcome, effects: &mut Vec<Effect>) {
        self.release(id);
        self.placeable = true;
        let Some(guest) = self.guests.get(id) else { return };
        let (run, home) = (guest.run, guest.home);
        self.functions.learn(guest.accepted.spec.function, outcome.usage.run_us);
        let until_ms = now.mono_ms.saturating_add(KEPT_MS);
        self.timers.set(until_ms, Timer::Guest(id));
        self.guests.end(id, outcome.clone(), until_ms);
        self.counters.guests_ended += 1;
        let end = GuestEnd { version: VERSION, outcome, ended_ms: now.wall_ms };
        effects.push(Effect::Write(Record::GuestEnded(run, Box::new(end))));
        self.answer_saved(id, Err(Problem::new(Kind::Conflict, "the run has ended")), effects);
        self.report(now, home, effects);
        if F::has(Fault::GuestForgotten) {
            self.drop_guest(now, id, effects);
        }
    }

    /// A guest run is gone without an ending. One that never reached its worker was not taken after all.
    pub(super) fn lose_guest(&mut self, now: Now, id: ObjectId, loss: Loss, why: &str, effects: &mut Vec<Effect>) {
        // Whether it arrived nobody knows for certain, and what may run only once is not declined then.
        let once = self.guests.get(id).is_some_and(|guest| guest.accepted.terms.effects.is_once());
        match loss {
            Loss::NeverArrived if !once => self.decline_guest(now, id, Problem::new(Kind::Unavailable, why), effects),
            Loss::NeverArrived | Loss::WithWorker => {
                self.counters.guests_lost += 1;
                let failure = Failure { code: FailureCode::WorkerLost, message: cut(why.to_owned()) };
                self.end_guest(now, id, empty_outcome(Ending::Failed(failure)), effects);
            }
        }
    }

    /// A guest run is not taken after all: the worker did not take it. Its home places it anew and does not count it;
    /// should it not hear of it, it misses the run in the next heartbeat.
    pub(super) fn decline_guest(&mut self, now: Now, id: ObjectId, problem: Problem, effects: &mut Vec<Effect>) {
        self.release(id);
        self.placeable = true;
        self.counters.guests_declined += 1;
        let Some((run, home)) = self.guests.get(id).map(|guest| (guest.run, guest.home)) else { return };
        self.drop_guest(now, id, effects);
        self.to_home(home, PeerMessage::Declined(run, problem), effects);
    }

    /// Forgets a guest run. One that is under way is stopped, and occupies its slot until the worker has let go.
    pub(super) fn drop_guest(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        if self.workers_hold(id) {
            self.abandon(id, effects);
        }
        if let Some(run) = self.guests.get(id).map(|guest| guest.run) {
            self.drop_guest_checkpoint(run, effects);
        }
        let Some(guest) = self.guests.remove(id) else { return };
        if let Phase::Ended { until_ms, .. } = guest.phase {
            self.timers.remove(until_ms, Timer::Guest(id));
        }
        effects.push(Effect::Write(Record::GuestGone(guest.run)));
        self.report(now, guest.home, effects);
    }

    /// Whether a worker has this run in its books.
    fn workers_hold(&self, id: ObjectId) -> bool {
        let worker = self.placed(id).and_then(|placed| self.workers.get(placed.worker));
        worker.is_some_and(|worker| worker.runs().any(|run| run == id))
    }

    /// An ending has waited for its home for long.
    pub(super) fn guest_is_old(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        let old = self.guests.get(id).is_some_and(|guest| match guest.phase {
            Phase::Ended { until_ms, .. } => until_ms <= now.mono_ms,
            Phase::Placed(_) => false,
        });
        if old {
            self.counters.guests_dropped += 1;
            self.drop_guest(now, id, effects);
        }
    }
}

/// Refuses what the function's owners have not allowed: other code, more grants, another owner's name.
pub(super) fn check_version(function: &Function, accepted: &Accepted) -> Result<(), Problem> {
    let number = accepted.spec.function_version;
    let version = function.versions.iter().find(|version| version.number == number);
    if version.is_none_or(|version| version.component != accepted.spec.component) {
        let detail = format!("version {number} of the function {} is not known here as offered", function.name);
        return Err(Problem::new(Kind::NotFound, detail));
    }
    if !accepted.spec.grants.is_subset(&function.grants) {
        let detail = format!("the function {} is not granted all that the offer says", function.name);
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    if (accepted.spec.function_owner, accepted.spec.project) != (function.owner, function.project) {
        let detail = format!("the function {} has another owner or project here", function.name);
        return Err(Problem::new(Kind::Forbidden, detail));
    }
    Ok(())
}
