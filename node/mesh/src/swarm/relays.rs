//! Being reached through others: a node that nobody can dial asks a peer that everybody can dial to relay to it.
//!
//! A node is out of reach if it does not listen at all; if a peer sees it at an IP that is not its own, so that there is
//! a NAT between them; or if of those who tried to dial back lately more failed than not. It is in reach after all if a
//! dial back to such a foreign address succeeds: somebody has forwarded the port. What a peer has seen, and could not do,
//! counts as long as it is connected. A relay is a peer on the other side of the NAT: one that this
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

/// How long a dial back that has failed counts. Why ten minutes: it fails for other reasons too, and no success need follow
/// it, since an address is not always tried again.
const FAILURE_COUNTS: Duration = Duration::from_secs(600);

/// What came of the last dial back of a peer.
#[derive(Debug, Clone, Copy)]
enum DialBack {
    Worked,
    Failed { at: Instant },
}

/// What is known of the way to this node, and who relays.
pub(super) struct Relays {
    /// Peers that see this node at a foreign IP.
    outside: HashSet<PeerId>,
    /// Peers that have dialled back.
    dial_backs: HashMap<PeerId, DialBack>,
    /// A peer could dial back to a foreign address, and none has failed to since.
    confirmed: bool,
    reserved: HashMap<ListenerId, PeerId>,
    next: Instant,
}

impl Relays {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            outside: HashSet::new(),
            dial_backs: HashMap::new(),
            confirmed: false,
            reserved: HashMap::new(),
            next: now,
        }
    }

    fn dialled_back(&mut self, peer: PeerId, came: DialBack, to_foreign: bool) {
        if to_foreign {
            self.confirmed = matches!(came, DialBack::Worked);
        }
        self.dial_backs.insert(peer, came);
    }

    fn gone(&mut self, peer: &PeerId) {
        self.outside.remove(peer);
        self.dial_backs.remove(peer);
    }

    /// Whether more of those who dialled back have failed lately than not.
    fn is_refused(&self, now: Instant) -> bool {
        let failed =
            |came: &&DialBack| matches!(came, DialBack::Failed { at } if now.duration_since(*at) < FAILURE_COUNTS);
        let failures = self.dial_backs.values().filter(failed).count();
        let successes = self.dial_backs.values().filter(|came| matches!(came, DialBack::Worked)).count();
        failures > successes
    }

    /// Whether peers say that nobody can dial this node.
    fn is_out_of_reach(&self, now: Instant) -> bool {
        !self.confirmed && (self.is_refused(now) || !self.outside.is_empty())
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
        let came = match &event.result {
            Ok(()) => DialBack::Worked,
            Err(error) => {
                tracing::debug!(address = %event.tested_addr, %error, "a peer could not dial back");
                DialBack::Failed { at: Instant::now() }
            }
        };
        let to_foreign = self.is_foreign(&event.tested_addr);
        self.relays.dialled_back(event.server, came, to_foreign);
        self.relay_or_not();
        self.addresses_changed();
    }

    pub(super) fn outsider_gone(&mut self, peer: &PeerId) {
        self.relays.gone(peer);
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
        let must_be_outside = !self.own_ips().is_empty() && !self.relays.is_refused(Instant::now());
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
        self.own_ips().is_empty() || self.relays.is_out_of_reach(Instant::now())
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_dial_back_that_fails_does_not_outweigh_others_nor_count_for_ever() {
        let now = Instant::now();
        let mut relays = Relays::new(now);
        let [one, other, third] = [(); 3].map(|()| PeerId::random());
        relays.dialled_back(one, DialBack::Failed { at: now }, false);
        assert!(relays.is_out_of_reach(now), "nobody says otherwise");
        relays.dialled_back(other, DialBack::Worked, false);
        assert!(!relays.is_out_of_reach(now));
        relays.dialled_back(third, DialBack::Failed { at: now }, false);
        assert!(relays.is_out_of_reach(now));
        relays.dialled_back(one, DialBack::Worked, false);
        assert!(!relays.is_out_of_reach(now), "the last one counts");
        for peer in [one, other] {
            relays.gone(&peer);
        }
        assert!(relays.is_out_of_reach(now) && !relays.is_out_of_reach(now + FAILURE_COUNTS));
    }

    #[test]
    fn who_is_seen_at_a_foreign_address_is_in_reach_where_that_can_be_dialled() {
        let now = Instant::now();
        let mut relays = Relays::new(now);
        let [one, other] = [(); 2].map(|()| PeerId::random());
        relays.outside.insert(one);
        assert!(relays.is_out_of_reach(now));
        relays.dialled_back(other, DialBack::Worked, true);
        assert!(!relays.is_out_of_reach(now));
        relays.dialled_back(other, DialBack::Failed { at: now }, true);
        assert!(relays.is_out_of_reach(now));
    }
}
