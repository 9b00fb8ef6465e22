//! The store on a real disk: what goes in comes out, what must stay stays, what must go goes, what is elsewhere comes.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod collect;
mod damage;
mod disk_full;
mod durable;
mod exchange;
mod round_trip;

use std::io;
use std::path::Path;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{Stream, stream};
use shoal_blobs::{Options, Store};

const KIB: usize = 1024;
const MIB: usize = 1024 * 1024;
/// How long any condition may take to come true. Generous: the machine may be building something else.
const DEADLINE: Duration = Duration::from_secs(60);

async fn open(folder: &Path) -> Store {
    Store::open(folder, Options::default()).await.unwrap()
}

/// Bytes that no compression or hole can shorten, different for each seed.
fn content(seed: u64, len: usize) -> Bytes {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// The bytes as a network would bring them.
fn source(bytes: &Bytes) -> impl Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static {
    let pieces: Vec<Bytes> =
        (0..bytes.len()).step_by(16 * KIB).map(|at| bytes.slice(at..bytes.len().min(at + 16 * KIB))).collect();
    stream::iter(pieces.into_iter().map(Ok))
}

/// All files below the store, except the database and the lock.
fn files(folder: &Path) -> Vec<String> {
    let list = |sub: &str| std::fs::read_dir(folder.join(sub)).unwrap().map(|e| e.unwrap().file_name());
    let mut names: Vec<String> = list("data").chain(list("temp")).map(|n| n.into_string().unwrap()).collect();
    names.sort();
    names
}

/// Collects until no file is left, since what was given up is finished in the background first.
async fn collect_until_empty(store: &Store, folder: &Path) {
    let deadline = Instant::now() + DEADLINE;
    loop {
        store.collect().await.unwrap();
        let left = files(folder);
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "left behind: {left:?}");
        tokio::task::yield_now().await;
    }
}
