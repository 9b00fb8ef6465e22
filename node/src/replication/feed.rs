//! What was accepted at this node, for those who pass it on.

use std::sync::Arc;

use tokio::sync::broadcast;

/// Commits that one who listens may be behind. Why 64: some seconds of a busy node, and at most some MiB; who falls
/// further behind loses the oldest, and peers find those when they reconcile.
const BEHIND_MAX: usize = 64;

/// How something came to this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// A client or a guest brought it, or the node itself signed it.
    Local,
    /// A peer told of it by gossip.
    Gossip,
    /// A peer sent it when the two reconciled.
    Sync,
}

/// What became durable with one commit.
#[derive(Debug, Clone)]
pub(crate) struct Accepted<T> {
    /// How it came. What was held back until now has the origin of that which it waited for.
    pub(crate) origin: Origin,
    /// At least one.
    pub(crate) items: Arc<[T]>,
}

/// Tells everybody who listens. It never waits for them.
#[derive(Debug, Clone)]
pub(crate) struct Feed<T>(broadcast::Sender<Accepted<T>>);

impl<T: Clone> Feed<T> {
    /// A feed to which nobody listens yet.
    pub(crate) fn new() -> Self {
        Self(broadcast::Sender::new(BEHIND_MAX))
    }

    /// Tells of what was accepted.
    pub(crate) fn tell(&self, origin: Origin, items: Vec<T>) {
        if !items.is_empty() {
            // Nobody may be listening.
            drop(self.0.send(Accepted { origin, items: items.into() }));
        }
    }

    /// Listens from now on.
    pub(crate) fn listen(&self) -> broadcast::Receiver<Accepted<T>> {
        self.0.subscribe()
    }
}
