//! Who may connect, and whom we dial: libp2p has no back-off of its own, and asks its parts in the order of their fields.
//!
//! It stands first among the behaviours, so that no other keeps state for a connection that it denies.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::{
    CloseConnection, ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

/// Peers that are remembered as blocked or unreachable. Why 4,096: far above a view and what look-ups touch; beyond it
/// the entries that end first are forgotten.
const REMEMBERED_MAX: usize = 4096;
/// The longest that a peer which cannot be reached is left alone.
const REST_MAX: Duration = Duration::from_secs(64);
/// How long a peer that misbehaved, or is of another mesh, is kept out.
pub(crate) const BLOCK: Duration = Duration::from_secs(300);

/// The gate.
#[derive(Default)]
pub(crate) struct Gate {
    /// Until when, by peer.
    blocked: HashMap<PeerId, Instant>,
    /// Until when a peer is not dialled by itself, and after how many failures in a row.
    resting: HashMap<PeerId, (Instant, u32)>,
    closing: VecDeque<PeerId>,
    waker: Option<Waker>,
}

impl Gate {
    /// Closes all connections with this peer and keeps it out for a while.
    pub(crate) fn block(&mut self, peer: PeerId, now: Instant) {
        make_room(&mut self.blocked, |until| *until, now);
        self.blocked.insert(peer, now + BLOCK);
        self.closing.push_back(peer);
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// How many peers are kept out.
    pub(crate) fn blocked(&self, now: Instant) -> usize {
        self.blocked.values().filter(|until| **until > now).count()
    }

    /// Whether this peer was not reached a moment ago.
    pub(crate) fn is_resting(&self, peer: &PeerId, now: Instant) -> bool {
        self.resting.get(peer).is_some_and(|(until, _)| now < *until)
    }

    /// The same where no peer is left alone for longer than `rest_max` after a failure.
    pub(crate) fn is_resting_within(&self, peer: &PeerId, now: Instant, rest_max: Duration) -> bool {
        self.resting.get(peer).is_some_and(|(until, failures)| {
            let rest = rest_after(*failures);
            now + rest.saturating_sub(rest_max) < *until
        })
    }

    /// Lets a peer be dialled although it was not reached a moment ago: somebody asks for it, or its address is new.
    pub(crate) fn wake(&mut self, peer: &PeerId, now: Instant) {
        if let Some((until, _)) = self.resting.get_mut(peer) {
            *until = now;
        }
    }

    /// How often in a row this peer was not reached.
    pub(crate) fn failures(&self, peer: &PeerId) -> u32 {
        self.resting.get(peer).map_or(0, |(_, failures)| *failures)
    }

    fn check(&self, peer: &PeerId) -> Result<(), ConnectionDenied> {
        match self.blocked.get(peer) {
            Some(until) if Instant::now() < *until => Err(ConnectionDenied::new("this peer is kept out for a while")),
            _ => Ok(()),
        }
    }

    fn failed(&mut self, peer: PeerId, now: Instant) {
        make_room(&mut self.resting, |(until, _)| *until, now);
        let failures = self.resting.get(&peer).map_or(0, |(_, failures)| *failures).saturating_add(1);
        self.resting.insert(peer, (now + rest_after(failures), failures));
    }
}

/// How long a peer is left alone that was not reached so often in a row.
fn rest_after(failures: u32) -> Duration {
    Duration::from_secs(1 << failures.min(6)).min(REST_MAX)
}

/// Forgets what is over, and when that is not enough what ends first.
fn make_room<T>(map: &mut HashMap<PeerId, T>, until: impl Fn(&T) -> Instant, now: Instant) {
    if map.len() < REMEMBERED_MAX {
        return;
    }
    map.retain(|_, entry| until(entry) > now);
    if map.len() >= REMEMBERED_MAX
        && let Some(first) = map.iter().min_by_key(|(_, entry)| until(entry)).map(|(peer, _)| *peer)
    {
        map.remove(&first);
    }
}

impl NetworkBehaviour for Gate {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(&peer)?;
        Ok(dummy::ConnectionHandler)
    }

    fn handle_pending_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        _: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        let Some(peer) = peer else { return Ok(Vec::new()) };
        self.check(&peer)?;
        // Without addresses it is another behaviour's own dial, Kademlia's above all: it rests after a failure.
        if addresses.is_empty() && self.is_resting(&peer, Instant::now()) {
            return Err(ConnectionDenied::new("this peer was not reached a moment ago"));
        }
        Ok(Vec::new())
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.check(&peer)?;
        Ok(dummy::ConnectionHandler)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(established) => {
                self.resting.remove(&established.peer_id);
            }
            FromSwarm::DialFailure(failure) => {
                // That nobody knows an address says nothing of the peer.
                if let (Some(peer), DialError::Transport(_)) = (failure.peer_id, failure.error) {
                    self.failed(peer, Instant::now());
                }
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, event: THandlerOutEvent<Self>) {
        match event {}
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        match self.closing.pop_front() {
            Some(peer_id) => Poll::Ready(ToSwarm::CloseConnection { peer_id, connection: CloseConnection::All }),
            None => {
                self.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}
