//! Changes that wait for what they depend on.
//!
//! They are in memory only and nobody has been promised anything for them: when there are too many, the oldest falls
//! out and comes again when the replicas reconcile.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_protocol::change::ChangeHash;

use crate::check::Checked;
use crate::schema::limits::{HELD_CHANGES_MAX, HELD_LEN_MAX};

/// Changes that wait, each under one that it misses.
#[derive(Debug, Default)]
pub(super) struct Held {
    changes: BTreeMap<ChangeHash, Checked>,
    waiting: BTreeMap<ChangeHash, BTreeSet<ChangeHash>>,
    /// The oldest first, each with what it waits for. May name changes that have left since.
    order: VecDeque<(ChangeHash, ChangeHash)>,
    /// Bytes of all changes that wait.
    bytes: usize,
}

impl Held {
    pub(super) fn len(&self) -> usize {
        self.changes.len()
    }

    /// Keeps a change until the one that it depends on has come.
    pub(super) fn insert(&mut self, dependency: ChangeHash, checked: Checked) {
        let hash = checked.hash;
        if self.changes.contains_key(&hash) {
            return;
        }
        self.bytes += checked.signed.bytes.len();
        self.changes.insert(hash, checked);
        self.waiting.entry(dependency).or_default().insert(hash);
        self.order.push_back((hash, dependency));
        while self.changes.len() > HELD_CHANGES_MAX
            || self.bytes > HELD_LEN_MAX
            || self.order.len() > 2 * HELD_CHANGES_MAX
        {
            let Some((oldest, dependency)) = self.order.pop_front() else { break };
            let still = self.waiting.get_mut(&dependency).is_some_and(|hashes| hashes.remove(&oldest));
            if still {
                self.remove(&oldest);
                if self.waiting.get(&dependency).is_some_and(BTreeSet::is_empty) {
                    self.waiting.remove(&dependency);
                }
            }
        }
    }

    /// Takes out what waits for this change, sorted by hash.
    pub(super) fn take(&mut self, dependency: &ChangeHash) -> Vec<Checked> {
        let hashes = self.waiting.remove(dependency).unwrap_or_default();
        hashes.iter().filter_map(|hash| self.remove(hash)).collect()
    }

    fn remove(&mut self, hash: &ChangeHash) -> Option<Checked> {
        let checked = self.changes.remove(hash)?;
        self.bytes = self.bytes.saturating_sub(checked.signed.bytes.len());
        Some(checked)
    }
}
