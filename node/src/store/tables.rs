//! The tables on disk: redb, behind the journal. They may be lost at any time; the journal rebuilds them.

use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::{Duration, Instant};

use redb::{Database, Durability, ReadableDatabase, ReadableTable, TableDefinition};

use super::table::{Mutation, Table};

/// redb's page cache, in bytes. Why 8 MiB: the default of 1 GiB is more than an edge machine has; hot rows are in memory already.
const CACHE_LEN: usize = 8 * 1024 * 1024;
/// How long a write that has failed is waited for until it has let go of the file. Why 2 s: it only has to return.
const WRITE_PATIENCE: Duration = Duration::from_secs(2);
/// How long between two looks.
const WRITE_PAUSE: Duration = Duration::from_millis(1);
/// A file that could not be opened is tried again after this. Why 1 s: each time all of it may be looked at.
const REOPEN_AGAIN: Duration = Duration::from_secs(1);
/// How often one read has the file opened again. Why 3: that somebody else has it opened counts, too.
const REOPENED_MAX: u32 = 3;
/// Where the position stands: the sequence of the last journal frame that the tables contain.
const POSITION: TableDefinition<'_, &str, u64> = TableDefinition::new("position");

const fn definition(table: Table) -> TableDefinition<'static, &'static [u8], &'static [u8]> {
    TableDefinition::new(table.name())
}

/// The tables.
pub(crate) struct Tables {
    path: PathBuf,
    opened: RwLock<Opened>,
}

/// The file, as it was opened last.
struct Opened {
    /// How often it was opened.
    generation: u64,
    /// Or why it could not be opened again after a failure, and when that was tried.
    database: Result<Database, (String, Instant)>,
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
        let opened = RwLock::new(Opened { generation: 0, database: Ok(open(path)?) });
        Ok(Self { path: path.to_owned(), opened })
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

    /// Opens the file anew after a failure: redb refuses everything from then on. Whoever reads meanwhile waits.
    pub(crate) fn reopen(&self) -> Result<(), redb::Error> {
        let generation = self.opened().generation;
        self.reopen_after(generation)
    }

    /// The same, if nobody else has done so since, or has tried a moment ago.
    fn reopen_after(&self, generation: u64) -> Result<(), redb::Error> {
        let mut opened = self.opened.write().unwrap_or_else(PoisonError::into_inner);
        if opened.generation != generation {
            return Ok(());
        }
        if let Err((why, at)) = &opened.database
            && at.elapsed() < REOPEN_AGAIN
        {
            return Err(closed(why));
        }
        // redb locks its file: the old handle must be gone before the new one can be opened.
        opened.database = Err(("it is being opened".to_owned(), Instant::now()));
        let deadline = Instant::now() + WRITE_PATIENCE;
        let database = loop {
            match open(&self.path) {
                // A write that has failed is not over yet.
                Err(redb::Error::DatabaseAlreadyOpen) if Instant::now() < deadline => thread::sleep(WRITE_PAUSE),
                database => break database,
            }
        };
        match database {
            Ok(database) => {
                *opened = Opened { generation: generation + 1, database: Ok(database) };
                Ok(())
            }
            Err(error) => {
                tracing::warn!(%error, "the tables cannot be opened again");
                opened.database = Err((error.to_string(), Instant::now()));
                Err(error)
            }
        }
    }

    /// Reads, and once more with a new handle where redb refuses to after a failure.
    pub(crate) fn reading<T>(&self, mut read: impl FnMut() -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        for _ in 0..REOPENED_MAX {
            let generation = self.opened().generation;
            match read() {
                Err(redb::Error::PreviousIo | redb::Error::DatabaseClosed) => self.reopen_after(generation)?,
                read => return read,
            }
        }
        read()
    }

    fn opened(&self) -> RwLockReadGuard<'_, Opened> {
        self.opened.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn with<T>(&self, body: impl FnOnce(&Database) -> Result<T, redb::Error>) -> Result<T, redb::Error> {
        match &self.opened().database {
            Ok(database) => body(database),
            // Whoever reads opens it again; this tells those who write.
            Err(_) => Err(redb::Error::DatabaseClosed),
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
        self.reading(|| {
            let rows = self.read()?.open_table(definition(table))?;
            Ok(rows.get(key)?.map(|guard| guard.value().to_vec()))
        })
    }

    /// Rows by their keys, in the order of these.
    pub(crate) fn get_each(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Vec<u8>>>, redb::Error> {
        self.reading(|| {
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

fn closed(why: &str) -> redb::Error {
    redb::Error::Io(std::io::Error::other(format!("closed after a failure: {why}")))
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
    fn whoever_reads_while_the_tables_are_opened_again_reads_with_the_new_handle() {
        let folder = tempfile::tempdir().unwrap();
        let tables = Tables::open(&folder.path().join("tables.redb")).unwrap();
        // More than the cache holds: a handle that is closed fails for what it has to read from the file.
        let value = vec![1; 64 * 1024];
        let keys: Vec<[u8; 4]> = (0..2 * CACHE_LEN / value.len()).map(|n| (n as u32).to_be_bytes()).collect();
        let rows = keys.iter().map(|key| (Table::Meta, key.as_slice(), Some(value.as_slice())));
        tables.apply(1, rows).unwrap();
        let opened_again_within = |tables: &Tables, interrupted: &mut bool| {
            let rows = tables.range(Table::Meta, (Bound::Unbounded, Bound::Unbounded), false)?;
            if std::mem::take(interrupted) {
                tables.reopen()?;
            }
            Ok(rows.collect::<Result<Vec<_>, _>>()?.len())
        };
        let failed = opened_again_within(&tables, &mut true);
        assert!(matches!(failed, Err(redb::Error::DatabaseClosed)), "{failed:?}");
        let mut interrupted = true;
        assert_eq!(tables.reading(|| opened_again_within(&tables, &mut interrupted)).unwrap(), keys.len());
        assert_eq!(tables.opened().generation, 2, "nobody else had it opened in between");
    }
}
