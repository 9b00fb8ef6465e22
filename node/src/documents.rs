//! Users, projects and functions as this node holds them.
//!
//! One thread owns the [`shoal_crdt::Replica`]; it checks each signed change, makes it durable, and only then publishes what the
//! document says now: to the [`Directory`], from which everybody reads, and to the kernel. The signed changes are the
//! truth; replica and directory are rebuilt from them.

mod directory;
mod owner;

use std::sync::{Arc, OnceLock, PoisonError, RwLock, RwLockReadGuard};

use shoal_crdt::Wanted;
use shoal_kernel::Input;
use shoal_protocol::change::{Change, SignedChange};
use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::{Kind, Problem};
use tokio::sync::{mpsc, oneshot};

use crate::runtime::Runtime;
use crate::store::Store;

pub(crate) use directory::Directory;

/// Changes that may wait. Why 64: each costs the thread a signature check and a write; beyond it callers wait.
const WAITING_MAX: usize = 64;

/// What the thread is asked.
enum Ask {
    Apply(SignedChange, oneshot::Sender<Result<(), Problem>>),
    Prepare(Box<Wanted>, oneshot::Sender<Result<Change, Problem>>),
    /// Prepare, sign and apply with nothing in between.
    Sign(Box<Wanted>, Box<SecretKey>, oneshot::Sender<Result<(), Problem>>),
}

/// A handle on the documents, cheap to clone.
#[derive(Clone)]
pub(crate) struct Documents {
    asks: mpsc::Sender<Ask>,
    directory: Arc<RwLock<Directory>>,
    kernel: Arc<OnceLock<Runtime>>,
}

impl Documents {
    /// Reads the changes that the store holds and starts the thread. Needs a tokio runtime.
    pub(crate) fn open(mesh: PublicKey, store: Store) -> Result<(Self, std::thread::JoinHandle<()>), Problem> {
        let directory = Arc::new(RwLock::new(Directory::default()));
        let kernel = Arc::new(OnceLock::new());
        let (asks, receiver) = mpsc::channel(WAITING_MAX);
        let owner = owner::Owner::open(mesh, store, directory.clone(), kernel.clone())?;
        let runtime = tokio::runtime::Handle::current();
        let thread = std::thread::Builder::new()
            .name("documents".into())
            .spawn(move || owner.run(&runtime, receiver))
            .map_err(|error| Problem::new(Kind::Internal, format!("starting the documents' thread: {error}")))?;
        Ok((Self { asks, directory, kernel }, thread))
    }

    /// From now on the kernel hears of every function and project that changes.
    pub(crate) fn connect(&self, kernel: Runtime) {
        drop(self.kernel.set(kernel));
    }

    /// What the documents say. Not to be held over an await.
    pub(crate) fn directory(&self) -> RwLockReadGuard<'_, Directory> {
        self.directory.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives all functions and projects as the kernel hears of them, whenever it is called.
    pub(crate) fn known(&self) -> impl Fn() -> Vec<Input> + Send + use<> {
        let directory = self.directory.clone();
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

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<Result<T, Problem>>) -> Ask) -> Result<T, Problem> {
        let stopping = || Problem::new(Kind::Unavailable, "the node is stopping").retry_after(1000);
        let (send, receive) = oneshot::channel();
        self.asks.send(ask(send)).await.map_err(|_| stopping())?;
        receive.await.map_err(|_| stopping())?
    }
}
