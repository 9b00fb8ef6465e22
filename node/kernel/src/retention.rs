//! How many settled jobs are kept, and for how long. The jobs themselves are in the store; here they are only counted.

use std::collections::BTreeMap;

use shoal_protocol::ObjectId;

use crate::gone::Gone;
use crate::record::Group;

/// Settled jobs of one group.
#[derive(Debug, Default)]
pub(crate) struct Shelf {
    /// How many there are.
    pub(crate) count: u64,
    /// Bytes that they refer to.
    pub(crate) bytes: u64,
    /// How many of them are due and stay, since their homes have not heard how they ended, or elements of them have not: as the last look
    /// has found.
    pub(crate) spared: u64,
    /// When the oldest is due, as far as that is known.
    pub(crate) due_ms: Option<u64>,
    /// The edge looks which are the oldest.
    pub(crate) asked: bool,
}

impl Shelf {
    /// Those that count for how many may be kept.
    pub(crate) fn counted(&self) -> u64 {
        self.count.saturating_sub(self.spared)
    }
}

/// All settled jobs, counted by group. There are as many groups as projects and owners of functions that have jobs here.
#[derive(Debug, Default)]
pub(crate) struct Shelves {
    shelves: BTreeMap<Group, Shelf>,
    /// Those that go: who has looked before that is durable finds them once more, and they count nothing.
    going: Gone,
}

impl Shelves {
    pub(crate) fn get_mut(&mut self, group: Group) -> Option<&mut Shelf> {
        self.shelves.get_mut(&group)
    }

    /// The shelf of a group, empty if there was none.
    pub(crate) fn shelf(&mut self, group: Group) -> &mut Shelf {
        self.shelves.entry(group).or_default()
    }

    /// A job goes.
    pub(crate) fn note_going(&mut self, job: ObjectId) {
        self.going.insert(job);
    }

    /// Whether it has gone a moment ago.
    pub(crate) fn is_going(&self, job: ObjectId) -> bool {
        self.going.contains(job)
    }

    /// A job comes in that may have been here before.
    pub(crate) fn note_come(&mut self, job: ObjectId) {
        self.going.remove(job);
    }

    /// Bytes that the settled jobs of a project refer to.
    pub(crate) fn stored(&self, owner: ObjectId) -> u64 {
        let shelf = |dead| self.shelves.get(&Group { owner, dead }).map_or(0, |shelf| shelf.bytes);
        shelf(false).saturating_add(shelf(true))
    }

    /// Forgets a group of which no job is left.
    pub(crate) fn remove(&mut self, group: Group) {
        self.shelves.remove(&group);
    }
}
