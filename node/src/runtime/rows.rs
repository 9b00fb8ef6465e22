//! How the kernel's records stand in the store, and how they are read back.

mod arrays;
mod calls;
mod charges;
mod checkpoints;
mod drain;
mod grants;
mod guests;
mod keys;
mod memos;
mod settled;
mod tallies;

use std::ops::Bound;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_kernel::{Accepted, Record, Standing, TakenJob};
use shoal_protocol::object::job::{Outcome, Payload};
use shoal_protocol::object::node::JobCounts;
use shoal_protocol::{BlobId, Kind, ObjectId, Problem, codec};

use crate::logs::IsCurrent;
use crate::store::{Mutation, Store, Table};

pub(crate) use arrays::begun_before;
pub(super) use arrays::clear_some;
pub(crate) use calls::read_called;
pub(super) use calls::read_calls;
pub(super) use charges::{Custody, read_custody};
pub(crate) use charges::{KeptJob, charges_before, read_acting, read_charge, read_custodians, read_right};
pub(super) use checkpoints::read_checkpoints;
pub(crate) use checkpoints::{CHECKPOINT_PLACE, read_checkpoint, read_guest_checkpoint};
pub(crate) use drain::{Place, read_drain, settled_behind};
pub(super) use grants::read_grants;
pub(super) use guests::read_guests;
pub(crate) use guests::{read_guest, read_guest_end};
pub(super) use keys::read_keys;
pub(super) use memos::read_memos;
pub(super) use settled::{Kept, index as index_settled, read_oldest};
pub(super) use tallies::read_tallies;

/// Jobs that are read at once after a start.
const OPEN_PAGE_LEN: usize = 256;
/// The row of [`Counts`].
const COUNTS: &[u8] = b"job_counts";

/// Jobs of this home, counted as they happen: with waiting and running they add up to what was accepted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) accepted: u64,
    pub(super) settled: u64,
    pub(super) swept: u64,
}

/// What refers to a blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Referrer {
    /// A job: its input, result or log.
    Job(ObjectId),
    /// A function: the code of a version.
    Function(ObjectId),
    /// A KV namespace: the value of a key.
    Kv(ObjectId),
    /// A run of another home's job that is here: its input, result or log.
    Guest(ObjectId),
    /// A job of another home that is kept here: its input, result or log.
    Charge(ObjectId),
}

impl Referrer {
    /// The referrer of a row's key.
    pub(crate) fn of_key(key: &[u8]) -> Option<Self> {
        let kind = *key.get(32)?;
        let id = object_id(key.get(33..49)?)?;
        match kind {
            1 => Some(Self::Job(id)),
            2 => Some(Self::Function(id)),
            3 => Some(Self::Kv(id)),
            4 => Some(Self::Guest(id)),
            5 => Some(Self::Charge(id)),
            _ => None,
        }
    }
}

/// The kinds of referrers, as keys have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ReferrerKind {
    /// [`Referrer::Job`].
    Job = 1,
    /// [`Referrer::Function`].
    Function = 2,
    /// [`Referrer::Kv`].
    Kv = 3,
    /// [`Referrer::Guest`].
    Guest = 4,
    /// [`Referrer::Charge`].
    Charge = 5,
}

/// Where in a reference's key that stands which tells several of the same referrer apart.
pub(crate) const REFERENCE_PLACE: usize = 49;

/// What the keys of all references of a kind to a blob begin with.
pub(crate) fn reference_prefix(blob: BlobId, kind: ReferrerKind) -> Vec<u8> {
    [blob.as_bytes().as_slice(), &[kind as u8]].concat()
}

/// The key of a reference: blob, kind, id, and what tells several of the same referrer apart.
pub(crate) fn reference_key(blob: BlobId, referrer: Referrer, place: &[u8]) -> Bytes {
    let (kind, id) = match referrer {
        Referrer::Job(id) => (ReferrerKind::Job, id),
        Referrer::Function(id) => (ReferrerKind::Function, id),
        Referrer::Kv(id) => (ReferrerKind::Kv, id),
        Referrer::Guest(id) => (ReferrerKind::Guest, id),
        Referrer::Charge(id) => (ReferrerKind::Charge, id),
    };
    let mut key = reference_prefix(blob, kind);
    key.extend_from_slice(&id.to_bytes());
    key.extend_from_slice(place);
    key.into()
}

/// The id of a 16-byte key.
pub(super) fn object_id(key: &[u8]) -> Option<ObjectId> {
    Some(ObjectId::from_bytes(key.try_into().ok()?))
}

fn key_of(id: ObjectId) -> Vec<u8> {
    id.to_bytes().to_vec()
}

/// How much of the hash of short bytes stands in the key of their row. Why 12 of 32: these keys are in no order in which jobs come, so
/// that each row is a page of the table to be written anew, and smaller keys make fewer pages; whoever reads compares the whole hash.
const SHORT_HASH_LEN: usize = 12;

/// What the keys of all rows of short bytes with this hash begin with.
pub(crate) fn short_prefix(id: BlobId) -> [u8; SHORT_HASH_LEN] {
    let mut prefix = [0; SHORT_HASH_LEN];
    prefix.iter_mut().zip(id.as_bytes()).for_each(|(byte, of)| *byte = *of);
    prefix
}

/// The rows by which the short bytes of a job are found by their hash. None for the empty ones: those are everywhere.
fn short_keys<'a>(job: ObjectId, payloads: impl Iterator<Item = &'a Payload>) -> impl Iterator<Item = Bytes> {
    payloads
        .filter(|payload| payload.blob().is_none() && payload.size() > 0)
        .map(move |payload| [short_prefix(payload.id()).as_slice(), &job.to_bytes()].concat().into())
}

/// The job of such a row.
pub(crate) fn job_of_short(key: &[u8]) -> Option<ObjectId> {
    object_id(key.get(SHORT_HASH_LEN..)?)
}

/// The result and the log.
fn made_by(outcome: &Outcome) -> impl Iterator<Item = &Payload> {
    [&outcome.output, &outcome.log].into_iter()
}

/// The blobs that an outcome refers to.
fn blobs_of(outcome: &Outcome) -> impl Iterator<Item = BlobId> {
    made_by(outcome).filter_map(Payload::blob)
}

/// Appends the rows of a record and counts it.
pub(super) fn append(
    record: Record,
    store: &Store,
    counts: &mut Counts,
    kept: &mut Kept,
    rows: &mut Vec<Mutation>,
) -> Result<(), Problem> {
    match record {
        Record::Accepted(accepted) => {
            counts.accepted += u64::from(accepted.size());
            rows.push(Mutation::put(Table::Open, key_of(accepted.id), Bytes::new()));
            rows.extend(keys::row(&accepted));
            put_accepted(&accepted, rows);
        }
        Record::Supplied(accepted) => put_accepted(&accepted, rows),
        Record::Standing(id, standing) => put_standing(id, &standing, counts, rows),
        Record::Began(id, standing) => {
            rows.push(Mutation::put(Table::Open, key_of(id), Bytes::new()));
            put_standing(id, &standing, counts, rows);
        }
        Record::Ended(element, standing, array, far) => {
            put_standing(element, &standing, counts, rows);
            put_standing(array, &far, counts, rows);
        }
        Record::Retained(retained) => kept.add(&retained, rows),
        Record::Swept(id) => sweep(id, store, counts, kept, rows)?,
        Record::GuestAccepted(guest) => guests::accepted(&guest, rows),
        Record::GuestEnded(run, end) => guests::ended(run, &end, rows),
        Record::GuestGone(run) => guests::gone(store, run, rows)?,
        Record::Checkpoint(id, saving) => checkpoints::saved(Table::Checkpoints, Referrer::Job(id), &saving, rows),
        Record::GuestCheckpoint(run, saving) => {
            checkpoints::saved(Table::GuestCheckpoints, Referrer::Guest(run.job), &saving, rows);
        }
        Record::Memo(id, key) => rows.push(memos::row(id, key)),
        Record::Call(id, call) => rows.extend(calls::rows(id, &call)),
        Record::Custodians(set) => charges::custodians(&set, rows),
        Record::Charge(charge) => charges::charge(*charge, rows),
        Record::Reign(reign) => charges::reign(&reign, rows),
        Record::Taken(taken) => take_over(&taken, counts, rows),
        Record::HandedBack(job) => charges::handed_back(store, job, rows)?,
        Record::Withdrawn(id) => withdraw(id, rows),
        Record::Elsewhere(id, standing) => put_standing(id, &standing, &mut Counts::default(), rows),
        Record::Drain(drain) => rows.push(drain::row(drain.as_ref())),
        Record::Merged(id, standing) => merge(id, &standing, store, kept, rows)?,
        Record::ChargeGone(job) => charges::gone(store, job, rows)?,
        Record::Tally(tally) => rows.push(tallies::row(&tally)),
        Record::Granted(promise) => grants::granted(promise, rows),
    }
    Ok(())
}

/// The rows of where a job stands. Of an array that ends the elements count that never began.
fn put_standing(id: ObjectId, standing: &Standing, counts: &mut Counts, rows: &mut Vec<Mutation>) {
    let key = Bytes::from(key_of(id));
    if standing.state.is_settled() {
        counts.settled += standing.elements.map_or(1, |elements| u64::from(elements.with_array()));
        rows.push(Mutation::delete(Table::Open, key.clone()));
        for blob in standing.outcome.iter().flat_map(blobs_of) {
            let reference = reference_key(blob, Referrer::Job(id), &[]);
            rows.push(Mutation::put(Table::References, reference, Bytes::new()));
        }
        let short = short_keys(id, standing.outcome.iter().flat_map(made_by));
        rows.extend(short.map(|key| Mutation::put(Table::Short, key, Bytes::new())));
    }
    rows.push(Mutation::put(Table::Standings, key, codec::encode(standing)));
}

/// The rows of an element that had begun, and is one of its array again.
fn withdraw(id: ObjectId, rows: &mut Vec<Mutation>) {
    rows.push(Mutation::delete(Table::Open, key_of(id)));
    rows.push(Mutation::delete(Table::Standings, key_of(id)));
}

/// Removes all rows of a job, or of an array without those of its elements: these follow, see [`arrays`].
fn sweep(
    id: ObjectId,
    store: &Store,
    counts: &mut Counts,
    kept: &mut Kept,
    rows: &mut Vec<Mutation>,
) -> Result<(), Problem> {
    let Some((accepted, standing)) = read_job(store, id)?.filter(|_| kept.goes(id)) else { return Ok(()) };
    counts.swept += u64::from(accepted.size());
    counts.settled = counts.settled.saturating_sub(u64::from(accepted.size()));
    if let Some(standing) = &standing {
        kept.remove(&accepted, standing, rows);
    }
    drop_outcome(id, standing.as_ref(), rows);
    rows.extend(grants::gone(&accepted));
    if let Some(row) = arrays::forgotten(&accepted) {
        kept.array_forgotten();
        rows.push(row);
    }
    if let Some(blob) = accepted.input.blob() {
        rows.push(Mutation::delete(Table::References, reference_key(blob, Referrer::Job(id), &[])));
    }
    let short = short_keys(id, std::iter::once(&accepted.input));
    rows.extend(short.map(|key| Mutation::delete(Table::Short, key)));
    rows.push(Mutation::delete(Table::Jobs, key_of(id)));
    rows.push(Mutation::delete(Table::Standings, key_of(id)));
    rows.push(Mutation::delete(Table::Keys, key_of(id)));
    rows.push(memos::row(id, None));
    rows.extend(calls::gone(id));
    Ok(())
}

/// The rows of a job of another home that is this node's to decide from now on. What of it has ended elsewhere is counted with it;
/// an element with its array.
fn take_over(taken: &TakenJob, counts: &mut Counts, rows: &mut Vec<Mutation>) {
    charges::taken(taken, rows);
    let (accepted, standing) = (&taken.accepted, &taken.standing);
    let settled = standing.state.is_settled();
    if accepted.array_id().is_none() {
        let size = u64::from(accepted.size());
        let ended = standing.elements.map_or(0, |elements| u64::from(elements.begun - elements.under_way()));
        counts.accepted += size;
        counts.settled += if settled { size } else { ended };
        rows.extend(keys::row(accepted));
        put_accepted(accepted, rows);
    }
    if !settled {
        rows.push(Mutation::put(Table::Open, key_of(accepted.id), Bytes::new()));
    }
    put_standing(accepted.id, standing, &mut Counts::default(), rows);
}

/// A settled job stands otherwise: what the other settlement refers to stays with it.
fn merge(
    id: ObjectId,
    standing: &Standing,
    store: &Store,
    kept: &mut Kept,
    rows: &mut Vec<Mutation>,
) -> Result<(), Problem> {
    if let Some((accepted, Some(before))) = read_job(store, id)? {
        if accepted.array_id().is_none() {
            kept.remove(&accepted, &before, rows);
            kept.add(&settled::retained(&accepted, standing), rows);
        }
        // It is counted already.
        put_standing(id, standing, &mut Counts::default(), rows);
    }
    Ok(())
}

/// Removes the rows by which what a job made is found and kept.
fn drop_outcome(id: ObjectId, standing: Option<&Standing>, rows: &mut Vec<Mutation>) {
    let outcome = standing.and_then(|standing| standing.outcome.as_ref());
    for blob in outcome.into_iter().flat_map(blobs_of) {
        rows.push(Mutation::delete(Table::References, reference_key(blob, Referrer::Job(id), &[])));
    }
    let short = short_keys(id, outcome.into_iter().flat_map(made_by));
    rows.extend(short.map(|key| Mutation::delete(Table::Short, key)));
}

/// The rows of what was accepted, and of the input that it refers to.
fn put_accepted(accepted: &Accepted, rows: &mut Vec<Mutation>) {
    if let Some(blob) = accepted.input.blob() {
        let reference = reference_key(blob, Referrer::Job(accepted.id), &[]);
        rows.push(Mutation::put(Table::References, reference, Bytes::new()));
    }
    let short = short_keys(accepted.id, std::iter::once(&accepted.input));
    rows.extend(short.map(|key| Mutation::put(Table::Short, key, Bytes::new())));
    rows.push(Mutation::put(Table::Jobs, key_of(accepted.id), codec::encode(accepted)));
}

/// The row of the counts.
pub(super) fn counts_row(counts: Counts) -> Mutation {
    Mutation::put(Table::Meta, COUNTS, codec::encode(&counts))
}

/// The counts as they are durable.
pub(super) fn read_counts(store: &Store) -> Result<Counts, Problem> {
    store.get(Table::Meta, COUNTS)?.map_or_else(|| Ok(Counts::default()), |bytes| decode("job counts", &bytes))
}

/// The counts as people see them; what is open and not running waits.
pub(crate) fn job_counts(store: &Store, running: u64) -> Result<JobCounts, Problem> {
    let Counts { accepted, settled, swept } = read_counts(store)?;
    let open = accepted.saturating_sub(settled + swept);
    let running = running.min(open);
    Ok(JobCounts { accepted, waiting: open - running, running, settled, swept })
}

/// A job as it is durable: what was accepted, and where it stands if it ever left the queue. An element of an array that has not
/// begun stands as its array.
pub(crate) fn read_job(store: &Store, id: ObjectId) -> Result<Option<(Accepted, Option<Standing>)>, Problem> {
    let key = id.to_bytes();
    let standing = |key: &[u8]| {
        let row = store.get(Table::Standings, key)?;
        row.map(|bytes| decode::<Standing>("job", &bytes)).transpose()
    };
    if let Some(accepted) = store.get(Table::Jobs, &key)? {
        return Ok(Some((decode("job", &accepted)?, standing(&key)?)));
    }
    let Some(array) = arrays::array_of(store, id)? else { return Ok(None) };
    let Some(element) = array.element_of_id(id) else { return Ok(None) };
    let own = match standing(&key)? {
        Some(own) => own,
        None => match charges::kept_standing(store, id)? {
            Some(kept) => kept,
            None => arrays::unbegun(&array, standing(&array.id.to_bytes())?),
        },
    };
    Ok(Some((element, Some(own))))
}

/// As [`read_job`] of each, for less.
fn read_jobs(store: &Store, ids: &[ObjectId]) -> Result<Vec<Option<(Accepted, Standing)>>, Problem> {
    let keys: Vec<[u8; 16]> = ids.iter().map(|id| id.to_bytes()).collect();
    let keys: Vec<&[u8]> = keys.iter().map(<[u8; 16]>::as_slice).collect();
    let accepted = store.get_each(Table::Jobs, &keys)?;
    let standings = store.get_each(Table::Standings, &keys)?;
    let rows = ids.iter().zip(accepted).zip(standings);
    rows.map(|((id, accepted), standing)| match accepted {
        Some(accepted) => both(&accepted, standing.as_deref()).map(Some),
        None => Ok(read_job(store, *id)?.map(with_standing)),
    })
    .collect()
}

/// The jobs of this home with ids below this one, newest first; an array is one of them.
pub(crate) fn jobs_before(store: &Store, end: ObjectId, limit: usize) -> Result<Vec<(Accepted, Standing)>, Problem> {
    let end = end.to_bytes();
    let rows = store.scan(Table::Jobs, (Bound::Unbounded, Bound::Excluded(end.as_slice())), true, limit)?;
    let keys: Vec<&[u8]> = rows.iter().map(|(key, _)| key.as_ref()).collect();
    let standings = store.get_each(Table::Standings, &keys)?;
    rows.iter().zip(standings).map(|((_, accepted), standing)| both(accepted, standing.as_deref())).collect()
}

/// Both records of a job, from their rows.
fn both(accepted: &[u8], standing: Option<&[u8]>) -> Result<(Accepted, Standing), Problem> {
    let standing = standing.map(|row| decode("job", row)).transpose()?;
    Ok(with_standing((decode("job", accepted)?, standing)))
}

/// Where a job was never offered, it stands as it was accepted.
fn with_standing((accepted, standing): (Accepted, Option<Standing>)) -> (Accepted, Standing) {
    let standing = standing.unwrap_or_else(|| accepted.standing());
    (accepted, standing)
}

/// Finds out whether a run is its job's current one and has not ended, as it is durable: an epoch is, before its run
/// starts, and so is a run of another home.
pub(crate) fn current_runs(store: Store) -> IsCurrent {
    Box::new(move |run| {
        if let Some(guest) = read_guest(&store, run.job).ok().flatten() {
            return guest.run == run && matches!(read_guest_end(&store, run.job), Ok(None));
        }
        let row = store.get(Table::Standings, &run.job.to_bytes()).ok().flatten();
        let standing = row.and_then(|row| decode::<Standing>("job", &row).ok());
        standing.is_some_and(|standing| standing.epoch == run.epoch && !standing.state.is_settled())
    })
}

/// The highest id of a job that this home has given, or set aside for the elements of an array, also of one of which only
/// elements are left.
pub(super) fn newest(store: &Store) -> Result<Option<ObjectId>, Problem> {
    let rows = store.scan(Table::Jobs, (Bound::Unbounded, Bound::Unbounded), true, 1)?;
    let newest = rows.first().map(|(_, row)| decode::<Accepted>("job", row)).transpose()?;
    let cleared = arrays::remains(store, true)?.and_then(|(array, last)| array.element(last));
    Ok(newest.map(|newest| newest.last_id()).max(cleared))
}

/// The jobs that have not settled, oldest first, some at a time: all at once would be in memory twice. Whoever meets an error stops.
pub(super) fn read_open(store: &Store) -> impl Iterator<Item = Result<Vec<(Accepted, Standing)>, Problem>> {
    let mut after: Option<Bytes> = None;
    std::iter::from_fn(move || open_behind(store, &mut after).transpose())
}

/// Some of the jobs that have not settled, behind this key, which moves on.
fn open_behind(store: &Store, after: &mut Option<Bytes>) -> Result<Option<Vec<(Accepted, Standing)>>, Problem> {
    let page = store.scan_prefix(Table::Open, &[], after.as_deref(), OPEN_PAGE_LEN)?;
    let Some((last, _)) = page.last() else { return Ok(None) };
    *after = Some(last.clone());
    let ids: Vec<ObjectId> = page.iter().filter_map(|(key, _)| object_id(key)).collect();
    let found = read_jobs(store, &ids)?;
    Ok(Some(found.into_iter().flatten().collect()))
}

/// Reads a row that this program has written.
fn decode<T: serde::de::DeserializeOwned>(what: &str, bytes: &[u8]) -> Result<T, Problem> {
    codec::decode(bytes).map_err(|error| {
        tracing::warn!(%error, what, "a row of the store cannot be read: it was written by a newer program or is damaged");
        Problem::new(Kind::StorageUnavailable, format!("a stored {what} cannot be read: {error}"))
    })
}
