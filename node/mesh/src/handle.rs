//! The handle by which the rest of the node uses the mesh.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::NodeId;
use tokio::sync::{mpsc, oneshot};

use crate::address::texts;
use crate::counters::count;
use crate::gossip::GossipId;
use crate::lanes::{Lane, OpenError, Opener};
use crate::peer_id::peer_id;
use crate::shared::Shared;
use crate::stream::Stream;
use crate::swarm::{self, Order};
use crate::{Counters, Inbox, Options, PeerInfo, Verdict, behaviour};

/// Orders that wait for the task. Why 1,024: it takes thousands in a second; who waits longer has a stopped mesh.
const ORDERS_MAX: usize = 1024;
/// Events that wait for the rest of the node.
const EVENTS_MAX: usize = 1024;
/// Nodes that a look-up has found and nobody has taken yet.
const FOUND_MAX: usize = 32;
/// How long it may take to reach a node.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// How long the task may take to say goodbye.
const STOP_MAX: Duration = Duration::from_secs(3);

/// Why the mesh did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// An address could not be listened on.
    #[error("cannot listen on {address}: {why}")]
    Listen {
        /// The address that was asked for.
        address: SocketAddr,
        /// What the system says.
        why: String,
    },
    /// The network could not be set up at all.
    #[error("cannot set up the network: {0}")]
    Setup(String),
}

/// Why a node was not reached.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nobody knows where it is, or it is not there.
    #[error("it was not reached at any address, and the DHT knows no other")]
    Unreachable,
    /// It took too long.
    #[error("it was not reached within {} s", CONNECT_MAX.as_secs())]
    TimedOut,
    /// The mesh has stopped.
    #[error("the mesh has stopped")]
    Stopped,
}

/// A node's part in the mesh. Cheap to clone; with the last handle, or with [`Mesh::stop`], it leaves.
#[derive(Clone)]
pub struct Mesh {
    shared: Arc<Shared>,
    orders: mpsc::Sender<Order>,
    opener: Opener,
}

impl fmt::Debug for Mesh {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mesh").field("node", &self.shared.me).finish_non_exhaustive()
    }
}

impl Mesh {
    /// Joins the mesh: listens when it returns, and meets others from then on. Needs a tokio runtime.
    pub async fn start(options: Options) -> Result<(Self, Inbox), Error> {
        let shared = Arc::new(Shared::new(NodeId::from(options.secret.public())));
        let made = behaviour::make(&options, &shared.tally).map_err(|error| Error::Setup(error.to_string()))?;
        let (orders, ordered) = mpsc::channel(ORDERS_MAX);
        let (told, events) = mpsc::channel(EVENTS_MAX);
        let parts = swarm::Parts {
            shared: shared.clone(),
            swarm: made.swarm,
            orders: ordered,
            own_orders: orders.downgrade(),
            events: told,
        };
        let mut driver = swarm::Driver::new(parts, &options);
        driver.listen(&options.listen).await?;
        tokio::spawn(driver.run());
        Ok((Self { shared, orders, opener: made.opener }, Inbox { events, streams: made.inbound }))
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.shared.me
    }

    /// Opens a stream to a peer that is connected, over its best connection: one round trip, and 5 s at most. Whether the
    /// peer takes it from its [`Inbox`] shows only by its answer. Safe to drop.
    pub async fn open(&self, node: NodeId, lane: Lane) -> Result<Stream, OpenError> {
        let peer = peer_id(node).ok_or(OpenError::NotConnected)?;
        self.opener.open(peer, lane).await
    }

    /// Connects to a node: at its known addresses, else at those that the DHT knows. Ends within 5 s. Dropping the future
    /// does not stop the dial.
    pub async fn connect(&self, node: NodeId) -> Result<(), ConnectError> {
        let (done, answer) = oneshot::channel();
        let connecting = async {
            self.orders.send(Order::Connect(node, done)).await.map_err(|_| ConnectError::Stopped)?;
            match answer.await {
                Ok(true) => Ok(()),
                Ok(false) => Err(ConnectError::Unreachable),
                Err(_) => Err(ConnectError::Stopped),
            }
        };
        tokio::time::timeout(CONNECT_MAX, connecting).await.map_err(|_| ConnectError::TimedOut)?
    }

    /// Gossips to whoever listens, at most [`shoal_protocol::limits::GOSSIP_LEN_MAX`] bytes. A hint: with a full queue it
    /// is dropped and counted. The same bytes within a minute are one message.
    pub fn publish(&self, bytes: Vec<u8>) {
        if self.orders.try_send(Order::Publish(bytes)).is_err() {
            count(&self.shared.tally.gossip_unsent);
        }
    }

    /// Says what becomes of a message that a peer has gossiped. With a full queue it counts as ignored.
    pub fn judge(&self, id: GossipId, verdict: Verdict) {
        if self.orders.try_send(Order::Judge(id, verdict)).is_err() {
            count(&self.shared.tally.lost_events);
        }
    }

    /// Says in the DHT that this node has what `key` stands for (at most 256 bytes), and keeps saying so.
    pub fn provide(&self, key: Vec<u8>) {
        self.shared.wish(|wishes| _ = wishes.provided.insert(key, true));
    }

    /// Says so no more. Records that lie at others live on for ten minutes at most.
    pub fn withdraw(&self, key: &[u8]) {
        self.shared.wish(|wishes| _ = wishes.provided.insert(key.to_vec(), false));
    }

    /// Looks in the DHT for others that have what `key` stands for. Each is sent once it is connected, so what comes is
    /// there. The channel ends with the look-up; dropping the receiver ends the look-up.
    pub fn find(&self, key: Vec<u8>) -> mpsc::Receiver<NodeId> {
        let (found, receiver) = mpsc::channel(FOUND_MAX);
        if self.orders.try_send(Order::Find(key, found)).is_err() {
            count(&self.shared.tally.lookups_refused);
        }
        receiver
    }

    /// Closes all connections with a node that has misbehaved and keeps it out for five minutes. `why` is logged.
    pub fn block(&self, node: NodeId, why: &'static str) {
        self.shared.wish(|wishes| _ = wishes.blocked.insert(node, why));
    }

    /// All peers that are connected or remembered.
    pub fn peers(&self) -> Vec<PeerInfo> {
        self.shared.book().iter().map(|(node, peer)| peer.info(*node)).collect()
    }

    /// One of them.
    pub fn peer(&self, node: &NodeId) -> Option<PeerInfo> {
        self.shared.book().get(node).map(|peer| peer.info(*node))
    }

    /// The node with this tag (it names the home in a job's id), connected or remembered.
    pub fn with_tag(&self, tag: [u8; 8]) -> Option<NodeId> {
        self.shared.book().with_tag(tag)
    }

    /// Where others reach this node: `NODEID@IP:PORT`, and libp2p's form for ways through a relay.
    pub fn addresses(&self) -> Vec<String> {
        texts(self.shared.me, &self.shared.addresses())
    }

    /// What was counted, for `/metrics`.
    pub fn counters(&self) -> Counters {
        let book = self.shared.book();
        let number = |is: fn(&crate::book::Peer) -> bool| book.iter().filter(|(_, peer)| is(peer)).count() as u64;
        Counters {
            connected: number(|peer| peer.is_connected()),
            neighbours: number(|peer| peer.neighbour),
            ..self.shared.tally.snapshot()
        }
    }

    /// Leaves the mesh: closes all connections. All handles are of no use afterwards.
    pub async fn stop(&self) {
        let leaving = async {
            // An error means that it has stopped already.
            drop(self.orders.send(Order::Stop).await);
            self.orders.closed().await;
        };
        if tokio::time::timeout(STOP_MAX, leaving).await.is_err() {
            tracing::warn!("the mesh did not stop within {} s", STOP_MAX.as_secs());
        }
    }
}
