//! What each input does. The parts: [`submit`] takes jobs in, [`keys`] none twice, [`schedule`] hands them to workers and peers, [`sharing`] says whose turn it is and who may have more, [`runs`]
//! follows a run to its end, [`custody`] brings jobs to those who keep them with this home, [`charges`] keeps those of others,
//! [`takeover`] goes on with them when their home is away, and [`merging`] joins both sides when it is back, [`drain`] gives all
//! of them away when this node leaves, and [`inheriting`] takes those of one that does, [`grants`] brings those that never run twice
//! the word of their custodians,
//! [`waiting`] what waits before and between runs, [`dependencies`] what waits for others, [`memo`] what is not run again, [`arrays`] jobs that stand for many, [`sweeping`] what has settled, [`calling`] tells others of it, [`telling`] tells subscribers, [`attachment`] follows workers, [`disconnect`] jobs that wait for one of them, [`peers`] what peers do beyond that, [`seek`] looks for more
//! of them, [`checkpoints`] keeps what runs save for the next, [`guests`] runs what other homes offer, [`homes`] talks with these homes, [`commands`] answers everything else.
//!
//! Invariant: a run is offered only after its epoch is written, in the same list of effects (`runs::offer`).
//! Invariant: a job settles once: settling takes it out of memory, and what is not in memory cannot settle.
//! Invariant: a result counts only for the current epoch at the current worker (`Jobs::current`).
//! Invariant: every job in memory is in exactly one place: the queue, beside it (held, or with a timer), or one worker's runs.
//! Invariant: a run of another home is taken, and its ending reported, only after that is written (`guests`).
//! Invariant: a job that others shall have is acknowledged, and runs, only after they have said that it is on their disks, or
//! were given up (`custody`); they say it only after that is written (`charges`).
//! Invariant: a job with effects `once` is handed over, and ends, only with the word of a majority of its set (`grants`).

mod array_takeover;
mod arrays;
mod attachment;
mod calling;
mod charges;
mod checkpoints;
mod commands;
mod custody;
mod dependencies;
mod disconnect;
mod drain;
mod grants;
mod guests;
mod homes;
mod inheriting;
mod keys;
mod left;
mod memo;
mod merging;
mod peers;
mod runs;
mod schedule;
mod seek;
mod sharing;
mod submit;
mod sweeping;
mod takeover;
mod telling;
mod waiting;

pub(crate) use grants::Votes;
pub use sweeping::SWEEP_LEN_MAX;

use std::collections::{BTreeMap, BTreeSet};
use std::marker::PhantomData;

use shoal_protocol::object::function::Needs;
use shoal_protocol::object::job::State;
use shoal_protocol::{NodeId, ObjectId, Problem, WorkerId};

use crate::calls::Calls;
use crate::charges::Charges;
use crate::config::Config;
use crate::counters::Counters;
use crate::custody::Custody;
use crate::dependents::Dependents;
use crate::effect::{Effect, Load};
use crate::faults::{Fault, Faults};
use crate::functions::Functions;
use crate::grants::Grants;
use crate::guests::Guests;
use crate::input::{Input, Now};
use crate::jobs::{Job, Jobs, Phase, Placed};
use crate::keys::Keys;
use crate::memos::Memos;
use crate::queue::Queue;
use crate::quotas::Rates;
use crate::record::{Accepted, Drain, Standing};
use crate::regents::Regents;
use crate::retention::Shelves;
use crate::shares::Shares;
use crate::specs::Specs;
use crate::timers::{Timer, Timers};
use crate::workers::Workers;

/// The kernel. Use it as [`crate::Kernel`].
#[derive(Debug)]
pub struct Machine<F> {
    config: Config,
    jobs: Jobs,
    queue: Queue,
    workers: Workers,
    guests: Guests,
    custody: Custody,
    charges: Charges,
    regents: Regents,
    /// Settled jobs of which the edge was asked for the record, see [`Self::merge`].
    merging: BTreeSet<ObjectId>,
    grants: Grants,
    functions: Functions,
    specs: Specs,
    dependents: Dependents,
    keys: Keys,
    memos: Memos,
    calls: Calls,
    shelves: Shelves,
    shares: Shares,
    rates: Rates,
    /// A timer is set to look at what was used.
    shares_due: bool,
    timers: Timers,
    counters: Counters,
    /// Why nothing is accepted at the moment.
    refusing: Option<Problem>,
    /// This node leaves.
    drain: Option<Drain>,
    /// Offers so far.
    turn: u64,
    /// The worker that the last step kept free for a job that has waited for long.
    reserved: Option<WorkerId>,
    /// For which needs peers were looked for.
    seeks: BTreeMap<Needs, seek::Sought>,
    /// Something has changed that placement looks at.
    placeable: bool,
    /// What the last [`Effect::Wake`] said.
    wake_ms: Option<u64>,
    faults: PhantomData<F>,
}

impl<F: Faults> Machine<F> {
    /// A kernel without jobs, functions or workers.
    pub fn new(config: Config) -> Self {
        Self {
            shares: Shares::new(config.share_half_life_ms),
            rates: Rates::default(),
            shares_due: false,
            config,
            jobs: Jobs::default(),
            queue: Queue::default(),
            workers: Workers::default(),
            guests: Guests::default(),
            custody: Custody::default(),
            charges: Charges::default(),
            regents: Regents::default(),
            merging: BTreeSet::new(),
            grants: Grants::default(),
            functions: Functions::default(),
            specs: Specs::default(),
            dependents: Dependents::default(),
            keys: Keys::default(),
            memos: Memos::default(),
            calls: Calls::default(),
            shelves: Shelves::default(),
            timers: Timers::default(),
            counters: Counters::default(),
            refusing: None,
            drain: None,
            turn: 0,
            reserved: None,
            seeks: BTreeMap::new(),
            placeable: false,
            wake_ms: None,
            faults: PhantomData,
        }
    }

    /// Takes the unsettled jobs of a journal back: first of all inputs, after a start. Settled ones are skipped.
    ///
    /// A job that was at a worker stays there for one lease (the grantor's count): the worker may still run it, and says
    /// so when it attaches. [`Self::restore_guests`] follows. Afterwards the edges hand in what they know again: [`Input::Function`] and
    /// [`Input::Project`] for each that is there, [`Input::FunctionGone`] for each deleted one.
    pub fn restore(&mut self, now: Now, jobs: impl Iterator<Item = (Accepted, Standing)>, effects: &mut Vec<Effect>) {
        let first = effects.len();
        self.advance_shares(now);
        let (mut blocked, mut arrays, mut stopped, mut equals) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (accepted, standing) in jobs.filter(|(_, standing)| !standing.state.is_settled()) {
            let at = standing.attempts.last().map(|at| (at.worker, at.worker_name.clone(), at.node));
            let offered = standing.state == State::Offered;
            if offered && F::has(Fault::OfferedForgotten) {
                continue;
            }
            let (state, retry_ms, disconnected_ms) = (standing.state, standing.retry_ms, standing.disconnected_ms);
            let mut job = Job::new(accepted, standing, now.mono_ms);
            if F::has(Fault::DisconnectForgotten) {
                job.accepted.terms.on_disconnect = None;
            }
            if F::has(Fault::TimeForgotten) {
                job.accepted.terms.not_before_ms = None;
            }
            if F::has(Fault::LimitsForgotten) {
                let limits = &mut job.accepted.spec_mut().limits;
                (limits.queue_ms, limits.total_ms) = (None, None);
            }
            if F::has(Fault::BlockForgotten) {
                job.extras.unmet.clear();
            }
            let (id, stopping, memo) = (job.id(), job.is_stopping(), job.accepted.terms.memo && job.is_fresh());
            blocked.extend((!job.extras.unmet.is_empty()).then_some(id));
            self.counters.restored += 1;
            let shared = job.accepted.custody.is_some_and(|custody| custody.durability.get() > 1) && !job.alone;
            if shared && job.accepted.extras.key.is_some() {
                self.custody.doubt(id);
            }
            self.take_in(now, job);
            match at.filter(|_| offered && !self.is_yielded(id)) {
                Some((worker, name, node)) => {
                    self.restore_run(now, id, worker, &name, node);
                    self.restore_disconnect(now, id, disconnected_ms);
                }
                None if self.is_yielded(id) => self.set_aside(id, Phase::Yielded),
                // What is under way must be known before.
                None if memo => equals.push((id, state, retry_ms)),
                None => self.wait_as(now, id, state, retry_ms),
            }
            self.element_restored(id);
            let array = self.jobs.get(id).is_some_and(|job| job.extras.elements.is_some());
            arrays.extend(array.then_some(id));
            stopped.extend((stopping && !offered && !array && !self.is_yielded(id)).then_some(id));
        }
        equals.into_iter().for_each(|(id, state, retry_ms)| self.wait_as(now, id, state, retry_ms));
        // Not before all elements are here: an array ends with the last of them.
        stopped.into_iter().for_each(|id| self.settle_stopped(now, id, None, effects));
        arrays.into_iter().for_each(|id| self.array_restored(now, id, effects));
        blocked.into_iter().for_each(|id| self.depend(id, effects));
        self.finish(now, effects);
        self.tell(now, first, effects);
    }

    /// Handles one input. Effects are appended in the order in which they may be seen; see [`Effect`].
    pub fn handle(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        let first = effects.len();
        self.advance_shares(now);
        match input {
            Input::Tick => self.wake_ms = None,
            Input::Request { request, principal, command } => self.command(now, request, principal, command, effects),
            Input::Function(function) => self.functions.put(*function),
            Input::FunctionGone(function) => self.function_gone(now, function, effects),
            Input::Project(project) => self.project(*project),
            Input::ProjectGone(project) => self.project_gone(project),
            Input::WorkerAttached(attached) => self.attach(now, *attached, effects),
            Input::WorkerDetached { worker, connection, dead } => self.detach(now, worker, connection, dead, effects),
            Input::Heartbeat { worker, runs } => self.heartbeat(now, worker, runs, effects),
            Input::Started { worker, run } => self.started(now, worker, run, effects),
            Input::Progress { worker, run, progress } => self.progress(worker, run, progress, effects),
            Input::Ended { worker, run, outcome } => self.ended(now, worker, run, *outcome, effects),
            Input::Declined { worker, run, problem } => self.declined(now, worker, run, problem, effects),
            Input::Leaving { worker } => self.leaving(worker),
            Input::Learned { job, end } => self.learned(job, end),
            Input::KeyTold { key, job, body } => self.key_told(now, key, job, body, effects),
            Input::Called { job, attempt, end } => self.called(now, job, attempt, end, effects),
            Input::Oldest { group, jobs } => self.oldest(now, group, &jobs, effects),
            Input::Refuse(problem) => self.refusing = Some(problem),
            Input::Accept => {
                self.refusing = self.drain.as_ref().map(drain::refusal);
                self.placeable = true;
            }
            other => self.handle_peer(now, other, effects),
        }
        self.finish(now, effects);
        self.tell(now, first, effects);
    }

    /// The inputs that come from other nodes.
    fn handle_peer(&mut self, now: Now, input: Input, effects: &mut Vec<Effect>) {
        match input {
            Input::PeerConnected { node, connection } => self.peer_connected(now, node, connection, effects),
            Input::PeerAttached(attached) => self.attach_peer(now, *attached, effects),
            Input::PeerDetached { node, connection } => self.detach_peer(now, node, connection, effects),
            Input::PeerHint { node, hint, rtt_us } => self.hint(node, *hint, rtt_us),
            Input::PeerTaken { node, run, worker } => self.taken(node, run, worker, effects),
            Input::Delivering { node, run } => self.delivering(now, node, run),
            Input::PeerCheckpoint { node, run, checkpoint } => self.peer_checkpoint(node, run, *checkpoint, effects),
            Input::HomeCheckpointed { home, run, number } => self.home_checkpointed(home, run, number, effects),
            Input::HomeAttached { home, connection, lease_ms, drop } => {
                self.home_attached(now, home, connection, lease_ms, &drop, effects);
            }
            Input::Offered { home, connection, offer } => self.offered(now, home, connection, *offer, effects),
            Input::HomeCancel { home, run } => self.home_cancel(now, home, run, effects),
            Input::HomeSettled { home, run } => self.home_settled(now, home, run, effects),
            Input::Keep { home, set, signed, jobs } => self.keep_charges(now, home, *set, *signed, jobs, effects),
            Input::Compare { home, after } => self.compare_charges(home, after, effects),
            Input::Forget { home, jobs } => self.forget_charges(now, home, jobs, effects),
            Input::Kept { node, kept } => self.kept(now, node, kept, effects),
            Input::Holding { node, page } => self.holding(now, node, page, effects),
            Input::Recalled { recall, record } => self.recalled(recall, record, effects),
            Input::Claimed { vote } => self.claimed(&vote, effects),
            Input::Voted { vote, signed } => self.voted(now, &vote, *signed, effects),
            Input::Took { home, set, jobs } => self.took(now, (home, set), jobs, effects),
            Input::KeepTaken { from, reign, jobs } => self.told_by_regent(now, from, *reign, jobs, effects),
            Input::Merge { from, told, record } => self.merge(now, from, *told, record, effects),
            Input::Grant { from, grant } => self.grant_asked(from, grant, effects),
            Input::Granted { node, granted } => self.granted(now, node, granted, effects),
            _ => {}
        }
    }

    /// How many jobs wait and run, and what could run them.
    pub fn load(&self) -> Load {
        let placed = self.jobs.len().saturating_sub(self.queue.waiting());
        let attached = self.workers.own().filter(|worker| worker.attached());
        Load {
            waiting: self.jobs.waiting_beyond(self.queue.waiting()),
            running: placed as u64,
            guests: self.guests.placed() as u64,
            workers: attached.clone().map(|_| 1).sum(),
            slots: attached.map(|worker| worker.offer.slots).fold(0, u32::saturating_add),
        }
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// What follows from any input: what is due, what can be placed, when to be woken.
    fn finish(&mut self, now: Now, effects: &mut Vec<Effect>) {
        while let Some(timer) = self.timers.pop(now.mono_ms) {
            match timer {
                Timer::Lease(worker) => self.lease_due(now, worker, effects),
                Timer::Backoff(job) => self.wait_is_over(now, job, effects),
                Timer::Replace(job) => self.replace_due(now, job, effects),
                Timer::QueueLimit(job) => self.queue_limit(now, job, effects),
                Timer::TotalLimit(job) => self.total_limit(now, job, effects),
                Timer::Beat(home) => self.beat(now, home, effects),
                Timer::Guest(job) => self.guest_is_old(now, job, effects),
                Timer::Keep(submission) => self.keep_due(now, submission, effects),
                Timer::Custody => self.custody_due(now, effects),
                Timer::Sweep(group) => self.sweep_due(now, group, effects),
                Timer::Call(job) => self.call_due(now, job, effects),
                Timer::Shares => self.shares_due(now, effects),
                Timer::Place => self.placeable = true,
            }
        }
        self.tell_dependents(now, effects);
        self.tell_equals(now, effects);
        if std::mem::take(&mut self.placeable) {
            self.place(now, effects);
            self.placeable = false;
        }
        let next = self.timers.next_ms();
        if let Some(at_ms) = next.filter(|_| next != self.wake_ms) {
            effects.push(Effect::Wake { at_ms });
        }
        self.wake_ms = next;
    }

    /// Puts a job of the table where it was before a restart.
    fn restore_run(&mut self, now: Now, id: ObjectId, worker: WorkerId, name: &str, node: Option<NodeId>) {
        self.turn += 1;
        let Some(job) = self.jobs.get_mut(id) else { return };
        let mut placed = Placed::new(worker, self.turn, now.mono_ms);
        placed.cancel_ms = job.is_stopping().then_some(now.mono_ms);
        (placed.recovering, placed.restored) = (true, true);
        job.phase = Phase::Placed(Box::new(placed));
        self.begin_use(now, id);
        self.shares.started(id);
        if self.workers.get(worker).is_none() {
            // Of a peer the attempt knows the name of the worker there.
            let name = node.map_or_else(|| name.to_owned(), |node| node.short());
            self.meet(now, worker, &name, node);
        }
        if let (Some(job), Some(worker)) = (self.jobs.get(id), self.workers.get_mut(worker)) {
            worker.take(id, &job.accepted.spec.needs);
        }
        self.lead_equals(id);
    }
}
