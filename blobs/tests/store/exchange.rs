//! Blobs between two stores: over loopback TCP where the network matters, else over a pipe.

mod direct;
mod fetch;
mod hostile;
mod limits;
mod passing;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, ready};

use shoal_blobs::exchange::{End, FetchOptions, Provider, ServeError, ServeOptions, Served, Trial};
use shoal_protocol::{BlobId, NodeId};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;

/// Nodes, as the fetching side knows them.
const ANNA: NodeId = NodeId([1; 32]);
const BERT: NodeId = NodeId([2; 32]);

/// Impatient, so that what waits for a deadline is soon over.
fn options() -> FetchOptions {
    FetchOptions {
        stall: Duration::from_millis(300),
        slow_after: Duration::from_millis(100),
        retry_pause: Duration::from_millis(1),
        // So soon nothing can be told of a machine that is busy.
        rate_floor: 0,
        ..FetchOptions::new(u64::MAX)
    }
}

/// As patient as a busy machine needs: for tests in which nobody is meant to be too late.
fn patient() -> FetchOptions {
    FetchOptions { stall: DEADLINE, retry_pause: Duration::from_millis(1), ..FetchOptions::new(u64::MAX) }
}

/// A store in a folder of its own.
struct Site {
    folder: tempfile::TempDir,
    store: Store,
}

impl Site {
    async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = open(folder.path()).await;
        Self { folder, store }
    }

    /// A store that has these bytes.
    async fn with(bytes: &Bytes) -> Self {
        let site = Self::new().await;
        let held = site.store.put(u64::MAX, source(bytes)).await.unwrap();
        site.store.put_durable(&[held]).await.unwrap();
        site
    }

    async fn read(&self, id: BlobId) -> Bytes {
        self.store.read_bytes(id, u64::MAX).await.unwrap()
    }
}

/// Serves a store over TCP, everything to everybody.
struct Server {
    address: SocketAddr,
    results: Arc<Mutex<Vec<Result<Served, ServeError>>>>,
    task: JoinHandle<()>,
}

impl Server {
    async fn new(store: &Store) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (results, store) = (Arc::new(Mutex::new(Vec::new())), store.clone());
        let kept = results.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (store, kept) = (store.clone(), kept.clone());
                tokio::spawn(async move {
                    let result = store.serve(stream, async |_| true, &ServeOptions::default()).await;
                    kept.lock().unwrap().push(result);
                });
            }
        });
        Self { address, results, task }
    }

    fn provider(&self, node: NodeId) -> Provider {
        self.provider_through(node, |stream| stream)
    }

    /// A way to it that is not what it should be.
    fn provider_through<S>(&self, node: NodeId, wrap: impl Fn(TcpStream) -> S + Send + Sync + 'static) -> Provider
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (address, wrap) = (self.address, Arc::new(wrap));
        Provider::new(node, move || {
            let wrap = wrap.clone();
            async move { Ok(wrap(TcpStream::connect(address).await?)) }
        })
    }

    /// Bytes that it has sent on streams that are over.
    fn sent(&self) -> u64 {
        let results = self.results.lock().unwrap();
        results.iter().map(|r| if let Ok(Served::Sent { bytes, .. }) = r { *bytes } else { 0 }).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What happens to a stream after so many bytes of the answer.
#[derive(Clone)]
enum Fault {
    /// It breaks off.
    Cut,
    /// Nothing comes any more.
    Stall,
    /// It goes on, but the disk of this file has no room left.
    FillDisk(PathBuf),
}

/// A stream with a fault, that counts what is read from it.
struct Faulty<S> {
    stream: S,
    left: u64,
    fault: Fault,
    read: Arc<AtomicU64>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Faulty<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.left == 0 {
            match &self.fault {
                Fault::Cut => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Fault::Stall => return Poll::Pending,
                Fault::FillDisk(ballast) => crate::disk_full::fill(ballast),
            }
            self.left = u64::MAX;
        }
        let mut space = vec![0; into.remaining().min(usize::try_from(self.left).unwrap_or(usize::MAX))];
        let mut part = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        into.put_slice(part.filled());
        let len = part.filled().len() as u64;
        self.left -= len;
        self.read.fetch_add(len, Ordering::SeqCst);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Faulty<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Wraps streams so that the fault strikes after `left` bytes. The counter is of all of them together.
fn faulty(fault: Fault, left: u64) -> (impl Fn(TcpStream) -> Faulty<TcpStream> + Send + Sync, Arc<AtomicU64>) {
    let read = Arc::new(AtomicU64::new(0));
    let counter = read.clone();
    (move |stream| Faulty { stream, left, fault: fault.clone(), read: read.clone() }, counter)
}

/// A request for the whole blob, as iroh-blobs writes it.
fn request(id: BlobId) -> Vec<u8> {
    // A get; the id; two entries: all chunks of blob 0, none from blob 1 on.
    [&[0][..], &id.0, &[2, 0, 1, 0, 1, 0]].concat()
}

/// What `store` answers to these bytes, and how it says that it went.
async fn ask(store: &Store, request: &[u8]) -> (Vec<u8>, Result<Served, ServeError>) {
    // Room for the whole request: who is refused reads no further.
    let (mut near, far) = tokio::io::duplex(64 * KIB);
    let asking = async move {
        near.write_all(request).await.unwrap();
        near.shutdown().await.unwrap();
        let mut answer = Vec::new();
        near.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let options = ServeOptions::default();
    tokio::join!(asking, store.serve(far, async |_| true, &options))
}

/// A provider that answers every request with these bytes, and then ends the stream.
fn canned(node: NodeId, answer: Vec<u8>) -> Provider {
    let answer = Arc::new(answer);
    Provider::new(node, move || {
        let answer = answer.clone();
        async move { Ok(canned_stream(answer.to_vec())) }
    })
}

/// A stream that answers every request with these bytes, and then ends.
fn canned_stream(answer: Vec<u8>) -> DuplexStream {
    let (near, mut far) = tokio::io::duplex(64 * KIB);
    tokio::spawn(async move {
        let mut request = Vec::new();
        far.read_to_end(&mut request).await?;
        far.write_all(&answer).await
    });
    near
}

fn ends(trials: &[Trial]) -> Vec<(NodeId, End)> {
    trials.iter().map(|trial| (trial.node, trial.end.clone())).collect()
}
