//! What the edges do. The order of effects is the order in which they may be seen.
//!
//! Invariant: an effect other than [`Effect::Write`] leaves the node only after every `Write` that came before it is
//! durable. The runtime holds it back; the kernel only has to emit in the right order.

use shoal_protocol::object::job::{Job, Receipt};
use shoal_protocol::object::worker::Worker;
use shoal_protocol::wire::worker::{Run, Start};
use shoal_protocol::{ObjectId, Problem, WorkerId};

use crate::input::RequestId;
use crate::record::Record;

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Journal this.
    Write(Record),
    /// Answer a request.
    Reply {
        /// The request.
        request: RequestId,
        /// The answer.
        reply: Result<Reply, Problem>,
    },
    /// Welcome a worker that has attached.
    Attached {
        /// Which.
        worker: WorkerId,
        /// Its connection.
        connection: u64,
        /// Length of its leases, in milliseconds.
        lease_ms: u64,
        /// Runs that it holds and that no longer count.
        drop: Vec<Run>,
    },
    /// Hand a run to a worker.
    Start {
        /// Which.
        worker: WorkerId,
        /// What.
        start: Box<Start>,
    },
    /// Stop a run.
    Cancel {
        /// Where.
        worker: WorkerId,
        /// Which.
        run: Run,
    },
    /// Tell a worker to forget a run: its ending is durable, or counts for nothing.
    Settled {
        /// Where.
        worker: WorkerId,
        /// Which.
        run: Run,
    },
    /// Close a worker's connection.
    Detach {
        /// Which.
        worker: WorkerId,
        /// Why.
        problem: Problem,
    },
    /// Something about this job changed: wake who waits for it or follows it.
    Changed {
        /// Which.
        job: ObjectId,
        /// Whether it is settled now.
        settled: bool,
    },
    /// Hand in [`crate::Input::Tick`] at this time, or earlier. A later one replaces it.
    Wake {
        /// By [`crate::Now::mono_ms`].
        at_ms: u64,
    },
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// One for each job of a submission, in its order.
    Receipts(Vec<Receipt>),
    /// A job in memory; none: it is settled or unknown, look into the store.
    Job(Option<Box<Job>>),
    /// Those of the asked jobs that are in memory.
    Jobs(Vec<Job>),
    /// The workers, by id.
    Workers(Vec<Worker>),
    /// One worker.
    Worker(Box<Worker>),
    /// It is done.
    Done,
    /// The load.
    Load(Load),
}

/// What waits and runs at this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Jobs that wait.
    pub waiting: u64,
    /// Jobs at a worker.
    pub running: u64,
    /// Attached workers.
    pub workers: u32,
    /// Slots of all attached workers.
    pub slots: u32,
}
