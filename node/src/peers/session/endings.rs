//! Endings of runs that a peer had: what they refer to is fetched and durable here before the kernel hears of it, so that
//! a settled job's bytes are at its home.

use std::sync::Arc;
use std::time::Duration;

use shoal_kernel::Input;
use shoal_protocol::limits::{LOG_LEN_MAX, MESSAGE_LEN_MAX};
use shoal_protocol::object::job::{Ending, Failure, FailureCode, Outcome, Payload, Usage};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{BlobId, Kind, Problem, WorkerId};

use super::listen::cut;
use super::{End, Session};
use crate::runtime::read_job;

/// How often bytes are tried to be had, beyond what a fetch tries itself.
const TRIES_MAX: u32 = 3;
/// The pause before the second try; each further one is longer by as much.
const PAUSE: Duration = Duration::from_secs(1);

impl Session {
    /// One ending. The peer repeats it until it hears that it is settled.
    pub(super) async fn ended(self: Arc<Self>, run: Run, outcome: Outcome) -> Result<(), End> {
        let outcome = checked(outcome)?;
        self.parts.runtime.input(Input::Delivering { node: self.peer, run }).await;
        let mut held = Vec::new();
        if let Some(output_max) = self.output_max(run)? {
            for (payload, len_max) in [(&outcome.output, output_max), (&outcome.log, LOG_LEN_MAX as u64)] {
                let Payload::Blob { id, size } = payload else { continue };
                if *size > len_max {
                    return Err(End::Fault("it reports more bytes than the job allows"));
                }
                match self.fetch(*id, *size).await {
                    Ok(blob) => held.push(blob),
                    // The run is worth nothing without its bytes: it runs again, elsewhere.
                    Err(why) => {
                        self.lost(run, &why).await;
                        return Ok(());
                    }
                }
            }
        }
        let input = Input::Ended { worker: WorkerId::of_node(&self.peer), run, outcome: Box::new(outcome) };
        self.parts.runtime.input(input).await;
        // What the kernel writes refers to the bytes from then on; until that they are held, also beyond this session.
        let runtime = self.parts.runtime.clone();
        tokio::spawn(async move {
            runtime.flush().await;
            drop(held);
        });
        Ok(())
    }

    async fn lost(&self, run: Run, why: &Problem) {
        let message = cut(format!("what it made could not be had: {}", why.detail), MESSAGE_LEN_MAX);
        tracing::warn!(job = %run.job, peer = %self.peer.short(), message, "a run that has ended is lost");
        let outcome = Outcome {
            ending: Ending::Failed(Failure { code: FailureCode::WorkerLost, message }),
            exit_code: None,
            output: Payload::empty(),
            log: Payload::empty(),
            log_dropped: 0,
            usage: Usage::default(),
        };
        let input = Input::Ended { worker: WorkerId::of_node(&self.peer), run, outcome: Box::new(outcome) };
        self.parts.runtime.input(input).await;
    }

    /// How long the result may be, where this run counts and is at this peer; none: nothing of it is needed.
    pub(super) fn output_max(&self, run: Run) -> Result<Option<u64>, End> {
        let job = read_job(self.parts.runtime.store(), run.job).map_err(|problem| End::Bytes(problem.detail))?;
        let Some((accepted, Some(standing))) = job else { return Ok(None) };
        let at = standing.attempts.last().and_then(|attempt| attempt.node);
        let current = standing.epoch == run.epoch && !standing.state.is_settled() && at == Some(self.peer);
        Ok(current.then(|| accepted.limits.output_bytes()))
    }

    /// Fetches from the peer. A disk that cannot be written is waited for: another run would not help.
    pub(super) async fn fetch(&self, id: BlobId, size: u64) -> Result<shoal_blobs::Held, Problem> {
        let mut tries = 0;
        loop {
            match self.parts.service.fetch_from(id, size, vec![self.peer]).await {
                Ok(held) => return Ok(held),
                Err(problem) if problem.kind != Kind::StorageUnavailable && tries >= TRIES_MAX => return Err(problem),
                Err(problem) => tracing::debug!(%problem, blob = %id, "what a run has made is tried to be had again"),
            }
            tries += 1;
            tokio::time::sleep(PAUSE * tries.min(TRIES_MAX)).await;
        }
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
