//! The global store: the entries that stand, of this node's callers and of its peers. The only place that writes them.
//!
//! An entry is decided on where the store orders its commits, so each is put beside all that were before it; index and
//! feed hear of it in the same order, once it is durable.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use shoal_crdt::reconcile::{Held, ITEMS_MAX, Index, Stored};
use shoal_kernel::kv;
use shoal_protocol::entry::{Entry, SignedEntry};
use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::object::kv::Entry as Shown;
use shoal_protocol::wire::sync::{ItemHash, SetKind, SignedItem};
use shoal_protocol::{Kind, ObjectId, Problem, codec};
use tokio::sync::broadcast;

use super::admission::{self, Unfit};
use super::draft::{Draft, Durable, Staged, read_row};
use super::ledger::{Ledger, Update};
use super::rows::{entry_of, key_start};
use super::standing::{Fate, Named, Standing};
use crate::documents::Documents;
use crate::replication::{Accepted, Feed, Origin, Shared, read_up_to};
use crate::runtime::Runtime;
use crate::store::{Store, Table, View};

/// Rows that are read at once when the index is built. Why 64: values up to 60 KiB make 4 MiB of them.
const PAGE_LEN: usize = 64;

/// A handle on the global store, cheap to clone.
#[derive(Clone)]
pub(crate) struct GlobalKv(Arc<Parts>);

struct Parts {
    mesh: PublicKey,
    runtime: Runtime,
    documents: Documents,
    ledger: Ledger,
    accepted: Feed<SignedEntry>,
    far_ahead: AtomicU64,
}

impl GlobalKv {
    /// Builds the index from the entries that are durable.
    ///
    /// # Errors
    /// The store cannot be read.
    pub(crate) fn open(mesh: PublicKey, runtime: Runtime, documents: Documents) -> Result<Self, Problem> {
        let ledger = Ledger::default();
        index_all(runtime.store(), &ledger)?;
        let accepted = Feed::new();
        Ok(Self(Arc::new(Parts { mesh, runtime, documents, ledger, accepted, far_ahead: AtomicU64::new(0) })))
    }

    /// Listens to what is accepted from now on: each entry that comes to stand, in the order of the journal. Lagging
    /// behind loses the oldest of it.
    pub(crate) fn accepted(&self) -> broadcast::Receiver<Accepted<SignedEntry>> {
        self.0.accepted.listen()
    }

    /// How many entries of peers were not taken since the start because their counters are far above what is known here.
    pub(crate) fn far_ahead(&self) -> u64 {
        self.0.far_ahead.load(Ordering::Relaxed)
    }

    /// Changes a key in the name of this node: `change` gets what is known of it and gives the entry that is signed with
    /// `key_of_node`; none: nothing is written. Answers what stands there after a write, what stood there after a removal.
    pub(super) async fn write(
        &self,
        namespace: ObjectId,
        key: &str,
        key_of_node: SecretKey,
        change: impl FnOnce(&kv::Known) -> Result<Option<Entry>, Problem> + Send + 'static,
    ) -> Result<Option<Shown>, Problem> {
        let key = key.to_owned();
        let decide = move |view: &View<'_>| {
            let mut draft = Draft::read(view, namespace, &key)?;
            let known = draft.standing.known();
            let Some(entry) = change(&known)? else { return Ok((Staged::default(), None)) };
            let signed = entry.sign(&key_of_node);
            let hash = ItemHash::of(&signed.bytes);
            if draft.standing.take(Named { signed, entry, hash }) != Fate::Stands {
                return Err(Problem::new(Kind::Conflict, format!("the key {key:?} takes no more writes: use another")));
            }
            let after = draft.standing.known().current();
            let shown = after.or(known.current()).map(|current| entry_of(&key, current));
            let mut staged = Staged::default();
            draft.finish(&mut staged);
            Ok((staged, shown))
        };
        self.commit(Origin::Local, decide).await
    }

    /// The only way of an entry into the store: decides, makes it durable, tells everybody.
    async fn commit<T: Send + 'static>(
        &self,
        origin: Origin,
        decide: impl FnOnce(&View<'_>) -> Result<(Staged, T), Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        let publisher = self.clone();
        let decide = move |view: &View<'_>| {
            let (Staged { rows, durable }, answer) = decide(view)?;
            Ok((rows, (durable, answer)))
        };
        let then = move |(durable, answer)| {
            publisher.publish(durable, origin);
            answer
        };
        self.0.runtime.store().decide_then(decide, then).await
    }

    /// From the store's writer thread: nothing here waits for anybody.
    fn publish(&self, durable: Durable, origin: Origin) {
        self.0.ledger.update(durable.updates);
        self.0.accepted.tell(origin, durable.accepted);
        durable.namespaces.into_iter().for_each(|namespace| self.0.runtime.changed(namespace));
    }

    /// Checks what a peer has sent. What may be taken, by key.
    fn check(&self, items: Vec<SignedItem>) -> (BTreeMap<(ObjectId, String), Vec<Named>>, Stored) {
        let mut stored = Stored::default();
        let mut fit: BTreeMap<_, Vec<Named>> = BTreeMap::new();
        // Each by itself: the documents' thread is not to wait for a whole batch of signatures.
        for item in items {
            let checked = admission::check(&self.0.mesh, &self.0.documents.directory(), item.into());
            match checked {
                Ok(named) => fit.entry((named.entry.namespace, named.entry.key.clone())).or_default().push(named),
                Err(unfit) => {
                    tracing::debug!(%unfit, "an entry of a peer is not taken");
                    match unfit {
                        Unfit::Refused(_) => stored.refused += 1,
                        Unfit::Idle(_) => stored.idle += 1,
                    }
                }
            }
        }
        (fit, stored)
    }

    fn count_fates(&self, fates: &[Fate], stored: &mut Stored) {
        for fate in fates {
            match fate {
                Fate::Stands => stored.taken += 1,
                Fate::Superseded | Fate::NoRoom => stored.idle += 1,
                Fate::FarAhead => {
                    self.0.far_ahead.fetch_add(1, Ordering::Relaxed);
                    stored.idle += 1;
                }
            }
        }
    }
}

impl Shared for GlobalKv {
    const KIND: SetKind = SetKind::Entries;

    fn with_index<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        self.0.ledger.with_index(look)
    }

    fn read_items(&self, items: &[Held], len_max: usize) -> Result<Vec<Option<SignedItem>>, Problem> {
        let keys: BTreeMap<Held, Option<Bytes>> = items.iter().copied().zip(self.0.ledger.rows(items)).collect();
        read_up_to(items, len_max, |held| {
            let Some(Some(key)) = keys.get(held) else { return Ok(None) };
            let row = self.0.runtime.store().get(Table::KvGlobal, key)?;
            let entry = row.and_then(|row| codec::decode::<SignedEntry>(&row).ok());
            // The row may hold a newer entry by now.
            Ok(entry.map(SignedItem::from).filter(|item| item.hash() == held.item))
        })
    }

    async fn receive(&self, items: Vec<SignedItem>, origin: Origin) -> Result<Stored, Problem> {
        let count = items.len();
        if self.with_index(Index::len) + count > ITEMS_MAX {
            return Ok(Stored { idle: count, ..Stored::default() });
        }
        let checker = self.clone();
        let (fit, mut stored) = tokio::task::spawn_blocking(move || checker.check(items))
            .await
            .map_err(|error| Problem::new(Kind::Internal, format!("checking entries: {error}")))?;
        if fit.is_empty() {
            return Ok(stored);
        }
        let decide = move |view: &View<'_>| {
            let mut staged = Staged::default();
            let mut fates = Vec::new();
            for ((namespace, key), entries) in fit {
                let mut draft = Draft::read(view, namespace, &key)?;
                fates.extend(entries.into_iter().map(|named| draft.standing.take(named)));
                draft.finish(&mut staged);
            }
            Ok((staged, fates))
        };
        let fates = self.commit(origin, decide).await?;
        self.count_fates(&fates, &mut stored);
        Ok(stored)
    }
}

/// Puts all entries that stand into the ledger, key by key.
fn index_all(store: &Store, ledger: &Ledger) -> Result<(), Problem> {
    let mut after: Option<Vec<u8>> = None;
    let mut key: Option<Bytes> = None;
    let mut standing = Standing::default();
    loop {
        let page = store.scan_prefix(Table::KvGlobal, &[], after.as_deref(), PAGE_LEN)?;
        let Some((last, _)) = page.last() else { return Ok(()) };
        after = Some(last.to_vec());
        let mut updates = Vec::new();
        for (row, value) in page {
            let start = key_start(&row);
            if key != start {
                key = start;
                standing = Standing::default();
            }
            let Some(named) = read_row(&row, &value) else { continue };
            let hash = named.hash;
            if standing.restore(named) {
                updates.push(Update::Add(hash, row));
            }
        }
        ledger.update(updates);
    }
}
