//! Between nodes: how a client's call goes on to the home of its object, on a stream of its own.

use serde::{Deserialize, Serialize};

use crate::Octets;
use crate::id::{BlobId, ObjectId};
use crate::object::job::LogPlace;
use crate::wire::client::Call;
use crate::wire::drain::HandOver;

/// The first frame of a call stream: a client's call that goes on to the home of its object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Forwarded {
    /// Who calls.
    pub caller: Caller,
    /// What for.
    pub ask: Ask,
    /// The place in the caller's trace, as W3C Trace Context writes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// Who calls, as the forwarding node can show it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// Anybody.
    Anybody,
    /// The bearer of this token, which is rooted in a key of their own and narrowed to the node that is asked.
    Bearer(String),
    /// This user, says the forwarding node: it counts if the user's document names that node.
    Via(ObjectId),
}

/// What is asked of a home, or of a node that has a blob. Frames are those of clients, [`crate::limits::CLIENT_FRAME_LEN_MAX`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ask {
    /// An operation. Answered by `Reply<Answered>`.
    Call {
        /// Which.
        call: Call,
        /// How the body is written, and how the answer's shall be.
        format: BodyFormat,
        /// The body; empty: none.
        body: Octets,
    },
    /// A job's result. Answered by `Reply<Payload>`; where that is a blob, one request for it of the protocol of blobs is
    /// answered on the same stream.
    Result {
        /// Which job.
        job: ObjectId,
    },
    /// A job's log. Answered by `Reply<()>`, then the raw bytes as they come; with `from`, frames of
    /// [`crate::object::job::LogPart`] instead.
    Log {
        /// Which job.
        job: ObjectId,
        /// Whether to wait for more until the job has ended.
        follow: bool,
        /// What the asker has already; it gets what follows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<LogPlace>,
    },
    /// A blob. Answered in the same way.
    Blob {
        /// Which.
        id: BlobId,
    },
    /// As a node that leaves: take this. Answered by `Reply<HandedOver>`.
    HandOver(Box<HandOver>),
    /// Where the node's direct path for blobs is. Answered by `Reply<Vec<SocketAddr>>`, at most
    /// [`crate::limits::DIRECT_ADDRESSES_MAX`]; empty: it has none.
    Direct,
}

/// How a body is written: as the client sent it, since nothing is encoded anew on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BodyFormat {
    /// From the HTTP API.
    Json,
    /// From the QUIC protocol.
    Cbor,
}

/// What an operation was answered with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answered {
    /// As in HTTP, 2xx.
    pub status: u16,
    /// The ETag of an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// In the format that was asked for.
    pub body: Octets,
}
