//! Workers.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::id::{ObjectId, WorkerId};
use crate::name::Labels;

/// What a worker offers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Offer {
    /// Runs at once.
    pub slots: u32,
    /// Memory for all runs together, in MiB.
    pub memory_mb: u32,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// Capabilities, such as `gpu`.
    #[serde(default)]
    pub capabilities: BTreeSet<String>,
}

/// A worker, as its node sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Worker {
    /// The id: minted by the node at its first attachment.
    pub id: WorkerId,
    /// The name.
    pub name: String,
    /// Whether the node itself started it.
    pub local: bool,
    /// Whether it is connected now.
    pub attached: bool,
    /// Takes no new jobs.
    pub cordoned: bool,
    /// What it offers.
    pub offer: Offer,
    /// What runs there.
    pub running: Vec<ObjectId>,
    /// When it attached, in milliseconds since the Unix epoch.
    pub attached_ms: u64,
}

/// What can be set of a worker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WorkerPatch {
    /// Takes no new jobs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cordoned: Option<bool>,
}

/// Asks for a ticket with which one more worker can attach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NewWorker {
    /// The name that the worker shall have.
    pub name: String,
    /// How long the ticket counts, in milliseconds; one day unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub valid_ms: Option<u64>,
}

/// A ticket for a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Ticket {
    /// The id that the worker will have.
    pub id: WorkerId,
    /// What `shoal worker --ticket` takes.
    pub ticket: String,
}
