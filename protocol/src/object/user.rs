//! Users.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::change::{ChangeHash, SignedChange};
use crate::id::{NodeId, ObjectId};
use crate::key::PublicKey;
use crate::name::Labels;

/// A user, as everybody sees them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct User {
    /// The id.
    pub id: ObjectId,
    /// The name.
    pub name: String,
    /// The user's own keys, each with a note of where it lives.
    pub keys: BTreeMap<PublicKey, String>,
    /// Nodes that may sign in this user's name.
    pub nodes: Vec<NodeId>,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
    /// The heads of the document.
    pub heads: Vec<ChangeHash>,
}

/// What makes a user. Without `key` the node signs for them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct NewUser {
    /// The name.
    pub name: String,
    /// Labels.
    #[serde(default)]
    pub labels: Labels,
}

/// Adds a key to a user: method `add_key`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct AddKey {
    /// The key.
    pub key: PublicKey,
    /// Where it lives, for people.
    #[serde(default)]
    pub note: String,
}

/// An unsigned change that the node has prepared: the client reads it, signs `bytes`, and sends it to `apply`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Prepared {
    /// The document that it changes or founds.
    pub document: ObjectId,
    /// The CBOR of the change, to be signed under `shoal/change/v1`.
    pub bytes: crate::Octets,
}

/// Sends a signed change: method `apply` of user, project and function.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Apply {
    /// The change.
    pub change: SignedChange,
}
