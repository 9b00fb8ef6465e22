//! How two nodes come to hold the same set of signed items, by hashes and without IO.
//!
//! The node keeps an [`Index`] beside each of the two sets that it shares with its mesh: the changes of its replica,
//! and the entries of its global KV that stand. A [`Session`] compares the index with that of a peer and exchanges what
//! is missing on either side. The messages, and what a fingerprint is, are those of [`shoal_protocol::wire::sync`].
//!
//! The edge drives a session: messages go in, [`Step`]s come out, to be done in their order. Bytes and disk are the
//! edge's; the session says what is to be read and what is to be stored, one bounded batch after another.
//!
//! Always holds:
//!
//! - What a session keeps in memory is bounded by the node's own set (8 bytes for each item that is to be sent, a
//!   prefix for each that is to be compared), and by two batches each way.
//! - What a peer can make a session do is bounded: each message by its form, all of them together by a small multiple of
//!   the node's own set. A session with a peer that never stops lying ends, with a [`Misbehaviour`].
//! - The sets may change while sessions run. A session then exchanges a little more or less than it might; whatever it
//!   missed is found by the next one.
//! - Nothing that comes out of [`Step::Store`] was believed: the edge checks signatures and rights.

mod answering;
mod asking;
mod index;
mod session;
mod transfer;
mod tree;

pub use index::Index;
pub use session::Session;

use shoal_protocol::wire::sync::{ITEM_LEN_MAX, ItemHash, SetKind, SignedItem, SyncMessage, VERSION};

/// Items that a node may hold in one index. Why 16,777,216: more than the histories of a full replica are likely to have,
/// and an index of 1 GB.
pub const ITEMS_MAX: usize = 1 << 24;

/// Items that are asked of the edge at once. Why 512: a few hundred usual changes fill a batch.
pub const READ_ITEMS_MAX: usize = 512;

/// Items that a peer may send though they are refused. Why 16: an honest peer has checked them as we do, so none;
/// some, since it may run another version.
pub const REFUSED_MAX: usize = 16;

/// What a peer may ask beyond a multiple of our own set. Why 4,096: sets grow while a session runs.
pub const SLACK: usize = 4096;

/// What the edge is to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send this message.
    Send(SyncMessage),
    /// Read these items, in this order, and hand them to [`Session::read`]. It may stop once it has `len_max` bytes: what
    /// it has not read is asked again. There is no second read before this one is answered.
    Read {
        /// Which, at most [`READ_ITEMS_MAX`].
        items: Vec<Held>,
        /// How many bytes are needed now. At least one item is read, however long it is.
        len_max: usize,
    },
    /// Check these items, make them durable, put them into the index, and say so to [`Session::stored`]. Each step is
    /// answered by itself, in the order of the steps, also one without items. The peer sends at most two batches ahead
    /// of the answers.
    Store(Vec<SignedItem>),
    /// The session has ended. The stream can be closed once everything before this step is sent.
    Done(Report),
}

/// An item of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Held {
    /// Its place in the order of arrival, as the edge gave it.
    pub place: u64,
    /// Its name.
    pub item: ItemHash,
}

/// What became of the items of one [`Step::Store`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stored {
    /// New here, and stored.
    pub taken: usize,
    /// New here by its own word: it waits, in memory only, for others that it depends on, and anybody can make up such
    /// ones. An honest peer sends what they depend on first.
    pub held: usize,
    /// Of no use, and no fault of the peer: known meanwhile, superseded, or there is no room.
    pub idle: usize,
    /// What no honest node would pass on: malformed, of another mesh, wrongly signed.
    pub refused: usize,
}

/// How a session stands, or ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// Which set.
    pub set: SetKind,
    /// How it ended, if it has.
    pub verdict: Verdict,
    /// Items that this node had when the session began.
    pub own_count: u64,
    /// Items that the peer says it had then.
    pub peer_count: u64,
    /// Items that were sent.
    pub sent: u64,
    /// Items that were received and taken.
    pub received: u64,
    /// Items that were received and wait for others.
    pub held: u64,
    /// Items that were received and of no use.
    pub idle: u64,
    /// Items that were received and refused.
    pub refused: u64,
    /// Messages of the comparison that were answered.
    pub rounds: u64,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It has not.
    Unfinished,
    /// Both sets were the same.
    Equal,
    /// Each has sent what the other one lacked.
    Exchanged,
    /// The peer has no time for it now.
    Busy,
}

/// What a peer did that no peer does. The session has ended; whatever was stored stays.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misbehaviour {
    /// A message that has no place at this point.
    #[error("{message:?} has no place here: {expected}")]
    Unexpected {
        /// Which.
        message: &'static str,
        /// What would have had.
        expected: &'static str,
    },
    /// Another version of the protocol. No fault, but no session either.
    #[error("it speaks version {version}, this node version {VERSION}")]
    Version {
        /// Its version.
        version: u8,
    },
    /// The session is about the other set.
    #[error("the session is about {ours:?}, the message about {theirs:?}")]
    Set {
        /// What the session is about.
        ours: SetKind,
        /// What the message is about.
        theirs: SetKind,
    },
    /// A message out of form.
    #[error("out of form: {0}")]
    Form(&'static str),
    /// More than it may, in one message or in the session.
    #[error("too many {what}: at most {max}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// An item above [`ITEM_LEN_MAX`].
    #[error("an item of {len} bytes: at most {ITEM_LEN_MAX}")]
    TooLong {
        /// Its length, in bytes.
        len: usize,
    },
}

impl Misbehaviour {
    /// Whether it speaks against the peer: all but another version do.
    pub fn is_hostile(&self) -> bool {
        !matches!(self, Self::Version { .. })
    }
}
