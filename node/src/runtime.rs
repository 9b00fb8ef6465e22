//! The kernel's thread: inputs in, effects out, nothing seen before it is durable.
//!
//! One thread owns the kernel. It takes the inputs that wait, hands each to the kernel, sends the records to the store
//! as one commit, and releases the other effects when that commit is durable. While a commit is on its way to the disk
//! the next inputs are already handled: the store's writer makes one frame of all commits that wait.
//!
//! A disk error is handled as a crash of the kernel: what was not durable is answered with a problem, every worker is
//! disconnected, and once the store writes again the kernel is restored from what is durable.

mod clearing;
mod driver;
mod feed;
mod outbox;
mod posts;
mod rows;
mod watch;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use shoal_kernel::{Command, Input, Now, Principal, Reply, WorkerAttached};
use shoal_protocol::id::IdSource;
use shoal_protocol::object::function::Needs;
use shoal_protocol::wire::peer::{UseTally, WorkerHint};
use shoal_protocol::wire::worker::ToWorker;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem};
use tokio::sync::{mpsc, oneshot, watch as latest};

use crate::logs::LogBook;
use crate::metrics::Metrics;
use crate::store::Store;

pub(crate) use feed::Feed;
pub(crate) use outbox::ToPeer;
pub(crate) use rows::{
    CHECKPOINT_PLACE, KeptJob, Place as SettledPlace, REFERENCE_PLACE, Referrer, ReferrerKind, begun_before,
    charges_before, current_runs, job_counts, job_of_short, jobs_before, read_acting, read_called, read_charge,
    read_checkpoint, read_custodians, read_drain, read_guest, read_guest_checkpoint, read_guest_end, read_job,
    read_right, reference_key, reference_prefix, settled_behind, short_prefix,
};
pub(crate) use watch::Watch;

/// Inputs that may wait for the kernel. Why 4,096: as many as the store takes; beyond it edges wait.
const INPUTS_WAITING_MAX: usize = 4096;
/// Wishes that may wait for the mesh. Why 64: each is repeated while it lasts.
const WISHES_WAITING_MAX: usize = 64;
/// Calls that may wait for the edge that makes them. Why 128: the kernel has 32 under way at once.
const CALLS_WAITING_MAX: usize = 128;

/// What the driver is handed.
enum Message {
    Request(Principal, Command, oneshot::Sender<Result<Reply, Problem>>),
    Input(Input),
    Attach(Box<WorkerAttached>, mpsc::Sender<ToWorker>),
    Connect(NodeId, u64, mpsc::Sender<ToPeer>),
    Stop(oneshot::Sender<()>),
}

/// What the kernel wants of the mesh.
#[derive(Debug)]
pub(crate) enum Wish {
    /// Find nodes that have this.
    Seek(Needs),
    /// Connect to this node.
    Reach(NodeId),
}

/// What this node could run for others, as its hints say it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct OwnHint {
    /// Its workers, the freest first.
    pub(crate) workers: Vec<WorkerHint>,
    /// Jobs that wait here.
    pub(crate) waiting: u64,
    /// What projects have used here.
    pub(crate) tallies: Vec<UseTally>,
}

/// Gives the functions and projects that are known now, whenever a kernel is restored.
pub(crate) type Known = Box<dyn Fn() -> Vec<Input> + Send>;

/// A handle on the kernel's thread, cheap to clone.
#[derive(Clone)]
pub(crate) struct Runtime {
    inputs: mpsc::Sender<Message>,
    shared: Arc<Shared>,
}

/// A kernel's thread that has been started.
pub(crate) struct Started {
    /// The handle.
    pub(crate) runtime: Runtime,
    /// Ends when the kernel was stopped.
    pub(crate) thread: std::thread::JoinHandle<()>,
    /// What the kernel wants of the mesh.
    pub(crate) wishes: mpsc::Receiver<Wish>,
    /// Whose URLs are to be called, and for the how manyeth time.
    pub(crate) calls: mpsc::Receiver<(ObjectId, u32)>,
}

struct Shared {
    ids: Mutex<IdSource>,
    connections: AtomicU64,
    watchers: watch::Watchers,
    feed: Feed,
    store: Store,
    logs: Arc<LogBook>,
    wishes: mpsc::Sender<Wish>,
    calls: mpsc::Sender<(ObjectId, u32)>,
    hint: latest::Sender<OwnHint>,
    homes_kept: latest::Sender<BTreeSet<NodeId>>,
}

impl Runtime {
    /// Restores the kernel from the store and starts its thread.
    pub(crate) fn start(
        config: shoal_kernel::Config,
        store: Store,
        known: Known,
        metrics: Arc<Metrics>,
        logs: Arc<LogBook>,
    ) -> Result<Started, Problem> {
        let newest = rows::newest(&store)?;
        let (wishes, wanted) = mpsc::channel(WISHES_WAITING_MAX);
        let (calls, to_call) = mpsc::channel(CALLS_WAITING_MAX);
        let shared = Arc::new(Shared {
            ids: Mutex::new(IdSource::new(&config.node.into(), newest)),
            connections: AtomicU64::new(1),
            watchers: watch::Watchers::default(),
            feed: Feed::new(now().wall_ms),
            store: store.clone(),
            logs,
            wishes,
            calls,
            hint: latest::Sender::default(),
            homes_kept: latest::Sender::default(),
        });
        let (inputs, receiver) = mpsc::channel(INPUTS_WAITING_MAX);
        let driver = driver::Driver::new(config, store, known, metrics, shared.clone())?;
        let thread = std::thread::Builder::new()
            .name("kernel".into())
            .spawn(move || driver.run(receiver))
            .map_err(|error| Problem::new(Kind::Internal, format!("starting the kernel's thread: {error}")))?;
        Ok(Started { runtime: Self { inputs, shared }, thread, wishes: wanted, calls: to_call })
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

    /// Waits until what follows from the inputs so far is durable.
    pub(crate) async fn flush(&self) {
        let nobody = Principal { user: None, operator: false };
        drop(self.request(nobody, Command::Load).await);
    }

    /// A worker has attached; what the kernel says to it comes through `outbox`, in order and already durable. The
    /// outbox is dropped when the connection shall be closed.
    pub(crate) async fn attach(&self, attached: WorkerAttached, outbox: mpsc::Sender<ToWorker>) {
        drop(self.inputs.send(Message::Attach(Box::new(attached), outbox)).await);
    }

    /// A connection to a peer stands; what the kernel says to it comes through `outbox`, which is dropped when the
    /// connection shall be closed.
    pub(crate) async fn connect(&self, peer: NodeId, connection: u64, outbox: mpsc::Sender<ToPeer>) {
        drop(self.inputs.send(Message::Connect(peer, connection, outbox)).await);
    }

    /// What this node could run for others, whenever it changes while there are peers.
    pub(crate) fn hint(&self) -> latest::Receiver<OwnHint> {
        self.shared.hint.subscribe()
    }

    /// The homes of which jobs are kept here, whenever that changes.
    pub(crate) fn homes_kept(&self) -> latest::Receiver<BTreeSet<NodeId>> {
        self.shared.homes_kept.subscribe()
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

    /// A new id for an array whose highest index is this: its elements' ids are set aside.
    pub(crate) fn mint_array(&self, last_index: u32) -> ObjectId {
        let mut ids = self.shared.ids.lock().unwrap_or_else(PoisonError::into_inner);
        ids.mint_array(now().wall_ms, last_index)
    }

    /// Watches a job or a KV namespace: it must be made before the job's state is looked at, so that no change falls in between.
    pub(crate) fn watch(&self, job: ObjectId) -> Watch<'_> {
        self.shared.watchers.watch(job)
    }

    /// Tells those who watch this id, of a job or of a KV namespace, that something has changed and is durable.
    pub(crate) fn changed(&self, id: ObjectId) {
        self.shared.watchers.changed(id);
    }

    /// What has changed of jobs, for those who subscribe.
    pub(crate) fn feed(&self) -> &Feed {
        &self.shared.feed
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
    // In this order: a thread that is stopped in between makes what is due at a time of the wall clock late, not early.
    let wall = rustix::time::clock_gettime(rustix::time::ClockId::Realtime);
    let boot = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let millis = |t: rustix::time::Timespec| {
        u64::try_from(t.tv_sec).unwrap_or(0) * 1000 + u64::try_from(t.tv_nsec).unwrap_or(0) / 1_000_000
    };
    Now { mono_ms: millis(boot), wall_ms: millis(wall) }
}
