//! A fingerprint is a function of the set, and of nothing else.

use std::collections::BTreeSet;

use proptest::prelude::*;
use shoal_crdt::reconcile::Index;
use shoal_protocol::wire::sync::{CHILDREN, Fingerprint, ItemHash, LEAF_ITEMS_MAX, Prefix};

use crate::world::Chance;

/// The definition in the protocol, without a tree.
fn defined(items: &BTreeSet<ItemHash>, prefix: Prefix) -> Fingerprint {
    let below: BTreeSet<ItemHash> = items.iter().filter(|item| prefix.contains(item)).copied().collect();
    if below.is_empty() {
        return Fingerprint([0; 32]);
    }
    let mut hasher = blake3::Hasher::new();
    if below.len() <= LEAF_ITEMS_MAX {
        hasher.update(&[0]);
        for item in &below {
            hasher.update(&item.0);
        }
    } else {
        hasher.update(&[1]);
        for digit in 0..CHILDREN {
            hasher.update(&defined(&below, prefix.child(digit).unwrap()).0);
        }
    }
    Fingerprint(*hasher.finalize().as_bytes())
}

fn item(n: u64) -> ItemHash {
    ItemHash::of(&n.to_be_bytes())
}

#[test]
fn golden_fingerprints() {
    let root = |count| {
        let mut index = Index::new();
        (0..count).for_each(|n| assert!(index.insert(n, item(n))));
        index.root().to_string()
    };
    assert_eq!([0, 1, 64, 1000].map(root), GOLDEN);
}

/// Of 0, 1, 64 and 1,000 items, computed by another program from the definition.
const GOLDEN: [&str; 4] = [
    "0000000000000000000000000000000000000000000000000000000000000000",
    "b834e2ae08dfbfbb4cd6da11b95b34fc70dc87207273c0da6899ec8692058c21",
    "bb74d78927058a11a9c8dce16b10111235adccf5bfd84afa6b421d779d8bfeeb",
    "b82487b09bea490f1b7f6a4b9e7dad0fe9656bbfcd2bc52b493305646bbaa5dc",
];

#[test]
fn items_with_a_long_common_prefix_have_fingerprints_too() {
    let ground = |n: u8| {
        let mut bytes = [7; 32];
        bytes[31] = n;
        ItemHash(bytes)
    };
    let mut index = Index::new();
    let items: BTreeSet<ItemHash> = (0..=255).map(ground).collect();
    for (place, item) in (0..).zip(&items) {
        assert!(index.insert(place, *item));
    }
    let mut prefix = Prefix::ROOT;
    while let Some(child) = prefix.child(ground(0).digit(prefix.len())) {
        assert_eq!(index.fingerprint(&child), defined(&items, child));
        prefix = child;
    }
    assert_eq!(prefix.len(), 63);
    assert_eq!(index.children(&prefix), None);
    for item in items.iter().skip(1) {
        assert!(index.remove(item));
    }
    assert_eq!(index.root(), defined(&BTreeSet::from([ground(0)]), Prefix::ROOT));
}

#[test]
fn what_cannot_be_put_in_changes_nothing() {
    let mut index = Index::new();
    assert!(index.insert(5, item(1)));
    let root = index.root();
    assert!(!index.insert(6, item(1)), "it is there");
    assert!(!index.insert(5, item(2)), "its place is taken");
    assert!(!index.insert(4, item(2)), "its place is below");
    assert!(!index.remove(&item(2)));
    assert_eq!((index.root(), index.len()), (root, 1));
    assert_eq!((index.place(&item(1)), index.at(5), index.at(6)), (Some(5), Some(item(1)), None));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    /// Whatever went in and out, in whatever order, with fingerprints taken at any time.
    #[test]
    fn it_is_that_of_the_definition(
        steps in prop::collection::vec((0..400u64, 0..3u8), 0..3000),
        spread in prop_oneof![Just(400u64), Just(40_000)],
        seed: u64,
    ) {
        let mut chance = Chance(seed);
        let mut index = Index::new();
        let mut model: BTreeSet<ItemHash> = BTreeSet::new();
        let mut arrivals: Vec<(u64, ItemHash)> = Vec::new();
        for (place, (n, action)) in (1..).zip(steps) {
            let item = item(n + chance.next() % spread);
            if action < 2 {
                let new = index.insert(place, item);
                prop_assert_eq!(new, model.insert(item));
                arrivals.extend(new.then_some((place, item)));
            } else {
                prop_assert_eq!(index.remove(&item), model.remove(&item));
                arrivals.retain(|(_, other)| *other != item);
            }
            if chance.below(50) == 0 {
                prop_assert_eq!(index.root(), defined(&model, Prefix::ROOT));
            }
        }
        prop_assert_eq!(index.len(), model.len());
        prop_assert!(index.iter().map(|held| (held.place, held.item)).eq(arrivals.iter().copied()));
        let found = |(place, item): &(u64, ItemHash)| index.at(*place) == Some(*item) && index.place(item) == Some(*place);
        prop_assert!(arrivals.iter().all(found));
        for length in 0..5 {
            let path = item(seed ^ length);
            let prefix = (0..length as usize).fold(Prefix::ROOT, |prefix, at| prefix.child(path.digit(at)).unwrap());
            prop_assert_eq!(index.fingerprint(&prefix), defined(&model, prefix));
            let below: Vec<ItemHash> = model.iter().filter(|item| prefix.contains(item)).copied().collect();
            prop_assert_eq!(index.count(&prefix), below.len());
            prop_assert!(index.under(&prefix).iter().map(|held| held.item).eq(below));
        }
    }
}

#[test]
fn places_stay_when_the_log_is_packed() {
    let mut index = Index::new();
    for n in 1..=10_000 {
        index.insert(n, item(n));
    }
    for n in (1..=10_000).filter(|n| n % 7 != 0) {
        assert!(index.remove(&item(n)));
    }
    let left: BTreeSet<ItemHash> = (1..=10_000).filter(|n| n % 7 == 0).map(item).collect();
    assert_eq!(index.root(), defined(&left, Prefix::ROOT));
    assert!(index.iter().all(|held| held.place % 7 == 0 && held.item == item(held.place)));
    assert!((1..=10_000).all(|n| index.place(&item(n)) == (n % 7 == 0).then_some(n)));
    assert!(!index.insert(10_000, item(20_000)), "a place is used once, also when its item is gone");
    assert!(index.insert(10_001, item(20_000)));
    assert_eq!(index.at(10_001), Some(item(20_000)));
}
