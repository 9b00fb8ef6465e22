//! Effects that wait for the commit they rest on.

use std::sync::{Arc, Mutex, PoisonError};

use shoal_kernel::Reply;
use shoal_protocol::wire::worker::ToWorker;
use shoal_protocol::{ObjectId, Problem};
use tokio::sync::{Notify, mpsc, oneshot};

use super::Shared;

/// One effect, with all that is needed to carry it out.
pub(super) enum Outgoing {
    Reply(oneshot::Sender<Result<Reply, Problem>>, Result<Reply, Problem>),
    ToWorker(Outbox, ToWorker),
    Changed(ObjectId, Settled),
}

/// Whether a job has settled.
pub(super) type Settled = bool;

/// The way to one worker connection.
#[derive(Clone)]
pub(super) struct Outbox {
    pub(super) connection: u64,
    pub(super) sender: mpsc::Sender<ToWorker>,
}

/// What a release reports back to the driver.
#[derive(Default)]
pub(super) struct Reports {
    state: Mutex<State>,
    pub(super) wake: Notify,
}

#[derive(Default)]
struct State {
    /// Commits that are on their way to the disk.
    outstanding: usize,
    /// Connections whose worker does not read.
    stuck: Vec<u64>,
}

impl Reports {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begun(&self) {
        self.state().outstanding += 1;
    }

    pub(super) fn outstanding(&self) -> usize {
        self.state().outstanding
    }

    pub(super) fn take_stuck(&self) -> Vec<u64> {
        std::mem::take(&mut self.state().stuck)
    }

    /// A commit has ended: its effects leave, or are answered with the problem.
    pub(super) fn ended(self: &Arc<Self>, shared: &Shared, outgoing: Vec<Outgoing>, result: Result<(), Problem>) {
        self.state().outstanding -= 1;
        match result {
            Ok(()) => self.release(shared, outgoing),
            Err(problem) => {
                // The driver hears of it from the store.
                for effect in outgoing {
                    if let Outgoing::Reply(sender, _) = effect {
                        drop(sender.send(Err(problem.clone())));
                    }
                }
            }
        }
    }

    /// Carries effects out, in order.
    pub(super) fn release(&self, shared: &Shared, outgoing: Vec<Outgoing>) {
        for effect in outgoing {
            match effect {
                // Whoever asked may have gone away.
                Outgoing::Reply(sender, reply) => drop(sender.send(reply)),
                Outgoing::Changed(job, settled) => {
                    if settled {
                        // From now on the log is read from the job's record.
                        shared.logs.forget(job);
                    }
                    shared.watchers.changed(job);
                }
                Outgoing::ToWorker(outbox, message) => {
                    if let Err(mpsc::error::TrySendError::Full(_)) = outbox.sender.try_send(message) {
                        self.state().stuck.push(outbox.connection);
                        self.wake.notify_one();
                    }
                }
            }
        }
    }
}
