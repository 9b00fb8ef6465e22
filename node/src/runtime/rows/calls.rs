//! Calls to the URLs of jobs that have ended: one row for each until the job is forgotten, and another one while it is to be made.

use bytes::Bytes;
use shoal_kernel::Call;
use shoal_protocol::object::job::{CallState, Called};
use shoal_protocol::{ObjectId, Problem, codec};

use super::{decode, key_of, object_id};
use crate::store::{Mutation, Store, Table};

/// Rows that are read at once after a start.
const PAGE_LEN: usize = 1_000;

/// The rows of a call.
pub(super) fn rows(job: ObjectId, call: &Call) -> [Mutation; 2] {
    let open = match call.called.state {
        CallState::Pending => Mutation::put(Table::CallsOpen, key_of(job), Bytes::new()),
        CallState::Delivered | CallState::GivenUp => Mutation::delete(Table::CallsOpen, key_of(job)),
    };
    [Mutation::put(Table::Calls, key_of(job), codec::encode(call)), open]
}

/// The same of a job that is forgotten.
pub(super) fn gone(job: ObjectId) -> [Mutation; 2] {
    [Table::Calls, Table::CallsOpen].map(|table| Mutation::delete(table, key_of(job)))
}

/// What became of the call of a job; none: there was none to make, or this node does not make it.
pub(crate) fn read_called(store: &Store, job: ObjectId) -> Result<Option<Called>, Problem> {
    Ok(read_call(store, job)?.map(|call| call.called))
}

fn read_call(store: &Store, job: ObjectId) -> Result<Option<Call>, Problem> {
    store.get(Table::Calls, &job.to_bytes())?.map(|row| decode("call", &row)).transpose()
}

/// All calls that are still to be made.
pub(in crate::runtime) fn read_calls(store: &Store) -> Result<Vec<(ObjectId, Call)>, Problem> {
    let mut calls = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan_prefix(Table::CallsOpen, &[], after.as_deref(), PAGE_LEN)?;
        let Some((last, _)) = page.last() else { return Ok(calls) };
        after = Some(last.to_vec());
        for job in page.iter().filter_map(|(job, _)| object_id(job)) {
            calls.extend(read_call(store, job)?.map(|call| (job, call)));
        }
    }
}
