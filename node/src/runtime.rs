//! The kernel's thread: inputs in, effects out, nothing seen before it is durable.
//!
//! One thread owns the kernel. It takes the inputs that wait, hands each to the kernel, sends the records to the store
//! as one commit, and releases the other effects when that commit is durable. While a commit is on its way to the disk
//! the next inputs are already handled: the store's writer makes one frame of all commits that wait.
//!
//! A disk error is handled as a crash of the kernel: what was not durable is answered with a problem, every worker is
//! disconnected, and once the store writes again the kernel is restored from what is durable.

mod driver;
mod outbox;
mod rows;
mod watch;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shoal_kernel::{Command, Input, Now, Principal, Reply, WorkerAttached};
use shoal_protocol::id::IdSource;
use shoal_protocol::wire::worker::ToWorker;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem};
use tokio::sync::{mpsc, oneshot};

use crate::logs::LogBook;
use crate::metrics::Metrics;
use crate::store::{Store, Table};

pub(crate) use rows::{Referrer, current_runs, job_counts, job_of_short, read_job, reference_key};
pub(crate) use watch::Watch;

/// Inputs that may wait for the kernel. Why 4,096: as many as the store takes; beyond it edges wait.
const INPUTS_WAITING_MAX: usize = 4096;

/// What the driver is handed.
enum Message {
    Request(Principal, Command, oneshot::Sender<Result<Reply, Problem>>),
    Input(Input),
    Attach(Box<WorkerAttached>, mpsc::Sender<ToWorker>),
    Stop(oneshot::Sender<()>),
}

/// Gives the functions and projects that are known now, whenever a kernel is restored.
pub(crate) type Known = Box<dyn Fn() -> Vec<Input> + Send>;

/// A handle on the kernel's thread, cheap to clone.
#[derive(Clone)]
pub(crate) struct Runtime {
    inputs: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

struct Shared {
    ids: Mutex<IdSource>,
    connections: AtomicU64,
    watchers: watch::Watchers,
    store: Store,
    logs: Arc<LogBook>,
}

impl Runtime {
    /// Restores the kernel from the store and starts its thread.
    pub(crate) fn start(
        node: NodeId,
        store: Store,
        known: Known,
        metrics: Arc<Metrics>,
        logs: Arc<LogBook>,
    ) -> Result<(Self, std::thread::JoinHandle<()>), Problem> {
        let newest = store.scan(Table::Jobs, (std::ops::Bound::Unbounded, std::ops::Bound::Unbounded), true, 1)?;
        let newest = newest.first().and_then(|(key, _)| rows::object_id(key));
        let shared = Arc::new(Shared {
            ids: Mutex::new(IdSource::new(&node.into(), newest)),
            connections: AtomicU64::new(1),
            watchers: watch::Watchers::default(),
            store: store.clone(),
            logs,
        });
        let (inputs, receiver) = mpsc::channel(INPUTS_WAITING_MAX);
        let driver = driver::Driver::new(node, store, known, metrics, shared.clone())?;
        let thread = std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || driver.run(receiver))
            .map_err(|error| Problem::new(Kind::Internal, format!("starting the kernel's thread: {error}")))?;
        Ok((Self { inputs, shared }, thread))
    }

    /// Asks the kernel; the answer comes when all that it rests on is durable.
    pub(crate) async fn request(&self, principal: Principal, command: Command) -> Result<Reply, Problem> {
        let (send, receive) = oneshot::channel();
        let sent = self.inputs.send(Message::Request(principal, command, send)).await;
        sent.map_err(|_| stopping())?;
        receive.await.map_err(|_| stopping())?
    }

    /// Tells the kernel what has happened; waits while it is behind.
    pub(crate) async fn input(&self, input: Input) {
        // A kernel that has stopped needs to be told nothing.
        drop(self.inputs.send(Message::Input(input)).await);
    }

    /// A worker has attached; what the kernel says to it comes through `outbox`, in order and already durable. The
    /// outbox is dropped when the connection shall be closed.
    pub(crate) async fn attach(&self, attached: WorkerAttached, outbox: mpsc::Sender<ToWorker>) {
        drop(self.inputs.send(Message::Attach(Box::new(attached), outbox)).await);
    }

    /// A number that no other connection of this process has.
    pub(crate) fn connection_number(&self) -> u64 {
        self.shared.connections.fetch_add(1, Ordering::Relaxed)
    }

    /// A new id, tagged with this node's key.
    pub(crate) fn mint(&self) -> ObjectId {
        let mut ids = self.shared.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.mint(now().wall_ms)
    }

    /// Watches a job or a KV namespace: it must be made before the job's state is looked at, so that no change falls in between.
    pub(crate) fn watch(&self, job: ObjectId) -> Watch<'_> {
        self.shared.watchers.watch(job)
    }

    /// Tells those who watch this id, of a job or of a KV namespace, that something has changed and is durable.
    pub(crate) fn changed(&self, id: ObjectId) {
        self.shared.watchers.changed(id);
    }

    /// The store below.
    pub(crate) fn store(&self) -> &Store {
        &self.shared.store
    }

    /// Ends the kernel's thread. What it has decided becomes durable; what comes after is answered with a problem.
    pub(crate) async fn stop(&self) {
        let (send, receive) = oneshot::channel();
        if self.inputs.send(Message::Stop(send)).await.is_ok() {
            drop(receive.await);
        }
    }
}

fn stopping() -> Problem {
    Problem::new(Kind::Unavailable, "the node is stopping: try again when it is back, or at another node")
        .retry_after(1000)
}

/// The time now. The deciding clock is the one that runs through sleep.
pub(crate) fn now() -> Now {
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let millis = |t: rustix::time::Timespec| {
        u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000
    };
    Now { mono_ms: millis(boot), wall_ms: millis(wall) }
}
