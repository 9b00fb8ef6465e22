//! What a home knows of a peer: the workers that it has by its own word, what is left of them, what it declined.
//!
//! A hint says how much was free when it was sent. What the home has placed since, or had not yet seen taken then, is
//! taken off; what has ended since is given back. All of it is a guess, and a wrong one costs a declined offer.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::object::function::Needs;
use shoal_protocol::object::worker::Offer;
use shoal_protocol::wire::peer::WorkerHint;
use shoal_protocol::{NodeId, ObjectId};

use crate::placement::fit;

/// Peers that a home knows at once. Why 256: four times the usual view, for those that a search brings in, and
/// placement looks at each of them.
pub(crate) const PEERS_MAX: usize = 256;

/// Shapes of needs for which a peer is known to decline. Why 64: what is forgotten too early costs one more offer.
const DECLINES_KEPT_MAX: usize = 64;

/// How long a peer that declined a run gets no other with the same needs, in milliseconds: so long the first time, twice
/// as long each further time in a row. Why 200: a few round trips, in which a slot may come free.
const DECLINE_FIRST_MS: u64 = 200;

/// The longest such pause, in milliseconds. Why 30 s: a function that has just been deployed is known there by then.
const DECLINE_MAX_MS: u64 = 30_000;

/// The longest such pause where it had no room, in milliseconds. Why 2 s: a slot may come free at any time, and what a hint
/// says of it is about that old.
const DECLINE_FULL_MAX_MS: u64 = 2_000;

/// A peer among the workers of a home.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) node: NodeId,
    /// Whether a hint has come since it attached.
    pub(crate) hinted: bool,
    /// There and back, in microseconds, as the edge has measured it.
    pub(crate) rtt_us: u64,
    rooms: Vec<Room>,
    /// Where the home's runs are counted: the place among `rooms`; none: a hint no longer has it.
    held: BTreeMap<ObjectId, Held>,
    declines: BTreeMap<Needs, Decline>,
}

/// One worker behind a peer, and what the home believes to be left of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) offer: Offer,
    free_slots: i64,
    free_memory_mb: i64,
}

#[derive(Debug, Clone, Copy)]
struct Held {
    room: Option<usize>,
    memory_mb: u32,
}

/// What a peer said when it declined runs with some needs.
#[derive(Debug)]
struct Decline {
    until_ms: u64,
    in_a_row: u32,
    why: String,
}

impl Room {
    fn of(hint: WorkerHint) -> Self {
        let free_slots = i64::from(hint.free_slots.min(hint.offer.slots));
        let free_memory_mb = i64::from(hint.free_memory_mb.min(hint.offer.memory_mb));
        Self { offer: hint.offer, free_slots, free_memory_mb }
    }

    pub(crate) fn has_slot(&self) -> bool {
        self.free_slots > 0
    }

    pub(crate) fn has_memory(&self, memory_mb: u32) -> bool {
        self.free_memory_mb >= i64::from(memory_mb)
    }

    /// Quarters of its slots that are free, rounded up.
    pub(crate) fn free_quarters(&self) -> i64 {
        (self.free_slots * 4 + i64::from(self.offer.slots) - 1) / i64::from(self.offer.slots.max(1))
    }

    fn take(&mut self, memory_mb: u32) {
        self.free_slots -= 1;
        self.free_memory_mb -= i64::from(memory_mb);
    }

    fn give_back(&mut self, memory_mb: u32) {
        self.free_slots = (self.free_slots + 1).min(i64::from(self.offer.slots));
        self.free_memory_mb = (self.free_memory_mb + i64::from(memory_mb)).min(i64::from(self.offer.memory_mb));
    }
}

impl Peer {
    /// A peer that has said nothing yet.
    pub(crate) fn new(node: NodeId) -> Self {
        Self { node, hinted: false, rtt_us: 0, rooms: Vec::new(), held: BTreeMap::new(), declines: BTreeMap::new() }
    }

    /// It has attached again: what it said on its former connection says nothing.
    pub(crate) fn attached(&mut self, rtt_us: u64) {
        self.hinted = false;
        self.rtt_us = rtt_us;
        self.rooms.clear();
        self.declines.clear();
        self.held.values_mut().for_each(|held| held.room = None);
    }

    /// A hint has come. `seen` says of a run whether the peer had shown by then that it has it: then the hint counts it.
    pub(crate) fn hint(&mut self, workers: Vec<WorkerHint>, seen: impl Fn(ObjectId) -> bool) {
        let former = std::mem::take(&mut self.rooms);
        self.hinted = true;
        self.rooms = workers.into_iter().map(Room::of).collect();
        for (job, held) in &mut self.held {
            // Workers of one offer are as good as each other, whichever of them it was.
            let offer = held.room.take().and_then(|room| former.get(room)).map(|room| &room.offer);
            held.room = offer.and_then(|offer| self.rooms.iter().position(|room| room.offer == *offer));
            let room = held.room.and_then(|room| self.rooms.get_mut(room));
            if let Some(room) = room.filter(|_| !seen(*job)) {
                room.take(held.memory_mb);
            }
        }
    }

    /// The workers behind it, the freest first by its own word.
    pub(crate) fn rooms(&self) -> &[Room] {
        &self.rooms
    }

    /// The best room for a run now, and its place: the freest that fits.
    pub(crate) fn room_for(&self, needs: &Needs) -> Option<(usize, &Room)> {
        let fits = |room: &Room| fit(&room.offer, needs).is_ok() && room.has_slot() && room.has_memory(needs.memory());
        let rooms = self.rooms.iter().enumerate().filter(|(_, room)| fits(room));
        rooms.max_by_key(|(place, room)| (room.free_quarters(), Reverse(*place)))
    }

    /// A run goes there.
    pub(crate) fn take(&mut self, job: ObjectId, needs: &Needs) {
        let (room, memory_mb) = (self.room_for(needs).map(|(place, _)| place), needs.memory());
        if let Some(room) = room.and_then(|place| self.rooms.get_mut(place)) {
            room.take(memory_mb);
        }
        self.held.insert(job, Held { room, memory_mb });
    }

    /// A run is gone from there: what it had is free, as far as the home can know.
    pub(crate) fn release(&mut self, job: ObjectId) {
        let Some(held) = self.held.remove(&job) else { return };
        if let Some(room) = held.room.and_then(|room| self.rooms.get_mut(room)) {
            room.give_back(held.memory_mb);
        }
    }

    /// A run counts no more and may still be under way there: what it has is free when a hint says so.
    pub(crate) fn abandon(&mut self, job: ObjectId) {
        self.held.remove(&job);
    }

    /// It declined a run, for want of room or for a lasting reason. Until when it gets no other one with these needs. What
    /// it declines during such a pause was on its way before, and makes the pause no longer.
    pub(crate) fn declined(&mut self, needs: &Needs, full: bool, why: String, now_ms: u64) -> u64 {
        let longest_ms = if full { DECLINE_FULL_MAX_MS } else { DECLINE_MAX_MS };
        let known = self.declines.remove(needs);
        let (until_ms, in_a_row) = match known {
            Some(decline) if decline.until_ms > now_ms => (decline.until_ms, decline.in_a_row),
            known => {
                let in_a_row = known.map_or(0, |decline| decline.in_a_row).saturating_add(1);
                let doublings = in_a_row.saturating_sub(1).min(16);
                (now_ms.saturating_add((DECLINE_FIRST_MS << doublings).min(longest_ms)), in_a_row)
            }
        };
        if self.declines.len() >= DECLINES_KEPT_MAX {
            let first =
                self.declines.iter().min_by_key(|(_, decline)| decline.until_ms).map(|(needs, _)| needs.clone());
            first.and_then(|needs| self.declines.remove(&needs));
        }
        self.declines.insert(needs.clone(), Decline { until_ms, in_a_row, why });
        until_ms
    }

    /// It took a run with these needs.
    pub(crate) fn took(&mut self, needs: &Needs) {
        self.declines.remove(needs);
    }

    /// What it said a moment ago when it declined a run with these needs.
    pub(crate) fn declines(&self, needs: &Needs, now_ms: u64) -> Option<&str> {
        let decline = self.declines.get(needs).filter(|decline| decline.until_ms > now_ms)?;
        Some(&decline.why)
    }

    /// What it declines at the moment, in its words.
    pub(crate) fn declining(&self, now_ms: u64) -> BTreeSet<&str> {
        let declines = self.declines.values().filter(|decline| decline.until_ms > now_ms);
        declines.map(|decline| decline.why.as_str()).collect()
    }

    /// Slots of all its workers, and how many of them are believed to be free.
    pub(crate) fn slots(&self) -> (u32, u32) {
        let all = self.rooms.iter().map(|room| room.offer.slots).fold(0, u32::saturating_add);
        let free = self.rooms.iter().map(|room| u32::try_from(room.free_slots).unwrap_or(0));
        (all, free.fold(0, u32::saturating_add))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(n: u64) -> ObjectId {
        ObjectId::from_parts(n, 0, [0; 8])
    }

    fn needs(memory_mb: u32) -> Needs {
        Needs { memory_mb: Some(memory_mb), ..Needs::default() }
    }

    fn hint(slots: u32, free_slots: u32, memory_mb: u32) -> WorkerHint {
        let offer = Offer { slots, memory_mb, ..Offer::default() };
        WorkerHint { offer, free_slots, free_memory_mb: memory_mb }
    }

    #[test]
    fn what_was_placed_since_a_hint_is_taken_off_it() {
        let mut peer = Peer::new(NodeId([1; 32]));
        peer.hint(vec![hint(4, 2, 1_000), hint(2, 1, 1_000)], |_| true);
        for n in 1..=3 {
            assert!(peer.room_for(&needs(100)).is_some());
            peer.take(job(n), &needs(100));
        }
        assert!(peer.room_for(&needs(100)).is_none());
        peer.release(job(2));
        assert!(peer.room_for(&needs(100)).is_some() && peer.room_for(&needs(1_001)).is_none());
        // A new hint counts what the peer has shown to have; what was on its way is taken off again.
        peer.hint(vec![hint(2, 1, 1_000), hint(4, 2, 1_000)], |run| run == job(1));
        assert_eq!(peer.slots(), (6, 2));
        peer.hint(vec![hint(3, 1, 1_000)], |_| false);
        assert_eq!(peer.slots(), (3, 1), "of a worker that is no longer told of nothing is taken off");
        peer.release(job(1));
        assert_eq!(peer.slots(), (3, 1));
    }

    #[test]
    fn memory_is_taken_off_as_slots_are() {
        let mut peer = Peer::new(NodeId([1; 32]));
        peer.hint(vec![hint(4, 4, 1_000)], |_| true);
        peer.take(job(1), &needs(700));
        assert!(peer.room_for(&needs(400)).is_none() && peer.room_for(&needs(300)).is_some());
        peer.abandon(job(1));
        assert!(peer.room_for(&needs(400)).is_none(), "it may still be under way");
        // A peer that promises more than it has is believed no further than that.
        peer.hint(vec![WorkerHint { free_slots: 9, free_memory_mb: 9_000, ..hint(1, 1, 500) }], |_| true);
        assert_eq!(peer.slots(), (1, 1));
        assert!(peer.room_for(&needs(501)).is_none());
    }

    #[test]
    fn the_pause_after_a_decline_grows_up_to_a_bound() {
        let mut peer = Peer::new(NodeId([1; 32]));
        let mut now_ms = 0;
        let mut pauses = Vec::new();
        for _ in 0..12 {
            let until_ms = peer.declined(&needs(1), false, "no".into(), now_ms);
            assert_eq!(
                peer.declined(&needs(1), false, "no".into(), now_ms + 1),
                until_ms,
                "the same reason, at the same time"
            );
            assert!(peer.declines(&needs(1), until_ms - 1).is_some() && peer.declines(&needs(1), until_ms).is_none());
            pauses.push(until_ms - now_ms);
            now_ms = until_ms;
        }
        assert_eq!((pauses[0], pauses[1], pauses[11]), (DECLINE_FIRST_MS, 2 * DECLINE_FIRST_MS, DECLINE_MAX_MS));
        assert_eq!(peer.declined(&needs(1), true, "full".into(), now_ms), now_ms + DECLINE_FULL_MAX_MS);
        peer.took(&needs(1));
        assert_eq!(peer.declined(&needs(1), false, "no".into(), now_ms), now_ms + DECLINE_FIRST_MS);
        assert!(peer.declines(&needs(2), now_ms).is_none());
        for n in 0..200 {
            peer.declined(&needs(n), false, "no".into(), now_ms);
        }
        assert_eq!(peer.declines.len(), DECLINES_KEPT_MAX);
    }
}
