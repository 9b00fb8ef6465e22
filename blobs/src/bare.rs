//! iroh-blobs alone, with its own defaults: what `shoal bench` and `shoal-testnet blobs` compare the store with.
//!
//! Nothing of [`Store`](crate::Store) is involved. Each call opens the folder, does one thing, and closes it; only the one
//! thing is timed.

mod transfer;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use iroh_blobs::api::blobs::EncodedItem;
use iroh_blobs::protocol::ChunkRanges;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::{Hash, HashAndFormat};
use shoal_protocol::BlobId;
use tokio_util::io::ReaderStream;

pub use self::transfer::{Got, Offered, get, serve};

/// How much of the file is read at a time. Why 256 KiB: as much as the store hands to iroh-blobs at a time, so that both
/// have the same number of messages.
const CHUNK_LEN: usize = 256 * 1024;

/// What [`put_file`] measured.
#[derive(Clone, Copy, Debug)]
pub struct Put {
    /// The hash of the file.
    pub id: BlobId,
    /// Its length in bytes.
    pub len: u64,
    /// Until iroh-blobs answered: the bytes are in the operating system's cache, a power cut may still take them.
    pub answered: Duration,
    /// Until the bytes and the database were on disk as well: what [`Store::put_durable`](crate::Store::put_durable) promises.
    pub durable: Duration,
}

/// What [`read_to_end`] measured.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// Bytes read.
    pub len: u64,
    /// From the request to the last byte.
    pub took: Duration,
}

/// Streams the file at `path` into an iroh-blobs store in `folder`, then makes it durable.
pub async fn put_file(folder: &Path, path: &Path) -> io::Result<Put> {
    let fs = FsStore::load(folder).await.map_err(io::Error::other)?;
    let file = tokio::fs::File::open(path).await?;
    let len = file.metadata().await?.len();
    let started = Instant::now();
    let tag = fs.add_stream(ReaderStream::with_capacity(file, CHUNK_LEN)).await.temp_tag().await;
    let tag = tag.map_err(io::Error::other)?;
    let answered = started.elapsed();
    let id = BlobId(*tag.hash().as_bytes());
    make_durable(&fs, folder, tag.hash_and_format()).await?;
    let durable = started.elapsed();
    fs.shutdown().await.map_err(io::Error::other)?;
    Ok(Put { id, len, answered, durable })
}

/// Syncs the files of a blob, gives it a tag, and syncs the database.
async fn make_durable(fs: &FsStore, folder: &Path, blob: HashAndFormat) -> io::Result<()> {
    let (id, data) = (BlobId(*blob.hash.as_bytes()), folder.join("data"));
    let synced = tokio::task::spawn_blocking(move || {
        for part in ["data", "obao4"] {
            match std::fs::File::open(data.join(format!("{id}.{part}"))) {
                Ok(file) => file.sync_data()?,
                // Small parts are in the database.
                Err(cause) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(cause) => return Err(cause),
            }
        }
        std::fs::File::open(&data)?.sync_all()
    });
    synced.await.map_err(io::Error::other)??;
    fs.tags().set(blob.hash, blob).await.map_err(io::Error::other)?;
    fs.sync_db().await.map_err(io::Error::other)
}

/// Reads a blob from an iroh-blobs store in `folder` to its end, verified, and drops the bytes.
pub async fn read_to_end(folder: &Path, id: BlobId) -> io::Result<Read> {
    let fs = FsStore::load(folder).await.map_err(io::Error::other)?;
    let started = Instant::now();
    let mut items = std::pin::pin!(fs.export_bao(Hash::from_bytes(id.0), ChunkRanges::all()).stream());
    let mut len = 0;
    while let Some(item) = items.next().await {
        match item {
            EncodedItem::Leaf(leaf) => len += leaf.data.len() as u64,
            EncodedItem::Error(cause) => return Err(cause.into()),
            EncodedItem::Size(_) | EncodedItem::Parent(_) | EncodedItem::Done => {}
        }
    }
    let took = started.elapsed();
    fs.shutdown().await.map_err(io::Error::other)?;
    Ok(Read { len, took })
}
