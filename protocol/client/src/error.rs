//! What can go wrong, by what the caller can do about it.

use std::path::PathBuf;
use std::sync::Arc;

use shoal_protocol::problem::{Kind, Problem};
use shoal_protocol::{BlobId, codec};

/// Why an operation did not succeed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// The node refused it. The kind says why, the detail what would be right.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// No node answers at this address, or not the one that it names. Nothing was done.
    #[error("the node at {address} cannot be reached: {reason}")]
    Unreachable {
        /// Where.
        address: String,
        /// What was seen.
        reason: String,
    },
    /// The connection was lost after the request had been sent and before it was answered.
    #[error("the connection was lost before the node answered: whether the request was carried out is unknown")]
    Disconnected,
    /// The transfer was cut. What came before it is good; it may be taken up from there.
    #[error("the transfer was cut: {0}")]
    Interrupted(String),
    /// The request is larger than a frame. Large inputs are put as blobs, large batches in parts.
    #[error(
        "the request has {len} bytes, a request takes at most {max}: put large inputs as blobs, send batches in parts"
    )]
    TooLarge {
        /// How long it is, in bytes.
        len: usize,
        /// How long it may be, in bytes.
        max: usize,
    },
    /// The bytes are not those that were asked for, or arrived there as others.
    #[error("the bytes have the hash {got}, expected {expected}")]
    HashMismatch {
        /// What they should have.
        expected: BlobId,
        /// What they have.
        got: BlobId,
    },
    /// The node says something that the protocol does not have. Its version may be another one.
    #[error("the node does not keep to the protocol: {0}")]
    Protocol(String),
    /// The source of an upload failed.
    #[error("reading what is to be sent: {0}")]
    Source(Arc<std::io::Error>),
    /// A local file failed.
    #[error("{}: {source}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: Arc<std::io::Error>,
    },
    /// A local limit: the configuration of TLS or the socket.
    #[error("no connection can be made from here: {0}")]
    Local(String),
}

impl Error {
    /// The kind of the node's problem, where it is one.
    pub fn kind(&self) -> Option<Kind> {
        match self {
            Self::Problem(problem) => Some(problem.kind),
            _ => None,
        }
    }

    /// Whether the node says that there is no such object.
    pub fn is_not_found(&self) -> bool {
        self.kind() == Some(Kind::NotFound)
    }

    /// Whether the same may succeed once the node can be reached again.
    pub(crate) fn is_cut(&self) -> bool {
        matches!(self, Self::Interrupted(_) | Self::Disconnected | Self::Unreachable { .. })
    }

    pub(crate) fn file(path: &std::path::Path, source: std::io::Error) -> Self {
        Self::File { path: path.to_path_buf(), source: Arc::new(source) }
    }

    /// An answer that is not of the form that was due.
    pub(crate) fn unexpected(what: &str, error: &codec::Error) -> Self {
        Self::Protocol(format!("{what}: {error}"))
    }
}

impl From<shoal_transport::Error> for Error {
    fn from(error: shoal_transport::Error) -> Self {
        Self::Local(error.to_string())
    }
}
