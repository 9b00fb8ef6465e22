//! Sets that change while a session runs, and sets whose items replace one another.

use std::collections::BTreeMap;

use proptest::prelude::*;
use shoal_crdt::reconcile::{Held, Index, Stored, Verdict};
use shoal_protocol::key::Signature;
use shoal_protocol::wire::sync::{ItemHash, SetKind, SignedItem};

use crate::nodes::{Node, Plain, item, reconcile, run};
use crate::world::Chance;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn sets_that_change_meanwhile_lose_nothing(
        common in 0..2000u64,
        only_a in 0..1000u64,
        only_b in 0..1000u64,
        seed: u64,
    ) {
        let mut a = Plain::numbers((0..common).chain(1 << 40..(1 << 40) + only_a));
        let mut b = Plain::numbers((0..common).chain(1 << 41..(1 << 41) + only_b));
        let mut removed = Vec::new();
        let mut next = 1u64 << 42;
        let mut chance = Chance(seed);
        let meddle = |number: usize, a: &mut Plain, b: &mut Plain| {
            // New items on either side or, as gossip brings them, on both; and some that leave.
            if number > 500 {
                return;
            }
            for _ in 0..chance.below(4) {
                next += 1;
                let whom = chance.below(3);
                if whom != 1 {
                    a.add(item(next, 50));
                }
                if whom != 0 {
                    b.add(item(next, 50));
                }
            }
            if chance.below(5) == 0 {
                let gone = item(chance.next() % 2000, 100).hash();
                removed.push(gone);
                a.remove(&gone);
                b.remove(&gone);
            }
        };
        let first = run(SetKind::Changes, &mut a, &mut b, seed, meddle);
        prop_assert_eq!(first.reports.map(|report| report.verdict == Verdict::Unfinished), [false; 2]);
        for n in (1 << 40)..(1 << 40) + only_a {
            prop_assert!(b.index.contains(&item(n, 100).hash()), "what was there at the beginning has come over");
        }
        for n in (1 << 41)..(1 << 41) + only_b {
            prop_assert!(a.index.contains(&item(n, 100).hash()));
        }
        let second = reconcile(&mut a, &mut b, seed);
        prop_assert!(a.set() == b.set(), "and the rest with the next session: {:?}", second);
    }
}

/// A node whose entries have a key and a counter: of each key the highest (counter, bytes) stands.
#[derive(Default)]
struct Registers {
    index: Index,
    standing: BTreeMap<u16, SignedItem>,
    by_item: BTreeMap<ItemHash, u16>,
    last_place: u64,
}

fn entry(key: u16, counter: u32, node: u8) -> SignedItem {
    let bytes = [&key.to_be_bytes()[..], &counter.to_be_bytes(), &[node]].concat();
    SignedItem { bytes: bytes.into(), signature: Signature([0; 64]) }
}

impl Registers {
    fn put(&mut self, item: SignedItem) -> bool {
        let key = u16::from_be_bytes([item.bytes[0], item.bytes[1]]);
        if let Some(standing) = self.standing.get(&key) {
            if standing.bytes[..] >= item.bytes[..] {
                return false;
            }
            let old = standing.hash();
            self.index.remove(&old);
            self.by_item.remove(&old);
        }
        self.last_place += 1;
        assert!(self.index.insert(self.last_place, item.hash()));
        self.by_item.insert(item.hash(), key);
        self.standing.insert(key, item);
        true
    }
}

impl Node for Registers {
    fn index(&self) -> &Index {
        &self.index
    }

    fn read(&self, held: &Held) -> Option<SignedItem> {
        // It may have been replaced since the session asked for it.
        self.by_item.get(&held.item).and_then(|key| self.standing.get(key)).cloned()
    }

    fn store(&mut self, items: Vec<SignedItem>) -> Stored {
        let count = items.len();
        let taken = items.into_iter().filter(|item| self.put(item.clone())).count();
        Stored { taken, idle: count - taken, ..Stored::default() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn both_hold_the_same_winners_after_one_session(
        writes in prop::collection::vec((0..3000u16, 0..2usize, prop::bool::weighted(0.5)), 0..6000),
        seed: u64,
    ) {
        let mut nodes = [Registers::default(), Registers::default()];
        let mut winners: BTreeMap<u16, SignedItem> = BTreeMap::new();
        for (counter, (key, node, both)) in (1..).zip(writes) {
            let new = entry(key, counter, node as u8);
            winners.insert(key, new.clone());
            nodes[node].put(new.clone());
            if both {
                nodes[1 - node].put(new);
            }
        }
        let [a, b] = &mut nodes;
        let first = run(SetKind::Entries, a, b, seed, |_, _, _| {});
        prop_assert!(a.standing == winners && b.standing == winners);
        prop_assert!(first.reports.iter().all(|report| report.refused == 0));
        let second = run(SetKind::Entries, a, b, seed, |_, _, _| {});
        prop_assert_eq!(second.reports.map(|report| report.verdict), [Verdict::Equal; 2]);
    }
}

#[test]
fn ten_thousand_entries_that_are_all_superseded_are_no_misbehaviour() {
    let mut nodes = [Registers::default(), Registers::default()];
    for key in 0..10_000 {
        nodes[0].put(entry(key, 1, 0));
        nodes[1].put(entry(key, 2, 0));
    }
    let [a, b] = &mut nodes;
    let run = run(SetKind::Entries, a, b, 1, |_, _, _| {});
    println!("10,000 superseded entries: {:?} bytes, {:?} messages, {:?}", run.bytes, run.messages, run.reports);
    assert_eq!(a.index.root(), b.index.root());
    assert!(a.standing.values().all(|item| item.bytes[5] == 2));
}
