//! Those who wait until a node is connected: at its known addresses, then at those that the DHT finds.

use std::collections::HashMap;
use std::time::Instant;

use libp2p::PeerId;
use libp2p::kad::{GetClosestPeersError, GetClosestPeersOk, GetClosestPeersResult, PeerInfo, QueryId};
use shoal_protocol::NodeId;
use tokio::sync::oneshot;

use super::Driver;
use crate::peer_id::peer_id;

/// Nodes that are being reached at once. Beyond it the answer is no.
const CONNECTING_MAX: usize = 256;

/// One that is being reached.
#[derive(Default)]
struct Wanted {
    waiting: Vec<oneshot::Sender<bool>>,
    /// The DHT was asked for it.
    sought: bool,
}

/// All of them.
#[derive(Default)]
pub(super) struct Connecting {
    wanted: HashMap<PeerId, Wanted>,
    queries: HashMap<QueryId, PeerId>,
}

impl Driver {
    pub(super) fn connect(&mut self, node: NodeId, done: oneshot::Sender<bool>) {
        let wanted = &mut self.connecting.wanted;
        // Whoever gave up need not be answered.
        wanted.retain(|_, wanted| {
            wanted.waiting.retain(|done| !done.is_closed());
            !wanted.waiting.is_empty()
        });
        let Some(peer) = peer_id(node) else { return reply(done, false) };
        if self.swarm.is_connected(&peer) {
            return reply(done, true);
        }
        if wanted.len() >= CONNECTING_MAX && !wanted.contains_key(&peer) {
            return reply(done, false);
        }
        self.connecting.wanted.entry(peer).or_default().waiting.push(done);
        if !self.dial(peer, Vec::new()) {
            self.not_connected(&peer);
        }
    }

    /// A node is connected: whoever waited for it goes on.
    pub(super) fn now_connected(&mut self, peer: &PeerId) {
        self.answer(peer, true);
    }

    /// A dial has failed: the DHT may know more.
    pub(super) fn not_connected(&mut self, peer: &PeerId) {
        let Some(wanted) = self.connecting.wanted.get_mut(peer) else { return };
        if std::mem::replace(&mut wanted.sought, true) {
            // Unless the DHT has not answered yet.
            if !self.connecting.queries.values().any(|sought| sought == peer) {
                self.answer(peer, false);
            }
            return;
        }
        // The look-up dials it by itself, at the addresses that others know.
        self.swarm.behaviour_mut().gate.wake(peer, Instant::now());
        let query = self.swarm.behaviour_mut().kad.get_closest_peers(*peer);
        self.connecting.queries.insert(query, *peer);
    }

    /// The DHT has answered, if it was for this.
    pub(super) fn sought(&mut self, id: QueryId, result: &GetClosestPeersResult) {
        let Some(peer) = self.connecting.queries.remove(&id) else { return };
        if self.swarm.is_connected(&peer) {
            return self.answer(&peer, true);
        }
        let addresses = closest(result).iter().find(|found| found.peer_id == peer).map(|found| found.addrs.clone());
        let dialled = addresses.is_some_and(|addresses| self.dial(peer, addresses));
        if !dialled {
            self.answer(&peer, false);
        }
    }

    fn answer(&mut self, peer: &PeerId, connected: bool) {
        for done in self.connecting.wanted.remove(peer).into_iter().flat_map(|wanted| wanted.waiting) {
            reply(done, connected);
        }
    }
}

/// Whoever asked may have gone away: that is no error.
fn reply(done: oneshot::Sender<bool>, connected: bool) {
    let _ = done.send(connected);
}

/// The peers that a look-up has found, also one that ran out of time.
pub(super) fn closest(result: &GetClosestPeersResult) -> &[PeerInfo] {
    match result {
        Ok(GetClosestPeersOk { peers, .. }) | Err(GetClosestPeersError::Timeout { peers, .. }) => peers,
    }
}
