//! Length, disk and memory.

use std::process::Command;

use shoal_blobs::Error;
use shoal_blobs::exchange::FetchError;

use super::*;
use crate::disk_full::Mount;

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_that_is_too_long_is_refused_before_a_byte_of_it() {
    let bytes = content(1, 2 * MIB);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let server = Server::new(&there.store).await;
    let id = BlobId::of(&bytes);
    let limit = |len_max| FetchOptions { len_max, ..patient() };
    let (whole, read) = faulty(Fault::Cut, u64::MAX);
    let refused = here.store.fetch(id, vec![server.provider_through(ANNA, whole)], limit(2 * MIB as u64 - 1)).await;
    match refused {
        Err(FetchError::TooLarge { len, trials, .. }) => {
            assert_eq!((len, trials.len(), trials[0].moved), (2 * MIB as u64, 1, 0));
        }
        other => panic!("{other:?}"),
    }
    // What was read ahead of the header, and no more.
    assert!(read.load(Ordering::SeqCst) <= 64 * KIB as u64);
    assert!(files(here.folder.path()).is_empty());
    let fetched = here.store.fetch(id, vec![server.provider(ANNA)], limit(2 * MIB as u64)).await.unwrap();
    // One that is here is refused in the same way.
    let refused = here.store.fetch(id, vec![], limit(1000)).await;
    assert!(matches!(refused, Err(FetchError::TooLarge { len_max: 1000, .. })), "{refused:?}");
    drop(fetched);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_seen_before_and_survived_during_a_fetch() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::new(folder.path(), 64) else {
        println!("skipped: this user may not mount a tmpfs");
        return;
    };
    let root = folder.path().join("blobs");
    let ballast = folder.path().join("ballast");
    let store = open(&root).await;
    let (huge, large) = (content(1, 60 * MIB), content(2, 24 * MIB));
    let there = Site::with(&huge).await;
    there.store.put(u64::MAX, source(&large)).await.map(std::mem::forget).unwrap();
    let server = Server::new(&there.store).await;

    let (whole, read) = faulty(Fault::Cut, u64::MAX);
    match store.fetch(BlobId::of(&huge), vec![server.provider_through(ANNA, whole)], patient()).await {
        Err(FetchError::Store(cause)) => assert!(matches!(*cause, Error::Disk { full: true, .. }), "{cause}"),
        other => panic!("{other:?}"),
    }
    assert!(read.load(Ordering::SeqCst) <= 64 * KIB as u64 && files(&root).is_empty());

    // The disk fills up while the blob comes in.
    let id = BlobId::of(&large);
    let (fills, read) = faulty(Fault::FillDisk(ballast.clone()), 8 * MIB as u64);
    match store.fetch(id, vec![server.provider_through(ANNA, fills)], patient()).await {
        Err(FetchError::Store(cause)) => assert!(matches!(*cause, Error::Disk { full: true, .. }), "{cause}"),
        other => panic!("{other:?}"),
    }
    assert!(read.load(Ordering::SeqCst) >= 8 * MIB as u64);
    std::fs::remove_file(&ballast).unwrap();
    let deadline = Instant::now() + DEADLINE;
    loop {
        match store.fetch(id, vec![server.provider(BERT)], patient()).await {
            Ok(_) => break,
            // The store is being reopened.
            Err(FetchError::Store(cause)) => assert!(Instant::now() < deadline, "{cause}"),
            Err(cause) => panic!("{cause}"),
        }
    }
    assert_eq!(store.read_bytes(id, u64::MAX).await.unwrap(), large);
    store.close().await.unwrap();
}

const CHILD: &str = "SHOAL_BLOBS_TEST_MEMORY";
const LONG: usize = 64 * MIB;

/// Resident memory in KiB: the most so far, or now.
fn resident_kib(field: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

/// Not a test of its own: the process in which `a_long_blob_takes_little_memory` measures.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_measures_memory() {
    if std::env::var_os(CHILD).is_none() {
        return;
    }
    let (here, there) = (Site::new().await, Site::new().await);
    let server = Server::new(&there.store).await;
    let pieces = (0..(LONG / MIB) as u64).map(|seed| Ok(content(seed, MIB)));
    let held = there.store.put(u64::MAX, stream::iter(pieces)).await.unwrap();
    // Once with a short blob, so that what is needed once is there.
    let short = there.store.put_bytes(content(99, MIB)).await.unwrap();
    here.store.fetch(short.id(), vec![server.provider(ANNA)], patient()).await.unwrap();
    let before = resident_kib("VmRSS");
    // From here on the most counts.
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    here.store.fetch(held.id(), vec![server.provider(ANNA)], patient()).await.unwrap();
    println!("resident: {before} {}", resident_kib("VmHWM"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_blob_takes_little_memory() {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "exchange::limits::child_that_measures_memory", "--nocapture", "--test-threads=1"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (_, figures) = text.split_once("resident: ").unwrap_or_else(|| panic!("{text}"));
    let figures: Vec<u64> = figures.split_whitespace().take(2).map(|n| n.parse().unwrap()).collect();
    println!("before {} KiB, at most {} KiB", figures[0], figures[1]);
    // Both ends in one process, 64 MiB between them.
    // The kernel counts pages by thread and adds up now and then: the most may read as a little less than what was there before.
    assert!(figures[1].saturating_sub(figures[0]) < 16 * 1024, "{figures:?}");
}
