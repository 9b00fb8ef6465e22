//! Dialling: at the addresses that somebody has given, and those that are known.

use std::time::Instant;

use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionId, DialError};
use libp2p::{Multiaddr, PeerId};

use super::Driver;
use crate::book::ADDRESSES_MAX;
use crate::peer_id::node_id;

/// Failed dials in a row after which the DHT is not to name a peer any more.
const FAILURES_MAX: u32 = 3;

impl Driver {
    /// Dials a peer at these addresses and those that are known. Whether a dial is under way now.
    pub(super) fn dial(&mut self, peer: PeerId, addresses: Vec<Multiaddr>) -> bool {
        self.dial_if(PeerCondition::DisconnectedAndNotDialing, peer, addresses)
    }

    /// The same under another condition.
    pub(super) fn dial_if(&mut self, condition: PeerCondition, peer: PeerId, addresses: Vec<Multiaddr>) -> bool {
        let mut known = addresses;
        if let Some(node) = node_id(&peer) {
            known.extend(self.shared.book().get(&node).into_iter().flat_map(|entry| entry.addresses.iter().cloned()));
        }
        let mut unique: Vec<Multiaddr> = Vec::new();
        for address in known.into_iter().take(2 * ADDRESSES_MAX) {
            if !unique.contains(&address) {
                unique.push(address);
            }
        }
        let opts = DialOpts::peer_id(peer).condition(condition);
        let opts = match unique.is_empty() {
            true => opts.build(),
            false => opts.addresses(unique).extend_addresses_through_behaviour().build(),
        };
        match self.swarm.dial(opts) {
            Ok(()) | Err(DialError::DialPeerConditionFalse(_)) => true,
            Err(error) => {
                tracing::debug!(%peer, %error, "a peer cannot be dialled");
                false
            }
        }
    }

    /// A dial has failed.
    pub(super) fn not_reached(&mut self, id: ConnectionId, peer: Option<PeerId>, error: &DialError) {
        self.check_own_key(error);
        self.try_next_join(id);
        let Some(peer) = peer.filter(|peer| peer != self.swarm.local_peer_id()) else { return };
        tracing::debug!(%peer, %error, "a peer was not reached");
        if self.swarm.is_connected(&peer) {
            return;
        }
        self.not_connected(&peer);
        self.not_proven(&peer);
        if self.swarm.behaviour().gate.failures(&peer) >= FAILURES_MAX {
            self.swarm.behaviour_mut().kad.remove_peer(&peer);
        }
    }

    /// Whoever answers with our own key from elsewhere is another process with it.
    fn check_own_key(&mut self, error: &DialError) {
        let address = match error {
            DialError::LocalPeerId { address } => address,
            DialError::WrongPeerId { obtained, address } if obtained == self.swarm.local_peer_id() => address,
            _ => return,
        };
        if !self.is_own(address) {
            tracing::error!(%address, "another process has this node's key");
            self.outbox.own_key_elsewhere();
        }
    }

    /// How many more peers the view has room for.
    pub(super) fn room(&self) -> usize {
        let counters = self.swarm.network_info();
        let dialling = counters.connection_counters().num_pending_outgoing() as usize;
        let here = self.shared.book().iter().filter(|(_, peer)| peer.is_connected()).count();
        self.view.max().saturating_sub(here + dialling)
    }

    /// Whether a peer may be dialled without anybody having asked for it.
    pub(super) fn is_worth_a_dial(&self, peer: &PeerId, now: Instant) -> bool {
        peer != self.swarm.local_peer_id()
            && !self.swarm.is_connected(peer)
            && !self.swarm.behaviour().gate.is_resting(peer, now)
    }
}
