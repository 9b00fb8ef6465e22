//! The thread that owns the replica.

use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock, PoisonError, RwLock};

use bytes::Bytes;
use shoal_crdt::{Applied, Facts, Object, Outcome, Replica, Wanted};
use shoal_protocol::change::SignedChange;
use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::{BlobId, Kind, ObjectId, Problem, codec};
use tokio::runtime::Handle;
use tokio::sync::mpsc;

use super::{Ask, Directory};
use crate::runtime::{Referrer, Runtime, reference_key};
use crate::store::{Mutation, Store, Table};

/// Changes of one page while the store is read.
const PAGE_LEN: usize = 1000;

pub(super) struct Owner {
    mesh: PublicKey,
    replica: Replica,
    store: Store,
    directory: Arc<RwLock<Directory>>,
    kernel: Arc<OnceLock<Runtime>>,
    /// The place of the next change in the order of arrival.
    arrival: u64,
}

impl Owner {
    pub(super) fn open(
        mesh: PublicKey,
        store: Store,
        directory: Arc<RwLock<Directory>>,
        kernel: Arc<OnceLock<Runtime>>,
    ) -> Result<Self, Problem> {
        let mut owner = Self { mesh, replica: Replica::new(mesh), store, directory, kernel, arrival: 1 };
        owner.rebuild()?;
        Ok(owner)
    }

    /// Builds replica and directory from the changes that are durable.
    fn rebuild(&mut self) -> Result<(), Problem> {
        self.replica = Replica::new(self.mesh);
        self.arrival = 1;
        let mut changed = BTreeSet::new();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = self.store.scan_prefix(Table::Changes, &[], after.as_deref(), PAGE_LEN)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(last.to_vec());
            for (key, row) in &page {
                let place = <[u8; 8]>::try_from(key.as_ref()).map_or(self.arrival, u64::from_be_bytes);
                self.arrival = place + 1;
                match codec::decode::<SignedChange>(row)
                    .map_err(|e| e.to_string())
                    .and_then(|change| self.replica.apply(&change).map_err(|refused| refused.to_string()))
                {
                    Ok(applied) => changed.extend(applied.changed),
                    Err(reason) => tracing::warn!(place, reason, "a stored change cannot be read; it is left out"),
                }
            }
        }
        let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
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
                Ask::Prepare(wanted, answer) => {
                    drop(answer.send(self.replica.prepare(*wanted).map_err(|error| Problem::from(&error))));
                }
                Ask::Sign(wanted, key, answer) => drop(answer.send(runtime.block_on(self.sign(*wanted, &key)))),
            }
        }
    }

    async fn sign(&mut self, wanted: Wanted, key: &SecretKey) -> Result<(), Problem> {
        let change = self.replica.prepare(wanted).map_err(|error| Problem::from(&error))?;
        self.apply(&change.sign(key)).await
    }

    /// Checks a change, makes it durable, publishes it.
    async fn apply(&mut self, change: &SignedChange) -> Result<(), Problem> {
        let applied = self.replica.apply(change).map_err(|refused| Problem::from(&refused))?;
        match &applied.outcome {
            Outcome::Duplicate => {
                return Err(Problem::new(
                    Kind::Conflict,
                    "this change is already part of its document: nothing was done",
                ));
            }
            Outcome::HeldBack { missing } => {
                return Err(Problem::new(
                    Kind::Conflict,
                    format!("{} changes that this one follows are not known here: send them first", missing.len()),
                ));
            }
            Outcome::Counted | Outcome::DoesNotCount(_) => {}
        }
        let rows = self.rows(&applied);
        if let Err(problem) = self.store.commit(rows).await {
            // The replica is ahead of the disk: it begins anew from what is durable.
            self.rebuild()?;
            return Err(problem);
        }
        self.arrival += applied.accepted.len() as u64;
        self.publish(applied.changed).await;
        match applied.outcome {
            Outcome::DoesNotCount(reason) => {
                Err(Problem::new(Kind::ChangeRefused, format!("the change is kept, but does not count: {reason}")))
            }
            _ => Ok(()),
        }
    }

    /// The changes, and the references of functions to their code.
    fn rows(&self, applied: &Applied) -> Vec<Mutation> {
        let mut rows: Vec<Mutation> = (self.arrival..)
            .zip(&applied.accepted)
            .map(|(place, change)| Mutation::put(Table::Changes, place.to_be_bytes().to_vec(), codec::encode(change)))
            .collect();
        let directory = self.directory.read().unwrap_or_else(PoisonError::into_inner);
        for id in &applied.changed {
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

    /// Tells everybody what the documents say now.
    async fn publish(&self, changed: BTreeSet<ObjectId>) {
        let mut inputs = Vec::new();
        {
            let mut directory = self.directory.write().unwrap_or_else(PoisonError::into_inner);
            for id in changed {
                let facts = self.replica.document(id).cloned().map(Arc::new);
                inputs.extend(facts.as_deref().and_then(super::directory::input));
                directory.set(id, facts);
            }
        }
        if let Some(kernel) = self.kernel.get() {
            for input in inputs {
                kernel.input(input).await;
            }
        }
    }
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
