//! Rows that are durable in the journal and not yet in the tables on disk.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::table::{Mutation, Table};

/// A row that costs nothing still costs its place: an estimate, for deciding when to flush.
const ROW_OVERHEAD: usize = 128;

/// Rows by table and key; `None` removes.
#[derive(Debug, Default, Clone)]
pub(crate) struct Rows {
    rows: BTreeMap<(Table, Bytes), Option<Bytes>>,
    len: usize,
}

impl Rows {
    /// Sets a row.
    pub(crate) fn apply(&mut self, mutation: Mutation) {
        let Mutation { table, key, value } = mutation;
        self.len += ROW_OVERHEAD + key.len() + value.as_ref().map_or(0, Bytes::len);
        if let Some(former) = self.rows.insert((table, key), value) {
            self.len = self.len.saturating_sub(ROW_OVERHEAD + former.map_or(0, |value| value.len()));
        }
    }

    /// What stands there: `None` if these rows say nothing, `Some(None)` if the row was removed.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<Option<Bytes>> {
        self.rows.get(&(table, Bytes::copy_from_slice(key))).cloned()
    }

    /// The rows of a range, in order of the key.
    pub(crate) fn range(
        &self,
        table: Table,
        range: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl DoubleEndedIterator<Item = (&Bytes, &Option<Bytes>)> {
        let start = match range.0 {
            Bound::Included(key) => Bound::Included((table, Bytes::copy_from_slice(key))),
            Bound::Excluded(key) => Bound::Excluded((table, Bytes::copy_from_slice(key))),
            Bound::Unbounded => Bound::Included((table, Bytes::new())),
        };
        // The end is checked while walking: an open end has no key of its own.
        let below = range.1.map(<[u8]>::to_vec);
        let end = match &below {
            Bound::Included(key) => Bound::Included((table, Bytes::copy_from_slice(key))),
            Bound::Excluded(key) => Bound::Excluded((table, Bytes::copy_from_slice(key))),
            Bound::Unbounded => match Table::ALL.into_iter().find(|other| *other > table) {
                Some(next) => Bound::Excluded((next, Bytes::new())),
                None => Bound::Unbounded,
            },
        };
        self.rows.range((start, end)).map(|((_, key), value)| (key, value))
    }

    /// Every row, by table and key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Table, &Bytes, &Option<Bytes>)> {
        self.rows.iter().map(|((table, key), value)| (*table, key, value))
    }

    /// About how many bytes of memory these rows take.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Takes all rows of `newer`, which win.
    pub(crate) fn absorb(&mut self, newer: Self) {
        for ((table, key), value) in newer.rows {
            self.apply(Mutation { table, key, value });
        }
    }
}
