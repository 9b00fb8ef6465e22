//! Nodes with sets, and a wire between two of them.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_crdt::reconcile::{Held, Index, Report, Session, Step, Stored};
use shoal_protocol::codec::{self, FRAME_HEADER_LEN};
use shoal_protocol::key::Signature;
use shoal_protocol::wire::sync::{BATCHES_UNTAKEN_MAX, ItemHash, SYNC_FRAME_LEN_MAX, SetKind, SignedItem, SyncMessage};

use crate::world::Chance;

/// What an edge does for a session.
pub(crate) trait Node {
    fn index(&self) -> &Index;
    fn read(&self, held: &Held) -> Option<SignedItem>;
    fn store(&mut self, items: Vec<SignedItem>) -> Stored;
}

/// An item of `len` bytes, another one for each number.
pub(crate) fn item(n: u64, len: usize) -> SignedItem {
    let mut bytes = n.to_be_bytes().to_vec();
    bytes.resize(len.max(8), 0);
    SignedItem { bytes: bytes.into(), signature: Signature([1; 64]) }
}

/// A node that takes everything.
#[derive(Default)]
pub(crate) struct Plain {
    pub(crate) index: Index,
    items: BTreeMap<ItemHash, SignedItem>,
    last_place: u64,
}

impl Plain {
    pub(crate) fn of(items: impl IntoIterator<Item = SignedItem>) -> Self {
        let mut node = Self::default();
        for item in items {
            node.add(item);
        }
        node
    }

    pub(crate) fn numbers(numbers: impl IntoIterator<Item = u64>) -> Self {
        Self::of(numbers.into_iter().map(|n| item(n, 100)))
    }

    pub(crate) fn add(&mut self, item: SignedItem) -> bool {
        let hash = item.hash();
        self.last_place += 1;
        self.items.insert(hash, item);
        self.index.insert(self.last_place, hash)
    }

    pub(crate) fn remove(&mut self, hash: &ItemHash) {
        self.items.remove(hash);
        self.index.remove(hash);
    }

    /// Leaves out places up to this one.
    pub(crate) fn skip_places(&mut self, last: u64) {
        self.last_place = last;
    }

    pub(crate) fn set(&self) -> BTreeSet<ItemHash> {
        self.items.keys().copied().collect()
    }
}

impl Node for Plain {
    fn index(&self) -> &Index {
        &self.index
    }

    fn read(&self, held: &Held) -> Option<SignedItem> {
        assert_eq!(self.index.place(&held.item), Some(held.place));
        self.items.get(&held.item).cloned()
    }

    fn store(&mut self, items: Vec<SignedItem>) -> Stored {
        let count = items.len();
        let taken = items.into_iter().filter(|item| self.add(item.clone())).count();
        Stored { taken, idle: count - taken, ..Stored::default() }
    }
}

/// What a session took.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) reports: [Report; 2],
    /// From the initiator to the responder, and back.
    pub(crate) bytes: [usize; 2],
    pub(crate) messages: [usize; 2],
    /// The longest frame.
    pub(crate) frame_len: usize,
}

#[derive(Default)]
struct Edge {
    inbox: VecDeque<Vec<u8>>,
    reads: Vec<(Vec<Held>, usize)>,
    stores: VecDeque<Vec<SignedItem>>,
    report: Option<Report>,
}

struct Wire {
    edges: [Edge; 2],
    bytes: [usize; 2],
    messages: [usize; 2],
    frame_len: usize,
}

impl Wire {
    fn send(&mut self, from: usize, message: &SyncMessage) {
        let frame = codec::frame(message, SYNC_FRAME_LEN_MAX).expect("every message fits into a frame");
        self.bytes[from] += frame.len();
        self.messages[from] += 1;
        self.frame_len = self.frame_len.max(frame.len());
        self.edges[1 - from].inbox.push_back(frame);
    }

    fn take(&mut self, at: usize, steps: Vec<Step>) {
        for step in steps {
            assert!(self.edges[at].report.is_none(), "nothing follows the end: {step:?}");
            match step {
                Step::Send(message) => self.send(at, &message),
                Step::Read { items, len_max } => self.edges[at].reads.push((items, len_max)),
                Step::Store(items) => self.edges[at].stores.push_back(items),
                Step::Done(report) => self.edges[at].report = Some(report),
            }
        }
        assert!(self.edges[at].reads.len() <= 1, "one read at a time");
        assert!(self.edges[at].stores.len() <= BATCHES_UNTAKEN_MAX, "two batches at a time");
    }
}

/// Runs one session, in any order in which the edges may do their work; `meddle` is called before every step.
pub(crate) fn run<A: Node, B: Node>(
    set: SetKind,
    a: &mut A,
    b: &mut B,
    seed: u64,
    mut meddle: impl FnMut(usize, &mut A, &mut B),
) -> Run {
    let mut chance = Chance(seed);
    let (initiator, open) = Session::initiate(set, a.index());
    let mut sessions = [initiator, Session::respond(set, b.index())];
    let mut wire = Wire { edges: Default::default(), bytes: [0; 2], messages: [0; 2], frame_len: 0 };
    wire.send(0, &open);
    for number in 0.. {
        meddle(number, a, b);
        let works = |at: usize| {
            let edge = &wire.edges[at];
            let open = edge.report.is_none();
            [!edge.inbox.is_empty() && open, !edge.reads.is_empty(), !edge.stores.is_empty()]
        };
        let possible: Vec<(usize, usize)> = (0..2)
            .flat_map(|at| works(at).into_iter().enumerate().filter(|(_, can)| *can).map(move |(work, _)| (at, work)))
            .collect();
        if possible.is_empty() {
            break;
        }
        let (at, work) = possible[chance.below(possible.len())];
        let node: &mut dyn Node = if at == 0 { a } else { b };
        let session = &mut sessions[at];
        let edge = &mut wire.edges[at];
        let steps = match work {
            0 => {
                let frame = edge.inbox.pop_front().unwrap();
                session.receive(node.index(), codec::decode(&frame[FRAME_HEADER_LEN..]).unwrap())
            }
            1 => {
                let (items, len_max) = edge.reads.pop().unwrap();
                let mut len = 0;
                let enough = |found: &Option<SignedItem>| {
                    let before = std::mem::replace(&mut len, 0);
                    len = before + found.as_ref().map_or(0, |item| item.bytes.len());
                    before < len_max
                };
                let found = items.iter().map(|held| node.read(held)).take_while(enough).collect();
                Ok(session.read(node.index(), found))
            }
            _ => {
                let stored = node.store(edge.stores.pop_front().unwrap());
                session.stored(node.index(), stored)
            }
        };
        wire.take(at, steps.unwrap_or_else(|misbehaviour| panic!("{at} is honest: {misbehaviour}")));
        assert!(number < 100_000, "a session ends");
    }
    let report = |at: usize| wire.edges[at].report.expect("both sessions end by themselves");
    Run { reports: [report(0), report(1)], bytes: wire.bytes, messages: wire.messages, frame_len: wire.frame_len }
}

/// One session of two sets that nobody else touches.
pub(crate) fn reconcile<A: Node, B: Node>(a: &mut A, b: &mut B, seed: u64) -> Run {
    run(SetKind::Changes, a, b, seed, |_, _, _| {})
}
