//! Who waits for whom: of each job that has not ended, the jobs that wait for its end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::RangeInclusive;

use shoal_protocol::ObjectId;

use crate::input::End;

/// Who waits for whom.
#[derive(Debug, Default)]
pub(crate) struct Dependents {
    waiting: BTreeMap<ObjectId, BTreeSet<ObjectId>>,
    /// Jobs that have ended, and whose dependents have not heard of it. Why a list: a chain of a hundred thousand jobs ends
    /// one after the other, not one within the other.
    ended: VecDeque<(ObjectId, Option<End>)>,
}

impl Dependents {
    /// `job` waits for the end of `earlier`.
    pub(crate) fn insert(&mut self, earlier: ObjectId, job: ObjectId) {
        self.waiting.entry(earlier).or_default().insert(job);
    }

    /// `job` waits for `earlier` no more.
    pub(crate) fn remove(&mut self, earlier: ObjectId, job: ObjectId) {
        if let Some(jobs) = self.waiting.get_mut(&earlier) {
            jobs.remove(&job);
            if jobs.is_empty() {
                self.waiting.remove(&earlier);
            }
        }
    }

    /// Whether somebody waits for the end of a job.
    pub(crate) fn has(&self, job: ObjectId) -> bool {
        self.waiting.contains_key(&job)
    }

    /// A job has ended like this; none: nothing is known of it any more.
    pub(crate) fn ended(&mut self, job: ObjectId, end: impl FnOnce() -> Option<End>) {
        if self.waiting.contains_key(&job) {
            self.ended.push_back((job, end()));
        }
    }

    /// All jobs within this range that somebody waits for have ended like this.
    pub(crate) fn ended_within(&mut self, jobs: RangeInclusive<ObjectId>, end: impl Fn() -> Option<End>) {
        let waited_for: Vec<ObjectId> = self.waiting.range(jobs).map(|(job, _)| *job).collect();
        self.ended.extend(waited_for.into_iter().map(|job| (job, end())));
    }

    /// The next end that dependents have not heard of, with these dependents, oldest first.
    pub(crate) fn next(&mut self) -> Option<(ObjectId, Option<End>, BTreeSet<ObjectId>)> {
        let (job, end) = self.ended.pop_front()?;
        Some((job, end, self.waiting.remove(&job).unwrap_or_default()))
    }
}
