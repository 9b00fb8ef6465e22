//! That this node leaves, as it stands in the store, and what it has that is settled.

use shoal_kernel::{Accepted, Drain, Standing};
use shoal_protocol::{ObjectId, Problem, codec};

use super::arrays::begun_before;
use super::{decode, jobs_before, read_job};
use crate::store::{Mutation, Store, Table};

/// The only row of its table.
const ROW: &[u8] = b"drain";

/// The row that says to whom this node hands over what it has; none: it does not leave any more.
pub(super) fn row(drain: Option<&Drain>) -> Mutation {
    match drain {
        Some(drain) => Mutation::put(Table::Drain, ROW, codec::encode(drain)),
        None => Mutation::delete(Table::Drain, ROW),
    }
}

/// To whom this node hands over what it has, as it is durable.
pub(crate) fn read_drain(store: &Store) -> Result<Option<Drain>, Problem> {
    store.get(Table::Drain, ROW)?.map(|row| decode("drain", &row)).transpose()
}

/// How far it was looked for settled jobs, the newest first.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place {
    /// Jobs with ids below this one are left.
    end: ObjectId,
    /// An array that is under way, and the element before which elements are left; none: all of them are.
    array: Option<(ObjectId, Option<ObjectId>)>,
}

impl Place {
    /// Before all of them.
    pub(crate) const FIRST: Self = Self { end: ObjectId::from_bytes([0xff; 16]), array: None };
}

/// Settled jobs, and how they ended.
pub(crate) type Settled = Vec<(Accepted, Standing)>;

/// The next jobs that have settled, an array before its elements, out of so many that are looked at; and where it goes on.
pub(crate) fn settled_behind(store: &Store, place: Place, limit: usize) -> Result<(Settled, Option<Place>), Problem> {
    if let Some((array, before)) = place.array {
        return elements_behind(store, place.end, (array, before), limit);
    }
    let found = jobs_before(store, place.end, limit)?;
    let Some(last) = found.last().map(|(accepted, _)| accepted.id) else { return Ok((Vec::new(), None)) };
    let mut jobs = Vec::new();
    for (accepted, standing) in found {
        let (id, is_array) = (accepted.id, accepted.is_array());
        if standing.state.is_settled() {
            jobs.push((accepted, standing));
        }
        if is_array {
            return Ok((jobs, Some(Place { end: id, array: Some((id, None)) })));
        }
    }
    Ok((jobs, Some(Place { end: last, array: None })))
}

fn elements_behind(
    store: &Store,
    end: ObjectId,
    (array, before): (ObjectId, Option<ObjectId>),
    limit: usize,
) -> Result<(Settled, Option<Place>), Problem> {
    let done = Some(Place { end, array: None });
    let Some((accepted, _)) = read_job(store, array)? else { return Ok((Vec::new(), done)) };
    let ids = begun_before(store, &accepted, before, limit)?;
    let mut ended = Vec::new();
    for id in &ids {
        if let Some((accepted, Some(standing))) = read_job(store, *id)?
            && standing.state.is_settled()
        {
            ended.push((accepted, standing));
        }
    }
    let more = ids.last().map(|last| Place { end, array: Some((array, Some(*last))) });
    Ok((ended, if ids.len() < limit { done } else { more }))
}
