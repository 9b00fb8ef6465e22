//! Equal nodes that find each other: discovery, streams, gossip, a DHT, and relays where there is no direct way.
//!
//! The only home of libp2p; no type of it crosses the border. One task owns the network ([`Mesh::start`] begins it), and a
//! [`Mesh`] is a handle to it. What the network has to say comes out of the [`Inbox`]: nodes that came and went, gossip,
//! and streams that peers have opened. What goes over those streams is none of this package's business.
//!
//! What always holds:
//! - A node is told of as met before it is told of as lost, and both are told in the end, however full the queue.
//! - The view is bounded. Connections beyond it are there for look-ups, and end when nothing uses them.
//! - Everything that peers send is bounded in size, number and time. A peer that goes beyond is counted, or kept out.
//! - Gossip is a hint: it may be lost, and is dropped where nobody reads it.

mod address;
mod behaviour;
mod book;
mod counters;
mod gate;
mod gossip;
mod handle;
mod lanes;
mod neighbours;
mod outbox;
mod peer_id;
mod program;
mod shared;
mod shelf;
mod stream;
mod swarm;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

use shoal_protocol::NodeId;
use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::object::node::Path;
use tokio::sync::mpsc;

pub use address::{Address, ParseError};
pub use counters::{Counters, LOOKUP_BOUNDS_MS, Lookups};
pub use gossip::GossipId;
pub use handle::{ConnectError, Error, Mesh};
pub use lanes::{Inbound, Lane, OpenError};
pub use stream::Stream;

/// What a node may choose.
#[derive(Clone)]
pub struct Options {
    /// The node's key: its peer id is the same key.
    pub secret: SecretKey,
    /// The mesh: part of every protocol's name, so that two meshes on one LAN do not mix.
    pub mesh: PublicKey,
    /// The version of the program, told to peers.
    pub version: String,
    /// Each: QUIC on UDP and TCP on the same port; port 0 = any free one. None: only reached through relays.
    pub listen: Vec<SocketAddr>,
    /// Dialled at start, and again whenever nobody is connected.
    pub join: Vec<Address>,
    /// Whether neighbours on the LAN are looked for.
    pub mdns: bool,
    /// Neighbours at most.
    pub view_max: usize,
    /// Contacts in each bucket of the DHT, and holders of each record.
    pub k: NonZeroUsize,
    /// Whether two nodes behind NATs try to reach each other directly.
    pub hole_punching: bool,
}

/// What the network has to say. Dropping it is allowed: then nobody hears.
pub struct Inbox {
    /// Nodes that came and went, and gossip.
    pub events: mpsc::Receiver<Event>,
    /// Streams that peers have opened.
    pub streams: mpsc::Receiver<Inbound>,
}

/// What has happened.
#[derive(Debug, Clone)]
pub enum Event {
    /// This node is in the view now: connected, of the same mesh.
    Met(NodeId),
    /// It is not any more.
    Lost(NodeId),
    /// A peer has gossiped something.
    Gossip(Gossiped),
    /// Another process has this node's key. Two nodes with one key are one of them too many.
    OwnKeyElsewhere,
}

/// A message of a peer, to be judged with [`Mesh::judge`] within ten seconds: it does not go on before.
#[derive(Debug, Clone)]
pub struct Gossiped {
    /// Who has sent it on; not who made it.
    pub from: NodeId,
    /// What, at most [`shoal_protocol::limits::GOSSIP_LEN_MAX`].
    pub bytes: Vec<u8>,
    /// Names it for the verdict.
    pub id: GossipId,
}

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on to other peers.
    Accept,
    /// It does not, for it is of no use here, as it may be if it was on its way for long. Who sends too much, and most of it
    /// is so, is to blame.
    Useless,
    /// It does not, and nobody is to blame: there was no time for it.
    Ignore,
    /// It does not, and whoever has sent it is to blame.
    Reject,
}

/// A peer, as this node knows it.
#[derive(Debug, Clone)]
pub struct PeerInfo {
    /// Who.
    pub node: NodeId,
    /// The way that streams take; of one that is not connected, direct.
    pub path: Path,
    /// Round trip on that way, as last measured.
    pub rtt: Option<Duration>,
    /// Whether it is in the view.
    pub neighbour: bool,
    /// The version of its program; empty until it has said so.
    pub version: String,
    /// Where it says that it is reached: `NODEID@IP:PORT`, or libp2p's form for ways through a relay.
    pub addresses: Vec<String>,
    /// The IP at the other end of a direct connection; none: there is none.
    pub remote: Option<IpAddr>,
    /// Whether there is a connection.
    pub connected: bool,
    /// Since when it is connected, or when it was last.
    pub since: Instant,
    /// Why it is kept out for a while; none: it is not.
    pub kept_out: Option<&'static str>,
}
