//! Jobs as their readers see them: where each stands and why, what it was accepted with, what came out.

mod array;
mod checkpoint;
mod dependency;
mod event;
mod history;
mod key;
mod log;
mod merged;
mod notify;
mod run;
mod submit;
mod terms;

pub use array::{Array, Elements};
pub use checkpoint::{Checkpoint, Saved, check_len as check_checkpoint_len};
pub use dependency::{After, When, check_after};
pub use event::{AwaitEvents, Event, EventId, Events, Subscription, Told};
pub use history::{Refusal, RefusalCode, Refusals};
pub use key::{IdempotencyKey, KeyId, check_key};
pub use log::{LogPart, LogPlace};
pub use merged::Superseded;
pub use notify::{CallState, Called, NOTIFY_URL_LEN_MAX, Notify, NotifyOn};
pub use run::{Attempt, Ending, Failure, FailureCode, Outcome, Progress, Usage};
pub use submit::{Accepted, Input, Receipt, Submission, Submit};
pub(crate) use terms::is_zero;
pub use terms::{Effects, OnDisconnect, Retry, RetryOn, Terms, check_priority};

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::function::{Needs, RunLimits};
use crate::id::{BlobId, NodeId, ObjectId, WorkerId};
use crate::limits::{INLINE_LEN_MAX, WAIT_MS_MAX};
use crate::name::Labels;
use crate::{Octets, Traceparent};

/// Bytes that belong to a job: inside its record, or a blob. Either way they have a hash and a length.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Payload {
    /// Up to 16 KiB, in the record.
    Inline(Octets),
    /// Longer.
    Blob {
        /// The hash.
        id: BlobId,
        /// Length in bytes.
        size: u64,
    },
}

impl Payload {
    /// No bytes.
    pub fn empty() -> Self {
        Self::Inline(Octets::default())
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        match self {
            Self::Inline(bytes) => bytes.len() as u64,
            Self::Blob { size, .. } => *size,
        }
    }

    /// The hash.
    pub fn id(&self) -> BlobId {
        match self {
            Self::Inline(bytes) => BlobId::of(bytes),
            Self::Blob { id, .. } => *id,
        }
    }

    /// The blob, where it is one.
    pub fn blob(&self) -> Option<BlobId> {
        match self {
            Self::Inline(_) => None,
            Self::Blob { id, .. } => Some(*id),
        }
    }

    /// Whether it may stand in a record.
    pub fn within_bounds(&self) -> bool {
        !matches!(self, Self::Inline(bytes) if bytes.len() > INLINE_LEN_MAX)
    }
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Waits for somebody to release it.
    Held,
    /// Waits for other jobs.
    Blocked,
    /// Waits for a place to run.
    Queued,
    /// Handed to a worker that has not yet said it runs.
    Offered,
    /// Runs.
    Running,
    /// Ended with a result.
    Succeeded,
    /// Ended without one.
    Failed,
    /// Somebody ended it.
    Cancelled,
    /// Ran longer than it may.
    TimedOut,
    /// Waited longer than it may.
    Expired,
}

impl State {
    /// Every state.
    pub const ALL: [Self; 10] = [
        Self::Held,
        Self::Blocked,
        Self::Queued,
        Self::Offered,
        Self::Running,
        Self::Succeeded,
        Self::Failed,
        Self::Cancelled,
        Self::TimedOut,
        Self::Expired,
    ];

    /// Whether nothing will change it any more.
    pub const fn is_settled(self) -> bool {
        matches!(self, Self::Succeeded | Self::Failed | Self::Cancelled | Self::TimedOut | Self::Expired)
    }

    /// Whether it has failed for good: a dead letter of its project.
    pub const fn is_dead(self) -> bool {
        matches!(self, Self::Failed | Self::TimedOut | Self::Expired)
    }

    /// As it stands in JSON.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::Blocked => "blocked",
            Self::Queued => "queued",
            Self::Offered => "offered",
            Self::Running => "running",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
            Self::Cancelled => "cancelled",
            Self::TimedOut => "timed_out",
            Self::Expired => "expired",
        }
    }
}

/// Why a job does not run, for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReasonCode {
    /// It waits for somebody to release it.
    Held,
    /// Its time has not come.
    NotBefore,
    /// Jobs that it waits for have not ended.
    Dependency,
    /// The nodes that are to keep it have not said that they do.
    Keeping,
    /// Its effects are `once`, and fewer than a majority of the nodes that keep it have let it begin, or end.
    NoMajority,
    /// A custodian has gone on with it while its home was away, and does until it ends.
    Yielded,
    /// Its home is away, and no custodian goes on with it: none has yet, or it is left to its home.
    HomeAway,
    /// No worker is attached.
    NoWorker,
    /// Workers are attached, none of them fits.
    NoFit,
    /// Workers that fit have no free slot or memory.
    Busy,
    /// Others are before it.
    Behind,
    /// As many jobs of its project, or of its user, are under way as may be at this node.
    QuotaRunning,
    /// It failed and is tried again after a pause.
    Backoff,
    /// The worker that runs it is out of reach; its lease has not ended.
    WorkerUnreachable,
    /// The worker that runs it is out of reach, and the job waits for it as it was submitted to do.
    Disconnected,
    /// An equal job is under way, whose result will be this one's.
    Memo,
    /// The node has just started and waits for the worker that may still run it.
    Recovering,
    /// A worker has it and has not yet said that it runs.
    Starting,
    /// An array: as many of its elements as may be under way at once are, or all that are left.
    Elements,
    /// Its function is unknown here or was deleted.
    FunctionGone,
    /// The worker does not take new jobs.
    Cordoned,
    /// The node hands nothing over: it stops, or cannot write to its disk.
    NodeClosed,
}

impl ReasonCode {
    /// As it stands in JSON.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::NotBefore => "not_before",
            Self::Dependency => "dependency",
            Self::Keeping => "keeping",
            Self::NoMajority => "no_majority",
            Self::Yielded => "yielded",
            Self::HomeAway => "home_away",
            Self::NoWorker => "no_worker",
            Self::NoFit => "no_fit",
            Self::Busy => "busy",
            Self::Behind => "behind",
            Self::QuotaRunning => "quota_running",
            Self::Backoff => "backoff",
            Self::WorkerUnreachable => "worker_unreachable",
            Self::Disconnected => "disconnected",
            Self::Memo => "memo",
            Self::Recovering => "recovering",
            Self::Starting => "starting",
            Self::FunctionGone => "function_gone",
            Self::Elements => "elements",
            Self::Cordoned => "cordoned",
            Self::NodeClosed => "node_closed",
        }
    }
}

/// Why a job does not run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Reason {
    /// For machines.
    pub code: ReasonCode,
    /// For people.
    pub message: String,
    /// The same for each worker and peer that could have been chosen; at most 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub candidates: Vec<Candidate>,
}

/// Why one worker does not run it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Candidate {
    /// Which.
    pub worker: WorkerId,
    /// Its name.
    pub name: String,
    /// The node, where the candidate is a peer with all its workers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// For machines.
    pub code: ReasonCode,
    /// For people.
    pub message: String,
}

/// Bytes of a job as its readers see them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Bytes {
    /// The hash.
    pub id: BlobId,
    /// Length in bytes.
    pub size: u64,
    /// The bytes themselves, if they are short and were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inline: Option<Octets>,
}

/// A job, as its readers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Job {
    /// The id. Its tag names the home.
    pub id: ObjectId,
    /// A name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Labels.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub labels: Labels,
    /// The function.
    pub function: ObjectId,
    /// The function's name when the job was accepted.
    pub function_name: String,
    /// The version that runs.
    pub version: u32,
    /// The component that runs.
    pub component: BlobId,
    /// The function's project when the job was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ObjectId>,
    /// Who submitted it.
    pub owner: ObjectId,
    /// The node that accepted it.
    pub home: NodeId,
    /// How many nodes had it on disk when it was acknowledged; nothing is said where one does and no more were asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub durability: Option<u8>,
    /// The nodes that keep it beside its home, where the job alone was asked for.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub custodians: Vec<NodeId>,
    /// The custodian that acts for its home since that was away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regent: Option<NodeId>,
    /// What was decided last of it was decided without the word of a majority of its custodians.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
    /// How it had settled on the other side of a cut.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<Superseded>,
    /// Whether it may run twice; nothing is said where it may.
    #[serde(default, skip_serializing_if = "Effects::is_usual")]
    pub effects: Effects,
    /// Where it stands.
    pub state: State,
    /// Why it does not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The current epoch; 0 before the first run.
    pub epoch: u64,
    /// When it was accepted, in milliseconds since the Unix epoch.
    pub accepted_ms: u64,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub settled_ms: Option<u64>,
    /// Arguments.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<String>,
    /// What it needs: the function's needs and its own.
    pub needs: Needs,
    /// How far it may go.
    pub limits: RunLimits,
    /// Before this time it does not run, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<u64>,
    /// Its place among the jobs that wait: 0 is the usual one, each step counts as much as a minute of waiting.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub priority: i8,
    /// After which failures it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry: Option<Retry>,
    /// What becomes of its run when whoever runs it is out of reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub on_disconnect: Option<OnDisconnect>,
    /// Since when it waits for who runs it, whose lease has ended, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disconnected_ms: Option<u64>,
    /// Whether an equal job that has succeeded gives its result to this one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub memo: bool,
    /// The equal job whose result this is: this one was not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo_of: Option<ObjectId>,
    /// Whom the node calls when it has ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notify: Option<Notify>,
    /// What became of that call, where the job alone was asked for at the node that makes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub called: Option<Called>,
    /// Of an array, and of each of its elements: which there are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<Array>,
    /// Of an array: how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elements: Option<Elements>,
    /// Of an element of an array: its index. Its id is the array's, `_` and this.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub index: Option<u32>,
    /// Of an element: its array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array_id: Option<ObjectId>,
    /// The idempotency key that it was submitted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idempotency_key: Option<String>,
    /// The job with the same key that was accepted first, at another node that was out of reach.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_of: Option<ObjectId>,
    /// The job that it repeats.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rerun_of: Option<ObjectId>,
    /// The jobs that it runs after.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    /// The one of them whose result is its input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input_of: Option<ObjectId>,
    /// How far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Progress>,
    /// What a run of it has saved last, for the next one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Saved>,
    /// The input.
    pub input: Bytes,
    /// The result. Of a failed job: what it had written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Bytes>,
    /// The log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log: Option<Bytes>,
    /// Bytes that were written to the log when it was full: they are lost.
    #[serde(default)]
    pub log_dropped: u64,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<Failure>,
    /// The guest's exit code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// What the last run used.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The runs, oldest first, at most the last 16.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// Runs in all.
    pub attempts_total: u32,
    /// Hand-overs that came to nothing before the guest had started, oldest first, at most the last 16. They are no runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refusals: Vec<Refusal>,
    /// How many of these there were in all.
    #[serde(default, skip_serializing_if = "is_none")]
    pub refusals_total: u32,
    /// A W3C trace id: the same in every log line about this job.
    pub trace: String,
    /// The place in the submitter's trace, where the request said one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Traceparent>,
}

impl Job {
    /// The id as people read it: of an array's element the array's, `_` and its index.
    pub fn id_text(&self) -> String {
        match self.array_id.zip(self.index) {
            Some((array, index)) => format!("{array}_{index}"),
            None => self.id.to_string(),
        }
    }
}

/// For serde: a count of none is not written.
fn is_none(count: &u32) -> bool {
    *count == 0
}

/// What can be set of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct JobPatch {
    /// A name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels; null removes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// Its place among the jobs that wait, from -100 to 100. Above 0 is for operators of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<i8>,
}

/// The body of `wait`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Wait {
    /// How long to wait for the end, in milliseconds; 60,000 at most and unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
    /// Whether to send the short bytes of the result with the answer.
    pub inline: bool,
}

impl Wait {
    /// How long to wait.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms.unwrap_or(WAIT_MS_MAX).min(WAIT_MS_MAX))
    }
}
