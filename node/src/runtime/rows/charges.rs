//! Jobs of other homes that are kept here, and sets of custodians, as they stand in the store.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_kernel::{Accepted, Charge, ChargeState, Custodians, Standing};
use shoal_protocol::custody::CustodianSet;
use shoal_protocol::{BlobId, NodeId, ObjectId, Problem, codec};

use super::{Referrer, blobs_of, decode, key_of, object_id, reference_key};
use crate::store::{Mutation, Store, Table};

/// Rows that are read at once after a start.
const PAGE_LEN: usize = 512;

/// The row of a job of another home. Where it stands has a row of its own, since that changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    home: NodeId,
    set: u32,
    accepted: Accepted,
}

/// A job of another home that is kept here.
#[derive(Debug, Clone)]
pub(crate) struct KeptJob {
    /// Whose.
    pub(crate) home: NodeId,
    /// As its home accepted it.
    pub(crate) accepted: Accepted,
    /// Where it stood when its home said so last.
    pub(crate) standing: Standing,
}

/// The rows of a record of a job of another home. What it refers to stays from now on.
pub(super) fn charge(charge: Charge, rows: &mut Vec<Mutation>) {
    let Charge { home, set, job, accepted, standing, .. } = charge;
    if let Some(accepted) = accepted {
        rows.extend(accepted.input.blob().map(|blob| Mutation::put(Table::References, key(blob, job), Bytes::new())));
        let row = Row { home, set, accepted: *accepted };
        rows.push(Mutation::put(Table::Charges, key_of(job), codec::encode(&row)));
    }
    if let Some(standing) = standing {
        let made = standing.outcome.iter().flat_map(blobs_of);
        rows.extend(made.map(|blob| Mutation::put(Table::References, key(blob, job), Bytes::new())));
        rows.push(Mutation::put(Table::ChargeStandings, key_of(job), codec::encode(&*standing)));
    }
}

/// Removes the rows of a job of another home.
pub(super) fn gone(store: &Store, job: ObjectId, rows: &mut Vec<Mutation>) -> Result<(), Problem> {
    if let Some(kept) = read_charge(store, job)? {
        let made = kept.standing.outcome.iter().flat_map(blobs_of);
        let blobs = kept.accepted.input.blob().into_iter().chain(made);
        rows.extend(blobs.map(|blob| Mutation::delete(Table::References, key(blob, job))));
    }
    rows.push(Mutation::delete(Table::Charges, key_of(job)));
    rows.push(Mutation::delete(Table::ChargeStandings, key_of(job)));
    Ok(())
}

/// The row of a set of custodians.
pub(super) fn custodians(custodians: &Custodians, rows: &mut Vec<Mutation>) {
    let key = set_key(custodians.set.home, custodians.set.number);
    rows.push(Mutation::put(Table::Custodians, key, codec::encode(custodians)));
}

fn set_key(home: NodeId, number: u32) -> Vec<u8> {
    [home.0.as_slice(), &number.to_be_bytes()].concat()
}

fn key(blob: BlobId, job: ObjectId) -> Bytes {
    reference_key(blob, Referrer::Charge(job), &[])
}

/// A job of another home, as it is durable here; none: it is not kept here.
pub(crate) fn read_charge(store: &Store, job: ObjectId) -> Result<Option<KeptJob>, Problem> {
    let Some(row) = store.get(Table::Charges, &job.to_bytes())? else { return Ok(None) };
    let Row { home, accepted, .. } = decode("job of another home", &row)?;
    let standing = store.get(Table::ChargeStandings, &job.to_bytes())?;
    let standing = standing.map(|row| decode("job of another home", &row)).transpose()?;
    let standing = standing.unwrap_or_else(|| accepted.standing());
    Ok(Some(KeptJob { home, accepted, standing }))
}

/// A set of custodians; none: it is not known here.
pub(crate) fn read_custodians(store: &Store, home: NodeId, number: u32) -> Result<Option<CustodianSet>, Problem> {
    let row = store.get(Table::Custodians, &set_key(home, number))?;
    row.map(|row| decode::<Custodians>("set of custodians", &row).map(|found| found.set)).transpose()
}

/// All sets of custodians, and what the kernel remembers of the jobs that are kept here.
pub(in crate::runtime) fn read_custody(store: &Store) -> Result<(Vec<CustodianSet>, Vec<ChargeState>), Problem> {
    let mut sets = Vec::new();
    pages(store, Table::Custodians, |_, row| {
        sets.push(decode::<Custodians>("set of custodians", row)?.set);
        Ok(())
    })?;
    let mut charges = BTreeMap::new();
    pages(store, Table::Charges, |key, row| {
        let Row { home, set, accepted } = decode("job of another home", row)?;
        let Some(job) = object_id(key) else { return Ok(()) };
        let lacks_input = accepted.input_of.is_some_and(|_| accepted.input.size() == 0);
        charges.insert(job, ChargeState { job, home, set, revision: 0, lacks_input });
        Ok(())
    })?;
    pages(store, Table::ChargeStandings, |key, row| {
        let standing: Standing = decode("job of another home", row)?;
        let charge = object_id(key).and_then(|job| charges.get_mut(&job));
        charge.into_iter().for_each(|charge| charge.revision = standing.revision);
        Ok(())
    })?;
    Ok((sets, charges.into_values().collect()))
}

fn pages(
    store: &Store,
    table: Table,
    mut take: impl FnMut(&[u8], &[u8]) -> Result<(), Problem>,
) -> Result<(), Problem> {
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = store.scan_prefix(table, &[], after.as_deref(), PAGE_LEN)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.to_vec());
        page.iter().try_for_each(|(key, row)| take(key, row))?;
    }
}
