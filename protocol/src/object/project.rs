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
    /// The heads of the document.
    pub heads: Vec<ChangeHash>,
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
