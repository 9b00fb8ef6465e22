//! The tables on disk: redb, behind the journal. They may be lost at any time; the journal rebuilds them.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::table::{Mutation, Table};

/// redb's page cache, in bytes. Why 8 MiB: the default of 1 GiB is more than an edge machine has; hot rows are in memory already.
const CACHE_LEN: usize = 8 * 1024 * 1024;
/// How long the tables are waited for that somebody still reads with an old handle. Why 2 s: a page of rows is read in milliseconds, on a
/// slow card in some hundred.
const READERS_PATIENCE: Duration = Duration::from_secs(2);
/// How long between two looks.
const READERS_PAUSE: Duration = Duration::from_millis(1);
/// Where the position stands: the sequence of the last journal frame that the tables contain.
const POSITION: TableDefinition<'_, &str, u64> = TableDefinition::new("position");

const fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// The tables.
pub(crate) struct Tables {
    path: PathBuf,
    /// Or why the file could not be opened again after a failure.
    database: RwLock<Result<Database, String>>,
}

/// Why tables cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Damaged {
    /// The disk refuses: that says nothing of what is on it.
    #[error(transparent)]
    Disk(redb::Error),
    /// What is there is not what was written.
    #[error("{0}")]
    Content(String),
}

impl Damaged {
    fn of(error: redb::Error) -> Self {
        match error {
            redb::Error::Io(ref io) if io.raw_os_error().is_some() => Self::Disk(error),
            error => Self::Content(error.to_string()),
        }
    }
}

/// A row of a scan.
pub(crate) type Row = (Vec<u8>, Vec<u8>);

impl Tables {
    /// Opens the file, or makes it.
    pub(crate) fn open(path: &Path) -> Result<Self, redb::Error> {
        let database = RwLock::new(Ok(open(path)?));
        Ok(Self { path: path.to_owned(), database })
    }

    /// The same, and looks at every page of it: redb looks at what it has written only when it was not closed in order, so
    /// that a bit that has flipped meanwhile would be read as it is.
    pub(crate) fn open_whole(path: &Path) -> Result<Self, Damaged> {
        // A damaged file may hold anything: to some of it redb's answer is a panic.
        let looked = std::panic::catch_unwind(|| {
            let looked = Arc::new(AtomicBool::new(false));
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE_LEN).set_repair_callback({
                let looked = Arc::clone(&looked);
                move |_| looked.store(true, Ordering::Relaxed)
            });
            let mut database = builder.create(path)?;
            // It was not closed in order: then redb has just looked at all of it.
            Ok::<bool, redb::Error>(looked.load(Ordering::Relaxed) || database.check_integrity()?)
        });
        match looked {
            Ok(Ok(true)) => Self::open(path).map_err(Damaged::of),
            Ok(Ok(false)) => Err(Damaged::Content("a checksum is wrong".into())),
            Ok(Err(error)) => Err(Damaged::of(error)),
            Err(_) => Err(Damaged::Content("it cannot be read at all".into())),
        }
    }

    /// Opens the file anew. Meanwhile reads wait; if it fails, reads and writes fail.
    pub(crate) fn reopen(&self) -> Result<(), redb::Error> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // redb locks its file: the old handle must be gone before the new one can be opened, and so must whoever reads with it.
        *database = Err("it is being opened".to_owned());
        let deadline = Instant::now() + READERS_PATIENCE;
        let opened = loop {
            match open(&self.path) {
                Err(redb::Error::DatabaseAlreadyOpen) if Instant::now() < deadline => thread::sleep(READERS_PAUSE),
                opened => break opened,
            }
        };
        match opened {
            Ok(opened) => *database = Ok(opened),
            Err(error) => {
                *database = Err(error.to_string());
                return Err(error);
            }
        }
        Ok(())
    }

    fn with<T>(&self, body: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        match database.as_ref() {
            Ok(database) => body(database),
            Err(why) => Err(redb::Error::Io(std::io::Error::other(format!("closed after a failure: {why}")))),
        }
    }

    fn read(&self) -> Result<redb::ReadTransaction, redb::Error> {
        self.with(|database| Ok(database.begin_read()?))
    }

    /// The sequence of the last frame that the tables contain.
    pub(crate) fn position(&self) -> Result<u64, redb::Error> {
        let table = self.read()?.open_table(POSITION)?;
        Ok(table.get("journal")?.map_or(0, |guard| guard.value()))
    }

    /// Writes the mutations and the position, durably and at once.
    pub(crate) fn apply<'a>(
        &self,
        position: u64,
        mutations: impl Iterator<Item = (Table, &'a [u8], Option<&'a [u8]>)>,
    ) -> Result<(), redb::Error> {
        let mut write = self.with(|database| Ok(database.begin_write()?))?;
        write.set_durability(Durability::Immediate).map_err(redb::Error::from)?;
        {
            let mut open = None;
            for (table, key, value) in mutations {
                // Mutations come sorted by table: each is opened once.
                if open.as_ref().is_none_or(|(opened, _)| *opened != table) {
                    drop(open.take());
                    open = Some((table, write.open_table(definition(table))?));
                }
                if let Some((_, rows)) = &mut open {
                    match value {
                        Some(value) => drop(rows.insert(key, value)?),
                        None => drop(rows.remove(key)?),
                    }
                }
            }
            drop(open);
            write.open_table(POSITION)?.insert("journal", position)?;
        }
        write.commit()?;
        Ok(())
    }

    /// One row.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, redb::Error> {
        until_opened_again(|| {
            let rows = self.read()?.open_table(definition(table))?;
            Ok(rows.get(key)?.map(|guard| guard.value().to_vec()))
        })
    }

    /// Rows by their keys, in the order of these.
    pub(crate) fn get_each(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, redb::Error> {
        until_opened_again(|| {
            let rows = self.read()?.open_table(definition(table))?;
            keys.iter().map(|key| Ok(rows.get(*key)?.map(|guard| guard.value().to_vec()))).collect()
        })
    }

    /// The rows of a range, lazily, `newest` the highest key first.
    pub(crate) fn range(
        &self,
        table: Table,
        range: (Bound<&[u8]>, Bound<&[u8]>),
        newest: bool,
    ) -> Result<impl Iterator<Item = Result<Row, redb::Error>> + 'static, redb::Error> {
        let rows = self.read()?.open_table(definition(table))?;
        let mut range = rows.range::<&[u8]>(range)?;
        Ok(std::iter::from_fn(move || {
            let next = if newest { range.next_back() } else { range.next() };
            next.map(|row| {
                let (key, value) = row?;
                Ok((key.value().to_vec(), value.value().to_vec()))
            })
        }))
    }

    /// Every row of every table as it stands at the position that is returned with them.
    pub(crate) fn dump(&self, mut each: impl FnMut(Mutation) -> std::io::Result<()>) -> Result<u64, redb::Error> {
        let read = self.read()?;
        for table in Table::ALL {
            for row in read.open_table(definition(table))?.iter()? {
                let (key, value) = row?;
                each(Mutation::put(table, key.value().to_vec(), value.value().to_vec()))?;
            }
        }
        Ok(read.open_table(POSITION)?.get("journal")?.map_or(0, |guard| guard.value()))
    }
}

/// Reads, and after a write that has failed once more: redb refuses everything from then on, and the flusher opens the file anew at once.
pub(crate) fn until_opened_again<T>(mut read: impl FnMut() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
    let deadline = Instant::now() + READERS_PATIENCE;
    loop {
        match read() {
            Err(redb::Error::PreviousIo) if Instant::now() < deadline => thread::sleep(READERS_PAUSE),
            read => return read,
        }
    }
}

fn open(path: &Path) -> Result<Database, redb::Error> {
    let database = Database::builder().set_cache_size(CACHE_LEN).create(path)?;
    let write = database.begin_write()?;
    for table in Table::ALL {
        write.open_table(definition(table))?;
    }
    write.open_table(POSITION)?;
    write.commit()?;
    Ok(database)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_reads_while_the_tables_are_opened_again_does_not_keep_them_closed() {
        let folder = tempfile::tempdir().unwrap();
        let tables = Arc::new(Tables::open(&folder.path().join("tables.redb")).unwrap());
        let row = [(Table::Meta, b"a".as_slice(), Some(b"1".as_slice()))];
        tables.apply(1, row.into_iter()).unwrap();
        let mut rows = tables.range(Table::Meta, (Bound::Unbounded, Bound::Unbounded), false).unwrap();
        let reopening = thread::spawn({
            let tables = Arc::clone(&tables);
            move || tables.reopen()
        });
        // Until it waits for this reader, or has given up.
        while tables.database.try_read().is_ok() && !reopening.is_finished() {
            thread::yield_now();
        }
        assert!(rows.next().unwrap().is_ok());
        drop(rows);
        reopening.join().unwrap().unwrap();
        assert_eq!(tables.get(Table::Meta, b"a").unwrap(), Some(b"1".to_vec()));
    }
}
