//! Bytes of which nobody knows beforehand how many they will be, in parts, so that their end can be told from a break:
//! a stream that is dropped ends, at the other side, as one that was ended in order.
//!
//! Each part is its length, as in a frame, and its bytes. One of no bytes is the end.

use std::io;

use bytes::Bytes;
use futures_util::stream;
use shoal_protocol::codec;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use crate::frames::{self, FrameError};
use crate::service::ByteStream;

/// Bytes of one part. Why 64 KiB: as much as is read at once elsewhere; it bounds what the one who reads makes room for.
const PART_LEN_MAX: usize = 64 * 1024;

/// Writes bytes, as many parts as they need.
pub(super) async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &Bytes) -> Result<(), FrameError> {
    for part in bytes.chunks(PART_LEN_MAX) {
        write_part(stream, part).await?;
    }
    Ok(())
}

/// Writes that this was all.
pub(super) async fn end(stream: &mut (impl AsyncWrite + Unpin)) -> Result<(), FrameError> {
    write_part(stream, &[]).await
}

async fn write_part(stream: &mut (impl AsyncWrite + Unpin), part: &[u8]) -> Result<(), FrameError> {
    let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
    frames::write_all(stream, &[&len.to_be_bytes(), part].concat()).await
}

/// The bytes as they come. Fails where they break off before their end.
pub(super) fn read(stream: impl AsyncRead + Send + Unpin + 'static) -> ByteStream {
    Box::pin(stream::try_unfold(stream, |mut stream| async move {
        let mut header = [0; codec::FRAME_HEADER_LEN];
        stream.read_exact(&mut header).await?;
        let len = codec::frame_len(header, PART_LEN_MAX).map_err(io::Error::other)?;
        let mut part = vec![0; len];
        stream.read_exact(&mut part).await?;
        Ok((len > 0).then(|| (Bytes::from(part), stream)))
    }))
}

#[cfg(test)]
mod tests {
    use futures_util::TryStreamExt as _;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    async fn all(stream: ByteStream) -> io::Result<Vec<u8>> {
        stream.try_fold(Vec::new(), async |all, part| Ok([all, part.to_vec()].concat())).await
    }

    #[tokio::test]
    async fn what_was_ended_comes_whole_and_a_break_is_seen_wherever_it_is() {
        let bytes = Bytes::from(vec![7; 2 * PART_LEN_MAX + 5]);
        let mut written = Vec::new();
        write(&mut written, &Bytes::new()).await.unwrap();
        write(&mut written, &bytes).await.unwrap();
        let without_end = written.len();
        end(&mut written).await.unwrap();
        assert_eq!(all(read(io::Cursor::new(written.clone()))).await.unwrap(), bytes);
        for len in [0, 3, 4, 100, without_end - 1, without_end] {
            let cut = all(read(io::Cursor::new(written[..len].to_vec()))).await;
            assert_eq!(cut.unwrap_err().kind(), io::ErrorKind::UnexpectedEof, "after {len} bytes");
        }
    }

    #[tokio::test]
    async fn a_part_is_bounded_before_there_is_room_for_it() {
        let mut long = Vec::new();
        long.write_u32(PART_LEN_MAX as u32 + 1).await.unwrap();
        assert!(all(read(io::Cursor::new(long))).await.is_err());
    }
}
