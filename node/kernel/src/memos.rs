//! Which results may be given again: of jobs that were submitted to be memoised, those that have succeeded and are kept, and those
//! that are under way. Some 150 bytes for each result, [`MEMOS_MAX`] of them at most: the oldest goes first.

use std::collections::BTreeMap;

use shoal_protocol::{BlobId, ObjectId, codec};

use crate::dependents::Dependents;
use crate::input::End;
use crate::record::Accepted;

/// Results that are known at once. Why 100,000: some 15 MB; who has more equal work than that forgets the oldest.
pub(crate) const MEMOS_MAX: usize = 100_000;

/// What determines a result: the hash of who asks, what runs, what it may do, and what it is given.
pub(crate) fn key_of(accepted: &Accepted) -> BlobId {
    let (spec, extras) = (&*accepted.spec, &*accepted.extras);
    let what = (spec.owner, spec.function, spec.component, &spec.grants);
    BlobId::of(&codec::encode(&(what, accepted.input.id(), &extras.args, &extras.env)))
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Memos {
    /// The job that has the result of a key.
    kept: BTreeMap<BlobId, ObjectId>,
    /// The same by job, the oldest first.
    kept_jobs: BTreeMap<ObjectId, BlobId>,
    /// The job that is under way for a key.
    firsts: BTreeMap<BlobId, ObjectId>,
    /// The same by job.
    first_jobs: BTreeMap<ObjectId, BlobId>,
    /// Who waits for the result of which job.
    waiting: Dependents,
    /// Jobs that have ended, and whose result somebody waits for: the edge is to be asked.
    asks: Vec<ObjectId>,
}

impl Memos {
    /// The job whose result a job of this key is to wait for; none: it is to run, and others wait for it.
    pub(crate) fn enter(&mut self, key: BlobId, id: ObjectId) -> Option<ObjectId> {
        let kept = self.kept.get(&key).copied();
        let first = kept.or_else(|| self.firsts.get(&key).copied()).filter(|first| *first != id);
        match first {
            None => self.lead(key, id),
            Some(first) => {
                self.waiting.insert(first, id);
                self.asks.extend(kept);
            }
        }
        first
    }

    /// A job is under way: others of its key wait for it, unless they wait for another one.
    pub(crate) fn lead(&mut self, key: BlobId, id: ObjectId) {
        if self.firsts.get(&key).is_none_or(|first| *first == id) {
            self.firsts.insert(key, id);
            self.first_jobs.insert(id, key);
        }
    }

    /// The job that is under way for a key.
    pub(crate) fn leader(&self, key: BlobId) -> Option<ObjectId> {
        self.firsts.get(&key).copied()
    }

    /// A job waits for the result of another one no more.
    pub(crate) fn leave(&mut self, first: ObjectId, id: ObjectId) {
        self.waiting.remove(first, id);
    }

    /// A job is under way no more: it has ended like this, or nobody knows when it will.
    pub(crate) fn ended(&mut self, id: ObjectId, end: impl FnOnce() -> Option<End>) {
        if let Some(key) = self.first_jobs.remove(&id) {
            self.firsts.remove(&key);
            self.waiting.ended(id, end);
        }
    }

    /// What the store knows of a job that has ended. One whose result is not there gives it to nobody.
    pub(crate) fn learned(&mut self, id: ObjectId, end: Option<&End>) {
        if !self.kept_jobs.contains_key(&id) {
            return self.waiting.ended(id, || None);
        }
        self.waiting.ended(id, || end.cloned());
    }

    /// The next job of which those who wait for it have not heard how it ended, with them.
    pub(crate) fn next(&mut self) -> Option<(ObjectId, Option<End>, Vec<ObjectId>)> {
        let (id, end, waiting) = self.waiting.next()?;
        Some((id, end, waiting.into_iter().collect()))
    }

    /// The jobs that the edge is to be asked about.
    pub(crate) fn take_asks(&mut self) -> Vec<ObjectId> {
        let mut asks = std::mem::take(&mut self.asks);
        asks.dedup();
        asks
    }

    /// A job has succeeded: its result is that of the key. The jobs that give their places up for it.
    pub(crate) fn keep(&mut self, key: BlobId, id: ObjectId) -> Vec<ObjectId> {
        let mut gone: Vec<ObjectId> = self.kept.insert(key, id).into_iter().filter(|before| *before != id).collect();
        self.kept_jobs.insert(id, key);
        for before in &gone {
            self.kept_jobs.remove(before);
        }
        if self.kept_jobs.len() > MEMOS_MAX
            && let Some((oldest, key)) = self.kept_jobs.pop_first()
        {
            self.kept.remove(&key);
            gone.push(oldest);
        }
        gone
    }

    /// A job is forgotten, and its result with it. Whether it had one that might have been given again.
    pub(crate) fn forget(&mut self, id: ObjectId) -> bool {
        let key = self.kept_jobs.remove(&id);
        if let Some(key) = key {
            self.kept.remove(&key);
        }
        key.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> ObjectId {
        ObjectId::from_parts(n, 0, [0; 8])
    }

    fn key(n: u32) -> BlobId {
        BlobId::of(&n.to_be_bytes())
    }

    #[test]
    fn no_more_results_are_known_than_may_be_and_the_oldest_goes() {
        let mut memos = Memos::default();
        for n in 0..MEMOS_MAX as u32 {
            assert_eq!(memos.keep(key(n), id(u64::from(n) + 1)), []);
        }
        assert_eq!(memos.keep(key(u32::MAX), id(u64::MAX >> 17)), [id(1)]);
        assert_eq!((memos.kept.len(), memos.kept_jobs.len()), (MEMOS_MAX, MEMOS_MAX));
        assert_eq!(memos.enter(key(0), id(7)), None, "it is known no more");
        assert_eq!(memos.enter(key(1), id(8)), Some(id(2)));
    }

    #[test]
    fn a_newer_result_takes_the_place_of_an_older_one() {
        let mut memos = Memos::default();
        memos.keep(key(1), id(1));
        assert_eq!(memos.keep(key(1), id(2)), [id(1)]);
        assert!(!memos.forget(id(1)) && memos.forget(id(2)) && !memos.forget(id(2)));
        assert!(memos.kept.is_empty() && memos.kept_jobs.is_empty());
    }
}
