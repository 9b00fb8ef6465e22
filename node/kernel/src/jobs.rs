//! The unsettled jobs of this home.
//!
//! What a job was accepted with is boxed with it as one piece: some 1,100 bytes with a short input, of which 160 are for
//! times, terms and dependencies that few jobs have and that can be boxed apart. For millions of
//! waiting jobs the input, arguments and environment can leave memory when the job is queued and be read again from
//! the journal when it is offered: only [`Job::accepted`] would change, to a form that placement needs (needs, limits,
//! function, component) and a place in the journal.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use shoal_protocol::limits::ATTEMPTS_KEPT_MAX;
use shoal_protocol::name::Labels;
use shoal_protocol::object::job::{Attempt, Ending, Outcome, Progress, State};
use shoal_protocol::wire::peer::RunOffer;
use shoal_protocol::wire::worker::{Run, Start};
use shoal_protocol::{NodeId, ObjectId, WorkerId};

use crate::queue::Rank;
use crate::record::{Accepted, Standing, VERSION};

/// One unsettled job.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) accepted: Accepted,
    pub(crate) name: String,
    pub(crate) labels: Labels,
    /// Of the last run that was offered; 0 before the first.
    pub(crate) epoch: u64,
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) attempts_total: u32,
    pub(crate) cancelled: bool,
    /// It has taken longer in all than it may: it settles when its run has stopped.
    pub(crate) out_of_time: bool,
    pub(crate) priority: i8,
    /// The jobs that it still waits for.
    pub(crate) unmet: BTreeSet<ObjectId>,
    /// When it was last released, or the last job that it waited for has ended, by the wall clock.
    pub(crate) ready_ms: Option<u64>,
    pub(crate) phase: Phase,
    /// It does not run before.
    pub(crate) earliest_ms: u64,
    /// When it has waited for its first run for as long as it may; only while it waits for that.
    pub(crate) queue_until_ms: Option<u64>,
    /// When it has taken as long in all as it may.
    pub(crate) total_until_ms: Option<u64>,
    /// Boxed, since a job that waits has none.
    pub(crate) progress: Option<Box<Progress>>,
    /// Runs that were lost.
    pub(crate) losses: u32,
    /// Runs that were declined, or lost before their guest had started; they are not counted as attempts.
    pub(crate) fruitless: u32,
    /// Numbers what was journaled of where it stands, if custodians keep it.
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
    /// It waits in the queue since then.
    Queued { since_ms: u64 },
    /// It waits until then, and after that in the queue. `until_wall_ms` is the same time for the journal.
    Backoff { until_ms: u64, until_wall_ms: u64 },
    /// A worker or a peer has it, or will have it as soon as its epoch is durable.
    Placed(Placed),
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
        }
    }
}

impl Job {
    /// A job as its records show it, not yet in any phase but the queue.
    pub(crate) fn new(accepted: Accepted, standing: Standing, now_ms: u64) -> Self {
        Self {
            accepted,
            name: standing.name,
            labels: standing.labels,
            epoch: standing.epoch,
            attempts: standing.attempts,
            attempts_total: standing.attempts_total,
            cancelled: standing.cancelled,
            out_of_time: standing.out_of_time,
            priority: standing.priority,
            unmet: standing.unmet,
            ready_ms: standing.ready_ms,
            phase: Phase::Queued { since_ms: now_ms },
            earliest_ms: 0,
            queue_until_ms: None,
            total_until_ms: None,
            progress: None,
            losses: 0,
            fruitless: 0,
            revision: u32::try_from(standing.revision).unwrap_or(u32::MAX),
            alone: standing.alone,
            function_gone: false,
        }
    }

    pub(crate) fn id(&self) -> ObjectId {
        self.accepted.id
    }

    /// The current run.
    pub(crate) fn run(&self) -> Run {
        Run { job: self.accepted.id, epoch: self.epoch }
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

    /// Whether it is to end, and only its run keeps it.
    pub(crate) fn is_stopping(&self) -> bool {
        self.cancelled || self.out_of_time
    }

    /// Since when it may run, by the wall clock: this is what its queue limit counts from.
    pub(crate) fn may_run_since_ms(&self) -> u64 {
        let accepted = &self.accepted;
        accepted.accepted_ms.max(accepted.terms.not_before_ms.unwrap_or(0)).max(self.ready_ms.unwrap_or(0))
    }

    /// Where it was last tried and failed: another worker is preferred.
    pub(crate) fn failed_at(&self) -> Option<WorkerId> {
        self.attempts.last().filter(|attempt| attempt.ended_ms.is_some()).map(|attempt| attempt.worker)
    }

    /// Starts the next run in the books: a new epoch, a new attempt.
    pub(crate) fn begin_attempt(&mut self, worker: WorkerId, name: &str, node: Option<NodeId>, wall_ms: u64) {
        self.epoch += 1;
        self.attempts_total += 1;
        if self.attempts.len() >= ATTEMPTS_KEPT_MAX {
            self.attempts.remove(0);
        }
        self.attempts.push(Attempt {
            epoch: self.epoch,
            worker,
            worker_name: name.to_owned(),
            node,
            offered_ms: wall_ms,
            started_ms: None,
            ended_ms: None,
            ending: None,
        });
    }

    /// Writes down how the current run ended.
    pub(crate) fn end_attempt(&mut self, ending: &Ending, wall_ms: u64) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.ended_ms = Some(wall_ms);
            attempt.ending = Some(ending.clone());
        }
    }

    /// Strikes the current run from the books: it never began. Its epoch stays used.
    pub(crate) fn strike_attempt(&mut self) {
        if self.attempts.pop().is_some() {
            self.attempts_total = self.attempts_total.saturating_sub(1);
        }
    }

    /// What stands in the journal: a running job is `Offered` there.
    pub(crate) fn standing(&self) -> Standing {
        let (state, retry_ms) = match &self.phase {
            Phase::Held => (State::Held, None),
            Phase::Blocked => (State::Blocked, None),
            Phase::Keeping => (self.accepted.standing().state, None),
            Phase::Placed(_) => (State::Offered, None),
            Phase::Backoff { until_wall_ms, .. } => (State::Queued, Some(*until_wall_ms)),
            Phase::Later { .. } | Phase::Queued { .. } => (State::Queued, None),
        };
        Standing {
            version: VERSION,
            state,
            name: self.name.clone(),
            labels: self.labels.clone(),
            epoch: self.epoch,
            attempts: self.attempts.clone(),
            attempts_total: self.attempts_total,
            cancelled: self.cancelled,
            out_of_time: self.out_of_time,
            priority: self.priority,
            ready_ms: self.ready_ms,
            retry_ms,
            unmet: self.unmet.clone(),
            settled_ms: None,
            outcome: None,
            revision: u64::from(self.revision),
            alone: self.alone,
        }
    }

    /// The same after one more change: of a job that custodians keep it has the next revision.
    pub(crate) fn next_standing(&mut self) -> Standing {
        self.revision = self.revision.saturating_add(u32::from(self.accepted.custody.is_some()));
        self.standing()
    }

    /// The same for a job that ends.
    pub(crate) fn settled(mut self, state: State, outcome: Option<Outcome>, wall_ms: u64) -> (Accepted, Standing) {
        let revision = self.next_standing().revision;
        let standing = Standing {
            version: VERSION,
            state,
            name: self.name,
            labels: self.labels,
            epoch: self.epoch,
            attempts: self.attempts,
            attempts_total: self.attempts_total,
            cancelled: self.cancelled,
            out_of_time: self.out_of_time,
            priority: self.priority,
            ready_ms: self.ready_ms,
            retry_ms: None,
            unmet: self.unmet,
            settled_ms: Some(wall_ms),
            outcome,
            revision,
            alone: self.alone,
        };
        (self.accepted, standing)
    }

    /// What the worker is sent.
    pub(crate) fn start(&self) -> Start {
        start(&self.accepted, self.run(), self.attempts_total)
    }

    /// What a peer is sent.
    pub(crate) fn run_offer(&self) -> RunOffer {
        RunOffer { run: self.run(), attempt: self.attempts_total, accepted: self.accepted.clone() }
    }
}

/// What a worker is sent of a job, whoever its home is.
pub(crate) fn start(accepted: &Accepted, run: Run, attempt: u32) -> Start {
    Start {
        run,
        attempt,
        component: accepted.component,
        name: accepted.function_name.clone(),
        args: accepted.args.clone(),
        env: accepted.env.clone(),
        input: accepted.input.clone(),
        memory_mb: accepted.needs.memory(),
        limits: accepted.limits,
        grants: accepted.grants.iter().copied().collect(),
        trace: accepted.trace.clone(),
        traceparent: accepted.traceparent,
    }
}

/// All unsettled jobs, by id.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    table: BTreeMap<ObjectId, Box<Job>>,
}

impl Jobs {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn contains(&self, id: ObjectId) -> bool {
        self.table.contains_key(&id)
    }

    pub(crate) fn insert(&mut self, job: Job) {
        self.table.insert(job.id(), Box::new(job));
    }

    pub(crate) fn remove(&mut self, id: ObjectId) -> Option<Job> {
        self.table.remove(&id).map(|job| *job)
    }

    pub(crate) fn get(&self, id: ObjectId) -> Option<&Job> {
        self.table.get(&id).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, id: ObjectId) -> Option<&mut Job> {
        self.table.get_mut(&id).map(Box::as_mut)
    }

    /// The jobs behind this one, by id.
    pub(crate) fn behind(&self, after: Option<ObjectId>) -> impl Iterator<Item = &Job> {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.table.range((first, Bound::Unbounded)).map(|(_, job)| job.as_ref())
    }

    /// Every job, by id: only for what happens rarely.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Job> {
        self.table.values_mut().map(Box::as_mut)
    }

    /// The job of this run, if the run is the current one and at this worker.
    pub(crate) fn current(&self, worker: WorkerId, run: Run) -> Option<&Job> {
        let job = self.get(run.job)?;
        let here = job.placed().is_some_and(|placed| placed.worker == worker);
        (here && job.epoch == run.epoch).then_some(job)
    }

    /// The same, to be changed.
    pub(crate) fn current_mut(&mut self, worker: WorkerId, run: Run) -> Option<&mut Job> {
        let job = self.get_mut(run.job)?;
        let here = job.placed().is_some_and(|placed| placed.worker == worker);
        (here && job.epoch == run.epoch).then_some(job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_waiting_job_is_small() {
        // With two allocator blocks for names, an id in the table and a rank in the queue it is some 1,100 bytes.
        assert!(size_of::<Job>() <= 960, "{} bytes", size_of::<Job>());
    }
}
