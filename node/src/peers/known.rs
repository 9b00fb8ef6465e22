//! What neighbours have said of themselves last: hints, never believed further than to choose whom to ask.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_protocol::wire::peer::Hint;
use shoal_protocol::{BlobId, NodeId};

/// The latest of each neighbour. As many as there are sessions.
#[derive(Debug, Default)]
pub(crate) struct Known {
    peers: Mutex<HashMap<NodeId, Hint>>,
}

impl Known {
    fn peers(&self) -> MutexGuard<'_, HashMap<NodeId, Hint>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A neighbour has said this. An older hint than the one that is known says nothing.
    pub(super) fn hear(&self, node: NodeId, hint: Hint) {
        let mut peers = self.peers();
        if peers.get(&node).is_none_or(|known| known.number < hint.number) {
            peers.insert(node, hint);
        }
    }

    /// The session with it has ended: what it said is old now.
    pub(super) fn forget(&self, node: &NodeId) {
        self.peers().remove(node);
    }

    /// What it says of itself.
    pub(crate) fn get(&self, node: &NodeId) -> Option<Hint> {
        self.peers().get(node).cloned()
    }

    /// Who has said something: those with a session.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.peers().keys().copied().collect()
    }

    /// Those whose replica is not this one, by their last hint.
    pub(super) fn that_differ(&self, replica: BlobId) -> Vec<NodeId> {
        let peers = self.peers();
        let differs = |hint: &Hint| hint.replica.is_some_and(|theirs| theirs != replica);
        peers.iter().filter(|(_, hint)| differs(hint)).map(|(node, _)| *node).collect()
    }
}
