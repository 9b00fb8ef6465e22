//! Who a blob can be fetched from, and how it went there.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use shoal_protocol::NodeId;
use tokio::io::{AsyncRead, AsyncWrite};

/// Both directions of a stream.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Duplex for S {}

type Open = dyn Fn() -> BoxFuture<'static, io::Result<Box<dyn Duplex>>> + Send + Sync;

/// A node that may have a blob, with a way to it.
#[derive(Clone)]
pub struct Provider {
    node: NodeId,
    open: Arc<Open>,
}

impl Provider {
    /// `open` makes a new stream to `node`, at whose other end [`Store::serve`](crate::Store::serve) runs. It is called
    /// once per attempt; its future may be dropped at any point. The stream is shut down in the direction to the provider
    /// after the request, and dropped when the answer is complete or given up.
    pub fn new<F, A, S>(node: NodeId, open: F) -> Self
    where
        F: Fn() -> A + Send + Sync + 'static,
        A: Future<Output = io::Result<S>> + Send + 'static,
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let open = move || {
            let opening = open();
            async move { Ok(Box::new(opening.await?) as Box<dyn Duplex>) }.boxed()
        };
        Self { node, open: Arc::new(open) }
    }

    /// Whom it leads to.
    pub fn node(&self) -> NodeId {
        self.node
    }

    pub(super) async fn open(&self) -> io::Result<Box<dyn Duplex>> {
        (self.open)().await
    }
}

impl fmt::Debug for Provider {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Provider({})", self.node.short())
    }
}

/// One attempt at one provider.
#[derive(Clone, Debug)]
pub struct Trial {
    /// The provider.
    pub node: NodeId,
    /// Bytes of the blob that came from it and were right.
    pub moved: u64,
    /// How long it was waited for. What our own disk took is not in it.
    pub waited: Duration,
    /// How it ended.
    pub end: End,
}

/// How an attempt at a provider ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// With the last byte of the blob.
    Complete,
    /// It has not got the blob, or does not give it to us.
    NotThere,
    /// No stream to it could be opened.
    Unreachable(String),
    /// The stream broke off.
    Cut(String),
    /// Nothing came for as long as [`FetchOptions::stall`](super::FetchOptions::stall).
    Stalled,
    /// It was left for one that may be faster, or because it was all too slow.
    Slow {
        /// What it came to, in bytes per second.
        rate: u64,
    },
    /// It says that the blob is longer than allowed.
    TooLarge {
        /// By its word, in bytes.
        len: u64,
    },
    /// By its word the blob needs more room than the disk has.
    NoRoom {
        /// What is missing of the blob, and what goes with it, in bytes.
        needed: u64,
        /// What is free and not promised to other fetches, in bytes.
        free: u64,
    },
    /// It sent what cannot be a part of the blob. No honest provider does that.
    Misbehaved(String),
}

impl End {
    pub(super) fn cut(cause: &(dyn std::error::Error + 'static)) -> Self {
        Self::Cut(said(cause))
    }

    pub(super) fn unreachable(cause: &(dyn std::error::Error + 'static)) -> Self {
        Self::Unreachable(said(cause))
    }
}

/// What an error says, with its causes: those of a network library often say nothing themselves.
fn said(cause: &(dyn std::error::Error + 'static)) -> String {
    let mut text = cause.to_string();
    let mut inner = next(cause);
    while let Some(cause) = inner {
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        inner = next(cause);
    }
    text
}

/// The cause of an error. `io::Error` hides what it wraps from `source`.
fn next<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a (dyn std::error::Error + 'static)> {
    match cause.downcast_ref::<io::Error>() {
        Some(io) => io.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static)),
        None => cause.source(),
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::NotThere => f.write_str("has not got it, or does not give it to us"),
            Self::Unreachable(cause) => write!(f, "unreachable: {cause}"),
            Self::Cut(cause) => write!(f, "broke off: {cause}"),
            Self::Stalled => f.write_str("nothing came any more"),
            Self::Slow { rate } => write!(f, "too slow, {rate} bytes/s"),
            Self::TooLarge { len } => write!(f, "says that it is {len} bytes long, more than allowed"),
            Self::NoRoom { needed, free } => write!(f, "the disk has room for {free} more bytes, {needed} are needed"),
            Self::Misbehaved(what) => write!(f, "sent wrong bytes: {what}"),
        }
    }
}
