//! How much each peer gossips, and of what use that is. Without a clock of its own.
//!
//! A mesh may say more than a node takes in, and then each neighbour, who passes on what it is told, sends more than that
//! too. What is too much is not looked at, which speaks against nobody. Against a peer that sends too much speaks what
//! becomes of the part that is looked at: an honest one has taken each message itself before it passes it on, and does
//! that once.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

use libp2p::PeerId;

use crate::Verdict;

/// Messages of one peer that are looked at in a second. Why 2,000: a busy mesh pushes hundreds of changes a second, and a
/// peer each of them once. A slow node must see a flood too: what it cannot take in waits at the sender, and is not counted.
const MESSAGES_PER_SECOND_MAX: u64 = 2_000;
/// Seconds of a flood after which a peer is reported. Why 3: it is cut off within five, and a burst that long is none.
const FLOOD_SECONDS_MAX: u32 = 3;
/// Seconds within which a peer may still pass on what others have told first. Why 5: so long messages wait for it.
const LATE_SECONDS_MAX: usize = 5;
const SECOND: Duration = Duration::from_secs(1);

/// What one frame of a peer held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Frame {
    /// Messages. A frame may have none: what gossip says beside them.
    pub(super) messages: u64,
    /// Of these, those that are none of ours: of another topic, or too long.
    pub(super) wrong: u64,
    /// They were not looked at.
    pub(super) unread: bool,
}

/// What a peer has sent in a second, and what became of it.
#[derive(Debug, Default)]
struct Counts {
    /// Frames without a message count as one: they cost as much to read.
    messages: u64,
    unread: u64,
    wrong: u64,
    asides: u64,
    /// Messages that nobody had told of before.
    fresh: u64,
    taken: u64,
    useless: u64,
}

impl Counts {
    /// Whether this was a flood, while others have told of so many messages that were new here.
    fn is_flood(&self, by_others: u64) -> bool {
        let Self { messages, unread, wrong, asides, fresh, taken, useless } = *self;
        let again = messages.saturating_sub(unread + wrong + asides + fresh);
        let late = again.min(by_others);
        let bad = wrong + useless + (again - late) + asides.saturating_sub(by_others + fresh);
        messages > MESSAGES_PER_SECOND_MAX && bad > taken + late
    }
}

#[derive(Debug)]
struct Flow {
    begun: Instant,
    counts: Counts,
    /// Messages of it that were new here, in all.
    fresh: u64,
    /// How many of others had been new when the last seconds began, the latest first.
    by_others: VecDeque<u64>,
    /// Seconds in a row that were floods.
    floods: u32,
}

/// The flows of all peers.
#[derive(Debug, Default)]
pub(super) struct Flows {
    peers: HashMap<PeerId, Flow>,
    /// Messages that were new here, in all.
    fresh: u64,
}

impl Flows {
    /// Whether the peer has sent as much as is looked at in this second.
    pub(super) fn is_over(&self, peer: &PeerId, now: Instant) -> bool {
        self.peers.get(peer).is_some_and(|flow| {
            now.duration_since(flow.begun) < SECOND && flow.counts.messages > MESSAGES_PER_SECOND_MAX
        })
    }

    /// A frame has come. Whether its peer has flooded us for several seconds, and is to be kept out.
    pub(super) fn frame(&mut self, peer: PeerId, frame: Frame, now: Instant) -> bool {
        let fresh = self.fresh;
        let begin =
            || Flow { begun: now, counts: Counts::default(), fresh: 0, by_others: VecDeque::from([fresh]), floods: 0 };
        let flow = self.peers.entry(peer).or_insert_with(begin);
        let floods = now.duration_since(flow.begun) >= SECOND && flow.turn(fresh, now);
        let Frame { messages, wrong, unread } = frame;
        flow.counts.messages += messages.max(1);
        flow.counts.unread += if unread { messages } else { 0 };
        flow.counts.wrong += wrong;
        flow.counts.asides += u64::from(messages == 0);
        floods
    }

    /// A message of it was new here.
    pub(super) fn fresh(&mut self, peer: &PeerId) {
        self.fresh += 1;
        if let Some(flow) = self.peers.get_mut(peer) {
            flow.fresh += 1;
            flow.counts.fresh += 1;
        }
    }

    /// This node itself has told of something: it comes back from others.
    pub(super) fn published(&mut self) {
        self.fresh += 1;
    }

    /// What became of a message that was new here.
    pub(super) fn judged(&mut self, peer: &PeerId, verdict: Verdict) {
        let Some(flow) = self.peers.get_mut(peer) else { return };
        match verdict {
            Verdict::Accept => flow.counts.taken += 1,
            Verdict::Useless | Verdict::Reject => flow.counts.useless += 1,
            Verdict::Ignore => {}
        }
    }

    /// It has no connection any more.
    pub(super) fn gone(&mut self, peer: &PeerId) {
        self.peers.remove(peer);
    }
}

impl Flow {
    /// Ends a second, when so many messages have been new here. Whether it was the last of a flood.
    fn turn(&mut self, fresh: u64, now: Instant) -> bool {
        let counts = std::mem::take(&mut self.counts);
        let by_others = fresh.saturating_sub(self.fresh);
        let lately = by_others - self.by_others.back().copied().unwrap_or(by_others).min(by_others);
        self.floods = if counts.is_flood(lately) { self.floods + 1 } else { 0 };
        self.begun = now;
        self.by_others.truncate(LATE_SECONDS_MAX - 1);
        self.by_others.push_front(by_others);
        let floods = self.floods >= FLOOD_SECONDS_MAX;
        if floods {
            self.floods = 0;
        }
        floods
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(10);
    const EACH_TICK: u64 = 100;

    /// Messages of a peer, `EACH_TICK` in each tick of so many seconds. Of those that are looked at `of` says what becomes.
    /// When the peer was reported.
    fn sends(flows: &mut Flows, seconds: u64, frame: Frame, of: impl Fn(&mut Flows, &PeerId)) -> Option<Duration> {
        let (peer, begun) = (PeerId::random(), Instant::now());
        for tick in 0..seconds * 100 {
            let after = TICK * u32::try_from(tick).unwrap();
            let now = begun + after;
            for _ in 0..EACH_TICK {
                let unread = flows.is_over(&peer, now);
                if flows.frame(peer, Frame { unread, ..frame }, now) {
                    return Some(after);
                }
                if !unread {
                    of(flows, &peer);
                }
            }
        }
        None
    }

    const ONE: Frame = Frame { messages: 1, wrong: 0, unread: false };

    /// What is of use once, and then again and again.
    #[test]
    fn what_a_peer_has_told_of_itself_is_no_excuse_for_telling_it_again() {
        let (mut flows, told) = (Flows::default(), std::cell::Cell::new(0));
        let once = |flows: &mut Flows, peer: &PeerId| {
            if told.get() < 1_900 {
                told.set(told.get() + 1);
                flows.fresh(peer);
                flows.judged(peer, Verdict::Accept);
            }
        };
        let after = sends(&mut flows, 8, ONE, once).unwrap();
        assert!(
            after <= Duration::from_millis(4_100),
            "{after:?}: three seconds after the first, which was none of a flood"
        );
    }

    fn is_in_time(after: Option<Duration>) -> bool {
        after.is_some_and(|after| after <= Duration::from_millis(3_100))
    }

    #[test]
    fn a_flood_of_what_is_of_no_use_is_reported_in_time() {
        let useless = |flows: &mut Flows, peer: &PeerId| {
            flows.fresh(peer);
            flows.judged(peer, Verdict::Useless);
        };
        assert!(is_in_time(sends(&mut Flows::default(), 5, ONE, useless)));
        assert!(is_in_time(sends(&mut Flows::default(), 5, ONE, |_, _| {})), "the same message again and again");
        let wrong = Frame { wrong: 1, ..ONE };
        assert!(is_in_time(sends(&mut Flows::default(), 5, wrong, |_, _| {})));
        let aside = Frame { messages: 0, ..ONE };
        assert!(is_in_time(sends(&mut Flows::default(), 5, aside, |_, _| {})));
    }

    /// Three neighbours that pass on 5,000 messages a second, each of them all.
    fn busy_mesh(taken_of: u64) {
        let (mut flows, begun) = (Flows::default(), Instant::now());
        let peers: Vec<PeerId> = (0..3).map(|_| PeerId::random()).collect();
        for tick in 0..60 * 100 {
            let now = begun + TICK * tick;
            let mut known = 0;
            for peer in &peers {
                let mut seen = 0;
                for message in 0..50 {
                    let unread = flows.is_over(peer, now);
                    assert!(!flows.frame(*peer, Frame { unread, ..ONE }, now), "{now:?}");
                    if unread {
                        continue;
                    }
                    seen += 1;
                    if seen <= known {
                        continue;
                    }
                    known += 1;
                    flows.fresh(peer);
                    flows.judged(peer, if message % taken_of == 0 { Verdict::Accept } else { Verdict::Ignore });
                }
            }
        }
    }

    #[test]
    fn neighbours_that_pass_on_what_is_right_are_not_reported_however_much_it_is() {
        busy_mesh(1);
        // A slow node has no time for most of it.
        busy_mesh(25);
    }

    #[test]
    fn what_is_said_beside_messages_counts_only_beyond_what_there_is_to_say() {
        let mut flows = Flows::default();
        let aside = Frame { messages: 0, ..ONE };
        assert_eq!(sends(&mut flows, 20, aside, |flows, _| (0..5).for_each(|_| flows.published())), None);
    }

    #[test]
    fn a_peer_below_the_limit_is_not_reported() {
        let (mut flows, peer, begun) = (Flows::default(), PeerId::random(), Instant::now());
        for message in 0..20 * 1_900_u32 {
            let now = begun + SECOND * message / 1_900;
            assert!(!flows.frame(peer, ONE, now));
            flows.fresh(&peer);
            flows.judged(&peer, Verdict::Useless);
        }
    }
}
