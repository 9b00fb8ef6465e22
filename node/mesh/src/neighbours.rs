//! Which peers a node keeps as neighbours: near, diverse and alive. Pure.
//!
//! Half of the view is the nearest by round trip, so that jobs and bytes stay close. The other half is spread over the
//! space of ids, as Kademlia's buckets are, so that no far part of the mesh is out of reach of gossip and hints. Who is
//! a neighbour already stays unless somebody is clearly nearer: links that change all the time carry nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use shoal_protocol::NodeId;

/// A newcomer takes the place of a neighbour only if it is nearer by this factor.
const CLEARLY_NEARER: u32 = 2;
/// The distance of a peer that is not measured yet.
const UNMEASURED: Duration = Duration::from_millis(500);

/// One that could be a neighbour: it is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) node: NodeId,
    pub(crate) rtt: Option<Duration>,
    pub(crate) neighbour: bool,
}

/// The best view of at most `max` peers.
pub(crate) fn choose(me: &NodeId, candidates: &[Candidate], max: usize) -> BTreeSet<NodeId> {
    if candidates.len() <= max {
        return candidates.iter().map(|candidate| candidate.node).collect();
    }
    let near = max - max / 2;
    let mut by_distance: Vec<&Candidate> = candidates.iter().collect();
    by_distance.sort_by_key(|candidate| (distance(candidate), candidate.node));
    let mut chosen: BTreeSet<NodeId> = by_distance.iter().take(near).map(|candidate| candidate.node).collect();
    let mut buckets: BTreeMap<u32, Vec<&Candidate>> = BTreeMap::new();
    for candidate in by_distance.iter().filter(|candidate| !chosen.contains(&candidate.node)) {
        buckets.entry(bucket(me, &candidate.node)).or_default().push(candidate);
    }
    // One of each bucket in turn, the nearest first, farthest buckets first: they hold half of the mesh each.
    for turn in 0..candidates.len() {
        for bucket in buckets.values() {
            if chosen.len() >= max {
                return chosen;
            }
            chosen.extend(bucket.get(turn).map(|candidate| candidate.node));
        }
    }
    chosen
}

/// How far a candidate counts as: a neighbour's distance counts as less.
fn distance(candidate: &Candidate) -> Duration {
    let rtt = candidate.rtt.unwrap_or(UNMEASURED);
    if candidate.neighbour { rtt / CLEARLY_NEARER } else { rtt }
}

/// Leading bits that two ids have in common, as hashed for the DHT.
fn bucket(me: &NodeId, other: &NodeId) -> u32 {
    let hash = |node: &NodeId| *blake3::hash(node.as_bytes()).as_bytes();
    let mut common = 0;
    for (mine, theirs) in hash(me).iter().zip(hash(other)) {
        let zeros = (mine ^ theirs).leading_zeros();
        common += zeros;
        if zeros < 8 {
            break;
        }
    }
    common
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(n: u16) -> NodeId {
        let mut bytes = [0; 32];
        bytes[..2].copy_from_slice(&n.to_be_bytes());
        NodeId(bytes)
    }

    fn candidate(n: u16, rtt_ms: u64, neighbour: bool) -> Candidate {
        Candidate { node: node(n), rtt: Some(Duration::from_millis(rtt_ms)), neighbour }
    }

    #[test]
    fn all_are_neighbours_where_there_is_room() {
        let all: Vec<Candidate> = (1..=8).map(|n| candidate(n, 10, false)).collect();
        assert_eq!(choose(&node(0), &all, 8).len(), 8);
    }

    #[test]
    fn half_is_near_and_half_is_spread() {
        // Forty far ones and four near ones.
        let mut all: Vec<Candidate> = (1..=40).map(|n| candidate(n, 100, false)).collect();
        all.extend((41..=44).map(|n| candidate(n, 1, false)));
        let chosen = choose(&node(0), &all, 8);
        assert_eq!(chosen.len(), 8);
        assert!((41..=44).all(|n| chosen.contains(&node(n))));
        let far: BTreeSet<u32> =
            chosen.iter().filter(|n| **n < node(41)).map(|other| bucket(&node(0), other)).collect();
        assert_eq!(far.len(), 4, "the far half stands in four buckets");
    }

    #[test]
    fn a_neighbour_stays_unless_another_is_clearly_nearer() {
        let near = |rtt_ms| [candidate(1, 10, true), candidate(2, rtt_ms, false)];
        // A view of one is the nearest.
        assert_eq!(choose(&node(0), &near(9), 1), BTreeSet::from([node(1)]));
        assert_eq!(choose(&node(0), &near(4), 1), BTreeSet::from([node(2)]));
    }
}
