//! Standard input from a blob: fetched while it is read, in constant memory, and verified at its end.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use shoal_protocol::BlobId;
use tokio::io::AsyncRead;
use tokio::sync::Mutex;
use tokio_util::io::StreamReader;
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdinStream};
use wasmtime_wasi::p2::{InputStream, Pollable, StreamError, StreamResult};

use crate::node::{self, Node, Reader};

/// A blob as standard input. All streams that the guest opens share one position.
#[derive(Clone)]
pub(super) struct FromBlob(Arc<Mutex<Source>>);

struct Source {
    node: Node,
    id: BlobId,
    reader: Option<Reader>,
    hasher: blake3::Hasher,
    /// Read and not yet taken.
    chunk: Bytes,
    end: Option<Result<(), node::Error>>,
}

impl FromBlob {
    /// Nothing is fetched before the guest asks.
    pub(super) fn new(node: &Node, id: BlobId) -> Self {
        let source = Source {
            node: node.clone(),
            id,
            reader: None,
            hasher: blake3::Hasher::new(),
            chunk: Bytes::new(),
            end: None,
        };
        Self(Arc::new(Mutex::new(source)))
    }
}

impl FromBlob {
    /// Why it could not be read to its end, if so.
    pub(super) fn failure(&self) -> Option<String> {
        let source = self.0.try_lock().ok()?;
        source.end.as_ref()?.as_ref().err().map(|error| format!("the input: {error}"))
    }
}

impl Source {
    /// Waits until there is a chunk or the end. May be dropped at any time.
    async fn fill(&mut self) {
        while self.chunk.is_empty() && self.end.is_none() {
            match self.next().await {
                Ok(Some(chunk)) => {
                    self.hasher.update(&chunk);
                    self.chunk = chunk;
                }
                Ok(None) if self.hasher.finalize().as_bytes() == self.id.as_bytes() => self.end = Some(Ok(())),
                Ok(None) => self.end = Some(Err(node::mismatch(self.id))),
                Err(error) => self.end = Some(Err(error)),
            }
        }
    }

    async fn next(&mut self) -> Result<Option<Bytes>, node::Error> {
        match &mut self.reader {
            Some(reader) => reader.next().await,
            None => {
                let reader = self.node.read(self.id, 0).await?;
                self.reader.insert(reader).next().await
            }
        }
    }

    /// Up to `size` bytes of what is there; the end if there will be no more.
    fn take(&mut self, size: usize) -> Result<Bytes, Option<String>> {
        if self.chunk.is_empty() {
            return match &self.end {
                None => Ok(Bytes::new()),
                Some(Ok(())) => Err(None),
                Some(Err(error)) => Err(Some(format!("the input: {error}"))),
            };
        }
        Ok(self.chunk.split_to(size.min(self.chunk.len())))
    }
}

impl IsTerminal for FromBlob {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdinStream for FromBlob {
    fn async_stream(&self) -> Box<dyn AsyncRead + Send + Sync> {
        let chunks = stream::unfold(Arc::clone(&self.0), |source| async move {
            let chunk = {
                let mut source = source.lock().await;
                source.fill().await;
                source.take(usize::MAX)
            };
            match chunk {
                Ok(chunk) => Some((Ok(chunk), source)),
                Err(None) => None,
                Err(Some(error)) => Some((Err(io::Error::other(error)), source)),
            }
        });
        Box::new(StreamReader::new(Box::pin(chunks)))
    }

    fn p2_stream(&self) -> Box<dyn InputStream> {
        Box::new(self.clone())
    }
}

#[async_trait]
impl Pollable for FromBlob {
    async fn ready(&mut self) {
        self.0.lock().await.fill().await;
    }
}

#[async_trait]
impl InputStream for FromBlob {
    fn read(&mut self, size: usize) -> StreamResult<Bytes> {
        // Held by another stream of the same guest that waits: nothing is ready.
        let Ok(mut source) = self.0.try_lock() else { return Ok(Bytes::new()) };
        source.take(size).map_err(|end| match end {
            None => StreamError::Closed,
            // A guest that treats an error as the end would succeed on half an input.
            Some(error) => StreamError::Trap(wasmtime::Error::msg(error)),
        })
    }
}
