//! Runs of other homes, as they stand in the store: one row when a run was taken, one more when it has ended.

use bytes::Bytes;
use shoal_kernel::{GuestEnd, GuestRun};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{BlobId, ObjectId, Problem, codec};

use super::{Referrer, blobs_of, decode, key_of, object_id, reference_key};
use crate::store::{Mutation, Store, Table};

/// Runs that are read at once after a start.
const PAGE_LEN: usize = 256;

/// The rows of a run that is taken. Its input is referred to from now on, so that it stays once it has been fetched.
pub(super) fn accepted(guest: &GuestRun, rows: &mut Vec<Mutation>) {
    let job = guest.run.job;
    let given = guest.checkpoint.as_ref().and_then(|given| given.bytes.blob());
    let needed = guest.accepted.input.blob().into_iter().chain(given);
    rows.extend(needed.map(|blob| Mutation::put(Table::References, key(blob, job), Bytes::new())));
    rows.push(Mutation::put(Table::Guests, key_of(job), codec::encode(guest)));
}

/// The rows of a run that has ended: what it made stays until its home has it.
pub(super) fn ended(run: Run, end: &GuestEnd, rows: &mut Vec<Mutation>) {
    rows.extend(blobs_of(&end.outcome).map(|blob| Mutation::put(Table::References, key(blob, run.job), Bytes::new())));
    rows.push(Mutation::put(Table::GuestEnds, key_of(run.job), codec::encode(end)));
}

/// Removes the rows of a run that is forgotten.
pub(super) fn gone(store: &Store, run: Run, rows: &mut Vec<Mutation>) -> Result<(), Problem> {
    let guest = read_guest(store, run.job)?;
    let input = guest.as_ref().and_then(|guest| guest.accepted.input.blob());
    let given = guest.as_ref().and_then(|guest| guest.checkpoint.as_ref()?.bytes.blob());
    let made = read_guest_end(store, run.job)?;
    let made = made.iter().flat_map(|end| blobs_of(&end.outcome));
    rows.extend(
        input.into_iter().chain(given).chain(made).map(|blob| Mutation::delete(Table::References, key(blob, run.job))),
    );
    rows.push(Mutation::delete(Table::Guests, key_of(run.job)));
    rows.push(Mutation::delete(Table::GuestEnds, key_of(run.job)));
    Ok(())
}

fn key(blob: BlobId, job: ObjectId) -> Bytes {
    reference_key(blob, Referrer::Guest(job), &[])
}

/// The run of another home's job that is here, as it is durable.
pub(crate) fn read_guest(store: &Store, job: ObjectId) -> Result<Option<GuestRun>, Problem> {
    store.get(Table::Guests, &job.to_bytes())?.map(|row| decode("run of another home", &row)).transpose()
}

/// How it ended, if it has.
pub(crate) fn read_guest_end(store: &Store, job: ObjectId) -> Result<Option<GuestEnd>, Problem> {
    store.get(Table::GuestEnds, &job.to_bytes())?.map(|row| decode("ending for another home", &row)).transpose()
}

/// All of them, by job.
pub(in crate::runtime) fn read_guests(store: &Store) -> Result<Vec<(GuestRun, Option<GuestEnd>)>, Problem> {
    let mut guests = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan_prefix(Table::Guests, &[], after.as_deref(), PAGE_LEN)?;
        let Some((last, _)) = page.last() else { return Ok(guests) };
        after = Some(last.to_vec());
        for job in page.iter().filter_map(|(key, _)| object_id(key)) {
            if let Some(guest) = read_guest(store, job)? {
                guests.push((guest, read_guest_end(store, job)?));
            }
        }
    }
}
