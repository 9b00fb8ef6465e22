//! What this node keeps: the journal, which is the truth, and tables over it, which can be rebuilt.
//!
//! A [`Commit`] is a set of row mutations that become durable together. The writer thread takes all commits that wait,
//! writes them as one frame and syncs once; only then are their `done` calls made, in order. Rows are read from memory
//! until the flusher thread has put them into the tables on disk.
//!
//! Invariant: `done(Ok)` is called only after the rows are on disk, and in the order of the commits.
//! Invariant: after a failed write nothing of the same generation is written: whoever decided on top of rows that were
//! lost must begin anew from what is durable.

pub(crate) mod check;
mod flusher;
mod journal;
mod memory;
mod snapshot;
mod table;
mod tables;
mod writer;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use bytes::Bytes;
use shoal_protocol::{Kind, Problem};
use tokio::sync::{Notify, mpsc, oneshot};

use memory::Rows;
pub(crate) use table::{Mutation, Table};
use tables::Tables;

/// Commits that may wait for the writer. Why 4,096: some batches ahead; beyond it whoever commits waits.
const COMMITS_WAITING_MAX: usize = 4096;
/// Rows in memory that a scan takes at once, or more if more are asked for. Why 256: the lock costs them next to nothing each,
/// and where rows were removed a scan that needs one passes many.
const STRETCH_LEN_MIN: usize = 256;
/// The version of the folder's layout that this program reads and writes.
const LAYOUT_VERSION: u32 = 1;

/// Why the store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// The folder was written by a newer program.
    #[error(
        "the data folder {folder} has layout version {found}; this program knows up to {known}: use the newer program"
    )]
    Newer {
        /// The folder.
        folder: PathBuf,
        /// Its version.
        found: u32,
        /// The highest known version.
        known: u32,
    },
    /// Another process has it open.
    #[error("the data folder {folder} is in use by another node: stop that one, or choose another folder with --data")]
    InUse {
        /// The folder.
        folder: PathBuf,
    },
    /// The disk.
    #[error("{context}: {source}")]
    Io {
        /// What was tried.
        context: String,
        /// What went wrong.
        source: std::io::Error,
    },
    /// The tables.
    #[error("the tables: {0}")]
    Tables(#[from] redb::Error),
    /// The journal holds what this program cannot read.
    #[error("the journal: {0}")]
    Journal(String),
}

/// Rows that become durable together.
pub(crate) struct Commit {
    generation: u64,
    work: Work,
}

/// Called once, from the writer thread: it must not block.
pub(crate) type Done = Box<dyn FnOnce(Result<(), Problem>) + Send>;
/// Decides on rows in the order of the commits, seeing all that were decided before.
pub(crate) type Decide = Box<dyn FnOnce(&View<'_>) -> (Vec<Mutation>, Done) + Send>;

/// Told of every frame that became durable: how long writing and syncing took, how many rows and bytes it had.
pub(crate) type Observe = Box<dyn Fn(std::time::Duration, u64, u64) + Send + Sync>;

enum Work {
    Rows(Vec<Mutation>, Done),
    Decide(Decide),
}

/// The rows as they are after all commits before this one.
pub(crate) struct View<'a> {
    staged: &'a Rows,
    shared: &'a Shared,
}

impl View<'_> {
    /// One row.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Problem> {
        self.staged.get(table, key).map_or_else(|| self.shared.get(table, key), Ok)
    }

    /// At most `limit` rows whose key starts with `prefix`.
    pub(crate) fn scan_prefix(&self, table: Table, prefix: &[u8], limit: usize) -> Result<ScannedRows, Problem> {
        let end = end_of_prefix(prefix);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.shared.scan(table, (Bound::Included(prefix), end), false, limit, Some(self.staged))
    }
}

/// A handle on the store, cheap to clone.
#[derive(Clone)]
pub(crate) struct Store {
    shared: Arc<Shared>,
    commits: mpsc::Sender<Commit>,
}

/// What the threads and the handles share.
struct Shared {
    folder: PathBuf,
    /// Bytes of the journal above which a snapshot replaces it.
    journal_len: u64,
    layers: RwLock<Layers>,
    generation: AtomicU64,
    /// Why the last frame could not be written; none: it was.
    failure: Mutex<Option<Problem>>,
    /// Told of every frame that could not be written.
    failed: Notify,
    flush: flusher::Signal,
    observe: Observe,
}

/// Where rows are, newest first.
struct Layers {
    active: Rows,
    flushing: Option<Arc<Rows>>,
    tables: Arc<Tables>,
}

/// The threads of an open store. They end when the last handle is gone.
pub(crate) struct Threads {
    writer: std::thread::JoinHandle<()>,
    flusher: std::thread::JoinHandle<()>,
    _lock: std::fs::File,
}

impl Threads {
    /// Waits until everything is saved. Every [`Store`] must have been dropped, or this never returns.
    pub(crate) fn join(self) {
        for thread in [self.writer, self.flusher] {
            if thread.join().is_err() {
                tracing::warn!("a thread of the store has panicked; the journal holds all that was acknowledged");
            }
        }
    }
}

/// Rows of a scan.
pub(crate) type ScannedRows = Vec<(Bytes, Bytes)>;

/// From where to where keys go.
type KeyRange<'a> = (Bound<&'a [u8]>, Bound<&'a [u8]>);

impl Store {
    /// Opens the data folder: one process at a time. A snapshot replaces the journal when that is longer than this, in bytes.
    pub(crate) fn open(folder: &Path, journal_len: u64, observe: Observe) -> Result<(Self, Threads), OpenError> {
        let context = |what: &str| {
            let what = format!("{what} in {}", folder.display());
            move |source| OpenError::Io { context: what, source }
        };
        std::fs::create_dir_all(folder).map_err(context("making the data folder"))?;
        let lock = lock(folder)?;
        check_version(folder)?;
        let recovered = writer::recover(folder, journal_len)?;
        let shared = Arc::new(Shared {
            folder: folder.to_owned(),
            journal_len,
            layers: RwLock::new(Layers { active: recovered.rows, flushing: None, tables: Arc::new(recovered.tables) }),
            generation: AtomicU64::new(0),
            failure: Mutex::default(),
            failed: Notify::new(),
            flush: flusher::Signal::default(),
            observe,
        });
        shared.flush.position(recovered.journal.last_sequence());
        let (commits, receiver) = mpsc::channel(COMMITS_WAITING_MAX);
        let writer = spawn("store-writer", {
            let shared = shared.clone();
            move || writer::run(&shared, recovered.journal, receiver)
        })
        .map_err(context("starting the writer"))?;
        let flusher = spawn("store-flusher", {
            let shared = shared.clone();
            move || flusher::run(&shared, &recovered.written)
        })
        .map_err(context("starting the flusher"))?;
        Ok((Self { shared, commits }, Threads { writer, flusher, _lock: lock }))
    }

    /// Numbers the time between two failures, from 0 on. A commit of an older generation fails.
    pub(crate) fn generation(&self) -> u64 {
        self.shared.generation.load(Ordering::Acquire)
    }

    /// Why the last write failed, until one succeeds again.
    pub(crate) fn failure(&self) -> Option<Problem> {
        self.shared.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Completes when a write has failed, once for all that failed since it last did. For one who waits.
    pub(crate) async fn failed(&self) {
        self.shared.failed.notified().await;
    }

    /// Hands rows to the writer, deciding on nothing that it has not seen: waits while too many commits wait.
    pub(crate) async fn send(&self, generation: u64, rows: Vec<Mutation>, done: Done) {
        self.hand(Commit { generation, work: Work::Rows(rows, done) }).await;
    }

    /// Makes rows durable.
    pub(crate) async fn commit(&self, rows: Vec<Mutation>) -> Result<(), Problem> {
        let (send, receive) = oneshot::channel();
        let done: Done = Box::new(move |result| drop(send.send(result)));
        self.send(self.generation(), rows, done).await;
        receive.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Reads, decides, and makes the outcome durable, with nothing in between. The answer is returned once it is.
    pub(crate) async fn decide<T: Send + 'static>(
        &self,
        decide: impl FnOnce(&View<'_>) -> Result<(Vec<Mutation>, T), Problem> + Send + 'static,
    ) -> Result<T, Problem> {
        self.decide_then(decide, |answer| answer).await
    }

    /// The same; `then` makes the answer of what was decided. It is called once that is durable, in the order of the
    /// commits and whether or not somebody still waits, from the writer thread: it must not block.
    pub(crate) async fn decide_then<D: Send + 'static, T: Send + 'static>(
        &self,
        decide: impl FnOnce(&View<'_>) -> Result<(Vec<Mutation>, D), Problem> + Send + 'static,
        then: impl FnOnce(D) -> T + Send + 'static,
    ) -> Result<T, Problem> {
        let (send, receive) = oneshot::channel();
        let decide: Decide = Box::new(move |view| match decide(view) {
            Ok((rows, decided)) => (rows, Box::new(move |result| drop(send.send(result.map(|()| then(decided)))))),
            Err(problem) => (Vec::new(), Box::new(move |_| drop(send.send(Err(problem))))),
        });
        self.hand(Commit { generation: self.generation(), work: Work::Decide(decide) }).await;
        receive.await.unwrap_or_else(|_| Err(stopped()))
    }

    async fn hand(&self, commit: Commit) {
        if let Err(mpsc::error::SendError(commit)) = self.commits.send(commit).await
            && let Work::Rows(_, done) = commit.work
        {
            done(Err(stopped()));
        }
    }

    /// One row, as it is durable.
    pub(crate) fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Problem> {
        self.shared.get(table, key)
    }

    /// Rows by their keys, in the order of these: as [`Self::get`] of each, for less.
    pub(crate) fn get_each(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Problem> {
        self.shared.get_each(table, keys)
    }

    /// Every row of every table, with the checksum of its value: what a check compares.
    pub(crate) fn list(&self, mut each: impl FnMut(&'static str, &[u8], u32)) -> Result<(), Problem> {
        const PAGE_LEN: usize = 1000;
        for table in Table::ALL {
            let mut after: Option<Bytes> = None;
            loop {
                let page = self.scan_prefix(table, b"", after.as_deref(), PAGE_LEN)?;
                page.iter().for_each(|(key, value)| each(table.name(), key, crc32fast::hash(value)));
                match page.last() {
                    Some((last, _)) if page.len() == PAGE_LEN => after = Some(last.clone()),
                    _ => break,
                }
            }
        }
        Ok(())
    }

    /// At most `limit` rows of a range, `newest` the highest key first.
    pub(crate) fn scan(
        &self,
        table: Table,
        range: KeyRange<'_>,
        newest: bool,
        limit: usize,
    ) -> Result<ScannedRows, Problem> {
        self.shared.scan(table, range, newest, limit, None)
    }

    /// At most `limit` rows whose key starts with `prefix` and comes after `after`.
    pub(crate) fn scan_prefix(
        &self,
        table: Table,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<ScannedRows, Problem> {
        let start = after.filter(|after| *after >= prefix).map_or(Bound::Included(prefix), Bound::Excluded);
        let end = end_of_prefix(prefix);
        let end = end.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        self.scan(table, (start, end), false, limit)
    }
}

/// The lowest key that is above every key with this prefix.
fn end_of_prefix(prefix: &[u8]) -> Option<Vec<u8>> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return Some(end);
        }
    }
    None
}

impl Shared {
    fn layers(&self) -> std::sync::RwLockReadGuard<'_, Layers> {
        self.layers.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn layers_mut(&self) -> std::sync::RwLockWriteGuard<'_, Layers> {
        self.layers.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Bytes>, Problem> {
        let layers = self.layers();
        let recent = layers.active.get(table, key).or_else(|| layers.flushing.as_ref()?.get(table, key));
        if let Some(value) = recent {
            return Ok(value);
        }
        let tables = layers.tables.clone();
        drop(layers);
        Ok(tables.get(table, key).map_err(unreadable)?.map(Bytes::from))
    }

    fn get_each(&self, table: Table, keys: &[&[u8]]) -> Result<Vec<Option<Bytes>>, Problem> {
        let layers = self.layers();
        let recent = |key: &&[u8]| layers.active.get(table, key).or_else(|| layers.flushing.as_ref()?.get(table, key));
        let mut rows: Vec<Option<Option<Bytes>>> = keys.iter().map(recent).collect();
        let tables = layers.tables.clone();
        drop(layers);
        let missing: Vec<&[u8]> =
            keys.iter().zip(&rows).filter(|(_, row)| row.is_none()).map(|(key, _)| *key).collect();
        if !missing.is_empty() {
            let stored = tables.get_each(table, &missing).map_err(unreadable)?;
            let places = rows.iter_mut().filter(|row| row.is_none());
            places.zip(stored).for_each(|(row, stored)| *row = Some(stored.map(Bytes::from)));
        }
        Ok(rows.into_iter().map(Option::flatten).collect())
    }

    fn scan(
        &self,
        table: Table,
        range: KeyRange<'_>,
        newest: bool,
        limit: usize,
        staged: Option<&Rows>,
    ) -> Result<ScannedRows, Problem> {
        let mut rows = Vec::new();
        let mut behind: Option<Bytes> = None;
        loop {
            let rest = behind.as_deref().map_or(range, |key| from(range, Bound::Excluded(key), newest));
            if rows.len() >= limit || is_empty(rest) {
                return Ok(rows);
            }
            let read = rows.len();
            let tables = self.layers().tables.clone();
            let end = tables.reading(|| {
                rows.truncate(read);
                let (recent, end, tables) = self.recent(table, rest, newest, limit - read, staged);
                let stretch = end.as_deref().map_or(rest, |key| through(rest, key, newest));
                let stored = tables.range(table, stretch, newest)?;
                merge(recent, stored, newest, limit, &mut rows)?;
                Ok(end)
            });
            match end.map_err(unreadable)? {
                None => return Ok(rows),
                end => behind = end,
            }
        }
    }

    /// The first rows of a range that are in memory, and where they end, if there are more; with the tables below them. No more than
    /// is needed is copied, since the writer waits meanwhile.
    fn recent(
        &self,
        table: Table,
        range: KeyRange<'_>,
        newest: bool,
        limit: usize,
        staged: Option<&Rows>,
    ) -> (Vec<RecentRow>, Option<Bytes>, Arc<Tables>) {
        let limit = limit.max(STRETCH_LEN_MIN);
        let mut rows = BTreeMap::new();
        let mut end: Option<Bytes> = None;
        let layers = self.layers();
        // Later layers win over earlier ones.
        for layer in [layers.flushing.as_deref(), Some(&layers.active), staged].into_iter().flatten() {
            let found = layer.range(table, range);
            let cut = if newest { copy(found.rev(), limit, &mut rows) } else { copy(found, limit, &mut rows) };
            end = match (end, cut) {
                (Some(end), Some(cut)) => Some(if newest { end.max(cut) } else { end.min(cut) }),
                (end, cut) => end.or(cut),
            };
        }
        let tables = layers.tables.clone();
        drop(layers);
        let within = |key: &Bytes| end.as_ref().is_none_or(|end| if newest { key >= end } else { key <= end });
        let mut rows: Vec<RecentRow> = rows.into_iter().filter(|(key, _)| within(key)).collect();
        if newest {
            rows.reverse();
        }
        (rows, end, tables)
    }
}

/// A row in memory; no value: it was removed.
type RecentRow = (Bytes, Option<Bytes>);

/// Copies so many rows. The key of the last of them, if there are more.
fn copy<'a>(
    mut found: impl Iterator<Item = (&'a Bytes, &'a Option<Bytes>)>,
    limit: usize,
    rows: &mut BTreeMap<Bytes, Option<Bytes>>,
) -> Option<Bytes> {
    let mut last = None;
    for (key, value) in found.by_ref().take(limit) {
        rows.insert(key.clone(), value.clone());
        last = Some(key);
    }
    found.next().and(last).cloned()
}

/// A range without what comes before this bound in the direction of reading.
fn from<'a>((low, high): KeyRange<'a>, bound: Bound<&'a [u8]>, newest: bool) -> KeyRange<'a> {
    if newest { (low, bound) } else { (bound, high) }
}

/// A range without what comes after this key in the direction of reading.
fn through<'a>((low, high): KeyRange<'a>, key: &'a [u8], newest: bool) -> KeyRange<'a> {
    if newest { (Bound::Included(key), high) } else { (low, Bound::Included(key)) }
}

/// Merges two sorted sequences behind what was read; where both have a key the recent one counts.
fn merge(
    recent: Vec<RecentRow>,
    stored: impl Iterator<Item = Result<tables::Row, redb::Error>>,
    newest: bool,
    limit: usize,
    rows: &mut ScannedRows,
) -> Result<(), redb::Error> {
    let mut recent = recent.into_iter().peekable();
    let mut stored = stored.peekable();
    while rows.len() < limit {
        let order = match (recent.peek(), stored.peek()) {
            (None, None) => break,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((ours, _)), Some(Ok((theirs, _)))) => {
                let order = ours.as_ref().cmp(theirs.as_slice());
                if newest { order.reverse() } else { order }
            }
            (Some(_), Some(Err(_))) => std::cmp::Ordering::Greater,
        };
        if order.is_ge()
            && let Some(row) = stored.next()
        {
            let (key, value) = row?;
            if order.is_gt() {
                rows.push((key.into(), value.into()));
            }
        }
        if order.is_le()
            && let Some((key, Some(value))) = recent.next()
        {
            rows.push((key, value));
        }
    }
    Ok(())
}

fn is_empty(range: KeyRange<'_>) -> bool {
    match range {
        (Bound::Included(a), Bound::Included(b)) => a > b,
        (Bound::Included(a) | Bound::Excluded(a), Bound::Excluded(b)) | (Bound::Excluded(a), Bound::Included(b)) => {
            a >= b
        }
        _ => false,
    }
}

fn unreadable(error: redb::Error) -> Problem {
    tracing::warn!(%error, "the tables cannot be read; if it stays so, stop the node, remove tables.redb and start it");
    Problem::new(Kind::StorageUnavailable, format!("the tables cannot be read: {error}"))
}

fn stopped() -> Problem {
    Problem::new(Kind::Unavailable, "the node is stopping: try again when it is back, or at another node")
        .retry_after(1000)
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> std::io::Result<std::thread::JoinHandle<()>> {
    std::thread::Builder::new().name(name.into()).spawn(body)
}

/// Holds the folder until the file is dropped or the process ends, however it ends.
fn lock(folder: &Path) -> Result<std::fs::File, OpenError> {
    let path = folder.join("lock");
    let failed = |source| OpenError::Io { context: format!("opening {}", path.display()), source };
    let file = std::fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path).map_err(failed)?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(OpenError::InUse { folder: folder.to_owned() }),
        Err(errno) => Err(failed(errno.into())),
    }
}

fn check_version(folder: &Path) -> Result<(), OpenError> {
    let path = folder.join("version");
    let failed_to = |what: &'static str| {
        let context = format!("{what} {}", path.display());
        move |source| OpenError::Io { context, source }
    };
    let failed = failed_to("reading");
    let copy = folder.join("version.copy");
    let found = std::fs::read(&path).map(|found| match std::fs::read(&copy) {
        Ok(copy) if is_flipped(&found, &copy) => copy,
        _ => found,
    });
    match found.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()) {
        Ok(text) => match text.trim().parse::<u32>() {
            Ok(found) if found <= LAYOUT_VERSION => Ok(()),
            Ok(found) => Err(OpenError::Newer { folder: folder.to_owned(), found, known: LAYOUT_VERSION }),
            Err(_) => Err(failed(std::io::Error::other(format!("{text:?} is no version number")))),
        },
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Beside it first: half a version would be in the way of every start to come.
            let new = folder.join("version.new");
            let written = std::fs::write(&new, format!("{LAYOUT_VERSION}\n"))
                .and_then(|()| std::fs::write(&copy, format!("{LAYOUT_VERSION}\n")))
                .and_then(|()| std::fs::File::open(&copy)?.sync_all())
                .and_then(|()| std::fs::File::open(&new)?.sync_all())
                .and_then(|()| std::fs::rename(&new, &path))
                .and_then(|()| journal::sync_folder(folder));
            written.map_err(failed_to("writing"))
        }
        Err(error) => Err(failed(error)),
    }
}

/// Whether two texts differ by one byte, as after a bit has flipped in the first: what it says then is not to be believed.
/// Where it flipped in the second, the first can be read all the same.
fn is_flipped(found: &[u8], copy: &[u8]) -> bool {
    let known = format!("{LAYOUT_VERSION}\n");
    let others = found.iter().zip(copy).filter(|(found, copy)| found != copy).count();
    found.len() == copy.len() && others == 1 && copy == known.as_bytes()
}

#[cfg(test)]
mod tests;
