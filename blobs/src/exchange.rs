//! Blobs from node to node: iroh-blobs' own verified protocol over any bidirectional stream of bytes.
//!
//! Whoever owns the network hands streams in, and does not see a byte of the protocol: the provider runs
//! [`Store::serve`](crate::Store::serve) on a stream that a peer has opened, the fetching node calls
//! [`Store::fetch`](crate::Store::fetch) with a list of [`Provider`]s that open streams, or [`passing`] on one stream where
//! the blob is not to be kept. [`direct`] makes such streams of
//! its own over iroh.
//!
//! On a stream: the request (a blob's id and the ranges that are wanted), then the end of that direction; back the blob's
//! length, and the hashes and bytes that prove each other, in groups of 16 KiB.
//!
//! What always holds:
//! - nothing reaches the disk that has not been checked against the blob's id, and no more than the length that was
//!   allowed and that the disk has room for;
//! - a peer reads only blobs that the caller allows, one per stream; it never writes into this store (iroh-blobs' push,
//!   observe and get-many are refused, and so are requests that reach through one blob to others);
//! - each wait for a peer has an end, and so has the number of attempts;
//! - a blob is fetched once at a time, however many ask for it.

mod attempt;
pub mod direct;
mod fetch;
mod passing;
mod provider;
mod queue;
mod room;
mod serve;
mod sink;
mod slots;
mod stream;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::BlobId;

pub(crate) use self::fetch::Fetches;
pub use self::fetch::{Fetch, Fetched};
pub use self::passing::passing;
pub use self::provider::{End, Provider, Trial};
use crate::Error;

/// How long a provider may send nothing that can be checked.
pub const STALL: Duration = Duration::from_secs(10);
/// How long a peer that is served may take nothing. Why longer than [`STALL`]: its disk may be busy with what it got.
pub const SERVE_STALL: Duration = Duration::from_secs(30);
/// How long a peer may be served in all. Why half an hour: one that takes something just before each [`SERVE_STALL`] ends
/// would hold its place for days; what was fetched by then need not come again.
pub const SERVE_TOTAL: Duration = Duration::from_secs(1_800);
/// How long a provider is watched before it can be called slow.
pub const SLOW_AFTER: Duration = Duration::from_secs(5);
/// Bytes per second under which a provider is left, while there are others to try. Why 128 KiB: a tenth of a poor home
/// connection; less than that is a peer in trouble.
pub const RATE_MIN: u64 = 128 * 1024;
/// Bytes per second under which a provider is left although there is nobody else to try. Why 16 KiB: an eighth of
/// [`RATE_MIN`]; with less a long blob takes days, and holds its place as long.
pub const RATE_FLOOR: u64 = 16 * 1024;
/// How long to wait before a provider is asked again, times the attempts at it that brought nothing.
pub const RETRY_PAUSE: Duration = Duration::from_millis(250);

/// How a fetch is to be done.
#[derive(Clone, Debug)]
pub struct FetchOptions {
    /// The longest blob that is accepted, in bytes. Checked against what the provider says before disk is used.
    pub len_max: u64,
    /// Whether the blob is to be durable, as by [`Store::put_durable`](crate::Store::put_durable), when the fetch ends.
    pub durable: bool,
    /// How long a provider may send nothing that can be checked. [`STALL`], unless said otherwise.
    pub stall: Duration,
    /// How long a provider is watched before it can be called slow. [`SLOW_AFTER`], unless said otherwise.
    pub slow_after: Duration,
    /// Bytes per second under which it is left, while there are others to try. [`RATE_MIN`], unless said otherwise.
    pub rate_min: u64,
    /// Bytes per second under which it is left in any case. [`RATE_FLOOR`], unless said otherwise.
    pub rate_floor: u64,
    /// How long to wait before a provider is asked again. [`RETRY_PAUSE`], unless said otherwise.
    pub retry_pause: Duration,
}

impl FetchOptions {
    /// Up to `len_max` bytes, durable at the end, with the usual patience.
    pub fn new(len_max: u64) -> Self {
        Self {
            len_max,
            durable: true,
            stall: STALL,
            slow_after: SLOW_AFTER,
            rate_min: RATE_MIN,
            rate_floor: RATE_FLOOR,
            retry_pause: RETRY_PAUSE,
        }
    }
}

/// How far a fetch has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes that are here, also those from before.
    pub here: u64,
    /// The blob's length in bytes, by the word of the provider; `None`: none has answered yet.
    pub total: Option<u64>,
}

/// Why a blob could not be fetched.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FetchError {
    /// No provider gave it. What came is here until the next collection, so that the next fetch goes on from there.
    #[error("no provider of blob {id} gave it to us{}", last(trials))]
    Nowhere {
        /// The blob.
        id: BlobId,
        /// The latest attempts, oldest first. Empty: there was nobody to ask.
        trials: Vec<Trial>,
    },
    /// It is longer than allowed: it is here, or else by the word of a provider.
    #[error("blob {id} has {len} bytes, more than {len_max}")]
    TooLarge {
        /// The blob.
        id: BlobId,
        /// Its length in bytes.
        len: u64,
        /// What the caller allowed, in bytes.
        len_max: u64,
        /// The latest attempts, oldest first.
        trials: Vec<Trial>,
    },
    /// This node's store failed: its disk is full or broken, or it is closed. Another provider would not help.
    #[error(transparent)]
    Store(#[from] Arc<Error>),
}

impl From<Error> for FetchError {
    fn from(cause: Error) -> Self {
        Self::Store(Arc::new(cause))
    }
}

/// The last attempt, as the end of a sentence.
fn last(trials: &[Trial]) -> String {
    trials.last().map_or_else(
        || ": there is nobody to ask".into(),
        |trial| format!(", the last attempt at node {}: {}", trial.node.short(), trial.end),
    )
}

/// How a peer is to be served.
#[derive(Clone, Debug)]
pub struct ServeOptions {
    /// How long the peer may take for its request, and between two reads. [`SERVE_STALL`], unless said otherwise.
    pub stall: Duration,
    /// How long all of it may take. [`SERVE_TOTAL`], unless said otherwise.
    pub total: Duration,
}

impl Default for ServeOptions {
    fn default() -> Self {
        Self { stall: SERVE_STALL, total: SERVE_TOTAL }
    }
}

/// What came of a peer's request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Served {
    /// It got what it asked for.
    Sent {
        /// The blob.
        id: BlobId,
        /// Bytes on the stream: content and what proves it.
        bytes: u64,
    },
    /// It got nothing, and cannot tell why.
    Withheld {
        /// The blob.
        id: BlobId,
        /// Whether it would have been allowed: then the blob is not here.
        allowed: bool,
    },
}

/// Why a peer could not be served. The stream is dropped without a proper end, so that the peer knows.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The peer sent what is not a request for one blob. No honest peer does that.
    #[error("the peer sent {0}")]
    Misbehaved(String),
    /// It sent no request, or took nothing, for as long as [`ServeOptions::stall`].
    #[error("the peer stalled")]
    Stalled,
    /// It was not done within [`ServeOptions::total`].
    #[error("the peer took too long")]
    TooLong,
    /// The stream broke off: peers do that when they have enough.
    #[error("the stream broke off: {0}")]
    Cut(#[source] io::Error),
    /// This node's store failed, or the blob is damaged here.
    #[error(transparent)]
    Store(#[from] Error),
}
