//! Where the verified items of an answer go.
//!
//! A long blob goes into iroh-blobs' storage for partial blobs, group by group, so that the next attempt goes on where
//! this one ended. Making such an entry costs three syncs, so a short blob is put as if a client had brought it; and so
//! is one that is damaged here, since a complete entry takes no new bytes in any other way.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;

use bao_tree::io::BaoContentItem;
use bytes::Bytes;
use futures_util::stream;
use iroh_blobs::api::blobs::ImportBaoHandle;
use shoal_protocol::BlobId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::store::engine::{Engine, hash};
use crate::store::intake::CHUNK_LEN;
use crate::{Error, Held, Store};

/// Blobs up to this length are put. Why 256 KiB: what a put holds in memory before it touches the disk, so that one that
/// is broken off leaves nothing behind.
pub(super) const PUT_LEN_MAX: u64 = CHUNK_LEN as u64;
/// Items that wait for the disk. Why 32: half of them are groups of 16 KiB, so 256 KiB.
const ITEMS_WAITING: usize = 32;

pub(super) enum Sink {
    /// Into a partial blob.
    Partial { import: ImportBaoHandle, engine: Arc<Engine>, written: Written },
    /// Into a put.
    Put { pieces: mpsc::Sender<io::Result<Bytes>>, put: JoinHandle<Result<Held, Error>> },
}

/// Counts what went into a partial blob, and has it written back now and then.
pub(super) struct Written {
    len: u64,
    hook: Box<dyn FnMut(u64) + Send>,
    /// No other instance opens meanwhile.
    _writing: TaskTrackerToken,
}

impl Sink {
    pub(super) async fn partial(
        engine: &Arc<Engine>,
        writing: TaskTrackerToken,
        id: BlobId,
        len: NonZeroU64,
    ) -> Result<Self, Error> {
        let import = engine.fs.import_bao(hash(id), len, ITEMS_WAITING).await;
        let import = import.map_err(|e| engine.failing(Error::disk("storing a part of a blob", &e)))?;
        let written = Written { len: 0, hook: engine.write_back_hook(Some(id)), _writing: writing };
        Ok(Self::Partial { import, engine: engine.clone(), written })
    }

    pub(super) fn put(store: &Store, len: u64) -> Self {
        let (pieces, mut received) = mpsc::channel(ITEMS_WAITING);
        let store = store.clone();
        let put = async move { store.put(len, stream::poll_fn(move |cx| received.poll_recv(cx))).await };
        Self::Put { pieces, put: tokio::spawn(put) }
    }

    /// Hands an item on. `false`: the store takes no more, [`Sink::finish`] says why.
    pub(super) async fn take(&mut self, item: BaoContentItem) -> bool {
        match self {
            Self::Partial { import, written, .. } => {
                if let BaoContentItem::Leaf(leaf) = &item {
                    written.len += leaf.data.len() as u64;
                    (written.hook)(written.len);
                }
                import.tx.send(item).await.is_ok()
            }
            Self::Put { pieces, .. } => match item {
                BaoContentItem::Leaf(leaf) => pieces.send(Ok(leaf.data)).await.is_ok(),
                BaoContentItem::Parent(_) => true,
            },
        }
    }

    /// Waits until what was handed on is written. `whole`: it was all.
    pub(super) async fn finish(self, whole: bool) -> Result<(), Error> {
        match self {
            Self::Partial { import, engine, .. } => {
                drop(import.tx);
                match import.rx.await {
                    Ok(Ok(())) => Ok(()),
                    Ok(Err(cause)) => Err(engine.failing(Error::disk("storing a part of a blob", &cause))),
                    Err(cause) => Err(engine.failing(Error::disk("storing a part of a blob", &cause))),
                }
            }
            Self::Put { pieces, put } => {
                if !whole {
                    // Else the put would take the part for a blob. It fails with this very error, or has failed already.
                    let _ = pieces.send(Err(io::ErrorKind::Interrupted.into())).await;
                }
                drop(pieces);
                match put.await {
                    Ok(Ok(_)) => Ok(()),
                    Ok(Err(Error::Source(_))) if !whole => Ok(()),
                    Ok(Err(cause)) => Err(cause),
                    Err(cause) => Err(Error::disk("storing a blob", &cause)),
                }
            }
        }
    }
}
