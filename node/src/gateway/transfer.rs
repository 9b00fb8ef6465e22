//! Bytes between a stream of the transport and a stream of the service.
//!
//! What always holds: a transfer that broke off never looks like one that ended: the stream is reset. A peer that does
//! not move for [`STALL_MAX`] loses the transfer, so that a slow one holds its place for a bounded time only.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use quinn::{RecvStream, SendStream};
use serde::Serialize;
use shoal_protocol::limits::{BLOB_CHUNK_LEN_MAX, CLIENT_FRAME_LEN_MAX};
use shoal_protocol::wire::client::Reply;
use shoal_protocol::{Kind, Problem};
use shoal_transport::write_frame;
use tokio::time::timeout;

use super::close;
use crate::service::ByteStream;

/// How long a peer may leave a transfer standing. Why 30 s: twice the time after which a silent connection ends.
pub(super) const STALL_MAX: Duration = Duration::from_secs(30);
/// How long an answer may take to reach a peer before the connection is closed behind it.
const FLUSH_MAX: Duration = Duration::from_secs(2);

/// The bytes that a peer sends: those that have arrived with the opening, then the stream up to its end.
pub(super) fn incoming(arrived: Bytes, stream: RecvStream) -> ByteStream {
    let rest = stream::unfold(Some(stream), |stream| async {
        let mut stream = stream?;
        match timeout(STALL_MAX, stream.read_chunk(BLOB_CHUNK_LEN_MAX, true)).await {
            Ok(Ok(Some(chunk))) => Some((Ok(chunk.bytes), Some(stream))),
            Ok(Ok(None)) => None,
            Ok(Err(error)) => Some((Err(io::Error::new(io::ErrorKind::ConnectionReset, error)), None)),
            Err(_) => Some((Err(io::Error::new(io::ErrorKind::TimedOut, "the sender stands still")), None)),
        }
    });
    let arrived = (!arrived.is_empty()).then_some(Ok(arrived));
    Box::pin(stream::iter(arrived).chain(rest))
}

/// Sends the bytes and ends the stream, or resets it where that cannot be done. Ends early when the peer wants no more.
pub(super) async fn outgoing(mut bytes: ByteStream, mut to: SendStream) {
    let gone = to.stopped();
    tokio::pin!(gone);
    loop {
        let chunk = tokio::select! {
            biased;
            chunk = bytes.next() => chunk,
            _ = &mut gone => return,
        };
        match chunk {
            Some(Ok(chunk)) => match timeout(STALL_MAX, to.write_chunk(chunk)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return,
                Err(_) => break reset(&mut to, close::STALLED),
            },
            Some(Err(error)) => {
                tracing::debug!(%error, "a transfer to a peer broke off");
                break reset(&mut to, close::BROKEN);
            }
            None => {
                // Fails only if the peer has stopped the stream meanwhile.
                let _ = to.finish();
                return;
            }
        }
    }
}

fn reset(stream: &mut SendStream, code: u32) {
    // Fails only if the stream has ended already.
    let _ = stream.reset(code.into());
}

/// Answers with one frame and ends the stream.
pub(super) async fn answer<T: Serialize>(mut to: SendStream, reply: &Reply<T>) {
    if begin(&mut to, reply).await {
        let _ = to.finish();
    }
}

/// Answers with one frame and waits a moment until the peer has it, since what is still under way when the connection
/// is closed is lost.
pub(super) async fn answer_last<T: Serialize>(mut to: SendStream, message: &T) {
    let sent = async {
        write_frame(&mut to, message, CLIENT_FRAME_LEN_MAX).await.ok()?;
        to.finish().ok()?;
        to.stopped().await.ok()
    };
    let _ = timeout(FLUSH_MAX, sent).await;
}

/// Answers with one frame; bytes may follow. `false` if the peer is gone.
pub(super) async fn begin<T: Serialize>(to: &mut SendStream, reply: &Reply<T>) -> bool {
    matches!(timeout(STALL_MAX, write_frame(to, reply, CLIENT_FRAME_LEN_MAX)).await, Ok(Ok(())))
}

/// No place for one more transfer came free in time.
pub(super) fn no_place() -> Problem {
    Problem::new(Kind::Full, "too many transfers are under way at this node").retry_after(1_000)
}
