//! What is at other nodes: jobs of other homes, and blobs that are not here.

use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use shoal_blobs::Held;
use shoal_blobs::exchange::{End, FetchError, FetchOptions, STALL, Trial, passing};
use shoal_protocol::limits::WAIT_MS_MAX;
use shoal_protocol::object::Class;
use shoal_protocol::object::job::{Payload, Wait};
use shoal_protocol::wire::client::Call;
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem};
use tokio::time::Instant;

use super::blob::{Found, open_short, problem, range, unavailable};
use super::custody::Asking;
use super::{Answer, Body, ByteStream, Caller, Opened, Service, Upload, everywhere};
use crate::identity::token::Operation;
use crate::peers::{Granted, Home};
use crate::runtime::Referrer;
use crate::store::Table;

/// Neighbours that are asked for a blob of which nobody says where it is. Why 8: the nearest; beyond them the DHT knows.
const NEIGHBOURS_ASKED_MAX: usize = 8;
/// Rows that are read at once.
const PAGE_LEN: usize = 64;
/// Holders from the DHT that are asked.
const HOLDERS_ASKED_MAX: usize = 4;

/// How long after the home of a job that somebody waits for was not reached it is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Why a peer is kept out.
const WRONG_BYTES: &str = "it sends other bytes than those that were asked for";

/// The methods of jobs.
const JOB_METHODS: [&str; 6] = ["cancel", "events", "hold", "release", "rerun", "wait"];

impl Service {
    /// The job that a call is about, if it has another home.
    pub(super) fn elsewhere(&self, call: &Call) -> Option<ObjectId> {
        let (class, object) = match call {
            Call::Get { class, object }
            | Call::Set { class, object, .. }
            | Call::Delete { class, object }
            | Call::Method { class, object, .. } => (class, object),
            Call::List { .. } | Call::Create { .. } => return None,
        };
        // What no job has is refused without asking anybody.
        if matches!(call, Call::Method { method, .. } if !JOB_METHODS.contains(&method.as_str())) {
            return None;
        }
        let job = object.parse().ok().filter(|_| *class == Class::Job)?;
        self.has_other_home(job).then_some(job)
    }

    /// Carries out a call at the home of its job, or where that is away at those who keep the job. Who waits for a job's end waits
    /// for one of them as well, while there is time.
    pub(super) async fn call_elsewhere(
        &self,
        caller: &Caller,
        job: ObjectId,
        call: Call,
        body: Body,
    ) -> Result<Answer, Problem> {
        let waits = matches!(&call, Call::Method { method, .. } if method == "wait");
        if !waits {
            return self.ask_for(caller, job, &call, &body).await;
        }
        let wait: Wait = body.read_or_default()?;
        let deadline = Instant::now() + wait.timeout();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let left_ms = u64::try_from(left.as_millis()).unwrap_or(WAIT_MS_MAX);
            let body = Body::new(body.format, &Wait { timeout_ms: Some(left_ms), ..wait })?;
            match self.ask_for(caller, job, &call, &body).await {
                Err(problem) if problem.kind == Kind::Unavailable && Instant::now() + AGAIN_AFTER < deadline => {
                    tokio::time::sleep(AGAIN_AFTER).await;
                }
                answered => return answered,
            }
        }
    }

    /// Carries out a call at the home of its job, or while that is away at one of those who keep the job.
    async fn ask_for(&self, caller: &Caller, job: ObjectId, call: &Call, body: &Body) -> Result<Answer, Problem> {
        let mut asking = Asking::new(job);
        loop {
            let home = asking.next(self).await?;
            let body = Body { format: body.format, bytes: body.bytes.clone() };
            match self.0.peers.call(home, caller, call.clone(), body).await {
                Ok(answer) => return Ok(answer),
                Err(problem) => asking.failed(home, problem)?,
            }
        }
    }

    /// Whether a call may come from another node: it is about one job, for its home to answer, or asks for the jobs that
    /// are here.
    pub(crate) fn may_come_from_a_node(call: &Call) -> bool {
        match call {
            Call::Get { class, .. }
            | Call::Set { class, .. }
            | Call::Delete { class, .. }
            | Call::Method { class, .. } => *class == Class::Job,
            // A node that asked all others for another one would be a lever.
            Call::List { class, query } => {
                let scope = query.filters.get(everywhere::SCOPE);
                *class == Class::Job && scope.is_none_or(|scope| scope == everywhere::KEPT)
            }
            Call::Create { .. } => false,
        }
    }

    fn has_other_home(&self, job: ObjectId) -> bool {
        job.tag() != self.0.peers.node().tag()
    }

    /// Whether a job is answered for by this node: its own, one that it decides, or one that it keeps and whose home is away.
    pub(super) async fn answers_for(&self, caller: &Caller, job: ObjectId) -> Result<bool, Problem> {
        if !self.has_other_home(job) {
            return Ok(true);
        }
        caller.user()?;
        caller.check(Operation::Read, Class::Job)?;
        self.stands_in_for(job).await
    }

    /// Opens the result of a job, wherever its home is.
    pub(crate) async fn open_result(&self, caller: &Caller, job: ObjectId, offset: u64) -> Result<Opened, Problem> {
        if self.answers_for(caller, job).await? {
            return self.open_payload(&self.result_here(caller, job).await?, offset).await;
        }
        let mut asking = Asking::new(job);
        loop {
            let home = asking.next(self).await?;
            let opened = match self.0.peers.ask_result(home, caller, job).await {
                Ok(granted) => self.pass_on(home, granted, offset, None).await,
                Err(problem) => Err(problem),
            };
            match opened {
                Ok(opened) => return Ok(opened),
                Err(problem) => asking.failed(home, problem)?,
            }
        }
    }

    /// Opens a blob that the caller may read, here or at a node that has it.
    pub(crate) async fn open_blob(
        &self,
        caller: &Caller,
        id: BlobId,
        offset: u64,
        len: Option<u64>,
    ) -> Result<Opened, Problem> {
        match self.open_blob_here(caller, id, offset, len).await {
            Err(problem) if problem.kind == Kind::BlobUnavailable => {
                let opened = self.open_at_holder(caller, id, offset, len).await;
                opened.ok_or(problem)
            }
            here => here,
        }
    }

    /// Opens a blob at one of those who say in the DHT that they have it.
    async fn open_at_holder(&self, caller: &Caller, id: BlobId, offset: u64, len: Option<u64>) -> Option<Opened> {
        let mut holders = self.0.peers.holders(id);
        for _ in 0..HOLDERS_ASKED_MAX {
            let holder = Home(holders.recv().await?);
            let Ok(granted) = self.0.peers.ask_blob(holder, caller, id).await else { continue };
            match self.pass_on(holder, granted, offset, len).await {
                Ok(opened) => return Some(opened),
                Err(problem) => tracing::debug!(%problem, blob = %id.short(), "a holder did not give a blob"),
            }
        }
        None
    }

    /// Opens bytes of another node as they come from there, without keeping them: no byte goes on before it is verified,
    /// and the first of them is here when this returns. Who sends wrong ones is kept out.
    async fn pass_on(&self, at: Home, granted: Granted, offset: u64, len: Option<u64>) -> Result<Opened, Problem> {
        let Granted { payload, stream } = granted;
        let (id, size) = match &payload {
            Payload::Inline(bytes) => return open_short(payload.id(), &bytes.0, offset, len),
            Payload::Blob { id, size } => (*id, *size),
        };
        let range = range(size, offset, len)?;
        let peers = self.0.peers.clone();
        let judge = move |error: &std::io::Error| {
            if error.kind() == std::io::ErrorKind::InvalidData {
                peers.mesh().block(at.0, WRONG_BYTES);
            }
        };
        let failed = |error: std::io::Error| {
            let detail = format!("node {} does not give blob {id}: {error}", at.0.short());
            Problem::new(Kind::BlobUnavailable, detail).retry_after(1000)
        };
        let bytes = passing(stream, id, size, range.clone(), STALL).await.inspect_err(&judge).map_err(failed)?;
        let mut bytes: ByteStream = Box::pin(bytes.inspect_err(judge));
        let first = bytes.try_next().await.map_err(failed)?;
        let bytes = stream::iter(first.map(Ok)).chain(bytes);
        Ok(Opened { id, size, range, bytes: Box::pin(bytes) })
    }

    /// Bytes that the caller may read, for something that is about to refer to them: what another node has is brought here.
    pub(super) async fn find_or_bring_blob(&self, caller: &Caller, id: BlobId) -> Result<Found, Problem> {
        match self.find_blob(caller, id).await {
            Err(problem) if problem.kind == Kind::BlobUnavailable => {}
            found => return found,
        }
        let opened = self.open_at_holder(caller, id, 0, None).await.ok_or_else(|| unavailable(id))?;
        let upload = Upload { size: Some(opened.size), ..Upload::default() };
        let stored = self.store_blob(&[caller.user()?], opened.size, upload, opened.bytes).await?;
        // What came is another blob if the holder lied; it is swept.
        if stored.id == id { Ok(Found::Stored(stored.size)) } else { Err(unavailable(id)) }
    }

    /// Fetches a blob of at most `len_max` bytes from these nodes, verified and durable.
    pub(crate) async fn fetch_from(&self, id: BlobId, len_max: u64, nodes: Vec<NodeId>) -> Result<Held, Problem> {
        let providers = nodes.into_iter().map(|node| self.0.peers.provider(node, len_max)).collect();
        let fetched = self.0.blobs.fetch(id, providers, FetchOptions::new(len_max)).await;
        let trials = match &fetched {
            Ok(fetched) => fetched.trials.as_slice(),
            Err(FetchError::Nowhere { trials, .. } | FetchError::TooLarge { trials, .. }) => trials,
            Err(FetchError::Store(_)) => &[],
        };
        self.judge(trials);
        let fetched = fetched.map_err(|error| {
            let kind = match &error {
                FetchError::Nowhere { .. } => Kind::BlobUnavailable,
                FetchError::TooLarge { .. } => Kind::TooLarge,
                FetchError::Store(_) => Kind::StorageUnavailable,
            };
            Problem::new(kind, error.to_string()).retry_after(1000)
        })?;
        self.0.metrics.blob_fetched(fetched.moved);
        Ok(fetched.held)
    }

    fn judge(&self, trials: &[Trial]) {
        for trial in trials {
            if matches!(trial.end, End::Misbehaved(_)) {
                self.0.peers.mesh().block(trial.node, WRONG_BYTES);
            }
        }
    }

    /// Fetches a blob for a run of this node's workers: from `first`, then from neighbours, then from whoever the DHT names.
    pub(super) async fn fetch_for_run(&self, id: BlobId, len_max: u64, first: Option<NodeId>) -> Result<Held, Problem> {
        let near = first.into_iter().chain(self.nearest_neighbours().into_iter().filter(|node| Some(*node) != first));
        let problem = match self.fetch_from(id, len_max, near.collect()).await {
            Err(problem) if problem.kind == Kind::BlobUnavailable => problem,
            fetched => return fetched,
        };
        let mut holders = self.0.peers.holders(id);
        for _ in 0..HOLDERS_ASKED_MAX {
            let Some(holder) = holders.recv().await else { break };
            if let Ok(held) = self.fetch_from(id, len_max, vec![holder]).await {
                return Ok(held);
            }
        }
        Err(problem)
    }

    /// Blobs that were put here, at least `len_min` bytes long or the code of a function: each with whether it is code. At
    /// most `max`.
    pub(crate) async fn blobs_to_tell_of(&self, len_min: u64, max: usize) -> Result<Vec<(BlobId, bool)>, Problem> {
        let (mut told, mut after) = (Vec::new(), None);
        while told.len() < max {
            let page = self.0.blobs.list(after, PAGE_LEN).await.map_err(|error| problem(&error))?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            for (id, size) in page {
                let references = self.store().scan_prefix(Table::References, id.as_bytes(), None, PAGE_LEN)?;
                let is_code =
                    references.iter().any(|(key, _)| matches!(Referrer::of_key(key), Some(Referrer::Function(_))));
                let was_put = size >= len_min && self.info(id)?.is_some_and(|info| info.owner.is_some());
                if is_code || was_put {
                    told.push((id, is_code));
                }
            }
        }
        Ok(told)
    }

    /// Neighbours, the nearest first.
    pub(super) fn nearest_neighbours(&self) -> Vec<NodeId> {
        let mut infos = self.0.peers.mesh().peers();
        infos.retain(|info| info.connected);
        infos.sort_by_key(|info| (info.rtt.unwrap_or(std::time::Duration::MAX), info.node));
        infos.into_iter().take(NEIGHBOURS_ASKED_MAX).map(|info| info.node).collect()
    }
}
