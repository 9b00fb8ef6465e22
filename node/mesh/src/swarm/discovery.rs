//! How peers are met: addresses that somebody gave, mDNS on the LAN, and what peers say of themselves.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::swarm::dial_opts::DialOpts;
use libp2p::{Multiaddr, PeerId, identify, mdns, relay};
use shoal_protocol::NodeId;

use super::{Driver, Order};
use crate::address::{Address, Target, is_dialable, is_loopback, is_relayed};
use crate::book::ADDRESSES_MAX;
use crate::counters::count;
use crate::peer_id::node_id;
use crate::program::Program;

/// How often the addresses to join by are tried while nobody is connected.
const JOIN_EVERY: Duration = Duration::from_secs(2);
/// How long the system's resolver may take for one name.
const RESOLVE_MAX: Duration = Duration::from_secs(5);
/// When two nodes see each other at once, the one with the higher id waits so long for the other's dial.
const HIGHER_WAITS: Duration = Duration::from_millis(500);
/// Peers that wait for that.
const LATER_MAX: usize = 256;

/// The addresses to join by.
pub(super) struct Joining {
    addresses: Vec<Address>,
    next: Option<Instant>,
    /// Dials to whoever is there, and where to try next.
    dials: HashMap<ConnectionId, VecDeque<Multiaddr>>,
}

impl Joining {
    pub(super) fn new(addresses: Vec<Address>) -> Self {
        Self { addresses, next: None, dials: HashMap::new() }
    }
}

/// Peers that mDNS has shown and that the other side dials first.
#[derive(Default)]
pub(super) struct Later(Vec<(Instant, PeerId, Vec<Multiaddr>)>);

impl Driver {
    /// Dials the addresses to join by, once their names are resolved.
    pub(super) fn join(&mut self) {
        self.joining.next = Some(Instant::now() + JOIN_EVERY);
        if self.joining.addresses.is_empty() {
            return;
        }
        let addresses = self.joining.addresses.clone();
        let orders = self.own_orders.clone();
        // A task of its own: the system's resolver may take seconds.
        tokio::spawn(async move {
            let targets = resolve(addresses).await;
            if let Some(orders) = orders.upgrade() {
                // An error means that the mesh has stopped.
                drop(orders.send(Order::Join(targets)).await);
            }
        });
    }

    pub(super) fn look_after_joining(&mut self, now: Instant) {
        let alone = self.swarm.network_info().num_peers() == 0;
        if alone && self.joining.dials.is_empty() && self.joining.next.is_none_or(|next| next <= now) {
            self.filling.anew();
            self.join();
        }
    }

    pub(super) fn join_at(&mut self, targets: Vec<Target>) {
        for target in targets {
            match target.peer {
                Some(peer) if self.swarm.is_connected(&peer) => {}
                Some(peer) => drop(self.dial(peer, target.addresses)),
                None => self.dial_first(target.addresses.into()),
            }
        }
    }

    /// Dials the first of these addresses, whoever is there. One after the other, since two at once would make two
    /// connections with one peer.
    fn dial_first(&mut self, mut addresses: VecDeque<Multiaddr>) {
        while let Some(address) = addresses.pop_front() {
            let opts = DialOpts::unknown_peer_id().address(address.clone()).build();
            let id = opts.connection_id();
            match self.swarm.dial(opts) {
                Ok(()) => return drop(self.joining.dials.insert(id, addresses)),
                Err(error) => tracing::debug!(%address, %error, "an address to join by cannot be dialled"),
            }
        }
    }

    /// A dial has failed; if it was to join by, the next address is tried.
    pub(super) fn try_next_join(&mut self, id: ConnectionId) {
        if let Some(rest) = self.joining.dials.remove(&id) {
            self.dial_first(rest);
        }
    }

    pub(super) fn joined(&mut self, id: ConnectionId) {
        self.joining.dials.remove(&id);
    }

    /// A peer has said who it is.
    pub(super) fn identified(&mut self, event: identify::Event) {
        let identify::Event::Received { peer_id: peer, connection_id, info } = event else { return };
        let Some(node) = node_id(&peer) else { return };
        if info.protocol_version != self.mesh_protocol {
            tracing::debug!(%peer, protocol = info.protocol_version, "a peer of another mesh is left alone");
            count(&self.shared.tally.foreign);
            self.swarm.behaviour_mut().gate.block(peer, Instant::now());
            return;
        }
        let program = Program::parse(&info.agent_version);
        if self.is_reborn(node, &program) {
            return self.begin_anew(peer);
        }
        self.observed(peer, &info.observed_addr);
        if self.write_down(node, connection_id, &info, program) {
            self.filling.soon(Instant::now());
            self.choose_neighbours();
        }
    }

    /// Whether connections stand that were made with an earlier process of this peer.
    fn is_reborn(&self, node: NodeId, program: &Program) -> bool {
        let known = self.shared.book().get(&node).and_then(|entry| entry.life);
        known.is_some() && program.life.is_some() && known != program.life
    }

    /// A peer has come back before its connections with the process that has died ran out: all end, since what was told to
    /// that one, the new one has not heard. Both dial at once, as after any cut.
    fn begin_anew(&mut self, peer: PeerId) {
        tracing::debug!(%peer, "a peer is another process than before");
        count(&self.shared.tally.reborn);
        // An error means that it has no connection any more.
        let _ = self.swarm.disconnect_peer_id(peer);
        self.swarm.behaviour_mut().gate.wake(&peer, Instant::now());
        self.redial_soon();
    }

    /// Keeps what a peer says of itself. Whether it is new here.
    fn write_down(&mut self, node: NodeId, connection: ConnectionId, info: &identify::Info, program: Program) -> bool {
        let mut book = self.shared.book_mut();
        let Some(entry) = book.get_mut(&node) else { return false };
        let peer_is_here = entry.links.get(&connection).is_some_and(|link| is_loopback(&link.remote));
        let addresses = worth_telling(&info.listen_addrs, peer_is_here);
        let peer = entry.peer_id;
        let is_new = !std::mem::replace(&mut entry.identified, true);
        let moved = entry.addresses != addresses;
        (entry.version, entry.life) = (program.version, program.life.or(entry.life));
        entry.relays = info.protocols.contains(&relay::HOP_PROTOCOL_NAME);
        entry.addresses.clone_from(&addresses);
        drop(book);
        if is_new || moved {
            let kad = &mut self.swarm.behaviour_mut().kad;
            // A peer's list of addresses has no bound of its own: it begins anew each time.
            kad.remove_peer(&peer);
            for address in addresses {
                kad.add_address(&peer, address);
            }
        }
        is_new
    }

    /// mDNS shows who is on the LAN, of whatever mesh.
    pub(super) fn seen_on_lan(&mut self, event: mdns::Event) {
        let mdns::Event::Discovered(found) = event else { return };
        let now = Instant::now();
        let me = *self.swarm.local_peer_id();
        for (peer, address) in found {
            if !self.is_worth_a_dial(&peer, now) || !is_dialable(&address, false) || self.room() == 0 {
                continue;
            }
            if me < peer {
                self.dial(peer, vec![address]);
            } else if self.later.0.len() < LATER_MAX {
                self.later.0.push((now + HIGHER_WAITS, peer, vec![address]));
            }
        }
    }

    /// Dials those who should have dialled us by now.
    pub(super) fn dial_later(&mut self, now: Instant) {
        let waiting = std::mem::take(&mut self.later.0);
        let (due, later): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|(at, ..)| *at <= now);
        self.later.0 = later;
        for (_, peer, addresses) in due {
            if !self.swarm.is_connected(&peer) {
                self.dial(peer, addresses);
            }
        }
    }
}

/// Resolves each address within [`RESOLVE_MAX`]; one that has none is logged and left out.
async fn resolve(addresses: Vec<Address>) -> Vec<Target> {
    let mut targets = Vec::new();
    for address in addresses {
        match tokio::time::timeout(RESOLVE_MAX, address.resolve()).await {
            Ok(Ok(target)) => targets.push(target),
            Ok(Err(error)) => tracing::warn!(%address, %error, "an address to join by has no IP"),
            Err(_) => tracing::warn!(%address, "an address to join by is not resolved in time"),
        }
    }
    targets
}

/// The addresses by which a peer may be reached, the direct ones first: ways through a relay are the last resort.
fn worth_telling(claimed: &[Multiaddr], peer_is_here: bool) -> Vec<Multiaddr> {
    let mut addresses: Vec<Multiaddr> =
        claimed.iter().filter(|address| is_dialable(address, peer_is_here)).cloned().collect();
    addresses.sort_by_key(is_relayed);
    addresses.dedup();
    // Of many direct ones some make room: behind a NAT the relayed one is all that counts.
    let relayed = addresses.iter().filter(|address| is_relayed(address)).count().min(ADDRESSES_MAX / 2);
    let direct = addresses.iter().filter(|address| !is_relayed(address)).take(ADDRESSES_MAX - relayed).cloned();
    let through_relays = addresses.iter().filter(|address| is_relayed(address)).take(relayed).cloned();
    direct.chain(through_relays).collect()
}
