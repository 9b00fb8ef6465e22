//! What runs at a peer have saved: its bytes are durable here before the kernel hears of it, and the kernel hears of it
//! before it hears of the run's ending.

use std::sync::Arc;

use shoal_kernel::Input;
use shoal_protocol::object::job::{Checkpoint, Payload};
use shoal_protocol::wire::worker::Run;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

use super::{End, Session};
use crate::runtime::read_checkpoint;

/// A checkpoint whose bytes are on their way.
pub(super) struct Fetching {
    number: u64,
    /// Ends with it, however.
    pub(super) done: oneshot::Receiver<()>,
}

impl Session {
    /// One checkpoint. The peer repeats it until it hears that the home has it.
    pub(super) async fn saved(
        self: &Arc<Self>,
        run: Run,
        checkpoint: Checkpoint,
        tasks: &mut JoinSet<Result<(), End>>,
    ) -> Result<(), End> {
        if checkpoint.check().is_err() || checkpoint.epoch != run.epoch {
            return Err(End::Fault("its checkpoint is out of bounds"));
        }
        // Of a run that counts no more nothing is fetched.
        if checkpoint.bytes.blob().is_none() || self.output_max(run)?.is_none() {
            self.hand_in(run, checkpoint).await;
            return Ok(());
        }
        let (ends, done) = oneshot::channel();
        let fetching = Fetching { number: checkpoint.number, done };
        self.fetching().insert(run, fetching);
        let session = Arc::clone(self);
        tasks.spawn(async move {
            let number = checkpoint.number;
            session.fetch_saved(run, checkpoint).await;
            let mut fetching = session.fetching();
            if fetching.get(&run).is_some_and(|last| last.number == number) {
                fetching.remove(&run);
            }
            drop(ends);
            Ok(())
        });
        Ok(())
    }

    async fn fetch_saved(&self, run: Run, checkpoint: Checkpoint) {
        let Payload::Blob { id, size } = checkpoint.bytes else { return };
        match self.fetch(id, size).await {
            Ok(held) => {
                let replaced = read_checkpoint(self.parts.runtime.store(), run.job).ok().flatten();
                self.hand_in(run, checkpoint).await;
                // What the kernel writes refers to the bytes from then on; until that they are held, also beyond this
                // session.
                let (runtime, service) = (self.parts.runtime.clone(), self.parts.service.clone());
                tokio::spawn(async move {
                    runtime.flush().await;
                    drop(held);
                    service.forget_checkpoint(replaced).await;
                });
            }
            // The peer says it again.
            Err(problem) => tracing::warn!(%problem, job = %run.job, "what a run has saved could not be had"),
        }
    }

    async fn hand_in(&self, run: Run, checkpoint: Checkpoint) {
        let input = Input::PeerCheckpoint { node: self.peer, run, checkpoint: Box::new(checkpoint) };
        self.parts.runtime.input(input).await;
    }
}
