//! `shoal-worker/1`: a worker and its node.
//!
//! The worker opens the connection and on it the control stream, whose first frame is [`FromWorker::Attach`]. The node
//! answers [`ToWorker::Attached`] or [`ToWorker::Refused`]. Then both send when they have something to say. Every blob
//! is a bidirectional stream of its own, opened by the worker with a [`BlobRequest`].
//!
//! A worker keeps each ending that it reported until the node acknowledges it ([`ToWorker::Settled`]), and reports it
//! again on every attachment: a node that was restarted loses no result.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::id::{BlobId, NodeId, ObjectId, WorkerId};
use crate::key::PublicKey;
use crate::object::function::{Grant, RunLimits};
use crate::object::job::{Outcome, Payload, Progress};
use crate::object::kv::{Entry, Increment, Key, ListKeys, Put, Scope};
use crate::object::worker::Offer;
use crate::wire::client::Reply;
use crate::{Octets, Problem, Traceparent};

/// The ALPN.
pub const ALPN: &[u8] = b"shoal-worker/1";

/// Which run of which job. Messages of another epoch than the current one count for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Run {
    /// The job.
    pub job: ObjectId,
    /// The epoch.
    pub epoch: u64,
}

/// What a worker says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FromWorker {
    /// The first message.
    Attach(Attach),
    /// It still lives; every run that it holds. Renews the leases of these runs.
    Heartbeat {
        /// Runs that are under way or whose ending is not yet acknowledged.
        runs: Vec<Run>,
    },
    /// The guest of this run has started.
    Started(Run),
    /// How far the guest says it is.
    Progress(Run, Progress),
    /// More of the log, from `offset` on. Bytes that the node already has are ignored.
    Log {
        /// Whose.
        run: Run,
        /// Where in the log these bytes stand.
        offset: u64,
        /// The bytes.
        bytes: Octets,
    },
    /// The run has ended. Repeated until acknowledged.
    Ended(Run, Box<Outcome>),
    /// The worker could not take this run: the node offers it elsewhere, no attempt is counted.
    Declined(Run, Problem),
    /// The guest asks for something that the node has.
    Ask {
        /// Chosen by the worker; the answer carries it back.
        call: u64,
        /// On whose behalf.
        run: Run,
        /// What.
        ask: Ask,
    },
    /// It takes no new runs and leaves when those that it has are acknowledged.
    Leaving,
}

/// Who a worker is and what it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attach {
    /// Its name.
    pub name: String,
    /// Its key: the same as long as its process lives, at least. Proven by the TLS client certificate.
    pub key: PublicKey,
    /// Drawn when the process started: another number is another process, which has lost all runs of the former.
    pub incarnation: u64,
    /// The process id, for the node's own worker.
    pub pid: u32,
    /// How it may attach.
    pub credential: Credential,
    /// What it offers.
    pub offer: Offer,
    /// Runs that it holds, under way or ended and not yet acknowledged.
    pub runs: Vec<Run>,
}

/// How a worker may attach.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Credential {
    /// The node's own worker: its key stands in the node's data folder.
    Local,
    /// A worker ticket, as `shoal worker` takes it.
    Ticket(String),
}

/// What a node says to a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ToWorker {
    /// Welcome.
    Attached {
        /// The node.
        node: NodeId,
        /// The worker's id.
        worker: WorkerId,
        /// Length of a lease in milliseconds; the worker sends a heartbeat every third of it.
        lease_ms: u64,
        /// Of the runs that the worker said it holds: those that no longer count. It drops them.
        drop: Vec<Run>,
    },
    /// Not welcome. The node closes the connection.
    Refused(Problem),
    /// Run this.
    Start(Box<Start>),
    /// Stop this run and report [`crate::object::job::Ending::Cancelled`].
    Cancel(Run),
    /// The ending of this run is durable, or counts for nothing: forget it.
    Settled(Run),
    /// The answer to [`FromWorker::Ask`].
    Answer {
        /// The call.
        call: u64,
        /// The answer.
        answer: Reply<Answer>,
    },
    /// Take no new runs, end when those that you have are acknowledged, or at once if `now`.
    Stop {
        /// Interrupts what runs.
        now: bool,
    },
}

/// A run, with all that it needs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// Which.
    pub run: Run,
    /// 1 for the job's first run.
    pub attempt: u32,
    /// The component.
    pub component: BlobId,
    /// The function's name: the guest's first argument.
    pub name: String,
    /// More arguments.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The input.
    pub input: Payload,
    /// Memory of the guest, in MiB.
    pub memory_mb: u32,
    /// How far it may go.
    pub limits: RunLimits,
    /// What it may do.
    pub grants: Vec<Grant>,
    /// What an earlier run of the job has saved last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Payload>,
    /// The job's trace id.
    pub trace: String,
    /// The place in the submitter's trace. The guest finds it in its environment variable `TRACEPARENT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Traceparent>,
}

/// Whose namespace a guest's KV call means.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Namespace {
    /// The function's own.
    Function,
    /// The function's project's.
    Project,
    /// The function's owner's.
    User,
}

/// What a guest asks of the node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// KV. The node checks the grant and the right.
    Kv {
        /// Whose.
        namespace: Namespace,
        /// How far.
        scope: Scope,
        /// What.
        operation: KvOperation,
    },
    /// Save this for the next run of the job, in the place of what was saved before. Answered when it is durable: at the
    /// job's home, or at the node of the run while the home is out of its reach.
    Checkpoint {
        /// Counts those of this run, from 1 on: one that is late never replaces a later one.
        number: u64,
        /// What, up to [`crate::limits::CHECKPOINT_LEN_MAX`]; a blob is at the node already.
        bytes: Payload,
    },
}

/// A KV operation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KvOperation {
    /// Reads a key.
    Get(Key),
    /// Writes a key.
    Set(Put),
    /// Writes a key if it has the given version. Local only.
    Cas(Put),
    /// Removes a key. The answer is the entry that was there.
    Delete(Key),
    /// Removes a key if it has the given version. Local only.
    CasDelete {
        /// The key.
        key: String,
        /// The version that must stand there.
        version: u64,
    },
    /// Lists keys.
    List(ListKeys),
    /// Adds to a counter.
    Incr(Increment),
}

/// What a node answers a guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// The entry that was read or written; none: there is none.
    Entry(Option<Entry>),
    /// The entries of a list.
    Entries(Vec<Entry>),
    /// The checkpoint is durable.
    Saved,
}

/// The first frame of a blob stream, from worker to node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BlobRequest {
    /// Reads. The node answers `Reply<BlobOpened>`, then the raw bytes. The run must be allowed to read it:
    /// its component, its input, or anything if it has the grant.
    Get {
        /// For which run.
        run: Run,
        /// Which blob.
        id: BlobId,
        /// The first byte.
        offset: u64,
        /// How many bytes at most; none: up to the end.
        len: Option<u64>,
    },
    /// Writes: raw bytes up to the end of the stream. The node answers `Reply<BlobStored>` once it is durable. It is held until the
    /// run has ended.
    Put {
        /// For which run.
        run: Run,
    },
}
