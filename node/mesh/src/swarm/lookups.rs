//! Look-ups in the DHT: who has what. Whom a look-up finds is dialled, and counts once it is connected.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use libp2p::PeerId;
use libp2p::kad::{self, GetProvidersOk, GetProvidersResult, QueryId};
use shoal_protocol::NodeId;
use tokio::sync::mpsc;

use super::Driver;
use crate::counters::count;
use crate::peer_id::node_id;

/// Look-ups at once: libp2p has no bound of its own. Beyond it a look-up is answered with nobody.
const LOOKUPS_MAX: usize = 64;
/// Providers of one look-up that are dialled.
const PROVIDERS_MAX: usize = 32;

/// One look-up.
struct Lookup {
    found: mpsc::Sender<NodeId>,
    begun: Instant,
    /// Providers that were heard of.
    seen: HashSet<PeerId>,
    /// Those of them that are being dialled.
    dialled: HashSet<PeerId>,
    /// The DHT has no more to say.
    over: bool,
    /// Peers that were asked.
    requests: u32,
    counted: bool,
}

/// Those under way.
#[derive(Default)]
pub(super) struct Lookups {
    queries: HashMap<QueryId, Lookup>,
}

impl Driver {
    pub(super) fn find(&mut self, key: Vec<u8>, found: mpsc::Sender<NodeId>) {
        if self.lookups.queries.len() >= LOOKUPS_MAX {
            count(&self.shared.tally.lookups_refused);
            return;
        }
        let id = self.swarm.behaviour_mut().kad.get_providers(kad::RecordKey::from(key));
        let lookup = Lookup {
            found,
            begun: Instant::now(),
            seen: HashSet::new(),
            dialled: HashSet::new(),
            over: false,
            requests: 0,
            counted: false,
        };
        self.lookups.queries.insert(id, lookup);
    }

    /// The DHT has answered, if it was for this.
    pub(super) fn looked_up(&mut self, id: QueryId, result: GetProvidersResult, last: bool, requests: u32) {
        let Some(lookup) = self.lookups.queries.get_mut(&id) else { return };
        lookup.requests = requests;
        lookup.over = last;
        if let Ok(GetProvidersOk::FoundProviders { providers, .. }) = result {
            self.prove(id, providers);
        }
        self.settle(id);
    }

    /// Dials those who are said to have it. The dial takes the addresses that the query has gathered, so it comes before
    /// the query's end, which drops them.
    fn prove(&mut self, id: QueryId, providers: HashSet<PeerId>) {
        let me = *self.swarm.local_peer_id();
        for peer in providers.into_iter().filter(|peer| *peer != me) {
            let Some(lookup) = self.lookups.queries.get_mut(&id) else { return };
            if lookup.seen.len() >= PROVIDERS_MAX || !lookup.seen.insert(peer) {
                continue;
            }
            if self.swarm.is_connected(&peer) {
                self.found(id, &peer);
            } else if self.dial(peer, Vec::new())
                && let Some(lookup) = self.lookups.queries.get_mut(&id)
            {
                lookup.dialled.insert(peer);
            }
        }
    }

    /// A peer is connected: look-ups that found it have their answer.
    pub(super) fn proven(&mut self, peer: &PeerId) {
        for id in self.lookups_of(peer) {
            self.found(id, peer);
            self.settle(id);
        }
    }

    /// A peer was not reached: nobody is to wait for it.
    pub(super) fn not_proven(&mut self, peer: &PeerId) {
        for id in self.lookups_of(peer) {
            if let Some(lookup) = self.lookups.queries.get_mut(&id) {
                lookup.dialled.remove(peer);
            }
            self.settle(id);
        }
    }

    /// Ends those whose asker has heard enough.
    pub(super) fn end_unheard_lookups(&mut self) {
        let queries = &self.lookups.queries;
        let unheard: Vec<QueryId> =
            queries.iter().filter(|(_, lookup)| lookup.found.is_closed()).map(|(id, _)| *id).collect();
        for id in unheard {
            self.settle(id);
        }
    }

    fn lookups_of(&self, peer: &PeerId) -> Vec<QueryId> {
        let queries = self.lookups.queries.iter();
        queries.filter(|(_, lookup)| lookup.dialled.contains(peer)).map(|(id, _)| *id).collect()
    }

    fn found(&mut self, id: QueryId, peer: &PeerId) {
        let Some(lookup) = self.lookups.queries.get_mut(&id) else { return };
        lookup.dialled.remove(peer);
        if let Some(node) = node_id(peer) {
            // A full channel has answers enough.
            let _ = lookup.found.try_send(node);
        }
        self.count_lookup(id);
    }

    /// Counts a look-up by its first answer, or by its end without one. One that asked nobody did not leave the node.
    fn count_lookup(&mut self, id: QueryId) {
        let asked = self.swarm.behaviour_mut().kad.query(&id).map(|query| query.stats().num_requests());
        let Some(lookup) = self.lookups.queries.get_mut(&id) else { return };
        let requests = asked.unwrap_or_default().max(lookup.requests);
        if !std::mem::replace(&mut lookup.counted, true) && requests > 0 {
            self.shared.tally.looked_up(lookup.begun.elapsed(), requests);
        }
    }

    /// Ends a look-up that has no more to give, or nobody who listens.
    fn settle(&mut self, id: QueryId) {
        let Some(lookup) = self.lookups.queries.get(&id) else { return };
        let is_done = lookup.over && lookup.dialled.is_empty();
        if !is_done && !lookup.found.is_closed() {
            return;
        }
        self.count_lookup(id);
        self.lookups.queries.remove(&id);
        if let Some(mut query) = self.swarm.behaviour_mut().kad.query_mut(&id) {
            query.finish();
        }
    }
}
