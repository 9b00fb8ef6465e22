//! Being reached through others: a node that nobody can dial asks a peer that everybody can dial to relay to it.
//!
//! A node is out of reach if it does not listen at all; if a peer sees it at an IP that is not its own, so that there is
//! a NAT between them; or if a peer tried to dial back and failed. It is in reach after all if a dial back to such a
//! foreign address succeeds: somebody has forwarded the port. A relay is a peer on the other side of the NAT: one that this
//! node has dialled, and that sees it at the foreign IP.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, autonat, relay};

use super::Driver;
use crate::address::{ip, is_relayed};
use crate::book::Peer;

/// Relays at once. Why 2: one may leave.
const RELAYS_MAX: usize = 2;
/// From a refusal or a loss to the next attempt.
const WAIT: Duration = Duration::from_secs(5);

/// What is known of the way to this node, and who relays.
pub(super) struct Relays {
    /// Peers that see this node at a foreign IP.
    outside: HashSet<PeerId>,
    /// A peer could not dial back.
    refused: bool,
    /// A peer could dial back to a foreign address.
    confirmed: bool,
    reserved: HashMap<ListenerId, PeerId>,
    next: Instant,
}

impl Relays {
    pub(super) fn new(now: Instant) -> Self {
        Self { outside: HashSet::new(), refused: false, confirmed: false, reserved: HashMap::new(), next: now }
    }
}

impl Driver {
    /// A peer says at which address it sees this node.
    pub(super) fn observed(&mut self, peer: PeerId, address: &Multiaddr) {
        if is_relayed(address) {
            return;
        }
        match self.is_foreign(address) {
            true => drop(self.relays.outside.insert(peer)),
            false => drop(self.relays.outside.remove(&peer)),
        }
        self.relay_or_not();
    }

    /// A peer has tried to dial back.
    pub(super) fn dialled_back(&mut self, event: &autonat::v2::client::Event) {
        match &event.result {
            Ok(()) if self.is_foreign(&event.tested_addr) => self.relays.confirmed = true,
            Ok(()) => {}
            Err(error) => {
                tracing::debug!(address = %event.tested_addr, %error, "a peer could not dial back");
                self.relays.refused = true;
            }
        }
        self.relay_or_not();
        self.addresses_changed();
    }

    pub(super) fn outsider_gone(&mut self, peer: &PeerId) {
        self.relays.outside.remove(peer);
    }

    /// The listener of a reservation has ended, if it was one.
    pub(super) fn listener_closed(&mut self, id: ListenerId) {
        if let Some(relay) = self.relays.reserved.remove(&id) {
            tracing::info!(%relay, "a peer does not relay to this node any more");
            self.relays.next = Instant::now() + WAIT;
            self.count_relays();
        }
    }

    /// Looks for a relay if one is needed and missing.
    pub(super) fn look_after_relays(&mut self, now: Instant) {
        if now < self.relays.next || !self.is_out_of_reach() || self.relays.reserved.len() >= RELAYS_MAX {
            return;
        }
        let Some((relay, address)) = self.find_relay() else { return };
        self.relays.next = now + WAIT;
        match self.swarm.listen_on(address.clone()) {
            Ok(id) => drop(self.relays.reserved.insert(id, relay)),
            Err(error) => tracing::debug!(%address, %error, "a relay cannot be asked"),
        }
        self.count_relays();
    }

    fn count_relays(&self) {
        let relays = self.relays.reserved.len() as u64;
        self.shared.tally.relays.store(relays, std::sync::atomic::Ordering::Relaxed);
    }

    /// The nearest peer that relays, and the address to listen on there.
    fn find_relay(&self) -> Option<(PeerId, Multiaddr)> {
        let must_be_outside = !self.own_ips().is_empty() && !self.relays.refused;
        let book = self.shared.book();
        let candidates = book.iter().map(|(_, peer)| peer).filter(|peer| {
            peer.relays
                && (!must_be_outside || self.relays.outside.contains(&peer.peer_id))
                && !self.relays.reserved.values().any(|relay| *relay == peer.peer_id)
        });
        let mut reached: Vec<(&Peer, Multiaddr)> =
            candidates.filter_map(|peer| Some((peer, peer.dialled_at()?.clone()))).collect();
        reached.sort_by_key(|(peer, _)| (peer.rtt().unwrap_or(Duration::MAX), peer.peer_id));
        let (peer, address) = reached.into_iter().next()?;
        let mut address: Multiaddr = address.iter().filter(|part| !matches!(part, Protocol::P2p(_))).collect();
        address.push(Protocol::P2p(peer.peer_id));
        Some((peer.peer_id, address.with(Protocol::P2pCircuit)))
    }

    fn is_out_of_reach(&self) -> bool {
        let relays = &self.relays;
        self.own_ips().is_empty() || ((relays.refused || !relays.outside.is_empty()) && !relays.confirmed)
    }

    /// A node that is out of reach cannot relay for others; it must not offer to.
    fn relay_or_not(&mut self) {
        let status = self.is_out_of_reach().then_some(relay::Status::Disable);
        self.swarm.behaviour_mut().relay.set_status(status);
    }

    fn is_foreign(&self, address: &Multiaddr) -> bool {
        ip(address).is_some_and(|ip| !ip.is_loopback() && !self.own_ips().contains(&ip))
    }
}
