//! Verdicts about tokens that were seen lately.

use std::collections::HashMap;
use std::sync::Arc;

use super::{Rights, Verified};

/// Tokens remembered. Why 256: one node's clients of a minute; one costs a few kilobytes.
const ENTRIES_MAX: usize = 256;

/// What was found about a token.
#[derive(Clone)]
pub(super) struct Entry {
    pub(super) verified: Arc<Verified>,
    pub(super) rights: Rights,
    /// When `rights` were found, in milliseconds since the Unix epoch.
    pub(super) judged_ms: u64,
}

/// By the hash of a token's text. The one that was not asked for longest makes room.
#[derive(Default)]
pub(super) struct Cache {
    entries: HashMap<[u8; 32], (u64, Entry)>,
    uses: u64,
}

impl Cache {
    pub(super) fn get(&mut self, hash: &[u8; 32]) -> Option<Entry> {
        self.uses = self.uses.wrapping_add(1);
        let (used, entry) = self.entries.get_mut(hash)?;
        *used = self.uses;
        Some(entry.clone())
    }

    pub(super) fn put(&mut self, hash: [u8; 32], entry: Entry) {
        self.uses = self.uses.wrapping_add(1);
        if self.entries.len() >= ENTRIES_MAX && !self.entries.contains_key(&hash) {
            let oldest = self.entries.iter().min_by_key(|(_, (used, _))| *used).map(|(hash, _)| *hash);
            if let Some(oldest) = oldest {
                self.entries.remove(&oldest);
            }
        }
        self.entries.insert(hash, (self.uses, entry));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }
}
