//! The runs of a job: how far they are, how they ended, what came out and what they used.

use serde::{Deserialize, Serialize};

use super::Payload;
use crate::id::{NodeId, WorkerId};

/// Why a run ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FailureCode {
    /// The guest returned an error or exited with a code other than 0.
    Guest,
    /// The guest trapped.
    Trap,
    /// The guest asked for more memory than it may have.
    OutOfMemory,
    /// The result is longer than it may be.
    OutputTooLarge,
    /// The component cannot be instantiated.
    InvalidComponent,
    /// The component, the input or another blob could not be read.
    BlobUnavailable,
    /// The worker went away.
    WorkerLost,
    /// The worker could not do its part; the fault is its own.
    WorkerFault,
    /// The function is unknown or was deleted.
    FunctionGone,
    /// It has waited for its first run longer than it may.
    QueueLimit,
    /// It has taken longer in all than it may.
    TotalLimit,
    /// A job that it waited for has ended otherwise than it must.
    Dependency,
    /// Not all elements of an array have succeeded.
    Elements,
    /// Another job was submitted under the same key before.
    Duplicate,
}

impl FailureCode {
    /// Whether the next attempt may go better.
    pub const fn is_transient(self) -> bool {
        matches!(self, Self::WorkerLost | Self::WorkerFault)
    }
}

/// Why a run ended without a result.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Failure {
    /// For machines.
    pub code: FailureCode,
    /// For people.
    pub message: String,
}

/// What a run used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Usage {
    /// From start to end, in microseconds.
    pub run_us: u64,
    /// Of these, compiling and instantiating, in microseconds.
    pub start_us: u64,
    /// The most memory that the guest had, in bytes.
    pub memory_bytes: u64,
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// With a result.
    Succeeded,
    /// Without one.
    Failed(Failure),
    /// It was stopped because somebody cancelled the job.
    Cancelled,
    /// It was stopped because it ran too long.
    TimedOut,
}

/// How a run ended, with all that came out of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Outcome {
    /// How.
    pub ending: Ending,
    /// The exit code, where the guest has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// The result; of a failed run what it had written.
    pub output: Payload,
    /// The log.
    pub log: Payload,
    /// Bytes of log that were dropped because it was full.
    #[serde(default)]
    pub log_dropped: u64,
    /// What it used.
    pub usage: Usage,
}

/// How far a run is, as it says itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Progress {
    /// Steps done.
    pub done: u64,
    /// Steps in all; 0 where it does not know.
    pub total: u64,
    /// What it is doing.
    #[serde(default)]
    pub message: String,
}

/// One run of a job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Attempt {
    /// The epoch under which it ran: later runs have higher ones.
    pub epoch: u64,
    /// Where.
    pub worker: WorkerId,
    /// The worker's name.
    pub worker_name: String,
    /// The node, where it was handed to a peer: `worker` is then the peer's place among the workers of the home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// When it was handed to the worker, in milliseconds since the Unix epoch.
    pub offered_ms: u64,
    /// When the worker said it runs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_ms: Option<u64>,
    /// How it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ending: Option<Ending>,
    /// What it used, where its worker has said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The epoch of the run whose checkpoint it was given; none: it began anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed: Option<u64>,
}
