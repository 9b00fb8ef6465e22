//! The connections of the HTTP API: how many, how long they may keep the node waiting, how they end.
//!
//! Invariant: a connection that says nothing, or takes nothing, is closed after a bounded time, and no more than
//! [`CONNECTIONS_MAX`] are open; further ones get an answer that says so.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep};

use super::Edge;

/// Open connections. Why 512: half of the 1,024 files that a process may usually have open; the rest is for the store,
/// the blobs and the workers. HTTP/1.1 has one request at a time on a connection, so it bounds requests too.
const CONNECTIONS_MAX: usize = 512;

/// How long a connection may take for the head of its next request, silence before it included. Why 30 s: a client that
/// keeps a connection for its next request comes back sooner, and one that sends a byte a second is let go.
const HEADER_MS_MAX: u64 = 30_000;

/// How long a client may take nothing of an answer. Why 60 s: as long as a sender of a blob may pause.
const WRITE_IDLE_MS_MAX: u64 = 60_000;

/// A connection's buffer, and with that the head of a request. Why 64 KiB: one chunk of a blob; a head is 1 or 2 KiB.
const BUFFER_LEN_MAX: usize = 64 * 1024;

/// How long requests under way may take to finish when the node stops. Why 5 s: anything but a long download is done
/// sooner, and a download can be resumed.
const DRAIN_MS_MAX: u64 = 5_000;

/// How long a client whose connection ends may go on sending, and how many bytes. Why 2 s: the answer has left before, and
/// most have it within a round trip. Why 16 MiB: many times what any request of JSON may be; it costs the node no memory.
const LINGER_MS_MAX: u64 = 2_000;
const LINGER_LEN_MAX: usize = 16 * 1024 * 1024;
/// What is taken at once from a client whose bytes are thrown away.
const LINGER_BUFFER_LEN: usize = 16 * 1024;

/// How long to wait after the system has refused a connection, out of files or memory. Why 50 ms: some may have closed.
const ACCEPT_PAUSE_MS: u64 = 50;

/// What a connection gets for which there is no room. A whole answer, so that it can be written without a task.
const NO_ROOM: &str = "HTTP/1.1 429 Too Many Requests\r\ncontent-type: application/problem+json\r\n\
    retry-after: 1\r\nconnection: close\r\ncontent-length: 184\r\n\r\n\
    {\"type\":\"urn:shoal:problem:full\",\"title\":\"Too much is waiting already\",\"status\":429,\
    \"detail\":\"512 connections to the HTTP API are open; close some, or try again\",\"retry_after_ms\":1000}";

/// Accepts connections until `stop`, then lets requests under way finish.
pub(super) async fn serve(listener: TcpListener, edge: Arc<Edge>, stop: impl Future<Output = ()>) -> io::Result<()> {
    let (stopping, stopped) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut stop = pin!(stop);
    loop {
        edge.metrics().http_connections(connections.len());
        tokio::select! {
            biased;
            () = &mut stop => break,
            Some(_) = connections.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) if connections.len() >= CONNECTIONS_MAX => refuse(stream),
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&edge), stopped.clone()));
                }
                Err(why) => {
                    tracing::debug!(%why, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            },
        }
    }
    drop(listener);
    stopping.send_replace(true);
    let drained = tokio::time::timeout(Duration::from_millis(DRAIN_MS_MAX), async {
        while connections.join_next().await.is_some() {}
    });
    if drained.await.is_err() {
        tracing::debug!(open = connections.len(), "cut off HTTP requests that did not end in time");
    }
    connections.shutdown().await;
    edge.metrics().http_connections(0);
    Ok(())
}

/// Says that there is no room. The socket's own buffer takes the whole answer; if it does not, closing says it too.
fn refuse(stream: TcpStream) {
    use std::io::Write as _;
    let written = stream.into_std().and_then(|mut stream| stream.write(NO_ROOM.as_bytes()));
    tracing::debug!(?written, "refused a connection: too many are open");
}

async fn connection(stream: TcpStream, edge: Arc<Edge>, mut stopping: watch::Receiver<bool>) {
    if let Err(why) = stream.set_nodelay(true) {
        tracing::debug!(%why, "cannot set TCP_NODELAY");
    }
    let service = service_fn(move |request: hyper::Request<hyper::body::Incoming>| {
        let edge = Arc::clone(&edge);
        Box::pin(async move { Ok::<_, Infallible>(edge.handle(request.map(Body::new)).await) })
    });
    let mut builder = http1::Builder::new();
    builder
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(HEADER_MS_MAX))
        .max_buf_size(BUFFER_LEN_MAX);
    let stream = Patient::new(stream, Duration::from_millis(WRITE_IDLE_MS_MAX));
    let mut connection = builder.serve_connection(TokioIo::new(stream), service);
    let ended = tokio::select! {
        biased;
        ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => Some(ended),
        _ = stopping.wait_for(|stopping| *stopping) => None,
    };
    let is_stopping = ended.is_none();
    let ended = match ended {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    if let Err(why) = ended {
        tracing::debug!(%why, "an HTTP connection broke");
    }
    let mut stream = connection.into_parts().io.into_inner();
    let patience = if is_stopping { Duration::ZERO } else { Duration::from_millis(LINGER_MS_MAX) };
    if let Ok(Err(why)) = tokio::time::timeout(patience, linger(&mut stream)).await {
        tracing::debug!(%why, "an HTTP connection broke at its end");
    }
}

/// Says that all was said, and takes what the client still sends until it has ended too. Without this a connection whose
/// client is still sending a body that was refused is reset, and with that the answer is lost that says why.
async fn linger(stream: &mut (impl AsyncRead + AsyncWrite + Unpin)) -> io::Result<()> {
    stream.shutdown().await?;
    let mut buffer = [0; LINGER_BUFFER_LEN];
    let mut taken = 0;
    while taken < LINGER_LEN_MAX {
        match stream.read(&mut buffer).await? {
            0 => break,
            len => taken += len,
        }
    }
    Ok(())
}

/// A stream that gives up on a peer that takes nothing.
struct Patient {
    stream: TcpStream,
    patience: Duration,
    /// Runs while a write is pending.
    stalled: Pin<Box<Sleep>>,
    is_stalled: bool,
}

impl Patient {
    fn new(stream: TcpStream, patience: Duration) -> Self {
        Self { stream, patience, stalled: Box::pin(tokio::time::sleep(patience)), is_stalled: false }
    }

    fn patiently<T>(&mut self, cx: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.is_stalled = false;
            return written;
        }
        if !self.is_stalled {
            self.is_stalled = true;
            let until = Instant::now() + self.patience;
            self.stalled.as_mut().reset(until);
        }
        ready!(self.stalled.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing")))
    }
}

impl AsyncRead for Patient {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Patient {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.patiently(cx, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.patiently(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_without_room_is_whole() {
        let (head, body) = NO_ROOM.split_once("\r\n\r\n").unwrap();
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")).unwrap();
        assert_eq!(length, body.len().to_string());
        let problem: shoal_protocol::Problem = serde_json::from_str(body).unwrap();
        assert_eq!((problem.kind, problem.status), (shoal_protocol::Kind::Full, 429));
        assert!(problem.detail.contains(&CONNECTIONS_MAX.to_string()));
    }

    #[tokio::test]
    async fn a_peer_that_takes_nothing_is_given_up() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(listener.local_addr().unwrap()), listener.accept());
        let (client, (server, _)) = (client.unwrap(), server.unwrap());
        let mut patient = Patient::new(server, Duration::from_millis(20));
        let chunk = vec![0u8; 1 << 20];
        // The socket's buffers take some; then nothing moves.
        let ended = loop {
            if let Err(why) = patient.write_all(&chunk).await {
                break why;
            }
        };
        assert_eq!(ended.kind(), io::ErrorKind::TimedOut);
        drop(client);
    }
}
