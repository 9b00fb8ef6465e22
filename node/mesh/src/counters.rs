//! What the mesh has counted: each a plain number, for `/metrics`.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Upper bounds of the look-ups' times, in milliseconds; the last bucket has none.
pub const LOOKUP_BOUNDS_MS: [u64; 6] = [25, 50, 100, 250, 500, 2_000];

/// A snapshot. Numbers with `_total` only grow.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Peers with a connection, of this mesh or not known yet.
    pub connected: u64,
    /// Peers in the view.
    pub neighbours: u64,
    /// Peers that are kept out now.
    pub blocked: u64,
    /// Times that a peer was kept out for misbehaving.
    pub blocked_total: u64,
    /// Peers of another mesh that were met and left alone.
    pub foreign_total: u64,
    /// Peers that were here already and came back as another process, before it was noticed that the first had gone.
    pub reborn_total: u64,
    /// Streams that peers opened and that were closed because too many were waiting.
    pub dropped_streams_total: u64,
    /// Gossip that was not handed on because the queue was full.
    pub lost_events_total: u64,
    /// Look-ups for which this node asked others, by when the first answer was found or none was.
    pub lookups: Lookups,
    /// Look-ups that were not begun because too many were under way.
    pub lookups_refused_total: u64,
    /// Messages of this node that were gossiped.
    pub gossip_sent_total: u64,
    /// Messages of others that were handed on.
    pub gossip_received_total: u64,
    /// Messages of others that were judged wrong.
    pub gossip_refused_total: u64,
    /// Messages of this node that were not gossiped: the queue was full, or nobody listens yet.
    pub gossip_unsent_total: u64,
    /// Provider records of the DHT that lie here, own ones included.
    pub dht_records: u64,
    /// Peers that relay to this node.
    pub relays: u64,
}

/// Look-ups that left the node.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lookups {
    /// How many.
    pub count: u64,
    /// Their time in all.
    pub time: Duration,
    /// Peers that were asked, in all.
    pub hops: u64,
    /// How many took at most each of [`LOOKUP_BOUNDS_MS`], the last one longer. Not cumulative.
    pub buckets: [u64; LOOKUP_BOUNDS_MS.len() + 1],
}

/// The counters that tasks add to.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) blocked_now: AtomicU64,
    pub(crate) blocked: AtomicU64,
    pub(crate) foreign: AtomicU64,
    pub(crate) reborn: AtomicU64,
    pub(crate) dropped_streams: AtomicU64,
    pub(crate) lost_events: AtomicU64,
    pub(crate) lookups_refused: AtomicU64,
    pub(crate) gossip_sent: AtomicU64,
    pub(crate) gossip_received: AtomicU64,
    pub(crate) gossip_refused: AtomicU64,
    pub(crate) gossip_unsent: AtomicU64,
    pub(crate) dht_records: AtomicU64,
    pub(crate) relays: AtomicU64,
    lookups: AtomicU64,
    lookups_micros: AtomicU64,
    lookups_hops: AtomicU64,
    lookups_buckets: [AtomicU64; LOOKUP_BOUNDS_MS.len() + 1],
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

impl Tally {
    /// A look-up that asked `hops` peers took this long.
    pub(crate) fn looked_up(&self, time: Duration, hops: u32) {
        count(&self.lookups);
        self.lookups_micros.fetch_add(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), Relaxed);
        self.lookups_hops.fetch_add(hops.into(), Relaxed);
        let at = LOOKUP_BOUNDS_MS.iter().position(|bound| time <= Duration::from_millis(*bound));
        if let Some(bucket) = self.lookups_buckets.get(at.unwrap_or(LOOKUP_BOUNDS_MS.len())) {
            count(bucket);
        }
    }

    /// All but what the book knows.
    pub(crate) fn snapshot(&self) -> Counters {
        let of = |counter: &AtomicU64| counter.load(Relaxed);
        Counters {
            connected: 0,
            neighbours: 0,
            blocked: of(&self.blocked_now),
            blocked_total: of(&self.blocked),
            foreign_total: of(&self.foreign),
            reborn_total: of(&self.reborn),
            dropped_streams_total: of(&self.dropped_streams),
            lost_events_total: of(&self.lost_events),
            lookups: Lookups {
                count: of(&self.lookups),
                time: Duration::from_micros(of(&self.lookups_micros)),
                hops: of(&self.lookups_hops),
                buckets: self.lookups_buckets.each_ref().map(of),
            },
            lookups_refused_total: of(&self.lookups_refused),
            gossip_sent_total: of(&self.gossip_sent),
            gossip_received_total: of(&self.gossip_received),
            gossip_refused_total: of(&self.gossip_refused),
            gossip_unsent_total: of(&self.gossip_unsent),
            dht_records: of(&self.dht_records),
            relays: of(&self.relays),
        }
    }
}
