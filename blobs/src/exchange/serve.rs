//! Serving: one request for one blob, then its answer.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::StreamExt;
use iroh_blobs::api::blobs::EncodedItem;
use iroh_blobs::protocol::{ChunkRanges, Request};
use shoal_protocol::BlobId;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::{ServeError, ServeOptions, Served};
use crate::store::Held;
use crate::store::engine::Engine;
use crate::store::reading::{BUSY_PAUSE, BUSY_TRIES_MAX, diagnose, export};
use crate::{Error, Store};

/// The longest request that is read, in bytes. Why 4 KiB: an id and some hundred ranges; what decodes them takes time
/// in the square of their number.
pub(super) const REQUEST_LEN_MAX: usize = 4 * 1024;
/// What is written to a stream at a time. Why 64 KiB: a write costs a frame on a libp2p stream, and the items of an
/// answer are as small as 64 bytes.
const WRITE_LEN: usize = 64 * 1024;
/// The longest item of an answer: a group.
const ITEM_LEN_MAX: usize = 16 * 1024;

/// The requests that iroh-blobs knows, by their first byte.
const OBSERVE: u8 = 1;
const PUSH: u8 = 8;
const GET_MANY: u8 = 9;

impl Store {
    /// Answers the request of a peer on a stream that it has opened. `allowed` is asked once, for the blob that is about
    /// to be read: who the peer is, and what it may see, the caller knows.
    ///
    /// The request has at most 4 KiB and asks for one blob, or for ranges of it; everything else is refused. Memory is
    /// about 1 MiB, and the time that of [`ServeOptions`]. What the caller bounds: how many streams are served at a time, in
    /// all and for each peer; the future may be dropped at any point.
    ///
    /// Works without [`Store::fetch`] at the other end as well: the protocol is that of iroh-blobs.
    pub async fn serve<S, F, A>(&self, stream: S, allowed: F, options: &ServeOptions) -> Result<Served, ServeError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
        F: FnOnce(BlobId) -> A,
        A: Future<Output = bool>,
    {
        timeout(options.total, self.answer(stream, allowed, options)).await.map_err(|_| ServeError::TooLong)?
    }

    async fn answer<S, F, A>(&self, mut stream: S, allowed: F, options: &ServeOptions) -> Result<Served, ServeError>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin,
        F: FnOnce(BlobId) -> A,
        A: Future<Output = bool>,
    {
        let request = timeout(options.stall, read_request(&mut stream)).await.map_err(|_| ServeError::Stalled)??;
        let (id, ranges) = decode(request).await?;
        if !allowed(id).await {
            withhold(&mut stream, options.stall).await?;
            return Ok(Served::Withheld { id, allowed: false });
        }
        let found = self.held(id).await?.filter(|_| !self.shared.damaged.contains(id));
        let Some((engine, held)) = found else {
            withhold(&mut stream, options.stall).await?;
            return Ok(Served::Withheld { id, allowed: true });
        };
        let answer = Answer { store: self, engine, held, stall: options.stall, bytes: 0 };
        let bytes = answer.write(&mut stream, ranges).await?;
        Ok(Served::Sent { id, bytes })
    }
}

/// Reads until the peer ends its direction.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Result<Bytes, ServeError> {
    let mut request = BytesMut::with_capacity(256);
    while stream.read_buf(&mut request).await.map_err(ServeError::Cut)? > 0 {
        if request.len() > REQUEST_LEN_MAX {
            return Err(ServeError::Misbehaved(format!("a request of more than {REQUEST_LEN_MAX} bytes")));
        }
    }
    Ok(request.freeze())
}

/// Which chunks of which blob are wanted.
async fn decode(mut request: Bytes) -> Result<(BlobId, ChunkRanges), ServeError> {
    let refused = match request.first() {
        None => return Err(ServeError::Cut(io::ErrorKind::UnexpectedEof.into())),
        Some(&OBSERVE) => "a request to observe a blob, which is not served",
        Some(&PUSH) => "a push, which is never taken",
        Some(&GET_MANY) => "a request for many blobs at once, which is not served",
        Some(_) => "what is no request",
    };
    match Request::read_async(&mut request).await {
        Ok((Request::Get(get), _)) => {
            // Anything else reaches through this blob to those whose hashes are its content, which nobody has allowed.
            let Some((0, ranges)) = get.ranges.as_single() else {
                return Err(ServeError::Misbehaved("a request for more than one blob".into()));
            };
            Ok((BlobId(*get.hash.as_bytes()), ranges.clone()))
        }
        _ => Err(ServeError::Misbehaved(refused.into())),
    }
}

/// Ends the stream without a byte: to a peer it is the same whether it may not have a blob, or the blob is not here.
async fn withhold(stream: &mut (impl AsyncWrite + Unpin), stall: Duration) -> Result<(), ServeError> {
    patient(stall, stream.shutdown()).await
}

/// Waits for the peer to take something, but not for ever.
async fn patient(stall: Duration, write: impl Future<Output = io::Result<()>>) -> Result<(), ServeError> {
    timeout(stall, write).await.map_err(|_| ServeError::Stalled)?.map_err(ServeError::Cut)
}

/// The answer to a request.
struct Answer<'a> {
    store: &'a Store,
    engine: Arc<Engine>,
    held: Held,
    stall: Duration,
    bytes: u64,
}

impl Answer<'_> {
    /// Writes it, and the end of the stream. Returns how many bytes it was.
    async fn write(mut self, stream: &mut (impl AsyncWrite + Unpin), ranges: ChunkRanges) -> Result<u64, ServeError> {
        let mut buffer = BytesMut::with_capacity(WRITE_LEN + ITEM_LEN_MAX);
        let mut busy = 0;
        let mut items = export(&self.engine, self.held.id(), ranges.clone());
        loop {
            match items.next().await {
                Some(EncodedItem::Size(size)) => buffer.put_u64_le(size),
                Some(EncodedItem::Parent(parent)) => {
                    buffer.put_slice(parent.pair.0.as_bytes());
                    buffer.put_slice(parent.pair.1.as_bytes());
                }
                Some(EncodedItem::Leaf(leaf)) => buffer.put_slice(&leaf.data),
                // If it ended too early, an error comes before the end.
                Some(EncodedItem::Done) | None => break,
                Some(EncodedItem::Error(cause)) => {
                    let cause = io::Error::from(cause);
                    // Only ever the first item: more peers read this blob than iroh-blobs takes on at once.
                    if cause.kind() == io::ErrorKind::ResourceBusy && buffer.is_empty() && busy < BUSY_TRIES_MAX {
                        busy += 1;
                        tokio::time::sleep(BUSY_PAUSE).await;
                        items = export(&self.engine, self.held.id(), ranges.clone());
                        continue;
                    }
                    return Err(self.failure(&cause).await);
                }
            }
            if buffer.len() >= WRITE_LEN {
                self.send(stream, &mut buffer).await?;
            }
        }
        self.send(stream, &mut buffer).await?;
        patient(self.stall, stream.shutdown()).await?;
        Ok(self.bytes)
    }

    async fn send(&mut self, stream: &mut (impl AsyncWrite + Unpin), buffer: &mut BytesMut) -> Result<(), ServeError> {
        patient(self.stall, stream.write_all(buffer)).await?;
        self.bytes += buffer.len() as u64;
        buffer.clear();
        Ok(())
    }

    async fn failure(&self, cause: &io::Error) -> ServeError {
        if self.engine.has_failed() {
            return ServeError::Store(Error::disk_because("the blob store is being reopened"));
        }
        diagnose(&self.store.shared, &self.engine, self.held.id(), cause).await.into()
    }
}
