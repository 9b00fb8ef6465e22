//! Jobs of this home on their way to its custodians: who these are, what they are sent, and what waits for their word.
//!
//! A job that others shall have is written here, sent to all custodians of its set, and waits until as many have it as it
//! wants; then it is acknowledged and may run. Whatever is written of it later follows, and nobody waits for that. What a
//! custodian has missed is found by comparing: when it attaches, and from time to time.

use std::sync::Arc;

use shoal_protocol::custody::CustodianSet;
use shoal_protocol::limits::KEEP_JOBS_MAX;
use shoal_protocol::object::job::{Receipt, State};
use shoal_protocol::wire::custody::{Holding, KeepJob, Kept};
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::{NodeId, ObjectId, Problem};

use super::Machine;
use super::telling::noted;
use crate::custody::{COMPARE_EVERY_MS, Custodian, Custody, LOOK_EVERY_MS, POOR_MS, Submission, ZONE, patience_ms};
use crate::effect::{Effect, Reply};
use crate::faults::{Fault, Faults};
use crate::input::{Now, Recall, RequestId};
use crate::jobs::{Job, Phase, outcome_bytes};
use crate::record::{Accepted, Custodians, Record, Standing};
use crate::timers::Timer;

impl<F: Faults> Machine<F> {
    /// The receipts of a request are answered when these jobs have their custodians: each with whether fewer than it wants
    /// are refused, and how many it wants.
    pub(super) fn await_custodians(
        &mut self,
        now: Now,
        request: RequestId,
        receipts: Vec<Receipt>,
        jobs: &[(ObjectId, bool, u8)],
        effects: &mut Vec<Effect>,
    ) {
        let submission = self.custody.begin(request, receipts, jobs);
        let inputs = jobs.iter().filter_map(|(id, ..)| self.jobs.get(*id)).map(|job| job.accepted.input.size());
        let patience_ms = patience_ms(inputs.fold(0, u64::saturating_add));
        self.timers.set(now.mono_ms.saturating_add(patience_ms), Timer::Keep(submission));
        for (id, ..) in jobs {
            self.keep_whole(*id, effects);
        }
    }

    /// Sends a job to all its custodians that are there.
    pub(super) fn keep_whole(&self, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get(id) else { return };
        for to in self.keepers_of(&job.accepted) {
            self.keep(to, &job.accepted, whole(job), effects);
        }
    }

    /// The other nodes of a job's set that are there.
    pub(super) fn keepers_of(&self, accepted: &Accepted) -> Vec<NodeId> {
        if let Some(set) = self.charges.set_of(accepted.id) {
            return set.members.iter().copied().filter(|node| self.is_there(*node)).collect();
        }
        accepted.custody.map(|custody| self.custody.attached_of(custody.set)).unwrap_or_default()
    }

    /// Whether it is a job of another home: this node has taken it over.
    pub(super) fn is_foreign(&self, id: ObjectId) -> bool {
        self.charges.set_of(id).is_some()
    }

    /// Whether a connection to a node that keeps jobs stands.
    pub(super) fn is_there(&self, node: NodeId) -> bool {
        self.custody.nodes.get(&node).is_some_and(|node| node.connection.is_some())
    }

    /// Sends a job to another node of its set: as its home, or as its regent.
    pub(super) fn keep(&self, to: NodeId, accepted: &Accepted, job: KeepJob, effects: &mut Vec<Effect>) {
        if self.is_foreign(accepted.id) {
            return self.keep_taken(to, accepted.id, job, effects);
        }
        let Some(custody) = accepted.custody else { return };
        if let Some(set) = self.custody.set(custody.set) {
            effects.push(Effect::Keep { to, set: Arc::clone(set), jobs: vec![job] });
        }
    }

    /// Journals where a job stands, and tells its custodians.
    pub(super) fn write_standing(&mut self, id: ObjectId, effects: &mut Vec<Effect>) {
        self.write_as(id, Record::Standing, effects);
    }

    /// The same of an element of an array that has begun.
    pub(super) fn write_began(&mut self, id: ObjectId, effects: &mut Vec<Effect>) {
        match self.is_foreign(id) {
            true => self.write_taken(id, effects),
            false => self.write_as(id, Record::Began, effects),
        }
    }

    fn write_as(&mut self, id: ObjectId, record: fn(ObjectId, Box<Standing>) -> Record, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let standing = job.next_standing();
        effects.push(Effect::Write(record(id, Box::new(standing.clone()))));
        self.note_taken(id, &standing);
        if let Some(job) = self.jobs.get(id) {
            self.keep_standing(&job.accepted, &standing, effects);
        }
    }

    /// The same of a job that has ended; of an element with how far its array is.
    pub(super) fn write_end(&mut self, accepted: &Accepted, standing: Standing, effects: &mut Vec<Effect>) {
        let mut told = Vec::new();
        self.keep_standing(accepted, &standing, &mut told);
        self.note_taken(accepted.id, &standing);
        let bytes = standing.outcome.as_ref().map_or(0, outcome_bytes);
        let far = self.count_ended(accepted, standing.state, bytes);
        if let Some((array, far)) = &far
            && let Some(array) = self.jobs.get(*array)
        {
            self.keep_standing(&array.accepted, far, &mut told);
        }
        let (id, standing) = (accepted.id, Box::new(standing));
        effects.push(Effect::Write(match far {
            Some((array, far)) => Record::Ended(id, standing, array, Box::new(far)),
            None => Record::Standing(id, standing),
        }));
        effects.append(&mut told);
    }

    /// The same of a job whose input has come: its custodians need the whole of it.
    pub(super) fn write_supplied(&mut self, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get_mut(id) else { return };
        let standing = job.next_standing();
        effects.push(Effect::Write(Record::Supplied(Box::new(job.accepted.clone()))));
        effects.push(Effect::Write(Record::Standing(id, Box::new(standing))));
        self.keep_whole(id, effects);
    }

    /// Tells the custodians of a job where it stands.
    pub(super) fn keep_standing(&self, accepted: &Accepted, standing: &Standing, effects: &mut Vec<Effect>) {
        for to in self.keepers_of(accepted) {
            self.keep(to, accepted, KeepJob::news(accepted, standing.clone()), effects);
        }
    }

    /// A custodian says what it has.
    pub(super) fn kept(&mut self, now: Now, node: NodeId, kept: Kept, effects: &mut Vec<Effect>) {
        let Some(custodian) = self.custody.nodes.get_mut(&node) else { return };
        if kept.full {
            custodian.poor_until_ms = now.mono_ms.saturating_add(POOR_MS);
        } else if !kept.jobs.is_empty() {
            custodian.poor_until_ms = 0;
        }
        if kept.home.is_none() {
            self.custody.heard(node, kept.set);
            self.begin_agreed(now, effects);
        }
        for (job, revision) in kept.jobs {
            if job.tag() == node.tag() {
                self.charges.heard(job, revision);
            }
            self.kept_by(now, job, node, effects);
        }
        for job in kept.missing {
            self.send_missing(job, node, effects);
        }
        if kept.full {
            self.give_up_hopeless(now, effects);
        }
    }

    fn kept_by(&mut self, now: Now, job: ObjectId, node: NodeId, effects: &mut Vec<Effect>) {
        let custody = self.jobs.get(job).and_then(|job| job.accepted.custody);
        let ours = custody.and_then(|custody| self.custody.set(custody.set));
        let counts = ours.is_none_or(|set| set.has_custodian(node));
        if counts && self.custody.kept(job, node) {
            self.counters.kept += 1;
            self.acknowledge(now, job, effects);
        }
        if self.grants.waiting(job).is_some() {
            // Before it had the job it could not give its word.
            self.ask_for(&[job], effects);
        }
    }

    /// A job has been waited for: it has what it wants, or what there is.
    fn acknowledge(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        self.custody.trust(id);
        let done = self.custody.close(id, None::<fn(usize, usize) -> Problem>);
        if self.jobs.get(id).is_some_and(|job| job.phase == Phase::Keeping) {
            self.take_out(id);
            self.begin_waiting(now, id, effects);
        }
        effects.extend(done.map(answer));
    }

    /// Lets a job wait as it was accepted, now that it is.
    pub(super) fn begin_waiting(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get(id) else { return };
        let state = job.accepted.standing().state;
        effects.push(noted(now, job, state, None));
        self.wait_as(now, id, state, None);
        self.depend(id, effects);
    }

    /// A job does not come to as many custodians as it wants: it is refused if that was asked for, else taken as it is.
    fn give_up(&mut self, now: Now, id: ObjectId, strict: bool, effects: &mut Vec<Effect>) {
        if self.is_yielded(id) {
            // Its regent has it, and goes on with it: nothing of it is this home's to say any more.
            return self.acknowledge(now, id, effects);
        }
        if strict {
            return self.refuse_unkept(now, id, effects);
        }
        self.counters.kept_alone += 1;
        if let Some(job) = self.jobs.get_mut(id) {
            job.alone = true;
            self.write_standing(id, effects);
        }
        self.acknowledge(now, id, effects);
    }

    /// Takes back that a job was accepted: nobody was told of it. It may have ended meanwhile, by a limit of its own.
    fn refuse_unkept(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        self.counters.unkept += 1;
        if self.custody.is_unsure(id) {
            // Before the restart somebody may have been told of it.
            effects.extend(self.custody.close(id, Some(Custody::refusal)).map(answer));
            return;
        }
        drop(self.end(now, id, State::Cancelled, None, effects));
        if let Some((group, bytes)) = self.custody.ended_in(id) {
            self.forget_settled(group, bytes);
        }
        self.sweep(vec![id], effects);
        let done = self.custody.close(id, Some(Custody::refusal));
        effects.extend(done.map(answer));
    }

    /// Forgets settled jobs, a few at a time, here and at their custodians.
    pub(super) fn sweep(&mut self, jobs: Vec<ObjectId>, effects: &mut Vec<Effect>) {
        if jobs.is_empty() {
            return;
        }
        for id in &jobs {
            self.counters.swept += 1;
            self.shelves.note_going(*id);
            self.keys.remove(*id);
            self.memos.forget(*id);
            self.forget_call(*id);
            // Also of its elements, if it is an array, whose ids follow. A job that only comes soon after it is told of once more.
            self.merging.retain(|job| job != id && id.index_of(*job).is_none());
            self.hand_back(*id, effects);
            effects.push(Effect::Write(Record::Swept(*id)));
            if self.charges.get(*id).is_some_and(|known| known.taken) {
                self.drop_charge(*id, effects);
            }
        }
        for custodian in self.custody.attached() {
            effects.push(Effect::ToCustodian { custodian, message: PeerMessage::Forget(jobs.clone()) });
        }
    }

    /// The jobs of a submission have waited for their custodians for as long as they may.
    pub(super) fn keep_due(&mut self, now: Now, submission: u64, effects: &mut Vec<Effect>) {
        for (id, strict) in self.custody.waiting_of(submission) {
            let set = self.jobs.get(id).and_then(|job| job.accepted.custody).map_or(0, |custody| custody.set);
            let attached = self.custody.attached_of(set);
            for silent in self.custody.silent(id, &attached) {
                if let Some(custodian) = self.custody.nodes.get_mut(&silent) {
                    custodian.poor_until_ms = now.mono_ms.saturating_add(POOR_MS);
                }
            }
            self.give_up(now, id, strict, effects);
        }
        self.look_for_custodians(now, effects);
    }

    /// Jobs that wait for more custodians than are left wait in vain.
    fn give_up_hopeless(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let attached_of = |id| {
            let custody = self.jobs.get(id).and_then(|job| job.accepted.custody);
            custody.map(|custody| self.custody.attached_of(custody.set)).unwrap_or_default()
        };
        for (id, strict) in self.custody.hopeless(attached_of) {
            self.give_up(now, id, strict, effects);
        }
    }

    /// A node is there that keeps jobs of other homes. If it is a custodian it is asked what it has.
    pub(super) fn custodian_attached(&mut self, now: Now, node: NodeId, connection: u64, effects: &mut Vec<Effect>) {
        let zone = self.custody.nodes.remove(&node).and_then(|known| known.zone);
        let custodian = Custodian {
            connection: Some(connection),
            since_ms: now.mono_ms,
            leaving: false,
            zone,
            poor_until_ms: 0,
            compare_ms: now.mono_ms.saturating_add(COMPARE_EVERY_MS),
        };
        self.custody.nodes.insert(node, custodian);
        self.member_is_there(node, effects);
        self.word_may_come(now, node, effects);
        if self.custody.is_custodian(node) && !F::has(Fault::CustodianNotCompared) {
            effects.push(Effect::ToCustodian { custodian: node, message: PeerMessage::Compare { after: None } });
        }
        self.look_for_custodians(now, effects);
    }

    /// The connection of a custodian has ended.
    pub(super) fn custodian_detached(&mut self, now: Now, node: NodeId, connection: u64, effects: &mut Vec<Effect>) {
        let Some(custodian) = self.custody.nodes.get_mut(&node) else { return };
        if custodian.connection == Some(connection) {
            (custodian.connection, custodian.since_ms) = (None, now.mono_ms);
            self.give_up_hopeless(now, effects);
        }
    }

    /// A custodian says what it could run, and with that whether it leaves and with whom it fails.
    pub(super) fn custodian_hints(&mut self, node: NodeId, leaving: bool, zone: Option<String>) {
        if let Some(custodian) = self.custody.nodes.get_mut(&node) {
            (custodian.leaving, custodian.zone) = (leaving, zone);
        }
    }

    /// It is time to look who should keep the jobs of this home.
    pub(super) fn custody_due(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.custody.look_ms = None;
        self.custody.forget_gone(now.mono_ms);
        let due = self.custody.attached().into_iter().filter(|node| {
            let custodian = self.custody.nodes.get(node);
            !F::has(Fault::CustodianNotCompared)
                && custodian.is_some_and(|custodian| custodian.compare_ms <= now.mono_ms)
        });
        for custodian in due.collect::<Vec<_>>() {
            if let Some(known) = self.custody.nodes.get_mut(&custodian) {
                known.compare_ms = now.mono_ms.saturating_add(COMPARE_EVERY_MS);
            }
            effects.push(Effect::ToCustodian { custodian, message: PeerMessage::Compare { after: None } });
        }
        let is_here = |home| self.custody.nodes.get(&home).is_some_and(|node| node.connection.is_some());
        let away = self.charges.away(now.mono_ms, is_here);
        effects.extend(away.into_iter().map(|node| Effect::Reach { node }));
        self.claim_orphans(now, effects);
        self.ask_again(effects);
        self.look_for_custodians(now, effects);
    }

    /// Begins another set of custodians, if others should keep the jobs that come.
    fn look_for_custodians(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.begin_agreed(now, effects);
        let zone = self.workers.own().find_map(|worker| worker.offer.labels.get(ZONE)).cloned();
        // Nothing comes to a node that leaves.
        let proposed = match self.drain {
            Some(_) => None,
            None => self.custody.propose(self.config.node, zone.as_deref(), now.mono_ms),
        };
        if let Some(set) = proposed.map(|proposal| Arc::clone(&proposal.set)) {
            // Before anybody hears of it, and begun with that should this node restart: it must never be another set then.
            write_set(&set, false, effects);
            for to in self.custody.asked(&set) {
                effects.push(Effect::Keep { to, set: Arc::clone(&set), jobs: Vec::new() });
            }
            self.begin_agreed(now, effects);
        }
        if !self.custody.nodes.is_empty() || self.charges.homes().next().is_some() {
            self.look_again(now);
        }
    }

    /// Sees to it that it is looked again who should keep jobs of this home, and whether homes are there whose jobs are kept.
    pub(super) fn look_again(&mut self, now: Now) {
        if self.custody.look_ms.is_none() {
            let at_ms = now.mono_ms.saturating_add(LOOK_EVERY_MS);
            self.custody.look_ms = Some(at_ms);
            self.timers.set(at_ms, Timer::Custody);
        }
    }

    /// Begins the set that was proposed, if it is time: jobs that come are accepted under it.
    fn begin_agreed(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let Some((set, confirmed)) = self.custody.agreed(now.mono_ms) else { return };
        self.counters.custodian_sets += 1;
        if confirmed {
            write_set(&set, true, effects);
        }
        self.custody.put_set(set);
    }

    /// A custodian says which jobs it has: what differs is sent, what is forgotten here is forgotten there.
    pub(super) fn holding(&mut self, now: Now, node: NodeId, page: Holding, effects: &mut Vec<Effect>) {
        let in_set = |custody: u32| self.custody.set(custody).is_some_and(|set| set.has_custodian(node));
        let ours = self.jobs.begun_behind(page.after);
        // Of jobs of other homes the node is told when it attaches.
        let ours = ours.filter(|(id, _)| !self.is_foreign(*id));
        let ours = ours.filter_map(|(id, job)| Some((id, job.accepted.custody.filter(|kept| in_set(kept.set))?.set)));
        let mut ours: Vec<(ObjectId, u32)> = ours.take(KEEP_JOBS_MAX + 1).collect();
        // As far as this page says something of both sides.
        let more_here = ours.len() > KEEP_JOBS_MAX;
        ours.truncate(KEEP_JOBS_MAX);
        let theirs_to = page.jobs.last().map(|(job, ..)| *job).filter(|_| page.more);
        let ours_to = ours.last().map(|(job, _)| *job).filter(|_| more_here);
        let to = [theirs_to, ours_to].into_iter().flatten().min();
        let within = |job: ObjectId| to.is_none_or(|to| job <= to);
        let listed = |id: ObjectId| {
            let place = page.jobs.binary_search_by_key(&id, |(job, ..)| *job);
            place.ok().and_then(|place| page.jobs.get(place)).map(|(_, _, revision)| *revision)
        };
        let (mut same, mut sent, mut newer) = (Vec::new(), 0, Vec::new());
        for (id, set) in ours.into_iter().filter(|(id, _)| within(*id)) {
            match (listed(id), self.jobs.get(id)) {
                (Some(revision), Some(job)) if revision >= job.last_revision() => {
                    same.push(id);
                    newer.extend((revision > job.last_revision()).then_some(id));
                }
                (_, Some(job)) => {
                    sent += 1;
                    self.keep(node, &job.accepted, whole(job), effects);
                }
                // An element that has ended, of an array that has not.
                (None, None) => effects.push(Effect::Recall(Recall { node, job: id, set: Some(set), revision: 0 })),
                (Some(_), None) => {}
            }
        }
        self.counters.records_sent_again += sent;
        let away = page.jobs.iter().filter(|(job, ..)| within(*job) && !self.jobs.contains(*job));
        effects
            .extend(away.map(|&(job, set, revision)| Effect::Recall(Recall { node, job, set: Some(set), revision })));
        if let Some(after) = to {
            let message = PeerMessage::Compare { after: Some(after) };
            effects.push(Effect::ToCustodian { custodian: node, message });
        }
        same.into_iter().for_each(|job| self.kept_by(now, job, node, effects));
        self.ask_for_newer(node, newer, effects);
    }

    /// Asks the regent of jobs of this home how they stand.
    fn ask_for_newer(&self, node: NodeId, jobs: Vec<ObjectId>, effects: &mut Vec<Effect>) {
        if !jobs.is_empty() {
            let kept = Kept { home: Some(self.config.node), missing: jobs, ..Kept::default() };
            effects.push(Effect::ToCustodian { custodian: node, message: PeerMessage::Kept(kept) });
        }
    }

    /// A custodian lacks a job of which it was told something new.
    fn send_missing(&mut self, job: ObjectId, node: NodeId, effects: &mut Vec<Effect>) {
        // With an element its array is missing, which goes before it.
        let Some(found) = self.jobs.get(job).filter(|found| found.accepted.extras.index.is_none()) else {
            effects.push(Effect::Recall(Recall { node, job, set: None, revision: 0 }));
            return;
        };
        self.counters.records_sent_again += 1;
        self.keep(node, &found.accepted, whole(found), effects);
    }

    /// What the store knows of a job that a custodian shall have.
    pub(super) fn recalled(
        &mut self,
        recall: Recall,
        record: Option<Box<(Accepted, Standing)>>,
        effects: &mut Vec<Effect>,
    ) {
        let Recall { node, job, set, revision } = recall;
        match record.map(|record| *record) {
            Some((_, standing)) if set.is_some() && standing.revision < revision => {
                self.ask_for_newer(node, vec![job], effects);
            }
            Some((accepted, standing)) => {
                let Some(custody) = accepted.custody.filter(|_| set.is_none() || standing.revision > revision) else {
                    return;
                };
                if let Some(array) = accepted.array_id().filter(|_| set.is_none()) {
                    let recall = |job, set| Effect::Recall(Recall { node, job, set, revision: 0 });
                    return effects.extend([recall(array, None), recall(job, Some(custody.set))]);
                }
                self.counters.records_sent_again += 1;
                let whole = KeepJob::whole(accepted.clone(), Some(standing));
                self.keep(node, &accepted, whole, effects);
            }
            // Forgotten here. A set that is not known here says that it is this node that has lost its memory.
            None if set.is_some_and(|set| self.custody.set(set).is_some()) => {
                effects.push(Effect::ToCustodian { custodian: node, message: PeerMessage::Forget(vec![job]) });
            }
            None => {}
        }
    }
}

/// Journals a set of this home: so far a majority of the one before it has it, or has not.
fn write_set(set: &CustodianSet, confirmed: bool, effects: &mut Vec<Effect>) {
    let record = Custodians { set: set.clone(), signed: None, unconfirmed: !confirmed };
    effects.push(Effect::Write(Record::Custodians(Box::new(record))));
}

/// The answer to a request none of whose jobs waits any more.
fn answer(submission: Submission) -> Effect {
    Effect::Reply { request: submission.request, reply: Ok(Reply::Receipts(submission.receipts)) }
}

/// A job with all that is to be kept of it.
pub(super) fn whole(job: &Job) -> KeepJob {
    KeepJob::whole(job.accepted.clone(), (job.last_revision() > 0).then(|| job.standing()))
}
