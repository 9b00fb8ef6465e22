//! Endings of runs that a peer had: what they refer to is fetched and durable here before the kernel hears of it, so that
//! a settled job's bytes are at its home.

use std::sync::Arc;

use shoal_kernel::Input;
use shoal_protocol::limits::{LOG_LEN_MAX, MESSAGE_LEN_MAX};
use shoal_protocol::object::job::{Ending, Failure, Outcome, Payload};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{BlobId, WorkerId};

use super::listen::cut;
use super::{End, Session};
use crate::runtime::read_job;

impl Session {
    /// One ending. The peer repeats it until it hears that it is settled.
    pub(super) async fn ended(self: Arc<Self>, run: Run, outcome: Outcome) -> Result<(), End> {
        let outcome = checked(outcome)?;
        let mut held = Vec::new();
        if let Some(output_max) = self.output_max(run)? {
            for (payload, len_max) in [(&outcome.output, output_max), (&outcome.log, LOG_LEN_MAX as u64)] {
                let Payload::Blob { id, size } = payload else { continue };
                if *size > len_max {
                    return Err(End::Fault("it reports more bytes than the job allows"));
                }
                held.push(self.fetch(*id, *size).await?);
            }
        }
        let input = Input::Ended { worker: WorkerId::of_node(&self.peer), run, outcome: Box::new(outcome) };
        self.parts.runtime.input(input).await;
        // The kernel answers behind the input: what it wrote refers to the bytes from then on.
        self.parts.runtime.flush().await;
        drop(held);
        Ok(())
    }

    /// How long the result may be, where this run counts and is at this peer; none: nothing of it is needed.
    fn output_max(&self, run: Run) -> Result<Option<u64>, End> {
        let job = read_job(self.parts.runtime.store(), run.job).map_err(|problem| End::Bytes(problem.detail))?;
        let Some((accepted, Some(standing))) = job else { return Ok(None) };
        let at = standing.attempts.last().and_then(|attempt| attempt.node);
        let current = standing.epoch == run.epoch && !standing.state.is_settled() && at == Some(self.peer);
        Ok(current.then(|| accepted.limits.output_bytes()))
    }

    async fn fetch(&self, id: BlobId, size: u64) -> Result<shoal_blobs::Held, End> {
        let fetched = self.parts.service.fetch_from(id, size, vec![self.peer]).await;
        fetched.map_err(|problem| End::Bytes(problem.detail))
    }
}

/// Refuses what holds more than it may, and cuts texts.
fn checked(outcome: Outcome) -> Result<Outcome, End> {
    if !outcome.output.within_bounds() || !outcome.log.within_bounds() {
        return Err(End::Fault("its ending holds bytes that should be a blob"));
    }
    let ending = match outcome.ending {
        Ending::Failed(failure) => {
            Ending::Failed(Failure { message: cut(failure.message, MESSAGE_LEN_MAX), ..failure })
        }
        ending => ending,
    };
    Ok(Outcome { ending, ..outcome })
}
