//! What this node knows of the peers that it has met: connections, addresses, distance.
//!
//! The swarm's task writes it, everybody reads it. Bounded: of peers that are not connected only the latest are kept.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use shoal_protocol::NodeId;
use shoal_protocol::key::PublicKey;
use shoal_protocol::object::node::Path;

use crate::PeerInfo;
use crate::address::{ip, texts};

/// Peers that are remembered without a connection. Why 1,024: to come back after a cut; the DHT knows the others.
const REMEMBERED_MAX: usize = 1024;
/// Addresses of one peer.
pub(crate) const ADDRESSES_MAX: usize = 8;

/// One connection.
#[derive(Debug, Clone)]
pub(crate) struct Link {
    pub(crate) relayed: bool,
    pub(crate) punched: bool,
    /// Whether we dialled: then `remote` is an address where the peer is reached.
    pub(crate) dialled: bool,
    pub(crate) remote: Multiaddr,
    pub(crate) rtt: Option<Duration>,
}

/// One peer.
#[derive(Debug, Clone)]
pub(crate) struct Peer {
    pub(crate) peer_id: PeerId,
    /// Stands in the ids of its jobs.
    tag: [u8; 8],
    pub(crate) links: BTreeMap<ConnectionId, Link>,
    /// Where it says that it listens.
    pub(crate) addresses: Vec<Multiaddr>,
    /// It speaks this mesh's protocols.
    pub(crate) identified: bool,
    /// It relays for others.
    pub(crate) relays: bool,
    /// It is in the view: its connection stays.
    pub(crate) neighbour: bool,
    /// Since when it is connected, or when it was last.
    pub(crate) since: Instant,
    /// When it was last dialled because it was away.
    pub(crate) redialled: Option<Instant>,
    /// Which process of it the connections that stand were made with, see [`crate::program`].
    pub(crate) life: Option<u64>,
    /// The version of its program.
    pub(crate) version: String,
    /// Why it is kept out, and until when.
    kept_out: Option<(&'static str, Instant)>,
}

impl Peer {
    fn new(node: NodeId, peer_id: PeerId, now: Instant) -> Self {
        Self {
            peer_id,
            tag: PublicKey::from(node).tag(),
            links: BTreeMap::new(),
            addresses: Vec::new(),
            identified: false,
            relays: false,
            neighbour: false,
            since: now,
            redialled: None,
            life: None,
            version: String::new(),
            kept_out: None,
        }
    }

    pub(crate) fn is_connected(&self) -> bool {
        !self.links.is_empty()
    }

    /// Whether it has ever said who it is.
    pub(crate) fn was_identified(&self) -> bool {
        !self.version.is_empty()
    }

    /// A direct address at which it was reached from here.
    pub(crate) fn dialled_at(&self) -> Option<&Multiaddr> {
        self.links.values().find(|link| link.dialled && !link.relayed).map(|link| &link.remote)
    }

    /// What others may know of it.
    pub(crate) fn info(&self, node: NodeId) -> PeerInfo {
        PeerInfo {
            node,
            path: self.path().unwrap_or(Path::Direct),
            rtt: self.rtt(),
            neighbour: self.neighbour,
            version: self.version.clone(),
            addresses: texts(node, &self.addresses),
            remote: self.links.values().find(|link| !link.relayed).and_then(|link| ip(&link.remote)),
            connected: self.is_connected(),
            since: self.since,
            kept_out: self.kept_out.filter(|(_, until)| Instant::now() < *until).map(|(why, _)| why),
        }
    }

    /// The way that its streams take: the direct one where there is one.
    pub(crate) fn path(&self) -> Option<Path> {
        let best = self.links.values().min_by_key(|link| link.relayed)?;
        Some(match best {
            Link { relayed: true, .. } => Path::Relayed,
            Link { punched: true, .. } => Path::HolePunched,
            _ => Path::Direct,
        })
    }

    /// Round trip on the way that its streams take.
    pub(crate) fn rtt(&self) -> Option<Duration> {
        self.links.values().min_by_key(|link| link.relayed)?.rtt
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Book {
    peers: BTreeMap<NodeId, Peer>,
}

impl Book {
    pub(crate) fn get(&self, node: &NodeId) -> Option<&Peer> {
        self.peers.get(node)
    }

    pub(crate) fn get_mut(&mut self, node: &NodeId) -> Option<&mut Peer> {
        self.peers.get_mut(node)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&NodeId, &Peer)> {
        self.peers.iter()
    }

    /// The peer with this tag, which names the home in a job's id.
    pub(crate) fn with_tag(&self, tag: [u8; 8]) -> Option<NodeId> {
        self.peers.iter().find(|(_, peer)| peer.tag == tag).map(|(node, _)| *node)
    }

    /// A connection is there.
    pub(crate) fn connected(&mut self, node: NodeId, peer_id: PeerId, id: ConnectionId, link: Link, now: Instant) {
        let peer = self.peers.entry(node).or_insert_with(|| Peer::new(node, peer_id, now));
        if peer.links.is_empty() {
            peer.since = now;
        }
        peer.links.insert(id, link);
    }

    /// A connection is gone. Whether it was the last.
    pub(crate) fn disconnected(&mut self, node: &NodeId, id: ConnectionId, now: Instant) -> bool {
        let Some(peer) = self.peers.get_mut(node) else { return false };
        peer.links.remove(&id);
        let last = peer.links.is_empty();
        if last {
            peer.since = now;
            peer.neighbour = false;
            peer.identified = false;
            peer.life = None;
            self.make_room();
        }
        last
    }

    /// It misbehaved, and is kept out until then.
    pub(crate) fn keep_out(&mut self, node: &NodeId, why: &'static str, until: Instant) {
        if let Some(peer) = self.peers.get_mut(node) {
            peer.kept_out = Some((why, until));
        }
    }

    /// Forgets those that have been away for the longest.
    fn make_room(&mut self) {
        let away: BTreeSet<(Instant, NodeId)> = self
            .peers
            .iter()
            .filter(|(_, peer)| !peer.is_connected())
            .map(|(node, peer)| (peer.since, *node))
            .collect();
        for (_, node) in away.iter().take(away.len().saturating_sub(REMEMBERED_MAX)) {
            self.peers.remove(node);
        }
    }
}
