//! One attempt at one provider: ask for what is missing, check what comes, hand it to the store.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use bao_tree::io::BaoContentItem;
use iroh_blobs::get::StreamPair;
use iroh_blobs::get::fsm::{
    AtBlobContent, AtBlobHeaderNextError, AtConnected, BlobContentNext, ConnectedNext, DecodeError,
};
use iroh_blobs::protocol::{ChunkRanges, GetRequest};
use shoal_protocol::BlobId;
use tokio::io::ReadHalf;
use tokio::time::{Instant, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::fetch::Job;
use super::provider::{Duplex, Provider};
use super::queue::rate;
use super::room::Promise;
use super::sink::{PUT_LEN_MAX, Sink};
use super::stream::{Answer, Asking};
use super::{End, Progress};
use crate::store::engine::{Engine, blocking, hash};
use crate::{Error, Store};

/// Gaps in a partial blob that are asked for one by one; if there are more, all from the first on is asked for. Why 64:
/// a provider reads no longer request than [`super::serve::REQUEST_LEN_MAX`]. An attempt that breaks off leaves one gap.
const GAPS_MAX: usize = 64;

/// What came of an attempt.
pub(super) struct Attempted {
    /// Bytes of the blob that came and were right.
    pub(super) moved: u64,
    /// How long the provider was waited for.
    pub(super) waited: Duration,
    pub(super) ended: Ended,
}

pub(super) enum Ended {
    /// By the provider, or because of it.
    Provider(End),
    /// The store was reopened meanwhile: nobody's fault, to be tried again.
    Reopened,
    /// The store takes no more of it; the sink knows why.
    Refused,
    /// Nobody wants the blob any more.
    Cancelled,
    /// This node's store failed.
    Store(Error),
}

impl From<End> for Ended {
    fn from(end: End) -> Self {
        Self::Provider(end)
    }
}

/// Fetches what is missing of the job's blob from the provider at `place`.
pub(super) async fn attempt(store: &Store, job: &Job, place: usize, provider: &Provider) -> Attempted {
    let (engine, _hold, writing) = match store.claim(job.id).await {
        Ok(claimed) => claimed,
        Err(cause) => return Attempted { moved: 0, waited: Duration::ZERO, ended: Ended::Store(cause) },
    };
    let mut talk = Talk {
        store,
        job,
        place,
        engine: &engine,
        writing: Some(writing),
        sink: None,
        promise: None,
        here: 0,
        moved: 0,
        waited: Duration::ZERO,
    };
    let talked = tokio::select! {
        biased;
        () = job.cancel.cancelled() => Err(Ended::Cancelled),
        () = engine.failed.cancelled() => Err(Ended::Reopened),
        talked = talk.run(provider) => talked,
    };
    let (moved, waited) = (talk.moved, talk.waited);
    // Whatever happened: what was handed on is written before anything else may happen to this blob.
    let stored = match talk.sink.take() {
        Some(sink) => sink.finish(talked.is_ok()).await,
        None => Ok(()),
    };
    drop(talk);
    let ended = match (talked, stored) {
        (Err(Ended::Cancelled), _) => Ended::Cancelled,
        (_, Err(cause @ Error::Disk { full: true, .. })) => Ended::Store(cause),
        (Err(Ended::Reopened), _) | (Err(Ended::Refused), Ok(())) => Ended::Reopened,
        (_, Err(cause)) => Ended::Store(cause),
        (Err(ended), Ok(())) => ended,
        (Ok(size), Ok(())) => verdict(store, &engine, job, size).await.unwrap_or_else(Ended::Store),
    };
    Attempted { moved, waited, ended }
}

/// Whether the blob is here now, after an answer that came to its end.
async fn verdict(store: &Store, engine: &Engine, job: &Job, size: u64) -> Result<Ended, Error> {
    if engine.size(job.id).await? != Some(size) {
        return Ok(End::Misbehaved("the answer ended before the blob did".into()).into());
    }
    if !engine.folder.is_whole(job.id, size, engine.inline_len_max) {
        // The entry was collected while iroh-blobs still had its files open: what came went into removed files.
        store.shared.damaged.insert(job.id);
        return Ok(Ended::Reopened);
    }
    let (folder, id, inline_len_max) = (engine.folder.clone(), job.id, engine.inline_len_max);
    blocking("clearing up after a partial blob", move || folder.clear_inlined(id, size, inline_len_max)).await?;
    Ok(End::Complete.into())
}

/// A conversation with a provider, and what has come of it so far.
struct Talk<'a> {
    store: &'a Store,
    job: &'a Job,
    place: usize,
    engine: &'a Arc<Engine>,
    writing: Option<TaskTrackerToken>,
    sink: Option<Sink>,
    promise: Option<Promise>,
    /// Bytes that were here before.
    here: u64,
    moved: u64,
    waited: Duration,
}

/// The provider's answer, behind the header.
pub(super) type Content = AtBlobContent<Answer<ReadHalf<Box<dyn Duplex>>>>;

impl Talk<'_> {
    /// Returns the length of the blob when all that was asked for has come.
    async fn run(&mut self, provider: &Provider) -> Result<u64, Ended> {
        let (wanted, fresh) = self.missing().await?;
        let (content, size) = self.ask(provider, wanted).await?;
        let Some(size) = NonZeroU64::new(size) else {
            // The empty blob is always here, so it is never asked for.
            return Err(End::Misbehaved("says that the blob is empty".into()).into());
        };
        self.prepare(size, fresh).await?;
        self.receive(content).await?;
        Ok(size.get())
    }

    /// The chunks that are missing, and whether nothing of the blob can be built on.
    async fn missing(&mut self) -> Result<(ChunkRanges, bool), Ended> {
        let all = ChunkRanges::all();
        if self.store.shared.damaged.contains(self.job.id) {
            return Ok((all, true));
        }
        let found = self.engine.fs.observe(hash(self.job.id)).await;
        let found =
            found.map_err(|e| Ended::Store(self.engine.failing(Error::disk("looking for parts of a blob", &e))))?;
        self.here = found.total_bytes();
        self.job.report(Progress { here: self.here, total: found.validated_size() });
        let missing = &all - &found.ranges;
        // Two boundaries are a gap, and one is an open end.
        let missing = match missing.boundaries().first() {
            Some(&first) if missing.boundaries().len() > 2 * GAPS_MAX => ChunkRanges::from(first..),
            _ => missing,
        };
        Ok((missing, found.ranges.is_empty()))
    }

    /// Asks a provider, and reads the length that it says the blob has.
    async fn ask(&mut self, provider: &Provider, wanted: ChunkRanges) -> Result<(Content, u64), Ended> {
        let stream = self.wait(provider.open()).await?.map_err(|e| End::unreachable(&e))?;
        self.wait(ask(stream, self.job.id, wanted)).await?
    }

    /// Checks the length that the provider says, before anything of the blob is read.
    async fn prepare(&mut self, size: NonZeroU64, fresh: bool) -> Result<(), Ended> {
        let len = size.get();
        if len > self.job.len_max() {
            return Err(End::TooLarge { len }.into());
        }
        let missing = len.saturating_sub(self.here);
        match self.store.shared.fetches.room.promise(self.engine, missing).await.map_err(Ended::Store)? {
            Ok(promise) => self.promise = Some(promise),
            Err(lacking) => return Err(End::NoRoom { needed: lacking.needed, free: lacking.free }.into()),
        }
        let to_put = (fresh && len <= PUT_LEN_MAX) || self.store.shared.damaged.contains(self.job.id);
        let sink = match self.writing.take() {
            Some(writing) if !to_put => {
                Sink::partial(self.engine, writing, self.job.id, size).await.map_err(Ended::Store)?
            }
            // Without the token that keeps other instances from opening: a put may have to wait for one.
            _ => Sink::put(self.store, len),
        };
        self.sink = Some(sink);
        self.job.report(Progress { here: self.here, total: Some(len) });
        Ok(())
    }

    /// Reads the answer to its end.
    async fn receive(&mut self, mut content: Content) -> Result<(), Ended> {
        let total = content.tree().size();
        let mut watched = (self.moved, self.waited);
        loop {
            let (next, item) = match self.wait(content.next()).await? {
                BlobContentNext::More((next, item)) => (next, item.map_err(judge)?),
                BlobContentNext::Done(_) => return Ok(()),
            };
            content = next;
            let len = if let BaoContentItem::Leaf(leaf) = &item { leaf.data.len() as u64 } else { 0 };
            let taken = match &mut self.sink {
                Some(sink) => sink.take(item).await,
                None => false,
            };
            if !taken {
                return Err(Ended::Refused);
            }
            if len == 0 {
                continue;
            }
            self.moved += len;
            if let Some(promise) = &mut self.promise {
                promise.used(len);
            }
            self.job.report(Progress { here: self.here + self.moved, total: Some(total) });
            self.check_rate(&mut watched)?;
        }
    }

    /// Leaves a provider that has been slow for a while, if there are others that may be faster or it is all too slow.
    fn check_rate(&self, watched: &mut (u64, Duration)) -> Result<(), Ended> {
        let (moved, waited) = (self.moved - watched.0, self.waited - watched.1);
        if waited < self.job.options.slow_after {
            return Ok(());
        }
        *watched = (self.moved, self.waited);
        let rate = rate(moved, waited);
        let options = &self.job.options;
        if rate < options.rate_floor || (rate < options.rate_min && self.job.has_faster(self.place, rate)) {
            return Err(End::Slow { rate }.into());
        }
        Ok(())
    }

    /// Waits for the provider, but not for ever, and counts how long.
    async fn wait<T>(&mut self, coming: impl Future<Output = T>) -> Result<T, Ended> {
        let since = Instant::now();
        let came = timeout(self.job.options.stall, coming).await;
        self.waited += since.elapsed();
        came.map_err(|_| End::Stalled.into())
    }
}

/// Sends a request for these chunks of a blob, and reads the length that the provider says it has.
pub(super) async fn ask(stream: Box<dyn Duplex>, id: BlobId, wanted: ChunkRanges) -> Result<(Content, u64), Ended> {
    let (reader, writer) = tokio::io::split(stream);
    let pair = StreamPair::new(0, Answer::new(reader), Asking(writer));
    let request = GetRequest::blob_ranges(hash(id), wanted);
    let connected = AtConnected::new(pair.t0, pair.recv, pair.send, request, Default::default());
    let next = connected.next().await.map_err(|e| End::cut(&e))?;
    let ConnectedNext::StartRoot(root) = next else {
        // Only for requests of other kinds, and for empty ones: then nothing was missing after all.
        return Err(Ended::Reopened);
    };
    root.next().next().await.map_err(|cause| match cause {
        AtBlobHeaderNextError::NotFound { .. } => End::NotThere.into(),
        AtBlobHeaderNextError::Read { source, .. } => End::cut(&source).into(),
    })
}

/// What it means that the answer could not be read on.
fn judge(cause: DecodeError) -> Ended {
    match cause {
        DecodeError::ParentHashMismatch { .. } | DecodeError::LeafHashMismatch { .. } => {
            End::Misbehaved(cause.to_string()).into()
        }
        DecodeError::Read { source, .. } => End::cut(&source).into(),
        cause => End::cut(&cause).into(),
    }
}
