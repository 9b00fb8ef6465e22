//! The changes of one document as a graph: what depends on what, what continues what, which of two changes with the
//! same author and number is the one that counts.
//!
//! Entries are only added, each after everything that it depends on, and are named by their place. Nothing here
//! depends on the order in which independent changes came, apart from the places themselves.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::ObjectId;
use shoal_protocol::change::{Change, ChangeHash, DocumentClass, SignedChange};
use shoal_protocol::key::PublicKey;
use shoal_protocol::limits::CHANGE_DEPS_MAX;

use crate::check::{Checked, Refused, listed};
use crate::faults::{Fault, Faults};
use crate::schema::limits::{EQUIVOCATIONS_MAX, HISTORY_LEN_MAX};

/// The place of a change in its history.
pub(crate) type Place = usize;

/// A change, without its operations: those are read from the signed bytes when they are needed.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) hash: ChangeHash,
    pub(crate) author: PublicKey,
    pub(crate) user: ObjectId,
    pub(crate) class: DocumentClass,
    pub(crate) sequence: u64,
    pub(crate) deps: Box<[Place]>,
    /// Longest way to a founding change; a change is deeper than everything that it depends on.
    depth: usize,
    /// The keys that it adds to those that may sign for the user.
    pub(crate) lists: BTreeSet<PublicKey>,
    pub(crate) signed: SignedChange,
}

/// Where a change would stand.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Position {
    /// It stands there already.
    Known,
    /// It depends on these, which are not here.
    Missing(Vec<ChangeHash>),
    /// After these.
    After(Box<[Place]>),
}

/// The changes of one author in one document.
#[derive(Debug, Default)]
struct Author {
    /// All changes of each number.
    by_sequence: BTreeMap<u64, Vec<Place>>,
    /// How many there are beyond the first of each number.
    equivocations: usize,
    /// The change that counts for each number, from number 1: of those that continue the one before, the lowest hash.
    winners: Vec<Place>,
}

/// The changes of one document.
#[derive(Debug, Default)]
pub(crate) struct History {
    entries: Vec<Entry>,
    places: BTreeMap<ChangeHash, Place>,
    heads: BTreeSet<Place>,
    authors: BTreeMap<PublicKey, Author>,
    foundings: Vec<Place>,
}

impl History {
    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn entry(&self, place: Place) -> Option<&Entry> {
        self.entries.get(place)
    }

    /// In an order in which each change comes after those that it depends on.
    pub(crate) fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.entries.iter()
    }

    pub(crate) fn place(&self, hash: &ChangeHash) -> Option<Place> {
        self.places.get(hash).copied()
    }

    /// The changes that nothing depends on, sorted by hash.
    pub(crate) fn heads(&self) -> Vec<ChangeHash> {
        let mut heads: Vec<ChangeHash> = self.heads.iter().filter_map(|&place| Some(self.entry(place)?.hash)).collect();
        heads.sort_unstable();
        heads
    }

    /// Finds where a change belongs, or how it breaks its chain. The answer is the same wherever its dependencies
    /// are known: it is asked of those and what they depend on, never of the rest.
    pub(crate) fn position(&self, change: &Change, hash: &ChangeHash) -> Result<Position, Refused> {
        if self.places.contains_key(hash) {
            return Ok(Position::Known);
        }
        let missing: Vec<ChangeHash> =
            change.deps.iter().filter(|dep| !self.places.contains_key(dep)).copied().collect();
        if !missing.is_empty() {
            return Ok(Position::Missing(missing));
        }
        let deps: Box<[Place]> = change.deps.iter().filter_map(|dep| self.place(dep)).collect();
        if deps.iter().filter_map(|&dep| self.entry(dep)).any(|dep| dep.class != change.class) {
            return Err(Refused::Chain("its class is not that of the changes that it depends on"));
        }
        self.check_sequence(change, &deps)?;
        Ok(Position::After(deps))
    }

    /// The author's last change in the past of this one has the number before this one's.
    fn check_sequence(&self, change: &Change, deps: &[Place]) -> Result<(), Refused> {
        let before = change.sequence.saturating_sub(1);
        match self.last_sequence(&change.author, before, deps).cmp(&before) {
            Ordering::Equal => Ok(()),
            Ordering::Less => Err(Refused::Chain("its author's change with the number before is not in its past")),
            Ordering::Greater => Err(Refused::Chain("its past holds a change of its author with this number or above")),
        }
    }

    /// The highest number, from `floor` on, of the author's changes that are `from` or in their past; 0 if none.
    fn last_sequence(&self, author: &PublicKey, floor: u64, from: &[Place]) -> u64 {
        let own = self.authors.get(author).into_iter().flat_map(|own| own.by_sequence.range(floor..));
        let candidates: Vec<Place> = own.flat_map(|(_, places)| places).copied().collect();
        let seen = self.in_past(from, &candidates);
        seen.into_iter().filter_map(|place| self.entry(place)).map(|entry| entry.sequence).max().unwrap_or(0)
    }

    /// Which of `targets` are `from` or in their past.
    fn in_past(&self, from: &[Place], targets: &[Place]) -> BTreeSet<Place> {
        let mut wanted: BTreeSet<Place> = targets.iter().copied().collect();
        let depth_of = |place: Place| self.entry(place).map_or(0, |entry| entry.depth);
        let Some(floor) = targets.iter().map(|&place| depth_of(place)).min() else { return BTreeSet::new() };
        let mut found = BTreeSet::new();
        let mut visited = vec![false; self.entries.len()];
        let mut stack: Vec<Place> = from.to_vec();
        while let Some(place) = stack.pop() {
            let Some(slot) = visited.get_mut(place) else { continue };
            if std::mem::replace(slot, true) {
                continue;
            }
            if wanted.remove(&place) {
                found.insert(place);
                if wanted.is_empty() {
                    break;
                }
            }
            // What is not deeper than the shallowest target has none of them in its past.
            if let Some(entry) = self.entry(place).filter(|entry| entry.depth > floor) {
                stack.extend_from_slice(&entry.deps);
            }
        }
        found
    }

    /// Whether one of `targets` is in the past of the change at `place`.
    pub(crate) fn past_holds_any(&self, place: Place, targets: &[Place]) -> bool {
        self.entry(place).is_some_and(|entry| !self.in_past(&entry.deps, targets).is_empty())
    }

    /// Whether the document or the author have reached a bound that this change would break.
    pub(crate) fn check_room(&self, change: &Change) -> Result<(), Refused> {
        if self.entries.len() >= HISTORY_LEN_MAX {
            return Err(Refused::Full { what: "the document's history", max: HISTORY_LEN_MAX });
        }
        match self.authors.get(&change.author) {
            Some(author)
                if author.equivocations >= EQUIVOCATIONS_MAX && author.by_sequence.contains_key(&change.sequence) =>
            {
                Err(Refused::Equivocates { author: change.author })
            }
            _ => Ok(()),
        }
    }

    /// Adds a change whose position is known. Says whether another change may have lost its place as the one that
    /// counts for its author and number.
    pub(crate) fn push<F: Faults>(&mut self, checked: Checked, deps: Box<[Place]>) -> bool {
        let Checked { hash, change, signed } = checked;
        let place = self.entries.len();
        let depth = deps.iter().filter_map(|&dep| self.entry(dep)).map(|dep| dep.depth + 1).max().unwrap_or(0);
        for dep in &deps {
            self.heads.remove(dep);
        }
        self.heads.insert(place);
        self.places.insert(hash, place);
        let founding = deps.is_empty();
        if founding {
            self.foundings.push(place);
        }
        let (author, sequence) = (change.author, change.sequence);
        let lists = listed(&change);
        let (user, class) = (change.user, change.class);
        self.entries.push(Entry { hash, author, user, class, sequence, deps, depth, lists, signed });
        let equivocated = self.settle::<F>(author, sequence, place);
        equivocated || (founding && self.foundings.len() > 1)
    }

    /// Finds the author's changes that count after one more has come. Says whether there were others of its number.
    fn settle<F: Faults>(&mut self, key: PublicKey, sequence: u64, place: Place) -> bool {
        let author = self.authors.entry(key).or_default();
        let equals = author.by_sequence.entry(sequence).or_default();
        equals.push(place);
        let equivocated = equals.len() > 1;
        if equivocated {
            author.equivocations += 1;
        }
        if author.equivocations == 0 {
            // The chain was checked: it continues the only change of the number before.
            author.winners.push(place);
        } else {
            let winners = self.winners::<F>(&key);
            if let Some(author) = self.authors.get_mut(&key) {
                author.winners = winners;
            }
        }
        // Once there were two of a number, a later change may also have to choose between their successors.
        equivocated
    }

    fn winners<F: Faults>(&self, key: &PublicKey) -> Vec<Place> {
        let mut winners: Vec<Place> = Vec::new();
        let Some(author) = self.authors.get(key) else { return winners };
        for places in author.by_sequence.values() {
            let continues = |&&place: &&Place| match winners.last() {
                Some(&last) => self.past_holds_any(place, &[last]),
                None => true,
            };
            let hash_of = |place: &Place| self.entry(*place).map(|entry| entry.hash);
            let mut continuing = places.iter().filter(continues);
            let winner = if F::has(Fault::FirstOfEquals) {
                continuing.next()
            } else {
                continuing.min_by_key(|&place| hash_of(place))
            };
            match winner {
                Some(&winner) => winners.push(winner),
                None => break,
            }
        }
        winners
    }

    /// Whether the change is the one that counts for its author and number.
    pub(crate) fn is_winner(&self, place: Place) -> bool {
        let winner = self.entry(place).and_then(|entry| {
            let index = usize::try_from(entry.sequence.checked_sub(1)?).ok()?;
            self.authors.get(&entry.author)?.winners.get(index).copied()
        });
        winner == Some(place)
    }

    /// The founding change that counts: of those that win for their authors, the lowest hash.
    pub(crate) fn founding(&self) -> Option<Place> {
        let hash_of = |place: &Place| self.entry(*place).map(|entry| entry.hash);
        self.foundings.iter().copied().filter(|&place| self.is_winner(place)).min_by_key(hash_of)
    }

    /// The class and the user of the founding change that counts for the chain, whether or not it had the right.
    pub(crate) fn founded(&self) -> Option<(DocumentClass, ObjectId)> {
        self.founding().and_then(|place| self.entry(place)).map(|entry| (entry.class, entry.user))
    }

    /// Whether the change is `founding` or has it in its past.
    pub(crate) fn descends_from(&self, place: Place, founding: Place) -> bool {
        // With a single founding change everything descends from it.
        self.foundings.len() == 1 || place == founding || self.past_holds_any(place, &[founding])
    }

    /// The authors who have signed two changes of the same number.
    pub(crate) fn equivocators(&self) -> impl Iterator<Item = PublicKey> {
        self.authors.iter().filter(|(_, author)| author.equivocations > 0).map(|(key, _)| *key)
    }

    /// What the next change of this author depends on, and its number: the frontier of the changes that are
    /// `counted`, and the author's own last change.
    ///
    /// Changes that do not count are left out, so that what strangers leave in a history is never built upon, and a
    /// node that has refused it for want of room misses nothing.
    pub(crate) fn next(&self, author: &PublicKey, counted: impl Fn(Place) -> bool) -> (u64, Vec<ChangeHash>) {
        let own = self.last_of(author);
        let frontier = self.frontier(|place| counted(place) || Some(place) == own);
        let others = frontier.iter().copied().filter(|&place| Some(place) != own);
        // Own first: it must be in the past; others beyond the bound stay concurrent until the change after.
        let own_head = own.filter(|place| frontier.contains(place));
        let deps: Vec<Place> = own_head.into_iter().chain(others).take(CHANGE_DEPS_MAX).collect();
        let sequence = self.last_sequence(author, 0, &deps) + 1;
        let mut hashes: Vec<ChangeHash> = deps.iter().filter_map(|&place| Some(self.entry(place)?.hash)).collect();
        hashes.sort_unstable();
        (sequence, hashes)
    }

    /// The author's last change: of those that win, else the lowest hash of the highest number.
    fn last_of(&self, key: &PublicKey) -> Option<Place> {
        let author = self.authors.get(key)?;
        if let Some(&winner) = author.winners.last() {
            return Some(winner);
        }
        let (_, places) = author.by_sequence.last_key_value()?;
        places.iter().copied().min_by_key(|&place| self.entry(place).map(|entry| entry.hash))
    }

    /// Of the selected changes those that are in no other one's past.
    pub(crate) fn frontier(&self, selected: impl Fn(Place) -> bool) -> BTreeSet<Place> {
        let mut covered = vec![false; self.entries.len()];
        let mut frontier = BTreeSet::new();
        for (place, entry) in self.entries.iter().enumerate().rev() {
            let below = covered.get(place).copied().unwrap_or(false);
            let chosen = selected(place);
            if chosen && !below {
                frontier.insert(place);
            }
            if chosen || below {
                for &dep in &entry.deps {
                    if let Some(slot) = covered.get_mut(dep) {
                        *slot = true;
                    }
                }
            }
        }
        frontier
    }
}
