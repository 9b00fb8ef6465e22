//! A replica that is ahead of a disk that cannot be read.

use std::sync::Arc;

use shoal_protocol::change::DocumentClass;

use super::*;
use crate::documents::tests::{Person, founding, mesh};
use crate::replication::Feed;

fn published() -> Published {
    Published { index: Arc::default(), directory: Arc::default(), kernel: Arc::default(), accepted: Feed::new() }
}

fn rows(store: &Store) -> ScannedRows {
    store.scan_prefix(Table::Changes, &[], None, PAGE_LEN).unwrap()
}

#[tokio::test]
async fn a_replica_that_cannot_be_built_anew_writes_over_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (store, threads) = Store::open(folder.path(), u64::MAX, Box::new(|_, _, _| {})).unwrap();
    let published = published();
    let mut owner = Owner::open(mesh(), store.clone(), published.clone()).unwrap();
    let (ada, bo) = (Person::new(1), Person::new(2));
    owner.sign(founding(&ada, "ada"), &ada.key).await.unwrap();
    let before = rows(&store);

    // A write has failed, and then the disk cannot be read either: not at all, or only its first page.
    for readable in [0, 1] {
        owner.ahead = true;
        let pages = |after: Option<&[u8]>| match after {
            None if readable == 1 => Ok(before.clone()),
            _ => Err(Problem::new(Kind::StorageUnavailable, "no disk")),
        };
        assert_eq!(owner.catch_up_from(pages).unwrap_err().kind, Kind::StorageUnavailable);
        assert!(owner.ahead, "it is tried again");
        assert_eq!(published.index.read().unwrap().len(), 1);
        let directory = published.directory.read().unwrap();
        assert_eq!(directory.of_class(DocumentClass::User, None).count(), 1, "what is durable is still known");
    }
    // The next ask finds the disk again.
    owner.sign(founding(&bo, "bo"), &bo.key).await.unwrap();
    assert!(!owner.ahead);
    let after = rows(&store);
    assert_eq!(after.len(), 2);
    assert_eq!(after[..1], before, "the oldest change is where it was");

    drop((owner, store));
    threads.join();
}
