//! What runs have saved, as it stands in the store: one row a job, in the place of the one before.

use bytes::Bytes;
use shoal_kernel::Saving;
use shoal_protocol::object::job::Checkpoint;
use shoal_protocol::{ObjectId, Problem, codec};

use super::{Referrer, decode, key_of, object_id, reference_key};
use crate::store::{Mutation, Store, Table};

/// Rows that are read at once after a start. Why 64: each may hold 16 KiB.
const PAGE_LEN: usize = 64;
/// Tells a reference from a checkpoint apart from those of the job's input, result and log, which may be the same bytes.
pub(crate) const CHECKPOINT_PLACE: &[u8] = b"c";

/// The rows of what a run has saved, or that nobody needs it any more.
pub(super) fn saved(table: Table, referrer: Referrer, saving: &Saving, rows: &mut Vec<Mutation>) {
    let (Referrer::Job(job) | Referrer::Guest(job)) = referrer else { return };
    let reference = |blob| reference_key(blob, referrer, CHECKPOINT_PLACE);
    rows.extend(saving.replaces.map(|blob| Mutation::delete(Table::References, reference(blob))));
    let blob = saving.checkpoint.as_ref().and_then(|checkpoint| checkpoint.bytes.blob());
    rows.extend(blob.map(|blob| Mutation::put(Table::References, reference(blob), Bytes::new())));
    rows.push(match &saving.checkpoint {
        Some(checkpoint) => Mutation::put(table, key_of(job), codec::encode(checkpoint)),
        None => Mutation::delete(table, key_of(job)),
    });
}

/// What a run of this job of the home has saved last, as it is durable.
pub(crate) fn read_checkpoint(store: &Store, job: ObjectId) -> Result<Option<Checkpoint>, Problem> {
    read(store, Table::Checkpoints, job)
}

/// What the run of this job of another home has saved last, as it is durable.
pub(crate) fn read_guest_checkpoint(store: &Store, job: ObjectId) -> Result<Option<Checkpoint>, Problem> {
    read(store, Table::GuestCheckpoints, job)
}

fn read(store: &Store, table: Table, job: ObjectId) -> Result<Option<Checkpoint>, Problem> {
    store.get(table, &job.to_bytes())?.map(|row| decode("checkpoint", &row)).transpose()
}

/// All of a table, by job.
pub(in crate::runtime) fn read_checkpoints(
    store: &Store,
    table: Table,
) -> Result<Vec<(ObjectId, Checkpoint)>, Problem> {
    let mut checkpoints = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan_prefix(table, &[], after.as_deref(), PAGE_LEN)?;
        let Some((last, _)) = page.last() else { return Ok(checkpoints) };
        after = Some(last.to_vec());
        for (key, row) in &page {
            if let Some(job) = object_id(key) {
                checkpoints.push((job, decode("checkpoint", row)?));
            }
        }
    }
}
