//! How this node and its peers come to hold the same documents and the same global KV.
//!
//! [`Sets`] are the two sets of signed items that nodes share. Two nodes reconcile them by hashes, one session for each
//! set over a stream of its own ([`Sets::initiate`], [`Sets::respond`]); what is accepted here goes on to others by gossip
//! ([`Accepted`], [`Sets::judge`]). Gossip is a hint: whatever it loses is found by the next session.
//!
//! The mesh drives this and brings streams and bytes; sockets and peers' addresses are its own.

mod bulk;
mod feed;
mod gossip;
mod session;
#[cfg(test)]
mod tests;

use std::time::Instant;

use shoal_crdt::reconcile::{Held, Index, Report, Session, Stored, Verdict};
use shoal_protocol::change::SignedChange;
use shoal_protocol::entry::SignedEntry;
use shoal_protocol::wire::sync::{SYNC_FRAME_LEN_MAX, SetKind, SignedItem, SyncMessage};
use shoal_protocol::{BlobId, Problem};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::broadcast;

use crate::documents::Documents;
use crate::frames::{self, FrameError};
use crate::service::GlobalKv;
use bulk::Bulk;
use session::Start;

pub(crate) use feed::{Accepted, Feed, Origin};
pub(crate) use gossip::Judgement;
pub(crate) use session::SyncError;

/// What a digest is a hash for.
const DIGEST_CONTEXT: &str = "shoal digest of the replicated sets v1";

/// The sets that this node shares with its mesh. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sets {
    documents: Documents,
    kv: GlobalKv,
    bulk: Bulk,
}

/// How much there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Changes of users, projects and functions.
    pub(crate) changes: usize,
    /// Entries of the global KV that stand.
    pub(crate) entries: usize,
    /// Entries of peers that were not taken since the start, because their counters are far above what is known here.
    pub(crate) far_ahead: u64,
}

impl Sets {
    /// Puts the sets together.
    pub(crate) fn new(documents: Documents, kv: GlobalKv) -> Self {
        Self { documents, kv, bulk: Bulk::default() }
    }

    /// A hash over both sets: equal exactly for nodes that hold the same. It goes with hints to neighbours.
    pub(crate) fn digest(&self) -> BlobId {
        let mut hasher = blake3::Hasher::new_derive_key(DIGEST_CONTEXT);
        hasher.update(&self.documents.with_index(Index::root).0).update(&self.kv.with_index(Index::root).0);
        BlobId(*hasher.finalize().as_bytes())
    }

    /// How much there is.
    pub(crate) fn counts(&self) -> Counts {
        Counts {
            changes: self.documents.with_index(Index::len),
            entries: self.kv.with_index(Index::len),
            far_ahead: self.kv.far_ahead(),
        }
    }

    /// Listens to the changes that are accepted from now on: each once, in the order of the journal. Lagging behind loses
    /// the oldest.
    pub(crate) fn accepted_changes(&self) -> broadcast::Receiver<Accepted<SignedChange>> {
        self.documents.accepted()
    }

    /// Listens to the entries that come to stand from now on, as [`Self::accepted_changes`].
    pub(crate) fn accepted_entries(&self) -> broadcast::Receiver<Accepted<SignedEntry>> {
        self.kv.accepted()
    }

    /// Reconciles one of the sets with a peer, over a stream that this node has opened for it. [`SetKind::Changes`] comes
    /// first: an entry is taken where the documents are known that it rests on. [`Verdict::Busy`]: the peer, or this node,
    /// is being filled by another; nothing was done, and it is worth a try in a while.
    ///
    /// # Errors
    /// The session ended early. Where [`SyncError::is_hostile`], the peer does what no peer does.
    pub(crate) async fn initiate(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send,
        set: SetKind,
    ) -> Result<Report, SyncError> {
        if self.bulk.is_under_way(Instant::now()) {
            // The peer may be gone: it is to lose nothing by this.
            drop(stream.shutdown().await);
            return Ok(self.busy(set));
        }
        self.run(stream, set, Start::Initiate).await
    }

    /// Answers a peer that has opened a stream.
    ///
    /// # Errors
    /// As [`Self::initiate`].
    pub(crate) async fn respond(
        &self,
        mut stream: impl AsyncRead + AsyncWrite + Unpin + Send,
    ) -> Result<Report, SyncError> {
        let open: SyncMessage = frames::expect(&mut stream, SYNC_FRAME_LEN_MAX).await?;
        let SyncMessage::Open { set, .. } = open else {
            // The session says what is wrong with it.
            return self.run(stream, SetKind::Changes, Start::Respond(open)).await;
        };
        if self.bulk.is_under_way(Instant::now()) {
            frames::write(&mut stream, &SyncMessage::Busy, SYNC_FRAME_LEN_MAX).await?;
            stream.shutdown().await.map_err(FrameError::from)?;
            return Ok(self.busy(set));
        }
        self.run(stream, set, Start::Respond(open)).await
    }

    async fn run(
        &self,
        stream: impl AsyncRead + AsyncWrite + Send,
        set: SetKind,
        start: Start,
    ) -> Result<Report, SyncError> {
        match set {
            SetKind::Changes => session::run(stream, &self.documents, &self.bulk, start).await,
            SetKind::Entries => session::run(stream, &self.kv, &self.bulk, start).await,
        }
    }

    /// The report of a session that was not held.
    fn busy(&self, set: SetKind) -> Report {
        let report = match set {
            SetKind::Changes => self.documents.with_index(|index| Session::respond(set, index).report()),
            SetKind::Entries => self.kv.with_index(|index| Session::respond(set, index).report()),
        };
        Report { verdict: Verdict::Busy, ..report }
    }
}

/// A set of signed items that nodes share, with the index by which it is compared.
pub(crate) trait Shared: Sync {
    /// Which.
    const KIND: SetKind;

    /// Looks at the index. Not to be nested: whoever waits to write would stop the second look.
    fn with_index<T>(&self, look: impl FnOnce(&Index) -> T) -> T;

    /// The items at these places, in their order; none for one that is no longer there. Stops once it has `len_max` bytes.
    ///
    /// # Errors
    /// The store cannot be read.
    fn read_items(&self, items: &[Held], len_max: usize) -> Result<Vec<Option<SignedItem>>, Problem>;

    /// Checks items that a peer has sent, and makes those that are of use durable as one commit. The index has them
    /// when this returns. Dropping the future does not stop what it has begun.
    ///
    /// # Errors
    /// The disk, or the node is stopping: nothing was taken.
    fn receive(&self, items: Vec<SignedItem>, origin: Origin) -> impl Future<Output = Result<Stored, Problem>> + Send;
}

/// Reads items for [`Shared::read_items`]: at least one, then as many as `len_max` bytes hold.
pub(crate) fn read_up_to(
    items: &[Held],
    len_max: usize,
    read: impl Fn(&Held) -> Result<Option<SignedItem>, Problem>,
) -> Result<Vec<Option<SignedItem>>, Problem> {
    let mut found = Vec::with_capacity(items.len());
    let mut len = 0;
    for held in items {
        if len >= len_max && !found.is_empty() {
            break;
        }
        let item = read(held)?;
        len += item.as_ref().map_or(0, |item| item.bytes.len());
        found.push(item);
    }
    Ok(found)
}
