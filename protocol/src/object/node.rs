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
    /// Addresses for other nodes: `NODEID@host:port`, for `shoal up --join`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mesh_addresses: Vec<String>,
    /// The HTTP API: `http://host:port`. Of the node that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http: Option<String>,
    /// When the process started, in milliseconds since the Unix epoch. Of the node that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_ms: Option<u64>,
    /// Attached workers.
    pub workers: u32,
    /// Runs that can go on at once, over all workers.
    pub slots: u32,
    /// Jobs, counted at their home. Of the node that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jobs: Option<JobCounts>,
    /// Blobs at this node. Of the node that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blobs: Option<BlobTotals>,
    /// Resident memory of the node process, in bytes. Of the node that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resident_bytes: Option<u64>,
    /// Whether the node is about to stop and takes no more jobs.
    pub stopping: bool,
    /// It leaves: to whom it hands over what it has, and how far it is. Of the node that is asked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub draining: Option<Draining>,
    /// How the node that is asked sees this other one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer: Option<Peer>,
}

/// What a node is asked that is to leave.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Drain {
    /// To whom everything goes: the id or the name of a node that this one knows.
    pub to: String,
    /// Runs are not waited for: their jobs begin anew at the other node.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
}

/// How far a node is that leaves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Draining {
    /// To whom everything goes.
    pub to: NodeId,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// Runs are not waited for.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub now: bool,
    /// What is being handed over.
    pub phase: DrainPhase,
    /// Jobs of this home that are still to be handed over.
    pub waiting: u64,
    /// Jobs of this home that run.
    pub running: u64,
    /// Runs of other homes' jobs that go on here.
    pub guests: u64,
    /// Unsettled jobs that were handed over since the node started.
    pub jobs: u64,
    /// Settled jobs that were handed over, elements of arrays one by one.
    pub settled: u64,
    /// Blobs that were handed over.
    pub blobs: u64,
    /// Keys of the local KV that were handed over.
    pub keys: u64,
    /// Keys at which something else stands at the other node: there that stays. As `NAMESPACE/KEY`, the first of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differ: Vec<String>,
    /// What keeps it from going on; it is tried again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trouble: Option<String>,
}

/// The parts of leaving, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DrainPhase {
    /// Jobs that have not settled; those that run are waited for.
    Jobs,
    /// Settled jobs, with their results.
    Settled,
    /// Blobs.
    Blobs,
    /// Local KV.
    Keys,
    /// All is handed over: the node stops.
    Done,
}

impl DrainPhase {
    /// As it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Jobs => "jobs",
            Self::Settled => "settled",
            Self::Blobs => "blobs",
            Self::Keys => "keys",
            Self::Done => "done",
        }
    }
}

/// A node, as another one sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Peer {
    /// The way between the two; none: there is none at the moment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<Path>,
    /// There and back, in microseconds, once it is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rtt_us: Option<u64>,
    /// It is in the view of neighbours.
    pub neighbour: bool,
    /// Whether it has the same users, projects, functions and global KV.
    pub replica: Replica,
    /// Runs of its workers that could begin now, by its own word.
    pub free_slots: u32,
    /// Jobs that wait at it, by its own word.
    pub waiting: u64,
    /// Since when there is a way to it, or since when there is none, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// How it misbehaved, while it is kept out for that; none: it is not kept out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_out: Option<String>,
}

/// The way between two nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Path {
    /// One dialled the other.
    Direct,
    /// Both dialled at once, through the address translation before them.
    HolePunched,
    /// A third node passes the bytes on.
    Relayed,
}

impl Path {
    /// As it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::HolePunched => "hole_punched",
            Self::Relayed => "relayed",
        }
    }
}

/// Whether another node's replica is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Replica {
    /// The same.
    Equal,
    /// One of the two lacks something.
    Differs,
    /// It has not said yet.
    Unknown,
}

impl Replica {
    /// As it is written.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Equal => "equal",
            Self::Differs => "differs",
            Self::Unknown => "unknown",
        }
    }
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
