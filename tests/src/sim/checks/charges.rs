//! What must always hold of jobs that are kept for other homes, and of the word of those who keep them.

use std::collections::{BTreeMap, BTreeSet};

use shoal_kernel::{Charge, Input, Record};
use shoal_protocol::custody::CustodianSet;
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::{NodeId, ObjectId};

use super::Broken;
use crate::sim::disk::Disk;

/// What the checks remember of it.
#[derive(Debug, Default)]
pub(super) struct Charges {
    /// The revision of each job that the kernel has written, durable or not.
    written: BTreeMap<ObjectId, u64>,
    /// Those of them that somebody has cancelled, as far as it is kept here.
    cancelled: BTreeSet<ObjectId>,
    /// Who has said of which job of this home that it is kept.
    heard: BTreeMap<ObjectId, BTreeSet<NodeId>>,
    /// The sets of custodians that were written.
    sets: BTreeMap<(NodeId, u32), CustodianSet>,
}

impl Charges {
    pub(super) fn restarted(&mut self, disk: &Disk) {
        self.written = disk.charges.iter().map(|(job, (.., standing))| (*job, standing.revision)).collect();
        let taken = disk.taken.keys().filter_map(|job| Some((*job, disk.jobs.get(job)?.1.revision)));
        self.written.extend(taken);
        let cancelled = disk.charges.iter().filter(|(_, (.., standing))| standing.cancelled);
        self.cancelled = cancelled.map(|(job, _)| *job).collect();
        self.sets = disk.sets.clone();
        self.heard.clear();
    }

    pub(super) fn note(&mut self, input: Option<&Input>) {
        match input {
            Some(Input::Kept { node, kept }) => {
                let jobs = kept.jobs.iter().map(|(job, _)| *job);
                jobs.for_each(|job| self.hear(job, *node));
            }
            Some(Input::Holding { node, page }) => {
                let jobs = page.jobs.iter().map(|(job, ..)| *job);
                jobs.for_each(|job| self.hear(job, *node));
            }
            _ => {}
        }
    }

    fn hear(&mut self, job: ObjectId, node: NodeId) {
        self.heard.entry(job).or_default().insert(node);
    }

    pub(super) fn write(&mut self, record: &Record) -> Result<(), Broken> {
        match record {
            Record::Custodians(record) => {
                let set = &record.set;
                match self.sets.insert((set.home, set.number), set.clone()) {
                    Some(before) if before != *set => {
                        Err(("a set of custodians is never changed", format!("{before:?} becomes {set:?}")))
                    }
                    _ => Ok(()),
                }
            }
            Record::Charge(charge) => {
                let revision = charge.standing.as_ref().map_or(0, |standing| standing.revision);
                if !self.sets.contains_key(&(charge.home, charge.set)) {
                    return Err(("a job is kept under a set that is known", format!("{charge:?}")));
                }
                if charge.accepted.is_none() && !self.written.contains_key(&charge.job) {
                    self.element(charge)?;
                }
                match charge.standing.as_ref().is_some_and(|standing| standing.cancelled) {
                    true => self.cancelled.insert(charge.job),
                    false => self.cancelled.remove(&charge.job),
                };
                match self.written.insert(charge.job, revision) {
                    Some(before) if before >= revision => {
                        let detail = format!("{} is kept at revision {revision} after {before}", charge.job);
                        Err(("what is kept never gives way to what is older", detail))
                    }
                    _ => Ok(()),
                }
            }
            Record::Taken(taken) => {
                let (id, revision) = (taken.accepted.id, taken.standing.revision);
                // A home gives way to a regent that has not heard of a cancellation: one that has knows it from the beginning.
                if self.cancelled.contains(&id) && !taken.standing.cancelled {
                    return Err(("a cancellation stays", format!("{id} is taken over as if nobody had cancelled it")));
                }
                let array = taken.accepted.array_id().is_some_and(|array| self.written.contains_key(&array));
                match self.written.insert(id, revision) {
                    Some(before) if before <= revision => Ok(()),
                    // It is kept with its array.
                    None if array => Ok(()),
                    before => {
                        Err(("what is taken over was kept", format!("{id} stood at {before:?}, now at {revision}")))
                    }
                }
            }
            Record::ChargeGone(job) => {
                self.written.remove(job);
                self.cancelled.remove(job);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A job stands at this revision: if it was taken over that is what is kept of it.
    pub(super) fn note_revision(&mut self, job: ObjectId, revision: u64) {
        if let Some(written) = self.written.get_mut(&job) {
            *written = revision.max(*written);
        }
    }

    /// Something new is written of a job that was not kept before: an element, whose array was.
    fn element(&self, charge: &Charge) -> Result<(), Broken> {
        if charge.array.is_some_and(|array| self.written.contains_key(&array)) {
            return Ok(());
        }
        Err(("what is new of a job is kept with the job, or its array", format!("{charge:?}")))
    }

    /// Something is decided to be said to a home.
    pub(super) fn says(&self, message: &PeerMessage) -> Result<(), Broken> {
        // To its regent a home speaks of jobs of its own.
        let PeerMessage::Kept(kept) = message else { return Ok(()) };
        if kept.home.is_some() {
            return Ok(());
        }
        let unwritten = kept.jobs.iter().find(|(job, revision)| self.written.get(job).is_none_or(|at| at < revision));
        unwritten.map_or(Ok(()), |unwritten| {
            Err(("a job is written before its home hears that it is kept", format!("{unwritten:?}")))
        })
    }

    /// Something leaves for a home: what it names is durable, or was and has been forgotten since.
    pub(super) fn leaves(message: &PeerMessage, disk: &Disk) -> Result<(), Broken> {
        let listed: Vec<(ObjectId, u64)> = match message {
            PeerMessage::Kept(kept) => kept.jobs.clone(),
            PeerMessage::Holding(page) => page.jobs.iter().map(|(job, _, revision)| (*job, *revision)).collect(),
            _ => return Ok(()),
        };
        let durable = |job: &ObjectId| {
            let ours = disk.jobs_and_elsewhere(*job).map(|(_, standing)| standing.revision);
            ours.max(disk.charge_revisions.get(job).copied())
        };
        let volatile = listed.iter().find(|(job, revision)| durable(job).is_none_or(|at| at < *revision));
        volatile.map_or(Ok(()), |volatile| {
            Err(("a job is durable before its home hears that it is kept", format!("{volatile:?}")))
        })
    }

    /// A set leaves for a node: were it not durable, its number could become that of another one after a crash.
    pub(super) fn set_leaves(set: &CustodianSet, disk: &Disk) -> Result<(), Broken> {
        let durable = disk.sets.get(&(set.home, set.number));
        if durable != Some(set) {
            let detail = format!("{set:?} leaves, {durable:?} is durable");
            return Err(("a set of custodians is durable before anybody hears of it", detail));
        }
        Ok(())
    }

    /// A job is acknowledged: as many have said that they keep it as it says.
    pub(super) fn acknowledged(&self, home: NodeId, job: ObjectId, disk: &Disk) -> Result<(), Broken> {
        let Some((accepted, standing)) = disk.jobs.get(&job) else { return Ok(()) };
        if job.tag() != home.tag() {
            // It was promised by its home. Who asks again with its key is told by its regent that it is there.
            return Ok(());
        }
        // What has ended before its custodians heard of it is not brought to them later.
        let open = !standing.alone && !standing.state.is_settled();
        let Some(custody) = accepted.custody.filter(|_| open) else { return Ok(()) };
        let set = self.sets.get(&(home, custody.set));
        let heard = self.heard.get(&job).into_iter().flatten();
        let keep = heard.filter(|node| set.is_some_and(|set| set.has_custodian(**node))).count();
        if keep + 1 < usize::from(custody.durability.get()) {
            let detail = format!("{job} says {custody:?}, and {keep} others have said that they keep it");
            return Err(("a job is on as many disks as it says when it is acknowledged", detail));
        }
        Ok(())
    }
}
