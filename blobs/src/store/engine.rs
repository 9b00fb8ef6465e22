//! One running instance of iroh-blobs, from its opening to its end.
//!
//! iroh-blobs' metadata task ends for good at the first disk error, so an instance that fails is never repaired: it is
//! marked, ended, and followed by a new one (see [`super::Store`]). Opening one recovers first: what is neither kept nor
//! held is removed, since after a power cut nothing else is known to be whole.
//!
//! What always holds: while an instance runs no other is open on the folder; its totals count exactly its tags.

use std::collections::HashSet;
use std::fs::File;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::{StreamExt, TryStreamExt, stream};
use iroh_blobs::Hash;
use iroh_blobs::api::blobs::BlobStatus;
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::store::fs::options::{InlineOptions, Options as FsOptions};
use shoal_protocol::BlobId;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::files::Folder;
use super::held::{Held, Holds, locked};
use super::keeper::{self, Door, Order};
use super::{Collected, Options, Totals, tags};
use crate::Error;

/// Blobs whose files are synced at the same time. Why 8: enough for the disk to join them, few threads.
const SYNCS_AT_ONCE: usize = 8;
/// Bytes streamed in between two starts of write-back. Why 32 MiB: a good part of a second for a common disk, so that little
/// is left to wait for at the end, and dirty pages stay few.
const WRITE_BACK_LEN: u64 = 32 * 1024 * 1024;
/// A disk with less free than this, in bytes, is full. Why 64 KiB: the database grows by at least that much.
const FULL_BELOW: u64 = 64 * 1024;
/// How long an instance may take to finish what it does and to close its database.
const END_DEADLINE: Duration = Duration::from_secs(30);
/// Tags that are read at a time when all are read.
const WALK_PAGE_LEN: usize = 1000;
/// How many tags there may be, before anything is known. A wrong guess costs a few more questions.
const WALK_EXPECTED: u64 = 1_000_000;

pub(crate) struct Engine {
    pub(crate) fs: FsStore,
    pub(crate) folder: Folder,
    pub(crate) inline_len_max: u64,
    /// Cancelled when the instance has failed or is being ended: streams into it stop.
    pub(crate) failed: CancellationToken,
    /// Imports that are past their end: they write files, so the next instance waits for them.
    pub(crate) finishing: TaskTracker,
    door: Door,
    totals: Mutex<Totals>,
    commits: Commits,
    writing_back: Arc<AtomicBool>,
}

impl Engine {
    /// Opens the folder and recovers it. `lock` is kept until the database is closed again.
    pub(crate) async fn open(
        folder: Folder,
        options: &Options,
        holds: &Holds,
        lock: Arc<File>,
    ) -> Result<Arc<Self>, Error> {
        let disk = folder.clone();
        blocking("preparing the blob folder", move || disk.clear_temp()).await?;
        let (door, gc) = keeper::door(lock);
        let inline =
            InlineOptions { max_data_inlined: options.inline_len_max, max_outboard_inlined: options.inline_len_max };
        let fs_options = FsOptions { inline, gc: Some(gc), ..FsOptions::new(folder.root()) };
        let fs = FsStore::load_with_opts(folder.database(), fs_options)
            .await
            .map_err(|e| Error::disk("opening the blob database", &e))?;
        *locked(&door.instance) = Some(iroh_blobs::api::Store::clone(&fs));
        let engine = Arc::new(Self {
            fs,
            folder,
            inline_len_max: options.inline_len_max,
            failed: CancellationToken::new(),
            finishing: TaskTracker::new(),
            door,
            totals: Mutex::default(),
            commits: Commits::default(),
            writing_back: Arc::default(),
        });
        if let Err(cause) = engine.recover(holds).await {
            engine.end().await;
            return Err(cause);
        }
        Ok(engine)
    }

    async fn recover(&self, holds: &Holds) -> Result<(), Error> {
        let mut known = HashSet::new();
        let mut totals = Totals::default();
        self.walk(|id, size| {
            known.insert(id);
            totals.count += 1;
            totals.bytes += size;
        })
        .await?;
        *locked(&self.totals) = totals;
        known.extend(holds.all());
        let garbage = self.entries_but(&known).await?;
        if !garbage.is_empty() {
            self.sweep(holds).await?;
        }
        let disk = self.folder.clone();
        let orphans = blocking("clearing the blob folder", move || {
            let orphans = disk.clear_orphans(&known)?;
            disk.sync_folders()?;
            Ok(orphans)
        })
        .await?;
        tracing::debug!(kept = totals.count, bytes = totals.bytes, removed = garbage.len(), orphans, "blobs opened");
        Ok(())
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.is_cancelled()
    }

    /// Takes note of a failure, and passes it on.
    pub(crate) fn failing(&self, cause: Error) -> Error {
        let cause = self.explained(cause);
        if !self.has_failed() {
            tracing::warn!(%cause, "the blob store fails, it will be reopened");
            self.failed.cancel();
        }
        cause
    }

    /// What the disk said to iroh-blobs is lost where another of its tasks was told: whether it is full can be looked at.
    fn explained(&self, cause: Error) -> Error {
        match cause {
            Error::Disk { cause, full: false } if self.folder.free().is_ok_and(|free| free < FULL_BELOW) => {
                Error::Disk { cause: format!("{cause}: No space left on device"), full: true }
            }
            other => other,
        }
    }

    /// The length of a complete blob; `None`: it is not here, or a part of it only.
    pub(crate) async fn size(&self, id: BlobId) -> Result<Option<u64>, Error> {
        match self.fs.status(hash(id)).await {
            Ok(BlobStatus::Complete { size }) => Ok(Some(size)),
            Ok(BlobStatus::Partial { .. } | BlobStatus::NotFound) => Ok(None),
            Err(cause) => Err(self.failing(Error::disk("looking for a blob", &cause))),
        }
    }

    pub(crate) async fn kept(&self, id: BlobId) -> Result<Option<u64>, Error> {
        tags::find(self.fs.tags(), id).await.map_err(|e| self.failing(e))
    }

    /// Tags a blob whose files are durable. Only with the blob's turn.
    pub(crate) async fn keep(&self, held: &Held) -> Result<(), Error> {
        if self.kept(held.id()).await?.is_some() {
            return Ok(());
        }
        tags::set(self.fs.tags(), held.id(), held.size()).await.map_err(|e| self.failing(e))?;
        let mut totals = locked(&self.totals);
        totals.count += 1;
        totals.bytes += held.size();
        Ok(())
    }

    /// Removes a blob's tag. Only with the blob's turn.
    pub(crate) async fn forget(&self, id: BlobId) -> Result<(), Error> {
        let Some(size) = self.kept(id).await? else { return Ok(()) };
        tags::remove(self.fs.tags(), id).await.map_err(|e| self.failing(e))?;
        let mut totals = locked(&self.totals);
        totals.count -= 1;
        totals.bytes -= size;
        Ok(())
    }

    pub(crate) fn totals(&self) -> Totals {
        *locked(&self.totals)
    }

    pub(crate) async fn page(&self, after: Option<BlobId>, limit: usize) -> Result<Vec<(BlobId, u64)>, Error> {
        let expected = self.totals().count;
        tags::page(self.fs.tags(), after, limit, expected).await.map_err(|e| self.failing(e))
    }

    /// Makes the files of these blobs durable, and then their names.
    pub(crate) async fn sync_files(&self, blobs: &[Held]) -> Result<(), Error> {
        if blobs.is_empty() {
            return Ok(());
        }
        let mut syncs = Vec::with_capacity(blobs.len());
        for held in blobs {
            let (folder, inline, id, size) = (self.folder.clone(), self.inline_len_max, held.id(), held.size());
            syncs.push(Ok(blocking("syncing a blob", move || folder.sync_blob(id, size, inline))));
        }
        let synced = stream::iter(syncs).try_buffer_unordered(SYNCS_AT_ONCE).try_collect::<Vec<()>>().await;
        let folder = self.folder.clone();
        let named = match synced {
            Ok(_) => blocking("syncing the blob folder", move || folder.sync_data()).await,
            Err(cause) => Err(cause),
        };
        named.map_err(|e| self.failing(e))
    }

    /// Returns when everything that the database was told before is on disk. Calls at the same time share a commit.
    pub(crate) async fn commit(&self) -> Result<(), Error> {
        let ticket = self.commits.told.fetch_add(1, Ordering::SeqCst) + 1;
        // Held over the commit on purpose: one commit at a time, and whoever waits is mostly covered by the next.
        let mut covered = self.commits.covered.lock().await;
        if *covered >= ticket {
            return Ok(());
        }
        let told = self.commits.told.load(Ordering::SeqCst);
        self.fs.sync_db().await.map_err(|e| self.failing(Error::disk("committing the blob database", &e)))?;
        *covered = told;
        Ok(())
    }

    /// Starts write-back each time that `passed` bytes of a stream have crossed a multiple of [`WRITE_BACK_LEN`]: of the
    /// streams into temporary files, or of `blob`, which is written where it will stay.
    pub(crate) fn write_back_hook(&self, blob: Option<BlobId>) -> Box<dyn FnMut(u64) + Send> {
        let (folder, busy) = (self.folder.clone(), self.writing_back.clone());
        let mut next = WRITE_BACK_LEN;
        Box::new(move |passed| {
            if passed < next || busy.swap(true, Ordering::SeqCst) {
                return;
            }
            next = passed + WRITE_BACK_LEN;
            let (folder, busy) = (folder.clone(), busy.clone());
            tokio::task::spawn_blocking(move || {
                if let Err(cause) = folder.write_back(blob) {
                    // Only a head start: the sync at the end meets the same failure and reports it.
                    tracing::debug!(%cause, "write-back");
                }
                busy.store(false, Ordering::SeqCst);
            });
        })
    }

    /// What is here, neither kept nor held, with its length.
    pub(crate) async fn garbage(&self, holds: &Holds) -> Result<Vec<(BlobId, u64)>, Error> {
        let mut known = HashSet::new();
        self.walk(|id, _| {
            known.insert(id);
        })
        .await?;
        known.extend(holds.all());
        let mut garbage = Vec::new();
        for id in self.entries_but(&known).await? {
            garbage.push((id, self.size(id).await?.unwrap_or(0)));
        }
        Ok(garbage)
    }

    /// Removes what is neither kept nor held. Only while no hold begins: the store's gate sees to that.
    pub(crate) async fn sweep(&self, holds: &Holds) -> Result<(), Error> {
        let held = holds.all().into_iter().map(hash).collect();
        let (done, over) = oneshot::channel();
        let ordered = self.door.orders.send(Order::Collect { held, done }).await.is_ok();
        if !ordered || over.await.is_err() {
            return Err(self.failing(Error::disk_because("the collection of blobs failed")));
        }
        Ok(())
    }

    /// How much of this garbage is gone.
    pub(crate) async fn gone(&self, garbage: &[(BlobId, u64)]) -> Result<Collected, Error> {
        let mut collected = Collected::default();
        for &(id, size) in garbage {
            if matches!(self.fs.status(hash(id)).await, Ok(BlobStatus::NotFound)) {
                collected.count += 1;
                collected.bytes += size;
            }
        }
        Ok(collected)
    }

    /// Whether the database still answers: tells a damaged blob from a failed disk.
    pub(crate) async fn answers(&self) -> bool {
        !self.has_failed() && self.fs.sync_db().await.is_ok()
    }

    /// Stops what runs, closes the database, and says whether that went in time. After it the folder may be opened anew.
    pub(crate) async fn end(&self) -> bool {
        self.failed.cancel();
        self.finishing.close();
        let ending = async {
            self.finishing.wait().await;
            // Refused only if it has ended already.
            let _ = self.door.orders.send(Order::End).await;
            let mut ended = self.door.ended.clone();
            // An error means that the collector's task is gone: after the end, or after a run that failed.
            let _ = ended.wait_for(|&ended| ended).await;
            let left = locked(&self.door.instance).take();
            if let Some(store) = left {
                // Fails if the database's task has ended: then it is closed as well.
                let _ = store.shutdown().await;
            }
        };
        tokio::time::timeout(END_DEADLINE, ending).await.is_ok()
    }

    /// Shows every kept blob to `visit`, in order of the ids.
    async fn walk(&self, mut visit: impl FnMut(BlobId, u64)) -> Result<(), Error> {
        let mut after = None;
        loop {
            let page =
                tags::page(self.fs.tags(), after, WALK_PAGE_LEN, WALK_EXPECTED).await.map_err(|e| self.failing(e))?;
            for &(id, size) in &page {
                visit(id, size);
            }
            match page.last() {
                Some(&(id, _)) => after = Some(id),
                None => return Ok(()),
            }
        }
    }

    /// All entries of the database, partial ones too, except the known.
    async fn entries_but(&self, known: &HashSet<BlobId>) -> Result<Vec<BlobId>, Error> {
        let failed = |e: &(dyn std::error::Error + 'static)| self.failing(Error::disk("listing blobs", e));
        let entries = self.fs.list().stream().await.map_err(|e| failed(&e))?;
        let mut entries = pin!(entries);
        let mut others = Vec::new();
        while let Some(entry) = entries.next().await {
            let id = BlobId(*entry.map_err(|e| failed(&e))?.as_bytes());
            if !known.contains(&id) {
                others.push(id);
            }
        }
        Ok(others)
    }
}

/// Lets commits at the same time share one.
#[derive(Default)]
struct Commits {
    /// Requests so far.
    told: AtomicU64,
    /// The last request that a commit has covered.
    covered: tokio::sync::Mutex<u64>,
}

pub(crate) fn hash(id: BlobId) -> Hash {
    Hash::from_bytes(id.0)
}

/// Runs file operations where blocking is allowed.
pub(crate) async fn blocking<T: Send + 'static>(
    what: &'static str,
    work: impl FnOnce() -> std::io::Result<T> + Send + 'static,
) -> Result<T, Error> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result.map_err(|e| Error::disk(what, &e)),
        Err(cause) => Err(Error::disk(what, &cause)),
    }
}
