//! What a running guest asks for, through its worker. The run's own rights count: the worker is only where it runs.

use futures_util::StreamExt as _;
use shoal_kernel::{Accepted, Command, Principal, Reply as Replied, rights};
use shoal_protocol::limits::{CHECKPOINT_LEN_MAX, COMPONENT_LEN_MAX, LOG_LEN_MAX};
use shoal_protocol::object::function::Grant;
use shoal_protocol::object::job::{Payload, check_checkpoint_len};
use shoal_protocol::wire::client::{BlobStored, Reply};
use shoal_protocol::wire::worker::{Answer, Ask, Run};
use shoal_protocol::{BlobId, Kind, Problem, WorkerId};

use super::blob::{BLOB_LEN_MAX, unavailable};
use super::job::unexpected;
use super::{ByteStream, Caller, Opened, Service, Upload, blob};
use crate::crash::{self, Point};
use crate::runtime::{read_checkpoint, read_guest, read_guest_checkpoint, read_guest_end, read_job};

impl Service {
    /// The job of a run, if the run is the current one and this worker has it: of this home, or of another one.
    fn run(&self, worker: WorkerId, run: Run) -> Result<Accepted, Problem> {
        let superseded = || {
            Problem::new(Kind::Conflict, "this run does not count any more: the job goes on elsewhere or has settled")
        };
        let store = self.0.runtime.store();
        if let Some(guest) = read_guest(store, run.job)? {
            let current = guest.run == run && guest.worker == worker && read_guest_end(store, run.job)?.is_none();
            return if current { Ok(guest.accepted) } else { Err(superseded()) };
        }
        let (accepted, standing) = read_job(store, run.job)?.ok_or_else(superseded)?;
        let current = standing.is_some_and(|standing| {
            standing.epoch == run.epoch
                && !standing.state.is_settled()
                && standing.attempts.last().is_some_and(|attempt| attempt.worker == worker)
        });
        if current { Ok(accepted) } else { Err(superseded()) }
    }

    /// Answers a guest.
    pub(crate) async fn ask(&self, worker: WorkerId, run: Run, ask: Ask) -> Reply<Answer> {
        let accepted = self.run(worker, run)?;
        match ask {
            Ask::Kv { namespace, scope, operation } => {
                if !accepted.spec.grants.contains(&Grant::Kv) {
                    return Err(not_granted(Grant::Kv));
                }
                self.guest_kv(&accepted, namespace, scope, operation).await
            }
            Ask::Checkpoint { number, bytes } => self.save_checkpoint(worker, run, number, bytes).await,
        }
    }

    /// Keeps what a guest has saved for the next run of its job.
    async fn save_checkpoint(&self, worker: WorkerId, run: Run, number: u64, bytes: Payload) -> Reply<Answer> {
        check_checkpoint_len(&bytes)?;
        // Held until what refers to it is durable.
        let held = match &bytes {
            Payload::Inline(_) => None,
            Payload::Blob { id, size } => {
                let held = self.hold_blob(*id).await?.ok_or_else(|| unavailable(*id))?;
                if held.size() != *size {
                    let detail = format!("blob {id} has {} bytes, not {size}", held.size());
                    return Err(Problem::new(Kind::InvalidField, detail));
                }
                Some(held)
            }
        };
        let store = self.0.runtime.store();
        let replaced = match read_guest(store, run.job)? {
            Some(_) => read_guest_checkpoint(store, run.job)?,
            None => read_checkpoint(store, run.job)?,
        };
        let nobody = Principal { user: None, operator: false };
        let reply = self.0.runtime.request(nobody, Command::Checkpoint { worker, run, number, bytes }).await;
        drop(held);
        match reply? {
            Replied::Done => {
                self.forget_checkpoint(replaced).await;
                Ok(Answer::Saved)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Whether the blob is what was saved of a run's job: what the run was given, or has saved itself.
    fn is_checkpoint(&self, run: Run, id: BlobId) -> Result<bool, Problem> {
        let store = self.0.runtime.store();
        let given = read_guest(store, run.job)?.and_then(|guest| guest.checkpoint).map(|given| *given);
        let saved = [given, read_checkpoint(store, run.job)?, read_guest_checkpoint(store, run.job)?];
        Ok(saved.iter().flatten().any(|saved| saved.bytes.blob() == Some(id)))
    }

    /// Opens a blob for a run: its code and its input in any case, others if it was granted blobs and either its
    /// submitter or its function's owner may read them.
    pub(crate) async fn open_blob_for_run(
        &self,
        worker: WorkerId,
        run: Run,
        id: BlobId,
        offset: u64,
        len: Option<u64>,
    ) -> Result<Opened, Problem> {
        let accepted = self.run(worker, run)?;
        let own = id == accepted.spec.component || accepted.input.blob() == Some(id) || self.is_checkpoint(run, id)?;
        if !own && !accepted.spec.grants.contains(&Grant::Blob) {
            return Err(not_granted(Grant::Blob));
        }
        let principal = |user| Principal { user: Some(user), operator: false };
        let Some(size) = self.here_or_fetched(&accepted, id, own).await? else {
            // Short bytes of another job are no blob, but are opened like one.
            let short = self.short(id, |job| {
                [accepted.spec.owner, accepted.spec.function_owner]
                    .into_iter()
                    .any(|user| rights::may_read_job(&principal(user), job.spec.owner, job.spec.function_owner))
            })?;
            let gone = || {
                let detail = format!("blob {id} is not at this node: it was never put here, or removed");
                Problem::new(Kind::BlobUnavailable, detail)
            };
            return blob::open_short(id, &short.ok_or_else(gone)?, offset, len);
        };
        if !own {
            self.check_read_for_run(&accepted, id)?;
        }
        self.open_range(id, size, blob::range(size, offset, len)?).await
    }

    /// Refuses a blob that neither the job's submitter nor the function's owner may read.
    pub(super) fn check_read_for_run(&self, accepted: &Accepted, id: BlobId) -> Result<(), Problem> {
        let reads = |user| {
            let principal = Principal { user: Some(user), operator: false };
            self.may_read_blob(&Caller { principal, ..Caller::ANONYMOUS }, id)
        };
        let (owner, function_owner) = (accepted.spec.owner, accepted.spec.function_owner);
        if reads(function_owner)? || self.is_vouched_for(accepted)? && reads(owner)? {
            return Ok(());
        }
        let detail = format!("neither the job's submitter nor the function's owner may read blob {id}");
        Err(Problem::new(Kind::Forbidden, detail))
    }

    /// Whether a job is its submitter's for certain: of another home's word for its user only so much is believed as that user's document
    /// says, also where this node goes on with the job.
    fn is_vouched_for(&self, accepted: &Accepted) -> Result<bool, Problem> {
        let guest = read_guest(self.0.runtime.store(), accepted.id)?.map(|guest| guest.home);
        let home = match guest {
            Some(home) => Some(home),
            None => self.record(accepted.id)?.map(|record| record.home),
        };
        Ok(home.is_some_and(|home| home == self.node_id() || self.signs_for(home, accepted.spec.owner)))
    }

    /// The length of a blob that is here, if need be since just now: code, input and what global KV names are fetched from
    /// the home of the job or from who has them.
    async fn here_or_fetched(&self, accepted: &Accepted, id: BlobId, own: bool) -> Result<Option<u64>, Problem> {
        if let Some(size) = self.blob_size(id).await? {
            return Ok(Some(size));
        }
        if !own && self.references(id)? == 0 {
            return Ok(None);
        }
        let home = read_guest(self.0.runtime.store(), accepted.id)?.map(|guest| guest.home);
        let len_max = match &accepted.input {
            Payload::Blob { id: input, size } if *input == id => *size,
            _ if id == accepted.spec.component => COMPONENT_LEN_MAX,
            // Else, of what is the run's own, what was saved of its job.
            _ if own => CHECKPOINT_LEN_MAX,
            _ => BLOB_LEN_MAX,
        };
        match self.fetch_for_run(id, len_max, home).await {
            Ok(held) => Ok(Some(held.size())),
            Err(problem) if problem.kind == Kind::BlobUnavailable => Ok(None),
            Err(problem) => Err(problem),
        }
    }

    /// Stores bytes that a run has made. They belong to who submitted the job, and the function's owner may read them as the job.
    pub(crate) async fn put_blob_for_run(
        &self,
        worker: WorkerId,
        run: Run,
        bytes: ByteStream,
    ) -> Result<BlobStored, Problem> {
        let accepted = self.run(worker, run)?;
        // The log of a run and what it saves go the same way as its result.
        let bytes = Box::pin(bytes.inspect(|_| crash::at(Point::Upload)));
        let len_max = accepted.spec.limits.output_bytes().max(LOG_LEN_MAX as u64).max(CHECKPOINT_LEN_MAX);
        let whose = [accepted.spec.owner, accepted.spec.function_owner];
        self.store_blob(&whose, len_max, Upload::default(), bytes).await
    }
}

fn not_granted(grant: Grant) -> Problem {
    Problem::new(
        Kind::Forbidden,
        format!("the function was not granted {}: deploy it with --grant {}", grant.text(), grant.text()),
    )
}
