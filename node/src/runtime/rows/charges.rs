//! Jobs of other homes that are kept here, and sets of custodians, as they stand in the store.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_kernel::record::VERSION;
use shoal_kernel::{Accepted, Charge, ChargeState, Custodians, Reign, Standing, TakenJob};
use shoal_protocol::custody::{CustodianSet, SignedCustodians};
use shoal_protocol::{BlobId, NodeId, ObjectId, Problem, codec};

use super::arrays::ends;
use super::{Referrer, blobs_of, decode, grants, key_of, object_id, read_job, reference_key};
use crate::store::{Mutation, Store, Table};

/// Rows that are read at once after a start.
const PAGE_LEN: usize = 512;

/// The row of a job of another home. Where it stands has a row of its own, since that changes.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Row {
    home: NodeId,
    set: u32,
    /// None: it is an element of an array, which has a row of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    accepted: Option<Accepted>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    array: Option<ObjectId>,
    /// This node has taken it over: where it stands is in the row of a job of its own.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    taken: bool,
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
    let Charge { home, set, job, accepted, standing, array, .. } = charge;
    if let Some(accepted) = accepted {
        rows.extend(accepted.input.blob().map(|blob| Mutation::put(Table::References, key(blob, job), Bytes::new())));
        let row = Row { home, set, accepted: Some(*accepted), array: None, taken: false };
        rows.push(Mutation::put(Table::Charges, key_of(job), codec::encode(&row)));
    } else if array.is_some() {
        let row = Row { home, set, accepted: None, array, taken: false };
        rows.push(Mutation::put(Table::Charges, key_of(job), codec::encode(&row)));
    }
    if let Some(standing) = standing {
        let made = standing.outcome.iter().flat_map(blobs_of);
        rows.extend(made.map(|blob| Mutation::put(Table::References, key(blob, job), Bytes::new())));
        rows.push(Mutation::put(Table::ChargeStandings, key_of(job), codec::encode(&*standing)));
    }
}

/// The row of who acts for a home.
pub(super) fn reign(reign: &Reign, rows: &mut Vec<Mutation>) {
    let key = reign_key(reign.regent.home, reign.regent.set, reign.acts);
    rows.push(Mutation::put(Table::Reigns, key, codec::encode(reign)));
}

/// A job of another home is taken over: where it stands is kept as of a job of this one.
pub(super) fn taken(taken: &TakenJob, rows: &mut Vec<Mutation>) {
    let job = taken.accepted.id;
    // Of an element the array's row has what it was accepted with.
    let array = taken.accepted.array_id();
    let accepted = array.is_none().then(|| taken.accepted.clone());
    let row = Row { home: taken.home, set: taken.set, accepted, array, taken: true };
    rows.push(Mutation::put(Table::Charges, key_of(job), codec::encode(&row)));
    rows.push(Mutation::delete(Table::ChargeStandings, key_of(job)));
}

/// A job of another home that was taken over is only kept here from now on, as it stands.
pub(super) fn handed_back(store: &Store, job: ObjectId, rows: &mut Vec<Mutation>) -> Result<(), Problem> {
    let Some((Row { home, set, .. }, (accepted, standing))) = row(store, job)?.zip(read_job(store, job)?) else {
        return Ok(());
    };
    let (accepted, standing) = (Some(Box::new(accepted)), standing.map(Box::new));
    charge(Charge { version: VERSION, home, set, job, accepted, standing, array: None }, rows);
    Ok(())
}

/// Removes the rows of a job of another home.
pub(super) fn gone(store: &Store, job: ObjectId, rows: &mut Vec<Mutation>) -> Result<(), Problem> {
    if let Some(kept) = read_charge(store, job)? {
        let made = kept.standing.outcome.iter().flat_map(blobs_of);
        let blobs = kept.accepted.input.blob().into_iter().chain(made);
        rows.extend(blobs.map(|blob| Mutation::delete(Table::References, key(blob, job))));
        rows.extend(grants::gone(&kept.accepted));
    }
    rows.push(Mutation::delete(Table::Charges, key_of(job)));
    rows.push(Mutation::delete(Table::ChargeStandings, key_of(job)));
    Ok(())
}

/// The elements of an array of another home that have begun, as far as that is known here: the newest first, before an id.
pub(super) fn charges_begun_before(
    store: &Store,
    array: &Accepted,
    before: Option<ObjectId>,
    limit: usize,
) -> Result<Vec<ObjectId>, Problem> {
    let Some((first, last)) = ends(array) else { return Ok(Vec::new()) };
    let first = first.to_bytes();
    let mut end = before.map_or(Bound::Included(last), Bound::Excluded).map(ObjectId::to_bytes);
    let mut begun = Vec::new();
    // Between them there are jobs of still other homes.
    while begun.len() < limit {
        let range = (Bound::Included(first.as_slice()), end.as_ref().map(<[u8; 16]>::as_slice));
        let rows = store.scan(Table::ChargeStandings, range, true, PAGE_LEN)?;
        let ids = rows.iter().filter_map(|(key, _)| object_id(key));
        let Some(last) = ids.clone().last() else { break };
        begun.extend(ids.filter(|id| array.id.index_of(*id).is_some()));
        end = Bound::Excluded(last.to_bytes());
    }
    begun.truncate(limit);
    Ok(begun)
}

/// The row of a set of custodians.
pub(super) fn custodians(custodians: &Custodians, rows: &mut Vec<Mutation>) {
    let key = set_key(custodians.set.home, custodians.set.number);
    rows.push(Mutation::put(Table::Custodians, key, codec::encode(custodians)));
}

fn set_key(home: NodeId, number: u32) -> Vec<u8> {
    [home.0.as_slice(), &number.to_be_bytes()].concat()
}

/// Who acts, and for whom this node has voted, stand beside each other.
fn reign_key(home: NodeId, number: u32, acts: bool) -> Vec<u8> {
    [set_key(home, number).as_slice(), &[u8::from(acts)]].concat()
}

fn key(blob: BlobId, job: ObjectId) -> Bytes {
    reference_key(blob, Referrer::Charge(job), &[])
}

fn row(store: &Store, job: ObjectId) -> Result<Option<Row>, Problem> {
    let row = store.get(Table::Charges, &job.to_bytes())?;
    row.map(|row| decode("job of another home", &row)).transpose()
}

/// A job of another home, as it is durable here; none: it is not kept here.
pub(crate) fn read_charge(store: &Store, job: ObjectId) -> Result<Option<KeptJob>, Problem> {
    let Some(Row { home, accepted, array, taken, .. }) = row(store, job)? else { return Ok(None) };
    let array = array.map(|array| row(store, array)).transpose()?.flatten().and_then(|array| array.accepted);
    let Some(accepted) = accepted.or_else(|| array?.element_of_id(job)) else { return Ok(None) };
    let standing = match taken {
        true => read_job(store, job)?.and_then(|(_, standing)| standing),
        false => kept_standing(store, job)?,
    };
    let standing = standing.unwrap_or_else(|| accepted.standing());
    Ok(Some(KeptJob { home, accepted, standing }))
}

/// Where a job of another home stood when that said so last; none: it has said nothing since it was accepted, or it was taken over.
pub(super) fn kept_standing(store: &Store, job: ObjectId) -> Result<Option<Standing>, Problem> {
    let standing = store.get(Table::ChargeStandings, &job.to_bytes())?;
    standing.map(|row| decode("job of another home", &row)).transpose()
}

/// Jobs of other homes that are kept here, with ids below this one, newest first; an array is one of them.
pub(crate) fn charges_before(store: &Store, end: ObjectId, limit: usize) -> Result<Vec<KeptJob>, Problem> {
    let (mut end, mut found) = (end.to_bytes(), Vec::new());
    while found.len() < limit {
        let rows = store.scan(Table::Charges, (Bound::Unbounded, Bound::Excluded(end.as_slice())), true, limit)?;
        let Some(last) = rows.last().and_then(|(key, _)| object_id(key)) else { break };
        end = last.to_bytes();
        for (key, row) in &rows {
            let Row { array, .. } = decode("job of another home", row)?;
            if let (None, Some(job)) = (array, object_id(key)) {
                found.extend(read_charge(store, job)?);
            }
        }
    }
    found.truncate(limit);
    Ok(found)
}

/// A set of custodians; none: it is not known here.
pub(crate) fn read_custodians(store: &Store, home: NodeId, number: u32) -> Result<Option<CustodianSet>, Problem> {
    let row = store.get(Table::Custodians, &set_key(home, number))?;
    row.map(|row| decode::<Custodians>("set of custodians", &row).map(|found| found.set)).transpose()
}

/// Who acts for a home under a set; none: nobody of whom this node has heard.
pub(crate) fn read_acting(store: &Store, home: NodeId, number: u32) -> Result<Option<Reign>, Problem> {
    let row = store.get(Table::Reigns, &reign_key(home, number, true))?;
    row.map(|row| decode::<Reign>("regent", &row)).transpose()
}

/// By which right this node decides a job of another home: the home's set as it has signed it, and who acts for it.
pub(crate) fn read_right(store: &Store, job: ObjectId) -> Result<Option<(SignedCustodians, Reign)>, Problem> {
    let kept = row(store, job)?;
    let Some(Row { home, set, .. }) = kept else { return Ok(None) };
    let key = set_key(home, set);
    let signed = store.get(Table::Custodians, &key)?;
    let signed = signed.map(|row| decode::<Custodians>("set of custodians", &row)).transpose()?;
    let reign = read_acting(store, home, set)?;
    Ok(signed.and_then(|set| set.signed).zip(reign))
}

/// What a restarted kernel is told of custodians.
pub(in crate::runtime) struct Custody {
    /// Sets of this home, and of those whose jobs are kept here.
    pub(in crate::runtime) sets: Vec<CustodianSet>,
    /// Jobs of other homes.
    pub(in crate::runtime) charges: Vec<ChargeState>,
    /// Who acts for which home.
    pub(in crate::runtime) reigns: Vec<Reign>,
}

/// All sets of custodians, and what the kernel remembers of the jobs that are kept here.
pub(in crate::runtime) fn read_custody(store: &Store) -> Result<Custody, Problem> {
    let mut sets = Vec::new();
    pages(store, Table::Custodians, |_, row| {
        sets.push(decode::<Custodians>("set of custodians", row)?.set);
        Ok(())
    })?;
    let mut charges = BTreeMap::new();
    pages(store, Table::Charges, |key, row| {
        let Row { home, set, accepted, taken, .. } = decode("job of another home", row)?;
        let Some(job) = object_id(key) else { return Ok(()) };
        let lacks_input = accepted.as_ref().is_some_and(|job| job.extras.input_of.is_some() && job.input.size() == 0);
        let array = accepted.filter(Accepted::is_array).and_then(|accepted| accepted.extras.array);
        let mut state = ChargeState { job, home, set, revision: 0, lacks_input, array, ended: None, taken };
        if let Some(row) = store.get(Table::Standings, key)?.filter(|_| taken) {
            let standing: Standing = decode("job", &row)?;
            (state.revision, state.ended) = (standing.revision, standing.ended());
        }
        charges.insert(job, state);
        Ok(())
    })?;
    pages(store, Table::ChargeStandings, |key, row| {
        let standing: Standing = decode("job of another home", row)?;
        let charge = object_id(key).and_then(|job| charges.get_mut(&job));
        if let Some(charge) = charge.filter(|charge| !charge.taken) {
            (charge.revision, charge.ended) = (standing.revision, standing.ended());
        }
        Ok(())
    })?;
    let mut reigns = Vec::new();
    pages(store, Table::Reigns, |_, row| {
        reigns.push(decode::<Reign>("regent", row)?);
        Ok(())
    })?;
    Ok(Custody { sets, charges: charges.into_values().collect(), reigns })
}

pub(super) fn pages(
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
