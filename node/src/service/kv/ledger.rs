//! Which entries stand, by hash: what peers compare.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use shoal_crdt::reconcile::{Held, Index};
use shoal_protocol::wire::sync::ItemHash;

/// What a commit changed, in the order of the commits.
#[derive(Debug)]
pub(super) enum Update {
    /// This entry does not stand any more.
    Remove(ItemHash),
    /// This entry stands, in the row with this key.
    Add(ItemHash, Bytes),
}

/// The index of the entries that stand, and where their rows are.
#[derive(Default)]
pub(super) struct Ledger {
    entries: RwLock<Entries>,
    /// Of commits that became durable while somebody looked: the store's writer does not wait for them.
    waiting: Mutex<Vec<Update>>,
}

/// The places are numbers of this process only: a row's key is far longer, and an index takes rising numbers.
#[derive(Default)]
struct Entries {
    index: Index,
    rows: HashMap<u64, Bytes>,
    last_place: u64,
}

impl Entries {
    fn update(&mut self, update: Update) {
        match update {
            Update::Remove(hash) => {
                if let Some(place) = self.index.place(&hash) {
                    self.rows.remove(&place);
                    self.index.remove(&hash);
                }
            }
            Update::Add(hash, row) => {
                self.last_place += 1;
                if self.index.insert(self.last_place, hash) {
                    self.rows.insert(self.last_place, row);
                }
            }
        }
    }
}

impl Ledger {
    /// Takes what a commit has changed. Never waits for those who look.
    pub(super) fn update(&self, updates: Vec<Update>) {
        let mut waiting = self.waiting();
        waiting.extend(updates);
        if let Ok(mut entries) = self.entries.try_write() {
            waiting.drain(..).for_each(|update| entries.update(update));
        }
    }

    /// Looks at the index as it is after all that is durable.
    pub(super) fn with_index<T>(&self, look: impl FnOnce(&Index) -> T) -> T {
        self.catch_up();
        look(&self.entries.read().unwrap_or_else(PoisonError::into_inner).index)
    }

    /// The keys of the rows of these items; none for one that does not stand any more.
    pub(super) fn rows(&self, items: &[Held]) -> Vec<Option<Bytes>> {
        self.catch_up();
        let entries = self.entries.read().unwrap_or_else(PoisonError::into_inner);
        items.iter().map(|held| entries.rows.get(&held.place).cloned()).collect()
    }

    fn catch_up(&self) {
        if self.waiting().is_empty() {
            return;
        }
        // In this order: whoever holds the second lock must not wait for those who look.
        let mut entries = self.entries.write().unwrap_or_else(PoisonError::into_inner);
        self.waiting().drain(..).for_each(|update| entries.update(update));
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<Update>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
