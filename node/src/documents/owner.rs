//! The thread that owns the replica.

#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use shoal_crdt::reconcile::{Index, Stored};
use shoal_crdt::{Applied, Facts, Object, Outcome, Refused, Replica, Wanted};
use shoal_protocol::change::{Change, SignedChange};
use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::wire::sync::SignedItem;
use shoal_protocol::{BlobId, Kind, ObjectId, Problem, codec};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::{Ask, Published};
use crate::replication::Origin;
use crate::runtime::{Referrer, reference_key};
use crate::store::{Mutation, ScannedRows, Store, Table};

/// Changes of one page while the store is read.
const PAGE_LEN: usize = 1000;

pub(super) struct Owner {
    mesh: PublicKey,
    replica: Replica,
    store: Store,
    published: Published,
    /// The place of the next change in the order of arrival.
    arrival: u64,
    /// The replica is ahead of the disk: nothing is taken before it is built anew from what is durable.
    ahead: bool,
}

/// What the changes that are durable come to.
struct Rebuilt {
    replica: Replica,
    arrival: u64,
    index: Index,
    changed: BTreeSet<ObjectId>,
}

/// What the replica has taken and the disk has not.
#[derive(Default)]
struct Batch {
    /// To be journaled, in this order.
    accepted: Vec<SignedChange>,
    /// The documents that say something else now.
    changed: BTreeSet<ObjectId>,
}

impl Batch {
    fn add(&mut self, applied: Applied) {
        self.accepted.extend(applied.accepted);
        self.changed.extend(applied.changed);
    }
}

impl Owner {
    pub(super) fn open(mesh: PublicKey, store: Store, published: Published) -> Result<Self, Problem> {
        let replica = Replica::new(mesh);
        let mut owner = Self { mesh, replica, store, published, arrival: 1, ahead: true };
        owner.catch_up()?;
        Ok(owner)
    }

    /// Builds replica, index and directory anew where the replica is ahead of the disk. As long as the disk cannot be read
    /// all stays as it was and whoever asks is refused; each ask tries it again.
    fn catch_up(&mut self) -> Result<(), Problem> {
        let store = self.store.clone();
        self.catch_up_from(|after| store.scan_prefix(Table::Changes, &[], after, PAGE_LEN))
    }

    fn catch_up_from(&mut self, pages: impl Fn(Option<&[u8]>) -> Result<ScannedRows, Problem>) -> Result<(), Problem> {
        if !self.ahead {
            return Ok(());
        }
        // Nothing is replaced before all of it was read: a replica of a part would write over the rows of the rest.
        let Rebuilt { replica, arrival, index, changed } = Rebuilt::read(self.mesh, pages)?;
        (self.replica, self.arrival, self.ahead) = (replica, arrival, false);
        *self.published.index.write().unwrap_or_else(PoisonError::into_inner) = index;
        let mut directory = self.published.directory.write().unwrap_or_else(PoisonError::into_inner);
        directory.clear();
        for id in changed {
            directory.set(id, self.replica.document(id).cloned().map(Arc::new));
        }
        Ok(())
    }

    pub(super) fn run(mut self, runtime: &Handle, mut asks: mpsc::Receiver<Ask>) {
        while let Some(ask) = asks.blocking_recv() {
            // Whoever asked may have gone away.
            match ask {
                Ask::Apply(change, answer) => drop(answer.send(runtime.block_on(self.apply(&change)))),
                Ask::Prepare(wanted, answer) => drop(answer.send(self.prepare(*wanted))),
                Ask::Sign(wanted, key, answer) => drop(answer.send(runtime.block_on(self.sign(*wanted, &key)))),
                Ask::Receive(items, origin, answer) => {
                    drop(answer.send(runtime.block_on(self.receive(items, origin))));
                }
            }
        }
    }

    fn prepare(&mut self, wanted: Wanted) -> Result<Change, Problem> {
        self.catch_up()?;
        self.replica.prepare(wanted).map_err(|error| Problem::from(&error))
    }

    async fn sign(&mut self, wanted: Wanted, key: &SecretKey) -> Result<(), Problem> {
        let change = self.prepare(wanted)?;
        self.apply(&change.sign(key)).await
    }

    /// Takes a client's change, which is to count now or is a problem.
    async fn apply(&mut self, change: &SignedChange) -> Result<(), Problem> {
        self.catch_up()?;
        let applied = self.replica.apply(change).map_err(|refused| Problem::from(&refused))?;
        let outcome = applied.outcome.clone();
        let mut batch = Batch::default();
        batch.add(applied);
        self.keep(batch, Origin::Local).await?;
        match outcome {
            Outcome::Counted => Ok(()),
            Outcome::Duplicate => {
                Err(Problem::new(Kind::Conflict, "this change is already part of its document: nothing was done"))
            }
            Outcome::HeldBack { missing } => Err(Problem::new(
                Kind::Conflict,
                format!("{} changes that this one follows are not known here: send them first", missing.len()),
            )),
            Outcome::DoesNotCount(reason) => {
                Err(Problem::new(Kind::ChangeRefused, format!("the change is kept, but does not count: {reason}")))
            }
        }
    }

    /// Takes a peer's changes.
    async fn receive(&mut self, items: Vec<SignedItem>, origin: Origin) -> Result<Stored, Problem> {
        self.catch_up()?;
        let mut stored = Stored::default();
        let mut batch = Batch::default();
        for item in items {
            match self.replica.apply(&SignedChange::from(item)) {
                Ok(Applied { outcome: Outcome::Duplicate, .. }) => stored.idle += 1,
                Ok(Applied { outcome: Outcome::HeldBack { .. }, .. }) => stored.held += 1,
                Ok(applied) => {
                    stored.taken += 1;
                    batch.add(applied);
                }
                Err(refused) if may_be_passed_on(&refused) => stored.idle += 1,
                Err(refused) => {
                    tracing::debug!(%refused, "a peer has sent a change that no node passes on");
                    stored.refused += 1;
                }
            }
        }
        self.keep(batch, origin).await?;
        Ok(stored)
    }

    /// Makes what the replica has taken durable as one commit, and publishes it.
    async fn keep(&mut self, batch: Batch, origin: Origin) -> Result<(), Problem> {
        if batch.accepted.is_empty() {
            return Ok(());
        }
        if let Err(problem) = self.store.commit(self.rows(&batch)).await {
            self.ahead = true;
            if let Err(unread) = self.catch_up() {
                tracing::warn!(%unread, "the changes cannot be read: until they can, users and functions cannot change");
            }
            return Err(problem);
        }
        self.publish(batch, origin).await;
        Ok(())
    }

    /// The changes, and the references of functions to their code.
    fn rows(&self, batch: &Batch) -> Vec<Mutation> {
        let mut rows: Vec<Mutation> = (self.arrival..)
            .zip(&batch.accepted)
            .map(|(place, change)| Mutation::put(Table::Changes, place.to_be_bytes().to_vec(), codec::encode(change)))
            .collect();
        let directory = self.published.directory.read().unwrap_or_else(PoisonError::into_inner);
        for id in &batch.changed {
            let before = components(directory.get(*id).map(AsRef::as_ref));
            let after = components(self.replica.document(*id).filter(|facts| !facts.deleted));
            let key = |blob: &BlobId| reference_key(*blob, Referrer::Function(*id), &[]);
            rows.extend(before.difference(&after).map(|blob| Mutation::delete(Table::References, key(blob))));
            rows.extend(
                after.difference(&before).map(|blob| Mutation::put(Table::References, key(blob), Bytes::new())),
            );
        }
        rows
    }

    /// Tells everybody what is durable now, each document once, however many changes it had.
    async fn publish(&mut self, batch: Batch, origin: Origin) {
        {
            let mut index = self.published.index.write().unwrap_or_else(PoisonError::into_inner);
            for change in &batch.accepted {
                index.insert(self.arrival, change.hash().into());
                self.arrival += 1;
            }
        }
        let mut inputs = Vec::new();
        {
            let mut directory = self.published.directory.write().unwrap_or_else(PoisonError::into_inner);
            for id in batch.changed {
                let facts = self.replica.document(id).cloned().map(Arc::new);
                inputs.extend(facts.as_deref().and_then(super::directory::input));
                directory.set(id, facts);
            }
        }
        for change in &batch.accepted {
            tracing::trace!(change = %change.hash().0, "a change can be read here");
        }
        self.published.accepted.tell(origin, batch.accepted);
        if let Some(kernel) = self.published.kernel.get() {
            for input in inputs {
                kernel.input(input).await;
            }
        }
    }
}

impl Rebuilt {
    /// Reads page after page: the rows after a key, in their order; none when all were read.
    fn read(mesh: PublicKey, pages: impl Fn(Option<&[u8]>) -> Result<ScannedRows, Problem>) -> Result<Self, Problem> {
        let mut rebuilt =
            Self { replica: Replica::new(mesh), arrival: 1, index: Index::new(), changed: BTreeSet::new() };
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = pages(after.as_deref())?;
            let Some((last, _)) = page.last() else { return Ok(rebuilt) };
            after = Some(last.to_vec());
            for (key, row) in &page {
                let place = <[u8; 8]>::try_from(key.as_ref()).map_or(rebuilt.arrival, u64::from_be_bytes);
                rebuilt.arrival = place + 1;
                if let Err(reason) = rebuilt.replay(place, row) {
                    tracing::warn!(place, reason, "a stored change cannot be read; it is left out");
                }
            }
        }
    }

    /// Takes a change from its row.
    fn replay(&mut self, place: u64, row: &[u8]) -> Result<(), String> {
        let change: SignedChange = codec::decode(row).map_err(|error| error.to_string())?;
        let applied = self.replica.apply(&change).map_err(|refused| refused.to_string())?;
        // What it follows is in a damaged row: it comes back from peers, and then this change has a row behind that.
        if !matches!(applied.outcome, Outcome::HeldBack { .. }) {
            self.index.insert(place, change.hash().into());
        }
        self.changed.extend(applied.changed);
        Ok(())
    }
}

/// Whether an honest node may have such a change: there is no room for it here, or it is of a newer program.
fn may_be_passed_on(refused: &Refused) -> bool {
    matches!(refused, Refused::Full { .. } | Refused::Equivocates { .. } | Refused::Version { .. })
}

/// The code that a document refers to.
fn components(facts: Option<&Facts>) -> BTreeSet<BlobId> {
    match facts.map(|facts| &facts.object) {
        Some(Object::Function { function, .. }) => {
            function.versions.iter().map(|version| version.component).chain([function.current]).collect()
        }
        _ => BTreeSet::new(),
    }
}
