//! The unsettled jobs of this home.
//!
//! A million may wait. A waiting job is one block of some 200 bytes with what it alone was accepted with; what it is alike in with
//! others it shares with them ([`crate::specs`]), and what few jobs have is in blocks of its own ([`Seldom`]), as is what only a
//! run has.

mod parts;
mod table;

use std::collections::BTreeMap;

use shoal_protocol::limits::ATTEMPTS_KEPT_MAX;
use shoal_protocol::object::job::{Attempt, Checkpoint, Ending, Outcome, Progress, Refusal, RefusalCode, State, Usage};
use shoal_protocol::regency::{first_of_term, term_of};
use shoal_protocol::wire::peer::RunOffer;
use shoal_protocol::wire::worker::{Run, Start};
use shoal_protocol::{NodeId, ObjectId, Seldom, WorkerId};

use crate::queue::Rank;
use crate::record::{Accepted, Standing, VERSION};
use parts::{Extras, History};

pub(crate) use parts::{Names, Rule};
pub use table::{JOB_BYTES, stored_bytes};
pub(crate) use table::{Jobs, Whose, outcome_bytes};

/// One unsettled job.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) accepted: Accepted,
    /// Of the last run that was offered; 0 before the first.
    pub(crate) epoch: u64,
    pub(crate) phase: Phase,
    /// What became of it each time that it was handed over.
    pub(crate) history: Seldom<History>,
    /// What few jobs that wait have.
    pub(crate) extras: Seldom<Extras>,
    pub(crate) cancelled: bool,
    /// The state that subscribers were told last.
    pub(crate) told: State,
    /// It has taken longer in all than it may: it settles when its run has stopped.
    pub(crate) out_of_time: bool,
    pub(crate) priority: i8,
    /// Numbers what was journaled of where it stands, if custodians keep it: within the term.
    pub(crate) revision: u32,
    /// It was acknowledged when this node alone had it.
    pub(crate) alone: bool,
    /// Its function was deleted while it ran: it is not tried again.
    pub(crate) function_gone: bool,
}

/// What an unsettled job is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Phase {
    /// It waits for somebody to release it.
    Held,
    /// It waits until custodians have it; it is not acknowledged before.
    Keeping,
    /// It waits for other jobs.
    Blocked,
    /// It waits for its time, which comes then; after that in the queue.
    Later { until_ms: u64 },
    /// An array: as many of its elements as may be under way are, or none is left that has not begun.
    Begun,
    /// It waits for the result of this job, which is equal.
    Alike(Box<ObjectId>),
    /// It waits until a majority of its custodians lets it begin, or end.
    Ungranted,
    /// Its regent goes on with it.
    Yielded,
    /// It waits in the queue since then.
    Queued { since_ms: u64 },
    /// It waits before it is tried again, and after that in the queue.
    Backoff(Box<Pause>),
    /// A worker or a peer has it, or will have it as soon as its epoch is durable.
    Placed(Box<Placed>),
}

/// Until when a job waits before it is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) until_ms: u64,
    /// The same time for the journal.
    pub(crate) until_wall_ms: u64,
}

/// A run at a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Placed {
    pub(crate) worker: WorkerId,
    /// When it was handed over. Of a run from before a restart: when the kernel was restored.
    pub(crate) offered_ms: u64,
    /// Numbers the offers: a worker runs what it was handed first.
    pub(crate) turn: u64,
    /// The worker has shown that it has it.
    pub(crate) seen: bool,
    /// When the guest started.
    pub(crate) started_ms: Option<u64>,
    /// When the worker was told to stop it.
    pub(crate) cancel_ms: Option<u64>,
    /// When its peer said that it has ended, while what it made is on its way.
    pub(crate) delivering_ms: Option<u64>,
    /// It is from before a restart, and its worker has not attached since.
    pub(crate) recovering: bool,
    /// Its worker's lease has ended, and the job waits for the worker.
    pub(crate) disconnected: Option<Disconnected>,
    /// It is from before a restart.
    pub(crate) restored: bool,
    /// How far it is, as it said last.
    pub(crate) progress: Option<Progress>,
}

/// A job that waits for the worker that has its run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Disconnected {
    /// By the wall clock.
    pub(crate) since_wall_ms: u64,
    /// Until when; none: for ever.
    pub(crate) until_ms: Option<u64>,
}

impl Placed {
    /// A run that is handed to a worker now.
    pub(crate) fn new(worker: WorkerId, turn: u64, now_ms: u64) -> Self {
        Self {
            worker,
            offered_ms: now_ms,
            turn,
            seen: false,
            started_ms: None,
            cancel_ms: None,
            delivering_ms: None,
            recovering: false,
            disconnected: None,
            restored: false,
            progress: None,
        }
    }
}

impl Job {
    /// A job as its records show it, not yet in any phase but the queue.
    pub(crate) fn new(accepted: Accepted, standing: Standing, now_ms: u64) -> Self {
        let term = term_of(standing.revision);
        Self {
            epoch: standing.epoch,
            phase: Phase::Queued { since_ms: now_ms },
            cancelled: standing.cancelled,
            told: standing.state,
            out_of_time: standing.out_of_time,
            priority: standing.priority,
            revision: u32::try_from(standing.revision - first_of_term(term)).unwrap_or(u32::MAX),
            alone: standing.alone,
            function_gone: false,
            extras: Extras::of(&accepted, &standing).into(),
            history: History::of(standing).into(),
            accepted,
        }
    }

    pub(crate) fn id(&self) -> ObjectId {
        self.accepted.id
    }

    /// The current run.
    pub(crate) fn run(&self) -> Run {
        Run { job: self.accepted.id, epoch: self.epoch }
    }

    /// Bytes that it refers to and that count for its project: an element's input counts with its array.
    fn bytes(&self) -> u64 {
        stored_bytes(&self.accepted, self.extras.elements.as_deref(), None)
    }

    /// Where it stands among the jobs that wait.
    pub(crate) fn rank(&self) -> Rank {
        Rank::of(self.id(), self.priority)
    }

    pub(crate) fn placed(&self) -> Option<&Placed> {
        match &self.phase {
            Phase::Placed(placed) => Some(placed),
            _ => None,
        }
    }

    pub(crate) fn placed_mut(&mut self) -> Option<&mut Placed> {
        match &mut self.phase {
            Phase::Placed(placed) => Some(placed),
            _ => None,
        }
    }

    /// Whether its run is known to have begun: by its own word, or by a checkpoint, which a restart does not forget.
    pub(crate) fn has_begun(&self) -> bool {
        let saved = self.history.checkpoint.as_ref().is_some_and(|last| last.epoch == self.epoch);
        self.placed().is_some_and(|placed| saved || placed.started_ms.is_some())
    }

    /// Whether it is to end, and only its run keeps it.
    pub(crate) fn is_stopping(&self) -> bool {
        self.cancelled || self.out_of_time
    }

    /// In which it is decided: 0 by its home, else by a regent.
    fn term(&self) -> u32 {
        self.extras.rule.as_ref().map_or(0, |rule| rule.term)
    }

    /// Whether it was never handed over.
    pub(crate) fn is_fresh(&self) -> bool {
        let tried = self.history.attempts_total > 0 || self.history.refusals.is_some();
        self.epoch == 0 || (self.epoch == first_of_term(self.term()) && !tried)
    }

    /// Numbers what was journaled last of where it stands.
    pub(crate) fn last_revision(&self) -> u64 {
        first_of_term(self.term()).saturating_add(u64::from(self.revision))
    }

    /// Since when it may run, by the wall clock: this is what its queue limit counts from.
    pub(crate) fn may_run_since_ms(&self) -> u64 {
        let accepted = &self.accepted;
        accepted.accepted_ms.max(accepted.terms.not_before_ms.unwrap_or(0)).max(self.extras.ready_ms.unwrap_or(0))
    }

    /// Where it was last tried and failed: another worker is preferred.
    pub(crate) fn failed_at(&self) -> Option<WorkerId> {
        self.history.attempts.last().filter(|attempt| attempt.ended_ms.is_some()).map(|attempt| attempt.worker)
    }

    /// Starts the next run in the books: a new epoch, a new attempt.
    pub(crate) fn begin_attempt(&mut self, worker: WorkerId, name: &str, node: Option<NodeId>, wall_ms: u64) {
        self.epoch += 1;
        let history = &mut *self.history;
        history.attempts_total += 1;
        if history.attempts.len() >= ATTEMPTS_KEPT_MAX {
            history.attempts.remove(0);
        }
        history.attempts.push(Attempt {
            epoch: self.epoch,
            worker,
            worker_name: name.to_owned(),
            node,
            offered_ms: wall_ms,
            started_ms: None,
            ended_ms: None,
            ending: None,
            usage: None,
            resumed: history.checkpoint.as_ref().map(|last| last.epoch),
        });
    }

    /// Writes down how the current run ended, and what it used where that is known.
    pub(crate) fn end_attempt(&mut self, ending: &Ending, usage: Option<Usage>, wall_ms: u64) {
        if let Some(attempt) = self.history.attempts.last_mut() {
            attempt.ended_ms = Some(wall_ms);
            attempt.ending = Some(ending.clone());
            attempt.usage = usage;
        }
    }

    /// Strikes the current run from the books, since it never began, and writes down why. Its epoch stays used.
    pub(crate) fn strike_attempt(&mut self, code: RefusalCode, message: &str, wall_ms: u64) {
        let history = &mut *self.history;
        let Some(attempt) = history.attempts.pop() else { return };
        history.attempts_total = history.attempts_total.saturating_sub(1);
        let Attempt { epoch, worker, worker_name, node, .. } = attempt;
        let message = message.to_owned();
        let refusal = Refusal { epoch, worker, worker_name, node, at_ms: wall_ms, code, message, times: 1 };
        history.refusals.get_or_insert_default().add(refusal);
    }

    /// What stands in the journal: a running job is `Offered` there.
    pub(crate) fn standing(&self) -> Standing {
        let (state, retry_ms) = match &self.phase {
            Phase::Held => (State::Held, None),
            Phase::Blocked => (State::Blocked, None),
            Phase::Keeping => (self.accepted.standing().state, None),
            Phase::Placed(_) => (State::Offered, None),
            // It waits for the word that it may end. Until then it is blocked, as who takes it over or back lets it wait.
            Phase::Ungranted if !self.extras.unmet.is_empty() => (State::Blocked, None),
            Phase::Backoff(pause) => (State::Queued, Some(pause.until_wall_ms)),
            Phase::Begun | Phase::Alike(_) | Phase::Later { .. } | Phase::Ungranted | Phase::Queued { .. } => {
                (State::Queued, None)
            }
            Phase::Yielded => (self.told, None),
        };
        let (history, extras, names) = (&*self.history, &*self.extras, self.names());
        Standing {
            version: VERSION,
            state,
            name: names.name,
            labels: names.labels,
            epoch: self.epoch,
            attempts: history.attempts.clone(),
            attempts_total: history.attempts_total,
            refusals: history.refusals.clone(),
            cancelled: self.cancelled,
            out_of_time: self.out_of_time,
            priority: self.priority,
            ready_ms: extras.ready_ms,
            retry_ms,
            disconnected_ms: self.placed().and_then(|placed| placed.disconnected).map(|wait| wait.since_wall_ms),
            unmet: extras.unmet.clone(),
            elements: extras.elements.as_deref().copied(),
            duplicate_of: extras.duplicate_of,
            memo_of: extras.memo_of.as_deref().copied(),
            saved: history.checkpoint.as_ref().map(|last| last.saved()),
            settled_ms: None,
            outcome: None,
            revision: self.last_revision(),
            alone: self.alone,
            regent: self.extras.rule.as_ref().map(|rule| rule.regent),
            unconfirmed: self.extras.rule.as_ref().is_some_and(|rule| rule.unconfirmed),
            superseded: None,
        }
    }

    /// Its name and labels as they are now.
    pub(crate) fn names(&self) -> Names {
        self.extras.renamed.as_deref().cloned().unwrap_or_else(|| Names::of(&self.accepted))
    }

    /// Gives it another name and other labels.
    pub(crate) fn rename(&mut self, names: Names) {
        if names != self.names() {
            self.extras.renamed = Some(Box::new(names));
        }
    }

    /// The same after one more change: of a job that custodians keep it has the next revision.
    pub(crate) fn next_standing(&mut self) -> Standing {
        self.revision = self.revision.saturating_add(u32::from(self.accepted.custody.is_some()));
        self.standing()
    }

    /// The same for a job that ends.
    pub(crate) fn settled(mut self, state: State, outcome: Option<Outcome>, wall_ms: u64) -> (Accepted, Standing) {
        let last = self.next_standing();
        (
            self.accepted,
            Standing { state, retry_ms: None, disconnected_ms: None, settled_ms: Some(wall_ms), outcome, ..last },
        )
    }

    /// What the worker is sent.
    pub(crate) fn start(&self) -> Start {
        start(&self.accepted, self.run(), self.history.attempts_total, self.history.checkpoint.as_deref())
    }

    /// What a peer is sent.
    pub(crate) fn run_offer(&self) -> RunOffer {
        RunOffer {
            run: self.run(),
            attempt: self.history.attempts_total,
            accepted: self.accepted.clone(),
            checkpoint: self.history.checkpoint.clone(),
            // The edge adds it where it is needed.
            right: None,
        }
    }
}

/// What a worker is sent of a job, whoever its home is.
pub(crate) fn start(accepted: &Accepted, run: Run, attempt: u32, checkpoint: Option<&Checkpoint>) -> Start {
    Start {
        run,
        attempt,
        component: accepted.spec.component,
        name: accepted.spec.function_name.clone(),
        args: accepted.extras.args.clone(),
        env: env(accepted),
        input: accepted.input.clone(),
        memory_mb: accepted.spec.needs.memory(),
        limits: accepted.spec.limits,
        grants: accepted.spec.grants.iter().copied().collect(),
        checkpoint: checkpoint.map(|last| last.bytes.clone()),
        trace: accepted.trace.to_string(),
        traceparent: accepted.extras.traceparent,
    }
}

/// The environment of a run: that of an element of an array says which one it is.
fn env(accepted: &Accepted) -> BTreeMap<String, String> {
    let mut env = accepted.extras.env.clone();
    if let Some((index, array)) = accepted.extras.index.zip(accepted.extras.array) {
        let job = accepted.array_id().map(|array| array.to_string()).unwrap_or_default();
        let says = [
            ("SHOAL_ARRAY_INDEX", index.to_string()),
            ("SHOAL_ARRAY_FIRST", array.first.to_string()),
            ("SHOAL_ARRAY_LAST", array.last.to_string()),
            ("SHOAL_ARRAY_STEP", array.step.to_string()),
            ("SHOAL_ARRAY_SIZE", array.size().to_string()),
            ("SHOAL_ARRAY_JOB", job),
        ];
        env.extend(says.map(|(key, value)| (key.to_owned(), value)));
    }
    env
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_job_is_small() {
        // With a short input, an id in the table and a rank in the queue it is some 400 bytes.
        assert!(size_of::<Job>() <= 200, "{} bytes", size_of::<Job>());
    }
}
