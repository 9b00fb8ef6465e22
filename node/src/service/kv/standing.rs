//! What stands at one key of the global store, and what becomes of one more entry. Without IO.
//!
//! Of the entries that set or remove a key the one with the highest (counter, node) stands; of each node's totals the one
//! with the highest (since, counter). Of two that are equal by that the one with the lower hash stands. A total that
//! follows an older tombstone than the entry that stands can never count again, and is over. So what stands is a function
//! of the entries that were seen, whatever their order and however often: nodes with the same entries hold the same rows.
//! There is one exception: of more totals than a key has room for those stay that came first. Whichever other rule chose,
//! somebody could make up nodes that win by it, and push out totals that count.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use shoal_kernel::kv;
use shoal_protocol::NodeId;
use shoal_protocol::codec;
use shoal_protocol::entry::{Content, Entry, SignedEntry};
use shoal_protocol::wire::sync::ItemHash;

use super::rows::TOTALS_MAX;

/// How far above what is known here a counter may be. Why 2^40: one key written 100,000 times a second gets there after
/// four months without a word from the mesh, while one who lies needs 16 million entries to use up a key's counters.
const AHEAD_MAX: u64 = 1 << 40;

/// An entry with its signed form and its name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Named {
    pub(super) signed: SignedEntry,
    pub(super) entry: Entry,
    pub(super) hash: ItemHash,
}

impl Named {
    /// Reads a signed entry without believing it.
    pub(super) fn read(signed: SignedEntry) -> Result<Self, codec::Error> {
        let entry = signed.decode()?;
        let hash = ItemHash::of(&signed.bytes);
        Ok(Self { signed, entry, hash })
    }

    /// What is compared: only with entries of the same kind, and totals only with those of the same node.
    fn rank(&self) -> (u64, u64, NodeId, Reverse<ItemHash>) {
        let Entry { counter, node, .. } = self.entry;
        match self.entry.content {
            Content::Total { since, .. } => (since, counter, node, Reverse(self.hash)),
            Content::Value(_) | Content::Tombstone => (counter, 0, node, Reverse(self.hash)),
        }
    }

    fn is_total(&self) -> bool {
        matches!(self.entry.content, Content::Total { .. })
    }

    /// Whether it is a total that follows an older tombstone than the entry with this counter. Not one that is as old:
    /// of several with this counter the tombstone may still come to stand.
    fn is_over(&self, register: u64) -> bool {
        matches!(self.entry.content, Content::Total { since, .. } if since < register)
    }
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    /// It stands. What it replaces does not any more.
    Stands,
    /// It, or one that replaces it, stands already.
    Superseded,
    /// Its counter is too far above what is known here.
    FarAhead,
    /// There are too many totals of other nodes.
    NoRoom,
}

/// The entries of one key that stand.
#[derive(Debug, Default)]
pub(super) struct Standing {
    register: Option<Named>,
    totals: BTreeMap<NodeId, Named>,
}

impl Standing {
    /// All of them.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Named> {
        self.register.iter().chain(self.totals.values())
    }

    /// What the rules of writing go by.
    pub(super) fn known(&self) -> kv::Known {
        kv::Known {
            register: self.register.as_ref().map(|named| named.entry.clone()),
            totals: self.totals.values().map(|named| named.entry.clone()).collect(),
        }
    }

    /// Puts an entry of this key in its place, if it has one.
    pub(super) fn take(&mut self, named: Named) -> Fate {
        if self.is_superseded(&named) {
            return Fate::Superseded;
        }
        if self.is_far_ahead(&named.entry) {
            return Fate::FarAhead;
        }
        // One row is the register's.
        if named.is_total() && !self.totals.contains_key(&named.entry.node) && self.totals.len() + 1 >= TOTALS_MAX {
            return Fate::NoRoom;
        }
        self.put(named);
        Fate::Stands
    }

    /// Puts an entry that was taken before in its place. Whether it has one: it may be over.
    pub(super) fn restore(&mut self, named: Named) -> bool {
        let stands = !self.is_superseded(&named);
        if stands {
            self.put(named);
        }
        stands
    }

    fn put(&mut self, named: Named) {
        if named.is_total() {
            self.totals.insert(named.entry.node, named);
        } else {
            let counter = named.entry.counter;
            self.totals.retain(|_, total| !total.is_over(counter));
            self.register = Some(named);
        }
    }

    fn is_superseded(&self, named: &Named) -> bool {
        let rival = if named.is_total() { self.totals.get(&named.entry.node) } else { self.register.as_ref() };
        rival.is_some_and(|rival| rival.rank() >= named.rank()) || named.is_over(self.counter())
    }

    /// That of the entry that set or removed the key; 0: none did.
    fn counter(&self) -> u64 {
        self.register.as_ref().map_or(0, |named| named.entry.counter)
    }

    fn is_far_ahead(&self, entry: &Entry) -> bool {
        let counting = self.totals.values().filter(|total| total.rank().0 == self.counter());
        let writes = counting.fold(0u64, |sum, total| sum.saturating_add(total.entry.counter));
        let known = self.counter().saturating_add(writes);
        let (place, own) = match entry.content {
            Content::Total { since, .. } => (since, entry.counter),
            Content::Value(_) | Content::Tombstone => (entry.counter, 0),
        };
        let own_known = self.totals.get(&entry.node).map_or(0, |total| total.entry.counter);
        place.saturating_sub(known) > AHEAD_MAX || own.saturating_sub(own_known) > AHEAD_MAX
    }
}

#[cfg(test)]
mod tests {
    use shoal_protocol::ObjectId;
    use shoal_protocol::entry::VERSION;
    use shoal_protocol::key::{PublicKey, SecretKey};
    use shoal_protocol::object::kv::Value;

    use super::*;

    fn named(node: u8, content: Content, counter: u64) -> Named {
        let key = SecretKey::from_bytes([node; 32]);
        let entry = Entry {
            version: VERSION,
            mesh: PublicKey([0; 32]),
            namespace: ObjectId::MIN,
            key: "k".into(),
            content,
            counter,
            node: key.public().into(),
            author: ObjectId::MIN,
            job: None,
        };
        Named::read(entry.sign(&key)).unwrap()
    }

    fn value(text: &str) -> Content {
        Content::Value(Value::Text(text.into()))
    }

    fn total(amount: i64, since: u64) -> Content {
        Content::Total { amount, since }
    }

    fn standing_of(entries: &[&Named]) -> Vec<ItemHash> {
        let mut standing = Standing::default();
        for named in entries {
            standing.take((*named).clone());
        }
        standing.iter().map(|named| named.hash).collect()
    }

    /// Calls `each` with every order of the items (Heap's algorithm).
    fn every_order<T>(items: &mut [T], len: usize, each: &mut impl FnMut(&[T])) {
        if len <= 1 {
            return each(items);
        }
        for at in 0..len {
            every_order(items, len - 1, each);
            items.swap(if len.is_multiple_of(2) { at } else { 0 }, len - 1);
        }
    }

    fn assert_alike_in_every_order(entries: &[Named]) {
        let mut all: Vec<&Named> = entries.iter().collect();
        let expected = standing_of(&all);
        let mut orders = 0;
        every_order(&mut all, entries.len(), &mut |order| {
            orders += 1;
            assert_eq!(standing_of(order), expected);
        });
        assert_eq!(orders, (1..=entries.len()).product::<usize>());
    }

    #[test]
    fn what_stands_is_the_same_in_every_order() {
        // A tombstone and a value of the same number, totals before and after them, a node's same number twice.
        for last in [value("c"), Content::Tombstone] {
            assert_alike_in_every_order(&[
                named(2, value("b"), 2),
                named(3, Content::Tombstone, 2),
                named(1, last, 2),
                named(4, total(1, 0), 5),
                named(4, total(2, 2), 1),
                named(5, total(3, 2), 1),
                named(5, total(4, 2), 1),
            ]);
        }
        assert_alike_in_every_order(&[
            named(1, value("before"), 1),
            named(2, value("a"), 3),
            named(2, value("b"), 3),
            named(2, Content::Tombstone, 3),
            named(3, total(1, 2), 1),
        ]);
    }

    #[test]
    fn what_was_taken_is_restored_however_high_its_counter() {
        let high = named(1, value("a"), 2 * AHEAD_MAX);
        assert_eq!(Standing::default().take(high.clone()), Fate::FarAhead);
        let mut standing = Standing::default();
        assert!(standing.restore(high) && !standing.restore(named(2, total(1, 0), 1)));
        assert_eq!(standing.take(named(1, value("b"), 2 * AHEAD_MAX + 1)), Fate::Stands);
    }

    #[test]
    fn the_totals_of_a_key_are_bounded() {
        let mut standing = Standing::default();
        let entry = named(1, total(1, 0), 1);
        let of = |n: usize| {
            let mut other = entry.clone();
            other.entry.node = NodeId(*blake3::hash(&n.to_be_bytes()).as_bytes());
            other
        };
        assert!((0..TOTALS_MAX - 1).all(|n| standing.take(of(n)) == Fate::Stands));
        assert_eq!(standing.take(of(TOTALS_MAX)), Fate::NoRoom);
        assert_eq!(standing.take(named(1, value("a"), 1)), Fate::Stands);
        assert_eq!(standing.iter().count(), 1, "the totals are over");
    }
}
