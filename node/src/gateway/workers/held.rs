//! The runs that a worker holds, by what it was told: what it may speak for.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use shoal_protocol::wire::worker::{Run, ToWorker};

/// Follows the messages to one worker.
pub(super) struct Held(Mutex<HashSet<Run>>);

impl Held {
    /// The runs that the worker says it holds, until the node tells which of them count.
    pub(super) fn new(claimed: impl Iterator<Item = Run>) -> Self {
        Self(Mutex::new(claimed.collect()))
    }

    /// To be called before the message is written.
    pub(super) fn heard(&self, message: &ToWorker) {
        match message {
            ToWorker::Attached { drop, .. } => {
                let mut runs = self.runs();
                for run in drop {
                    runs.remove(run);
                }
            }
            ToWorker::Start(start) => {
                self.runs().insert(start.run);
            }
            ToWorker::Settled(run) => {
                self.runs().remove(run);
            }
            ToWorker::Refused(_) | ToWorker::Cancel(_) | ToWorker::Answer { .. } | ToWorker::Stop { .. } => {}
        }
    }

    /// Whether the worker holds this run.
    pub(super) fn has(&self, run: Run) -> bool {
        self.runs().contains(&run)
    }

    fn runs(&self) -> std::sync::MutexGuard<'_, HashSet<Run>> {
        // Each change is one call: what a panic left behind is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
