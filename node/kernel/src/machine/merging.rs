//! Both sides of a cut meet again: a home hears from its regent how jobs stand, and a regent from the home what that has settled
//! meanwhile.
//!
//! The higher term stands. Where both sides have settled a job, the settlement of the lower term is kept beside the other as
//! *superseded*; where only the home has, its regent takes that over, and nothing is run again. A home goes on with no job that
//! was taken over: it shows what its regent says.

use shoal_protocol::object::job::{Payload, State, Superseded};
use shoal_protocol::regency::term_of;
use shoal_protocol::wire::custody::{KeepJob, Kept};
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::{NodeId, ObjectId};

use super::Machine;
use super::telling::noted;
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::{Now, Principal};
use crate::jobs::{Job, Phase, stored_bytes};
use crate::record::{Accepted, Group, Record, Reign, Standing};

impl<F: Faults> Machine<F> {
    /// A regent says how jobs stand: of this home, or of one whose jobs are kept here as well.
    pub(super) fn told_by_regent(
        &mut self,
        now: Now,
        from: NodeId,
        reign: Reign,
        jobs: Vec<KeepJob>,
        effects: &mut Vec<Effect>,
    ) {
        let (home, set) = (reign.regent.home, reign.regent.set);
        let mut kept = Kept { home: Some(home), set, ..Kept::default() };
        let ours = home == self.config.node;
        if self.regents.term((home, set)) < reign.regent.term || self.is_news(&reign) {
            self.counters.reigns_heard += 1;
            effects.push(Effect::Write(Record::Reign(Box::new(reign.clone()))));
            self.regents.put(reign, false);
        }
        for told in jobs {
            let taken = self.charges.get(told.job).is_some_and(|known| known.taken);
            match ours || taken {
                true if F::has(Fault::NotYielded) => {}
                true => self.yield_to(now, from, told, &mut kept, effects),
                false => self.keep_charge(home, set, told, &mut kept, effects),
            }
        }
        effects.push(Effect::ToHome { home: from, message: PeerMessage::Kept(kept) });
    }

    /// Whether this is more than is known: that somebody acts for whom this node has only voted.
    fn is_news(&self, reign: &Reign) -> bool {
        let known = self.regents.get((reign.regent.home, reign.regent.set));
        known.is_some_and(|known| known.acting.as_ref().is_none_or(|acting| acting.regent.term < reign.regent.term))
    }

    /// Somebody else decides a job from now on.
    fn yield_to(&mut self, now: Now, from: NodeId, told: KeepJob, kept: &mut Kept, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get(told.job) else {
            return self.ask_to_merge(from, told, effects);
        };
        let news = told.revision() > job.last_revision();
        if let Some(standing) = &told.standing {
            self.insist(standing, told.job, effects);
        }
        if !news {
            let Some(job) = self.jobs.get(told.job) else { return };
            return kept.jobs.push((told.job, job.last_revision()));
        }
        let (id, revision) = (told.job, told.revision());
        if let Some(accepted) = told.accepted {
            self.adopt_input(id, accepted.input, effects);
        }
        if let Some(standing) = told.standing {
            let cancelled = standing.cancelled || self.insists(id, &standing);
            self.adopt(now, id, Standing { cancelled, ..*standing }, effects);
        }
        kept.jobs.push((id, revision));
    }

    /// Whether a job was cancelled at this home, and its regent, which goes on with it, has not heard of that.
    fn insists(&self, id: ObjectId, theirs: &Standing) -> bool {
        // Whether a job is a duplicate its regent finds out by itself.
        let asked = |job: &Job| job.cancelled && job.extras.duplicate_of.is_none();
        let open = !theirs.cancelled && !theirs.state.is_settled();
        open && !self.is_foreign(id) && self.jobs.get(id).is_some_and(asked)
    }

    /// Tells the regent of a job that somebody has cancelled it here: what was answered stays true.
    fn insist(&self, theirs: &Standing, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(regent) = theirs.regent.filter(|regent| self.insists(id, theirs) && self.is_there(*regent)) else {
            return;
        };
        if let Some(job) = self.jobs.get(id) {
            self.keep(regent, &job.accepted, KeepJob::news(&job.accepted, job.standing()), effects);
        }
    }

    /// The result of another job that is the input of this one has come to who decides it.
    fn adopt_input(&mut self, id: ObjectId, input: Payload, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(id).filter(|job| job.accepted.input != input) else { return };
        job.accepted.input = input;
        effects.push(Effect::Write(Record::Supplied(Box::new(job.accepted.clone()))));
    }

    /// A job of the table stands as somebody else has decided.
    fn adopt(&mut self, now: Now, id: ObjectId, standing: Standing, effects: &mut Vec<Effect>) {
        let standing = self.cede_array(now, id, standing, effects);
        self.give_up_run(id, effects);
        self.take_out(id);
        let Some(mut job) = self.jobs.remove(id) else { return };
        self.counters.yielded += u64::from(job.phase != Phase::Yielded);
        job.follow(&standing);
        self.jobs.insert(job);
        if standing.state.is_settled() {
            return self.settle_as(now, id, standing, effects);
        }
        let Some(job) = self.jobs.get_mut(id) else { return };
        let told = (job.told != standing.state).then(|| noted(now, job, standing.state, None));
        job.told = standing.state;
        self.set_aside(id, Phase::Yielded);
        effects.push(Effect::Write(Record::Standing(id, Box::new(standing.clone()))));
        self.note_taken(id, &standing);
        effects.extend(told);
        effects.push(Effect::Changed { job: id, settled: false });
    }

    /// Stops the run of a job that somebody else decides from now on.
    pub(super) fn give_up_run(&mut self, id: ObjectId, effects: &mut Vec<Effect>) {
        if self.jobs.get(id).is_some_and(|job| job.placed().is_some()) {
            self.abandon(id, effects);
            self.release(id);
        }
    }

    /// Whether a job's regent, which is another node, goes on with it.
    pub(super) fn is_yielded(&self, id: ObjectId) -> bool {
        let rule = self.jobs.get(id).and_then(|job| job.extras.rule.as_ref());
        rule.is_some_and(|rule| rule.regent != self.config.node)
    }

    /// A home says something of a job that this node has taken over.
    pub(super) fn home_says(
        &mut self,
        now: Now,
        from: NodeId,
        told: KeepJob,
        kept: &mut Kept,
        effects: &mut Vec<Effect>,
    ) {
        let settled = told.standing.as_ref().is_some_and(|standing| standing.state.is_settled());
        let known = self.charges.get(told.job).map_or(0, |known| known.revision);
        let cancelled = told.standing.as_ref().is_some_and(|standing| standing.cancelled && !settled);
        if cancelled && self.jobs.get(told.job).is_some_and(|job| !job.cancelled && job.phase != Phase::Yielded) {
            // Nobody had heard of that when the job was taken over. It may have ended meanwhile.
            drop(self.cancel(now, &Principal { user: None, operator: true }, told.job, effects));
        }
        match self.jobs.get(told.job) {
            Some(_) if settled => {
                kept.jobs.push((told.job, told.revision()));
                self.take_settlement(now, told, effects);
            }
            None if settled && told.revision() > known => self.ask_to_merge(from, told, effects),
            _ => kept.jobs.push((told.job, known)),
        }
    }

    /// A home has settled a job before it knew that it was taken over: it has ended, and is not run again.
    fn take_settlement(&mut self, now: Now, told: KeepJob, effects: &mut Vec<Effect>) {
        let Some(standing) = told.standing else { return };
        self.counters.settled_by_home += 1;
        self.give_up_run(told.job, effects);
        let Some(job) = self.jobs.get_mut(told.job) else { return };
        let (revision, rule) = (job.last_revision().saturating_add(1), job.extras.rule.as_deref().copied());
        let (regent, unconfirmed) = (rule.map(|rule| rule.regent), rule.is_some_and(|rule| rule.unconfirmed));
        let ours = job.extras.elements.as_deref().map_or(0, |elements| elements.apart());
        let elements = standing.elements.map(|elements| elements.seen_from(ours));
        let standing =
            Standing { revision: revision.max(standing.revision), regent, unconfirmed, elements, ..*standing };
        self.settle_as(now, told.job, standing, effects);
    }

    /// A home has forgotten a job with which this node goes on: it had ended it, or refused it, before it heard of that. Nobody waits for
    /// it, and no other custodian keeps it any more.
    pub(super) fn end_forgotten(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        self.counters.forgotten_by_home += 1;
        self.end_forgotten_elements(now, id, effects);
        if let Some(job) = self.jobs.get(id) {
            let group = Group::of(&job.accepted, State::Cancelled);
            let bytes = kept_bytes(&job.accepted, &job.standing());
            self.end_as_forgotten(now, id, effects);
            self.forget_settled(group, bytes);
        }
        self.sweep(vec![id], effects);
    }

    /// The elements of such an array that go on here. That may have ended already, as its home had ended it, and wait to hear of them.
    pub(super) fn end_forgotten_elements(&mut self, now: Now, array: ObjectId, effects: &mut Vec<Effect>) {
        for element in self.charges.elements_of(array) {
            self.end_as_forgotten(now, element, effects);
        }
    }

    fn end_as_forgotten(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        self.give_up_run(id, effects);
        let ended = self.end(now, id, State::Cancelled, None, effects);
        effects.extend(ended.map(|(told, _)| told));
    }

    /// The job is not in memory: what is durable of it has to be read first.
    fn ask_to_merge(&mut self, from: NodeId, told: KeepJob, effects: &mut Vec<Effect>) {
        self.merging.insert(told.job);
        effects.push(Effect::Merge { from, told: Box::new(told) });
    }

    /// What is durable of a job of which somebody else has said something newer.
    pub(super) fn merge(
        &mut self,
        now: Now,
        from: NodeId,
        told: KeepJob,
        record: Option<Box<(Accepted, Standing)>>,
        effects: &mut Vec<Effect>,
    ) {
        let (id, revision) = (told.job, told.revision());
        let is_current = self.merging.remove(&id);
        if self.jobs.contains(id) {
            // It has come to be in memory meanwhile.
            return self.yield_to(now, from, told, &mut Kept::default(), effects);
        }
        if !is_current {
            // Forgotten or merged since it was read; whoever still differs finds that when both compare.
            return;
        }
        let (Some((accepted, ours)), Some(theirs)) = (record.map(|record| *record), told.standing) else { return };
        let home = self.charges.set_of(id).map_or(self.config.node, |set| set.home);
        let kept = |revision| {
            let kept = Kept { home: Some(home), jobs: vec![(id, revision)], ..Kept::default() };
            Effect::ToHome { home: from, message: PeerMessage::Kept(kept) }
        };
        if theirs.revision <= ours.revision {
            // Who has restarted since this node said so asks once more.
            return effects.push(kept(ours.revision));
        }
        if self.is_elsewhere(&accepted, &ours, &theirs) {
            // What this home said before is no word of who decides it.
            if theirs.regent.is_some() {
                self.element_elsewhere(now, accepted, *theirs, effects);
                effects.push(kept(revision));
            }
            return;
        }
        match (ours.state.is_settled(), theirs.state.is_settled()) {
            (true, true) => self.supersede(now, &accepted, ours, *theirs, effects),
            // The other one does not know it yet.
            (true, false) => {
                let whole = KeepJob::whole(accepted.clone(), Some(ours));
                return self.keep(from, &accepted, whole, effects);
            }
            (false, _) => return,
        }
        effects.push(kept(revision));
    }

    /// Both sides have settled a job: the higher term stands, and the other settlement is kept beside it.
    fn supersede(
        &mut self,
        now: Now,
        accepted: &Accepted,
        ours: Standing,
        theirs: Standing,
        effects: &mut Vec<Effect>,
    ) {
        let same = theirs.epoch == ours.epoch && theirs.outcome == ours.outcome;
        let new = !same && theirs.superseded.is_none() && term_of(theirs.revision) > term_of(ours.revision);
        let before_bytes = kept_bytes(accepted, &ours);
        let mut standing = theirs;
        if new {
            self.counters.superseded += 1;
            let lower = Superseded::of(ours.epoch, ours.state, ours.settled_ms, ours.outcome.as_ref());
            standing.superseded = Some(Box::new(lower));
            // The other side hears of it as of any change.
            standing.revision = standing.revision.saturating_add(1);
        }
        let id = accepted.id;
        let (before, group) = (Group::of(accepted, ours.state), Group::of(accepted, standing.state));
        let bytes = kept_bytes(accepted, &standing);
        effects.push(Effect::Write(Record::Merged(id, Box::new(standing.clone()))));
        if accepted.array_id().is_none() && (before, before_bytes) != (group, bytes) {
            self.forget_settled(before, before_bytes);
            self.shelve(now, group, bytes, effects);
        }
        self.note_taken(id, &standing);
        match accepted.extras.input_of {
            None => self.keep_standing(accepted, &standing, effects),
            // Its regent has run it with what it had the other job end with: custodians have that as its input.
            Some(_) => self.keepers_of(accepted).into_iter().for_each(|to| {
                self.keep(to, accepted, KeepJob::whole(accepted.clone(), Some(standing.clone())), effects);
            }),
        }
        effects.push(Effect::Changed { job: id, settled: true });
    }
}

/// Bytes that a settled job refers to.
pub(super) fn kept_bytes(accepted: &Accepted, standing: &Standing) -> u64 {
    stored_bytes(accepted, standing.elements.as_ref(), standing.outcome.as_ref())
}

impl Job {
    /// Takes over what somebody else has decided, as far as memory has it.
    fn follow(&mut self, standing: &Standing) {
        let next = Self::new(self.accepted.clone(), standing.clone(), 0);
        let (told, function_gone, checkpoint) = (self.told, self.function_gone, self.history.checkpoint.clone());
        let (earliest_ms, total_until_ms) = (self.extras.earliest_ms, self.extras.total_until_ms);
        *self = Self { told, function_gone, ..next };
        if checkpoint.is_some() {
            self.history.checkpoint = checkpoint;
        }
        if earliest_ms > 0 || total_until_ms.is_some() {
            (self.extras.earliest_ms, self.extras.total_until_ms) = (earliest_ms, total_until_ms);
        }
    }
}
