//! A disk that fills up, on a small file system of its own.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use shoal_blobs::Error;
use shoal_protocol::BlobId;

use super::*;

/// A file system in memory, unmounted on drop.
pub(crate) struct Mount(PathBuf);

impl Mount {
    /// `None`: this user may not mount.
    pub(crate) fn new(path: &Path, mib: usize) -> Option<Self> {
        let size = format!("size={mib}m");
        let done = Command::new("mount").args(["-t", "tmpfs", "-o", &size, "tmpfs"]).arg(path).output().ok()?;
        done.status.success().then(|| Self(path.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        // Lazily: the store may still be closing its files.
        Command::new("umount").arg("-l").arg(&self.0).status().unwrap();
    }
}

/// Fills the disk to the last byte, also what has become free since the last call.
pub(crate) fn fill(path: &Path) {
    let mut file = fs::File::options().create(true).append(true).open(path).unwrap();
    for len in [MIB, 4 * KIB, 1] {
        let zeros = vec![0; len];
        while io::Write::write_all(&mut file, &zeros).is_ok() {}
    }
}

/// Puts until it works again, through the same handle.
async fn put_again(store: &Store, bytes: &Bytes) -> BlobId {
    let deadline = Instant::now() + DEADLINE;
    loop {
        match durable(store, bytes).await {
            Ok(id) => return id,
            Err(Error::Disk { .. } | Error::NotHere(_)) => {}
            Err(cause) => panic!("{cause}"),
        }
        assert!(Instant::now() < deadline, "it does not recover");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn durable(store: &Store, bytes: &Bytes) -> Result<BlobId, Error> {
    let held = store.put(u64::MAX, source(bytes)).await?;
    store.put_durable(std::slice::from_ref(&held)).await?;
    Ok(held.id())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_is_reported_and_a_freed_one_works_again() {
    let folder = tempfile::tempdir().unwrap();
    let Some(_mount) = Mount::new(folder.path(), 48) else {
        println!("skipped: this user may not mount a tmpfs");
        return;
    };
    let root = folder.path().join("blobs");
    let ballast = folder.path().join("ballast");
    let store = open(&root).await;
    let first = durable(&store, &content(1, 4 * MIB)).await.unwrap();
    let held = store.put_bytes(content(2, MIB)).await.unwrap();
    store.put_durable(std::slice::from_ref(&held)).await.unwrap();

    // While the content is written: what was written so far is given back.
    fs::write(&ballast, vec![0; 16 * MIB]).unwrap();
    match durable(&store, &content(3, 30 * MIB)).await {
        Err(Error::Disk { full: true, .. }) => {}
        other => panic!("{other:?}"),
    }
    let small = put_again(&store, &content(4, 2 * MIB)).await;
    fs::remove_file(&ballast).unwrap();
    let large = put_again(&store, &content(3, 30 * MIB)).await;
    assert!(store.forget(large).await.unwrap());
    assert_eq!(store.collect().await.unwrap().count, 1);

    // While the database is written: small blobs are in the database only.
    let mut failures = 0;
    for seed in 100..2000 {
        fill(&ballast);
        match durable(&store, &content(seed, 4000)).await {
            Ok(_) => {}
            Err(Error::Disk { .. } | Error::NotHere(_)) => failures += 1,
            Err(cause) => panic!("{cause}"),
        }
        if failures == 3 {
            break;
        }
    }
    assert_eq!(failures, 3, "the disk never got full");
    fs::remove_file(&ballast).unwrap();
    put_again(&store, &content(5, 6 * MIB)).await;

    assert_eq!(store.read_bytes(first, u64::MAX).await.unwrap(), content(1, 4 * MIB));
    assert_eq!(store.read_bytes(small, u64::MAX).await.unwrap(), content(4, 2 * MIB));
    assert_eq!(store.read_bytes(held.id(), u64::MAX).await.unwrap(), content(2, MIB));
    let totals = store.total().await.unwrap();
    let kept = store.list(None, 1000).await.unwrap();
    assert_eq!((totals.count, totals.bytes), (kept.len() as u64, kept.iter().map(|&(_, size)| size).sum()));
    store.close().await.unwrap();
}
