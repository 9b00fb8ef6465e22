//! What a collection takes and what it leaves, also while everything else goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use futures_util::StreamExt;
use shoal_blobs::{Collected, Totals};
use shoal_protocol::BlobId;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_kept_and_the_held_stay_the_rest_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for len in [100, 100 * KIB, 2 * MIB] {
        let put = async |seed| store.put_bytes(content(seed, len)).await.unwrap();
        let (kept, held, loose) = (put(1).await, put(2).await, put(3).await);
        store.put_durable(std::slice::from_ref(&kept)).await.unwrap();
        let ids = (kept.id(), loose.id());
        drop((kept, loose));
        let (kept, loose) = ids;
        let collected = store.collect().await.unwrap();
        assert_eq!(collected, Collected { count: 1, bytes: len as u64 });
        assert_eq!(store.size(loose).await.unwrap(), None);
        assert_eq!(store.read_bytes(kept, u64::MAX).await.unwrap(), content(1, len));
        assert_eq!(store.read_bytes(held.id(), u64::MAX).await.unwrap(), content(2, len));
        assert_eq!(store.collect().await.unwrap(), Collected::default());

        let clone = store.hold(held.id()).await.unwrap().unwrap();
        let id = clone.id();
        drop(held);
        assert_eq!(store.collect().await.unwrap().count, 0);
        drop(clone);
        assert_eq!(store.collect().await.unwrap().count, 1);
        assert_eq!(store.size(id).await.unwrap(), None);

        let held = store.hold(kept).await.unwrap();
        assert!(!store.forget(kept).await.unwrap(), "held, so not forgotten");
        drop(held);
        assert!(store.forget(kept).await.unwrap());
        assert_eq!(store.total().await.unwrap(), Totals::default());
        // Forgotten but not collected: whoever comes in time may hold and keep it again.
        let held = store.hold(kept).await.unwrap().unwrap();
        store.put_durable(&[held]).await.unwrap();
        assert_eq!(store.collect().await.unwrap().count, 0);
        assert!(store.forget(kept).await.unwrap());
        assert_eq!(store.collect().await.unwrap().count, 1);
        assert!(files(folder.path()).is_empty());
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_being_read_stays_until_it_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let bytes = content(1, 8 * MIB);
    let id = store.put_bytes(bytes.clone()).await.unwrap().id();
    let mut reading = store.read(id, 0..u64::MAX).await.unwrap();
    let mut read = reading.next().await.unwrap().unwrap().to_vec();
    assert_eq!(store.collect().await.unwrap().count, 0);
    while let Some(chunk) = reading.next().await {
        read.extend_from_slice(&chunk.unwrap());
    }
    assert!(read == bytes);
    drop(reading);
    assert_eq!(store.collect().await.unwrap().count, 1);
    store.close().await.unwrap();
}

/// Many tasks put, some of them the same content at the same time, some forget; the collector never rests. Each blob whose
/// `put_durable` has returned, and which nobody forgot, is there at every moment and at the end.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn collecting_never_takes_what_was_promised() {
    const TASKS: u64 = 8;
    const ROUNDS: u64 = 30;
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let stop = Arc::new(AtomicBool::new(false));
    let collected = Arc::new(AtomicU64::new(0));
    let collector = tokio::spawn({
        let (store, stop, collected) = (store.clone(), stop.clone(), collected.clone());
        async move {
            while !stop.load(Ordering::SeqCst) {
                collected.fetch_add(store.collect().await.unwrap().count, Ordering::SeqCst);
                tokio::task::yield_now().await;
            }
        }
    });
    let puts = (0..TASKS).map(|task| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut promised = Vec::new();
            for round in 0..ROUNDS {
                let len = [50, 5 * KIB, 300 * KIB][(round % 3) as usize];
                // Shared by all tasks: put, forgotten and put again at the same time.
                let shared = store.put_bytes(content(round % 5, len)).await.unwrap();
                let own = store.put(u64::MAX, source(&content(1000 + task * ROUNDS + round, len))).await.unwrap();
                let _loose = store.put_bytes(content(100_000 + task * ROUNDS + round, len)).await.unwrap();
                store.put_durable(&[shared.clone(), own.clone()]).await.unwrap();
                let id = shared.id();
                assert!(store.read_bytes(id, u64::MAX).await.is_ok(), "held");
                let kept = store.list(None, 1000).await.unwrap();
                assert!(kept.iter().any(|&(other, _)| other == id), "forgotten while held");
                drop(shared);
                store.forget(id).await.unwrap();
                promised.push(own.id());
                drop(own);
                let earlier: BlobId = promised[promised.len() / 2];
                assert!(store.read_bytes(earlier, u64::MAX).await.is_ok(), "kept");
            }
            promised
        })
    });
    let mut promised = Vec::new();
    for put in puts.collect::<Vec<_>>() {
        promised.extend(put.await.unwrap());
    }
    stop.store(true, Ordering::SeqCst);
    collector.await.unwrap();
    store.collect().await.unwrap();
    assert!(collected.load(Ordering::SeqCst) > 0, "the collector found nothing while the puts ran");
    for &id in &promised {
        assert_eq!(BlobId::of(&store.read_bytes(id, u64::MAX).await.unwrap()), id);
    }
    let kept = store.list(None, 1000).await.unwrap();
    assert!(kept.len() >= promised.len());
    assert_eq!(store.total().await.unwrap().count, kept.len() as u64);
    store.close().await.unwrap();
}
