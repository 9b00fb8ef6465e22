//! The tree of prefixes: which items lie under each, and their fingerprints, computed when they are asked for.
//!
//! A node with up to [`LEAF_ITEMS_MAX`] items is a leaf and keeps the places of its items in the [`Log`], sorted by
//! item; a larger one has a child for each digit. The form depends on the items alone. Whoever grinds items with a
//! long common prefix makes the tree deeper there, by one digit for 16 times the work.

use std::sync::OnceLock;

use shoal_protocol::wire::sync::{CHILDREN, Fingerprint, ItemHash, LEAF_ITEMS_MAX, Prefix};

use super::index::{Log, Slot};

/// The digits of an item: no two items share them all.
const DIGITS: usize = 64;

#[derive(Default)]
pub(super) struct Node {
    /// Empty after every change below; filled when it is asked for.
    fingerprint: OnceLock<Fingerprint>,
    count: u32,
    body: Body,
}

enum Body {
    Leaf(Vec<Slot>),
    Inner(Box<[Node; CHILDREN]>),
}

impl Default for Body {
    fn default() -> Self {
        Self::Leaf(Vec::new())
    }
}

/// What lies under a prefix.
#[derive(Clone, Copy)]
pub(super) enum Part<'a> {
    /// All of a node.
    Node(&'a Node),
    /// Some of a leaf.
    Slots(&'a [Slot]),
}

impl Node {
    /// Puts in an item that is not there.
    pub(super) fn insert(&mut self, log: &Log, depth: usize, item: &ItemHash, slot: Slot) {
        self.count += 1;
        self.fingerprint = OnceLock::new();
        match &mut self.body {
            Body::Leaf(slots) => {
                let at = slots.partition_point(|&other| log.item(other) < item);
                slots.insert(at, slot);
                self.split(log, depth);
            }
            Body::Inner(children) => {
                if let Some(child) = children.get_mut(item.digit(depth)) {
                    child.insert(log, depth + 1, item, slot);
                }
            }
        }
    }

    /// Takes out an item that is there.
    pub(super) fn remove(&mut self, log: &Log, depth: usize, item: &ItemHash) {
        self.count = self.count.saturating_sub(1);
        self.fingerprint = OnceLock::new();
        match &mut self.body {
            Body::Leaf(slots) => slots.retain(|&slot| log.item(slot) != item),
            Body::Inner(children) => {
                if let Some(child) = children.get_mut(item.digit(depth)) {
                    child.remove(log, depth + 1, item);
                }
                if self.count() <= LEAF_ITEMS_MAX {
                    let mut slots = Vec::with_capacity(self.count());
                    self.visit(&mut |slot| slots.push(slot));
                    self.body = Body::Leaf(slots);
                }
            }
        }
    }

    fn split(&mut self, log: &Log, depth: usize) {
        let Body::Leaf(slots) = &mut self.body else { return };
        if slots.len() <= LEAF_ITEMS_MAX || depth >= DIGITS {
            return;
        }
        let mut children: Box<[Node; CHILDREN]> = Box::default();
        for &slot in slots.iter() {
            // In their order, so each child's are sorted too.
            if let Some(child) = children.get_mut(log.item(slot).digit(depth)) {
                child.count += 1;
                if let Body::Leaf(slots) = &mut child.body {
                    slots.push(slot);
                }
            }
        }
        for child in children.iter_mut() {
            child.split(log, depth + 1);
        }
        self.body = Body::Inner(children);
    }

    pub(super) fn find(&self, log: &Log, item: &ItemHash) -> Option<Slot> {
        let mut node = self;
        for depth in 0..=DIGITS {
            match &node.body {
                Body::Inner(children) => node = children.get(item.digit(depth))?,
                Body::Leaf(slots) => {
                    let at = slots.binary_search_by(|&slot| log.item(slot).cmp(item)).ok()?;
                    return slots.get(at).copied();
                }
            }
        }
        None
    }

    pub(super) fn part(&self, log: &Log, prefix: &Prefix) -> Part<'_> {
        let mut node = self;
        for depth in 0..prefix.len() {
            match &node.body {
                Body::Inner(children) => match children.get(prefix.digit(depth)) {
                    Some(child) => node = child,
                    None => return Part::Slots(&[]),
                },
                Body::Leaf(slots) => {
                    let start = slots.partition_point(|&slot| *log.item(slot) < prefix.first());
                    let from = slots.get(start..).unwrap_or_default();
                    let len = from.partition_point(|&slot| prefix.contains(log.item(slot)));
                    return Part::Slots(from.get(..len).unwrap_or_default());
                }
            }
        }
        Part::Node(node)
    }

    fn count(&self) -> usize {
        self.count as usize
    }

    /// The slots, by rising item.
    fn visit(&self, visitor: &mut impl FnMut(Slot)) {
        match &self.body {
            Body::Leaf(slots) => slots.iter().copied().for_each(visitor),
            Body::Inner(children) => children.iter().for_each(|child| child.visit(visitor)),
        }
    }

    fn fingerprint(&self, log: &Log) -> Fingerprint {
        *self.fingerprint.get_or_init(|| match &self.body {
            Body::Leaf(slots) => of_items(log, slots),
            Body::Inner(children) => {
                let mut hasher = blake3::Hasher::new();
                hasher.update(&[1]);
                for child in children.iter() {
                    hasher.update(child.fingerprint(log).as_bytes());
                }
                Fingerprint(*hasher.finalize().as_bytes())
            }
        })
    }

    /// Names the slots anew after the log was packed.
    pub(super) fn rename(&mut self, names: &[Slot]) {
        match &mut self.body {
            Body::Leaf(slots) => {
                for slot in slots {
                    *slot = names.get(*slot as usize).copied().unwrap_or(*slot);
                }
            }
            Body::Inner(children) => children.iter_mut().for_each(|child| child.rename(names)),
        }
    }

    /// Bytes of memory below this node.
    #[cfg(test)]
    pub(super) fn memory(&self) -> usize {
        /// What an allocation costs beside what is asked for.
        const ALLOCATION: usize = 16;
        match &self.body {
            Body::Leaf(slots) if slots.capacity() == 0 => 0,
            Body::Leaf(slots) => slots.capacity() * size_of::<Slot>() + ALLOCATION,
            Body::Inner(children) => {
                size_of_val(&**children) + ALLOCATION + children.iter().map(Node::memory).sum::<usize>()
            }
        }
    }
}

impl Part<'_> {
    pub(super) fn count(&self) -> usize {
        match self {
            Self::Node(node) => node.count(),
            Self::Slots(slots) => slots.len(),
        }
    }

    pub(super) fn fingerprint(&self, log: &Log) -> Fingerprint {
        match self {
            Self::Node(node) => node.fingerprint(log),
            Self::Slots(slots) => of_items(log, slots),
        }
    }

    /// The slots, by rising item.
    pub(super) fn visit(&self, visitor: &mut impl FnMut(Slot)) {
        match self {
            Self::Node(node) => node.visit(visitor),
            Self::Slots(slots) => slots.iter().copied().for_each(visitor),
        }
    }
}

fn of_items(log: &Log, slots: &[Slot]) -> Fingerprint {
    if slots.is_empty() {
        return Fingerprint::EMPTY;
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(&[0]);
    for &slot in slots {
        hasher.update(log.item(slot).as_bytes());
    }
    Fingerprint(*hasher.finalize().as_bytes())
}
