//! Jobs with effects `once`: each run, and each end without a run, needs the word of a majority of the job's set.
//!
//! A member gives its word for an epoch, writes that before anybody hears of it, and then gives it for no lower one, and for a higher
//! one to another node only if that knows how all before have ended. Two majorities share a member. So while a run may be under
//! way, or its end is not known, nobody but who began it can begin another, or end the job; and who has a majority needs nobody's
//! word again to settle what it has begun. `node/docs/once.md` has the argument.

use std::collections::BTreeMap;
use std::sync::Arc;

use shoal_protocol::custody::CustodianSet;
use shoal_protocol::limits::KEEP_JOBS_MAX;
use shoal_protocol::object::job::{Outcome, State};
use shoal_protocol::regency::{first_of_term, term_of};
use shoal_protocol::wire::custody::{Begin, Grant, Granted};
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::{NodeId, ObjectId};

use super::Machine;
use super::telling::{self, noted};
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::Now;
use crate::jobs::{Job, Phase};
use crate::record::{Accepted, Promise, Record, Reign, Standing};
use crate::regents::Left;

/// How the word of custodians stands: who waits, and how many have given it.
pub(crate) struct Votes {
    /// Members that have given it, the one that waits among them.
    pub(crate) given: usize,
    /// Members that are there, the one that waits among them.
    pub(crate) there: usize,
    /// How many are needed.
    pub(crate) wanted: usize,
    /// All members.
    pub(crate) members: usize,
    /// Whom one of them has given it before.
    pub(crate) given_to: Option<NodeId>,
}

impl<F: Faults> Machine<F> {
    /// Takes back what this node has granted: before [`Self::restore`].
    pub fn restore_grants(&mut self, promises: impl Iterator<Item = Promise>) {
        for promise in promises {
            self.grants.give(promise);
        }
    }

    /// After a restart: what has settled needs nobody's word, see [`Self::needs_no_word`].
    pub(super) fn grants_restored(&mut self) {
        let (jobs, charges) = (&self.jobs, &self.charges);
        let known = |job| charges.get(job).is_some_and(|known| known.taken || !known.settled());
        self.grants.keep_only(|job| jobs.contains(job) || known(job));
    }

    /// A job has settled. Of one that was taken over the word stands until it is forgotten: its home may not have heard of it.
    pub(super) fn needs_no_word(&mut self, id: ObjectId) {
        match self.is_foreign(id) {
            true => drop(self.grants.stop_waiting(id)),
            false => self.grants.forget(id),
        }
    }

    /// A settled job is about to be forgotten. One that was taken over by the word of its custodians stays as one of its home's: taken
    /// anew from that it would be open again, and this node would give its word a second time.
    pub(super) fn hand_back(&mut self, id: ObjectId, effects: &mut Vec<Effect>) {
        let is_taken = self.charges.get(id).is_some_and(|known| known.taken);
        if is_taken && self.grants.has_given(id) {
            self.grants.forget(id);
            self.charges.hand_back(id);
            effects.push(Effect::Write(Record::HandedBack(id)));
        }
    }

    /// Whether a job may be handed over, as far as its custodians are concerned.
    pub(super) fn may_begin(&self, id: ObjectId) -> bool {
        self.jobs.get(id).is_none_or(|job| self.has_word(job)) || F::has(Fault::GrantNotAwaited)
    }

    /// Whether nobody but this node can begin or end a job until this node lets go of it.
    fn has_word(&self, job: &Job) -> bool {
        let next = job.epoch.saturating_add(1);
        !needs_word(&job.accepted)
            || job.phase == Phase::Yielded
            || job.placed().is_some()
            || self.grants.is_given(job.id(), next, self.config.node)
    }

    /// Takes a job from where it waits until its custodians let it begin. [`Self::ask_for`] follows.
    pub(super) fn await_word(&mut self, now: Now, id: ObjectId) {
        self.take_out(id);
        self.set_aside(id, Phase::Ungranted);
        let Some(job) = self.jobs.get_mut(id) else { return };
        if let Some(until_ms) = job.queue_limit(now) {
            job.extras.queue_until_ms = Some(until_ms);
            self.timers.set(until_ms, crate::timers::Timer::QueueLimit(id));
        }
        let ask = next_of(job);
        self.grants.wait(ask, None);
    }

    /// Ends a job as soon as its custodians let it end: whether it has to wait for that.
    pub(super) fn ends_later(
        &mut self,
        now: Now,
        id: ObjectId,
        state: State,
        outcome: Option<&Outcome>,
        effects: &mut Vec<Effect>,
    ) -> bool {
        if self.jobs.get(id).is_none_or(|job| self.has_word(job)) {
            return false;
        }
        let is_new = self.jobs.get(id).is_some_and(|job| job.phase == Phase::Keeping);
        self.take_out(id);
        self.set_aside(id, Phase::Ungranted);
        let Some(job) = self.jobs.get_mut(id) else { return false };
        // Nobody has heard of it yet.
        let stands = telling::state(job);
        let first = is_new.then(|| noted(now, job, stands, None));
        job.told = if is_new { stands } else { job.told };
        job.cancelled |= state == State::Cancelled;
        let ask = next_of(job);
        self.grants.wait(ask, Some(Box::new((state, outcome.cloned()))));
        self.write_standing(id, effects);
        effects.extend(first);
        effects.push(Effect::Changed { job: id, settled: false });
        self.ask_for(&[id], effects);
        true
    }

    /// Whether a job only waits for the word that it may end.
    pub(super) fn is_ending(&self, id: ObjectId) -> bool {
        self.grants.waiting(id).is_some_and(|waiting| waiting.ending.is_some())
    }

    /// The set of a job, whoever's it is.
    fn set_of_job(&self, id: ObjectId) -> Option<&CustodianSet> {
        let own = || self.custody.set(self.jobs.get(id)?.accepted.custody?.set).map(Arc::as_ref);
        self.charges.set_of(id).or_else(own)
    }

    /// Asks members that are there and have not answered to let jobs begin.
    pub(super) fn ask_for(&self, jobs: &[ObjectId], effects: &mut Vec<Effect>) {
        let mut asks: BTreeMap<NodeId, Vec<Begin>> = BTreeMap::new();
        for id in jobs {
            let (Some(waiting), Some(set)) = (self.grants.waiting(*id), self.set_of_job(*id)) else { continue };
            let others = set.members.iter().filter(|member| **member != self.config.node);
            for member in others.filter(|member| self.is_there(**member) && !waiting.by.contains(member)) {
                asks.entry(*member).or_default().push(waiting.ask);
            }
        }
        for (member, asks) in asks {
            let messages = asks.chunks(KEEP_JOBS_MAX).map(|jobs| Grant { jobs: jobs.to_vec() });
            effects.extend(
                messages.map(|grant| Effect::ToCustodian { custodian: member, message: PeerMessage::Grant(grant) }),
            );
        }
    }

    /// Asks once more for whatever waits: messages are lost with their connections.
    pub(super) fn ask_again(&self, effects: &mut Vec<Effect>) {
        let jobs: Vec<ObjectId> = self.grants.all_waiting().map(|(job, _)| job).collect();
        self.ask_for(&jobs, effects);
    }

    /// A member of sets is there: jobs that have waited for it have their turn in the queue, the others ask it.
    pub(super) fn word_may_come(&mut self, now: Now, node: NodeId, effects: &mut Vec<Effect>) {
        let of_node = |job| self.set_of_job(job).is_some_and(|set| set.members.contains(&node));
        let waiting = self.grants.all_waiting().filter(|(job, _)| of_node(*job));
        let (begin, ask): (Vec<ObjectId>, Vec<ObjectId>) = waiting
            .map(|(job, waiting)| (job, waiting.ending.is_none() && self.jobs.contains(job)))
            .fold(Default::default(), |(mut begin, mut ask): (Vec<_>, Vec<_>), (job, begins)| {
                if begins {
                    begin.push(job)
                } else {
                    ask.push(job)
                }
                (begin, ask)
            });
        for id in begin {
            self.take_out(id);
            self.enqueue(now, id);
        }
        self.ask_for(&ask, effects);
    }

    /// A home, or a regent of it, wants jobs to begin.
    pub(super) fn grant_asked(&mut self, from: NodeId, grant: Grant, effects: &mut Vec<Effect>) {
        let mut granted = Granted::default();
        for ask in grant.jobs {
            if !self.may_ask(from, ask) {
                continue;
            }
            match self.grants.may_give(ask, from) {
                Ok(()) => {
                    self.promise(Promise { job: ask.job, epoch: ask.epoch, to: from }, effects);
                    granted.jobs.push((ask.job, ask.epoch));
                }
                Err(holder) => granted.refused.push((ask.job, ask.epoch, holder)),
            }
        }
        self.counters.grants += granted.jobs.len() as u64;
        self.counters.grants_refused += granted.refused.len() as u64;
        if granted != Granted::default() {
            effects.push(Effect::ToHome { home: from, message: PeerMessage::Granted(granted) });
        }
    }

    /// Whether a node may ask for this: as the job's home in term 0, else as who acts for it in that term. Of a job that is not here,
    /// or has settled, nothing is said.
    fn may_ask(&self, from: NodeId, ask: Begin) -> bool {
        let Some(set) = self.set_of_job(ask.job) else { return false };
        let open = self.charges.get(ask.job).is_some_and(|known| !known.settled() && !known.taken);
        let (home, term) = (set.home, term_of(ask.epoch));
        let last = self.regents.get((home, set.number)).map(|known| known.last);
        let acts = match term {
            0 => from == home,
            term => set.has_custodian(from) && last.is_none_or(|last| last.term < term || last.regent == from),
        };
        from != self.config.node && acts && ask.epoch > ask.after && (open || self.jobs.contains(ask.job))
    }

    fn promise(&mut self, promise: Promise, effects: &mut Vec<Effect>) {
        let unwritten = F::has(Fault::GrantUnwritten) && promise.to != self.config.node;
        if self.grants.give(promise) && !unwritten {
            effects.push(Effect::Write(Record::Granted(promise)));
        }
    }

    /// A member has answered.
    pub(super) fn granted(&mut self, now: Now, node: NodeId, granted: Granted, effects: &mut Vec<Effect>) {
        for (job, epoch, holder) in granted.refused {
            if let Some(waiting) = self.grants.waiting_mut(job, epoch) {
                waiting.given_to = Some(holder);
            }
        }
        for (job, epoch) in granted.jobs {
            let is_member = self.set_of_job(job).is_some_and(|set| set.members.contains(&node));
            if let Some(waiting) = self.grants.waiting_mut(job, epoch).filter(|_| is_member) {
                waiting.by.insert(node);
                self.count_word(now, job, effects);
            }
        }
    }

    /// Whether a majority has given its word, and this node may give its own.
    fn has_majority(&self, id: ObjectId) -> bool {
        let (Some(waiting), Some(set)) = (self.grants.waiting(id), self.set_of_job(id)) else { return false };
        waiting.by.len() + 1 >= set.majority() && self.grants.may_give(waiting.ask, self.config.node).is_ok()
    }

    /// Lets a job begin, end, or be taken over, if a majority has given its word.
    fn count_word(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        if !self.has_majority(id) {
            return;
        }
        if !self.jobs.contains(id) {
            // It is about to be taken over: as it is durable.
            let set = self.set_of_job(id).map(|set| (set.home, set.number));
            return effects.extend(set.map(|(home, set)| Effect::Take { home, set, jobs: vec![id] }));
        }
        let Some(ending) = self.take_word(id, effects) else { return };
        match ending.map(|ending| *ending) {
            Some((state, outcome)) => self.settle(now, id, state, outcome, effects),
            None => {
                self.take_out(id);
                self.enqueue(now, id);
                effects.push(Effect::Changed { job: id, settled: false });
            }
        }
    }

    /// This node gives its own word at last, which makes it the only one that can go on with the job.
    #[expect(clippy::type_complexity, reason = "whether it waited, and how it ends then")]
    fn take_word(&mut self, id: ObjectId, effects: &mut Vec<Effect>) -> Option<Option<Box<(State, Option<Outcome>)>>> {
        let waiting = self.grants.stop_waiting(id)?;
        self.counters.granted += 1;
        self.promise(Promise { job: id, epoch: waiting.ask.epoch, to: self.config.node }, effects);
        Some(waiting.ending)
    }

    /// Whether a regent may take a job with effects `once` over: it never began under its home, as far as the word of a majority
    /// says. As long as that is missing it is asked for; a job that may have begun is left to its home.
    pub(super) fn may_take_once(
        &mut self,
        reign: &Reign,
        accepted: &Accepted,
        before: &Standing,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let id = accepted.id;
        let ask = Begin { job: id, epoch: first_of_term(reign.regent.term).saturating_add(1), after: before.epoch };
        let may_have_begun = before.state == State::Offered || self.guests.contains(id);
        let here = self.grants.may_give(ask, self.config.node).is_ok();
        // Whoever takes the word has to go on with the job: nobody else can then.
        if may_have_begun || !here || self.left_to_its_home(accepted, before).is_some() {
            self.leave_to_home((reign.regent.home, reign.regent.set), id, Left::Once);
            return false;
        }
        if self.grants.waiting(id).is_some_and(|waiting| waiting.ask == ask) && self.has_majority(id) {
            return self.take_word(id, effects).is_some();
        }
        self.grants.wait(ask, None);
        self.ask_for(&[id], effects);
        false
    }

    /// A home is there: what was asked for to take its jobs over is not needed any more.
    pub(super) fn stop_taking(&mut self, home: NodeId) {
        let taking = self.grants.all_waiting().map(|(job, _)| job);
        let taking: Vec<ObjectId> = taking.filter(|job| job.tag() == home.tag() && !self.jobs.contains(*job)).collect();
        for job in taking {
            self.grants.stop_waiting(job);
        }
    }

    /// How the word of the custodians of a job stands that waits for it.
    pub(super) fn votes(&self, id: ObjectId) -> Votes {
        let (set, waiting) = (self.set_of_job(id), self.grants.waiting(id));
        let others = set.into_iter().flat_map(|set| set.members.iter()).filter(|member| **member != self.config.node);
        Votes {
            given: 1 + waiting.map_or(0, |waiting| waiting.by.len()),
            there: 1 + others.filter(|member| self.is_there(**member)).count(),
            wanted: set.map_or(0, CustodianSet::majority),
            members: set.map_or(1, |set| set.members.len()),
            given_to: waiting.and_then(|waiting| waiting.given_to),
        }
    }
}

/// The next epoch of a job: of all before its node knows what became of them.
fn next_of(job: &Job) -> Begin {
    Begin { job: job.id(), epoch: job.epoch.saturating_add(1), after: job.epoch }
}

/// Whether nothing of a job begins or ends without the word of its custodians. Arrays and their elements are left to their home in
/// any case (`left`): nobody else ever decides them.
pub(super) fn needs_word(accepted: &Accepted) -> bool {
    accepted.terms.effects.is_once() && accepted.custody.is_some() && accepted.extras.array.is_none()
}
