//! All unsettled jobs, by id, and what they count for: in memory, by project and by user.

use std::collections::BTreeMap;
use std::ops::Bound;

use shoal_protocol::object::job::{Elements, Outcome, Payload};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{ObjectId, WorkerId};

use super::Job;
use crate::record::Accepted;

/// What an unsettled job is reckoned to take in memory beside its input, arguments, environment and key, in bytes.
pub const JOB_BYTES: u64 = 1024;

/// What a key takes in memory beside its text: its entries in both tables of [`crate::keys`], and the hash in the job.
const KEY_BYTES: usize = 192;

/// What a job is reckoned to take in memory, in bytes.
fn weight(accepted: &Accepted) -> u64 {
    let input = match &accepted.input {
        Payload::Inline(bytes) => bytes.len(),
        Payload::Blob { .. } => 0,
    };
    let args: usize = accepted.extras.args.iter().map(String::len).sum();
    let env: usize = accepted.extras.env.iter().map(|(key, value)| key.len() + value.len()).sum();
    let key = accepted.extras.key.as_ref().map_or(0, |key| KEY_BYTES + key.key.len());
    JOB_BYTES.saturating_add((input + args + env + key) as u64)
}

fn whose(accepted: &Accepted) -> [Whose; 2] {
    [Whose::Group(accepted.group()), Whose::User(accepted.spec.owner)]
}

/// Elements of an array that count with it: they have not begun, or not here.
fn ahead(job: &Job) -> u32 {
    let elements = job.extras.elements.as_ref().zip(job.accepted.extras.array);
    elements.map_or(0, |(elements, array)| array.size().saturating_sub(elements.apart()))
}

/// The elements of an array that have begun, in order.
fn begun(job: &Job) -> impl Iterator<Item = ObjectId> {
    let begun = job.extras.elements.as_ref().map_or(0, |elements| elements.begun);
    (0..begun).filter_map(|place| job.id().element(job.accepted.extras.array?.index(place)?))
}

/// Jobs of other homes that may stand between those of one. Why 4,096: as many come within the milliseconds that the elements of an
/// array take up.
const NEAR_MAX: usize = 4_096;
/// Of whom jobs are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Whose {
    /// A project, or the owner of functions that are in none: [`Accepted::group`].
    Group(ObjectId),
    /// Who submitted them.
    User(ObjectId),
}

/// Bytes that a job refers to and that count for its project: input, result and log, of an array also those of its elements.
/// An element has none of its own: its array has them. `elements`: how far it is, of an array.
pub fn stored_bytes(accepted: &Accepted, elements: Option<&Elements>, outcome: Option<&Outcome>) -> u64 {
    if accepted.array_id().is_some() {
        return 0;
    }
    let made = outcome.map_or(0, outcome_bytes).saturating_add(elements.map_or(0, |elements| elements.bytes));
    accepted.input.size().saturating_add(made)
}

/// Bytes of what came out of a run.
pub(crate) fn outcome_bytes(outcome: &Outcome) -> u64 {
    outcome.output.size().saturating_add(outcome.log.size())
}

/// For how many unsettled jobs it counts: an array for its elements that have not begun, the others count by themselves.
fn size(job: &Job) -> u64 {
    if job.extras.elements.is_some() { u64::from(ahead(job)) } else { 1 }
}

/// All unsettled jobs, by id.
#[derive(Debug, Default)]
pub(crate) struct Jobs {
    table: BTreeMap<ObjectId, Box<Job>>,
    bytes: u64,
    arrays: usize,
    /// Elements that have not begun.
    ahead: u64,
    /// Unsettled jobs of each project, and of each user; an array counts its elements.
    counts: BTreeMap<Whose, u64>,
    /// Bytes of their inputs, and of what elements of arrays have made, by project.
    stored: BTreeMap<ObjectId, u64>,
}

impl Jobs {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn contains(&self, id: ObjectId) -> bool {
        self.table.contains_key(&id)
    }

    /// What they are reckoned to take in memory, as [`JOB_BYTES`] says.
    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn insert(&mut self, job: Job) {
        self.bytes = self.bytes.saturating_add(weight(&job.accepted));
        self.arrays += usize::from(job.extras.elements.is_some());
        self.ahead += u64::from(ahead(&job));
        let (size, bytes) = (size(&job), job.bytes());
        *self.stored.entry(job.accepted.group()).or_default() += bytes;
        for whose in whose(&job.accepted) {
            *self.counts.entry(whose).or_default() += size;
        }
        self.table.insert(job.id(), Box::new(job));
    }

    pub(crate) fn remove(&mut self, id: ObjectId) -> Option<Job> {
        let job = self.table.remove(&id)?;
        self.bytes = self.bytes.saturating_sub(weight(&job.accepted));
        self.arrays -= usize::from(job.extras.elements.is_some());
        self.ahead -= u64::from(ahead(&job));
        self.uncount(whose(&job.accepted), size(&job));
        self.forget_bytes(job.accepted.group(), job.bytes());
        Some(*job)
    }

    /// So many elements of an array have begun, if not more had.
    pub(crate) fn begun(&mut self, array: ObjectId, begun: u32) {
        let Some(elements) = self.table.get_mut(&array).and_then(|job| job.extras.elements.as_mut()) else { return };
        let more = u64::from(begun.saturating_sub(elements.begun));
        self.ahead -= more;
        elements.begun = elements.begun.max(begun);
        if let Some(whose) = self.table.get(&array).map(|job| whose(&job.accepted)) {
            self.uncount(whose, more);
        }
    }

    fn uncount(&mut self, whose: [Whose; 2], size: u64) {
        for whose in whose {
            let Some(count) = self.counts.get_mut(&whose) else { continue };
            *count = count.saturating_sub(size);
            if *count == 0 {
                self.counts.remove(&whose);
            }
        }
    }

    fn forget_bytes(&mut self, group: ObjectId, bytes: u64) {
        let Some(stored) = self.stored.get_mut(&group) else { return };
        *stored = stored.saturating_sub(bytes);
        if *stored == 0 {
            self.stored.remove(&group);
        }
    }

    /// An element of this array has ended with so many bytes of result and log.
    pub(crate) fn made(&mut self, array: ObjectId, bytes: u64) {
        let Some(job) = self.table.get_mut(&array) else { return };
        let Some(elements) = job.extras.elements.as_mut() else { return };
        elements.bytes = elements.bytes.saturating_add(bytes);
        *self.stored.entry(job.accepted.group()).or_default() += bytes;
    }

    /// Bytes that unsettled jobs of a group refer to.
    pub(crate) fn stored(&self, group: ObjectId) -> u64 {
        self.stored.get(&group).copied().unwrap_or(0)
    }

    /// How many unsettled jobs somebody has; an array counts its elements.
    pub(crate) fn count(&self, whose: Whose) -> u64 {
        self.counts.get(&whose).copied().unwrap_or(0)
    }

    /// How many jobs wait although they are in no place of their own: elements that have not begun, less the arrays that
    /// wait for them.
    pub(crate) fn waiting_beyond(&self, places: usize) -> u64 {
        (places.saturating_sub(self.arrays) as u64).saturating_add(self.ahead)
    }

    /// The unsettled elements of an array, by index.
    pub(crate) fn elements_of(&self, array: ObjectId) -> Vec<ObjectId> {
        let last = self.get(array).and_then(|job| array.element(job.accepted.extras.array?.last));
        let Some((first, last)) = array.element(0).zip(last) else { return Vec::new() };
        let within = self.table.range(first..=last).filter(|(_, job)| job.accepted.array_id() == Some(array));
        within.map(|(id, _)| *id).collect()
    }

    /// Whether one of these is in the table.
    pub(crate) fn has_any(&self, jobs: &[ObjectId]) -> bool {
        jobs.iter().any(|job| self.contains(*job))
    }

    /// The job of the same home with this id, or the last before it: no other one has an id between that of an array and those of
    /// its elements.
    fn near(&self, id: ObjectId) -> Option<&Job> {
        let before = self.table.range(..=id).rev().take(NEAR_MAX);
        before.map(|(_, job)| &**job).find(|job| job.id().tag() == id.tag())
    }

    /// The array whose element this is, if that has not begun.
    pub(crate) fn array_ahead(&self, element: ObjectId) -> Option<&Job> {
        let near = self.near(element)?;
        let array = near.accepted.array_id().map_or(Some(near), |array| self.get(array))?;
        let index = array.id().index_of(element).filter(|_| array.extras.elements.is_some())?;
        let place = array.accepted.extras.array?.place(index)?;
        (place >= array.extras.elements.as_ref()?.begun).then_some(array)
    }

    /// Gives a job its input.
    pub(crate) fn supply(&mut self, id: ObjectId, input: Payload) -> Option<&Job> {
        let mut job = self.remove(id)?;
        job.accepted.input = input;
        self.insert(job);
        self.get(id)
    }

    pub(crate) fn get(&self, id: ObjectId) -> Option<&Job> {
        self.table.get(&id).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, id: ObjectId) -> Option<&mut Job> {
        self.table.get_mut(&id).map(Box::as_mut)
    }

    /// Behind this id, in order: each job, and of an array all elements that have begun, with the array. These need not be in
    /// memory any more.
    pub(crate) fn begun_behind(&self, after: Option<ObjectId>) -> impl Iterator<Item = (ObjectId, &Job)> {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let open = after.and_then(|after| self.near(after));
        let open = open.and_then(|near| near.accepted.array_id().map_or(Some(near), |array| self.get(array)));
        let heads = self.table.range((first, Bound::Unbounded)).map(|(_, job)| &**job);
        let heads = heads.filter(|job| job.accepted.extras.index.is_none());
        open.into_iter().chain(heads).flat_map(move |head| {
            let all = std::iter::once(head.id()).chain(begun(head)).filter(move |id| Some(*id) > after);
            all.map(move |id| (id, head))
        })
    }

    /// Every job, by id: only for what happens rarely.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &Job> {
        self.table.values().map(Box::as_ref)
    }

    /// The jobs whose ids have this tag: only for what happens rarely.
    pub(crate) fn of_tag(&self, tag: [u8; 8]) -> impl Iterator<Item = &Job> {
        self.table.values().map(Box::as_ref).filter(move |job| job.id().tag() == tag)
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
