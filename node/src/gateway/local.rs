//! Where the sessions of the node's own worker and its supervisor meet.
//!
//! The session of the local worker shows itself here; the supervisor, which starts and ends the process, finds it here. An
//! edge never talks to another edge except through the runtime: these two are halves of one edge, a process and its
//! connection.

use std::sync::Arc;

use shoal_protocol::WorkerId;
use shoal_protocol::wire::worker::ToWorker;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// The local worker's attachment.
#[derive(Clone)]
pub(super) struct Attachment {
    pub(super) worker: WorkerId,
    pub(super) connection: u64,
    pub(super) own: mpsc::Sender<ToWorker>,
    pub(super) closed: CancellationToken,
}

#[derive(Clone, Default)]
struct State {
    attached: Option<Attachment>,
    /// The newest attachment, also when it has ended: what the kernel may still count on.
    last: Option<(WorkerId, u64)>,
}

/// The meeting place. Cheap to clone.
#[derive(Clone)]
pub(crate) struct LocalWorker(Arc<watch::Sender<State>>);

impl Default for LocalWorker {
    fn default() -> Self {
        Self(Arc::new(watch::Sender::new(State::default())))
    }
}

impl LocalWorker {
    /// Whether it is attached now.
    #[cfg(test)]
    pub(crate) fn is_attached(&self) -> bool {
        self.0.borrow().attached.is_some()
    }

    /// Tells the worker something, if it is attached and takes it.
    pub(crate) fn tell(&self, message: ToWorker) -> bool {
        let attached = self.0.borrow().attached.clone();
        attached.is_some_and(|attached| attached.own.try_send(message).is_ok())
    }

    /// Completes when it is attached by another connection than this one, and says by which. May be dropped at any time.
    pub(crate) async fn other_than(&self, known: Option<u64>) -> u64 {
        let mut states = self.0.subscribe();
        loop {
            let connection = states.borrow_and_update().attached.as_ref().map(|attached| attached.connection);
            match connection {
                Some(connection) if known != Some(connection) => return connection,
                // Fails only without a sender, which is `self`.
                _ => drop(states.changed().await),
            }
        }
    }

    /// The worker's process is dead: ends its connection at once, and says which attachment the kernel must be told of.
    pub(crate) fn died(&self) -> Option<(WorkerId, u64)> {
        let mut last = None;
        self.0.send_modify(|state| {
            last = state.last.take();
            if let Some(attached) = state.attached.take() {
                attached.closed.cancel();
            }
        });
        last
    }

    pub(super) fn attached(&self, attachment: Attachment) {
        self.0.send_modify(|state| {
            state.last = Some((attachment.worker, attachment.connection));
            state.attached = Some(attachment);
        });
    }

    pub(super) fn detached(&self, connection: u64) {
        self.0.send_if_modified(|state| {
            let mine = state.attached.as_ref().is_some_and(|attached| attached.connection == connection);
            if mine {
                state.attached = None;
            }
            mine
        });
    }

    /// Completes when this attachment's process is known to be dead.
    pub(super) async fn gone(&self, connection: u64) {
        let closed = self.0.borrow().attached.as_ref().filter(|a| a.connection == connection).map(|a| a.closed.clone());
        match closed {
            Some(closed) => closed.cancelled().await,
            // A remote worker, or one that was replaced: its connection ends by itself.
            None => std::future::pending().await,
        }
    }

    /// An attachment without a connection; what the worker is told comes out of the receiver.
    #[cfg(test)]
    pub(crate) fn attach_for_test(&self, worker: WorkerId, connection: u64) -> mpsc::Receiver<ToWorker> {
        let (own, says) = mpsc::channel(8);
        self.attached(Attachment { worker, connection, own, closed: CancellationToken::new() });
        says
    }
}
