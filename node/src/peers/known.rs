//! What neighbours have said of themselves last: hints, never believed further than to choose whom to ask.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use shoal_protocol::wire::peer::Hint;
use shoal_protocol::{BlobId, NodeId};

/// The latest of each neighbour. As many as there are sessions.
#[derive(Debug, Default)]
pub(crate) struct Known {
    peers: Mutex<HashMap<NodeId, (u64, Hint)>>,
}

impl Known {
    fn peers(&self) -> MutexGuard<'_, HashMap<NodeId, (u64, Hint)>> {
        self.peers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A neighbour has said this on this connection. What it said before, there or on a former one, says nothing more.
    pub(super) fn hear(&self, node: NodeId, connection: u64, hint: Hint) {
        let mut peers = self.peers();
        let age = |(connection, hint): &(u64, Hint)| (*connection, hint.number);
        if peers.get(&node).is_none_or(|known| age(known) < (connection, hint.number)) {
            peers.insert(node, (connection, hint));
        }
    }

    /// This connection with it has ended: what it said there is old now.
    pub(super) fn forget(&self, node: &NodeId, connection: u64) {
        let mut peers = self.peers();
        if peers.get(node).is_some_and(|(of, _)| *of == connection) {
            peers.remove(node);
        }
    }

    /// What it says of itself.
    pub(crate) fn get(&self, node: &NodeId) -> Option<Hint> {
        self.peers().get(node).map(|(_, hint)| hint.clone())
    }

    /// Who has said something: those with a session.
    pub(crate) fn nodes(&self) -> Vec<NodeId> {
        self.peers().keys().copied().collect()
    }

    /// Those whose replica, by their last hint, is none of these: they hold something that this node never held.
    pub(super) fn ahead_of(&self, replicas: &VecDeque<BlobId>) -> Vec<NodeId> {
        let peers = self.peers();
        let differs = |hint: &Hint| hint.replica.is_some_and(|theirs| !replicas.contains(&theirs));
        peers.iter().filter(|(_, (_, hint))| differs(hint)).map(|(node, _)| *node).collect()
    }
}
