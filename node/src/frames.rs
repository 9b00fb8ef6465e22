//! Frames on streams between nodes: [`shoal_protocol::codec`] says their form, this moves them.

use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_protocol::codec;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

/// How long a peer may take to read what it is sent, and to send a frame that is due.
pub(crate) const STALL_MAX: Duration = Duration::from_secs(20);

/// Why a frame was not read or written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FrameError {
    /// Longer than the protocol takes, or not of its form: the peer is at fault.
    #[error(transparent)]
    Codec(#[from] codec::Error),
    /// What this node has to say does not fit into a frame.
    #[error("it does not fit into a frame: {0}")]
    TooLong(codec::Error),
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The peer ended the stream where a frame was due.
    #[error("the peer ended the stream")]
    Ended,
    /// The peer took too long.
    #[error("the peer was silent for {} s", STALL_MAX.as_secs())]
    TimedOut,
}

impl FrameError {
    /// Whether it speaks against the peer.
    pub(crate) fn is_hostile(&self) -> bool {
        matches!(self, Self::Codec(_))
    }
}

/// The next frame; none if the stream has ended before it. `max` is the protocol's limit, in bytes.
pub(crate) async fn read<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<Option<T>, FrameError> {
    let mut header = [0; codec::FRAME_HEADER_LEN];
    let first = stream.read(&mut header).await?;
    if first == 0 {
        return Ok(None);
    }
    let rest = async {
        if let Some(rest) = header.get_mut(first..) {
            stream.read_exact(rest).await?;
        }
        let mut body = vec![0; codec::frame_len(header, max)?];
        stream.read_exact(&mut body).await?;
        Ok::<_, FrameError>(body)
    };
    // Whoever has begun a frame is expected to end it.
    let body = timeout(STALL_MAX, rest).await.map_err(|_| FrameError::TimedOut)??;
    Ok(Some(codec::decode(&body)?))
}

/// The same where a frame is due now.
pub(crate) async fn expect<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<T, FrameError> {
    expect_within(stream, max, STALL_MAX).await
}

/// The same where a frame is due within some time.
pub(crate) async fn expect_within<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
    within: Duration,
) -> Result<T, FrameError> {
    let frame = timeout(within, read(stream, max)).await.map_err(|_| FrameError::TimedOut)??;
    frame.ok_or(FrameError::Ended)
}

/// The same where a frame is due, whenever it comes.
pub(crate) async fn expect_at_last<T: DeserializeOwned>(
    stream: &mut (impl AsyncRead + Unpin),
    max: usize,
) -> Result<T, FrameError> {
    read(stream, max).await?.ok_or(FrameError::Ended)
}

/// Writes one frame.
pub(crate) async fn write<T: Serialize + ?Sized>(
    stream: &mut (impl AsyncWrite + Unpin),
    message: &T,
    max: usize,
) -> Result<(), FrameError> {
    write_all(stream, &codec::frame(message, max).map_err(FrameError::TooLong)?).await
}

/// Writes bytes that are frames already.
pub(crate) async fn write_all(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> Result<(), FrameError> {
    let writing = async {
        stream.write_all(bytes).await?;
        stream.flush().await
    };
    Ok(timeout(STALL_MAX, writing).await.map_err(|_| FrameError::TimedOut)??)
}
