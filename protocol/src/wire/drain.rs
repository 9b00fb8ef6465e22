//! What a node that leaves hands over to another one: jobs, blobs, and its local KV. Asked on call streams, by
//! [`crate::wire::forward::Ask::HandOver`]; the answer, [`HandedOver`], comes when all of it is durable there.

use serde::{Deserialize, Serialize};

use crate::custody::SignedCustodians;
use crate::id::{BlobId, ObjectId};
use crate::object::job::{Checkpoint, Payload};
use crate::object::kv::Value;
use crate::record::{Accepted, Standing};
use crate::regency::SignedVote;
use crate::wire::custody::KeepJob;
use crate::{Kind, Problem};

/// Jobs, blobs or keys in one message. Why 64: a few milliseconds of work, and then others have their turn.
pub const HAND_OVER_MAX: usize = 64;

/// Bytes of jobs or values in one message, if one more may make it. Why 256 KiB: with the longest job it stays within a frame of
/// clients.
pub const HAND_OVER_LEN: usize = 256 * 1024;

/// As a node that leaves: this is yours from now on.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HandOver {
    /// Jobs of which the sender is the home.
    Jobs(Box<HandedJobs>),
    /// Bytes; they are fetched from the sender.
    Blobs(Vec<HandedBlob>),
    /// Keys of its local KV.
    Keys(Vec<HandedKey>),
}

/// Jobs of a home that leaves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandedJobs {
    /// The set under which they are kept, as the home has signed it.
    pub set: SignedCustodians,
    /// The home's vote for the receiver.
    pub vote: SignedVote,
    /// At most [`HAND_OVER_MAX`], an array before its elements.
    pub jobs: Vec<HandedJob>,
    /// Blobs to which they refer and that the home does not have itself.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lost: Vec<BlobId>,
}

/// One job: all that its home has of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandedJob {
    /// As it was accepted, an element of an array as well.
    pub accepted: Box<Accepted>,
    /// Where it stands.
    pub standing: Box<Standing>,
    /// What a run of it has saved last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Box<Checkpoint>>,
}

impl HandedJob {
    /// Checks the bounds of what a home says.
    pub fn check(&self) -> Result<(), Problem> {
        self.accepted.check()?;
        self.standing.check()?;
        match self.accepted.custody {
            Some(_) => Ok(()),
            None => Err(Problem::new(Kind::InvalidField, format!("{}: it is under no set", self.accepted.id))),
        }
    }

    /// The blobs that it refers to, with their lengths.
    pub fn blobs(&self) -> impl Iterator<Item = (BlobId, u64)> + '_ {
        let outcome = self.standing.outcome.iter().flat_map(|outcome| [&outcome.output, &outcome.log]);
        let saved = self.checkpoint.iter().map(|checkpoint| &checkpoint.bytes);
        std::iter::once(&self.accepted.input).chain(outcome).chain(saved).filter_map(|payload| match payload {
            Payload::Blob { id, size } => Some((*id, *size)),
            Payload::Inline(_) => None,
        })
    }
}

/// A blob, and what its node knows of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HandedBlob {
    /// Which.
    pub id: BlobId,
    /// Its length in bytes.
    pub size: u64,
    /// Who uploaded it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<ObjectId>,
    /// When, in milliseconds since the Unix epoch.
    pub uploaded_ms: u64,
    /// Keep it although nothing refers to it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub keep: bool,
    /// A name for people.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
}

/// A key of a local KV.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct HandedKey {
    /// The user, project or function.
    pub namespace: ObjectId,
    /// The key.
    pub key: String,
    /// What stands there.
    pub value: Value,
}

/// What has come of it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct HandedOver {
    /// Where jobs stand that are the answering node's to decide now.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<KeepJob>,
    /// Places of keys in the message at which something else stands at the answering node, and stays.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub differ: Vec<u32>,
}
