//! Frames on QUIC streams: [`shoal_protocol::codec`] says their form, this moves them.

use quinn::{ReadExactError, RecvStream, SendStream};
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_protocol::codec;

/// Bytes taken from a stream at once. Why 64 KiB: many small frames, or a good part of a large one.
const READ_LEN: usize = 64 * 1024;

/// Why a frame was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than the connection takes, or not of the form that is due here. The peer is at fault.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// The stream ended inside a frame. The peer is at fault, or died.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// Nothing more can be read: the stream was reset or the connection is gone.
    #[error("reading: {0}")]
    Read(#[from] quinn::ReadError),
    /// Nothing more can be written: the peer does not read on, or the connection is gone.
    #[error("writing: {0}")]
    Write(#[from] quinn::WriteError),
}

/// Reads the next frame; none if the stream ended properly before it. `max` is the limit of the connection, in bytes
/// of the message.
///
/// Not to be dropped halfway: what was read of the frame would be lost. Keep it in a task of its own, or keep the
/// future.
pub async fn read_frame<T: DeserializeOwned>(stream: &mut RecvStream, max: usize) -> Result<Option<T>, FrameError> {
    let mut header = [0; codec::FRAME_HEADER_LEN];
    match stream.read_exact(&mut header).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(error) => return Err(early(error)),
    }
    let mut body = vec![0; codec::frame_len(header, max)?];
    stream.read_exact(&mut body).await.map_err(early)?;
    Ok(Some(codec::decode(&body)?))
}

/// Reads frame after frame from a stream, for a protocol that is nothing but frames.
///
/// Holds what was received and not yet taken: at most a frame and what came with its end.
#[derive(Debug)]
pub struct FrameReader {
    stream: RecvStream,
    buffer: Vec<u8>,
    /// Bytes at the start of `buffer` that were taken already.
    taken: usize,
    max: usize,
}

impl FrameReader {
    /// Reads from this stream frames of at most `max` bytes.
    pub fn new(stream: RecvStream, max: usize) -> Self {
        Self { stream, buffer: Vec::new(), taken: 0, max }
    }

    /// The next frame; none if the stream ended properly. May be dropped at any time, also in a `select!`: what was
    /// received stays here.
    pub async fn next<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        loop {
            if let Some(body) = self.whole()? {
                return Ok(Some(codec::decode(&body)?));
            }
            match self.stream.read_chunk(READ_LEN, true).await? {
                Some(chunk) => {
                    self.buffer.drain(..self.taken);
                    self.taken = 0;
                    self.buffer.extend_from_slice(&chunk.bytes);
                }
                None if self.buffer.len() == self.taken => return Ok(None),
                None => return Err(FrameError::Truncated),
            }
        }
    }

    /// The body of the first frame, if all of it is here.
    fn whole(&mut self) -> Result<Option<Vec<u8>>, FrameError> {
        let received = self.buffer.get(self.taken..).unwrap_or_default();
        let Some((header, rest)) = received.split_first_chunk::<{ codec::FRAME_HEADER_LEN }>() else {
            return Ok(None);
        };
        let len = codec::frame_len(*header, self.max)?;
        let Some(body) = rest.get(..len) else { return Ok(None) };
        let body = body.to_vec();
        self.taken += codec::FRAME_HEADER_LEN + len;
        Ok(Some(body))
    }
}

/// Writes one frame. If the future is dropped halfway the stream is of no more use.
pub async fn write_frame<T: Serialize + ?Sized>(
    stream: &mut SendStream,
    message: &T,
    max: usize,
) -> Result<(), FrameError> {
    let frame = codec::frame(message, max)?;
    Ok(stream.write_all(&frame).await?)
}

fn early(error: ReadExactError) -> FrameError {
    match error {
        ReadExactError::FinishedEarly(_) => FrameError::Truncated,
        ReadExactError::ReadError(error) => FrameError::Read(error),
    }
}
