//! The idempotency keys of all jobs of this home, unsettled or kept: some 100 bytes each, for jobs that have one.

use std::collections::BTreeMap;

use shoal_protocol::object::job::KeyId;
use shoal_protocol::{BlobId, ObjectId};

/// The job of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Keyed {
    pub(crate) job: ObjectId,
    /// The hash of what was submitted.
    pub(crate) body: BlobId,
}

/// All keys. Several jobs may have one: of each side of a cut one, until they hear of each other.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    /// With the hash of what was submitted.
    keys: BTreeMap<(KeyId, ObjectId), BlobId>,
    jobs: BTreeMap<ObjectId, KeyId>,
}

impl Keys {
    /// The first job of a key, by its id, that is known here.
    pub(crate) fn get(&self, key: KeyId) -> Option<Keyed> {
        let (&(_, job), &body) = self.keys.range((key, ObjectId::MIN)..=(key, ObjectId::MAX)).next()?;
        Some(Keyed { job, body })
    }

    pub(crate) fn insert(&mut self, key: KeyId, keyed: Keyed) {
        self.keys.insert((key, keyed.job), keyed.body);
        self.jobs.insert(keyed.job, key);
    }

    /// The job is forgotten, and its key with it unless another job has that.
    pub(crate) fn remove(&mut self, job: ObjectId) {
        if let Some(key) = self.jobs.remove(&job) {
            self.keys.remove(&(key, job));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_stays_until_its_last_job_is_forgotten() {
        let id = |n: u64| ObjectId::from_parts(n, 0, [0; 8]);
        let (key, body) = (KeyId::new(None, id(1), id(2), "k"), BlobId::of(b"body"));
        let mut keys = Keys::default();
        keys.insert(key, Keyed { job: id(20), body });
        keys.insert(key, Keyed { job: id(10), body });
        assert_eq!(keys.get(key), Some(Keyed { job: id(10), body }), "the first");
        keys.remove(id(10));
        assert_eq!(keys.get(key), Some(Keyed { job: id(20), body }));
        keys.remove(id(20));
        assert_eq!(keys.get(key), None);
    }
}
