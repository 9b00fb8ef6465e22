//! Key-value namespaces: one for each user, project and function, under its owner's id.

use serde::{Deserialize, Serialize};

use crate::Octets;
use crate::id::{BlobId, ObjectId};

/// How far a value goes.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// Every node.
    #[default]
    Global,
    /// This node only.
    Local,
}

/// A value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Value {
    /// A text.
    Text(String),
    /// Bytes.
    Bytes(Octets),
    /// A blob. The entry counts as a reference to it.
    Blob(BlobId),
    /// A counter, changed by `incr` only.
    Counter(i64),
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Entry {
    /// The key.
    pub key: String,
    /// The value.
    pub value: Value,
    /// Rises with every write of the key; `cas` compares it.
    pub version: u64,
}

/// A namespace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Namespace {
    /// The id: its owner's.
    pub id: ObjectId,
    /// What the owner is: user, project or function.
    pub class: super::Class,
    /// The owner's name.
    pub name: String,
    /// Keys, of both scopes.
    pub keys: u64,
}

/// The body of `get`, `delete` and `watch`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Key {
    /// The key, 1 to 512 bytes.
    pub key: String,
    /// `watch` only: answers once the version is above this one, or after `timeout_ms`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<u64>,
    /// `watch` only: how long to wait, in milliseconds, at most 60,000.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// The body of `set` and `cas`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Put {
    /// The key, 1 to 512 bytes.
    pub key: String,
    /// The value, at most 60 KiB; no counter.
    pub value: Value,
    /// `cas` only: the version that must stand there, 0 for none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub version: Option<u64>,
}

/// The body of `incr`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Increment {
    /// The key, 1 to 512 bytes.
    pub key: String,
    /// How much; 1 unless said otherwise.
    #[serde(default = "one")]
    pub amount: i64,
}

fn one() -> i64 {
    1
}

/// The body of `list`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ListKeys {
    /// Only keys that start with this.
    pub prefix: String,
    /// Only keys after this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// At most so many; 50 unless said otherwise, at most 1,000.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
}
