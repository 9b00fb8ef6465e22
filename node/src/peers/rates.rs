//! How fast a peer may speak, and this node to a peer: so much at once, and so much a second after that.
//!
//! A peer's connections and sessions come and go, what it has spent stays: whoever begins anew does not begin with a full
//! purse. What is forgotten has its full purse again by then.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_protocol::NodeId;

/// Peers whose spending is remembered. Why 1,024: several times as many as have a session; beyond it those whose purse is
/// full again are forgotten.
const REMEMBERED_MAX: usize = 1024;

/// How long this node waits before it does something to a peer. Why 2 s: who asks for it waits as long, and some for no longer than 3 s.
const WAIT_MAX: Duration = Duration::from_secs(2);

/// One kind of thing that peers may do so often.
pub(super) struct Rate {
    burst: u32,
    each_second: u32,
    spent: Mutex<HashMap<NodeId, Spent>>,
}

/// What a peer has spent of its burst, when it was looked at last.
struct Spent {
    amount: f64,
    at: Instant,
}

impl Rate {
    /// `burst` at once, then `each_second`.
    pub(super) fn new(burst: u32, each_second: u32) -> Self {
        Self { burst, each_second, spent: Mutex::default() }
    }

    /// The peer does something that costs so much. False: that is more than it may.
    pub(super) fn spend(&self, peer: NodeId, cost: u32, now: Instant) -> bool {
        self.over(peer, cost, now) <= 0.0
    }

    /// Waits until this node may do something to the peer, which costs one: each waits behind those before it. False: too many do already.
    pub(super) async fn pace(&self, peer: NodeId) -> bool {
        let Some(wait) = self.wait(peer, Instant::now()) else { return false };
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
        true
    }

    fn wait(&self, peer: NodeId, now: Instant) -> Option<Duration> {
        let over = self.over(peer, 1, now).max(0.0);
        let wait = Duration::from_secs_f64(over / f64::from(self.each_second));
        if wait > WAIT_MAX {
            self.give_back(peer);
            return None;
        }
        Some(wait)
    }

    /// What was to cost one is not done.
    fn give_back(&self, peer: NodeId) {
        let mut peers = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(spent) = peers.get_mut(&peer) {
            spent.amount -= 1.0;
        }
    }

    /// By how much the burst is exceeded with what the peer does now.
    fn over(&self, peer: NodeId, cost: u32, now: Instant) -> f64 {
        let mut peers = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        let left_of = |spent: &Spent| {
            let since = now.saturating_duration_since(spent.at).as_secs_f64();
            (spent.amount - since * f64::from(self.each_second)).max(0.0)
        };
        if peers.len() >= REMEMBERED_MAX && !peers.contains_key(&peer) {
            peers.retain(|_, spent| left_of(spent) > 0.0);
        }
        let spent = peers.entry(peer).or_insert(Spent { amount: 0.0, at: now });
        *spent = Spent { amount: left_of(spent) + f64::from(cost), at: now };
        spent.amount - f64::from(self.burst)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const PEER: NodeId = NodeId([1; 32]);

    #[test]
    fn who_begins_too_much_at_once_waits_until_the_peer_bears_it() {
        let (own, theirs) = (Rate::new(100, 50), Rate::new(200, 100));
        let begun = Instant::now();
        let waits: Vec<Duration> = (0..1_000).map_while(|_| own.wait(PEER, begun)).collect();
        assert_eq!(waits.len(), 200, "100 at once, and 50 a second for two seconds");
        assert!(waits[..100].iter().all(Duration::is_zero));
        assert!(waits.iter().all(|wait| theirs.spend(PEER, 1, begun + *wait)));
        assert!(own.wait(PEER, begun + Duration::from_secs(1)).is_some_and(|wait| wait < Duration::from_millis(1_100)));
    }

    #[test]
    fn a_burst_is_allowed_a_steady_rate_too_and_a_flood_is_not() {
        let rate = Rate::new(2_000, 1_000);
        let begun = Instant::now();
        assert!((0..2_000).all(|_| rate.spend(PEER, 1, begun)));
        assert!(!rate.spend(PEER, 1, begun), "the burst is over");
        assert!(rate.spend(NodeId([2; 32]), 1, begun), "another peer has its own");
        let steady = |n: u64| rate.spend(PEER, 1, begun + Duration::from_secs(2) + Duration::from_millis(n));
        assert!((0..100_000).all(steady), "1,000 a second for as long as it likes");
        let rate = Rate::new(12_000, 6_000);
        let flood = |n: &u64| !rate.spend(PEER, 1, begun + Duration::from_micros(n * 100));
        let cut_off = (0..50_000).find(flood).expect("10,000 a second are too many");
        assert!((25_000..35_000).contains(&cut_off), "after {cut_off} messages: three seconds");
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let rate = Rate::new(10, 10);
        let begun = Instant::now();
        for n in 0..5_000_u64 {
            let mut peer = [0; 32];
            peer[..8].copy_from_slice(&n.to_le_bytes());
            assert!(rate.spend(NodeId(peer), 1, begun + Duration::from_millis(n)));
        }
        assert!(rate.spent.lock().unwrap().len() <= REMEMBERED_MAX);
    }
}
