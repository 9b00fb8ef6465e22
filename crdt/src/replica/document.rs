//! One document: its history, the verdict on each change, and what it says.

use std::collections::BTreeSet;

use shoal_protocol::ObjectId;
use shoal_protocol::change::DocumentClass;
use shoal_protocol::key::PublicKey;

use super::Work;
use crate::check::{Checked, Refused};
use crate::derive::Derived;
use crate::facts::{self, Facts};
use crate::history::{History, Place};
use crate::rights::{self, Reason};
use crate::schema::limits::WITHOUT_RIGHT_MAX;

/// A document without its automerge form, which is derived when it is needed.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) history: History,
    /// By place in the history.
    pub(super) verdicts: Vec<Result<(), Reason>>,
    facts: Option<Box<Facts>>,
    /// The keys that sign for the user, if it is a user's document.
    signers: BTreeSet<PublicKey>,
}

impl Document {
    pub(super) fn facts(&self) -> Option<&Facts> {
        self.facts.as_deref()
    }

    pub(super) fn set_facts(&mut self, facts: Option<Facts>) {
        self.facts = facts.map(Box::new);
    }

    /// The class, by the founding change.
    pub(super) fn class(&self) -> Option<DocumentClass> {
        self.history.founded().map(|(class, _)| class)
    }

    /// The keys that sign for the user; None if this is no user.
    pub(super) fn signers(&self) -> Option<&BTreeSet<PublicKey>> {
        (!self.signers.is_empty()).then_some(&self.signers)
    }

    /// Whether the change at this place counts, as far as it has been judged.
    pub(super) fn counts(&self, place: Place) -> bool {
        matches!(self.verdicts.get(place), Some(Ok(())))
    }

    /// Refuses a change for which there is no room. Strangers have a room of their own, so that they cannot take the
    /// owner's. Who came first stays: what was accepted is durable, and others may follow it. So where a room is full two
    /// replicas can differ in what it holds, until the history is cut.
    pub(super) fn check_room<'a>(
        &self,
        checked: &Checked,
        users: impl Fn(ObjectId) -> Option<&'a BTreeSet<PublicKey>>,
    ) -> Result<(), Refused> {
        self.history.check_room(&checked.change)?;
        let change = &checked.change;
        let signs = match self.history.founded() {
            Some((DocumentClass::User, _)) => self.signers.contains(&change.author),
            Some((_, owner)) => owner == change.user && users(owner).is_some_and(|keys| keys.contains(&change.author)),
            None => false,
        };
        let without_right =
            self.verdicts.iter().filter(|verdict| matches!(verdict, Err(r) if r.is_of_rights())).count();
        if !signs && without_right >= WITHOUT_RIGHT_MAX {
            return Err(Refused::Full { what: "the room for changes without a right", max: WITHOUT_RIGHT_MAX });
        }
        Ok(())
    }

    /// Judges what has not been judged, or everything, and derives what is not derived. `derived` may lag behind, or
    /// be None after the document was closed.
    pub(super) fn derive<'a>(
        &mut self,
        id: ObjectId,
        derived: Option<Derived>,
        judge_all: bool,
        users: impl Fn(ObjectId) -> Option<&'a BTreeSet<PublicKey>>,
        work: &mut Work,
    ) -> Derived {
        let mut derived = derived.unwrap_or_default();
        if judge_all && self.judged_otherwise(id, &users) {
            derived = Derived::default();
            self.verdicts.clear();
        }
        if derived.len() == 0 && self.history.len() > 1 {
            work.rebuilt += 1;
        }
        // A closed document is derived again with the verdicts that it has; only what is new is judged.
        let judged = self.verdicts.len();
        for place in derived.len()..self.history.len() {
            let right = if place < judged {
                self.verdicts.get(place).cloned().unwrap_or(Ok(())).or_else(only_of_rights)
            } else {
                rights::judge(id, &self.history, place, |place| self.counts(place), &users)
            };
            let forks = derived.forks();
            let verdict = derived.append(&self.history, place, right);
            work.derived += 1;
            work.forks += derived.forks() - forks;
            if place >= judged {
                self.verdicts.push(verdict);
            }
        }
        if derived.settle().is_err() {
            // Automerge takes what automerge made; if it ever does not, the document is derived again next time.
            derived = Derived::default();
        }
        self.signers = rights::signers_of(&self.history, |place| self.counts(place));
        derived
    }

    /// Whether all of it is judged, and would be judged the same now: then there is nothing to derive.
    pub(super) fn stands<'a>(&self, id: ObjectId, users: impl Fn(ObjectId) -> Option<&'a BTreeSet<PublicKey>>) -> bool {
        self.verdicts.len() == self.history.len() && !self.judged_otherwise(id, users)
    }

    /// Whether any change that was judged would now be judged otherwise, by rights and chains.
    fn judged_otherwise<'a>(&self, id: ObjectId, users: impl Fn(ObjectId) -> Option<&'a BTreeSet<PublicKey>>) -> bool {
        // As long as nothing differs, the verdicts so far are those by which the next one is judged.
        (0..self.verdicts.len()).any(|place| {
            let now = rights::judge(id, &self.history, place, |place| self.counts(place), &users);
            let before = self.verdicts.get(place).cloned().unwrap_or(Ok(())).or_else(only_of_rights);
            now != before
        })
    }

    /// What the document says.
    pub(super) fn read(&self, id: ObjectId, derived: &Derived) -> Option<Facts> {
        let founding = self.history.founding().filter(|&place| self.counts(place))?;
        let first = self.history.entry(founding)?;
        let frontier = self.history.frontier(|place| self.counts(place));
        let mut heads: Vec<_> =
            frontier.into_iter().filter_map(|place| Some(self.history.entry(place)?.hash)).collect();
        heads.sort_unstable();
        facts::read(id, first.class, first.user, heads, derived.state())
    }
}

/// The verdict before the document's content was looked at.
fn only_of_rights(reason: Reason) -> Result<(), Reason> {
    if reason.is_of_rights() { Err(reason) } else { Ok(()) }
}
