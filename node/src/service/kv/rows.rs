//! How keys stand in the store.
//!
//! A key of the global store is a row for the entry that counts, `namespace key 0`, and a row for each node's total,
//! `namespace key 0 node`. Keys hold no control characters, so the zero byte ends them and rows sort by key.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use shoal_kernel::kv;
use shoal_protocol::entry::{Content, SignedEntry};
use shoal_protocol::object::kv::{Entry, Scope, Value};
use shoal_protocol::wire::drain::HandedKey;
use shoal_protocol::{BlobId, NodeId, ObjectId, Problem, codec};

use crate::runtime::{Referrer, reference_key};
use crate::store::{Mutation, Store, Table};

/// Totals of one key that are read: one for each node that ever counted in it.
pub(super) const TOTALS_MAX: usize = 4096;
/// Rows that a list reads at once. Why 64: values up to 60 KiB make 4 MiB of them.
const ROWS_AT_ONCE: usize = 64;
/// What an entry takes in an answer beside its key and its value, in bytes: the names of its fields, lengths, a version.
const ENTRY_OVERHEAD: usize = 64;

/// A row of the local store.
#[derive(Serialize, Deserialize)]
pub(super) struct LocalEntry {
    pub(super) value: Value,
    pub(super) version: u64,
}

/// How much of a list fits into one answer.
#[derive(Debug, Clone, Copy)]
pub(super) struct Bounds {
    /// Keys.
    pub(super) count: usize,
    /// Bytes of their entries. At least one entry is given, however long it is.
    pub(super) len: usize,
}

/// A part of a list.
#[derive(Debug, Default)]
pub(super) struct Keys {
    pub(super) entries: Vec<Entry>,
    /// Whether it ends at a bound: there may be more behind the last one.
    pub(super) cut: bool,
}

pub(super) fn row_key(namespace: ObjectId, key: &str) -> Vec<u8> {
    let mut row = Vec::with_capacity(17 + key.len());
    row.extend_from_slice(&namespace.to_bytes());
    row.extend_from_slice(key.as_bytes());
    row.push(0);
    row
}

pub(super) fn total_key(namespace: ObjectId, key: &str, node: NodeId) -> Vec<u8> {
    let mut row = row_key(namespace, key);
    row.extend_from_slice(node.as_bytes());
    row
}

/// The part of a row's key that all rows of its key in the store have.
pub(super) fn key_start(row: &Bytes) -> Option<Bytes> {
    let end = row.get(16..)?.iter().position(|byte| *byte == 0)?;
    Some(row.slice(..16 + end + 1))
}

/// The key that a row belongs to.
fn key_of(row: &[u8]) -> Option<&str> {
    let rest = row.get(16..)?;
    let end = rest.iter().position(|byte| *byte == 0)?;
    std::str::from_utf8(rest.get(..end)?).ok()
}

/// Sorts the rows of one key into what is known of it.
pub(super) fn known(rows: impl Iterator<Item = (Bytes, Bytes)>) -> kv::Known {
    let mut known = kv::Known::default();
    for (row, value) in rows {
        let entry = codec::decode::<SignedEntry>(&value).and_then(|signed| signed.decode());
        match entry {
            Ok(entry) if matches!(entry.content, Content::Total { .. }) => known.totals.push(entry),
            Ok(entry) => known.register = Some(entry),
            Err(error) => tracing::warn!(%error, key = ?key_of(&row), "a stored KV entry cannot be read"),
        }
    }
    known
}

pub(super) fn entry_of(key: &str, current: kv::Current) -> Entry {
    Entry { key: key.to_owned(), value: current.0, version: current.1 }
}

pub(super) fn blob_of(value: Option<&Value>) -> Option<BlobId> {
    match value {
        Some(Value::Blob(id)) => Some(*id),
        _ => None,
    }
}

/// The rows that move a key's reference from one blob to another.
pub(super) fn reference_rows(
    scope: Scope,
    namespace: ObjectId,
    key: &str,
    old: Option<BlobId>,
    new: Option<BlobId>,
) -> Vec<Mutation> {
    if old == new {
        return Vec::new();
    }
    // The same key may refer to a blob in both scopes.
    let place = [&[scope as u8], key.as_bytes()].concat();
    let row = |blob| reference_key(blob, Referrer::Kv(namespace), &place);
    let removed = old.map(|blob| Mutation::delete(Table::References, row(blob)));
    let added = new.map(|blob| Mutation::put(Table::References, row(blob), Bytes::new()));
    removed.into_iter().chain(added).collect()
}

/// One key, as it is durable.
pub(super) fn read(store: &Store, scope: Scope, id: ObjectId, key: &str) -> Result<Option<Entry>, Problem> {
    let row = row_key(id, key);
    Ok(match scope {
        Scope::Local => store.get(Table::KvLocal, &row)?.and_then(|value| local_entry(key, &value)),
        Scope::Global => {
            let rows = store.scan_prefix(Table::KvGlobal, &row, None, TOTALS_MAX)?;
            known(rows.into_iter()).current().map(|current| entry_of(key, current))
        }
    })
}

fn local_entry(key: &str, row: &[u8]) -> Option<Entry> {
    let LocalEntry { value, version } = codec::decode(row).ok()?;
    Some(entry_of(key, (value, version)))
}

/// Keys of the local store, of whichever namespace, behind a row; and the last row that was looked at.
pub(in crate::service) fn local_behind(
    store: &Store,
    after: Option<&[u8]>,
    limit: usize,
) -> Result<(Vec<HandedKey>, Option<Bytes>), Problem> {
    let rows = store.scan_prefix(Table::KvLocal, &[], after, limit)?;
    let last = rows.last().map(|(row, _)| row.clone());
    let entries = rows.iter().filter_map(|(row, value)| {
        let namespace = ObjectId::from_bytes(row.get(..16)?.try_into().ok()?);
        let (key, LocalEntry { value, .. }) = (key_of(row)?, codec::decode(value).ok()?);
        Some(HandedKey { namespace, key: key.to_owned(), value })
    });
    Ok((entries.collect(), last))
}

/// Keys with a prefix, after a key, as many as the bounds allow.
pub(super) fn list_keys(
    store: &Store,
    scope: Scope,
    id: ObjectId,
    prefix: &str,
    after: Option<&str>,
    bounds: Bounds,
) -> Result<Keys, Problem> {
    let table = if scope == Scope::Local { Table::KvLocal } else { Table::KvGlobal };
    let start = [&id.to_bytes(), prefix.as_bytes()].concat();
    let mut from = after.map(|after| behind(id, after));
    let mut keys = Keys::default();
    let mut len = 0;
    loop {
        let rows = store.scan_prefix(table, &start, from.as_deref(), ROWS_AT_ONCE)?;
        let mut names: Vec<&str> = rows.iter().filter_map(|(row, _)| key_of(row)).collect();
        names.dedup();
        let Some(last) = names.last() else { return Ok(keys) };
        from = Some(behind(id, last));
        for name in names {
            let Some(entry) = read(store, scope, id, name)? else { continue };
            len += entry_len(&entry);
            if keys.entries.len() == bounds.count || (len > bounds.len && !keys.entries.is_empty()) {
                return Ok(Keys { cut: true, ..keys });
            }
            keys.entries.push(entry);
        }
    }
}

/// Behind every row of a key: they end in a zero byte and perhaps a node.
fn behind(id: ObjectId, key: &str) -> Vec<u8> {
    [row_key(id, key).as_slice(), &[0xff; 33]].concat()
}

/// What an entry takes in an answer, in bytes, at most.
fn entry_len(entry: &Entry) -> usize {
    let value = match &entry.value {
        Value::Text(text) => text.len(),
        Value::Bytes(bytes) => bytes.len(),
        Value::Blob(id) => id.as_bytes().len(),
        Value::Counter(_) => size_of::<i64>(),
    };
    ENTRY_OVERHEAD + entry.key.len() + value
}
