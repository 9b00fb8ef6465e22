//! The database of iroh-blobs, looked at from outside: iroh-blobs believes it. The only home of redb here.
//!
//! redb checks what it reads only after it was not closed in order, so that a bit that has flipped on the disk would be
//! read as it is. So a database is looked at whole before it is opened. One that is damaged is set aside with the blobs'
//! files; what is whole of them, by its hash, is put into a new one.

use std::fs;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

use bytes::Bytes;
use iroh_blobs::Hash;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use shoal_protocol::BlobId;

/// Where iroh-blobs keeps the bytes of short blobs.
const INLINE: TableDefinition<'_, Hash, &[u8]> = TableDefinition::new("inline-data-0");
/// The page cache while it is looked at, in bytes.
const CACHE_LEN: usize = 8 * 1024 * 1024;

/// What a look at a database has found.
pub(crate) enum Looked {
    /// All of it is as it was written, or there is none yet.
    Whole,
    /// Something is not, in a sentence.
    Damaged(String),
}

/// Looks at every page. Only while nobody has it open.
pub(crate) fn look(path: &Path) -> io::Result<Looked> {
    if !path.exists() {
        return Ok(Looked::Whole);
    }
    // A damaged file may hold anything: to some of it redb's answer is a panic.
    let looked = catch_unwind(|| {
        let mut database = Database::builder().set_cache_size(CACHE_LEN).open(path)?;
        Ok::<bool, redb::Error>(database.check_integrity()?)
    });
    Ok(match looked {
        Ok(Ok(true)) => Looked::Whole,
        Ok(Ok(false)) => Looked::Damaged("the blob database: a checksum is wrong".into()),
        Ok(Err(redb::Error::Io(error))) if error.raw_os_error().is_some() => return Err(error),
        Ok(Err(error)) => Looked::Damaged(format!("the blob database: {error}")),
        Err(_) => Looked::Damaged("the blob database cannot be read at all".into()),
    })
}

/// The short blobs that can still be read: from either end up to where the damage is.
pub(crate) fn short_blobs(path: &Path) -> Vec<Bytes> {
    let mut found = Vec::new();
    for backwards in [false, true] {
        let read = catch_unwind(AssertUnwindSafe(|| read_short(path, backwards, &mut found)));
        if matches!(read, Ok(Ok(()))) {
            break;
        }
    }
    found
}

fn read_short(path: &Path, backwards: bool, found: &mut Vec<Bytes>) -> Result<(), redb::Error> {
    let database = Database::builder().set_cache_size(CACHE_LEN).open(path)?;
    let table = database.begin_read()?.open_table(INLINE)?;
    let mut rows = table.iter()?;
    while let Some(row) = if backwards { rows.next_back() } else { rows.next() } {
        let (key, value) = row?;
        let bytes = value.value();
        if blake3::hash(bytes).as_bytes() == key.value().as_bytes() {
            found.push(Bytes::copy_from_slice(bytes));
        }
    }
    Ok(())
}

/// The names of the files with blobs in a folder.
pub(crate) fn files(folder: &Path) -> io::Result<Vec<(BlobId, std::path::PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let is_data = path.extension().is_some_and(|extension| extension == "data");
        let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<BlobId>().ok());
        if let Some(id) = id.filter(|_| is_data) {
            found.push((id, path));
        }
    }
    Ok(found)
}
