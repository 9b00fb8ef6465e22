//! The tables on disk: redb, behind the journal. They may be lost at any time; the journal rebuilds them.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::table::{Mutation, Table};

/// redb's page cache, in bytes. Why 8 MiB: the default of 1 GiB is more than an edge machine has; hot rows are in memory already.
const CACHE_LEN: usize = 8 * 1024 * 1024;
/// Where the position stands: the sequence of the last journal frame that the tables contain.
const POSITION: TableDefinition<'_, &str, u64> = TableDefinition::new("position");

const fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// The tables.
pub(crate) struct Tables {
    path: PathBuf,
    /// None: the file could not be opened again after a failure.
    database: RwLock<Option<Database>>,
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
        let database = RwLock::new(Some(open(path)?));
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

    /// Opens the file anew. Meanwhile, and if it fails, reads and writes fail.
    pub(crate) fn reopen(&self) -> Result<(), redb::Error> {
        let mut database = self.database.write().unwrap_or_else(PoisonError::into_inner);
        // redb locks its file: the old handle must be gone before the new one can be opened.
        *database = None;
        *database = Some(open(&self.path)?);
        Ok(())
    }

    fn with<T>(&self, body: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        let database = self.database.read().unwrap_or_else(PoisonError::into_inner);
        match database.as_ref() {
            Some(database) => body(database),
            None => Err(redb::Error::Io(std::io::Error::other("closed after a failure"))),
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
        let rows = self.read()?.open_table(definition(table))?;
        Ok(rows.get(key)?.map(|guard| guard.value().to_vec()))
    }

    /// Rows by their keys, in the order of these.
    pub(crate) fn get_each(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, redb::Error> {
        let rows = self.read()?.open_table(definition(table))?;
        keys.iter().map(|key| Ok(rows.get(*key)?.map(|guard| guard.value().to_vec()))).collect()
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
