//! The documents of a simulated mesh: at each node a replica of production, around it what the node does in production.
//!
//! | part | stands for |
//! |---|---|
//! | [`site`] | the disk, and the thread of the documents: makes what it takes durable, then tells of it |
//! | [`process`] | one life of that thread: the replica, the index, and what waits |
//! | [`talks`] | the sessions that reconcile, each over a stream of its own |
//! | [`authors`] | people who found and edit documents at any node, also at two at once, and strangers who try |
//! | [`agreement`] | what replicas must agree on once everybody has heard everything |
//!
//! The mesh carries what they say to each other, see `mesh/documents.rs`.

pub(crate) mod agreement;
pub(crate) mod authors;
mod process;
pub(crate) mod site;
pub(crate) mod talks;

use shoal_protocol::change::{ChangeHash, SignedChange};
use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::wire::sync::SyncMessage;

use super::network::ConnectionId;

/// The mesh that all changes are for.
pub(crate) fn mesh_key() -> PublicKey {
    SecretKey::of_open_mesh("simulated").public()
}

/// Names a session, among all that ever were.
pub(crate) type TalkId = u64;

/// What two nodes say to each other about documents.
#[derive(Debug)]
pub(crate) enum Letter {
    /// A change, which may be lost, come twice, or late.
    Gossip(SignedChange),
    /// A message of a session.
    Sync { talk: TalkId, message: SyncMessage },
    /// One side has ended a session early.
    Cut { talk: TalkId },
}

/// What a node does about documents, besides what it keeps for itself.
#[derive(Debug)]
pub(crate) enum Out {
    /// It has begun to make something durable.
    Commit { life: u64 },
    /// It answers a client whose change counts.
    Acknowledged(ChangeHash),
    /// It gossips changes to its neighbours, but for the one that they came from.
    Publish { changes: Vec<SignedChange>, except: Option<usize> },
    /// It says something to a peer.
    Say { connection: ConnectionId, letter: Letter },
    /// It finds that a peer does what no honest node does.
    Accuses { peer: usize, of: String },
}
