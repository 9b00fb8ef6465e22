//! Jobs of a home that does not come back: a custodian claims the home's set, and with the word of a majority goes on with
//! them as their *regent*.
//!
//! What a regent decides has numbers of its term, which stand above all that the home has given: so its own workers, the other
//! custodian and the home, when it is back, know which of two records is newer, and what still comes of an older run counts for
//! nothing. In a set of two nobody is left to ask: there the other one acts by its own word, and what it decides is marked.

use std::sync::Arc;

use shoal_protocol::custody::CustodianSet;
use shoal_protocol::object::job::{Ending, Failure, FailureCode, OnDisconnect, Outcome, State};
use shoal_protocol::regency::{Regent, SignedVote, Vote, first_of_term};
use shoal_protocol::wire::custody::KeepJob;
use shoal_protocol::{NodeId, ObjectId};

use super::Machine;
use super::custody::whole;
use super::grants::needs_word;
use super::left::Found;
use super::runs::transient;
use super::telling::noted;
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::Now;
use crate::jobs::{Job, Phase};
use crate::record::{Accepted, ChargeState, Record, Reign, Saving, Standing, TakenJob, VERSION};
use crate::regents::{CLAIM_STEP_MS, Realm, TAKE_LEN};
use crate::view::settled_state;

impl<F: Faults> Machine<F> {
    /// Takes back who acts for which home: before [`Self::restore_custody`]. Whether a home was there meanwhile nobody knows, so
    /// that for jobs which are still to be taken over members are asked once more.
    pub fn restore_reigns(&mut self, reigns: impl Iterator<Item = Reign>) {
        for reign in reigns {
            self.regents.put(reign, true);
        }
    }

    /// Claims the sets whose homes have been away for too long, and goes on with what was claimed before.
    pub(super) fn claim_orphans(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let orphaned = self.charges.orphaned(now.mono_ms, self.config.takeover_after_ms);
        for (home, number, gone_ms) in orphaned {
            let Some(set) = self.charges.set(home, number).cloned() else { continue };
            let away_ms = now.mono_ms.saturating_sub(gone_ms);
            self.claim_or_take(now, (home, number), &set, away_ms, effects);
        }
    }

    fn claim_or_take(&mut self, now: Now, realm: Realm, set: &CustodianSet, away_ms: u64, effects: &mut Vec<Effect>) {
        let me = self.config.node;
        let known = self.regents.get(realm).filter(|known| !known.over);
        if let Some(acting) = known.and_then(|known| known.acting.as_ref()) {
            let regent = acting.regent.regent;
            if regent == me {
                return self.take_some(realm, effects);
            }
            if self.is_there(regent) {
                return;
            }
        }
        // One after the other.
        let Some(place) = set.others().position(|member| member == me) else { return };
        let wait_ms = CLAIM_STEP_MS.saturating_mul(place as u64).saturating_add(self.config.takeover_after_ms);
        if away_ms < wait_ms {
            return;
        }
        if self.regents.claim(realm).is_none() {
            let term = self.regents.term(realm).saturating_add(1);
            self.begin_claim(Regent { home: realm.0, set: realm.1, term, regent: me }, effects);
        }
        let Some(claim) = self.regents.claim(realm) else { return };
        let vote = Vote::new(claim.regent, me);
        let silent = set.members.iter().filter(|member| !claim.voters.contains(member));
        let asked: Vec<NodeId> = silent.copied().filter(|member| self.is_there(*member)).collect();
        effects.extend(asked.into_iter().map(|to| Effect::Claim { to, vote: vote.clone() }));
        self.count_votes(now, realm, effects);
    }

    fn begin_claim(&mut self, regent: Regent, effects: &mut Vec<Effect>) {
        self.regents.begin_claim((regent.home, regent.set), regent);
        self.write_reign(Reign { regent, acts: false, confirmed: false, votes: Vec::new() }, effects);
    }

    pub(super) fn write_reign(&mut self, reign: Reign, effects: &mut Vec<Effect>) {
        if !F::has(Fault::VoteUnwritten) {
            effects.push(Effect::Write(Record::Reign(Box::new(reign.clone()))));
        }
        self.regents.put(reign, false);
    }

    /// A custodian wants to act for a home. It has this node's vote if the home is away from here as well, and nobody else has had
    /// it in that term.
    pub(super) fn claimed(&mut self, vote: &Vote, effects: &mut Vec<Effect>) {
        let regent = vote.regent;
        let (realm, me) = ((regent.home, regent.set), self.config.node);
        let Some(set) = self.charges.set(regent.home, regent.set) else { return };
        let members = set.has_custodian(regent.regent) && set.has_custodian(me);
        if !members || self.is_there(regent.home) {
            return;
        }
        if let Some(known) = self.regents.get(realm) {
            let before = known.last;
            let acting = known.acting.as_ref().map(|acting| acting.regent.regent);
            let given = before.term > regent.term || (before.term == regent.term && before.regent != regent.regent);
            let acts = acting.is_some_and(|acting| acting != regent.regent && self.acts_and_is_there(acting));
            if (given || acts) && !F::has(Fault::VotedTwice) {
                return self.announce(realm, regent.regent, effects);
            }
        }
        if self.regents.term(realm) < regent.term || F::has(Fault::VotedTwice) {
            self.regents.end_claim(realm);
            self.write_reign(Reign { regent, acts: false, confirmed: false, votes: Vec::new() }, effects);
        }
        self.counters.votes += 1;
        effects.push(Effect::Voted { to: regent.regent, vote: Vote::new(regent, me) });
    }

    fn acts_and_is_there(&self, regent: NodeId) -> bool {
        regent == self.config.node || self.is_there(regent)
    }

    /// A member has voted for this node. A home that does so without being asked hands over.
    pub(super) fn voted(&mut self, now: Now, vote: &Vote, signed: SignedVote, effects: &mut Vec<Effect>) {
        let (regent, me) = (vote.regent, self.config.node);
        let realm = (regent.home, regent.set);
        let Some(set) = self.charges.set(regent.home, regent.set) else { return };
        if regent.regent != me || vote.voter == me || !set.members.contains(&vote.voter) {
            return;
        }
        let hands_over = vote.voter == regent.home && regent.term > self.regents.term(realm);
        if hands_over && self.regents.claim(realm).is_none() {
            self.begin_claim(regent, effects);
        }
        let Some(claim) = self.regents.claim_mut(realm).filter(|claim| claim.regent == regent) else { return };
        if claim.voters.insert(vote.voter) {
            claim.votes.push(signed);
        }
        self.count_votes(now, realm, effects);
    }

    /// Begins to act, if a majority has voted for this node, or there is none without the home.
    fn count_votes(&mut self, now: Now, realm: Realm, effects: &mut Vec<Effect>) {
        let Some(set) = self.charges.set(realm.0, realm.1) else { return };
        let Some(claim) = self.regents.claim(realm) else { return };
        let confirmed = claim.voters.len() >= set.majority();
        if !confirmed && set.members.len() > 2 {
            return;
        }
        let Some(claim) = self.regents.end_claim(realm) else { return };
        self.counters.reigns += 1;
        self.counters.reigns_unconfirmed += u64::from(!confirmed);
        let members: Vec<NodeId> = set.others().filter(|member| self.is_there(*member)).collect();
        self.write_reign(Reign { regent: claim.regent, acts: true, confirmed, votes: claim.votes }, effects);
        members.into_iter().for_each(|member| self.announce(realm, member, effects));
        self.take_some(realm, effects);
        self.look_again(now);
    }

    /// Tells a member that this node acts for a home, if it does: that one need not claim it, and knows whom to ask for what is left to
    /// the home.
    fn announce(&self, realm: Realm, to: NodeId, effects: &mut Vec<Effect>) {
        let acting = self.regents.get(realm).and_then(|known| known.acting.as_ref());
        if let Some(reign) = acting.filter(|reign| reign.regent.regent == self.config.node && to != self.config.node) {
            effects.push(Effect::KeepTaken { to, reign: Arc::new(reign.clone()), jobs: Vec::new() });
        }
    }

    /// Asks the store for some of the jobs that nobody goes on with.
    fn take_some(&mut self, realm: Realm, effects: &mut Vec<Effect>) {
        if self.jobs.bytes() >= self.config.jobs_bytes_max {
            return;
        }
        let Some(known) = self.regents.get_mut(realm).filter(|known| !known.taking) else { return };
        let (guests, left) = (&self.guests, &known.left);
        let asked = |id| self.grants.waiting(id).is_some();
        let is_free =
            |id| guests.get(id).is_none_or(|guest| guest.outcome().is_some()) && !left.contains_key(&id) && !asked(id);
        let jobs = self.charges.open_under(realm.0, realm.1, TAKE_LEN, is_free);
        if !jobs.is_empty() {
            // With an array go its elements.
            let elements: Vec<ObjectId> = jobs.iter().flat_map(|id| self.charges.open_elements(*id)).collect();
            let jobs = jobs.into_iter().chain(elements).collect();
            known.taking = true;
            effects.push(Effect::Take { home: realm.0, set: realm.1, jobs });
        }
    }

    /// The store has said what is known of jobs that are to be taken over, or ended.
    pub(super) fn took(&mut self, now: Now, realm: Realm, jobs: Vec<(Accepted, Standing)>, effects: &mut Vec<Effect>) {
        let Some(known) = self.regents.get_mut(realm) else { return };
        known.taking = false;
        let (elements, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(job, _)| job.array_id().is_some());
        let elements: Found = elements.into_iter().map(|known| (known.0.id, known)).collect();
        let given_up = self.given_up_among(realm, &jobs);
        let ends = |job: &ObjectId| given_up.iter().any(|given_up| given_up.job == *job);
        let (ending, jobs): (Vec<_>, Vec<_>) = jobs.into_iter().partition(|(job, _)| ends(&job.id));
        let ending: Found = ending.into_iter().map(|known| (known.0.id, known)).collect();
        self.take_all(now, realm, jobs, &elements, effects);
        self.end_given_up(now, realm, given_up, (&ending, &elements), effects);
    }

    fn take_all(
        &mut self,
        now: Now,
        realm: Realm,
        jobs: Vec<(Accepted, Standing)>,
        elements: &Found,
        effects: &mut Vec<Effect>,
    ) {
        let Some(known) = self.regents.get(realm) else { return };
        let Some(reign) = known.acting.clone().filter(|_| !known.over) else { return };
        if reign.regent.regent != self.config.node {
            return;
        }
        let before = self.counters.taken;
        for (accepted, standing) in jobs {
            // What its home has told since the store was asked counts: one that has ended is nobody's to go on with.
            let is_open = self.charges.get(accepted.id).is_some_and(|known| !known.taken && !known.settled());
            let may = is_open
                && !self.jobs.contains(accepted.id)
                && (!needs_word(&accepted)
                    || F::has(Fault::GrantNotAwaited)
                    || self.may_take_once(&reign, &accepted, &standing, effects));
            if may && accepted.is_array() {
                self.take_array(now, &reign, accepted, standing, elements, effects);
            } else if may {
                self.take_over(now, &reign, accepted, standing, effects);
            }
        }
        if self.counters.taken > before {
            self.take_some(realm, effects);
        }
    }

    /// Takes one job over. One whose run is at a worker of this node waits until that has ended: it need not be run again.
    fn take_over(&mut self, now: Now, reign: &Reign, accepted: Accepted, before: Standing, effects: &mut Vec<Effect>) {
        let id = accepted.id;
        if self.guests.get(id).is_some_and(|guest| guest.outcome().is_none()) {
            return;
        }
        if self.ended_here(id, &before).is_none()
            && let Some(why) = self.left_to_its_home(&accepted, &before)
        {
            return self.leave_to_home((reign.regent.home, reign.regent.set), id, why);
        }
        let ended = self.take(now, reign, accepted, before, effects);
        self.begin_deciding(now, id, ended, effects);
    }

    /// The run of a job of another home that has ended here, and how, where that ends the job.
    fn ended_here(&self, id: ObjectId, before: &Standing) -> Option<(u64, Outcome)> {
        let guest = self.guests.get(id).filter(|guest| guest.run.epoch >= before.epoch)?;
        let outcome = guest.outcome().filter(|outcome| transient(&outcome.ending).is_none())?;
        Some((guest.run.epoch, outcome.clone()))
    }

    /// Writes that a job is this node's to decide, and lets it wait: what its run here has brought, if that ends it. An element goes
    /// before its array.
    pub(super) fn take(
        &mut self,
        now: Now,
        reign: &Reign,
        accepted: Accepted,
        before: Standing,
        effects: &mut Vec<Effect>,
    ) -> Option<Outcome> {
        let id = accepted.id;
        let guest = self.guests.get(id).filter(|guest| guest.run.epoch >= before.epoch);
        let saved = guest.and_then(|guest| guest.kept.as_ref().map(|kept| kept.checkpoint.clone()));
        let ended = self.ended_here(id, &before);
        self.drop_guest(now, id, effects);
        let epoch = ended.as_ref().map_or(first_of_term(reign.regent.term), |(epoch, _)| *epoch);
        let standing = self.taken_standing(now, reign, before, epoch, accepted.terms.on_disconnect);
        let (state, retry_ms) = (standing.state, standing.retry_ms);
        self.write_as_taken((reign.regent.home, reign.regent.set), &accepted, &standing, effects);
        self.counters.accepted += if accepted.array_id().is_some() { 0 } else { u64::from(accepted.size()) };
        self.counters.taken += 1;
        self.note_key(&accepted);
        let mut job = Job::new(accepted, standing, now.mono_ms);
        if let Some(checkpoint) = saved {
            let saving = Saving { checkpoint: Some(checkpoint.clone()), replaces: None };
            effects.push(Effect::Write(Record::Checkpoint(id, Box::new(saving))));
            job.history.checkpoint = Some(Box::new(checkpoint));
        }
        self.take_in(now, job);
        self.wait_as(now, id, state, retry_ms);
        self.depend(id, effects);
        self.tell_members(id, effects);
        ended.map(|(_, outcome)| outcome)
    }

    /// Journals that a job of another home is this node's to decide, as it stands.
    pub(super) fn write_as_taken(
        &mut self,
        (home, set): Realm,
        accepted: &Accepted,
        standing: &Standing,
        effects: &mut Vec<Effect>,
    ) {
        self.shelves.note_come(accepted.id);
        let record = TakenJob { version: VERSION, home, set, accepted: accepted.clone(), standing: standing.clone() };
        effects.push(Effect::Write(Record::Taken(Box::new(record))));
        let (job, revision, ended) = (accepted.id, standing.revision, standing.ended());
        let array = accepted.extras.array.filter(|_| accepted.is_array());
        self.charges.put(ChargeState { job, home, set, revision, lacks_input: false, array, ended, taken: true });
    }

    /// A job that was taken over goes on, or ends with what is known.
    pub(super) fn begin_deciding(&mut self, now: Now, id: ObjectId, ended: Option<Outcome>, effects: &mut Vec<Effect>) {
        let stopping = self.jobs.get(id).is_some_and(|job| job.is_stopping());
        match ended {
            Some(outcome) => self.settle(now, id, settled_state(&outcome.ending), Some(outcome), effects),
            None if stopping => self.settle_stopped(now, id, None, effects),
            None => {
                effects.extend(self.jobs.get(id).map(|job| noted(now, job, job.told, None)));
                effects.push(Effect::Changed { job: id, settled: false });
            }
        }
    }

    /// Where a job stands that is taken over: what became of its run went with its home.
    fn taken_standing(
        &self,
        now: Now,
        reign: &Reign,
        before: Standing,
        epoch: u64,
        on_disconnect: Option<OnDisconnect>,
    ) -> Standing {
        let mut standing = before;
        if let Some(last) = standing.attempts.last_mut().filter(|last| last.ended_ms.is_none()) {
            (last.ended_ms, last.ending) = (Some(now.wall_ms), Some(lost_with_its_home()));
        }
        if standing.state == State::Offered {
            standing.state = State::Queued;
            let patience_ms = on_disconnect.and_then(OnDisconnect::patience_ms);
            standing.retry_ms = patience_ms.map(|ms| now.wall_ms.saturating_add(ms));
        }
        standing.disconnected_ms = None;
        if !F::has(Fault::TermUnused) {
            standing.epoch = standing.epoch.max(epoch);
            standing.revision = standing.revision.saturating_add(1).max(first_of_term(reign.regent.term));
        }
        Standing { regent: Some(reign.regent.regent), unconfirmed: !reign.confirmed, ..standing }
    }

    /// Whether this home settles a job although a majority of its custodians, itself among them, is not there.
    pub(super) fn decides_alone(&self, accepted: &Accepted) -> bool {
        // Nobody else can decide one that has the word of its custodians.
        if needs_word(accepted) {
            return false;
        }
        let set = accepted.custody.and_then(|custody| self.custody.set(custody.set));
        let ours = !self.is_foreign(accepted.id);
        set.is_some_and(|set| ours && self.keepers_of(accepted).len() + 1 < set.majority())
    }

    /// Sends a job that this node has taken over to another member of its set. Its home hears it also from who only keeps it: the
    /// regent may have forgotten it since, or be gone.
    pub(super) fn keep_taken(&self, to: NodeId, id: ObjectId, job: KeepJob, effects: &mut Vec<Effect>) {
        let Some(set) = self.charges.set_of(id) else { return };
        let reign = self.regents.get((set.home, set.number)).and_then(|known| known.acting.as_ref());
        let may =
            |reign: &&Reign| reign.regent.regent == self.config.node || (set.home == to && !reign.votes.is_empty());
        if let Some(reign) = reign.filter(may) {
            effects.push(Effect::KeepTaken { to, reign: Arc::new(reign.clone()), jobs: vec![job] });
        }
    }

    pub(super) fn tell_members(&self, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get(id) else { return };
        for to in self.keepers_of(&job.accepted) {
            self.keep_taken(to, id, whole(job), effects);
        }
    }

    /// A node that keeps jobs is there: if this one acts for it, or beside it, it hears of what has been taken over.
    pub(super) fn member_is_there(&mut self, node: NodeId, effects: &mut Vec<Effect>) {
        self.charges.home_is_there(node);
        self.regents.home_is_there(node);
        self.stop_taking(node);
        let realms = self.regents.acts_for(self.config.node);
        let realms: Vec<Realm> = realms
            .into_iter()
            .filter(|(home, set)| self.charges.set(*home, *set).is_some_and(|set| set.members.contains(&node)))
            .collect();
        for (home, set) in realms {
            for job in self.jobs.of_tag(home.tag()) {
                let of_set = self.charges.set_of(job.id()).is_some_and(|its| its.number == set);
                if of_set && job.phase != Phase::Yielded {
                    self.keep_taken(node, job.id(), whole(job), effects);
                }
            }
        }
    }

    /// Where a job stands that this node has taken over, for when it is compared.
    pub(super) fn note_taken(&mut self, id: ObjectId, standing: &Standing) {
        if self.is_foreign(id) {
            self.charges.note(id, standing.revision, standing.ended());
        }
    }
}

/// How a run ended that only its home has heard of.
pub(super) fn lost_with_its_home() -> Ending {
    let message = "its home was away, and with it what became of the run".to_owned();
    Ending::Failed(Failure { code: FailureCode::WorkerLost, message })
}
