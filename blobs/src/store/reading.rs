//! Reading a blob: in constant memory, and verified.
//!
//! Every byte that comes out has been checked against the blob's id, by iroh-blobs along the outboard, in groups of
//! 16 KiB. So a damaged disk shows as an error, never as other content.

use std::fmt;
use std::io;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream::{self, BoxStream};
use futures_util::{Stream, StreamExt};
use iroh_blobs::api::blobs::{EncodedItem, ExportBaoOptions};
use iroh_blobs::protocol::{ChunkRanges, ChunkRangesExt};
use shoal_protocol::BlobId;

use super::Shared;
use super::engine::{Engine, hash};
use super::held::Held;
use crate::Error;

/// Items that wait between iroh-blobs and the reader. Why 128: half of them are groups of 16 KiB, so 1 MiB at most.
const ITEMS_WAITING: usize = 128;
/// How often, and how long apart, a read is asked again of a blob that too many read at once. Why 100 × 5 ms: the queue
/// that overflows is one of 32 requests that are only handed on.
pub(crate) const BUSY_TRIES_MAX: u32 = 100;
pub(crate) const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// A range of a blob, as a stream of chunks of up to 16 KiB in order, none of them empty. Holds the blob until it is
/// dropped. After an error it has ended.
pub struct Reading {
    size: u64,
    range: Range<u64>,
    chunks: BoxStream<'static, Result<Bytes, Error>>,
}

impl Reading {
    pub(super) fn new(shared: Arc<Shared>, engine: Arc<Engine>, held: Held, range: Range<u64>) -> Self {
        let size = held.size();
        let range = range.start.min(size)..range.end.min(size);
        let state = State { shared, engine, held, at: range.start, end: range.end, items: None, busy: 0 };
        let chunks = stream::unfold(Some(state), |state| async move {
            let mut state = state?;
            match state.next().await {
                Ok(None) => None,
                Ok(Some(chunk)) => Some((Ok(chunk), Some(state))),
                Err(cause) => Some((Err(cause), None)),
            }
        });
        Self { size, range, chunks: chunks.boxed() }
    }

    /// Length of the whole blob in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// What is read: the range that was asked for, as far as the blob reaches.
    pub fn range(&self) -> Range<u64> {
        self.range.clone()
    }
}

impl Stream for Reading {
    type Item = Result<Bytes, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.poll_next_unpin(cx)
    }
}

impl fmt::Debug for Reading {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reading({:?} of {} bytes)", self.range, self.size)
    }
}

struct State {
    shared: Arc<Shared>,
    engine: Arc<Engine>,
    held: Held,
    /// The next byte to come out, and the one after the last.
    at: u64,
    end: u64,
    items: Option<BoxStream<'static, EncodedItem>>,
    busy: u32,
}

impl State {
    /// The next chunk; `None` at the end. Chunks are iroh-blobs' own, without a copy. (Tried: joining them to 64 KiB.
    /// It cost a third more CPU than reading does.)
    async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.at < self.end {
            let (at, end) = (self.at, self.end);
            let items =
                self.items.get_or_insert_with(|| export(&self.engine, self.held.id(), ChunkRanges::bytes(at..end)));
            match items.next().await {
                Some(EncodedItem::Leaf(leaf)) => {
                    // Leaves come in whole KiB, so the first and the last may reach beyond the range.
                    let skip = usize::try_from(at.saturating_sub(leaf.offset)).unwrap_or(usize::MAX);
                    let take = usize::try_from(end.saturating_sub(leaf.offset)).unwrap_or(usize::MAX);
                    let to = leaf.data.len().min(take);
                    let chunk = leaf.data.slice(skip.min(to)..to);
                    if !chunk.is_empty() {
                        self.at += chunk.len() as u64;
                        return Ok(Some(chunk));
                    }
                }
                Some(EncodedItem::Error(cause)) => self.recover(cause.into()).await?,
                Some(EncodedItem::Size(_) | EncodedItem::Parent(_)) => {}
                Some(EncodedItem::Done) | None => self.recover(io::ErrorKind::UnexpectedEof.into()).await?,
            }
        }
        Ok(None)
    }

    /// Asks again if the blob is busy; else says what the failure means.
    async fn recover(&mut self, cause: io::Error) -> Result<(), Error> {
        let id = self.held.id();
        if cause.kind() == io::ErrorKind::ResourceBusy && self.busy < BUSY_TRIES_MAX {
            self.busy += 1;
            self.items = None;
            tokio::time::sleep(BUSY_PAUSE).await;
            return Ok(());
        }
        Err(diagnose(&self.shared, &self.engine, id, &cause).await)
    }
}

/// What it means that a blob which is here could not be read.
pub(crate) async fn diagnose(shared: &Shared, engine: &Engine, id: BlobId, cause: &io::Error) -> Error {
    if !engine.answers().await {
        return engine.failing(Error::disk("reading a blob", cause));
    }
    match cause.kind() {
        // The disk refuses: that need not be the content's fault.
        io::ErrorKind::ResourceBusy | io::ErrorKind::PermissionDenied => Error::disk("reading a blob", cause),
        _ if cause.raw_os_error().is_some() => Error::disk("reading a blob", cause),
        _ => {
            tracing::warn!(%id, %cause, "a blob is damaged on disk");
            shared.damaged.insert(id);
            Error::Damaged(id)
        }
    }
}

/// What iroh-blobs says about these chunks of a blob: its size, the hashes on the way, the bytes, each verified.
pub(crate) fn export(engine: &Engine, id: BlobId, ranges: ChunkRanges) -> BoxStream<'static, EncodedItem> {
    engine.fs.export_bao_with_opts(ExportBaoOptions { hash: hash(id), ranges }, ITEMS_WAITING).stream().boxed()
}
