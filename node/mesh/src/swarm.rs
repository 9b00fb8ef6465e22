//! The task that owns the swarm: orders in, events out. It never waits for anything but the network and its orders, since
//! while it waits the whole network stands still.
//!
//! What it does stands in the modules below, one subject each; here is the loop that drives them.

mod connecting;
mod dials;
mod discovery;
mod filling;
mod listening;
mod lookups;
mod noticing;
mod records;
mod relays;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use libp2p::Swarm;
use shoal_protocol::NodeId;
use tokio::sync::{mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use crate::address::Target;
use crate::behaviour::{self, Behaviour};
use crate::counters::count;
use crate::gate::BLOCK;
use crate::gossip::GossipId;
use crate::outbox::{News, Outbox};
use crate::peer_id::{node_id, peer_id};
use crate::shared::Shared;
use crate::{Event, Gossiped, Options, Verdict};

/// How often what is due is looked for.
const TICK: Duration = Duration::from_millis(250);
/// Places in the queue of events that gossip leaves to what must not wait.
const EVENTS_RESERVED: usize = 256;
/// How long a node that leaves waits for its connections to close.
const GOODBYE: Duration = Duration::from_millis(500);

/// What the task is asked.
pub(crate) enum Order {
    /// Reach whoever is there.
    Join(Vec<Target>),
    /// Reach this node. Answers when it is connected, or cannot be.
    Connect(NodeId, oneshot::Sender<bool>),
    /// Gossip these bytes.
    Publish(Vec<u8>),
    /// What became of a message that was gossiped to us.
    Judge(GossipId, Verdict),
    /// Who has this, by the DHT.
    Find(Vec<u8>, mpsc::Sender<NodeId>),
    /// Leave.
    Stop,
}

/// What the task is made of.
pub(crate) struct Parts {
    pub(crate) shared: Arc<Shared>,
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) orders: mpsc::Receiver<Order>,
    /// For what the task has others do. Weak: it does not keep itself alive.
    pub(crate) own_orders: mpsc::WeakSender<Order>,
    pub(crate) events: mpsc::Sender<Event>,
}

/// The task.
pub(crate) struct Driver {
    swarm: Swarm<Behaviour>,
    shared: Arc<Shared>,
    orders: mpsc::Receiver<Order>,
    own_orders: mpsc::WeakSender<Order>,
    events: mpsc::Sender<Event>,
    outbox: Outbox,
    mesh_protocol: String,
    joining: discovery::Joining,
    later: discovery::Later,
    connecting: connecting::Connecting,
    filling: filling::Filling,
    lookups: lookups::Lookups,
    records: records::Records,
    relays: relays::Relays,
    view: view::View,
}

impl Driver {
    pub(crate) fn new(parts: Parts, options: &Options) -> Self {
        let now = Instant::now();
        Self {
            swarm: parts.swarm,
            shared: parts.shared,
            orders: parts.orders,
            own_orders: parts.own_orders,
            events: parts.events,
            outbox: Outbox::default(),
            mesh_protocol: behaviour::mesh_protocol(&options.mesh),
            joining: discovery::Joining::new(options.join.clone()),
            later: discovery::Later::default(),
            connecting: connecting::Connecting::default(),
            filling: filling::Filling::new(now),
            lookups: lookups::Lookups::default(),
            records: records::Records::new(now),
            relays: relays::Relays::new(now),
            view: view::View::new(options.view_max, now),
        }
    }

    /// Runs until the last handle is gone, or [`Order::Stop`].
    pub(crate) async fn run(mut self) {
        self.join();
        let shared = self.shared.clone();
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            self.deliver();
            tokio::select! {
                order = self.orders.recv() => match order {
                    None | Some(Order::Stop) => break,
                    Some(order) => self.obey(order),
                },
                () = shared.wished() => self.grant(),
                event = self.swarm.select_next_some() => self.notice(event),
                _ = tick.tick() => self.look_after(Instant::now()),
            }
        }
        self.leave().await;
    }

    fn obey(&mut self, order: Order) {
        match order {
            Order::Join(targets) => self.join_at(targets),
            Order::Connect(node, done) => self.connect(node, done),
            Order::Publish(bytes) => {
                let sent = self.swarm.behaviour_mut().gossip.publish(bytes);
                let tally = &self.shared.tally;
                // Where nobody listens yet, reconciliation carries it once somebody is met.
                count(if sent { &tally.gossip_sent } else { &tally.gossip_unsent });
            }
            Order::Judge(id, verdict) => {
                if verdict == Verdict::Reject {
                    count(&self.shared.tally.gossip_refused);
                }
                self.swarm.behaviour_mut().gossip.judge(&id, verdict);
            }
            Order::Find(key, found) => self.find(key, found),
            // The loop has ended before.
            Order::Stop => {}
        }
    }

    /// Does what was wished for since the last time.
    fn grant(&mut self) {
        let wishes = self.shared.take_wishes();
        for (key, provided) in wishes.provided {
            if provided { self.provide(key) } else { self.withdraw(key) }
        }
        for (node, why) in wishes.blocked {
            self.block(node, why);
        }
    }

    fn block(&mut self, node: NodeId, why: &'static str) {
        let Some(peer) = peer_id(node) else { return };
        tracing::warn!(node = %node.short(), why, "a peer misbehaves and is kept out for a while");
        count(&self.shared.tally.blocked);
        let now = Instant::now();
        self.swarm.behaviour_mut().gate.block(peer, now);
        self.shared.book_mut().keep_out(&node, why, now + BLOCK);
    }

    /// What floods with duplicates makes no event: floods are looked for from time to time.
    fn cut_off_floods(&mut self) {
        while let Some(peer) = self.swarm.behaviour_mut().gossip.flooding() {
            if let Some(node) = node_id(&peer) {
                self.block(node, "it floods gossip");
            }
        }
    }

    /// What is due from time to time.
    fn look_after(&mut self, now: Instant) {
        self.cut_off_floods();
        self.dial_later(now);
        self.look_after_view(now);
        self.look_after_joining(now);
        self.fill(now);
        self.end_unheard_lookups();
        self.announce(now);
        self.look_after_relays(now);
    }

    /// Tells what is untold while there is room; the next tick goes on.
    fn deliver(&mut self) {
        while !self.outbox.is_empty() {
            let Ok(permit) = self.events.try_reserve() else { return };
            match self.outbox.pop() {
                Some(News::OwnKeyElsewhere) => permit.send(Event::OwnKeyElsewhere),
                Some(News::Met(node)) => permit.send(Event::Met(node)),
                Some(News::Lost(node)) => permit.send(Event::Lost(node)),
                None => return,
            }
        }
    }

    /// Hands gossip on if there is room. What is dropped counts as ignored: it does not go on to others unchecked.
    fn hand_on(&mut self, gossiped: Gossiped) {
        let id = gossiped.id.clone();
        if self.events.capacity() > EVENTS_RESERVED && self.events.try_send(Event::Gossip(gossiped)).is_ok() {
            count(&self.shared.tally.gossip_received);
        } else {
            count(&self.shared.tally.lost_events);
            self.swarm.behaviour_mut().gossip.judge(&id, Verdict::Ignore);
        }
    }

    /// Says goodbye, so that peers need not wait until they miss this node.
    async fn leave(mut self) {
        let peers: Vec<_> = self.swarm.connected_peers().copied().collect();
        for peer in peers {
            // An error means that it is gone already.
            let _ = self.swarm.disconnect_peer_id(peer);
        }
        let closing = async {
            while self.swarm.network_info().num_peers() > 0 {
                self.swarm.select_next_some().await;
            }
        };
        drop(tokio::time::timeout(GOODBYE, closing).await);
    }
}
