//! Frames of one stream, read so that nothing is lost when a reader is interrupted, many at a time.

use bytes::{Buf as _, Bytes, BytesMut};
use quinn::RecvStream;
use serde::de::DeserializeOwned;
use shoal_protocol::codec;

/// What is taken from the transport at once, in bytes. Why 64 KiB: some hundred requests.
const CHUNK_LEN_MAX: usize = 64 * 1024;

/// Why no frame was read.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// The peer sent what it may not send.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The peer, or the way to it, is gone.
    #[error("{0}")]
    Gone(#[from] quinn::ReadError),
}

/// Reads the frames of one stream.
pub(super) struct Frames {
    stream: RecvStream,
    buffer: BytesMut,
    len_max: usize,
}

impl Frames {
    /// Frames of up to `len_max` bytes.
    pub(super) fn new(stream: RecvStream, len_max: usize) -> Self {
        Self { stream, buffer: BytesMut::new(), len_max }
    }

    /// From here on, frames may be of up to `len_max` bytes.
    pub(super) fn allow(&mut self, len_max: usize) {
        self.len_max = len_max;
    }

    /// The next frame; none if the stream ended properly before it. May be dropped and called again: nothing is lost.
    pub(super) async fn read<T: DeserializeOwned>(&mut self) -> Result<Option<T>, Error> {
        loop {
            if let Some((message, _)) = self.take()? {
                return Ok(Some(message));
            }
            if !self.fill().await? {
                return if self.buffer.is_empty() { Ok(None) } else { Err(Error::Truncated) };
            }
        }
    }

    /// A frame that has already arrived whole, and its length in bytes.
    pub(super) fn take<T: DeserializeOwned>(&mut self) -> Result<Option<(T, usize)>, Error> {
        let Some(header) = self.buffer.first_chunk() else { return Ok(None) };
        let len = codec::frame_len(*header, self.len_max)?;
        let Some(body) = self.buffer.get(codec::FRAME_HEADER_LEN..codec::FRAME_HEADER_LEN.saturating_add(len)) else {
            return Ok(None);
        };
        let message = codec::decode(body)?;
        self.buffer.advance(codec::FRAME_HEADER_LEN + len);
        Ok(Some((message, len)))
    }

    /// Waits until more has arrived; `false` at the end of the stream. Holds at most one frame and one chunk, if every
    /// frame is taken before. May be dropped and called again.
    pub(super) async fn fill(&mut self) -> Result<bool, Error> {
        match self.stream.read_chunk(CHUNK_LEN_MAX, true).await? {
            Some(chunk) => {
                self.buffer.extend_from_slice(&chunk.bytes);
                Ok(true)
            }
            None => Ok(false),
        }
    }

    /// Whether part of a frame has arrived.
    pub(super) fn has_part(&self) -> bool {
        !self.buffer.is_empty()
    }

    /// What follows the frames that were read: bytes that have arrived, and the stream.
    pub(super) fn into_rest(self) -> (Bytes, RecvStream) {
        (self.buffer.freeze(), self.stream)
    }
}
