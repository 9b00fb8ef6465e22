//! The connections that the kernel speaks to: of workers, and of peers. Finds out where an effect goes.

use std::collections::BTreeMap;

use shoal_kernel::Effect;
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::wire::worker::ToWorker;
use shoal_protocol::{NodeId, Problem, WorkerId};
use tokio::sync::mpsc;

use super::outbox::{Outbox, Outgoing, ToPeer};

/// The connections that stand.
pub(super) struct Posts {
    node: NodeId,
    workers: BTreeMap<WorkerId, Outbox<ToWorker>>,
    /// By their place among the workers, [`WorkerId::of_node`].
    peers: BTreeMap<WorkerId, Outbox<ToPeer>>,
}

impl Posts {
    pub(super) fn new(node: NodeId) -> Self {
        Self { node, workers: BTreeMap::new(), peers: BTreeMap::new() }
    }

    /// A worker's connection takes the place of its former one.
    pub(super) fn attach(&mut self, worker: WorkerId, connection: u64, sender: mpsc::Sender<ToWorker>) {
        self.workers.insert(worker, Outbox { connection, sender });
    }

    /// A peer's connection takes the place of its former one.
    pub(super) fn connect(&mut self, peer: &NodeId, connection: u64, sender: mpsc::Sender<ToPeer>) {
        self.peers.insert(WorkerId::of_node(peer), Outbox { connection, sender });
    }

    /// A connection has ended. Another one of the same worker or peer stays.
    pub(super) fn ended(&mut self, id: WorkerId, connection: u64) {
        if self.workers.get(&id).is_some_and(|outbox| outbox.connection == connection) {
            self.workers.remove(&id);
        }
        if self.peers.get(&id).is_some_and(|outbox| outbox.connection == connection) {
            self.peers.remove(&id);
        }
    }

    /// Ends a connection at whose other end nobody reads: its outbox is dropped, which closes it.
    pub(super) fn drop_stuck(&mut self, connection: u64) {
        tracing::warn!(connection, "a worker or peer does not read what it is told; it is disconnected");
        self.workers.retain(|_, outbox| outbox.connection != connection);
        self.peers.retain(|_, outbox| outbox.connection != connection);
    }

    /// Ends all connections.
    pub(super) fn clear(&mut self) {
        self.workers.clear();
        self.peers.clear();
    }

    /// Whether there is a peer.
    pub(super) fn has_peers(&self) -> bool {
        !self.peers.is_empty()
    }

    /// Where an effect goes that is said to a worker or a peer; none: nobody is there to hear it.
    pub(super) fn address(&mut self, effect: Effect) -> Option<Outgoing> {
        match effect {
            Effect::Attached { worker, lease_ms, drop, .. } => {
                if self.peers.contains_key(&worker) {
                    return self.to_peer(worker, ToPeer::Say(PeerMessage::Welcome { lease_ms, drop }));
                }
                self.to_worker(worker, ToWorker::Attached { node: self.node, worker, lease_ms, drop })
            }
            Effect::Start { worker, start } => self.to_worker(worker, ToWorker::Start(start)),
            Effect::Cancel { worker, run } => self.to_either(worker, ToWorker::Cancel(run), PeerMessage::Cancel(run)),
            Effect::Settled { worker, run } => {
                self.to_either(worker, ToWorker::Settled(run), PeerMessage::Settled(run))
            }
            Effect::Checkpointed { peer, run, number } => {
                let message = PeerMessage::Checkpointed { run, number };
                self.to_peer(WorkerId::of_node(&peer), ToPeer::Say(message))
            }
            Effect::Detach { worker, problem } => self.detach(worker, problem),
            Effect::Greet { peer, runs, .. } => self.to_peer(WorkerId::of_node(&peer), ToPeer::Greet(runs)),
            Effect::Offer { peer, offer } => {
                self.to_peer(WorkerId::of_node(&peer), ToPeer::Say(PeerMessage::Offer(offer)))
            }
            Effect::ToHome { home, message } => self.to_peer(WorkerId::of_node(&home), ToPeer::Say(message)),
            Effect::Keep { to, set, jobs } => self.to_peer(WorkerId::of_node(&to), ToPeer::Keep(set, jobs)),
            Effect::KeepTaken { to, reign, jobs } => {
                self.to_peer(WorkerId::of_node(&to), ToPeer::KeepTaken(reign, jobs))
            }
            Effect::Claim { to, vote } => self.to_peer(WorkerId::of_node(&to), ToPeer::Claim(vote)),
            Effect::Voted { to, vote } => self.to_peer(WorkerId::of_node(&to), ToPeer::Voted(vote)),
            Effect::ToCustodian { custodian, message } => {
                self.to_peer(WorkerId::of_node(&custodian), ToPeer::Say(message))
            }
            _ => None,
        }
    }

    fn to_worker(&self, worker: WorkerId, message: ToWorker) -> Option<Outgoing> {
        self.workers.get(&worker).map(|outbox| Outgoing::ToWorker(outbox.clone(), message))
    }

    fn to_peer(&self, peer: WorkerId, message: ToPeer) -> Option<Outgoing> {
        self.peers.get(&peer).map(|outbox| Outgoing::ToPeer(outbox.clone(), message))
    }

    fn to_either(&self, id: WorkerId, worker: ToWorker, peer: PeerMessage) -> Option<Outgoing> {
        self.to_worker(id, worker).or_else(|| self.to_peer(id, ToPeer::Say(peer)))
    }

    fn detach(&mut self, id: WorkerId, problem: Problem) -> Option<Outgoing> {
        if let Some(outbox) = self.workers.remove(&id) {
            return Some(Outgoing::ToWorker(outbox, ToWorker::Refused(problem)));
        }
        self.peers.remove(&id).map(|outbox| Outgoing::ToPeer(outbox, ToPeer::Close(problem)))
    }
}
