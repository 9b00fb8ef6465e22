//! What the mesh counts, brought up to date when somebody reads the metrics.

use std::sync::atomic::Ordering::Relaxed;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;
use shoal_mesh::{Counters, LOOKUP_BOUNDS_MS};

use crate::replication::Counts;

/// The upper bound of a look-up's time, in milliseconds; `+Inf`: none.
#[derive(Clone, Debug, Hash, PartialEq, Eq, EncodeLabelSet)]
struct BoundLabel {
    le_ms: String,
}

/// The metrics of mesh and replication.
#[derive(Debug, Default)]
pub(super) struct Mesh {
    connected: Gauge,
    neighbours: Gauge,
    blocked_now: Gauge,
    relays: Gauge,
    dht_records: Gauge,
    changes: Gauge,
    entries: Gauge,
    far_ahead: Counter,
    blocked: Counter,
    foreign: Counter,
    reborn: Counter,
    dropped_streams: Counter,
    lost_events: Counter,
    lookups: Counter,
    lookups_refused: Counter,
    lookup_hops: Counter,
    lookup_ms: Counter,
    lookups_within: Family<BoundLabel, Counter>,
    gossip_sent: Counter,
    gossip_unsent: Counter,
    gossip_received: Counter,
    gossip_refused: Counter,
}

impl Mesh {
    pub(super) fn register(&self, registry: &mut Registry) {
        let gauges = [
            ("mesh_connected", "Peers with a connection", &self.connected),
            ("mesh_neighbours", "Peers in the view", &self.neighbours),
            ("mesh_blocked", "Peers that are kept out now", &self.blocked_now),
            ("mesh_relays", "Peers that relay to this node", &self.relays),
            ("mesh_dht_records", "Provider records of the DHT that lie here", &self.dht_records),
            ("replica_changes", "Signed changes of users, projects and functions", &self.changes),
            ("replica_entries", "Entries of the global KV", &self.entries),
        ];
        for (name, help, gauge) in gauges {
            registry.register(name, help, gauge.clone());
        }
        let counters = [
            (
                "replica_far_ahead",
                "Entries not taken since their counters are far above what is known",
                &self.far_ahead,
            ),
            ("mesh_peers_blocked", "Times that a peer was kept out for misbehaving", &self.blocked),
            ("mesh_peers_foreign", "Peers of another mesh that were left alone", &self.foreign),
            ("mesh_peers_reborn", "Peers that came back as another process before their end was noticed", &self.reborn),
            (
                "mesh_streams_dropped",
                "Streams of peers that were closed because too many waited",
                &self.dropped_streams,
            ),
            ("mesh_events_lost", "Gossip that was dropped because the queue was full", &self.lost_events),
            ("mesh_lookups", "Look-ups in the DHT for which others were asked", &self.lookups),
            ("mesh_lookups_refused", "Look-ups not begun because too many were under way", &self.lookups_refused),
            ("mesh_lookup_hops", "Peers that were asked in look-ups", &self.lookup_hops),
            ("mesh_lookup_milliseconds", "Time of all look-ups", &self.lookup_ms),
            ("mesh_gossip_sent", "Messages of this node that were gossiped", &self.gossip_sent),
            ("mesh_gossip_unsent", "Messages of this node that were not gossiped", &self.gossip_unsent),
            ("mesh_gossip_received", "Messages of others that were handed on", &self.gossip_received),
            ("mesh_gossip_refused", "Messages of others that were judged wrong", &self.gossip_refused),
        ];
        for (name, help, counter) in counters {
            registry.register(name, help, counter.clone());
        }
        let help = "Look-ups in the DHT by time: at most so many milliseconds, and more than the bound below";
        registry.register("mesh_lookups_within", help, self.lookups_within.clone());
    }

    pub(super) fn set(&self, mesh: &Counters, replica: Counts) {
        let gauges = [
            (&self.connected, mesh.connected),
            (&self.neighbours, mesh.neighbours),
            (&self.blocked_now, mesh.blocked),
            (&self.relays, mesh.relays),
            (&self.dht_records, mesh.dht_records),
            (&self.changes, replica.changes as u64),
            (&self.entries, replica.entries as u64),
        ];
        for (gauge, value) in gauges {
            gauge.set(i64::try_from(value).unwrap_or(i64::MAX));
        }
        let counters = [
            (&self.far_ahead, replica.far_ahead),
            (&self.blocked, mesh.blocked_total),
            (&self.foreign, mesh.foreign_total),
            (&self.reborn, mesh.reborn_total),
            (&self.dropped_streams, mesh.dropped_streams_total),
            (&self.lost_events, mesh.lost_events_total),
            (&self.lookups, mesh.lookups.count),
            (&self.lookups_refused, mesh.lookups_refused_total),
            (&self.lookup_hops, mesh.lookups.hops),
            (&self.lookup_ms, u64::try_from(mesh.lookups.time.as_millis()).unwrap_or(u64::MAX)),
            (&self.gossip_sent, mesh.gossip_sent_total),
            (&self.gossip_unsent, mesh.gossip_unsent_total),
            (&self.gossip_received, mesh.gossip_received_total),
            (&self.gossip_refused, mesh.gossip_refused_total),
        ];
        for (counter, value) in counters {
            counter.inner().store(value, Relaxed);
        }
        let bounds = LOOKUP_BOUNDS_MS.iter().map(u64::to_string).chain(["+Inf".to_owned()]);
        for (le_ms, count) in bounds.zip(mesh.lookups.buckets) {
            self.lookups_within.get_or_create(&BoundLabel { le_ms }).inner().store(count, Relaxed);
        }
    }
}
