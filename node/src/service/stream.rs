//! Streams of bytes on their way in and out.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::{Stream, StreamExt};

use super::ByteStream;

/// Bytes that are already here.
pub(super) fn once(bytes: Bytes) -> ByteStream {
    Box::pin(futures_util::stream::once(async move { Ok(bytes) }))
}

/// The bytes of a blob, as an edge writes them.
pub(super) fn reading(reading: shoal_blobs::Reading) -> ByteStream {
    Box::pin(reading.map(|chunk| chunk.map_err(std::io::Error::other)))
}

/// Fails with `UnexpectedEof` where a stream ends before its announced length, and with `InvalidData` where it goes on.
pub(super) struct Exact {
    inner: ByteStream,
    announced: u64,
    read: u64,
}

impl Exact {
    pub(super) fn new(inner: ByteStream, announced: u64) -> Self {
        Self { inner, announced, read: 0 }
    }

    fn error(&self, kind: std::io::ErrorKind) -> Poll<Option<std::io::Result<Bytes>>> {
        let text = format!("{} bytes were announced, {} came", self.announced, self.read);
        Poll::Ready(Some(Err(std::io::Error::new(kind, text))))
    }
}

impl Stream for Exact {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.inner.poll_next_unpin(context) {
            Poll::Ready(Some(Ok(bytes))) => {
                self.read += bytes.len() as u64;
                if self.read > self.announced {
                    return self.error(std::io::ErrorKind::InvalidData);
                }
                Poll::Ready(Some(Ok(bytes)))
            }
            Poll::Ready(None) if self.read < self.announced => self.error(std::io::ErrorKind::UnexpectedEof),
            other => other,
        }
    }
}
