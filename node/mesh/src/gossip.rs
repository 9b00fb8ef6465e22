//! Gossip: pushes changes to whoever listens, as a hint that reconciliation makes good.
//!
//! gossipsub with a meter: its own events say nothing of duplicates, unknown topics and frames that do not decode, so a
//! peer that floods with those would go unseen. Every message of a frame passes the data transform, which counts it.
//! Changes are signed by their authors; gossip adds no signature of its own.

mod quiet;

use std::collections::{HashMap, HashSet, VecDeque};
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
use quiet::Quiet;

/// Messages that one peer may send in a second. Why 2,000: a busy mesh pushes hundreds of changes a second, and a peer
/// each of them once. A slow node must see a flood too: what it cannot take in waits at the sender, and is not counted.
const MESSAGES_PER_SECOND_MAX: u64 = 2_000;
/// Seconds of a flood after which a peer is reported. Why 3: it is cut off within five, and a burst that long is none.
const FLOOD_SECONDS_MAX: u32 = 3;
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

/// What the transform and the behaviour around it share.
#[derive(Default)]
struct Meter {
    messages: AtomicU64,
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
        if self.meter.refuse.load(Ordering::Relaxed) || raw.topic != self.topic || raw.data.len() > GOSSIP_LEN_MAX {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        Ok(Message { source: raw.source, data: raw.data, sequence_number: raw.sequence_number, topic: raw.topic })
    }

    fn outbound_transform(&self, _: &TopicHash, data: Vec<u8>) -> Result<Vec<u8>, io::Error> {
        Ok(data)
    }
}

/// The messages of one peer in the current second.
struct Second {
    begun: Instant,
    messages: u64,
    /// Seconds in a row with too many.
    floods: u32,
}

/// gossipsub with a meter.
pub(crate) struct Gossip {
    inner: Inner,
    topic: IdentTopic,
    meter: Arc<Meter>,
    seconds: HashMap<PeerId, Second>,
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
        Ok(Self { inner, topic, meter, seconds: HashMap::new(), flooding: VecDeque::new() })
    }

    /// Sends to everybody who listens. Whether anybody did.
    pub(crate) fn publish(&mut self, bytes: Vec<u8>) -> bool {
        self.inner.publish(self.topic.clone(), bytes).is_ok()
    }

    /// Says what became of a message; only an accepted one goes on to others.
    pub(crate) fn judge(&mut self, id: &GossipId, verdict: Verdict) {
        let acceptance = match verdict {
            Verdict::Accept => MessageAcceptance::Accept,
            Verdict::Ignore => MessageAcceptance::Ignore,
            Verdict::Reject => MessageAcceptance::Reject,
        };
        self.inner.report_message_validation_result(&id.message, &id.from, acceptance);
    }

    /// A peer that has flooded us for several seconds, to be kept out.
    pub(crate) fn flooding(&mut self) -> Option<PeerId> {
        self.flooding.pop_front()
    }

    /// Counts what a frame held. Whether the peer sends too much this second.
    fn count(&mut self, peer: PeerId, now: Instant, messages: u64) {
        let second = self.seconds.entry(peer).or_insert(Second { begun: now, messages: 0, floods: 0 });
        second.messages = second.messages.saturating_add(messages);
        if now.duration_since(second.begun) < Duration::from_secs(1) {
            return;
        }
        second.floods = if second.messages > MESSAGES_PER_SECOND_MAX { second.floods + 1 } else { 0 };
        if second.floods >= FLOOD_SECONDS_MAX {
            self.flooding.push_back(peer);
            second.floods = 0;
        }
        second.begun = now;
        second.messages = 0;
    }

    fn is_over(&self, peer: &PeerId, now: Instant) -> bool {
        self.seconds.get(peer).is_some_and(|second| {
            now.duration_since(second.begun) < Duration::from_secs(1) && second.messages > MESSAGES_PER_SECOND_MAX
        })
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
            self.seconds.remove(&closed.peer_id);
        }
        self.inner.on_swarm_event(event);
    }

    fn on_connection_handler_event(&mut self, peer: PeerId, id: ConnectionId, event: THandlerOutEvent<Self>) {
        let now = Instant::now();
        self.meter.refuse.store(self.is_over(&peer, now), Ordering::Relaxed);
        let before = self.meter.messages.load(Ordering::Relaxed);
        self.inner.on_connection_handler_event(peer, id, event);
        let messages = self.meter.messages.load(Ordering::Relaxed).saturating_sub(before);
        // A frame without a message counts as one: it costs as much to read.
        self.count(peer, now, messages.max(1));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<gossipsub::Event, THandlerInEvent<Self>>> {
        self.inner.poll(cx)
    }
}
