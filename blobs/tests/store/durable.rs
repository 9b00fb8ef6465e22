//! What survives: the end of the handle, of the process, and what an instance left lying about.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use shoal_blobs::{Error, Options};
use shoal_protocol::BlobId;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_durable_outlives_the_handle_and_the_loose_does_not() {
    let folder = tempfile::tempdir().unwrap();
    let sizes = [0, 100, 5000, 300 * KIB, 5 * MIB];
    let store = open(folder.path()).await;
    let mut batch = Vec::new();
    for len in sizes {
        batch.push(store.put_bytes(content(1, len)).await.unwrap());
    }
    store.put_durable(&batch).await.unwrap();
    let loose = store.put_bytes(content(2, MIB)).await.unwrap().id();
    // Dropped, not closed: the folder is free soon after.
    drop((store, batch));
    let store = open(folder.path()).await;
    for len in sizes {
        let bytes = content(1, len);
        assert_eq!(store.read_bytes(BlobId::of(&bytes), u64::MAX).await.unwrap(), bytes);
    }
    assert_eq!(store.size(loose).await.unwrap(), None);
    assert_eq!(store.total().await.unwrap().count, sizes.len() as u64);
    store.close().await.unwrap();
    open(folder.path()).await.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn leftovers_are_cleared_when_it_opens() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let held = store.put_bytes(content(1, 2 * MIB)).await.unwrap();
    store.put_durable(std::slice::from_ref(&held)).await.unwrap();
    store.close().await.unwrap();
    let mine = files(folder.path());
    let data = folder.path().join("data");
    std::fs::write(data.join(format!("{}.data", BlobId::of(b"orphan"))), b"half").unwrap();
    std::fs::write(data.join(format!("{}.obao4", BlobId::of(b"orphan"))), b"half").unwrap();
    std::fs::write(folder.path().join("temp/0123.temp"), b"half").unwrap();
    std::fs::write(data.join("notes.txt"), b"somebody's").unwrap();
    let store = open(folder.path()).await;
    let mut expected = mine;
    expected.push("notes.txt".into());
    expected.sort();
    assert_eq!(files(folder.path()), expected);
    assert_eq!(store.read_bytes(held.id(), u64::MAX).await.unwrap(), content(1, 2 * MIB));
    store.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_has_one_store() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path()).await;
    let second = Store::open(folder.path(), Options::default()).await;
    assert!(matches!(second, Err(Error::InUse(_))));
    store.put_bytes(content(1, 10)).await.unwrap();
    store.close().await.unwrap();
}

const CHILD_FOLDER: &str = "SHOAL_BLOBS_TEST_CHILD";

/// Not a test of its own: the process that `kill_9_takes_nothing_durable` kills.
#[tokio::test(flavor = "multi_thread")]
async fn child_that_is_killed() {
    let Some(folder) = std::env::var_os(CHILD_FOLDER) else { return };
    let store = open(Path::new(&folder)).await;
    for round in 0.. {
        let mut batch = Vec::new();
        for (n, len) in [10, 5000, 200 * KIB, 2 * MIB].into_iter().enumerate() {
            let bytes = content(round * 10 + n as u64, len);
            batch.push(store.put(u64::MAX, source(&bytes)).await.unwrap());
        }
        // Loose ones in between, so that the kill finds work half done.
        store.put_bytes(content(1_000_000 + round, MIB)).await.unwrap();
        store.put_durable(&batch).await.unwrap();
        let ids: Vec<String> = batch.iter().map(|held| held.id().to_string()).collect();
        println!("durable {}", ids.join(" "));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_takes_nothing_durable() {
    let folder = tempfile::tempdir().unwrap();
    let mut promised = Vec::new();
    for round in 0..5 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "durable::child_that_is_killed", "--nocapture", "--test-threads=1"])
            .env(CHILD_FOLDER, folder.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut wanted = 2 + round;
        while wanted > 0 {
            let line = lines.next().expect("the child ended by itself").unwrap();
            // The harness may have printed the test's name before it on the same line.
            if let Some((_, ids)) = line.split_once("durable ") {
                promised.extend(ids.split(' ').map(|id| id.parse::<BlobId>().unwrap()));
                wanted -= 1;
            }
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(folder.path()).await;
        for &id in &promised {
            assert_eq!(BlobId::of(&store.read_bytes(id, u64::MAX).await.unwrap()), id);
        }
        // Nothing but the kept is left: at most two files for each.
        let kept = store.total().await.unwrap().count as usize;
        assert!(files(folder.path()).len() <= 2 * kept && kept >= 4 * (2 + round));
        store.close().await.unwrap();
    }
}
