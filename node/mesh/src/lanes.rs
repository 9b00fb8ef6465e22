//! Byte streams between peers, by protocol name: one lane for each of Shoal's own protocols.
//!
//! What always holds: a stream goes over the direct connection where there is one; streams that peers open wait in a
//! queue with a bound, and beyond it are closed and counted; to open one ends within [`OPEN_MAX`]; of the connections
//! with a neighbour one stays although nothing uses it, and the others may end.

mod handler;

use std::collections::{HashMap, HashSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use libp2p::core::transport::PortUse;
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, NotifyHandler, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId, StreamProtocol};
use shoal_protocol::NodeId;
use tokio::sync::{mpsc, oneshot};

use crate::counters::Tally;
use crate::peer_id::node_id;
use crate::stream::Stream;
use handler::Handler;

/// How long the opening of a stream may take.
pub(crate) const OPEN_MAX: Duration = Duration::from_secs(5);
/// Wishes that wait for the swarm.
const WISHES_MAX: usize = 256;

/// Which of Shoal's protocols a stream speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Lane {
    /// The control stream of two nodes.
    Peer,
    /// One forwarded call of a client.
    Call,
    /// The reconciliation of documents.
    Sync,
    /// Bytes by hash.
    Blob,
}

impl Lane {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Peer, Self::Call, Self::Sync, Self::Blob];

    /// The part of the protocol's name that says which.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Call => "call",
            Self::Sync => "sync",
            Self::Blob => "blob",
        }
    }
}

/// A stream that a peer has opened. The peer need not be in this node's view: this node may be in the peer's.
#[derive(Debug)]
pub struct Inbound {
    /// Who.
    pub from: NodeId,
    /// What it speaks.
    pub lane: Lane,
    /// The stream.
    pub stream: Stream,
}

/// Why no stream could be opened.
#[derive(Debug, Clone, thiserror::Error)]
pub enum OpenError {
    /// There is no connection with the peer.
    #[error("there is no connection to it")]
    NotConnected,
    /// The peer, or the connection, did not allow it.
    #[error("it does not take the stream: {0}")]
    Refused(String),
    /// It took too long.
    #[error("it did not answer within {} s", OPEN_MAX.as_secs())]
    TimedOut,
    /// The mesh has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}

type Reply = oneshot::Sender<Result<Stream, OpenError>>;

struct Wish {
    peer: PeerId,
    lane: Lane,
    reply: Reply,
}

/// Opens streams; cheap to clone.
#[derive(Clone)]
pub(crate) struct Opener(mpsc::Sender<Wish>);

impl Opener {
    /// A stream to a peer that is connected. Dropping the future closes the stream if it was opened meanwhile.
    pub(crate) async fn open(&self, peer: PeerId, lane: Lane) -> Result<Stream, OpenError> {
        let opening = async {
            let (reply, answer) = oneshot::channel();
            self.0.send(Wish { peer, lane, reply }).await.map_err(|_| OpenError::Stopped)?;
            // A connection that ends with the wish in its hands drops the reply.
            answer.await.map_err(|_| OpenError::NotConnected)?
        };
        tokio::time::timeout(OPEN_MAX, opening).await.map_err(|_| OpenError::TimedOut)?
    }
}

/// The protocols that a connection speaks.
type Names = Arc<[(Lane, StreamProtocol)]>;

/// The behaviour, what opens streams, and the streams that peers open: at most `inbound_max` wait.
pub(crate) fn new(
    names: Vec<(Lane, StreamProtocol)>,
    inbound_max: usize,
    me: PeerId,
    tally: Arc<Tally>,
) -> (Behaviour, Opener, mpsc::Receiver<Inbound>) {
    let (wishes, wanted) = mpsc::channel(WISHES_MAX);
    let (arrived, inbound) = mpsc::channel(inbound_max);
    let behaviour = Behaviour {
        me,
        names: names.into(),
        arrived,
        wanted,
        connections: HashMap::new(),
        kept: HashSet::new(),
        orders: VecDeque::new(),
        tally,
    };
    (behaviour, Opener(wishes), inbound)
}

/// What a connection is told.
#[derive(Debug)]
pub(crate) enum Order {
    Open(Lane, Reply),
    Keep(bool),
}

/// A connection, as the choice among several looks at it: the least is the best.
///
/// Two nodes that dial each other at once have two connections. Both are to take the same one, so that the other ends:
/// the one that the lower id has dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Link {
    relayed: bool,
    dialled_by_higher: bool,
    id: ConnectionId,
}

/// The behaviour.
pub(crate) struct Behaviour {
    me: PeerId,
    names: Names,
    arrived: mpsc::Sender<Inbound>,
    wanted: mpsc::Receiver<Wish>,
    connections: HashMap<PeerId, Vec<Link>>,
    /// Peers with whom a connection stays.
    kept: HashSet<PeerId>,
    orders: VecDeque<(PeerId, ConnectionId, Order)>,
    tally: Arc<Tally>,
}

impl Behaviour {
    /// Whether a connection with this peer stays although nothing uses it.
    pub(crate) fn keep(&mut self, peer: PeerId, keep: bool) {
        let changed = if keep { self.kept.insert(peer) } else { self.kept.remove(&peer) };
        if changed {
            self.tell_whom_to_keep(&peer);
        }
    }

    fn tell_whom_to_keep(&mut self, peer: &PeerId) {
        let kept = self.kept.contains(peer);
        let best = self.best(peer);
        for link in self.connections.get(peer).into_iter().flatten() {
            let keep = kept && Some(link.id) == best;
            self.orders.push_back((*peer, link.id, Order::Keep(keep)));
        }
    }

    fn best(&self, peer: &PeerId) -> Option<ConnectionId> {
        self.connections.get(peer)?.iter().min().map(|link| link.id)
    }

    fn take(&mut self, wish: Wish) {
        match self.best(&wish.peer) {
            Some(id) => self.orders.push_back((wish.peer, id, Order::Open(wish.lane, wish.reply))),
            // Whoever asked may have gone away.
            None => drop(wish.reply.send(Err(OpenError::NotConnected))),
        }
    }

    fn handler(&self, peer: PeerId) -> Result<Handler, ConnectionDenied> {
        let node = node_id(&peer).ok_or_else(|| ConnectionDenied::new("this peer has no ed25519 key"))?;
        Ok(Handler::new(node, self.names.clone(), self.arrived.clone(), self.tally.clone()))
    }

    fn link(&self, peer: &PeerId, id: ConnectionId, endpoint: &ConnectedPoint) -> Link {
        let dialled_by_higher = endpoint.is_dialer() == (self.me > *peer);
        Link { relayed: endpoint.is_relayed(), dialled_by_higher, id }
    }
}

impl NetworkBehaviour for Behaviour {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.handler(peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(new) => {
                let link = self.link(&new.peer_id, new.connection_id, new.endpoint);
                self.connections.entry(new.peer_id).or_default().push(link);
                self.tell_whom_to_keep(&new.peer_id);
            }
            FromSwarm::ConnectionClosed(closed) => {
                if let Some(links) = self.connections.get_mut(&closed.peer_id) {
                    links.retain(|link| link.id != closed.connection_id);
                    if links.is_empty() {
                        self.connections.remove(&closed.peer_id);
                    }
                }
                self.tell_whom_to_keep(&closed.peer_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        loop {
            if let Some((peer_id, connection, event)) = self.orders.pop_front() {
                let handler = NotifyHandler::One(connection);
                return Poll::Ready(ToSwarm::NotifyHandler { peer_id, handler, event });
            }
            match self.wanted.poll_recv(cx) {
                Poll::Ready(Some(wish)) => self.take(wish),
                Poll::Ready(None) | Poll::Pending => return Poll::Pending,
            }
        }
    }
}
