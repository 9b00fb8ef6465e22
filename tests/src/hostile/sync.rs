//! Reconciliation: whole sessions of two nodes of which one is hostile at one point, from either side.
//!
//! Until then both are honest, so that every phase is met; then one message is changed. The honest side must end the
//! session or go on with it, within what a session may cost.

use std::collections::VecDeque;

use shoal_crdt::reconcile::{Index, Session, Step, Stored};
use shoal_protocol::codec;
use shoal_protocol::key::Signature;
use shoal_protocol::wire::sync::{SYNC_FRAME_LEN_MAX, SetKind, SignedItem, SyncMessage};

use super::mutate::{below, mutated_until};
use super::{Stopwatch, Target};
use crate::sim::random::Random;

/// Items that both nodes hold.
const COMMON: u64 = 5_000;
/// Items that only one of them holds.
const OWN: u64 = 40;
/// Messages of a session at most: honest ones of these sets take a dozen.
const MESSAGES_MAX: usize = 100;
/// Messages that are remembered, to be changed, or to come into others.
const SEEN_MAX: usize = 200;

struct Sync {
    /// Of the initiator, and of the responder.
    sets: [Index; 2],
    /// Frames of earlier sessions.
    seen: Vec<Vec<u8>>,
}

/// Two nodes with much in common.
pub fn make(_: &mut Random) -> Box<dyn Target> {
    let set = |own: u64| {
        let mut index = Index::default();
        for n in (0..COMMON).chain(own..own + OWN) {
            index.insert(n + 1, item(n).hash());
        }
        index
    };
    Box::new(Sync { sets: [set(COMMON), set(COMMON + OWN)], seen: Vec::new() })
}

fn item(n: u64) -> SignedItem {
    SignedItem { bytes: n.to_be_bytes().repeat(10).into(), signature: Signature([1; 64]) }
}

/// A session under way.
struct Talk<'a> {
    sets: &'a [Index; 2],
    sessions: [Session; 2],
    /// What each is to be sent.
    inboxes: [VecDeque<Vec<u8>>; 2],
}

impl Talk<'_> {
    /// Does what a side's session says, as a node does that takes everything and changes nothing.
    fn take(&mut self, at: usize, steps: Vec<Step>) -> bool {
        let mut steps = VecDeque::from(steps);
        while let Some(step) = steps.pop_front() {
            let (Some(index), Some(session)) = (self.sets.get(at), self.sessions.get_mut(at)) else { return false };
            match step {
                Step::Send(message) => {
                    let bytes = codec::encode(&message);
                    assert!(bytes.len() <= SYNC_FRAME_LEN_MAX, "an honest node sends {} bytes", bytes.len());
                    if let Some(inbox) = self.inboxes.get_mut(1 - at) {
                        inbox.push_back(bytes);
                    }
                }
                Step::Read { items, .. } => {
                    let found = items.iter().map(|held| Some(item(held.place.saturating_sub(1))));
                    steps.extend(session.read(index, found.collect()));
                }
                Step::Store(items) => match session.stored(index, Stored { taken: items.len(), ..Stored::default() }) {
                    Ok(more) => steps.extend(more),
                    Err(_) => return false,
                },
                Step::Done(_) => return false,
            }
        }
        true
    }
}

impl Target for Sync {
    fn feed(&mut self, random: &mut Random, stopwatch: &mut Stopwatch) -> bool {
        let (initiator, responder) = match &self.sets {
            [ours, theirs] => (Session::initiate(SetKind::Changes, ours), Session::respond(SetKind::Changes, theirs)),
        };
        let open = codec::encode(&initiator.1);
        let inboxes = [VecDeque::new(), VecDeque::from([open])];
        let mut talk = Talk { sets: &self.sets, sessions: [initiator.0, responder], inboxes };
        let lies_at = below(10, random);
        let mut passed = true;
        let mut seen = Vec::new();
        for number in 0..MESSAGES_MAX {
            let Some(at) = talk.inboxes.iter().position(|inbox| !inbox.is_empty()) else { break };
            let Some(mut bytes) = talk.inboxes.get_mut(at).and_then(VecDeque::pop_front) else { break };
            let (Some(index), Some(session)) = (self.sets.get(at), talk.sessions.get_mut(at)) else { break };
            seen.push(bytes.clone());
            if number == lies_at || number > 10 {
                // Its own message made wrong, or a message of another time.
                let other = random.pick(&self.seen).filter(|_| random.percent(20));
                bytes = mutated_until::<SyncMessage>(other.unwrap_or(&bytes), &self.seen, random);
            }
            if bytes.len() > SYNC_FRAME_LEN_MAX {
                passed = false;
                break;
            }
            let received =
                stopwatch.time(|| codec::decode::<SyncMessage>(&bytes).map(|message| session.receive(index, message)));
            match received {
                Ok(Ok(steps)) => {
                    if !talk.take(at, steps) {
                        break;
                    }
                }
                Ok(Err(_)) => break,
                Err(_) => {
                    passed = false;
                    break;
                }
            }
        }
        self.seen.extend(seen);
        let beyond = self.seen.len().saturating_sub(SEEN_MAX);
        self.seen.drain(..beyond);
        passed
    }
}
