//! A disk that gives back other bytes than it was given.

use std::fs;
use std::path::PathBuf;

use shoal_blobs::{Error, check};
use shoal_protocol::BlobId;

use super::*;

/// Blobs of all kinds: in the database, with hashes there, with files for both.
const LENS: [usize; 4] = [100, 3_000, 20 * KIB, 3 * MIB];

async fn filled(folder: &Path) -> Vec<BlobId> {
    let store = open(folder).await;
    let mut held = Vec::new();
    for (seed, len) in LENS.into_iter().enumerate() {
        held.push(store.put_bytes(content(seed as u64, len)).await.unwrap());
    }
    store.put_durable(&held).await.unwrap();
    let ids = held.iter().map(|held| held.id()).collect();
    drop(held);
    store.close().await.unwrap();
    ids
}

fn flip(file: PathBuf, at: usize) {
    let mut bytes = fs::read(&file).unwrap();
    bytes[at] ^= 1;
    fs::write(file, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_which_bits_have_flipped_is_built_anew_from_what_is_whole() {
    let folder = tempfile::tempdir().unwrap();
    let ids = filled(folder.path()).await;
    assert!(check(folder.path()).await.unwrap().database.is_none());
    let database = folder.path().join("blobs.db");
    let bytes = fs::read(&database).unwrap();
    // The short blob's own bytes: it alone is lost.
    let short = content(0, LENS[0]);
    let at = (0..bytes.len()).find(|at| bytes[*at..].starts_with(&short)).unwrap();
    flip(database, at);
    assert!(check(folder.path()).await.unwrap().database.is_some(), "nothing is changed by a check");
    let store = open(folder.path()).await;
    assert!(matches!(store.read_bytes(ids[0], u64::MAX).await, Err(Error::NotHere(_))));
    for (seed, id) in ids.iter().enumerate().skip(1) {
        assert_eq!(store.read_bytes(*id, u64::MAX).await.unwrap(), content(seed as u64, LENS[seed]), "{seed}");
    }
    assert_eq!(store.total().await.unwrap().count, 3);
    store.close().await.unwrap();
    assert!(!folder.path().join("data.damaged").exists());
    let found = check(folder.path()).await.unwrap();
    assert_eq!((found.count, found.database, found.damaged), (3, None, Vec::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_whose_bits_have_flipped_is_named_and_the_others_are_served() {
    let folder = tempfile::tempdir().unwrap();
    let ids = filled(folder.path()).await;
    flip(folder.path().join("data").join(format!("{}.data", ids[3])), 2 * MIB);
    assert_eq!(check(folder.path()).await.unwrap().damaged, [ids[3]]);
    let store = open(folder.path()).await;
    assert!(matches!(store.read_bytes(ids[3], u64::MAX).await, Err(Error::Damaged(_))));
    assert_eq!(store.read_bytes(ids[2], u64::MAX).await.unwrap(), content(2, LENS[2]));
    store.close().await.unwrap();
}
