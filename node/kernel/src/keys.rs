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

/// All keys.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    keys: BTreeMap<KeyId, Keyed>,
    jobs: BTreeMap<ObjectId, KeyId>,
}

impl Keys {
    pub(crate) fn get(&self, key: KeyId) -> Option<Keyed> {
        self.keys.get(&key).copied()
    }

    pub(crate) fn insert(&mut self, key: KeyId, keyed: Keyed) {
        self.keys.insert(key, keyed);
        self.jobs.insert(keyed.job, key);
    }

    /// The job is forgotten, and its key with it.
    pub(crate) fn remove(&mut self, job: ObjectId) {
        if let Some(key) = self.jobs.remove(&job) {
            self.keys.remove(&key);
        }
    }
}
