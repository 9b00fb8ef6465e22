//! Sets that differ in any way are the same after one session, at a cost that follows the difference.

use proptest::prelude::*;
use shoal_crdt::reconcile::Verdict;
use shoal_protocol::wire::sync::{ITEM_LEN_MAX, SYNC_FRAME_LEN_MAX};

use crate::nodes::{Plain, item, reconcile};
use crate::world::Chance;

const KIB: usize = 1024;

#[test]
fn equal_sets_are_told_by_one_message_each_way() {
    for count in [0, 1, 16, 17, 64, 65, 10_000, 100_000] {
        let (mut a, mut b) = (Plain::numbers(0..count), Plain::numbers((0..count).rev()));
        let run = reconcile(&mut a, &mut b, 1);
        println!("{count} equal items: {:?} bytes, {:?} messages", run.bytes, run.messages);
        assert_eq!(run.reports.map(|report| report.verdict), [Verdict::Equal; 2]);
        assert_eq!(run.messages, [1, 1]);
        assert!(run.bytes.iter().all(|bytes| *bytes < 120), "{count}: {:?}", run.bytes);
        assert_eq!(run.reports.map(|report| (report.own_count, report.peer_count)), [(count, count); 2]);
    }
}

#[test]
fn an_empty_node_gets_everything_in_bulk_and_in_order() {
    for empty_initiates in [true, false] {
        let (mut full, mut empty) = (Plain::default(), Plain::default());
        let mut payload = 0;
        for n in 0..10_000 {
            let item = item(n, 300 + (n % 400) as usize);
            payload += item.bytes.len() + 64;
            full.add(item);
        }
        let run = match empty_initiates {
            true => reconcile(&mut empty, &mut full, 2),
            false => reconcile(&mut full, &mut empty, 2),
        };
        let (from_full, from_empty) = if empty_initiates { (1, 0) } else { (0, 1) };
        println!(
            "10,000 items of {payload} bytes to an empty node (which initiates: {empty_initiates}): {:?} bytes, {:?} messages",
            run.bytes, run.messages
        );
        assert_eq!(full.index.root(), empty.index.root());
        let order = |node: &Plain| node.index.iter().map(|held| held.item).collect::<Vec<_>>();
        assert!(order(&full) == order(&empty), "they come in the order in which the sender got them");
        assert_eq!(run.reports[from_full].sent, 10_000);
        assert_eq!(run.reports[from_empty].received, 10_000);
        assert!(run.bytes[from_full] < payload * 11 / 10, "{:?} for {payload}", run.bytes);
        assert!(run.bytes[from_empty] < KIB, "{:?}", run.bytes);
        assert!(run.frame_len <= SYNC_FRAME_LEN_MAX);
        assert!(run.messages[from_full] < 50, "{:?}", run.messages);
    }
}

#[test]
fn small_differences_in_large_sets_cost_little() {
    for count in [10_000, 100_000] {
        for differences in [1, 10, 100] {
            let mut chance = Chance(differences);
            let (mut a, mut b) = (Plain::numbers(0..count), Plain::numbers(0..count));
            for n in 0..differences {
                let new = item(1_000_000 + n, 100);
                if chance.below(2) == 0 {
                    a.add(new)
                } else {
                    b.add(new)
                };
            }
            let run = reconcile(&mut a, &mut b, 3);
            println!(
                "{differences} differences in {count}: {:?} bytes, {:?} messages, {} rounds",
                run.bytes, run.messages, run.reports[0].rounds
            );
            assert_eq!(a.index.root(), b.index.root());
            let all = run.bytes[0] + run.bytes[1];
            assert!(all < 1000 + 3300 * differences as usize, "{all} bytes for {differences}");
            assert!(run.reports[0].rounds <= 7, "{:?}", run.reports);
        }
    }
}

#[test]
fn two_large_sets_with_little_in_common_become_one() {
    let (mut a, mut b) = (Plain::numbers(0..6_000), Plain::numbers(5_000..11_000));
    let run = reconcile(&mut a, &mut b, 4);
    println!("6,000 and 6,000 with 1,000 in common: {:?} bytes, {:?} messages", run.bytes, run.messages);
    assert_eq!(a.index.len(), 11_000);
    assert_eq!(a.index.root(), b.index.root());
    assert_eq!(run.reports.map(|report| (report.sent, report.received, report.idle)), [(5_000, 5_000, 0); 2]);
    assert!(run.frame_len <= SYNC_FRAME_LEN_MAX);
}

#[test]
fn the_largest_items_fit() {
    let (mut a, mut b) = (Plain::default(), Plain::of((0..50).map(|n| item(n, ITEM_LEN_MAX))));
    let run = reconcile(&mut a, &mut b, 5);
    assert_eq!(a.set(), b.set());
    assert!(run.frame_len <= SYNC_FRAME_LEN_MAX && run.frame_len > 3 * ITEM_LEN_MAX, "{}", run.frame_len);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn any_two_sets_become_their_union(
        common in 0..3000u64,
        only_a in prop_oneof![Just(0), 0..20u64, 0..2000u64],
        only_b in prop_oneof![Just(0), 0..20u64, 0..2000u64],
        lens in prop_oneof![4 => Just(100usize), 1 => 8..5000usize],
        seed: u64,
    ) {
        let range = |from: u64, count: u64| (from..from + count).map(move |n| item(n ^ seed, lens));
        let mut ours: Vec<_> = range(0, common).chain(range(1 << 40, only_a)).collect();
        let mut theirs: Vec<_> = range(0, common).chain(range(1 << 41, only_b)).collect();
        let mut chance = Chance(seed);
        chance.shuffle(&mut ours);
        chance.shuffle(&mut theirs);
        let (mut a, mut b) = (Plain::of(ours), Plain::of(theirs));
        let mut union = a.set();
        union.extend(b.set());
        let run = reconcile(&mut a, &mut b, seed);
        prop_assert!(a.set() == union && b.set() == union);
        prop_assert_eq!(a.index.root(), b.index.root());
        let [left, right] = run.reports;
        prop_assert_eq!((left.sent, left.received, left.idle), (only_a, only_b, 0));
        prop_assert_eq!((right.sent, right.received, right.idle), (only_b, only_a, 0));
        prop_assert!(run.frame_len <= SYNC_FRAME_LEN_MAX);
        // What is compared costs less than 3 KiB for each difference, what is sent little more than itself.
        let differences = (only_a + only_b) as usize;
        prop_assert!(run.bytes[0] + run.bytes[1] < 1000 + differences * (3 * KIB + lens), "{:?}", run);
        let again = reconcile(&mut a, &mut b, seed);
        prop_assert_eq!(again.reports.map(|report| report.verdict), [Verdict::Equal; 2]);
    }
}
