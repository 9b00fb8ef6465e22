//! The store as a whole: what is durable, what is read, what is rebuilt.

use std::sync::mpsc as std_mpsc;

use super::*;

fn open(folder: &Path) -> Result<(Store, Threads), OpenError> {
    Store::open(folder, u64::MAX, Box::new(|_, _, _| {}))
}

fn put(key: &str, value: &str) -> Mutation {
    Mutation::put(Table::Meta, key.as_bytes().to_vec(), value.as_bytes().to_vec())
}

fn value(store: &Store, key: &str) -> Option<String> {
    store.get(Table::Meta, key.as_bytes()).unwrap().map(|v| String::from_utf8(v.to_vec()).unwrap())
}

fn keys(rows: &ScannedRows) -> Vec<String> {
    rows.iter().map(|(key, _)| String::from_utf8(key.to_vec()).unwrap()).collect()
}

#[tokio::test]
async fn what_was_committed_is_there_after_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    store.commit(vec![put("a", "1"), put("b", "2")]).await.unwrap();
    store.commit(vec![Mutation::delete(Table::Meta, b"a".to_vec())]).await.unwrap();
    drop(store);
    threads.join();
    for lost in [false, true] {
        if lost {
            std::fs::remove_file(folder.path().join("tables.redb")).unwrap();
        }
        let (store, threads) = open(folder.path()).unwrap();
        assert_eq!((value(&store, "a"), value(&store, "b")), (None, Some("2".into())), "tables lost: {lost}");
        drop(store);
        threads.join();
    }
}

#[tokio::test]
async fn tables_that_are_damaged_are_rebuilt_from_snapshot_and_journal() {
    let folder = tempfile::tempdir().unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    store.commit(vec![put("a", "old"), put("b", "2")]).await.unwrap();
    drop(store);
    threads.join();
    let tables = Tables::open(&folder.path().join("tables.redb")).unwrap();
    snapshot::write(&folder.path().join("journal"), &tables).unwrap();
    drop(tables);
    let (store, threads) = open(folder.path()).unwrap();
    store.commit(vec![put("a", "new")]).await.unwrap();
    journal::drop_through(&folder.path().join("journal"), 1).unwrap();
    drop(store);
    threads.join();
    std::fs::write(folder.path().join("tables.redb"), b"no database").unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    assert_eq!((value(&store, "a"), value(&store, "b")), (Some("new".into()), Some("2".into())));
    drop(store);
    threads.join();
}

/// The bytes of a value, wherever a file holds them.
fn flip_value(file: &Path, value: &[u8]) {
    let mut bytes = std::fs::read(file).unwrap();
    let places: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(value)).collect();
    assert!(!places.is_empty(), "{} does not hold it", file.display());
    places.iter().for_each(|at| bytes[*at] ^= 1);
    std::fs::write(file, bytes).unwrap();
}

#[tokio::test]
async fn a_bit_that_flips_in_the_tables_is_found_and_they_are_rebuilt() {
    let folder = tempfile::tempdir().unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    store.commit(vec![put("a", "the value of a row"), put("b", "2")]).await.unwrap();
    drop(store);
    threads.join();
    assert!(check::check(folder.path()).unwrap().iter().all(|part| part.damage.is_empty()));
    flip_value(&folder.path().join("tables.redb"), b"the value of a row");
    let found = check::check(folder.path()).unwrap();
    assert_eq!(
        found.iter().filter(|part| !part.damage.is_empty()).map(|part| part.part).collect::<Vec<_>>(),
        ["tables"]
    );
    let (store, threads) = open(folder.path()).unwrap();
    assert_eq!(value(&store, "a"), Some("the value of a row".into()));
    drop(store);
    threads.join();
    assert!(check::check(folder.path()).unwrap().iter().all(|part| part.damage.is_empty()));
}

#[tokio::test]
async fn a_journal_that_is_damaged_is_replaced_by_a_snapshot_while_there_are_tables() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["first", "second"] {
        let (store, threads) = open(folder.path()).unwrap();
        store.commit(vec![put(text, "a value that is looked for")]).await.unwrap();
        drop(store);
        threads.join();
    }
    let segment = journal::files(&folder.path().join("journal")).unwrap().remove(0);
    flip_value(&segment, b"a value that is looked for");
    let found = check::check(folder.path()).unwrap();
    assert_eq!(
        found.iter().filter(|part| !part.damage.is_empty()).map(|part| part.part).collect::<Vec<_>>(),
        ["journal"]
    );
    let (store, threads) = open(folder.path()).unwrap();
    drop(store);
    threads.join();
    assert!(check::check(folder.path()).unwrap().iter().all(|part| part.damage.is_empty()));
    // What the tables had is in the snapshot: they may now be lost.
    std::fs::remove_file(folder.path().join("tables.redb")).unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    for text in ["first", "second"] {
        assert_eq!(value(&store, text), Some("a value that is looked for".into()));
    }
    drop(store);
    threads.join();
}

#[tokio::test]
async fn tables_that_are_older_than_the_snapshot_are_rebuilt_and_keep_no_row_that_was_removed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    store.commit(vec![put("gone", "1"), put("kept", "1")]).await.unwrap();
    drop(store);
    threads.join();
    let (path, old) = (folder.path().join("tables.redb"), folder.path().join("old.redb"));
    std::fs::copy(&path, &old).unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    store.commit(vec![Mutation::delete(Table::Meta, b"gone".to_vec())]).await.unwrap();
    drop(store);
    threads.join();
    let journal = folder.path().join("journal");
    snapshot::write(&journal, &Tables::open(&path).unwrap()).unwrap();
    std::fs::rename(&old, &path).unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    assert_eq!((value(&store, "gone"), value(&store, "kept")), (None, Some("1".into())));
    drop(store);
    threads.join();
}

#[tokio::test]
async fn scans_see_memory_over_tables() {
    let folder = tempfile::tempdir().unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    store.commit(["a", "c", "e", "g"].map(|key| put(key, "stored")).to_vec()).await.unwrap();
    drop(store);
    threads.join();
    let (store, threads) = open(folder.path()).unwrap();
    store.commit(vec![put("b", "m"), put("c", "m"), Mutation::delete(Table::Meta, b"e".to_vec())]).await.unwrap();
    let all = (Bound::Unbounded, Bound::Unbounded);
    assert_eq!(keys(&store.scan(Table::Meta, all, false, 10).unwrap()), ["a", "b", "c", "g"]);
    assert_eq!(keys(&store.scan(Table::Meta, all, true, 3).unwrap()), ["g", "c", "b"]);
    assert_eq!(store.scan(Table::Meta, all, false, 3).unwrap()[2].1, "m");
    assert_eq!(keys(&store.scan_prefix(Table::Meta, b"c", None, 9).unwrap()), ["c"]);
    assert_eq!(
        keys(&store.scan(Table::Meta, (Bound::Excluded(b"a"), Bound::Excluded(b"c")), false, 9).unwrap()),
        ["b"]
    );
    assert!(store.scan(Table::Meta, (Bound::Excluded(b"c"), Bound::Excluded(b"a")), false, 9).unwrap().is_empty());
    drop(store);
    threads.join();
}

#[tokio::test]
async fn a_scan_goes_on_behind_what_was_removed_in_memory() {
    let folder = tempfile::tempdir().unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    let key = |n: usize| format!("{n:04}");
    store.commit((0..1_000).map(|n| put(&key(n), "stored")).collect()).await.unwrap();
    drop(store);
    threads.join();
    let (store, threads) = open(folder.path()).unwrap();
    let gone = (0..1_000).filter(|n| !(400..402).contains(n));
    store.commit(gone.map(|n| Mutation::delete(Table::Meta, key(n).into_bytes())).collect()).await.unwrap();
    let all = (Bound::Unbounded, Bound::Unbounded);
    assert_eq!(keys(&store.scan(Table::Meta, all, false, 1).unwrap()), ["0400"]);
    assert_eq!(keys(&store.scan(Table::Meta, all, false, 9).unwrap()), ["0400", "0401"]);
    assert_eq!(keys(&store.scan(Table::Meta, all, true, 1).unwrap()), ["0401"]);
    assert_eq!(keys(&store.scan(Table::Meta, all, true, 9).unwrap()), ["0401", "0400"]);
    let each = store.get_each(Table::Meta, &[b"0399", b"0400", b"none", b"0401"]).unwrap();
    assert_eq!(each.iter().map(Option::is_some).collect::<Vec<_>>(), [false, true, false, true]);
    drop(store);
    threads.join();
}

#[tokio::test]
async fn decisions_see_all_that_was_decided_before_them() {
    let folder = tempfile::tempdir().unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    let adds = (0..500).map(|_| {
        store.decide(|view| {
            let count = view.get(Table::Meta, b"n")?.map_or(0, |v| String::from_utf8_lossy(&v).parse::<u32>().unwrap());
            Ok((vec![put("n", &(count + 1).to_string())], count))
        })
    });
    let mut seen = futures_util::future::try_join_all(adds).await.unwrap();
    seen.sort_unstable();
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
    assert_eq!(value(&store, "n"), Some("500".into()));
    drop(store);
    threads.join();
}

#[tokio::test]
async fn a_failed_write_fails_its_generation_and_nothing_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    store.commit(vec![put("a", "1")]).await.unwrap();
    let generation = store.generation();
    // The journal's folder goes away: the next segment cannot be begun. A frame above its limit fails alike.
    let big = vec![Mutation::put(Table::Meta, b"big".to_vec(), vec![0u8; journal::BODY_LEN_MAX + 1])];
    let failed = store.commit(big).await.unwrap_err();
    assert_eq!(failed.kind, Kind::StorageUnavailable);
    let (send, receive) = std_mpsc::channel();
    store.send(generation, vec![put("stale", "1")], Box::new(move |r| send.send(r).unwrap())).await;
    store.commit(vec![put("b", "2")]).await.unwrap();
    assert!(receive.recv().unwrap().is_err());
    assert_eq!((value(&store, "stale"), value(&store, "b")), (None, Some("2".into())));
    drop(store);
    threads.join();
    let (store, threads) = open(folder.path()).unwrap();
    assert_eq!(
        (value(&store, "a"), value(&store, "b"), value(&store, "big")),
        (Some("1".into()), Some("2".into()), None)
    );
    drop(store);
    threads.join();
}

#[test]
fn a_folder_is_opened_once_and_never_by_an_older_program() {
    let folder = tempfile::tempdir().unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::InUse { .. })));
    drop(store);
    threads.join();
    std::fs::write(folder.path().join("version"), "99\n").unwrap();
    assert!(matches!(open(folder.path()), Err(OpenError::Newer { found: 99, .. })));
    // One bit is no newer program: the copy knows better.
    std::fs::write(folder.path().join("version"), "9\n").unwrap();
    let (store, threads) = open(folder.path()).unwrap();
    drop(store);
    threads.join();
}
