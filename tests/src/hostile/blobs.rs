//! Requests for blobs: read, decoded and answered by a store that holds a few, over a stream in memory.

use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use shoal_blobs::Store;
use shoal_blobs::exchange::{ServeError, ServeOptions};
use shoal_protocol::BlobId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::runtime::{Builder, Runtime};

use super::mutate::scratched;
use super::{Stopwatch, Target};
use crate::sim::random::Random;

/// The blob that is asked for, in bytes.
const LEN: usize = 40_000;
/// What a duplex stream holds: all of an answer.
const STREAM_LEN: usize = 256 * 1024;
/// How long the store waits for a peer that is there.
const STALL: Duration = Duration::from_secs(10);

struct Blobs {
    runtime: Runtime,
    store: Store,
    id: BlobId,
    // Removed when the target is dropped.
    _folder: tempfile::TempDir,
}

/// A store with one blob. Panics where the system has no folder for it: there is nothing to be fed then.
#[expect(clippy::expect_used, reason = "without a folder and a runtime nothing can be tried")]
pub fn make(_: &mut Random) -> Box<dyn Target> {
    let folder = tempfile::tempdir().expect("a folder");
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (store, id) = runtime
        .block_on(async {
            let store = Store::open(folder.path(), shoal_blobs::Options::default()).await?;
            let source = stream::iter([Ok(Bytes::from(vec![7; LEN]))]);
            let held = store.put(u64::MAX, source).await?;
            let id = held.id();
            store.put_durable(&[held]).await?;
            Ok::<_, shoal_blobs::Error>((store, id))
        })
        .expect("a store with a blob");
    Box::new(Blobs { runtime, store, id, _folder: folder })
}

impl Blobs {
    /// The request of iroh-blobs' protocol: a kind, a hash, then for each blob of a sequence the ranges of its chunks.
    fn request(&self, random: &mut Random) -> Vec<u8> {
        let kind = if random.percent(90) { 0 } else { random.draw() as u8 };
        let mut out = vec![kind];
        out.extend_from_slice(self.id.as_bytes());
        let honest = random.percent(90);
        // Ranges of the blob itself, and none of those that its content could name.
        let blobs = if honest { 2 } else { random.within(0..40) };
        varint(&mut out, blobs);
        for blob in 0..blobs {
            varint(&mut out, if honest { blob } else { random.within(0..3) });
            let many = if random.percent(90) { 6 } else { 900 };
            let ranges = if honest && blob == 1 { 0 } else { random.within(1..many) };
            varint(&mut out, ranges);
            (0..ranges).for_each(|_| varint(&mut out, random.draw() >> random.within(30..64)));
        }
        if random.percent(15) { scratched(out, random) } else { out }
    }
}

impl Target for Blobs {
    /// Past the first check is what is read as a request, for whatever blob.
    fn feed(&mut self, random: &mut Random, stopwatch: &mut Stopwatch) -> bool {
        let request = self.request(random);
        let store = &self.store;
        let serve = async {
            let (mut near, far) = tokio::io::duplex(STREAM_LEN);
            // Who is refused is not read to the end.
            drop(near.write_all(&request).await);
            drop(near.shutdown().await);
            let options = ServeOptions { stall: STALL, ..ServeOptions::default() };
            let mut answer = Vec::new();
            let (served, _) = tokio::join!(store.serve(far, async |_| true, &options), near.read_to_end(&mut answer));
            served
        };
        let served = stopwatch.time(|| self.runtime.block_on(serve));
        !matches!(served, Err(ServeError::Misbehaved(_) | ServeError::Cut(_)))
    }
}

/// As postcard writes numbers: seven bits in each byte, the lowest first.
fn varint(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}
