//! Whose results may be given again: one row for each job, until it is forgotten or another one takes its place.

use shoal_protocol::{BlobId, ObjectId, Problem, codec};

use super::{decode, key_of, object_id};
use crate::store::{Mutation, Store, Table};

/// Rows that are read at once after a start.
const PAGE_LEN: usize = 1_000;

/// The row of a job; none: its result is not given again.
pub(super) fn row(job: ObjectId, key: Option<BlobId>) -> Mutation {
    match key {
        Some(key) => Mutation::put(Table::Memos, key_of(job), codec::encode(&key)),
        None => Mutation::delete(Table::Memos, key_of(job)),
    }
}

/// All of them, with their keys.
pub(in crate::runtime) fn read_memos(store: &Store) -> Result<Vec<(ObjectId, BlobId)>, Problem> {
    let mut memos = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan_prefix(Table::Memos, &[], after.as_deref(), PAGE_LEN)?;
        let Some((last, _)) = page.last() else { return Ok(memos) };
        after = Some(last.to_vec());
        for (job, key) in &page {
            if let Some(job) = object_id(job) {
                memos.push((job, decode("memoised result", key)?));
            }
        }
    }
}
