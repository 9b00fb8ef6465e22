//! A run, from its offer to its end, and what its end does to the job.

use shoal_protocol::limits::MESSAGE_LEN_MAX;
use shoal_protocol::object::job::{
    Ending, Failure, FailureCode, Outcome, Payload, Progress, RefusalCode, State, Usage,
};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Kind, ObjectId, Problem, WorkerId};

use super::Machine;
use super::merging::kept_bytes;
use super::telling::noted;
use crate::backoff::pause_ms;
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::{End, Now};
use crate::jobs::{Job, Phase, Placed};
use crate::record::{Accepted, Group, Record, Saving, Standing};
use crate::timers::Timer;
use crate::view::settled_state;
use crate::workers::Pause;

/// Runs of a job that may be lost before their guest has started without being counted. Why 8: a job that waits at a
/// worker must not pay for the neighbour that kills it, while one that kills workers before it starts must come to an
/// end.
const FRUITLESS_MAX: u8 = 8;

/// How long a worker that declined a run gets no other, in milliseconds. Why 100: long enough that it is not asked in a
/// circle, short enough that one odd job does not cost the others their place.
const DECLINE_PAUSE_MS: u64 = 100;

/// How a run went away without an ending of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Its worker is gone, or has lost it. The guest may have run, unless nothing says that it started.
    WithWorker,
    /// It never reached its worker.
    NeverArrived,
}

impl<F: Faults> Machine<F> {
    /// Hands a job to a worker or a peer: a new epoch, written before anybody hears of it.
    pub(super) fn offer(&mut self, now: Now, id: ObjectId, to: WorkerId, effects: &mut Vec<Effect>) {
        self.take_out(id);
        let (Some(job), Some(worker)) = (self.jobs.get_mut(id), self.workers.get_mut(to)) else { return };
        self.turn += 1;
        let node = worker.node();
        job.begin_attempt(to, &worker.name, node, now.wall_ms);
        job.phase = Phase::Placed(Box::new(Placed::new(to, self.turn, now.mono_ms)));
        worker.take(id, &job.accepted.spec.needs);
        self.begin_use(now, id);
        self.counters.offers += 1;
        let Some(job) = self.jobs.get(id) else { return };
        self.counters.resumed += u64::from(job.history.checkpoint.is_some());
        if !F::has(Fault::EpochUnwritten) {
            match self.is_new_element(job) {
                true => self.write_began(id, effects),
                false => self.write_standing(id, effects),
            }
        }
        let Some(job) = self.jobs.get(id) else { return };
        match node {
            Some(peer) => {
                self.counters.peer_offers += 1;
                effects.push(Effect::Offer { peer, offer: Box::new(job.run_offer()) });
            }
            None => effects.push(Effect::Start { worker: to, start: Box::new(job.start()) }),
        }
        effects.push(Effect::Changed { job: id, settled: false });
    }

    /// The guest of a run has started.
    pub(super) fn started(&mut self, now: Now, worker: WorkerId, run: Run, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.current_mut(worker, run) else {
            if !self.guest_started(now, worker, run, effects) {
                effects.push(Effect::Cancel { worker, run });
            }
            return;
        };
        if let Some(attempt) = job.history.attempts.last_mut() {
            attempt.started_ms = attempt.started_ms.or(Some(now.wall_ms));
        }
        let component = job.accepted.spec.component;
        if let Some(placed) = job.placed_mut() {
            placed.seen = true;
            placed.recovering = false;
            placed.started_ms = placed.started_ms.or(Some(now.mono_ms));
        }
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.warm_up(component);
        }
        self.shares.started(run.job);
        effects.push(Effect::Changed { job: run.job, settled: false });
    }

    /// A run says how far it is.
    pub(super) fn progress(&mut self, worker: WorkerId, run: Run, progress: Progress, effects: &mut Vec<Effect>) {
        let progress = Progress { message: cut(progress.message), ..progress };
        let Some(job) = self.jobs.current_mut(worker, run) else {
            return self.guest_progress(worker, run, progress, effects);
        };
        if let Some(placed) = job.placed_mut() {
            placed.progress = Some(progress);
        }
        effects.push(Effect::Changed { job: run.job, settled: false });
    }

    /// A run has ended. Only the current epoch at the current worker counts; of every other one the worker is told that
    /// it may forget it, and nothing else happens.
    pub(super) fn ended(&mut self, now: Now, from: WorkerId, run: Run, outcome: Outcome, effects: &mut Vec<Effect>) {
        self.placeable = true;
        if let Some(worker) = self.workers.get_mut(from) {
            worker.stray_gone(run);
        }
        if self.guests.current(from, run).is_some() {
            self.end_guest(now, run.job, outcome, effects);
            effects.push(Effect::Settled { worker: from, run });
            return;
        }
        let counts =
            self.jobs.current(from, run).is_some() || (F::has(Fault::LateResultCounts) && self.jobs.contains(run.job));
        if !counts {
            self.counters.fenced += 1;
            effects.push(Effect::Settled { worker: from, run });
            return;
        }
        if let Some(why) = self.lost_at_peer(from, &outcome.ending) {
            self.lose(now, run.job, Loss::WithWorker, why, effects);
            effects.push(Effect::Settled { worker: from, run });
            return;
        }
        self.release(run.job);
        self.settle_use(now, run.job, &outcome);
        let Some(job) = self.jobs.get_mut(run.job) else { return };
        job.end_attempt(&outcome.ending, Some(outcome.usage), now.wall_ms);
        self.functions.learn(job.accepted.spec.function, outcome.usage.run_us);
        let (stopping, id) = (job.is_stopping(), run.job);
        let again = job.accepted.terms.retry.as_ref().is_some_and(|retry| retry.takes(&outcome.ending));
        let state = settled_state(&outcome.ending);
        match transient(&outcome.ending) {
            Some(_) if stopping => self.settle_stopped(now, id, Some(outcome), effects),
            Some(failure) => self.retry(now, id, State::Failed, outcome_of(failure, outcome), effects),
            None if again && !stopping => self.retry(now, id, state, outcome, effects),
            // A run that was faster than its cancellation keeps what it has: its result exists, and is true.
            None => self.settle(now, id, state, Some(outcome), effects),
        }
        effects.push(Effect::Settled { worker: from, run });
    }

    /// A worker does not take a run: it goes elsewhere, and is not counted.
    pub(super) fn declined(&mut self, now: Now, from: WorkerId, run: Run, problem: Problem, effects: &mut Vec<Effect>) {
        self.placeable = true;
        if let Some(worker) = self.workers.get_mut(from) {
            worker.stray_gone(run);
        }
        let here = self.jobs.current(from, run).is_some();
        if !here && self.guests.current(from, run).is_none() {
            return;
        }
        let why = cut(problem.detail.clone());
        let needs = self.jobs.get(run.job).map(|job| &job.accepted.spec.needs);
        let Some(worker) = self.workers.get_mut(from) else { return };
        let until_ms = match (&mut worker.peer, needs) {
            (Some(peer), Some(needs)) => {
                self.counters.peer_declines += 1;
                peer.declined(needs, problem.kind == Kind::Full, why.clone(), now.mono_ms)
            }
            _ => {
                let until_ms = now.mono_ms + DECLINE_PAUSE_MS;
                worker.pause = Some(Pause { until_ms, why: why.clone() });
                until_ms
            }
        };
        let by_peer = worker.peer.is_some();
        self.timers.set(until_ms, Timer::Place);
        self.counters.declined += 1;
        if !here {
            return self.decline_guest(now, run.job, problem, effects);
        }
        if self.jobs.get(run.job).is_some_and(Job::has_begun) {
            // Who has been restarted need not know that it ran; here it counts as an attempt.
            return self.lose(now, run.job, Loss::WithWorker, &why, effects);
        }
        self.release(run.job);
        let Some(job) = self.jobs.get_mut(run.job) else { return };
        strike::<F>(job, RefusalCode::Declined, &why, now);
        // That a peer does not take it says nothing of the job, and the next one may: it is the peer that pauses.
        let pause = if by_peer {
            0
        } else {
            job.history.fruitless = job.history.fruitless.saturating_add(1);
            pause_ms(run.job, u32::from(job.history.fruitless), None)
        };
        self.requeue(now, run.job, pause, effects);
    }

    /// A run is gone without an ending. The caller has seen to its worker's books, or does not care.
    pub(super) fn lose(&mut self, now: Now, id: ObjectId, loss: Loss, why: &str, effects: &mut Vec<Effect>) {
        self.placeable = true;
        if self.guests.contains(id) {
            return self.lose_guest(now, id, loss, why, effects);
        }
        self.release(id);
        let Some(job) = self.jobs.get_mut(id) else { return };
        let started = job.has_begun();
        self.counters.lost += 1;
        job.history.losses = job.history.losses.saturating_add(1);
        // Nobody knows for certain that it did not start: nothing is repeated then that may run only once.
        let repeats = !job.accepted.terms.effects.is_once() || F::has(Fault::LostRunRepeated);
        if repeats && (loss == Loss::NeverArrived || (!started && job.history.fruitless < FRUITLESS_MAX)) {
            let code = if loss == Loss::NeverArrived { RefusalCode::NeverArrived } else { RefusalCode::Lost };
            strike::<F>(job, code, why, now);
            job.history.fruitless = job.history.fruitless.saturating_add(1);
            // The first time is nobody's fault: it waits for nothing.
            let pause = if job.history.losses <= 1 || loss == Loss::NeverArrived {
                0
            } else {
                pause_ms(id, u32::from(job.history.fruitless), None)
            };
            self.requeue(now, id, pause, effects);
            return;
        }
        let failure = Failure { code: FailureCode::WorkerLost, message: why.to_owned() };
        let ending = Ending::Failed(failure);
        job.end_attempt(&ending, None, now.wall_ms);
        self.retry(now, id, State::Failed, empty_outcome(ending), effects);
    }

    /// Takes a run back from a worker that has not begun it: the job is offered elsewhere, and the run not counted.
    pub(super) fn withdraw(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        self.counters.withdrawn += 1;
        self.abandon(id, effects);
        if let Some(job) = self.jobs.get_mut(id) {
            strike::<F>(job, RefusalCode::Withdrawn, "another place was free", now);
        }
        self.requeue(now, id, 0, effects);
    }

    /// Takes a job back from where it is, since it goes to another node: a run that has begun is lost.
    pub(super) fn stop_run(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        self.abandon(id, effects);
        if let Some(job) = self.jobs.get_mut(id) {
            let message = "its home hands the job over";
            match job.placed().is_some_and(|placed| placed.started_ms.is_some()) {
                true => {
                    let failure = Failure { code: FailureCode::WorkerLost, message: message.to_owned() };
                    job.end_attempt(&Ending::Failed(failure), None, now.wall_ms);
                }
                false => strike::<F>(job, RefusalCode::Withdrawn, message, now),
            }
        }
        self.requeue(now, id, 0, effects);
    }

    /// Gives a run up that may still be under way: it is stopped, and occupies its slot until the worker has let go.
    pub(super) fn abandon(&mut self, id: ObjectId, effects: &mut Vec<Effect>) {
        self.waits_no_more(id);
        let job = self.jobs.get(id).filter(|job| job.phase != Phase::Yielded);
        let run = job.map(|job| job.run()).or_else(|| self.guests.get(id).map(|guest| guest.run));
        let (Some(run), Some(at)) = (run, self.placed(id).map(|placed| placed.worker)) else { return };
        if let Some(worker) = self.workers.get_mut(at) {
            worker.abandon(run);
        }
        effects.push(Effect::Cancel { worker: at, run });
    }

    /// Takes a run off its worker's books.
    pub(super) fn release(&mut self, id: ObjectId) {
        self.waits_no_more(id);
        let worker = self.placed(id).map(|placed| placed.worker);
        if let Some(worker) = worker.and_then(|worker| self.workers.get_mut(worker)) {
            worker.release(id);
        }
    }

    /// After a failure that another try may mend: tries again, or settles in this state when no try is left.
    fn retry(&mut self, now: Now, id: ObjectId, state: State, outcome: Outcome, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.history.attempts_total >= job.accepted.spec.limits.attempts() && !job.is_stopping() {
            self.settle(now, id, state, Some(outcome), effects);
            return;
        }
        let blameless = transient(&outcome.ending).is_some();
        let once = job.accepted.terms.effects.is_once() && !F::has(Fault::LostRunRepeated);
        if once && blameless && !job.is_stopping() {
            return self.settle(now, id, state, Some(lost_for_good(outcome)), effects);
        }
        self.counters.retried += u64::from(!blameless);
        // A worker that died for the first time is no reason to wait; it may have had nothing to do with the job.
        let first = blameless && job.history.losses == 1 && job.history.attempts_total == 1;
        let pause =
            if first { 0 } else { pause_ms(id, job.history.attempts_total, job.accepted.terms.retry.as_deref()) };
        self.requeue(now, id, pause, effects);
    }

    /// Puts a job back that has lost its place; or ends it, if there is a reason to.
    pub(super) fn requeue(&mut self, now: Now, id: ObjectId, pause_ms: u64, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        if job.is_stopping() {
            self.settle_stopped(now, id, None, effects);
            return;
        }
        if job.function_gone {
            self.settle_gone(now, id, effects);
            return;
        }
        self.counters.requeued += 1;
        if pause_ms == 0 {
            self.enqueue(now, id);
        } else {
            self.pause(now, id, pause_ms);
        }
        self.write_standing(id, effects);
        effects.push(Effect::Changed { job: id, settled: false });
    }

    /// Ends a job whose function is gone.
    pub(super) fn settle_gone(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        if !self.has_elements_under_way(id) {
            self.settle_without_function(now, id, "its function was deleted before it ran".to_owned(), effects);
        }
    }

    /// Ends a job that must not run here.
    pub(super) fn settle_without_function(
        &mut self,
        now: Now,
        id: ObjectId,
        message: String,
        effects: &mut Vec<Effect>,
    ) {
        let failure = Failure { code: FailureCode::FunctionGone, message };
        self.settle(now, id, State::Failed, Some(empty_outcome(Ending::Failed(failure))), effects);
    }

    /// Ends a job: it leaves memory, wherever it was.
    pub(super) fn settle(
        &mut self,
        now: Now,
        id: ObjectId,
        state: State,
        outcome: Option<Outcome>,
        effects: &mut Vec<Effect>,
    ) {
        if self.ends_later(now, id, state, outcome.as_ref(), effects) {
            return;
        }
        let Some((told, array)) = self.end(now, id, state, outcome, effects) else { return };
        if !F::has(Fault::EndUntold) {
            effects.push(told);
        }
        if let Some(array) = array {
            self.array_goes_on(now, array, effects);
        }
    }

    /// Ends a job without a word to subscribers: what they are to hear, and the array that it is an element of.
    pub(super) fn end(
        &mut self,
        now: Now,
        id: ObjectId,
        state: State,
        outcome: Option<Outcome>,
        effects: &mut Vec<Effect>,
    ) -> Option<(Effect, Option<ObjectId>)> {
        let (mut job, told) = self.leave(now, id, state, outcome.as_ref())?;
        // What ends before its custodians have it was not acknowledged as kept.
        job.alone |= job.phase == Phase::Keeping;
        let saved = saved_no_more(&job);
        let (accepted, mut standing) = job.settled(state, outcome, now.wall_ms);
        standing.unconfirmed |= self.decides_alone(&accepted);
        if let Some(elements) = &mut standing.elements {
            elements.cut = accepted.size().saturating_sub(elements.begun);
        }
        let (id, memo) = (accepted.id, Self::memo_key(&accepted, &standing));
        self.note_call(now, &accepted, &standing, effects);
        let array = self.put_away(now, accepted, standing, effects);
        if let Some(key) = memo {
            self.remember(now, id, key, effects);
        }
        effects.extend(saved);
        Some((told, array))
    }

    /// Ends a job of the table as the other side of a cut has decided.
    pub(super) fn settle_as(&mut self, now: Now, id: ObjectId, standing: Standing, effects: &mut Vec<Effect>) {
        if let Some(job) = self.jobs.get_mut(id) {
            job.epoch = standing.epoch;
        }
        let left = self.leave(now, id, standing.state, standing.outcome.as_ref());
        let Some((job, told)) = left else { return };
        let settled = Now { wall_ms: standing.settled_ms.unwrap_or(now.wall_ms), ..now };
        let saved = saved_no_more(&job);
        let array = self.put_away(settled, job.accepted, standing, effects);
        effects.extend(saved);
        effects.push(told);
        if let Some(array) = array {
            self.array_goes_on(now, array, effects);
        }
    }

    /// Takes a job that has ended out of memory, wherever it was: the job, and what subscribers are to hear.
    fn leave(&mut self, now: Now, id: ObjectId, state: State, outcome: Option<&Outcome>) -> Option<(Job, Effect)> {
        if self.jobs.get(id)?.phase != Phase::Yielded {
            self.release(id);
        }
        self.take_out(id);
        self.end_use(id);
        self.custody.trust(id);
        self.needs_no_word(id);
        let job = self.jobs.remove(id)?;
        self.placeable |= job.placed().is_some();
        if let Some(until_ms) = job.extras.total_until_ms {
            self.timers.remove(until_ms, Timer::TotalLimit(id));
        }
        job.extras.unmet.iter().for_each(|earlier| self.dependents.remove(*earlier, id));
        self.memos.ended(id, || {
            let output = outcome.map_or_else(Payload::empty, |outcome| outcome.output.clone());
            Some(End { state, output })
        });
        if !F::has(Fault::DependentsUntold) {
            self.dependents.ended(id, || {
                let output = outcome.map_or_else(Payload::empty, |outcome| outcome.output.clone());
                Some(End { state, output })
            });
        }
        let told = noted(now, &job, state, outcome);
        Some((job, told))
    }

    /// Writes that a job has ended, and keeps it for a while: the array that it is an element of.
    fn put_away(
        &mut self,
        now: Now,
        accepted: Accepted,
        standing: Standing,
        effects: &mut Vec<Effect>,
    ) -> Option<ObjectId> {
        let (id, state) = (accepted.id, standing.state);
        if let Some(elements) = &standing.elements {
            self.tell_of_cut(&accepted, elements.begun, state);
        }
        self.counters.settle(state, standing.elements.map_or(1, |elements| elements.with_array()));
        let (array, group) = (accepted.array_id(), Group::of(&accepted, state));
        let bytes = kept_bytes(&accepted, &standing);
        if F::has(Fault::SettledStays) {
            let mut again = Job::new(accepted.clone(), standing.clone(), now.mono_ms);
            again.phase = Phase::Queued { since_ms: now.mono_ms };
            self.jobs.insert(again);
            self.queue_job(id);
        }
        self.write_end(&accepted, standing, effects);
        if array.is_none() || F::has(Fault::ElementRetained) {
            // An element is kept as long as its array is, and with it.
            self.keep_settled(now, (group, id, bytes), effects);
            self.custody.ended(id, group, bytes);
        }
        effects.push(Effect::Changed { job: id, settled: true });
        array
    }

    /// A function was deleted: what waits to run it ends, what runs goes on, and is not tried again.
    pub(super) fn function_gone(&mut self, now: Now, function: ObjectId, effects: &mut Vec<Effect>) {
        self.functions.remove(function);
        let mut waiting = Vec::new();
        for job in self.jobs.iter_mut().filter(|job| job.accepted.spec.function == function) {
            job.function_gone = true;
            if job.placed().is_none() && job.phase != Phase::Yielded {
                waiting.push(job.id());
            }
        }
        for id in waiting {
            self.settle_gone(now, id, effects);
        }
    }
}

/// What a job has saved goes with its end, and not before: were the end lost, a run would have to begin anew.
pub(super) fn saved_no_more(job: &Job) -> Option<Effect> {
    let last = job.history.checkpoint.as_ref()?;
    let saving = Saving { checkpoint: None, replaces: last.bytes.blob() };
    Some(Effect::Write(Record::Checkpoint(job.id(), Box::new(saving))))
}

/// Strikes a run from the books that never began.
fn strike<F: Faults>(job: &mut Job, code: RefusalCode, message: &str, now: Now) {
    job.strike_attempt(code, message, now.wall_ms);
    if F::has(Fault::RefusalForgotten) {
        job.history.refusals = None;
    }
}

/// The failure, if it is none of the job's own and another try may go better. A run that was stopped although its job was
/// not to end was stopped by its worker, which is on its way out.
pub(super) fn transient(ending: &Ending) -> Option<Failure> {
    match ending {
        Ending::Failed(failure) if failure.code.is_transient() => Some(failure.clone()),
        Ending::Cancelled => Some(Failure {
            code: FailureCode::WorkerLost,
            message: "the worker stopped the run although nobody had cancelled the job".into(),
        }),
        Ending::Succeeded | Ending::Failed(_) | Ending::TimedOut => None,
    }
}

/// The end of a job that was lost in a run and may not be run again.
fn lost_for_good(mut outcome: Outcome) -> Outcome {
    if let Ending::Failed(failure) = &mut outcome.ending {
        let message = std::mem::take(&mut failure.message);
        failure.message =
            cut(format!("{message}; what it did is not known, and its effects are `once`: it is not run again"));
    }
    outcome
}

fn outcome_of(failure: Failure, outcome: Outcome) -> Outcome {
    Outcome { ending: Ending::Failed(failure), ..outcome }
}

/// The text up to [`MESSAGE_LEN_MAX`] bytes.
pub(super) fn cut(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MESSAGE_LEN_MAX));
    text
}

/// What came out of a run that brought nothing.
pub(super) fn empty_outcome(ending: Ending) -> Outcome {
    Outcome {
        ending,
        exit_code: None,
        output: Payload::empty(),
        log: Payload::empty(),
        log_dropped: 0,
        usage: Usage::default(),
    }
}
