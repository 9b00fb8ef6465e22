//! This node leaves: all its jobs go to another one, which is their regent from then on, by this home's own word.
//!
//! From the first moment nothing is accepted or begun here. What waits goes at once; what runs, when its run has ended, or after
//! that was stopped where nobody wants to wait. Whoever carries it out asks for the next jobs again and again, sends them, and
//! says what the other node has written ([`crate::Input::KeepTaken`]): only then this home has yielded them. So a crash of either
//! side leaves each job decided by one of the two, and the same begins anew.
//!
//! A job stays under the set in which it is kept, so that its custodians follow the other node as they would one of their own. What
//! no set keeps goes under one of its own, of both nodes.

use std::collections::BTreeSet;
use std::num::NonZeroU8;

use shoal_protocol::custody::{CustodianSet, Custody};
use shoal_protocol::regency::Regent;
use shoal_protocol::wire::drain::HandedJob;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem};

use super::Machine;
use crate::effect::{Effect, Leaving, Reply};
use crate::faults::Faults;
use crate::input::{Now, Principal};
use crate::jobs::{Job, Phase};
use crate::record::{Custodians, Drain, Record, Reign};
use crate::rights;

/// A hand-over skips so many terms. Why 2: a claim takes the next one, and one that is made at the same time is lower.
const TERMS_AHEAD: u32 = 2;

/// Jobs that are given out at once. Why 512: each time all jobs are looked at, and these are some MiB.
const PAGE_LEN: usize = 512;

/// When to try again at a node that leaves, in milliseconds: by then it may be gone, and others answer for it.
const RETRY_MS: u64 = 5_000;

/// Why a node that leaves accepts nothing.
pub(super) fn refusal(drain: &Drain) -> Problem {
    let detail = format!("this node leaves and hands over what it has to node {}: go to that one", drain.to);
    Problem::new(Kind::Draining, detail).retry_after(RETRY_MS)
}

impl<F: Faults> Machine<F> {
    /// Goes on with leaving, after a restart: before any input.
    pub fn restore_drain(&mut self, drain: Option<Drain>) {
        self.refusing = drain.as_ref().map(refusal);
        self.drain = drain;
    }

    /// From now on all that this home has goes to another node. The same again changes nothing but what is waited for.
    pub(super) fn begin_drain(
        &mut self,
        now: Now,
        principal: &Principal,
        to: NodeId,
        hasten: bool,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Problem> {
        if !rights::may_operate(principal) {
            return Err(rights::refusal(principal, "drain this node"));
        }
        if to == self.config.node {
            return Err(Problem::new(Kind::InvalidField, "to: a node cannot hand over to itself: name another one"));
        }
        if let Some(home) = self.charges.taken_of() {
            let detail = format!(
                "this node decides jobs of node {}, for which it acts, and can hand over its own only: it can leave when those are forgotten",
                home.short()
            );
            return Err(Problem::new(Kind::Conflict, detail));
        }
        let once = |job: &&Job| job.accepted.terms.effects.is_once() && !job.accepted.is_array();
        let once = self.jobs.iter().filter(once).filter(|job| job.accepted.extras.index.is_none()).count();
        if once > 0 && self.drain.is_none() {
            let detail = format!(
                "{once} jobs with effects `once` have not ended, and these go to no other node: wait for them, or cancel them, then drain this node"
            );
            return Err(Problem::new(Kind::Conflict, detail));
        }
        let before = self.drain.filter(|drain| drain.to == to);
        let set = before.map_or_else(|| self.begin_last_set(to, effects), |drain| drain.set);
        self.appoint(to, effects);
        let since_ms = before.map_or(now.wall_ms, |drain| drain.since_ms);
        let drain = Drain { to, set, hasten, since_ms };
        if before != Some(drain) {
            effects.push(Effect::Write(Record::Drain(Some(drain))));
        }
        self.take_back_prefetched(now, effects);
        self.restore_drain(Some(drain));
        Ok(Reply::Done)
    }

    /// What waits at a busy worker need not be waited for.
    fn take_back_prefetched(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let own = self.workers.own().filter(|worker| worker.attached());
        let ahead: Vec<ObjectId> = own.flat_map(|worker| self.waiting_at(worker)).map(|(_, id)| id).collect();
        ahead.into_iter().for_each(|id| self.stop_run(now, id, effects));
    }

    /// The set under which jobs go that none keeps.
    fn begin_last_set(&mut self, to: NodeId, effects: &mut Vec<Effect>) -> u32 {
        let home = self.config.node;
        let number = self.custody.next_number().unwrap_or(u32::MAX);
        let version = shoal_protocol::custody::VERSION;
        let set = CustodianSet { version, home, number, members: vec![home, to] };
        let record = Custodians { set: set.clone(), signed: None, unconfirmed: false };
        effects.push(Effect::Write(Record::Custodians(Box::new(record))));
        self.custody.drop_proposal();
        self.custody.put_set(set.into());
        number
    }

    /// Makes another node regent of every set of this home for which no other one acts.
    fn appoint(&mut self, to: NodeId, effects: &mut Vec<Effect>) {
        let home = self.config.node;
        for set in self.custody.numbers() {
            let realm = (home, set);
            if self.regents.get(realm).is_some_and(|known| known.acting.is_some()) {
                continue;
            }
            let term = self.regents.term(realm).saturating_add(TERMS_AHEAD);
            let regent = Regent { home, set, term, regent: to };
            self.write_reign(Reign { regent, acts: true, confirmed: true, votes: Vec::new() }, effects);
        }
    }

    /// What goes next, and what is left.
    pub(super) fn hand_over(&mut self, now: Now, effects: &mut Vec<Effect>) -> Reply {
        let Some(drain) = self.drain else { return Reply::Leaving(Box::default()) };
        if drain.hasten {
            self.stop_runs(now, effects);
        }
        let mut left = Leaving { drain: Some(drain), guests: self.guests.placed() as u64, ..Leaving::default() };
        let runs = self.arrays_that_run();
        let mut goes = BTreeSet::new();
        for job in self.jobs.iter() {
            match &job.phase {
                Phase::Yielded => continue,
                Phase::Placed(_) | Phase::Keeping => left.running += 1,
                _ => left.waiting += 1,
            }
            let waits = !matches!(job.phase, Phase::Placed(_) | Phase::Keeping);
            // An element follows its array, and that goes when none of its elements runs: what ends here is counted here.
            let array = job.accepted.array_id();
            let follows = array.is_none_or(|array| goes.contains(&array) || self.is_yielded(array));
            if !waits || !follows || runs.contains(&job.id()) || left.jobs.len() >= PAGE_LEN {
                continue;
            }
            if let Some(regent) = self.heir_of(job, &drain) {
                goes.insert(job.id());
                left.jobs.push((regent, handed(job, regent.set)));
            }
        }
        Reply::Leaving(Box::new(left))
    }

    /// By which right the other node decides a job.
    fn heir_of(&self, job: &Job, drain: &Drain) -> Option<Regent> {
        let sets = job.accepted.custody.map(|custody| custody.set).into_iter().chain([drain.set]);
        let acting = |set| self.regents.get((self.config.node, set)).and_then(|known| known.acting.as_ref());
        sets.filter_map(acting).map(|reign| reign.regent).find(|regent| regent.regent == drain.to)
    }

    /// The arrays of which an element is at a worker.
    fn arrays_that_run(&self) -> BTreeSet<ObjectId> {
        let running = self.jobs.iter().filter(|job| job.placed().is_some());
        running.filter_map(|job| job.accepted.array_id()).collect()
    }

    /// Stops what runs: it is handed over as it waits then.
    fn stop_runs(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let placed: Vec<ObjectId> = self.jobs.iter().filter(|job| job.placed().is_some()).map(Job::id).collect();
        for id in placed {
            self.stop_run(now, id, effects);
        }
    }

    /// All is handed over: what was promised is at the other node, and this one is empty.
    pub(super) fn drained(&mut self, principal: &Principal, effects: &mut Vec<Effect>) -> Result<Reply, Problem> {
        if !rights::may_operate(principal) {
            return Err(rights::refusal(principal, "drain this node"));
        }
        if self.jobs.iter().any(|job| job.phase != Phase::Yielded) {
            return Err(Problem::new(Kind::Conflict, "jobs are left that were not handed over"));
        }
        if self.drain.take().is_some() {
            effects.push(Effect::Write(Record::Drain(None)));
        }
        Ok(Reply::Done)
    }
}

/// A job as it is sent: under the set in which the other node decides it.
fn handed(job: &Job, set: u32) -> HandedJob {
    let mut accepted = job.accepted.clone();
    accepted.custody = Some(under(accepted.custody, set));
    HandedJob {
        accepted: Box::new(accepted),
        standing: Box::new(job.standing()),
        checkpoint: job.history.checkpoint.clone(),
    }
}

/// With whom a job is kept from now on.
fn under(before: Option<Custody>, set: u32) -> Custody {
    Custody { set, durability: before.map_or(NonZeroU8::MIN, |custody| custody.durability) }
}
