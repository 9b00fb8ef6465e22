//! Arrays in the store: one row of what was accepted for all elements; a row of where it stands for each that has begun.

use std::ops::Bound;

use shoal_kernel::{Accepted, Standing};
use shoal_protocol::{ObjectId, Problem};

use super::{decode, object_id};
use crate::store::{Mutation, Store, Table};

/// Rows that are read at once while the elements of an array are removed.
const SCAN_LEN: usize = 1_000;

/// The array whose element this is, if it is one. No other job has an id between that of an array and those of its elements:
/// the array is the one that was accepted last before it.
pub(super) fn array_of(store: &Store, element: ObjectId) -> Result<Option<Accepted>, Problem> {
    let before = element.to_bytes();
    let rows = store.scan(Table::Jobs, (Bound::Unbounded, Bound::Excluded(before.as_slice())), true, 1)?;
    let Some((_, row)) = rows.into_iter().next() else { return Ok(None) };
    let near: Accepted = decode("job", &row)?;
    Ok(Some(near).filter(|near| near.element_of_id(element).is_some()))
}

/// Where an element stands of which there is no row: as its array does, which it has not outlived.
pub(super) fn unbegun(array: &Accepted, standing: Option<Standing>) -> Standing {
    let standing = standing.unwrap_or_else(|| array.standing());
    Standing { elements: None, ..standing }
}

/// The elements of an array that have begun, the newest first, before an id.
pub(crate) fn begun_before(
    store: &Store,
    array: &Accepted,
    before: Option<ObjectId>,
    limit: usize,
) -> Result<Vec<ObjectId>, Problem> {
    let Some((first, last)) = ends(array) else { return Ok(Vec::new()) };
    let (first, last) = (first.to_bytes(), last.to_bytes());
    let before = before.map(ObjectId::to_bytes);
    let end = before.as_ref().map_or(Bound::Included(last.as_slice()), |before| Bound::Excluded(before.as_slice()));
    let rows = store.scan(Table::Standings, (Bound::Included(first.as_slice()), end), true, limit)?;
    Ok(rows.iter().filter_map(|(key, _)| object_id(key)).collect())
}

/// The first and the last id that an element of it can have.
pub(super) fn ends(array: &Accepted) -> Option<(ObjectId, ObjectId)> {
    array.id.element(0).zip(array.id.element(array.array?.last))
}

/// Removes the elements of an array; `remove` is told what each of them came to.
pub(super) fn sweep(
    store: &Store,
    array: &Accepted,
    rows: &mut Vec<Mutation>,
    mut remove: impl FnMut(ObjectId, &Standing, &mut Vec<Mutation>),
) -> Result<(), Problem> {
    let mut before = None;
    loop {
        let elements = begun_before(store, array, before, SCAN_LEN)?;
        let Some(last) = elements.last() else { return Ok(()) };
        before = Some(*last);
        for element in elements {
            if let Some(row) = store.get(Table::Standings, &element.to_bytes())? {
                remove(element, &decode("job", &row)?, rows);
            }
            rows.push(Mutation::delete(Table::Standings, element.to_bytes().to_vec()));
        }
    }
}
