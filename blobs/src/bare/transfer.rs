//! From one process to another, by iroh-blobs' own protocol handler and its own fetch, over iroh with its defaults.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use iroh::endpoint::Builder;
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, PublicKey};
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::{BlobsProtocol, Hash, HashAndFormat};
use shoal_protocol::{BlobId, NodeId};
use tokio_util::io::ReaderStream;

use super::{CHUNK_LEN, make_durable};

/// A blob that a process serves. Its text is one line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offered {
    /// The key of the process.
    pub node: NodeId,
    /// Where it listens.
    pub address: SocketAddr,
    /// The blob.
    pub id: BlobId,
}

impl fmt::Display for Offered {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.node, self.address, self.id)
    }
}

impl FromStr for Offered {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut words = text.split_whitespace();
        let mut word = || words.next().ok_or_else(|| format!("{text:?} is no key, address and hash"));
        Ok(Self {
            node: word()?.parse().map_err(|error| format!("the key: {error}"))?,
            address: word()?.parse().map_err(|error| format!("the address: {error}"))?,
            id: word()?.parse().map_err(|error| format!("the hash: {error}"))?,
        })
    }
}

/// What [`get`] measured.
#[derive(Clone, Copy, Debug)]
pub struct Got {
    /// From the beginning of the connection until iroh-blobs answered: nothing is synced.
    pub answered: Duration,
    /// Until the bytes and the database were on disk as well: what [`Store::fetch`](crate::Store::fetch) promises.
    pub durable: Duration,
}

/// A process's end of iroh.
async fn endpoint() -> io::Result<Endpoint> {
    let builder = Builder::empty()
        .crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .map_err(io::Error::other)?;
    builder.bind().await.map_err(io::Error::other)
}

/// Puts the file at `path` into an iroh-blobs store in `folder`, says with `offer` where it is, and serves it on loopback
/// until `done`.
pub async fn serve(
    folder: &Path,
    path: &Path,
    offer: impl FnOnce(Offered),
    done: impl Future<Output = ()>,
) -> io::Result<()> {
    let fs = FsStore::load(folder).await.map_err(io::Error::other)?;
    let file = tokio::fs::File::open(path).await?;
    let tag = fs.add_stream(ReaderStream::with_capacity(file, CHUNK_LEN)).await.temp_tag().await;
    let tag = tag.map_err(io::Error::other)?;
    let endpoint = endpoint().await?;
    let node = NodeId(*endpoint.id().as_bytes());
    let address = endpoint.bound_sockets().first().copied().ok_or(io::ErrorKind::AddrNotAvailable)?;
    let router = Router::builder(endpoint).accept(iroh_blobs::ALPN, BlobsProtocol::new(&fs, None)).spawn();
    offer(Offered { node, address, id: BlobId(*tag.hash().as_bytes()) });
    done.await;
    drop(tag);
    // The handler of the protocol closes the store, too.
    router.shutdown().await.map_err(io::Error::other)
}

/// Fetches a blob into an iroh-blobs store in `folder`, then makes it durable.
pub async fn get(folder: &Path, offered: &Offered) -> io::Result<Got> {
    let fs = FsStore::load(folder).await.map_err(io::Error::other)?;
    let endpoint = endpoint().await?;
    let key = PublicKey::from_bytes(&offered.node.0).map_err(io::Error::other)?;
    let peer = EndpointAddr::new(key).with_ip_addr(offered.address);
    let hash = HashAndFormat::raw(Hash::from_bytes(offered.id.0));
    let started = Instant::now();
    let connection = endpoint.connect(peer, iroh_blobs::ALPN).await.map_err(io::Error::other)?;
    fs.remote().fetch(connection, hash).await.map_err(io::Error::other)?;
    let answered = started.elapsed();
    make_durable(&fs, folder, hash).await?;
    let durable = started.elapsed();
    endpoint.close().await;
    fs.shutdown().await.map_err(io::Error::other)?;
    Ok(Got { answered, durable })
}
