//! Projects.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::change::ChangeHash;
use crate::id::ObjectId;
use crate::name::Labels;

/// A project, as everybody sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Project {
    /// The id.
    pub id: ObjectId,
    /// The name.
    pub name: String,
    /// The user who founded it.
    pub owner: ObjectId,
    /// The members and their roles.
    pub members: BTreeMap<ObjectId, String>,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// Its share where projects compete, from 1 to 1,000; 1 unless said otherwise.
    #[serde(default = "usual_weight")]
    pub weight: u32,
    /// What it may have at most, at each node.
    #[serde(default, skip_serializing_if = "Quota::is_empty")]
    pub quota: Quota,
    /// What it has at the node that was asked; only where one project is shown.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usage: Option<Usage>,
    /// The heads of the document.
    pub heads: Vec<ChangeHash>,
}

/// The weight of what nobody has given another one.
pub const WEIGHT_USUAL: u32 = 1;

fn usual_weight() -> u32 {
    WEIGHT_USUAL
}

/// What a project, or a user, may have at most at one node. Each node holds to it by itself: where jobs are submitted at several
/// nodes, there can be as many times as much.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Jobs that wait, for whatever; an array counts each element that has not begun.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queued: Option<u64>,
    /// Jobs that a worker has, an element of an array as one of them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub running: Option<u64>,
    /// Submissions in a minute; an array counts as one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rate: Option<u64>,
    /// Bytes of the inputs, results and logs of its jobs, as long as these are kept.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub storage: Option<u64>,
}

impl Quota {
    /// Whether it limits nothing.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// What a project has at one node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Usage {
    /// Jobs that wait.
    pub queued: u64,
    /// Jobs that a worker has.
    pub running: u64,
    /// Bytes of the inputs, results and logs of its jobs.
    pub stored: u64,
    /// What its jobs have used of late, in milliseconds of slots: what was used one half-life ago counts half. With what other
    /// nodes have told.
    pub recent_ms: u64,
    /// What its jobs of this node have ever used, in milliseconds of slots.
    pub total_ms: u64,
    /// Its part of what all have used of late, in thousandths.
    pub used_permille: u32,
    /// Its part by weight, among those that have used anything of late or have jobs here, in thousandths.
    pub due_permille: u32,
}

/// What makes a project.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProject {
    /// The name.
    pub name: String,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
}

/// Names a member: methods `add_member` and `remove_member`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Member {
    /// Whom.
    pub user: ObjectId,
    /// What they are; `developer` unless said otherwise.
    #[serde(default = "developer")]
    pub role: String,
}

fn developer() -> String {
    "developer".into()
}
