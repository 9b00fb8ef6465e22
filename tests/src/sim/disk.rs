//! The disk: a journal of which a part is durable, and the tables that follow from that part.

use std::collections::{BTreeMap, VecDeque};

use shoal_kernel::{
    Accepted, Call, Charge, ChargeState, Group, GuestEnd, GuestRun, Promise, Record, Reign, SWEEP_LEN_MAX, Saving,
    Standing, TakenJob, Tally, stored_bytes,
};
use shoal_protocol::custody::CustodianSet;
use shoal_protocol::object::job::{Checkpoint, KeyId, State};
use shoal_protocol::regency::term_of;
use shoal_protocol::{BlobId, NodeId, ObjectId};

use super::checks::arrays::element;

/// How many jobs there are, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Census {
    /// `Held`, `Blocked` or `Queued`.
    pub waiting: u64,
    /// `Offered`.
    pub running: u64,
    /// Ended.
    pub settled: u64,
}

/// Bytes that a job refers to.
pub fn bytes_of(accepted: &Accepted, standing: &Standing) -> u64 {
    stored_bytes(accepted, standing.elements.as_ref(), standing.outcome.as_ref())
}

/// The journal and its tables.
#[derive(Debug, Default)]
pub struct Disk {
    /// What a restart would find.
    pub jobs: BTreeMap<ObjectId, (Accepted, Standing)>,
    /// Runs of other homes that a restart would find, and how they ended.
    pub guests: BTreeMap<ObjectId, (GuestRun, Option<GuestEnd>)>,
    /// The highest epoch of each job of another home that was ever taken.
    pub guest_epochs: BTreeMap<ObjectId, u64>,
    /// Sets of custodians, of this home and of others, by home and number.
    pub sets: BTreeMap<(NodeId, u32), CustodianSet>,
    /// Jobs of other homes that are kept here: their home, their set, and what is known of them.
    pub charges: BTreeMap<ObjectId, (NodeId, u32, Accepted, Standing)>,
    /// Jobs of other homes that this node has taken over, with their home and set: they stand among its own.
    pub taken: BTreeMap<ObjectId, (NodeId, u32)>,
    /// Elements of arrays of this node that began at another one, which decides the array: how they stand there.
    pub elsewhere: BTreeMap<ObjectId, (Accepted, Standing)>,
    /// Of arrays that were taken over: elements that had ended before. Their ends are kept as those of another home.
    pub ended_before: BTreeMap<ObjectId, u64>,
    /// Who acts for which home, or for whom was voted.
    pub reigns: BTreeMap<(NodeId, u32, bool), Reign>,
    /// Who may begin which epoch of a job, by the word of this node.
    pub grants: BTreeMap<ObjectId, Promise>,
    /// The highest revision of each job of another home that was ever kept, and of each of this one that was forgotten.
    pub charge_revisions: BTreeMap<ObjectId, u64>,
    /// Records ever written.
    pub written: u64,
    /// Of these, durable ones.
    pub durable: u64,
    /// Jobs ever accepted, by durable records.
    pub accepted: u64,
    /// Jobs forgotten, by durable records.
    pub swept: u64,
    /// Epochs that are durable, the highest of each job: kept when the job is swept.
    pub epochs: BTreeMap<ObjectId, u64>,
    /// What is to be told of jobs that have ended.
    pub calls: BTreeMap<ObjectId, Call>,
    /// Jobs whose results may be given again, with their keys.
    pub memos: BTreeMap<ObjectId, BlobId>,
    /// What runs of jobs of this home have saved last.
    pub saved: BTreeMap<ObjectId, Checkpoint>,
    /// What projects and their users have used.
    pub tallies: BTreeMap<(ObjectId, Option<ObjectId>), Tally>,
    /// What runs of other homes have saved last.
    pub guest_saved: BTreeMap<ObjectId, Checkpoint>,
    pending: VecDeque<Record>,
}

impl Disk {
    /// Writes a record; it is not durable yet.
    pub fn append(&mut self, record: Record) {
        self.written += 1;
        self.pending.push_back(record);
    }

    /// Everything up to this record is durable now. An error says which record cannot follow those before it.
    pub fn synced(&mut self, up_to: u64) -> Result<(), String> {
        while self.durable < up_to {
            let Some(record) = self.pending.pop_front() else { break };
            self.durable += 1;
            self.apply(record)?;
        }
        Ok(())
    }

    /// The power fails: of what was not durable the first `kept` records happen to have reached the disk. Returns how
    /// many are lost.
    pub fn crash(&mut self, kept: u64) -> Result<u64, String> {
        self.synced(self.durable + kept)?;
        let lost = self.pending.len() as u64;
        self.pending.clear();
        self.written = self.durable;
        Ok(lost)
    }

    /// Jobs by what became of them, counted one by one.
    pub fn census(&self) -> Census {
        let mut census = Census::default();
        for (accepted, standing) in self.jobs.values() {
            if accepted.is_array() {
                let begun = self.jobs.values().filter(|(job, _)| job.array_id() == Some(accepted.id)).count() as u64;
                let before = self.ended_before.get(&accepted.id).copied().unwrap_or(0);
                census.settled += before;
                let left = u64::from(accepted.size()).saturating_sub(begun + before);
                *(if standing.state.is_settled() { &mut census.settled } else { &mut census.waiting }) += left;
                continue;
            }
            match standing.state {
                State::Held | State::Blocked | State::Queued => census.waiting += 1,
                State::Offered => census.running += 1,
                _ => census.settled += 1,
            }
        }
        census
    }

    /// The keys that jobs were submitted under, with the hashes of what was.
    pub fn keys(&self) -> Vec<(KeyId, ObjectId, BlobId)> {
        let keyed =
            self.jobs.values().filter_map(|(job, _)| Some((KeyId::of(job)?, job.id, job.extras.key.as_ref()?.body)));
        keyed.collect()
    }

    /// How many jobs have settled, by group, and the bytes that they refer to.
    pub fn settled(&self) -> Vec<(Group, u64, u64)> {
        let mut counts: BTreeMap<Group, (u64, u64)> = BTreeMap::new();
        for (accepted, standing) in self.jobs.values().filter(|(job, standing)| is_kept(job, standing)) {
            let (count, bytes) = counts.entry(Group::of(accepted, standing.state)).or_default();
            (*count, *bytes) = (*count + 1, *bytes + bytes_of(accepted, standing));
        }
        counts.into_iter().map(|(group, (count, bytes))| (group, count, bytes)).collect()
    }

    /// The oldest settled jobs of a group, or the next behind one of them, with when they settled and the bytes that they refer to.
    pub fn oldest(&self, group: Group, after: Option<(u64, ObjectId)>) -> Vec<(u64, ObjectId, u64)> {
        let settled = self
            .jobs
            .values()
            .filter(|(accepted, standing)| is_kept(accepted, standing) && Group::of(accepted, standing.state) == group);
        let mut settled: Vec<_> = settled
            .map(|(job, standing)| (standing.settled_ms.unwrap_or_default(), job.id, bytes_of(job, standing)))
            .collect();
        settled.retain(|(settled_ms, job, _)| after.is_none_or(|after| (*settled_ms, *job) > after));
        settled.sort_unstable();
        settled.truncate(SWEEP_LEN_MAX);
        settled
    }

    /// Jobs that have not ended.
    pub fn unsettled(&self) -> impl Iterator<Item = &(Accepted, Standing)> {
        self.jobs.values().filter(|(_, standing)| !standing.state.is_settled())
    }

    fn apply(&mut self, record: Record) -> Result<(), String> {
        match record {
            Record::Accepted(accepted) => {
                let standing = accepted.standing();
                self.accepted += u64::from(accepted.size());
                let id = accepted.id;
                if self.jobs.insert(id, (*accepted, standing)).is_some() {
                    return Err(format!("{id} was accepted twice"));
                }
            }
            Record::Supplied(accepted) => match self.jobs.get_mut(&accepted.id) {
                Some((before, standing)) if !standing.state.is_settled() => *before = *accepted,
                other => return Err(format!("{} got an input and stood as {other:?}", accepted.id)),
            },
            Record::Began(id, standing) => {
                let Some(accepted) = element(&self.jobs, id) else {
                    return Err(format!("{id} began and is no element of an array that is here"));
                };
                self.note_epoch(id, standing.epoch);
                if self.jobs.insert(id, (accepted, *standing)).is_some() {
                    return Err(format!("{id} began twice"));
                }
            }
            Record::Ended(element, standing, array, far) => {
                self.apply(Record::Standing(element, standing))?;
                self.apply(Record::Standing(array, far))?;
            }
            Record::Standing(id, standing) => {
                let Some((_, current)) = self.jobs.get_mut(&id) else {
                    return Err(format!("{id} has a standing and was not accepted"));
                };
                if current.state.is_settled() {
                    return Err(format!("{id} settled as {:?} and then again as {:?}", current.state, standing.state));
                }
                // A settlement of its home that a regent takes over is of a lower term.
                let adopted = standing.state.is_settled() && term_of(standing.epoch) < term_of(current.epoch)
                    || term_of(standing.revision) > term_of(current.revision);
                if standing.epoch < current.epoch && !adopted {
                    return Err(format!("{id} went from epoch {} back to {}", current.epoch, standing.epoch));
                }
                let epoch = standing.epoch;
                *current = *standing;
                self.note_epoch(id, epoch);
            }
            Record::Granted(promise) => {
                let before = self.grants.insert(promise.job, promise);
                if before.is_some_and(|before| before.epoch > promise.epoch) {
                    return Err(format!("{promise:?} follows {before:?}"));
                }
            }
            Record::Swept(id) => {
                self.memos.remove(&id);
                self.calls.remove(&id);
                self.grants.remove(&id);
                if let Some((accepted, standing)) = self.jobs.remove(&id) {
                    let highest = self.charge_revisions.entry(id).or_default();
                    *highest = standing.revision.max(*highest);
                    self.swept += u64::from(accepted.size());
                    if accepted.is_array() {
                        self.jobs.retain(|_, (job, _)| job.array_id() != Some(id));
                        self.elsewhere.retain(|_, (job, _)| job.array_id() != Some(id));
                        self.ended_before.remove(&id);
                    }
                    if !standing.state.is_settled() {
                        return Err(format!("{id} was swept while it was {:?}", standing.state));
                    }
                }
            }
            Record::GuestAccepted(guest) => {
                let run = guest.run;
                let epoch = self.guest_epochs.entry(run.job).or_default();
                *epoch = run.epoch.max(*epoch);
                if let Some((other, _)) = self.guests.insert(run.job, (*guest, None)) {
                    return Err(format!("{run:?} was taken while {:?} was here", other.run));
                }
            }
            Record::GuestEnded(run, end) => match self.guests.get_mut(&run.job) {
                Some((guest, ended @ None)) if guest.run == run => *ended = Some(*end),
                other => return Err(format!("{run:?} ended and stood as {other:?}")),
            },
            Record::Retained(_) => {}
            Record::Call(job, call) => drop(self.calls.insert(job, call)),
            Record::Memo(job, Some(key)) => drop(self.memos.insert(job, key)),
            Record::Memo(job, None) => drop(self.memos.remove(&job)),
            Record::Checkpoint(job, saving) => keep(&mut self.saved, job, *saving),
            Record::GuestCheckpoint(run, saving) => keep(&mut self.guest_saved, run.job, *saving),
            Record::GuestGone(run) => match self.guests.remove(&run.job) {
                Some((guest, _)) if guest.run == run => {}
                other => return Err(format!("{run:?} is gone and stood as {other:?}")),
            },
            Record::Custodians(record) => {
                let set = record.set;
                let before = self.sets.insert((set.home, set.number), set.clone());
                if before.is_some_and(|before| before != set) {
                    return Err(format!("{set:?} was another one before"));
                }
            }
            Record::Charge(charge) => return self.keep(*charge),
            Record::Reign(reign) => return self.reign(*reign),
            Record::Taken(taken) => return self.take(*taken),
            Record::HandedBack(job) => return self.hand_back(job),
            Record::Withdrawn(id) => match self.jobs.remove(&id) {
                Some((accepted, standing)) if accepted.array_id().is_some() && !standing.state.is_settled() => {}
                other => return Err(format!("{id} was withdrawn and stood as {other:?}")),
            },
            Record::Elsewhere(id, standing) => {
                let Some(accepted) = element(&self.jobs, id) else {
                    return Err(format!("{id} stands elsewhere and is no element of an array that is here"));
                };
                // Who is told that it is known here may hear that when the array has been forgotten.
                let highest = self.charge_revisions.entry(id).or_default();
                *highest = standing.revision.max(*highest);
                match self.jobs.get_mut(&id) {
                    Some((_, current)) if current.state.is_settled() => *current = *standing,
                    Some(other) => return Err(format!("{id} stands elsewhere and here as {other:?}")),
                    None => drop(self.elsewhere.insert(id, (accepted, *standing))),
                }
            }
            // No node of a simulated mesh leaves.
            Record::Drain(_) => {}
            Record::Merged(id, standing) => match self.jobs.get_mut(&id) {
                Some((_, current))
                    if current.state.is_settled()
                        && (standing.revision > current.revision || *current == *standing) =>
                {
                    *current = *standing;
                }
                other => return Err(format!("{id} was merged and stood as {other:?}")),
            },
            Record::Tally(tally) => {
                let key = (tally.group, tally.user);
                let before = match tally.recent_us {
                    0 => self.tallies.remove(&key),
                    _ => self.tallies.insert(key, tally),
                };
                if before.is_some_and(|before| before.total_us > tally.total_us && tally.recent_us > 0) {
                    return Err(format!("what was used became less: {before:?}, then {tally:?}"));
                }
            }
            Record::ChargeGone(job) => {
                self.grants.remove(&job);
                if self.charges.remove(&job).is_none() && self.taken.remove(&job).is_none() {
                    return Err(format!("{job} is kept no more and was not kept"));
                }
            }
        }
        Ok(())
    }

    /// A job of this home, also an element that began at another node, which decides its array.
    pub fn jobs_and_elsewhere(&self, id: ObjectId) -> Option<&(Accepted, Standing)> {
        self.jobs.get(&id).or_else(|| self.elsewhere.get(&id))
    }

    /// A job as it is durable here, of this home or of another one; an element of which nothing is known as its array.
    pub fn read(&self, id: ObjectId) -> Option<(Accepted, Standing)> {
        let kept = || self.charges.get(&id).map(|(_, _, accepted, standing)| (accepted.clone(), standing.clone()));
        let unbegun = || {
            let accepted = element(&self.jobs, id)?;
            let (_, array) = self.jobs.get(&accepted.array_id()?)?;
            Some((accepted, Standing { elements: None, revision: 0, ..array.clone() }))
        };
        self.jobs_and_elsewhere(id).cloned().or_else(kept).or_else(unbegun)
    }

    /// What a restarted kernel is told of custodians.
    pub fn custody(&self) -> (Vec<CustodianSet>, Vec<ChargeState>, Vec<Reign>) {
        let charges = self
            .charges
            .values()
            .map(|(home, set, accepted, standing)| charge_state((*home, *set), accepted, standing, false));
        let taken = self.taken.iter().filter_map(|(job, realm)| {
            let (accepted, standing) = self.jobs.get(job)?;
            Some(charge_state(*realm, accepted, standing, true))
        });
        let reigns = self.reigns.values().cloned().collect();
        (self.sets.values().cloned().collect(), charges.chain(taken).collect(), reigns)
    }

    /// The highest stays, also where a settlement of an older run stands in the end.
    fn note_epoch(&mut self, id: ObjectId, epoch: u64) {
        let highest = self.epochs.entry(id).or_default();
        *highest = epoch.max(*highest);
    }

    fn reign(&mut self, reign: Reign) -> Result<(), String> {
        let place = (reign.regent.home, reign.regent.set, reign.acts);
        let before = self.reigns.insert(place, reign.clone()).map(|before| before.regent);
        let other = before.filter(|before| {
            before.term > reign.regent.term
                || (before.term == reign.regent.term && before.regent != reign.regent.regent)
        });
        other.map_or(Ok(()), |before| Err(format!("{:?} follows {before:?}", reign.regent)))
    }

    fn take(&mut self, taken: TakenJob) -> Result<(), String> {
        let TakenJob { home, set, accepted, standing, .. } = taken;
        let id = accepted.id;
        let array_is_here = |array| self.charges.contains_key(&array) || self.taken.contains_key(&array);
        let follows = accepted.array_id().is_some_and(array_is_here);
        if self.charges.remove(&id).is_none() && !follows {
            return Err(format!("{id} was taken over and not kept"));
        }
        self.taken.insert(id, (home, set));
        if accepted.array_id().is_none() {
            self.accepted += u64::from(accepted.size());
        }
        if let Some(elements) = standing.elements {
            self.ended_before.insert(id, u64::from(elements.ended()));
        }
        self.note_epoch(id, standing.epoch);
        match self.jobs.insert(id, (accepted, standing)) {
            None => Ok(()),
            Some(_) => Err(format!("{id} was taken over and was here before")),
        }
    }

    fn hand_back(&mut self, id: ObjectId) -> Result<(), String> {
        let Some(((home, set), (accepted, standing))) = self.taken.remove(&id).zip(self.jobs.get(&id).cloned()) else {
            return Err(format!("{id} was handed back and was not taken over"));
        };
        if !standing.state.is_settled() {
            return Err(format!("{id} was handed back while it was {:?}", standing.state));
        }
        let highest = self.charge_revisions.entry(id).or_default();
        *highest = standing.revision.max(*highest);
        self.charges.insert(id, (home, set, accepted, standing));
        Ok(())
    }

    fn keep(&mut self, charge: Charge) -> Result<(), String> {
        let Charge { home, set, job, accepted, standing, array, .. } = charge;
        let array = array.and_then(|array| {
            let taken = self.jobs.get(&array).map(|(accepted, _)| accepted);
            self.charges.get(&array).map(|(_, _, accepted, _)| accepted).or(taken)
        });
        let of_array = array.and_then(|array| array.element_of_id(job)).map(Box::new);
        let accepted = accepted.or(of_array);
        let highest = self.charge_revisions.entry(job).or_default();
        *highest = standing.as_ref().map_or(0, |standing| standing.revision).max(*highest);
        match (self.charges.get_mut(&job), accepted) {
            (Some((_, _, known, before)), accepted) => {
                let standing = standing.map(|standing| *standing);
                let next = standing.unwrap_or_else(|| known.standing());
                if next.revision <= before.revision {
                    return Err(format!("{job} is kept at revision {} after {}", next.revision, before.revision));
                }
                if let Some(accepted) = accepted {
                    *known = *accepted;
                }
                *before = next;
            }
            (None, Some(accepted)) => {
                let standing = standing.map_or_else(|| accepted.standing(), |standing| *standing);
                self.charges.insert(job, (home, set, *accepted, standing));
            }
            (None, None) => return Err(format!("something new is written of {job}, which is not kept")),
        }
        Ok(())
    }
}

/// What a kernel remembers of a job that is kept under this set of its home.
fn charge_state((home, set): (NodeId, u32), accepted: &Accepted, standing: &Standing, taken: bool) -> ChargeState {
    ChargeState {
        job: accepted.id,
        home,
        set,
        revision: standing.revision,
        array: accepted.extras.array.filter(|_| accepted.is_array()),
        lacks_input: accepted.extras.input_of.is_some() && accepted.input.size() == 0,
        ended: standing.ended(),
        taken,
    }
}

/// Whether it is a settled job that is kept for itself: an element is kept with its array.
pub fn is_kept(accepted: &Accepted, standing: &Standing) -> bool {
    standing.state.is_settled() && accepted.array_id().is_none()
}

fn keep(saved: &mut BTreeMap<ObjectId, Checkpoint>, job: ObjectId, saving: Saving) {
    match saving.checkpoint {
        Some(checkpoint) => drop(saved.insert(job, checkpoint)),
        None => drop(saved.remove(&job)),
    }
}
