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
    tables: BTreeMap<Table, BTreeMap<Bytes, Option<Bytes>>>,
    len: usize,
}

impl Rows {
    /// Sets a row.
    pub(crate) fn apply(&mut self, mutation: Mutation) {
        let Mutation { table, key, value } = mutation;
        self.len += ROW_OVERHEAD + key.len() + value.as_ref().map_or(0, Bytes::len);
        if let Some(former) = self.tables.entry(table).or_default().insert(key, value) {
            self.len = self.len.saturating_sub(ROW_OVERHEAD + former.map_or(0, |value| value.len()));
        }
    }

    /// What stands there: `None` if these rows say nothing, `Some(None)` if the row was removed.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Option<Option<Bytes>> {
        self.tables.get(&table)?.get(key).cloned()
    }

    /// The rows of a range, in order of the key.
    pub(crate) fn range(
        &self,
        table: Table,
        range: (Bound<&[u8]>, Bound<&[u8]>),
    ) -> impl DoubleEndedIterator<Item = (&Bytes, &Option<Bytes>)> {
        self.tables.get(&table).into_iter().flat_map(move |rows| rows.range::<[u8], _>(range))
    }

    /// Every row, by table and key.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (Table, &Bytes, &Option<Bytes>)> {
        self.tables.iter().flat_map(|(table, rows)| rows.iter().map(|(key, value)| (*table, key, value)))
    }

    /// About how many bytes of memory these rows take.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    pub(crate) fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// Takes all rows of `newer`, which win.
    pub(crate) fn absorb(&mut self, newer: Self) {
        for (table, rows) in newer.tables {
            rows.into_iter().for_each(|(key, value)| self.apply(Mutation { table, key, value }));
        }
    }
}
