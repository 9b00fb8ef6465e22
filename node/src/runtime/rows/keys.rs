//! The keys that jobs were submitted under: one row for each job that has one, as long as it is kept.

use serde::{Deserialize, Serialize};
use shoal_kernel::Accepted;
use shoal_protocol::object::job::KeyId;
use shoal_protocol::{BlobId, ObjectId, Problem, codec};

use super::{decode, key_of, object_id};
use crate::store::{Mutation, Store, Table};

/// Rows that are read at once after a start.
const PAGE_LEN: usize = 1_000;

#[derive(Serialize, Deserialize)]
struct Row(KeyId, BlobId);

/// The row of a job that is accepted, if it has a key.
pub(super) fn row(accepted: &Accepted) -> Option<Mutation> {
    let row = Row(KeyId::of(accepted)?, accepted.extras.key.as_ref()?.body);
    Some(Mutation::put(Table::Keys, key_of(accepted.id), codec::encode(&row)))
}

/// All keys, with their jobs and the hashes of what was submitted.
pub(in crate::runtime) fn read_keys(store: &Store) -> Result<Vec<(KeyId, ObjectId, BlobId)>, Problem> {
    let mut keys = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan_prefix(Table::Keys, &[], after.as_deref(), PAGE_LEN)?;
        let Some((last, _)) = page.last() else { return Ok(keys) };
        after = Some(last.to_vec());
        for (key, row) in &page {
            if let Some(job) = object_id(key) {
                let Row(key, body) = decode("key of a job", row)?;
                keys.push((key, job, body));
            }
        }
    }
}
