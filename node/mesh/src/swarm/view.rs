//! The view: who is a neighbour, and so stays connected and is told of.

use std::time::{Duration, Instant};

use libp2p::PeerId;
use libp2p::swarm::dial_opts::PeerCondition;
use shoal_protocol::NodeId;

use super::Driver;
use crate::neighbours::{self, Candidate};
use crate::peer_id::peer_id;

/// How often the view is chosen anew although nobody came or went: distances change.
const CHOOSE_EVERY: Duration = Duration::from_secs(2);
/// How often those who are away are dialled.
const REDIAL_EVERY: Duration = Duration::from_secs(1);
/// Who was here within this time is dialled again and again: a cut that heals is noticed at once.
const LATELY: Duration = Duration::from_secs(15 * 60);
/// How long such a peer is left alone after a failure. Less than a dial takes to fail: a new one begins beside it, since what
/// the old one has sent into the cut is sent again only after a while.
const LATELY_REST_MAX: Duration = Duration::from_millis(500);
/// How many of them at once.
const REDIALS_MAX: usize = 8;

/// When it is looked at next.
pub(super) struct View {
    max: usize,
    choose: Instant,
    redial: Instant,
}

impl View {
    pub(super) fn new(max: usize, now: Instant) -> Self {
        Self { max, choose: now, redial: now }
    }

    /// Neighbours at most.
    pub(super) fn max(&self) -> usize {
        self.max
    }
}

impl Driver {
    pub(super) fn look_after_view(&mut self, now: Instant) {
        if now >= self.view.choose {
            self.choose_neighbours();
        }
        if now >= self.view.redial {
            self.view.redial = now + REDIAL_EVERY;
            self.redial(now);
        }
    }

    /// Brings the view up to date: who is in it is told of, and kept connected.
    pub(super) fn choose_neighbours(&mut self) {
        self.view.choose = Instant::now() + CHOOSE_EVERY;
        let candidates: Vec<Candidate> = self
            .shared
            .book()
            .iter()
            .filter(|(_, peer)| peer.identified && peer.is_connected())
            .map(|(node, peer)| Candidate { node: *node, rtt: peer.rtt(), neighbour: peer.neighbour })
            .collect();
        let chosen = neighbours::choose(&self.shared.me, &candidates, self.view.max);
        for candidate in candidates {
            let is_chosen = chosen.contains(&candidate.node);
            if is_chosen != candidate.neighbour {
                self.set_neighbour(candidate.node, is_chosen);
            }
        }
    }

    fn set_neighbour(&mut self, node: NodeId, is_neighbour: bool) {
        if let Some(entry) = self.shared.book_mut().get_mut(&node) {
            entry.neighbour = is_neighbour;
        }
        if let Some(peer) = peer_id(node) {
            self.swarm.behaviour_mut().lanes.keep(peer, is_neighbour);
        }
        if is_neighbour { self.outbox.met(node) } else { self.outbox.lost(node) }
    }

    /// The last connection with a neighbour has ended.
    pub(super) fn neighbour_lost(&mut self, node: NodeId, peer: PeerId) {
        self.swarm.behaviour_mut().lanes.keep(peer, false);
        self.outbox.lost(node);
        self.choose_neighbours();
    }

    /// Somebody has just gone who is there.
    pub(super) fn redial_soon(&mut self) {
        self.view.redial = Instant::now();
    }

    /// With room in the view, peers that were here and are away now are tried again.
    fn redial(&mut self, now: Instant) {
        let room = self.room().min(REDIALS_MAX);
        let away: Vec<Away> = {
            let book = self.shared.book();
            let away = book.iter().filter(|(_, peer)| !peer.is_connected() && peer.was_identified());
            let away = away.map(|(node, peer)| Away {
                redialled: peer.redialled,
                node: *node,
                peer: peer.peer_id,
                lately: now.duration_since(peer.since) < LATELY,
            });
            let gate = &self.swarm.behaviour().gate;
            let rested = away.filter(|away| match away.lately {
                true => !gate.is_resting_within(&away.peer, now, LATELY_REST_MAX),
                false => self.is_worth_a_dial(&away.peer, now),
            });
            longest_untried(rested.collect(), room)
        };
        for Away { node, peer, lately, .. } in away {
            if let Some(entry) = self.shared.book_mut().get_mut(&node) {
                entry.redialled = Some(now);
            }
            let condition = if lately { PeerCondition::Disconnected } else { PeerCondition::DisconnectedAndNotDialing };
            self.dial_if(condition, peer, Vec::new());
        }
    }
}

/// A peer that was here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Away {
    /// When it was last tried; none: it was not.
    redialled: Option<Instant>,
    node: NodeId,
    peer: PeerId,
    lately: bool,
}

/// So many of them: whoever is dead for good must not keep those from their turn who are back.
fn longest_untried(mut away: Vec<Away>, max: usize) -> Vec<Away> {
    away.sort_unstable();
    away.truncate(max);
    away
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everybody_who_is_away_has_a_turn() {
        let of =
            |number: u8| Away { redialled: None, node: NodeId([number; 32]), peer: PeerId::random(), lately: true };
        let (mut all, mut now, mut tried) = ((0..20).map(of).collect::<Vec<_>>(), Instant::now(), Vec::new());
        for _ in 0..3 {
            for next in longest_untried(all.clone(), REDIALS_MAX) {
                tried.push(next.node.0[0]);
                all[usize::from(next.node.0[0])].redialled = Some(now);
            }
            now += REDIAL_EVERY;
        }
        assert_eq!(tried[..20], (0..20).collect::<Vec<u8>>());
        assert_eq!(tried[20..], [0, 1, 2, 3], "then again from the first");
    }
}
