//! What the network says: each event goes to the subject that it concerns.

use std::time::Instant;

use libp2p::core::ConnectedPoint;
use libp2p::kad::{self, QueryResult};
use libp2p::swarm::{ConnectionId, SwarmEvent};
use libp2p::{PeerId, dcutr, gossipsub, ping, relay};
use shoal_protocol::NodeId;

use super::Driver;
use crate::Gossiped;
use crate::behaviour::BehaviourEvent;
use crate::book::Link;
use crate::gossip::GossipId;
use crate::peer_id::node_id;

impl Driver {
    pub(super) fn notice(&mut self, event: SwarmEvent<BehaviourEvent>) {
        match event {
            SwarmEvent::NewListenAddr { address, .. } => {
                tracing::info!(%address, "the mesh listens");
                self.listeners_changed();
            }
            SwarmEvent::ExpiredListenAddr { address, .. } => {
                self.swarm.remove_external_address(&address);
                self.listeners_changed();
            }
            SwarmEvent::ListenerClosed { listener_id, addresses, .. } => {
                for address in addresses {
                    self.swarm.remove_external_address(&address);
                }
                self.listener_closed(listener_id);
                self.listeners_changed();
            }
            SwarmEvent::ExternalAddrConfirmed { .. } | SwarmEvent::ExternalAddrExpired { .. } => {
                self.addresses_changed();
            }
            SwarmEvent::ConnectionEstablished { peer_id, connection_id, endpoint, .. } => {
                self.connected(peer_id, connection_id, &endpoint);
            }
            SwarmEvent::ConnectionClosed { peer_id, connection_id, .. } => self.disconnected(peer_id, connection_id),
            SwarmEvent::OutgoingConnectionError { connection_id, peer_id, error } => {
                self.not_reached(connection_id, peer_id, &error);
            }
            SwarmEvent::Behaviour(event) => self.notice_part(event),
            _ => {}
        }
    }

    fn notice_part(&mut self, event: BehaviourEvent) {
        match event {
            BehaviourEvent::Identify(event) => self.identified(event),
            BehaviourEvent::Mdns(event) => self.seen_on_lan(event),
            BehaviourEvent::Ping(event) => self.measured(event),
            BehaviourEvent::Dcutr(dcutr::Event { remote_peer_id, result: Ok(direct) }) => {
                self.punched(remote_peer_id, direct);
            }
            BehaviourEvent::Dcutr(dcutr::Event { remote_peer_id, result: Err(error) }) => {
                tracing::debug!(peer = %remote_peer_id, %error, "no way through the NATs was found");
            }
            BehaviourEvent::AutonatClient(event) => self.dialled_back(&event),
            BehaviourEvent::Gossip(gossipsub::Event::Message { propagation_source, message_id, message }) => {
                let Some(from) = node_id(&propagation_source) else { return };
                let id = GossipId { message: message_id, from: propagation_source };
                self.hand_on(Gossiped { from, bytes: message.data, id });
            }
            BehaviourEvent::Kad(kad::Event::OutboundQueryProgressed { id, result, step, stats, .. }) => match result {
                QueryResult::GetProviders(result) => self.looked_up(id, result, step.last, stats.num_requests()),
                QueryResult::GetClosestPeers(result) if step.last => {
                    self.sought(id, &result);
                    self.filled(id, &result);
                }
                _ => {}
            },
            BehaviourEvent::RelayClient(relay::client::Event::ReservationReqAccepted { relay_peer_id, .. }) => {
                tracing::info!(relay = %relay_peer_id, "a peer relays to this node");
            }
            _ => {}
        }
    }

    fn connected(&mut self, peer: PeerId, id: ConnectionId, endpoint: &ConnectedPoint) {
        self.joined(id);
        let Some(node) = node_id(&peer) else { return };
        let link = Link {
            relayed: endpoint.is_relayed(),
            punched: false,
            dialled: endpoint.is_dialer(),
            remote: endpoint.get_remote_address().clone(),
            rtt: None,
        };
        self.shared.book_mut().connected(node, peer, id, link, Instant::now());
        self.now_connected(&peer);
        self.proven(&peer);
    }

    fn disconnected(&mut self, peer: PeerId, id: ConnectionId) {
        let Some(node) = node_id(&peer) else { return };
        let was_neighbour = self.shared.book().get(&node).is_some_and(|entry| entry.neighbour);
        let was_last = self.shared.book_mut().disconnected(&node, id, Instant::now());
        if was_last {
            self.outsider_gone(&peer);
        }
        if was_last && was_neighbour {
            self.neighbour_lost(node, peer);
        }
    }

    /// A ping was answered, or a connection turned out to be dead.
    fn measured(&mut self, event: ping::Event) {
        match (event.result, node_id(&event.peer)) {
            (Ok(rtt), Some(node)) => self.note_rtt(node, event.connection, rtt),
            (Ok(_), None) => {}
            // A peer that does not speak ping is not dead.
            (Err(ping::Failure::Unsupported), _) => {}
            (Err(_), _) => drop(self.swarm.close_connection(event.connection)),
        }
    }

    fn note_rtt(&mut self, node: NodeId, connection: ConnectionId, rtt: std::time::Duration) {
        let mut book = self.shared.book_mut();
        if let Some(link) = book.get_mut(&node).and_then(|entry| entry.links.get_mut(&connection)) {
            link.rtt = Some(rtt);
        }
    }

    /// The direct connection takes over from the relayed one.
    fn punched(&mut self, peer: PeerId, direct: ConnectionId) {
        let Some(node) = node_id(&peer) else { return };
        let relayed: Vec<ConnectionId> = {
            let mut book = self.shared.book_mut();
            let Some(entry) = book.get_mut(&node) else { return };
            if let Some(link) = entry.links.get_mut(&direct) {
                link.punched = true;
            }
            entry.links.iter().filter(|(_, link)| link.relayed).map(|(id, _)| *id).collect()
        };
        for id in relayed {
            self.swarm.close_connection(id);
        }
    }
}
