//! Standard output: short ones stay here, longer ones become a blob while the guest still writes.
//!
//! The guest writes into a bounded buffer and waits when it is full; [`Output::drain`] empties it into a blob of the
//! node as fast as the node takes it. A guest that prints without end is slowed down by the node's disk and ended by
//! its own limit.

use std::future::poll_fn;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use shoal_protocol::limits::INLINE_LEN_MAX;
use shoal_protocol::object::job::Payload;
use tokio::io::AsyncWrite;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::node::{self, Node};

/// Bytes that wait to be sent. Why 256 KiB: enough to keep the wire busy while the guest computes.
const BUFFER_LEN_MAX: usize = 256 * 1024;
/// Bytes that one write may bring: what WASI's streams usually take.
const WRITE_LEN_MAX: usize = 64 * 1024;

/// The output of one run.
#[derive(Debug)]
pub(crate) struct Output {
    state: Mutex<State>,
    len_max: u64,
}

#[derive(Debug, Default)]
struct State {
    buffer: Vec<u8>,
    len: u64,
    closed: bool,
    exceeded: bool,
    /// Why no more can be written.
    broken: Option<String>,
    spilled: bool,
    writer: Option<Waker>,
    drainer: Option<Waker>,
}

impl Output {
    /// Empty, and at most `len_max` bytes in all.
    pub(crate) fn new(len_max: u64) -> Self {
        Self { state: Mutex::default(), len_max }
    }

    /// Whether the guest wrote more than it may.
    pub(crate) fn exceeded(&self) -> bool {
        self.state().exceeded
    }

    /// The guest is gone: nothing more comes.
    pub(crate) fn close(&self) {
        let mut state = self.state();
        state.closed = true;
        wake(&mut state.drainer);
    }

    /// Takes what the guest writes, until the output is closed, and gives all of it: inline if it is short, else as a
    /// blob that the node has stored. To be polled beside the guest. Dropped, it leaves nothing at the node.
    pub(crate) async fn drain(&self, node: &Node) -> Result<Payload, node::Error> {
        let drained = self.drain_into(node).await;
        if let Err(error) = &drained {
            let mut state = self.state();
            state.broken = Some(error.to_string());
            wake(&mut state.writer);
        }
        drained
    }

    async fn drain_into(&self, node: &Node) -> Result<Payload, node::Error> {
        let mut writer = None;
        while let Some(chunk) = poll_fn(|cx| self.poll_chunk(cx)).await {
            writer.get_or_insert_with(|| node.write()).write(&chunk).await?;
        }
        match writer {
            None => Ok(Payload::Inline(std::mem::take(&mut self.state().buffer).into())),
            Some(writer) => {
                let stored = writer.finish().await?;
                Ok(Payload::Blob { id: stored.id, size: stored.size })
            }
        }
    }

    /// What is to go into the blob next; none when all is said, or when it is short enough to need no blob.
    fn poll_chunk(&self, cx: &mut Context<'_>) -> Poll<Option<Vec<u8>>> {
        let mut state = self.state();
        state.spilled |= state.buffer.len() > INLINE_LEN_MAX;
        if state.spilled && !state.buffer.is_empty() {
            let chunk = std::mem::take(&mut state.buffer);
            wake(&mut state.writer);
            return Poll::Ready(Some(chunk));
        }
        if state.closed {
            return Poll::Ready(None);
        }
        state.drainer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn write(&self, bytes: &[u8]) -> StreamResult<()> {
        let mut state = self.state();
        check(&state)?;
        // What is beyond the limit is not kept: the output of a failed run is what it was allowed to write.
        let room = usize::try_from(self.len_max.saturating_sub(state.len)).unwrap_or(usize::MAX);
        let kept = bytes.get(..room).unwrap_or(bytes);
        state.buffer.extend_from_slice(kept);
        state.len += kept.len() as u64;
        if state.spilled || state.buffer.len() > INLINE_LEN_MAX {
            wake(&mut state.drainer);
        }
        if kept.len() < bytes.len() {
            state.exceeded = true;
            return Err(StreamError::trap("the output is longer than it may be"));
        }
        Ok(())
    }

    fn permit(&self) -> StreamResult<usize> {
        let state = self.state();
        check(&state)?;
        Ok(BUFFER_LEN_MAX.saturating_sub(state.buffer.len()).min(WRITE_LEN_MAX))
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if state.buffer.len() < BUFFER_LEN_MAX || state.broken.is_some() {
            return Poll::Ready(());
        }
        state.writer = Some(cx.waker().clone());
        Poll::Pending
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn check(state: &State) -> StreamResult<()> {
    match &state.broken {
        // A guest that ignores errors of its output would succeed with half a result.
        Some(error) => Err(StreamError::trap(error)),
        None => Ok(()),
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// A stream whose bytes become output.
#[derive(Clone)]
pub(super) struct ToOutput(Arc<Output>);

impl ToOutput {
    pub(super) fn new(output: &Arc<Output>) -> Self {
        Self(Arc::clone(output))
    }
}

impl IsTerminal for ToOutput {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for ToOutput {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for ToOutput {
    async fn ready(&mut self) {
        poll_fn(|cx| self.0.poll_writable(cx)).await;
    }
}

#[async_trait]
impl OutputStream for ToOutput {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.write(&bytes)
    }

    fn flush(&mut self) -> StreamResult<()> {
        check(&self.0.state())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        self.0.permit()
    }
}

impl AsyncWrite for ToOutput {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.0.poll_writable(cx));
        let written = self.0.permit().and_then(|permit| {
            let chunk = bytes.get(..permit).unwrap_or(bytes);
            self.0.write(chunk).map(|()| chunk.len())
        });
        Poll::Ready(written.map_err(io::Error::other))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}
