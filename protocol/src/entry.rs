//! Signed entries of the global key-value store: one per key, and one running total per node for counters.
//!
//! Global KV is no document: a history under many writes would grow for ever. The entry with the highest
//! (counter, node) counts; increments are totals, which never conflict. A tombstone ends the totals before it.

use serde::{Deserialize, Serialize};

use crate::key::{PublicKey, Purpose, SecretKey, Signature};
use crate::object::kv::Value;
use crate::{NodeId, ObjectId, Octets, codec};

/// The version of the format that this package writes.
pub const VERSION: u8 = 1;

/// What an entry says of its key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Content {
    /// The key has this value; never a counter.
    Value(Value),
    /// The key was removed.
    Tombstone,
    /// What this node has added to the counter since the tombstone with this counter (0: since ever).
    Total {
        /// The sum of this node's increments.
        amount: i64,
        /// The counter of the tombstone that they follow.
        since: u64,
    },
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// [`VERSION`].
    pub version: u8,
    /// The mesh that it is for.
    pub mesh: PublicKey,
    /// The namespace.
    pub namespace: ObjectId,
    /// The key.
    pub key: String,
    /// What it says.
    pub content: Content,
    /// Above every counter that the node knew of for this key; for a total: how many increments it sums up.
    pub counter: u64,
    /// The node that wrote and signed it.
    pub node: NodeId,
    /// In whose name.
    pub author: ObjectId,
    /// The job whose guest wrote it, which carries the grant.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job: Option<ObjectId>,
}

/// An entry as it is stored and sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedEntry {
    /// The CBOR of an [`Entry`].
    pub bytes: Octets,
    /// By the entry's node.
    pub signature: Signature,
}

impl Entry {
    /// Signs the entry with the key of its node.
    pub fn sign(&self, key: &SecretKey) -> SignedEntry {
        let bytes = codec::encode(self);
        let signature = key.sign(Purpose::Entry, &bytes);
        SignedEntry { bytes: bytes.into(), signature }
    }
}

impl SignedEntry {
    /// Reads the entry without believing it.
    pub fn decode(&self) -> Result<Entry, codec::Error> {
        codec::decode(&self.bytes)
    }
}
