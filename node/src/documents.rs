//! Users, projects and functions as this node holds them.
//!
//! One thread owns the [`shoal_crdt::Replica`]; it checks each signed change, makes it durable, and only then publishes what the
//! document says now: to the [`Directory`], from which everybody reads, and to the kernel. The signed changes are the
//! truth; replica and directory are rebuilt from them.

mod directory;
mod owner;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use shoal_crdt::Wanted;
use shoal_crdt::reconcile::{Held, Index, Stored};
use shoal_kernel::Input;
use shoal_protocol::change::{Change, SignedChange};
use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::wire::sync::{SetKind, SignedItem};
use shoal_protocol::{Kind, Problem, codec};
use tokio::sync::{broadcast, mpsc, oneshot};

use crate::replication::{Accepted, Feed, Origin, Shared, read_up_to};
use crate::runtime::Runtime;
use crate::store::{Store, Table};

pub(crate) use directory::Directory;

/// Changes that may wait. Why 64: each costs the thread a signature check and a write; beyond it callers wait.
const WAITING_MAX: usize = 64;

/// What the thread is asked.
enum Ask {
    Apply(SignedChange, oneshot::Sender<Result<(), Problem>>),
    Prepare(Box<Wanted>, oneshot::Sender<Result<Change, Problem>>),
    /// Prepare, sign and apply with nothing in between.
    Sign(Box<Wanted>, Box<SecretKey>, oneshot::Sender<Result<(), Problem>>),
    /// Take what a peer has sent, as one batch.
    Receive(Vec<SignedItem>, Origin, oneshot::Sender<Result<Stored, Problem>>),
}

/// What the thread publishes, in this order: each after it is durable.
#[derive(Clone)]
struct Published {
    /// The changes by hash and by the key of their row.
    index: Arc<RwLock<Index>>,
    directory: Arc<RwLock<Directory>>,
    kernel: Arc<OnceLock<Runtime>>,
    accepted: Feed<SignedChange>,
}

/// A handle on the documents, cheap to clone.
#[derive(Clone)]
pub(crate) struct Documents {
    asks: mpsc::Sender<Ask>,
    published: Published,
    store: Store,
}

impl Documents {
    /// Reads the changes that the store holds and starts the thread. Needs a tokio runtime.
    pub(crate) fn open(mesh: PublicKey, store: Store) -> Result<(Self, std::thread::JoinHandle<()>), Problem> {
        let published = Published {
            index: Arc::default(),
            directory: Arc::default(),
            kernel: Arc::default(),
            accepted: Feed::new(),
        };
        let (asks, receiver) = mpsc::channel(WAITING_MAX);
        let owner = owner::Owner::open(mesh, store.clone(), published.clone())?;
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new()
            .name("documents".into())
            .spawn(move || owner.run(&runtime, receiver))
            .map_err(|error| Problem::new(Kind::Internal, format!("starting the documents' thread: {error}")))?;
        Ok((Self { asks, published, store }, thread))
    }

    /// From now on the kernel hears of every function and project that changes.
    pub(crate) fn connect(&self, kernel: Runtime) {
        drop(self.published.kernel.set(kernel));
    }

    /// What the documents say. Not to be held over an await.
    pub(crate) fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.published.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives all functions and projects as the kernel hears of them, whenever it is called.
    pub(crate) fn known(&self) -> impl Fn() -> Vec<Input> + Send + use<> {
        let directory = self.published.directory.clone();
        move || directory.read().unwrap_or_else(PoisonError::into_inner).inputs()
    }

    /// Takes a signed change.
    pub(crate) async fn apply(&self, change: SignedChange) -> Result<(), Problem> {
        self.ask(|answer| Ask::Apply(change, answer)).await
    }

    /// Makes a change for somebody else to sign.
    pub(crate) async fn prepare(&self, wanted: Wanted) -> Result<Change, Problem> {
        self.ask(|answer| Ask::Prepare(Box::new(wanted), answer)).await
    }

    /// Makes a change, signs it, and takes it.
    pub(crate) async fn sign(&self, wanted: Wanted, key: SecretKey) -> Result<(), Problem> {
        self.ask(|answer| Ask::Sign(Box::new(wanted), Box::new(key), answer)).await
    }

    /// Listens to what is accepted from now on: each change once, in the order of the journal. Lagging behind loses the
    /// oldest of it.
    pub(crate) fn accepted(&self) -> broadcast::Receiver<Accepted<SignedChange>> {
        self.published.accepted.listen()
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<Result<T, Problem>>) -> Ask) -> Result<T, Problem> {
        let stopping = || Problem::new(Kind::Unavailable, "the node is stopping").retry_after(1000);
        let (send, receive) = oneshot::channel();
        self.asks.send(ask(send)).await.map_err(|_| stopping())?;
        receive.await.map_err(|_| stopping())?
    }
}

impl Shared for Documents {
    const KIND: SetKind = SetKind::Changes;

    fn with_index<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        look(&self.published.index.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn read_items(&self, items: &[Held], len_max: usize) -> Result<Vec<Option<SignedItem>>, Problem> {
        read_up_to(items, len_max, |held| {
            let row = self.store.get(Table::Changes, &held.place.to_be_bytes())?;
            // A row that cannot be read was named in the log when the node started.
            let change = row.and_then(|row| codec::decode::<SignedChange>(&row).ok());
            Ok(change.map(SignedItem::from).filter(|item| item.hash() == held.item))
        })
    }

    async fn receive(&self, items: Vec<SignedItem>, origin: Origin) -> Result<Stored, Problem> {
        self.ask(|answer| Ask::Receive(items, origin, answer)).await
    }
}
