//! The store: its handle, and the one lock that orders what must not happen at the same time.
//!
//! [`State`] is behind a gate. Whoever begins to hold a blob passes it for a moment; a collection and a reopening close
//! it. So a collection knows every hold, and nothing is written into an instance that has been left. The gate is never
//! kept while bytes move.

mod database;
pub(crate) mod engine;
pub(crate) mod files;
pub(crate) mod held;
mod import;
pub(crate) mod intake;
mod keeper;
mod mend;
pub(crate) mod reading;
mod tags;

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt, stream};
use shoal_protocol::BlobId;
use shoal_protocol::limits::PAGE_LEN_MAX;
use tokio::sync::RwLock;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::Instrument;

use self::engine::{Engine, blocking};
use self::files::Folder;
pub use self::held::Held;
use self::held::{Hold, Holds, Turns, locked};
pub use self::mend::{Checked, check};
pub use self::reading::Reading;
use crate::Error;
use crate::exchange::Fetches;

/// How long to wait for a folder whose last user is just closing it.
const LOCK_WAIT: Duration = Duration::from_secs(2);
const LOCK_PAUSE: Duration = Duration::from_millis(20);
/// How long after a reopening that failed the next one is tried. Until then callers get the last failure at once.
const REOPEN_PAUSE: Duration = Duration::from_millis(200);
/// Damaged blobs that are remembered. Why 1,024: beyond that the disk is the problem; a forgotten one is found again when read.
const DAMAGED_MAX: usize = 1024;

/// What can be chosen when a store is opened.
#[derive(Clone, Debug)]
pub struct Options {
    /// Blobs, and outboards of blobs, up to this many bytes live in the database instead of files of their own.
    ///
    /// The default is 4 KiB, a page of the database. A file and its two syncs cost more than that; but the database's
    /// cache is iroh-blobs' to choose, up to 1 GiB, so what is in it should stay small.
    pub inline_len_max: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self { inline_len_max: 4096 }
    }
}

/// What a collection removed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Collected {
    /// Blobs.
    pub count: u64,
    /// Their lengths together, in bytes.
    pub bytes: u64,
}

/// What is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Blobs.
    pub count: u64,
    /// Their lengths together, in bytes.
    pub bytes: u64,
}

/// A folder of blobs. Clones are handles on the same store.
#[derive(Clone)]
pub struct Store {
    pub(crate) shared: Arc<Shared>,
}

/// What all handles share, and what outlives an instance of iroh-blobs.
pub(crate) struct Shared {
    folder: Folder,
    options: Options,
    lock: Arc<File>,
    state: Arc<RwLock<State>>,
    holds: Arc<Holds>,
    turns: Arc<Turns>,
    pub(crate) damaged: Damaged,
    pub(crate) fetches: Fetches,
}

enum State {
    Open(Arc<Engine>),
    /// The last instance has ended and the next could not be opened, when and why.
    Broken(Instant, String, bool),
    Closed,
}

impl State {
    fn runs(&self, engine: &Arc<Engine>) -> bool {
        matches!(self, Self::Open(current) if Arc::ptr_eq(current, engine) && !current.has_failed())
    }

    /// What to tell those whose instance does not run any more.
    fn left(&self) -> Error {
        match self {
            Self::Closed => Error::Closed,
            Self::Open(_) | Self::Broken(..) => Error::disk_because("the blob store is being reopened"),
        }
    }
}

impl Store {
    /// Opens the store in `folder`, which is made if it is missing. What was neither kept nor held at the last end is
    /// removed. A database that is damaged is built anew from the blobs that are whole, which costs a copy of each. Fails with
    /// [`Error::InUse`] if another process has the folder, and with [`Error::Disk`].
    ///
    /// Needs a tokio runtime, here and in every other call.
    pub async fn open(folder: &Path, options: Options) -> Result<Self, Error> {
        let root = folder.to_owned();
        let folder = blocking("making the blob folder", move || Folder::create(&root)).await?;
        let lock = Arc::new(lock(&folder).await?);
        let holds = Arc::new(Holds::default());
        let looked = folder.clone();
        let aside = blocking("looking at the blob database", move || mend::Aside::of(&looked)).await?;
        let engine = Engine::open(folder.clone(), &options, &holds, lock.clone()).await?;
        let state = Arc::new(RwLock::new(State::Open(engine)));
        let (turns, damaged, fetches) = (Arc::default(), Damaged::default(), Fetches::default());
        let shared = Shared { folder, options, lock, state, holds, turns, damaged, fetches };
        let store = Self { shared: Arc::new(shared) };
        if let Some(aside) = aside {
            store.put_back(aside).await?;
        }
        Ok(store)
    }

    /// Takes in a stream of any length, in constant memory, and holds it. It is not durable yet: see
    /// [`Store::put_durable`].
    ///
    /// Fails with [`Error::TooLarge`] as soon as more than `len_max` bytes came, with [`Error::Source`] if the stream did,
    /// and with [`Error::Disk`]. What came until then is removed by the next collection. Dropping the future gives the
    /// stream up in the same way.
    pub async fn put<S>(&self, len_max: u64, stream: S) -> Result<Held, Error>
    where
        S: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static,
    {
        let engine = self.engine().await?;
        let stop = engine.failed.child_token();
        let _stop_on_drop = stop.clone().drop_guard();
        let import = import::import(self.shared.clone(), engine, stream, len_max, stop);
        join(tokio::spawn(import.in_current_span())).await
    }

    /// Takes in bytes that are in memory, and holds them. As [`Store::put`].
    pub async fn put_bytes(&self, bytes: Bytes) -> Result<Held, Error> {
        self.put(u64::MAX, stream::iter([Ok(bytes)])).await
    }

    /// Holds a blob that is here; `None`: it is not, or only a part of it.
    pub async fn hold(&self, id: BlobId) -> Result<Option<Held>, Error> {
        self.held(id).await.map(|found| found.map(|(_, held)| held))
    }

    /// Makes blobs durable: after this returns they survive a kill and a power cut, until they are forgotten. Files
    /// first, then their folder, then the tags in one commit: so this is meant to be called once per batch. Calls at the
    /// same time share a commit. Costs little for what is durable already.
    ///
    /// Fails with [`Error::NotHere`] if a disk error took the blob before it was durable: then it has to be put again.
    pub async fn put_durable(&self, held: &[Held]) -> Result<(), Error> {
        let engine = self.engine().await?;
        let mut fresh = Vec::new();
        for blob in held {
            let id = blob.id();
            // With the turn: a blob that is being forgotten at this moment must not pass for one that is kept.
            let _turn = self.shared.turns.take(id).await;
            if engine.kept(id).await?.is_some() && !self.shared.damaged.contains(id) {
                continue;
            }
            if engine.size(id).await?.is_none() {
                return Err(Error::NotHere(id));
            }
            fresh.push(blob.clone());
        }
        engine.sync_files(&fresh).await?;
        for blob in &fresh {
            let _turn = self.shared.turns.take(blob.id()).await;
            engine.keep(blob).await?;
        }
        engine.commit().await?;
        for blob in &fresh {
            self.shared.damaged.remove(blob.id());
        }
        Ok(())
    }

    /// The length of a blob in bytes; `None`: it is not here, or only a part of it. The empty blob is always here.
    pub async fn size(&self, id: BlobId) -> Result<Option<u64>, Error> {
        self.engine().await?.size(id).await
    }

    /// Reads a range of a blob, in constant memory and verified against its id. What reaches beyond the blob's end is cut
    /// off. Holds the blob while it is read. Fails with [`Error::NotHere`]; the stream with [`Error::Damaged`] or
    /// [`Error::Disk`].
    pub async fn read(&self, id: BlobId, range: Range<u64>) -> Result<Reading, Error> {
        let (engine, held) = self.held(id).await?.ok_or(Error::NotHere(id))?;
        Ok(Reading::new(self.shared.clone(), engine, held, range))
    }

    /// Reads a blob of up to `len_max` bytes into memory. Fails as [`Store::read`], and with [`Error::TooLarge`].
    pub async fn read_bytes(&self, id: BlobId, len_max: u64) -> Result<Bytes, Error> {
        let mut reading = self.read(id, 0..u64::MAX).await?;
        let size = reading.size();
        let capacity = usize::try_from(size).ok().filter(|_| size <= len_max).ok_or(Error::TooLarge { len_max })?;
        let mut bytes = BytesMut::with_capacity(capacity);
        while let Some(chunk) = reading.next().await {
            bytes.extend_from_slice(&chunk?);
        }
        Ok(bytes.freeze())
    }

    /// Kept blobs with ids above `after`, in order of their ids, with their lengths in bytes. At most `limit`, and at most
    /// [`PAGE_LEN_MAX`].
    pub async fn list(&self, after: Option<BlobId>, limit: usize) -> Result<Vec<(BlobId, u64)>, Error> {
        self.engine().await?.page(after, limit.min(PAGE_LEN_MAX as usize)).await
    }

    /// How many blobs are kept, and how large they are together. Costs nothing.
    pub async fn total(&self) -> Result<Totals, Error> {
        Ok(self.engine().await?.totals())
    }

    /// Ends the keeping of a blob; its bytes go at the next collection. Returns false, and changes nothing, if somebody
    /// holds the blob at this moment: they may be about to refer to it. Not durable by itself: after a kill the blob may
    /// be kept again.
    ///
    /// Whoever refers to a blob holds it first, then calls [`Store::put_durable`], then writes the reference, then lets go.
    /// Whoever removes what is not referred to calls this, then looks at the references once more, and only then calls
    /// [`Store::collect`]. In this order no blob is lost that is referred to.
    pub async fn forget(&self, id: BlobId) -> Result<bool, Error> {
        let engine = self.engine().await?;
        let _turn = self.shared.turns.take(id).await;
        if self.shared.holds.is_held(id) {
            return Ok(false);
        }
        engine.forget(id).await?;
        Ok(true)
    }

    /// Removes all blobs that are neither kept nor held. Puts and reads go on meanwhile; new ones wait for the moment of
    /// the removal itself. Costs a pass over all ids, even if there is nothing to remove.
    pub async fn collect(&self) -> Result<Collected, Error> {
        let engine = self.engine().await?;
        let garbage = engine.garbage(&self.shared.holds).await?;
        if garbage.is_empty() {
            return Ok(Collected::default());
        }
        let shared = self.shared.clone();
        // A task of its own, so that the gate stays closed until the removal is over, whoever stops waiting.
        let sweep = async move {
            let state = shared.state.clone().write_owned().await;
            if !state.runs(&engine) {
                return Err(state.left());
            }
            engine.sweep(&shared.holds).await?;
            drop(state);
            engine.gone(&garbage).await
        };
        join(tokio::spawn(sweep.in_current_span())).await
    }

    /// Closes the store in order: what was put but not made durable is lost, streams under way are given up. Later calls
    /// on other handles fail with [`Error::Closed`]. A store that is only dropped closes soon after, in the background.
    pub async fn close(self) -> Result<(), Error> {
        let state = std::mem::replace(&mut *self.shared.state.write().await, State::Closed);
        let State::Open(engine) = state else { return Ok(()) };
        let committed = if engine.has_failed() { Ok(()) } else { engine.commit().await };
        if !engine.end().await {
            return Err(Error::disk_because("the blob database did not close in time"));
        }
        committed
    }

    /// A blob that is here, held, and the instance that has it.
    pub(crate) async fn held(&self, id: BlobId) -> Result<Option<(Arc<Engine>, Held)>, Error> {
        let (engine, hold, _) = self.claim(id).await?;
        // From here on no collection takes it, so what is here now stays.
        let size = engine.size(id).await?;
        Ok(size.map(|size| (engine, Held::new(size, hold))))
    }

    /// The instance that runs, and a hold on an id, whether its bytes are here or not yet. While the token lives, no
    /// other instance opens: whoever writes outside of an import keeps it, and stops when the instance fails.
    pub(crate) async fn claim(&self, id: BlobId) -> Result<(Arc<Engine>, Hold, TaskTrackerToken), Error> {
        let mut engine = self.engine().await?;
        loop {
            let state = self.shared.state.read().await;
            if state.runs(&engine) {
                let (hold, writing) = (self.shared.holds.hold(id), engine.finishing.token());
                return Ok((engine, hold, writing));
            }
            drop(state);
            engine = self.engine().await?;
        }
    }

    /// The instance that runs, a new one if the last has failed.
    async fn engine(&self) -> Result<Arc<Engine>, Error> {
        match &*self.shared.state.read().await {
            State::Open(engine) if !engine.has_failed() => return Ok(engine.clone()),
            State::Closed => return Err(Error::Closed),
            State::Open(_) | State::Broken(..) => {}
        }
        // A task of its own, so that a reopening is never left half done.
        join(tokio::spawn(reopen(self.shared.clone()).in_current_span())).await
    }
}

/// Ends an instance that has failed and opens the next.
async fn reopen(shared: Arc<Shared>) -> Result<Arc<Engine>, Error> {
    let mut state = shared.state.clone().write_owned().await;
    match &*state {
        State::Open(engine) if !engine.has_failed() => return Ok(engine.clone()),
        State::Open(engine) => {
            if !engine.end().await {
                return Err(Error::disk_because("the blob database does not close"));
            }
        }
        State::Broken(since, cause, full) if since.elapsed() < REOPEN_PAUSE => {
            return Err(Error::Disk { cause: cause.clone(), full: *full });
        }
        State::Broken(..) => {}
        State::Closed => return Err(Error::Closed),
    }
    match Engine::open(shared.folder.clone(), &shared.options, &shared.holds, shared.lock.clone()).await {
        Ok(engine) => {
            tracing::info!("the blob store is open again");
            *state = State::Open(engine.clone());
            Ok(engine)
        }
        Err(cause) => {
            let full = matches!(cause, Error::Disk { full: true, .. });
            *state = State::Broken(Instant::now(), cause.to_string(), full);
            Err(cause)
        }
    }
}

/// Takes the folder's lock, waiting a little for one who is just leaving.
async fn lock(folder: &Folder) -> Result<File, Error> {
    let deadline = Instant::now() + LOCK_WAIT;
    loop {
        let disk = folder.clone();
        if let Some(file) = blocking("locking the blob folder", move || disk.lock()).await? {
            return Ok(file);
        }
        if Instant::now() >= deadline {
            return Err(Error::InUse(folder.root().to_owned()));
        }
        tokio::time::sleep(LOCK_PAUSE).await;
    }
}

/// The result of a task. Ours do not panic, and a runtime that shuts down has no use for the answer.
async fn join<T>(task: tokio::task::JoinHandle<Result<T, Error>>) -> Result<T, Error> {
    task.await.unwrap_or_else(|cause| Err(Error::disk("working on blobs", &cause)))
}

/// Blobs that could not be read as what they are. Their content is taken in again when somebody puts it.
#[derive(Default)]
pub(crate) struct Damaged(Mutex<HashSet<BlobId>>);

impl Damaged {
    pub(crate) fn insert(&self, id: BlobId) {
        let mut ids = locked(&self.0);
        if ids.len() < DAMAGED_MAX {
            ids.insert(id);
        }
    }

    fn remove(&self, id: BlobId) {
        locked(&self.0).remove(&id);
    }

    pub(crate) fn contains(&self, id: BlobId) -> bool {
        locked(&self.0).contains(&id)
    }
}
