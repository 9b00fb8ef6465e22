//! What becomes of blobs that nothing refers to.
//!
//! Whoever refers to a blob holds it, makes it durable, writes the reference, and lets go. Removing goes the other way:
//! the blob is forgotten, then the references are looked at once more, and where one has appeared the blob is kept
//! again; only then is it collected. So a reference that comes at any moment finds its blob.

use shoal_protocol::object::job::{Checkpoint, Payload};
use shoal_protocol::{BlobId, Kind, Problem, codec};
use tokio::sync::Mutex;

use super::super::answer::Answer;
use super::super::{Caller, Service};
use super::{Found, Info, id, problem};
use crate::runtime::now;
use crate::store::{Mutation, Table};

/// Blobs, or references, that are looked at in one step. Why 256: a few milliseconds, then others have their turn.
const STEP_LEN: usize = 256;

/// A blob that is forgotten is not collected before it is certain that nothing refers to it: both pass this door.
#[derive(Default)]
pub(crate) struct Door(Mutex<()>);

impl Service {
    /// Removes a blob that nothing refers to.
    pub(in crate::service) async fn delete_blob(&self, caller: &Caller, object: &str) -> Result<Answer, Problem> {
        let id = id(object)?;
        self.check_stays()?;
        if let Found::Short(_) = self.find_blob(caller, id).await? {
            let detail = "these bytes stand in the record of a job and go with it: delete the job";
            return Err(Problem::new(Kind::Conflict, detail));
        }
        self.check_owns(caller, id)?;
        if !self.forget_blob(id, |_| true).await? {
            return Err(match self.references(id)? {
                0 => Problem::new(Kind::Conflict, "somebody is reading this blob or about to use it").retry_after(1000),
                references => Problem::new(
                    Kind::Conflict,
                    format!("{references} functions, jobs or KV entries refer to this blob: remove those first"),
                ),
            });
        }
        self.collect_blobs().await?;
        Ok(Answer::done())
    }

    /// Sweeps what nothing has referred to for longer than the grace, and what uploads that broke off have left. How
    /// many blobs went.
    pub(crate) async fn sweep_blobs(&self) -> Result<u64, Problem> {
        let grace = self.0.config.blob_grace_ms;
        let mut after = None;
        loop {
            let page = self.0.blobs.list(after, STEP_LEN).await.map_err(|error| problem(&error))?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (id, _) in page {
                let due = now().wall_ms.saturating_sub(grace);
                match self.info(id)? {
                    Some(info) if info.keep || info.uploaded_ms > due => {}
                    Some(_) => {
                        let old = move |info: Option<&Info>| info.is_some_and(|i| !i.keep && i.uploaded_ms <= due);
                        self.forget_blob(id, old).await?;
                    }
                    None => self.note_unknown(id).await?,
                }
            }
        }
        self.collect_blobs().await
    }

    /// Compares what is referred to with what is here, once at a start: what is here is kept from now on, also if the
    /// node was killed while it was about to be swept. How many blobs are missing.
    pub(crate) async fn check_references(&self) -> Result<u64, Problem> {
        let store = self.0.runtime.store();
        let (mut missing, mut after) = (0, None);
        loop {
            let rows = store.scan_prefix(Table::References, &[], after.as_deref(), STEP_LEN)?;
            let mut ids: Vec<BlobId> =
                rows.iter().filter_map(|(key, _)| Some(BlobId(key.get(..32)?.try_into().ok()?))).collect();
            ids.dedup();
            let Some(last) = ids.last() else { return Ok(missing) };
            // Behind every reference to it: what follows the hash is lower than this.
            after = Some([last.as_bytes().as_slice(), &[u8::MAX]].concat());
            let mut held = Vec::with_capacity(ids.len());
            for id in ids {
                match self.0.blobs.hold(id).await.map_err(|error| problem(&error))? {
                    Some(blob) => held.push(blob),
                    None => {
                        missing += 1;
                        tracing::debug!(blob = %id, "a blob is referred to and not here");
                    }
                }
            }
            self.0.blobs.put_durable(&held).await.map_err(|error| problem(&error))?;
        }
    }

    /// Forgets what was saved of a job and was replaced, unless somebody has put the same bytes here since: a run that saves
    /// much and often would else fill the disk before the grace is over.
    pub(crate) async fn forget_checkpoint(&self, replaced: Option<Checkpoint>) {
        let Some(Checkpoint { saved_ms, bytes: Payload::Blob { id, .. }, .. }) = replaced else { return };
        let unasked = move |info: Option<&Info>| info.is_none_or(|info| !info.keep && info.uploaded_ms <= saved_ms);
        if let Err(problem) = self.forget_blob(id, unasked).await {
            tracing::debug!(%problem, blob = %id, "a checkpoint that was replaced stays until the next sweep");
        }
    }

    /// Forgets a blob if nothing refers to it, nobody holds it and its information allows it; its bytes go at the next
    /// collection.
    async fn forget_blob(
        &self,
        id: BlobId,
        allowed: impl FnOnce(Option<&Info>) -> bool + Send + 'static,
    ) -> Result<bool, Problem> {
        let _door = self.0.removal.0.lock().await;
        if !self.begin_forgetting(id).await? {
            return Ok(false);
        }
        self.end_forgetting(id, allowed).await
    }

    /// The first look, and the forgetting.
    pub(in crate::service) async fn begin_forgetting(&self, id: BlobId) -> Result<bool, Problem> {
        let referred_to = !self.0.runtime.store().scan_prefix(Table::References, id.as_bytes(), None, 1)?.is_empty();
        if referred_to {
            return Ok(false);
        }
        self.0.blobs.forget(id).await.map_err(|error| problem(&error))
    }

    /// The second look: whether the blob goes, or is kept again.
    pub(in crate::service) async fn end_forgetting(
        &self,
        id: BlobId,
        allowed: impl FnOnce(Option<&Info>) -> bool + Send + 'static,
    ) -> Result<bool, Problem> {
        let decided = self.0.runtime.store().decide(move |view| {
            let info = view.get(Table::Blobs, id.as_bytes())?.and_then(|row| codec::decode::<Info>(&row).ok());
            let goes = view.scan_prefix(Table::References, id.as_bytes(), 1)?.is_empty() && allowed(info.as_ref());
            let rows = if goes { vec![Mutation::delete(Table::Blobs, id.as_bytes().to_vec())] } else { Vec::new() };
            Ok((rows, goes))
        });
        let decided = decided.await;
        if matches!(decided, Ok(true)) {
            self.0.peers.untell_of_blob(id);
        } else if self.hold_blob(id).await?.is_none() {
            tracing::warn!(blob = %id, "a blob that was to be kept after all is gone");
        }
        decided
    }

    /// Removes the bytes of what is neither kept nor held.
    pub(in crate::service) async fn collect_blobs(&self) -> Result<u64, Problem> {
        let _door = self.0.removal.0.lock().await;
        let collected = self.0.blobs.collect().await.map_err(|error| problem(&error))?;
        Ok(collected.count)
    }

    /// A blob without a row: a crash came between its bytes and its row, or while it was forgotten. Its grace begins now.
    async fn note_unknown(&self, id: BlobId) -> Result<(), Problem> {
        let info =
            Info { owner: None, others: Vec::new(), uploaded_ms: now().wall_ms, keep: false, name: String::new() };
        let row = Mutation::put(Table::Blobs, id.as_bytes().to_vec(), codec::encode(&info));
        self.0.runtime.store().commit(vec![row]).await
    }
}
