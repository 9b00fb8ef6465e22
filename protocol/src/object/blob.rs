//! Blobs.

use serde::{Deserialize, Serialize};

use crate::id::{BlobId, ObjectId};

/// A blob at this node, as its readers see it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Blob {
    /// The BLAKE3 hash.
    pub id: BlobId,
    /// Length in bytes.
    pub size: u64,
    /// Who uploaded it here, if somebody did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<ObjectId>,
    /// When it was uploaded, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub uploaded_ms: Option<u64>,
    /// Kept although nothing refers to it.
    pub keep: bool,
    /// A name for people.
    #[serde(default)]
    pub name: String,
    /// How many functions, jobs and KV entries refer to it.
    pub references: u64,
}

/// What can be set of a blob.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BlobPatch {
    /// Keep it although nothing refers to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep: Option<bool>,
    /// A name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}
