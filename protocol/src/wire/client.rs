//! `shoal-client/1`: the operations of the HTTP API over QUIC.
//!
//! A client opens bidirectional streams. The first frame of each is an [`Opening`]. The first stream of a connection
//! is the control stream: [`Opening::Control`] with the token, answered by [`Welcome`] or a problem; after that
//! [`Request`]s and [`Response`]s, pipelined, answered in any order. The other streams carry bytes, one transfer each.
//! Bodies are the CBOR of the same types that the HTTP API has as JSON.

use serde::{Deserialize, Serialize};

use crate::id::{BlobId, NodeId, ObjectId};
use crate::object::job::{LogPlace, Subscription};
use crate::object::{Class, ListQuery};
use crate::{Octets, Problem};

/// The ALPN.
pub const ALPN: &[u8] = b"shoal-client/1";

/// The first frame of a stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Opening {
    /// The control stream.
    Control {
        /// The token; none: what everybody may read.
        token: Option<String>,
    },
    /// Stores a blob. After this frame come the raw bytes, up to the end of the stream; the answer is a
    /// [`BlobStored`] or a problem, in one [`Reply`] frame.
    PutBlob {
        /// The length, where the client knows it: fewer or more bytes are refused.
        size: Option<u64>,
        /// Keep it although nothing refers to it.
        keep: bool,
        /// A name for people.
        name: String,
    },
    /// Reads a blob. The answer is a [`BlobOpened`] or a problem in one [`Reply`] frame, then the raw bytes.
    GetBlob {
        /// Which.
        id: BlobId,
        /// The first byte.
        offset: u64,
        /// How many bytes at most; none: up to the end.
        len: Option<u64>,
    },
    /// Reads a job's result. Answered like [`Opening::GetBlob`].
    GetResult {
        /// Which.
        job: ObjectId,
        /// The first byte.
        offset: u64,
    },
    /// Reads a job's log, up to its end if `follow`. Answered by `Reply<()>`, then the raw bytes as they come; with `from`,
    /// frames of [`crate::object::job::LogPart`] instead.
    GetLog {
        /// Which.
        job: ObjectId,
        /// Whether to wait for more until the job has ended.
        follow: bool,
        /// What the client has already; it gets what follows.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        from: Option<LogPlace>,
    },
    /// Subscribes to changes of jobs. Answered by `Reply<()>`, then frames of [`crate::object::job::Told`] as they come. It
    /// ends with the job that it is about, and else after a while: then the client comes back with the last id.
    Subscribe(Subscription),
}

/// An answer that is a value or a problem.
pub type Reply<T> = Result<T, Problem>;

/// The node takes the client.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// The node.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// The user that the token stands for.
    pub user: Option<ObjectId>,
}

/// A blob is durable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct BlobStored {
    /// Its hash.
    pub id: BlobId,
    /// Length in bytes.
    pub size: u64,
}

/// Bytes follow.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BlobOpened {
    /// The hash of the whole.
    pub id: BlobId,
    /// Length of the whole, in bytes.
    pub size: u64,
}

/// An operation on objects: a row of Table 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// `GET /:class`.
    List {
        /// Of which class.
        class: Class,
        /// Which page of which entries.
        query: ListQuery,
    },
    /// `POST /:class`.
    Create {
        /// Of which class.
        class: Class,
    },
    /// `GET /:class/:object_id`.
    Get {
        /// Of which class.
        class: Class,
        /// Which: the id, or for users, projects and functions a name.
        object: String,
    },
    /// `POST /:class/:object_id`: a merge patch.
    Set {
        /// Of which class.
        class: Class,
        /// Which.
        object: String,
        /// The ETag that the object must still have.
        if_match: Option<String>,
    },
    /// `DELETE /:class/:object_id`.
    Delete {
        /// Of which class.
        class: Class,
        /// Which.
        object: String,
    },
    /// `POST /:class/:object_id/:method`.
    Method {
        /// Of which class.
        class: Class,
        /// Which.
        object: String,
        /// Which method.
        method: String,
        /// Parameters beside the body, such as `scope`.
        query: ListQuery,
    },
}

/// A request on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Chosen by the client; the answer carries it back.
    pub id: u64,
    /// What to do.
    pub call: Call,
    /// The CBOR of the body; empty: none.
    #[serde(default)]
    pub body: Octets,
    /// The place in the client's trace, as W3C Trace Context writes it. What is not of that form is ignored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// An answer on the control stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Response {
    /// The request's.
    pub id: u64,
    /// As in HTTP: 2xx with the object, else the body is a [`Problem`].
    pub status: u16,
    /// The ETag of an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub etag: Option<String>,
    /// The CBOR of the body.
    #[serde(default)]
    pub body: Octets,
}
