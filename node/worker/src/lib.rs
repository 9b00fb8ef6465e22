//! The worker process: runs components under wasmtime for one node.
//!
//! [`run`] is the process: it attaches to its node over QUIC, takes runs, and says how they ended. [`component`] is what
//! the node itself needs to know of WebAssembly when a function is deployed. No type of wasmtime leaves this package.
//!
//! ```text
//! session ── one task: the connection, the runs it holds ([session::book]), what it says to the node
//!    │ launches, interrupts
//! run ────── one task each, on their own threads: component, guest, deadline, outcome
//!    ├ cache, engine ── components ready to run
//!    ├ host ─────────── what the guest sees: WASI and shoal:function
//!    └ node ─────────── blobs and calls, across connections
//! ```
//!
//! What always holds: a run ends in one outcome, which is kept until the node acknowledges it; a guest holds no more
//! memory, log and output than its limits say; compiled code is loaded only if this machine made it.

pub mod bare;
pub mod component;

mod cache;
mod engine;
mod host;
mod live;
mod local;
mod node;
mod run;
mod session;

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::Problem;
use shoal_protocol::key::SecretKey;
use shoal_protocol::object::worker::Offer;
use shoal_protocol::wire::worker::Credential;
use shoal_transport::NodeAddr;

pub use local::LocalFiles;

/// How long a local worker without a node and without runs stays, unless said otherwise: 10 minutes.
pub const ORPHAN_MS_DEFAULT: u64 = 600_000;
/// How long runs may go on once the worker was told to stop, unless said otherwise: 30 seconds.
pub const DRAIN_MS_DEFAULT: u64 = 30_000;
/// Compiled code on disk, in bytes, unless said otherwise: 2 GiB, some hundred functions.
pub const CACHE_LEN_DEFAULT: u64 = 2 * 1024 * 1024 * 1024;
/// Runs at once that a worker can offer. Why 256: each reserves tens of GiB of address space, of which there are 128 TiB.
pub const SLOTS_MAX: u32 = 256;

/// A worker, as it is to be.
#[derive(Debug, Clone)]
pub struct Config {
    /// Its name.
    pub name: String,
    /// What it offers; `slots` from 1 to [`SLOTS_MAX`].
    pub offer: Offer,
    /// The folder for compiled code. Several workers of one user may share it.
    pub cache: PathBuf,
    /// How much compiled code may be kept there, in bytes.
    pub cache_len_max: u64,
    /// Which node, and how.
    pub attachment: Attachment,
    /// How long a local worker without a node and without runs stays, in milliseconds.
    pub orphan_ms: u64,
    /// How long runs may go on once the worker was told to stop, in milliseconds.
    pub drain_ms: u64,
}

/// Which node a worker attaches to.
#[derive(Debug, Clone)]
pub enum Attachment {
    /// The node whose data folder holds these files.
    Local(LocalFiles),
    /// The node at this address, with a ticket of it.
    Ticket {
        /// Where, and who it must be.
        node: NodeAddr,
        /// What lets the worker in.
        ticket: String,
    },
}

/// Why a worker has ended properly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It was told to, by its node or by whoever started it.
    Left,
    /// It was alone for too long.
    Orphaned,
}

/// Why a worker does not start or cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting is out of bounds.
    #[error("{0}")]
    Config(String),
    /// The files of the node's own worker.
    #[error(transparent)]
    Local(#[from] local::Error),
    /// wasmtime.
    #[error(transparent)]
    Engine(#[from] engine::Error),
    /// The runtime for guests.
    #[error("no threads for guests: {0}")]
    Threads(#[source] std::io::Error),
    /// The system gives no random numbers.
    #[error("no random numbers: {0}")]
    Random(String),
    /// The node does not want this worker.
    #[error("the node refuses this worker: {0}")]
    Refused(Problem),
}

/// Runs a worker until `stop` completes and its runs have ended, its node tells it to leave, or it is alone for too long.
///
/// To be called within a multi-threaded tokio runtime of a thread or two, since guests have threads of their own.
pub async fn run(config: Config, stop: impl Future<Output = ()>) -> Result<Exit, Error> {
    let slots = config.offer.slots;
    if !(1..=SLOTS_MAX).contains(&slots) {
        return Err(Error::Config(format!("slots is {slots}; it goes from 1 to {SLOTS_MAX}")));
    }
    let mut lock = None;
    let (key, credential, target, orphan) = match config.attachment {
        Attachment::Local(files) => {
            lock = Some(local::Lock::take(&files.lock)?);
            let orphan = Duration::from_millis(config.orphan_ms);
            (local::key(&files.key)?, Credential::Local, session::Target::File(files), Some(orphan))
        }
        Attachment::Ticket { node, ticket } => {
            let key = SecretKey::from_bytes(random()?);
            (key, Credential::Ticket(ticket), session::Target::Fixed(node), None)
        }
    };
    let identity = Identity {
        name: config.name,
        key,
        incarnation: u64::from_be_bytes(random()?),
        credential,
        offer: config.offer,
        orphan,
        drain: Duration::from_millis(config.drain_ms),
    };
    let engine = Arc::new(engine::Engine::new(slots)?);
    let cache = cache::Cache::open(Arc::clone(&engine), &config.cache, config.cache_len_max)
        .map_err(|error| Error::Config(error.to_string()))?;
    let shop = Arc::new(run::Shop { engine, cache });
    let guests = Guests::new(slots).map_err(Error::Threads)?;
    let left = session::run(identity, shop, guests.handle.clone(), target, stop).await;
    drop(guests);
    drop(lock);
    left
}

/// The threads of guests, one for each slot.
struct Guests {
    handle: tokio::runtime::Handle,
    runtime: Option<tokio::runtime::Runtime>,
}

impl Guests {
    fn new(slots: u32) -> std::io::Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(usize::try_from(slots).unwrap_or(1)).thread_name("guest").enable_all();
        builder.build().map(|runtime| Self { handle: runtime.handle().clone(), runtime: Some(runtime) })
    }
}

impl Drop for Guests {
    fn drop(&mut self) {
        // A runtime must not be waited for by a task of another one.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Who the worker is, for as long as its process lives.
pub(crate) struct Identity {
    name: String,
    key: SecretKey,
    incarnation: u64,
    credential: Credential,
    offer: Offer,
    orphan: Option<Duration>,
    drain: Duration,
}

fn random<const N: usize>() -> Result<[u8; N], Error> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).map_err(|error| Error::Random(error.to_string()))?;
    Ok(bytes)
}

#[cfg(test)]
mod tests;
