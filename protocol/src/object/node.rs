//! Nodes.

use serde::{Deserialize, Serialize};

use crate::id::NodeId;
use crate::key::PublicKey;
use crate::name::Labels;

/// A node.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Node {
    /// The id: its public key.
    pub id: NodeId,
    /// The name.
    pub name: String,
    /// The version of the program.
    pub version: String,
    /// The mesh.
    pub mesh: Mesh,
    /// Labels.
    pub labels: Labels,
    /// Addresses for clients and workers: `quic://NODEID@host:port`.
    pub addresses: Vec<String>,
    /// The HTTP API: `http://host:port`.
    pub http: String,
    /// When the process started, in milliseconds since the Unix epoch.
    pub started_ms: u64,
    /// Attached workers.
    pub workers: u32,
    /// Runs that can go on at once, over all workers.
    pub slots: u32,
    /// Jobs, counted at this home.
    pub jobs: JobCounts,
    /// Blobs at this node.
    pub blobs: BlobTotals,
    /// Resident memory of the node process, in bytes.
    pub resident_bytes: u64,
    /// Whether the node still takes jobs.
    pub stopping: bool,
}

/// A mesh.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Mesh {
    /// The name.
    pub name: String,
    /// The key.
    pub key: PublicKey,
    /// Anybody is admitted.
    pub open: bool,
}

/// Jobs of one home: accepted = waiting + running + settled + swept.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct JobCounts {
    /// Acknowledged, ever.
    pub accepted: u64,
    /// Not yet running.
    pub waiting: u64,
    /// Running, by the home's knowledge.
    pub running: u64,
    /// Settled and still readable.
    pub settled: u64,
    /// Settled and forgotten.
    pub swept: u64,
}

/// Blobs of one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BlobTotals {
    /// How many.
    pub count: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// What can be set of a node.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct NodePatch {
    /// The name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Labels; null removes one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
}
