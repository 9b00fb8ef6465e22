//! One key of the global store while a commit decides on it: read, changed, and turned into rows.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use shoal_protocol::entry::{Content, Entry, SignedEntry};
use shoal_protocol::object::kv::Scope;
use shoal_protocol::wire::sync::ItemHash;
use shoal_protocol::{BlobId, ObjectId, Problem, codec};

use super::ledger::Update;
use super::rows::{TOTALS_MAX, blob_of, reference_rows, row_key, total_key};
use super::standing::{Named, Standing};
use crate::store::{Mutation, Table, View};

/// What a commit will have done to the store, and what is told of it then.
#[derive(Default)]
pub(super) struct Staged {
    pub(super) rows: Vec<Mutation>,
    pub(super) durable: Durable,
}

/// What is told once it is durable.
#[derive(Default)]
pub(super) struct Durable {
    /// To the ledger.
    pub(super) updates: Vec<Update>,
    /// To the feed: the entries that stand now.
    pub(super) accepted: Vec<SignedEntry>,
    /// To those who watch them.
    pub(super) namespaces: BTreeSet<ObjectId>,
}

/// One key while it is decided on.
pub(super) struct Draft<'a> {
    namespace: ObjectId,
    key: &'a str,
    pub(super) standing: Standing,
    /// Its rows as they are in the store.
    before: BTreeMap<Bytes, ItemHash>,
    /// The blob that its value referred to.
    blob: Option<BlobId>,
}

impl<'a> Draft<'a> {
    /// Reads its rows as they are after all commits before this one.
    pub(super) fn read(view: &View<'_>, namespace: ObjectId, key: &'a str) -> Result<Self, Problem> {
        let rows = view.scan_prefix(Table::KvGlobal, &row_key(namespace, key), TOTALS_MAX)?;
        let mut standing = Standing::default();
        let mut before = BTreeMap::new();
        for (row, value) in rows {
            // The register comes first, so totals that are over find no place and their rows go with the next write.
            if let Some(named) = read_row(&row, &value) {
                before.insert(row, named.hash);
                standing.restore(named);
            }
        }
        let blob = blob_at(&standing);
        Ok(Self { namespace, key, standing, before, blob })
    }

    /// Stages what is different now.
    pub(super) fn finish(self, staged: &mut Staged) {
        let Self { namespace, key, standing, mut before, blob } = self;
        let Staged { rows, durable } = staged;
        rows.extend(reference_rows(Scope::Global, namespace, key, blob, blob_at(&standing)));
        for named in standing.iter() {
            let row = row_of(&named.entry);
            let former = before.remove(&row);
            if former == Some(named.hash) {
                continue;
            }
            durable.updates.extend(former.map(Update::Remove));
            durable.updates.push(Update::Add(named.hash, row.clone()));
            durable.accepted.push(named.signed.clone());
            durable.namespaces.insert(namespace);
            rows.push(Mutation::put(Table::KvGlobal, row, codec::encode(&named.signed)));
        }
        for (row, hash) in before {
            durable.updates.push(Update::Remove(hash));
            rows.push(Mutation::delete(Table::KvGlobal, row));
        }
    }
}

fn blob_at(standing: &Standing) -> Option<BlobId> {
    standing.known().current().and_then(|(value, _)| blob_of(Some(&value)))
}

fn row_of(entry: &Entry) -> Bytes {
    let row = match entry.content {
        Content::Total { .. } => total_key(entry.namespace, &entry.key, entry.node),
        Content::Value(_) | Content::Tombstone => row_key(entry.namespace, &entry.key),
    };
    row.into()
}

/// Reads a row of the global store; one that cannot be read is named in the log.
pub(super) fn read_row(row: &[u8], value: &[u8]) -> Option<Named> {
    match codec::decode::<SignedEntry>(value).and_then(Named::read) {
        Ok(named) => Some(named),
        Err(error) => {
            tracing::warn!(%error, ?row, "a stored KV entry cannot be read; it is left out");
            None
        }
    }
}
