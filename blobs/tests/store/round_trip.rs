//! Content in and out, and every way in which it must not get in or out.

use std::os::unix::fs::MetadataExt;

use futures_util::StreamExt;
use shoal_blobs::{Error, Totals};
use shoal_protocol::BlobId;

use super::*;

const SIZES: [usize; 8] = [0, 1, 16 * KIB - 1, 16 * KIB, 16 * KIB + 1, MIB, MIB + 17, 20 * MIB];

#[tokio::test(flavor = "multi_thread")]
async fn every_size_comes_back_as_it_was() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for (seed, len) in SIZES.into_iter().enumerate() {
        let bytes = content(seed as u64, len);
        let held = store.put(len as u64, source(&bytes)).await.unwrap();
        assert_eq!((held.id(), held.size()), (BlobId::of(&bytes), len as u64));
        assert_eq!(store.size(held.id()).await.unwrap(), Some(len as u64));
        assert_eq!(store.read_bytes(held.id(), len as u64).await.unwrap(), bytes);
        let again = store.put_bytes(bytes.clone()).await.unwrap();
        assert_eq!(again.id(), held.id());
        let held_again = store.hold(held.id()).await.unwrap().unwrap();
        assert_eq!(held_again.size(), len as u64);
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_are_cut_where_the_blob_ends() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let len = 3 * MIB + 5;
    let bytes = content(1, len);
    let held = store.put_bytes(bytes.clone()).await.unwrap();
    let end = len as u64;
    let ranges = [
        (0, 0),
        (0, 1),
        (5, 5),
        (1, 16 * 1024),
        (1023, 1025),
        (16 * 1024 - 1, 16 * 1024 + 1),
        (100_000, 2_000_001),
        (0, end),
        (end - 1, end),
        (end - 7, end + 7),
        (end, end + 1),
        (end + 10, end + 20),
        (0, u64::MAX),
        (20, 10),
    ];
    for (from, to) in ranges {
        let mut reading = store.read(held.id(), from..to).await.unwrap();
        assert_eq!(reading.size(), end);
        let mut read = Vec::new();
        while let Some(chunk) = reading.next().await {
            let chunk = chunk.unwrap();
            assert!(!chunk.is_empty() && chunk.len() <= 16 * KIB);
            read.extend_from_slice(&chunk);
        }
        let (from, to) = (from.min(end) as usize, to.min(end) as usize);
        assert!(read == bytes[from..to.max(from)], "{from}..{to}");
    }
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_fails_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for len in [100, 10 * MIB] {
        let broken = source(&content(2, len)).chain(stream::iter([Err(io::ErrorKind::ConnectionReset.into())]));
        match store.put(u64::MAX, broken).await {
            Err(Error::Source(cause)) => assert_eq!(cause.kind(), io::ErrorKind::ConnectionReset),
            other => panic!("{other:?}"),
        }
    }
    collect_until_empty(&store, folder.path()).await;
    assert_eq!(store.total().await.unwrap(), Totals::default());
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn too_much_is_refused_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    for len in [1, 5000, 3 * MIB] {
        let bytes = content(3, len);
        let result = store.put(len as u64 - 1, source(&bytes)).await;
        assert!(matches!(result, Err(Error::TooLarge { len_max }) if len_max == len as u64 - 1), "{result:?}");
        assert_eq!(store.size(BlobId::of(&bytes)).await.unwrap(), None);
    }
    collect_until_empty(&store, folder.path()).await;
    let held = store.put_bytes(content(3, MIB)).await.unwrap();
    assert!(matches!(store.read_bytes(held.id(), MIB as u64 - 1).await, Err(Error::TooLarge { .. })));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_is_dropped_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    // Content, and then silence: only the drop can end it.
    let (begun, seen) = tokio::sync::oneshot::channel();
    let mut begun = Some(begun);
    let silent = source(&content(4, 5 * MIB)).chain(stream::poll_fn(move |_| {
        begun.take().map(|begun| begun.send(()));
        std::task::Poll::Pending
    }));
    tokio::select! {
        result = store.put(u64::MAX, silent) => panic!("{result:?}"),
        all_is_in = seen => all_is_in.unwrap(),
    }
    collect_until_empty(&store, folder.path()).await;
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_here_is_said_so() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let id = BlobId::of(b"nowhere");
    assert_eq!(store.size(id).await.unwrap(), None);
    assert!(store.hold(id).await.unwrap().is_none());
    assert!(matches!(store.read(id, 0..1).await, Err(Error::NotHere(missing)) if missing == id));
    assert!(matches!(store.read_bytes(id, 1).await, Err(Error::NotHere(_))));
    assert!(store.forget(id).await.unwrap());
    let other = store.clone();
    let never = tokio::spawn({
        let store = store.clone();
        async move { store.put(u64::MAX, stream::pending()).await }
    });
    store.put_bytes(content(1, 10)).await.unwrap();
    store.close().await.unwrap();
    assert!(matches!(never.await.unwrap(), Err(Error::Closed)));
    assert!(matches!(other.size(id).await, Err(Error::Closed)));
    assert!(matches!(other.put_bytes(Bytes::new()).await, Err(Error::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_blobs_files_are_never_written_again() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let bytes = content(5, 3 * MIB);
    let held = store.put_bytes(bytes.clone()).await.unwrap();
    store.put_durable(std::slice::from_ref(&held)).await.unwrap();
    let paths = ["data", "obao4"].map(|part| folder.path().join("data").join(format!("{}.{part}", held.id())));
    let inodes = || paths.each_ref().map(|path| std::fs::metadata(path).unwrap().ino());
    // Open, so that their numbers are not given to others when they are replaced.
    let _open = paths.each_ref().map(|path| std::fs::File::open(path).unwrap());
    let before = inodes();
    store.put(u64::MAX, source(&bytes)).await.unwrap();
    assert_eq!(inodes(), before);
    // A prefix, which is a blob too, is not written again either by a stream that breaks there.
    let whole = content(5, 6 * MIB);
    assert!(whole.starts_with(&bytes));
    let broken = source(&bytes).chain(stream::iter([Err(io::ErrorKind::BrokenPipe.into())]));
    store.put(u64::MAX, broken).await.unwrap_err();
    assert_eq!(inodes(), before);
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn damage_is_found_and_mended_by_the_next_put() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let bytes = content(6, 2 * MIB);
    let held = store.put_bytes(bytes.clone()).await.unwrap();
    store.put_durable(std::slice::from_ref(&held)).await.unwrap();
    let path = folder.path().join("data").join(format!("{}.data", held.id()));
    let mut broken = bytes.to_vec();
    broken[MIB] ^= 1;
    std::fs::write(&path, &broken).unwrap();

    let mut reading = store.read(held.id(), 0..u64::MAX).await.unwrap();
    let mut good = 0;
    let failure = loop {
        match reading.next().await.unwrap() {
            Ok(chunk) => {
                assert_eq!(chunk, bytes[good..good + chunk.len()]);
                good += chunk.len();
            }
            Err(cause) => break cause,
        }
    };
    assert!(matches!(failure, Error::Damaged(id) if id == held.id()), "{failure}");
    assert!(good <= MIB && reading.next().await.is_none());
    drop(reading);

    let deadline = Instant::now() + DEADLINE;
    loop {
        let again = store.put_bytes(bytes.clone()).await.unwrap();
        // iroh-blobs keeps an open file as long as something works on the blob, so the first reading may still see the old one.
        match store.read_bytes(again.id(), u64::MAX).await {
            Ok(read) => break assert_eq!(read, bytes),
            Err(cause) => assert!(Instant::now() < deadline, "{cause}"),
        }
    }
    store.put_durable(&[held]).await.unwrap();
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_kept_are_listed_in_order_and_counted() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let mut expected = Vec::new();
    let mut batch = Vec::new();
    for seed in 0..120 {
        let held = store.put_bytes(content(seed, 10 + seed as usize)).await.unwrap();
        expected.push((held.id(), held.size()));
        batch.push(held);
    }
    store.put_durable(&batch).await.unwrap();
    store.put_durable(&batch).await.unwrap();
    let _only_held = store.put_bytes(content(1000, 10)).await.unwrap();
    expected.sort();
    for limit in [1, 7, 119, 120, 500] {
        let (mut after, mut listed) = (None, Vec::new());
        loop {
            let page = store.list(after, limit).await.unwrap();
            assert!(page.len() <= limit);
            let Some(&(last, _)) = page.last() else { break };
            after = Some(last);
            listed.extend(page);
        }
        assert_eq!(listed, expected, "pages of {limit}");
    }
    let totals = Totals { count: 120, bytes: expected.iter().map(|&(_, size)| size).sum() };
    assert_eq!(store.total().await.unwrap(), totals);
    store.close().await.unwrap();
    let store = open(folder.path()).await;
    assert_eq!(store.total().await.unwrap(), totals);
    store.close().await.unwrap();
}
