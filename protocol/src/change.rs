//! Signed changes: how users, projects and functions are written.
//!
//! A change is Shoal's own plain CBOR, signed as bytes. A node checks size, signature, chain, schema and right before
//! it derives the automerge change from it; no foreign byte ever reaches automerge's decoder. The signed changes are
//! the truth on disk and between nodes.

use serde::{Deserialize, Serialize};

use crate::key::PublicKey;
use crate::key::{Purpose, SecretKey, Signature};
use crate::{ObjectId, Octets, codec};

/// The version of the change format that this package writes.
pub const VERSION: u8 = 1;

/// The classes that are documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DocumentClass {
    /// A person.
    User,
    /// Several people who own functions together.
    Project,
    /// A named, versioned component.
    Function,
}

/// The name of a change: BLAKE3 of its signed bytes (without the signature, which an author could vary).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(transparent)]
pub struct ChangeHash(pub crate::BlobId);

/// A scalar in a document. Maps come into being by the paths that lead through them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scalar {
    /// True or false.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A short text, replaced as a whole.
    Text(String),
    /// Bytes, replaced as a whole.
    Bytes(Octets),
}

/// One operation on a document.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// Sets the scalar at a path.
    Put {
        /// From the root of the document.
        path: Vec<String>,
        /// What stands there from now on.
        value: Scalar,
    },
    /// Removes what stands at a path, with all below it.
    Delete {
        /// From the root of the document.
        path: Vec<String>,
    },
    /// Adds to the counter at a path; concurrent additions all count.
    Add {
        /// From the root of the document.
        path: Vec<String>,
        /// How much, negative to take away.
        amount: i64,
    },
}

/// What is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// [`VERSION`].
    pub version: u8,
    /// The mesh that it is for: a change is not replayed into another.
    pub mesh: PublicKey,
    /// The document.
    pub document: ObjectId,
    /// The document's class.
    pub class: DocumentClass,
    /// The user in whose name it is made; a founding change of a user names the document itself.
    pub user: ObjectId,
    /// The key that signs: the user's own, or a node's that the user document allows to sign for them.
    pub author: PublicKey,
    /// 1, 2, 3 … without a gap, for each (document, author).
    pub sequence: u64,
    /// The heads that the author had seen, sorted, without doubles. None: this founds the document.
    pub deps: Vec<ChangeHash>,
    /// What it does.
    pub operations: Vec<Operation>,
}

/// A change as it is sent and stored: the exact bytes and their signature.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, schemars::JsonSchema)]
pub struct SignedChange {
    /// The CBOR of a [`Change`].
    pub bytes: Octets,
    /// By the change's author, over these bytes.
    pub signature: Signature,
}

impl Change {
    /// Signs the change. The caller holds the key that `author` names.
    pub fn sign(&self, key: &SecretKey) -> SignedChange {
        let bytes = codec::encode(self);
        let signature = key.sign(Purpose::Change, &bytes);
        SignedChange { bytes: bytes.into(), signature }
    }
}

impl SignedChange {
    /// The name of this change.
    pub fn hash(&self) -> ChangeHash {
        ChangeHash(crate::BlobId::of(&self.bytes))
    }

    /// Reads the bytes without believing them.
    pub fn decode(&self) -> Result<Change, codec::Error> {
        let max = crate::limits::CHANGE_LEN_MAX;
        if self.bytes.len() > max {
            return Err(codec::Error::TooLong { len: self.bytes.len(), max });
        }
        codec::decode(&self.bytes)
    }
}
