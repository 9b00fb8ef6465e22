//! Gossip: pushes changes to whoever listens, as a hint that reconciliation makes good.
//!
//! gossipsub with a meter: its own events say nothing of duplicates, unknown topics and frames that do not decode, so a
//! peer that floods with those would go unseen. Every message of a frame passes the data transform, which counts it.
//! Changes are signed by their authors; gossip adds no signature of its own.

mod flow;
mod quiet;

use std::collections::{HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::gossipsub::{
    self, ConfigBuilder, DataTransform, IdentTopic, Message, MessageAcceptance, MessageAuthenticity, MessageId,
    RawMessage, TopicHash, ValidationMode, WhitelistSubscriptionFilter,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{Multiaddr, PeerId};
use shoal_protocol::limits::GOSSIP_LEN_MAX;

use crate::Verdict;
use flow::{Flows, Frame};
use quiet::Quiet;

/// Peers that a message is passed on to, and peers that are told each second which messages there are.
const MESH_N: usize = 4;
const LAZY: usize = 2;
const LAZY_SHARE: f64 = 0.1;
/// Messages that wait for one peer. Why 512: a stalled one holds 32 MiB at most; what is lost is reconciled.
const QUEUE_LEN: usize = 512;

/// Names a message that a peer has gossiped, for the verdict on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GossipId {
    pub(crate) message: MessageId,
    pub(crate) from: PeerId,
}

type Inner = gossipsub::Behaviour<Counting, WhitelistSubscriptionFilter>;

/// What the transform and the behaviour around it share, for the frame that is being read.
#[derive(Default)]
struct Meter {
    messages: AtomicU64,
    /// Of these, those that are none of ours, as far as they were looked at.
    wrong: AtomicU64,
    /// While set every message is refused before it touches a cache.
    refuse: AtomicBool,
}

/// Counts messages; leaves them as they are.
pub(crate) struct Counting {
    meter: Arc<Meter>,
    topic: TopicHash,
}

impl DataTransform for Counting {
    fn inbound_transform(&self, raw: RawMessage) -> Result<Message, io::Error> {
        self.meter.messages.fetch_add(1, Ordering::Relaxed);
        if self.meter.refuse.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        if raw.topic != self.topic || raw.data.len() > GOSSIP_LEN_MAX {
            self.meter.wrong.fetch_add(1, Ordering::Relaxed);
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Message { source: raw.source, data: raw.data, sequence_number: raw.sequence_number, topic: raw.topic })
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> Result<Vec<u8>, io::Error> {
        Ok(data)
    }
}

/// gossipsub with a meter.
pub(crate) struct Gossip {
    inner: Inner,
    topic: IdentTopic,
    meter: Arc<Meter>,
    flows: Flows,
    flooding: VecDeque<PeerId>,
}

impl Gossip {
    /// Subscribed to the one topic of this mesh. `prefix` is the protocol's name without versions.
    pub(crate) fn new(prefix: String, topic: String) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let config = ConfigBuilder::default()
            .protocol_id_prefix(prefix)
            .validation_mode(ValidationMode::Anonymous)
            .validate_messages()
            .message_id_fn(|message| MessageId::from(blake3::hash(&message.data).as_bytes().to_vec()))
            // Without it a mesh of two or three sends to nobody.
            .flood_publish(true)
            // A message goes to all of a view at once, so passing it on is for those beyond it, and reconciliation finds
            // what both miss: the library's 6 and 6 would only bring everybody more copies.
            .mesh_n(MESH_N)
            .mesh_n_low(MESH_N - 1)
            .mesh_n_high(2 * MESH_N)
            .mesh_outbound_min(1)
            .gossip_lazy(LAZY)
            .gossip_factor(LAZY_SHARE)
            // The bound holds for the frame with its header.
            .max_transmit_size(GOSSIP_LEN_MAX + 1024)
            .connection_handler_queue_len(QUEUE_LEN)
            .publish_queue_duration(Duration::from_secs(5))
            .forward_queue_duration(Duration::from_secs(5))
            // A message waits so many heartbeats for its verdict.
            .history_length(10)
            .history_gossip(5)
            .heartbeat_initial_delay(Duration::from_secs(1))
            .build()?;
        let topic = IdentTopic::new(topic);
        let meter = Arc::new(Meter::default());
        let mut inner = Inner::new_with_subscription_filter_and_transform(
            MessageAuthenticity::Anonymous,
            config,
            WhitelistSubscriptionFilter(HashSet::from([topic.hash()])),
            Counting { meter: meter.clone(), topic: topic.hash() },
        )?;
        inner.subscribe(&topic)?;
        Ok(Self { inner, topic, meter, flows: Flows::default(), flooding: VecDeque::new() })
    }

    /// Sends to everybody who listens. Whether anybody did.
    pub(crate) fn publish(&mut self, bytes: Vec<u8>) -> bool {
        let sent = self.inner.publish(self.topic.clone(), bytes).is_ok();
        if sent {
            self.flows.published();
        }
        sent
    }

    /// Says what became of a message; only an accepted one goes on to others.
    pub(crate) fn judge(&mut self, id: &GossipId, verdict: Verdict) {
        self.flows.judged(&id.from, verdict);
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Useless | Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        self.inner.report_message_validation_result(&id.message, &id.from, acceptance);
    }

    /// A peer that has flooded us for several seconds, to be kept out.
    pub(crate) fn flooding(&mut self) -> Option<PeerId> {
        self.flooding.pop_front()
    }
}

impl NetworkBehaviour for Gossip {
    type ConnectionHandler = Quiet;
    type ToSwarm = gossipsub::Event;

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Quiet::new(self.inner.handle_established_inbound_connection(id, peer, local, remote)?))
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Quiet::new(self.inner.handle_established_outbound_connection(id, peer, address, role, port_use)?))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        if let FromSwarm::ConnectionClosed(closed) = &event
            && closed.remaining_established == 0
        {
            self.flows.gone(&closed.peer_id);
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        let now = Instant::now();
        let unread = self.flows.is_over(&peer, now);
        self.meter.refuse.store(unread, Ordering::Relaxed);
        self.inner.on_connection_handler_event(peer, id, event);
        let messages = self.meter.messages.swap(0, Ordering::Relaxed);
        let wrong = self.meter.wrong.swap(0, Ordering::Relaxed);
        if self.flows.frame(peer, Frame { messages, wrong, unread }, now) {
            self.flooding.push_back(peer);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<gossipsub::Event, THandlerInEvent<Self>>> {
        let polled = self.inner.poll(cx);
        if let Poll::Ready(ToSwarm::GenerateEvent(gossipsub::Event::Message { propagation_source, .. })) = &polled {
            self.flows.fresh(propagation_source);
        }
        polled
    }
}
