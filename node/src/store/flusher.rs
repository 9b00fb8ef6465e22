//! The flusher thread: moves rows from memory into the tables on disk, and keeps the journal short.

use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::journal;
use super::{Shared, snapshot, writer};

/// Rows in memory, in bytes, that are flushed at once. Why 16 MiB: some 40,000 jobs; the sync of the tables is paid by many, and so is each
/// page of a table whose keys come in no order.
const FLUSH_LEN: usize = 16 * 1024 * 1024;
/// Rows stay in memory at most this long: it bounds what a start has to read.
const FLUSH_AFTER: Duration = Duration::from_secs(5);
/// After a failure the tables are tried again this much later.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// Tells the flusher what the writer has done.
#[derive(Default)]
pub(super) struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default, Clone, Copy)]
struct State {
    /// The last durable frame: all of its rows are in memory or in the tables.
    sequence: u64,
    unflushed: usize,
    since: Option<Instant>,
    stopping: bool,
}

impl Signal {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where the journal stood when the store was opened.
    pub(super) fn position(&self, sequence: u64) {
        self.state().sequence = sequence;
    }

    /// A frame is durable and its rows are in memory.
    pub(super) fn written(&self, sequence: u64, unflushed: usize) {
        let mut state = self.state();
        state.sequence = state.sequence.max(sequence);
        state.unflushed = unflushed;
        let first = state.since.is_none();
        state.since.get_or_insert_with(Instant::now);
        // The flusher sleeps without a deadline only while there is nothing to flush.
        if first || unflushed >= FLUSH_LEN {
            self.changed.notify_one();
        }
    }

    /// Nothing will be written any more: flush and end.
    pub(super) fn stop(&self) {
        self.state().stopping = true;
        self.changed.notify_one();
    }

    /// Waits until there is something to do. Whether to go on after it.
    fn wait(&self) -> bool {
        let mut state = self.state();
        loop {
            let due = state.since.map(|since| FLUSH_AFTER.saturating_sub(since.elapsed()));
            if state.stopping || state.unflushed >= FLUSH_LEN || due == Some(Duration::ZERO) {
                state.unflushed = 0;
                state.since = None;
                return !state.stopping;
            }
            state = match due {
                None => self.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                Some(due) => self.changed.wait_timeout(state, due).unwrap_or_else(PoisonError::into_inner).0,
            };
        }
    }
}

/// Runs until the writer has ended and all is saved. `written`: the segments that were there before.
pub(super) fn run(shared: &Shared, written: &[PathBuf]) {
    if let Err(error) = heal(shared, written) {
        tracing::warn!(%error, "the journal cannot be looked at, or not be mended");
    }
    loop {
        let more = shared.flush.wait();
        if let Err(error) = flush(shared) {
            tracing::warn!(%error, "the tables cannot be written; the journal holds all of it, and it is tried again");
            // redb latches after an IO error: only a new handle writes again.
            let tables = shared.layers().tables.clone();
            if let Err(error) = tables.reopen() {
                tracing::warn!(%error, "the tables cannot be opened");
            }
            if !more {
                return;
            }
            std::thread::sleep(RETRY_AFTER);
            shared.flush.written(0, FLUSH_LEN);
            continue;
        }
        if let Err(error) = shorten(shared) {
            tracing::warn!(%error, "the journal cannot be shortened; it is tried again after the next flush");
        }
        if !more {
            return;
        }
    }
}

/// Looks at snapshot and segments, which are needed only when the tables are lost: what is damaged is replaced by a snapshot
/// of the tables, while they are there.
fn heal(shared: &Shared, written: &[PathBuf]) -> Result<(), snapshot::Error> {
    let folder = shared.folder.join("journal");
    let mut last = 0;
    let (_, damaged) = journal::verify(written, |frame| last = frame.sequence)?;
    let snapshot = match snapshot::file(&folder)? {
        Some((_, path)) => journal::read_all(&path, |_| {}),
        None => Ok(()),
    };
    if damaged.is_empty() && snapshot.is_ok() {
        return Ok(());
    }
    tracing::warn!(?damaged, ?snapshot, "snapshot or journal is damaged; a snapshot of what there is replaces them");
    flush(shared)?;
    let tables = shared.layers().tables.clone();
    snapshot::write(&folder, &tables)?;
    // The snapshot has all of them, the last of them as well, to which nothing is appended any more.
    if snapshot::position(&folder)? >= last {
        journal::remove(&folder, written)?;
    }
    Ok(())
}

/// Swaps the rows out and writes them. The position is read first: rows of later frames may be among them, which is
/// harmless, since putting a row twice is putting it once.
fn flush(shared: &Shared) -> Result<(), redb::Error> {
    let position = shared.flush.state().sequence;
    let (rows, tables) = {
        let mut layers = shared.layers_mut();
        let rows = Arc::new(std::mem::take(&mut layers.active));
        layers.flushing = Some(rows.clone());
        (rows, layers.tables.clone())
    };
    let flushed = if rows.is_empty() { Ok(()) } else { writer::flush(&tables, position, &rows) };
    let mut layers = shared.layers_mut();
    layers.flushing = None;
    if flushed.is_err() {
        // Back to memory, under what came since.
        let newer = std::mem::take(&mut layers.active);
        let mut rows = Arc::unwrap_or_clone(rows);
        rows.absorb(newer);
        layers.active = rows;
    }
    flushed
}

/// Replaces old segments by a snapshot of the tables once they have grown.
fn shorten(shared: &Shared) -> Result<(), snapshot::Error> {
    let folder = shared.folder.join("journal");
    let tables = shared.layers().tables.clone();
    if snapshot::is_due(&folder, shared.journal_len)? {
        snapshot::write(&folder, &tables)?;
    }
    journal::drop_through(&folder, snapshot::position(&folder)?)?;
    Ok(())
}
