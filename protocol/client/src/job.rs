//! Jobs: submit, look, wait, cancel, collect.

use std::path::Path;
use std::time::Duration;

use serde::Deserialize;
use shoal_protocol::ObjectId;
use shoal_protocol::limits::WAIT_MS_MAX;
use shoal_protocol::object::job::{Job, JobPatch, Receipt, Submission, Submit, Wait};
use shoal_protocol::object::{Class, ListQuery, Page};
use shoal_protocol::problem::Kind;
use shoal_protocol::wire::client::BlobStored;
use tokio::time::Instant;

use crate::client::{AWAY_MAX, method_call};
use crate::transfer::{Download, Source};
use crate::{Client, Error};

/// How long after a job's home was not reached the node is asked again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);

/// What the node answers to one job.
#[derive(Deserialize)]
struct Accepted {
    id: ObjectId,
}

impl Client {
    /// Hands over one job. Once this returns it is durable, and the client may go away.
    ///
    /// # Errors
    /// The node's problem; [`Error::Disconnected`] if it is unknown whether the job was accepted: look into
    /// [`Client::jobs`] before submitting it again.
    pub async fn submit(&self, job: &Submit) -> Result<ObjectId, Error> {
        let accepted: Accepted = self.create(Class::Job, job).await?;
        Ok(accepted.id)
    }

    /// Hands over up to 1,000 jobs in one request. Each is accepted or refused by itself, in their order.
    ///
    /// # Errors
    /// As of [`Client::submit`]; [`Error::TooLarge`] if they do not fit into a request.
    pub async fn submit_batch(&self, jobs: &[Submit]) -> Result<Vec<Receipt>, Error> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        self.create(Class::Job, &Submission::Batch(jobs.to_vec())).await
    }

    /// A job as it stands. `inline`: with the short bytes of its result and log.
    pub async fn job(&self, id: ObjectId, inline: bool) -> Result<Job, Error> {
        if !inline {
            return self.get(Class::Job, id).await;
        }
        // A wait of no time: the one form of a read that says what it wants inline.
        let body = Wait { timeout_ms: Some(0), inline };
        self.method(Class::Job, id, "wait", &[], &body).await
    }

    /// Jobs of this home, newest first.
    pub async fn jobs(&self, query: ListQuery) -> Result<Page<Job>, Error> {
        self.list(Class::Job, query).await
    }

    /// Waits until the job is settled, or for `timeout`; without one, for ever. The job as it then stands: its state
    /// says which it was. Goes on when the connection is lost and comes back, and when the job's home is out of reach of
    /// the node that is asked, for up to ten minutes. May be dropped halfway.
    pub async fn wait(&self, id: ObjectId, timeout: Option<Duration>, inline: bool) -> Result<Job, Error> {
        let deadline = timeout.map(|timeout| Instant::now() + timeout);
        let mut away: Option<Instant> = None;
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let left_ms = left.map_or(WAIT_MS_MAX, |left| u64::try_from(left.as_millis()).unwrap_or(u64::MAX));
            let body = Wait { timeout_ms: Some(left_ms.min(WAIT_MS_MAX)), inline };
            let job: Job = match self.method(Class::Job, id, "wait", &[], &body).await {
                Ok(job) => job,
                Err(error) if error.kind() == Some(Kind::Unavailable) && left_ms > 0 => {
                    if away.get_or_insert_with(Instant::now).elapsed() >= AWAY_MAX {
                        return Err(error);
                    }
                    tokio::time::sleep(AGAIN_AFTER.min(Duration::from_millis(left_ms))).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            away = None;
            if job.state.is_settled() || left_ms == 0 {
                return Ok(job);
            }
        }
    }

    /// Changes a job's name, labels or priority.
    pub async fn set_job(&self, id: ObjectId, patch: &JobPatch) -> Result<Job, Error> {
        self.set(Class::Job, id, None, patch).await
    }

    /// Cancels a job, running or not. Returns it as it then stands: one that runs ends a little later.
    pub async fn cancel(&self, id: ObjectId) -> Result<Job, Error> {
        self.ask(method_call(Class::Job, id, "cancel", &[])).await
    }

    /// Holds a job that waits: it does not run until it is released.
    ///
    /// # Errors
    /// A problem `conflict` if it was handed over already, or has ended.
    pub async fn hold(&self, id: ObjectId) -> Result<Job, Error> {
        self.ask(method_call(Class::Job, id, "hold", &[])).await
    }

    /// Releases a held job; nothing changes where it is not held.
    ///
    /// # Errors
    /// A problem `conflict` if it has ended.
    pub async fn release(&self, id: ObjectId) -> Result<Job, Error> {
        self.ask(method_call(Class::Job, id, "release", &[])).await
    }

    /// Hands the same job over once more, ended or not: its function, version and input, for the one who asks. Its id.
    ///
    /// # Errors
    /// As of [`Client::submit`]; a problem `not found` if the function has that version no more.
    pub async fn rerun(&self, id: ObjectId) -> Result<ObjectId, Error> {
        let accepted: Accepted = self.ask(method_call(Class::Job, id, "rerun", &[])).await?;
        Ok(accepted.id)
    }

    /// Forgets a settled job, and with it its hold on result and log.
    pub async fn forget(&self, id: ObjectId) -> Result<(), Error> {
        self.delete(Class::Job, id).await
    }

    /// A job's result, from `offset` on; of a failed job what it had written.
    pub async fn result(&self, id: ObjectId, offset: u64) -> Result<Download, Error> {
        self.download(Source::Result(id), offset, None).await
    }

    /// A job's result in memory, if it is not longer than `len_max` bytes.
    pub async fn result_bytes(&self, id: ObjectId, len_max: usize) -> Result<Vec<u8>, Error> {
        self.result(id, 0).await?.into_vec(len_max).await
    }

    /// A job's result in a file, as [`Client::get_blob_to_file`].
    pub async fn result_to_file(
        &self,
        id: ObjectId,
        path: &Path,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<BlobStored, Error> {
        self.download_file(Source::Result(id), path, progress).await
    }
}
