//! Arrays in the store: one row of what was accepted for all elements; a row of where it stands for each that has begun.
//!
//! An array is forgotten with the row of what was accepted: nobody sees its elements from then on. What is left of them goes a
//! few at a time, each time as a commit of its own, since there may be a million. What is to go stands in a table until it
//! has gone, so that a restart goes on with it.

use std::ops::Bound;

use bytes::Bytes;
use shoal_kernel::{Accepted, Standing};
use shoal_protocol::{ObjectId, Problem, codec};

use super::charges::charges_begun_before;
use super::{decode, drop_outcome, key_of, object_id};
use crate::store::{Mutation, Store, Table};

/// Elements that go in one commit. Why 256: a few milliseconds, and then others have their turn.
const CLEAR_LEN: usize = 256;
/// Jobs that are looked at in one step for one of the same home: nearly always it is the first. Why 16: most nodes keep few jobs of
/// others.
const NEAR_LEN: usize = 16;
/// Such steps. Why 256: some thousand jobs, as many as come within the milliseconds that the elements of an array take up.
const NEAR_PAGES: usize = 256;

/// The array whose element this is, if it is one. No other job of its home has an id between that of an array and those of its
/// elements: the array is the one that was accepted last before it.
pub(super) fn array_of(store: &Store, element: ObjectId) -> Result<Option<Accepted>, Problem> {
    let mut end = element.to_bytes();
    for _ in 0..NEAR_PAGES {
        let rows = store.scan(Table::Jobs, (Bound::Unbounded, Bound::Excluded(end.as_slice())), true, NEAR_LEN)?;
        let Some((last, _)) = rows.last() else { return Ok(None) };
        let Some(last) = object_id(last) else { return Ok(None) };
        let of_home = |key: &Bytes| object_id(key).is_some_and(|id| id.tag() == element.tag());
        if let Some((_, row)) = rows.iter().find(|(key, _)| of_home(key)) {
            let near: Accepted = decode("job", row)?;
            return Ok(Some(near).filter(|near| near.element_of_id(element).is_some()));
        }
        end = last.to_bytes();
    }
    Ok(None)
}

/// Where an element stands of which there is no row: as its array does, which it has not outlived. Whatever is said of it is newer.
pub(super) fn unbegun(array: &Accepted, standing: Option<Standing>) -> Standing {
    let standing = standing.unwrap_or_else(|| array.standing());
    Standing { elements: None, revision: 0, ..standing }
}

/// The elements of an array that have begun, the newest first, before an id.
pub(crate) fn begun_before(
    store: &Store,
    array: &Accepted,
    before: Option<ObjectId>,
    limit: usize,
) -> Result<Vec<ObjectId>, Problem> {
    let Some(last) = array.extras.array.map(|array| array.last) else { return Ok(Vec::new()) };
    let mut all = begun(store, (array.id, last), before, limit)?;
    // Of an array that was taken over what had ended before is still kept as its home's.
    all.extend(charges_begun_before(store, array, before, limit)?);
    all.sort_unstable_by(|a, b| b.cmp(a));
    all.truncate(limit);
    Ok(all)
}

/// The same of an array with this highest index, whether or not it is still there.
fn begun(
    store: &Store,
    (array, last): (ObjectId, u32),
    before: Option<ObjectId>,
    limit: usize,
) -> Result<Vec<ObjectId>, Problem> {
    let Some((first, last)) = array.element(0).zip(array.element(last)) else { return Ok(Vec::new()) };
    let (first, last) = (first.to_bytes(), last.to_bytes());
    let mut end = before.map_or(Bound::Included(last), |before| Bound::Excluded(before.to_bytes()));
    let mut begun = Vec::new();
    // Between them there are jobs of other homes that were taken over.
    while begun.len() < limit {
        let bound = end.as_ref().map(<[u8; 16]>::as_slice);
        let rows = store.scan(Table::Standings, (Bound::Included(first.as_slice()), bound), true, limit)?;
        let ids = rows.iter().filter_map(|(key, _)| object_id(key));
        let Some(last) = ids.clone().last() else { break };
        begun.extend(ids.filter(|id| id.tag() == array.tag()));
        end = Bound::Excluded(last.to_bytes());
        if rows.len() < limit {
            break;
        }
    }
    begun.truncate(limit);
    Ok(begun)
}

/// The first and the last id that an element of it can have.
pub(super) fn ends(array: &Accepted) -> Option<(ObjectId, ObjectId)> {
    array.id.element(0).zip(array.id.element(array.extras.array?.last))
}

/// The row that says that the elements of an array are to go.
pub(super) fn forgotten(array: &Accepted) -> Option<Mutation> {
    let last = array.extras.array.filter(|_| array.is_array())?.last;
    Some(Mutation::put(Table::Remains, key_of(array.id), codec::encode(&last)))
}

/// Removes the next few elements of an array that was forgotten. No rows: nothing is left of any.
pub(in crate::runtime) fn clear_some(store: &Store) -> Result<Vec<Mutation>, Problem> {
    let Some((array, last)) = remains(store, false)? else { return Ok(Vec::new()) };
    let elements = begun(store, (array, last), None, CLEAR_LEN)?;
    let mut rows = Vec::new();
    if elements.len() < CLEAR_LEN {
        rows.push(Mutation::delete(Table::Remains, key_of(array)));
    }
    for element in elements {
        let row = store.get(Table::Standings, &element.to_bytes())?;
        let standing = row.map(|row| decode::<Standing>("job", &row)).transpose()?;
        drop_outcome(element, standing.as_ref(), &mut rows);
        rows.push(Mutation::delete(Table::Standings, key_of(element)));
    }
    Ok(rows)
}

/// The first or the last array that was forgotten and of whose elements something is left, with its highest index.
pub(super) fn remains(store: &Store, newest: bool) -> Result<Option<(ObjectId, u32)>, Problem> {
    let rows = store.scan(Table::Remains, (Bound::Unbounded, Bound::Unbounded), newest, 1)?;
    let Some((key, row)) = rows.into_iter().next() else { return Ok(None) };
    let last = decode("array that was forgotten", &row)?;
    Ok(object_id(&key).map(|array| (array, last)))
}
