//! The writer thread: one frame and one sync for all commits that wait.

use std::path::{Path, PathBuf};
use std::sync::PoisonError;
use std::sync::atomic::Ordering;
use std::time::Instant;

use shoal_protocol::{Kind, Problem};
use tokio::sync::mpsc;

use super::journal::Journal;
use super::memory::Rows;
use super::tables::{Damaged, Tables};
use super::{Commit, Done, OpenError, Shared, View, Work, snapshot, table};

/// Commits in one frame. Why 1,024: a sync is paid by many; more would only make the first of them wait.
const COMMITS_PER_FRAME_MAX: usize = 1024;
/// Rows of one frame, in bytes of memory. Why 8 MiB: far below the limit of a frame.
const FRAME_ROWS_LEN_MAX: usize = 8 * 1024 * 1024;
/// Rows that wait for the tables, in bytes of memory, above which nothing is accepted. Why 256 MiB: the tables cannot
/// be written for long only if the disk is failing.
const UNFLUSHED_LEN_MAX: usize = 256 * 1024 * 1024;
/// While recovering, rows in memory are put into the tables at this length, in bytes.
const RECOVERY_LEN_MAX: usize = 32 * 1024 * 1024;

/// The file with the tables, in the data folder.
pub(super) const TABLES: &str = "tables.redb";

/// What a folder held.
pub(super) struct Recovered {
    pub(super) tables: Tables,
    pub(super) journal: Journal,
    pub(super) rows: Rows,
    /// What was written before: nothing is appended to it any more.
    pub(super) written: Vec<PathBuf>,
}

/// Opens the tables, rebuilds them if they are lost or damaged, and reads what the journal holds beyond them.
pub(super) fn recover(folder: &Path, journal_len: u64) -> Result<Recovered, OpenError> {
    let journal_folder = folder.join("journal");
    let failed = |what: &str| {
        let context = format!("{what} {}", journal_folder.display());
        move |source| OpenError::Io { context, source }
    };
    std::fs::create_dir_all(&journal_folder).map_err(failed("making"))?;
    let tables = open_tables(folder, &journal_folder)?;
    snapshot::restore(&journal_folder, &tables)?;
    let mut rows = Rows::default();
    let mut unreadable = None;
    let after = tables.position()?;
    let (journal, recovery) =
        Journal::open(&journal_folder, journal_len, after, |frame| match table::decode(&frame.body) {
            Ok(mutations) => {
                mutations.into_iter().for_each(|mutation| rows.apply(mutation));
                if rows.len() > RECOVERY_LEN_MAX {
                    let full = std::mem::take(&mut rows);
                    if let Err(error) = flush(&tables, frame.sequence, &full) {
                        unreadable.get_or_insert(error.to_string());
                    }
                }
            }
            Err(reason) => {
                unreadable.get_or_insert(format!("frame {}: {reason}", frame.sequence));
            }
        })
        .map_err(failed("reading"))?;
    let written = super::journal::files(&journal_folder).map_err(failed("reading"))?;
    if let Some(reason) = unreadable {
        return Err(OpenError::Journal(reason));
    }
    if recovery.torn_bytes > 0 {
        tracing::info!(bytes = recovery.torn_bytes, "the last write was cut off; nothing of it had been acknowledged");
    }
    for damage in &recovery.damaged {
        tracing::warn!(
            ?damage,
            "the journal is damaged: the disk has lost acknowledged data; all that follows was read"
        );
    }
    Ok(Recovered { tables, journal, rows, written })
}

/// Tables that are damaged are set aside: snapshot and journal have all that they had.
fn open_tables(folder: &Path, journal: &Path) -> Result<Tables, OpenError> {
    let path = folder.join(TABLES);
    let why = match Tables::open_whole(&path) {
        Ok(tables) => {
            let (position, snapshot) = (tables.position()?, snapshot::position(journal).unwrap_or(0));
            // Older tables than the snapshot lack what came between, and hold rows that were removed since.
            if position == 0 || position >= snapshot {
                return Ok(tables);
            }
            format!("they end at frame {position}, before the snapshot of frame {snapshot}")
        }
        Err(Damaged::Disk(error)) => return Err(error.into()),
        Err(Damaged::Content(why)) => why,
    };
    let aside = folder.join("tables.redb.broken");
    tracing::warn!(why, aside = %aside.display(), "the tables are damaged; they are rebuilt from the journal");
    let context = || format!("setting {} aside", path.display());
    std::fs::rename(&path, &aside).map_err(|source| OpenError::Io { context: context(), source })?;
    Ok(Tables::open(&path)?)
}

/// Puts rows into the tables.
pub(super) fn flush(tables: &Tables, position: u64, rows: &Rows) -> Result<(), redb::Error> {
    tables.apply(position, rows.iter().map(|(table, key, value)| (table, key.as_ref(), value.as_deref())))
}

/// Runs until the last sender is gone.
pub(super) fn run(shared: &Shared, mut journal: Journal, mut commits: mpsc::Receiver<Commit>) {
    let mut waiting = Vec::with_capacity(COMMITS_PER_FRAME_MAX);
    while commits.blocking_recv_many(&mut waiting, COMMITS_PER_FRAME_MAX) > 0 {
        let mut batch = waiting.drain(..).peekable();
        while batch.peek().is_some() {
            write_frame(shared, &mut journal, &mut batch);
        }
    }
    shared.flush.stop();
}

/// Stages commits up to the size of a frame, writes them, and calls their `done`.
fn write_frame(shared: &Shared, journal: &mut Journal, batch: &mut impl Iterator<Item = Commit>) {
    let generation = shared.generation.load(Ordering::Acquire);
    let mut staged = Rows::default();
    let mut dones: Vec<Done> = Vec::new();
    let mut stale: Vec<Done> = Vec::new();
    for commit in batch {
        let current = commit.generation == generation;
        let (rows, done) = match commit.work {
            Work::Rows(rows, done) => (rows, done),
            // What is decided here and now is decided on what is durable: it is never stale.
            Work::Decide(decide) => decide(&View { staged: &staged, shared }),
        };
        if !current {
            stale.push(done);
            continue;
        }
        rows.into_iter().for_each(|row| staged.apply(row));
        dones.push(done);
        if staged.len() >= FRAME_ROWS_LEN_MAX {
            break;
        }
    }
    let written = if staged.is_empty() { Ok(()) } else { write(shared, journal, staged) };
    for done in dones {
        done(written.clone());
    }
    for done in stale {
        done(Err(Problem::new(Kind::StorageUnavailable, "a write before this one failed; try again").retry_after(500)));
    }
}

/// Writes a frame, and remembers whether it could be written.
fn write(shared: &Shared, journal: &mut Journal, staged: Rows) -> Result<(), Problem> {
    let written = append(shared, journal, staged);
    *shared.failure.lock().unwrap_or_else(PoisonError::into_inner) = written.clone().err();
    if written.is_err() {
        shared.generation.fetch_add(1, Ordering::AcqRel);
        shared.failed.notify_one();
    }
    written
}

fn append(shared: &Shared, journal: &mut Journal, staged: Rows) -> Result<(), Problem> {
    if shared.layers().active.len() > UNFLUSHED_LEN_MAX {
        return Err(full("the tables cannot be written"));
    }
    let rows = staged.iter().count() as u64;
    let body = table::encode(staged.iter());
    let begun = Instant::now();
    let sequence = journal.append(&body).map_err(|error| {
        tracing::warn!(%error, "the journal cannot be written: nothing is accepted until it can; free space or mend the disk");
        full(&format!("the journal cannot be written: {error}"))
    })?;
    (shared.observe)(begun.elapsed(), rows, body.len() as u64);
    let unflushed = {
        let mut layers = shared.layers_mut();
        layers.active.absorb(staged);
        layers.active.len()
    };
    shared.flush.written(sequence, unflushed);
    Ok(())
}

fn full(what: &str) -> Problem {
    Problem::new(Kind::StorageUnavailable, format!("{what}; nothing was accepted")).retry_after(1000)
}
