//! Filling the view: a node that has joined by one address learns of the others from the DHT.
//!
//! It asks for those nearest to its own id, then for those nearest to ids at random, and dials whom it finds while the
//! view has room. A newcomer that was met makes the next look-up soon, since others may have come with it; after a
//! look-up the next waits half as long again.

use std::time::{Duration, Instant};

use libp2p::kad::{GetClosestPeersResult, QueryId};

use super::Driver;
use super::connecting::closest;
use crate::address::is_dialable;

/// From the first look-up to the next.
const WAIT_MIN: Duration = Duration::from_millis(250);
/// And at most. Why a minute: mere insurance in a mesh that stands still, and some hundred bytes.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// Peers of one look-up that are dialled at once.
const DIALS_MAX: usize = 16;

/// When to look, and what runs.
pub(super) struct Filling {
    next: Instant,
    wait: Duration,
    /// The look-up that runs. One at a time: each asks some twenty peers, and forty nodes that start together would else be
    /// busy with nothing but each other's questions.
    query: Option<QueryId>,
    /// Whether the next look-up is for the own id.
    own_id: bool,
}

impl Filling {
    pub(super) fn new(now: Instant) -> Self {
        Self { next: now, wait: WAIT_MIN, query: None, own_id: true }
    }

    /// Somebody new was met.
    pub(super) fn soon(&mut self, now: Instant) {
        self.wait = WAIT_MIN;
        self.next = self.next.min(now + WAIT_MIN);
    }

    /// Everybody is gone: whoever is met next is asked for the own id again.
    pub(super) fn anew(&mut self) {
        self.own_id = true;
    }
}

impl Driver {
    /// Looks for more peers if it is time and there is room.
    pub(super) fn fill(&mut self, now: Instant) {
        let alone = self.swarm.network_info().num_peers() == 0;
        if now < self.filling.next || alone || self.room() == 0 || self.filling.query.is_some() {
            return;
        }
        self.filling.next = now + self.filling.wait;
        self.filling.wait = (self.filling.wait * 3 / 2).min(WAIT_MAX);
        let target = match std::mem::take(&mut self.filling.own_id) {
            true => self.swarm.local_peer_id().to_bytes(),
            false => random_id(),
        };
        let query = self.swarm.behaviour_mut().kad.get_closest_peers(target);
        self.filling.query = Some(query);
    }

    /// A look-up has ended, if it was for this.
    pub(super) fn filled(&mut self, id: QueryId, result: &GetClosestPeersResult) {
        if self.filling.query != Some(id) {
            return;
        }
        let now = Instant::now();
        self.filling.query = None;
        self.filling.next = self.filling.next.max(now + WAIT_MIN);
        let room = self.room().min(DIALS_MAX);
        let found = closest(result).iter().filter(|found| self.is_worth_a_dial(&found.peer_id, now)).take(room);
        for found in found.cloned().collect::<Vec<_>>() {
            let addresses = found.addrs.into_iter().filter(|address| is_dialable(address, true)).collect();
            self.dial(found.peer_id, addresses);
        }
    }
}

/// An id that nobody has. Without randomness it is always the same, which finds fewer peers and nothing worse.
fn random_id() -> Vec<u8> {
    let mut id = vec![0; 32];
    if let Err(error) = getrandom::fill(&mut id) {
        tracing::warn!(%error, "the system gives no random bytes");
    }
    id
}
