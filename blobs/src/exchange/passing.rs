//! A blob that is read at a peer without being kept here: verified as it comes, and handed on.

use std::io;
use std::ops::Range;
use std::time::Duration;

use bao_tree::io::{BaoContentItem, Leaf};
use bytes::Bytes;
use futures_util::{Stream, stream};
use iroh_blobs::get::fsm::{BlobContentNext, DecodeError};
use iroh_blobs::protocol::{ChunkRanges, ChunkRangesExt};
use shoal_protocol::BlobId;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use super::attempt::{Content, Ended, ask};

/// Reads the bytes `range` of a blob of `size` bytes from a stream at whose other end
/// [`Store::serve`](crate::Store::serve) runs. Each group of 16 KiB is checked against `id` before it comes out; about
/// 200 KiB are kept meanwhile, and nothing is on the disk.
///
/// Also the blob's last chunk is asked for: it proves the length. So a peer that lied about that is found at the end.
///
/// The bytes end with an error where not all came, of kind `InvalidData` where the peer sent what is no part of the blob,
/// and `TimedOut` where nothing came for `stall`. Fails before the first of them if the peer has not got the blob.
pub async fn passing<S>(
    stream: S,
    id: BlobId,
    size: u64,
    range: Range<u64>,
    stall: Duration,
) -> io::Result<impl Stream<Item = io::Result<Bytes>> + Send + 'static>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let wanted = ChunkRanges::bytes(range.clone()) | ChunkRanges::last_chunk();
    let (content, said) = in_time(stall, ask(Box::new(stream), id, wanted)).await?.map_err(failure)?;
    if said != size {
        return Err(io::Error::new(io::ErrorKind::InvalidData, format!("{said} bytes instead of {size}")));
    }
    let passing = Passing { content: Some(content), left: range, stall };
    Ok(stream::try_unfold(passing, Passing::next))
}

struct Passing {
    /// None: the answer is over.
    content: Option<Content>,
    /// What has not come out yet.
    left: Range<u64>,
    stall: Duration,
}

impl Passing {
    async fn next(mut self) -> io::Result<Option<(Bytes, Self)>> {
        while let Some(content) = self.content.take() {
            match in_time(self.stall, content.next()).await? {
                BlobContentNext::Done(_) if !self.left.is_empty() => return Err(io::ErrorKind::UnexpectedEof.into()),
                BlobContentNext::Done(_) => {}
                BlobContentNext::More((next, item)) => {
                    self.content = Some(next);
                    let BaoContentItem::Leaf(leaf) = item.map_err(decoding)? else { continue };
                    let bytes = part(leaf, &self.left);
                    if !bytes.is_empty() {
                        self.left.start += bytes.len() as u64;
                        return Ok(Some((bytes, self)));
                    }
                }
            }
        }
        Ok(None)
    }
}

/// What of a group is wanted next. Groups come in order.
fn part(leaf: Leaf, wanted: &Range<u64>) -> Bytes {
    let end = leaf.offset + leaf.data.len() as u64;
    if wanted.is_empty() || !(leaf.offset..end).contains(&wanted.start) {
        return Bytes::new();
    }
    // Both lie within the group, so they fit.
    let place = |at: u64| usize::try_from(at - leaf.offset).unwrap_or(usize::MAX);
    leaf.data.slice(place(wanted.start)..place(wanted.end.min(end)))
}

async fn in_time<T>(stall: Duration, coming: impl Future<Output = T>) -> io::Result<T> {
    timeout(stall, coming).await.map_err(|_| io::ErrorKind::TimedOut.into())
}

fn failure(ended: Ended) -> io::Error {
    match ended {
        Ended::Provider(end) => io::Error::other(end.to_string()),
        _ => io::Error::other("the blob could not be asked for"),
    }
}

fn decoding(cause: DecodeError) -> io::Error {
    match cause {
        DecodeError::ParentHashMismatch { .. } | DecodeError::LeafHashMismatch { .. } => {
            io::Error::new(io::ErrorKind::InvalidData, cause.to_string())
        }
        cause => io::Error::new(io::ErrorKind::UnexpectedEof, cause.to_string()),
    }
}
