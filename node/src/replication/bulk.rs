//! At most one session at a time fills this node: others would send it the same once more.
//!
//! What counts is what came and was new here. What a peer says that it has proves nothing: one that claims a lot and sends
//! little would keep all others away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// New items that a session brings before it counts as one that fills the node. Why 1,024: two or three batches; a node
/// that was away for a while takes less, one that is new takes more.
const MANY: u64 = 1024;
/// How long as many of them count. Why 10 s: a slow disk takes hundreds a second; who brings less than 100 is a small
/// part of what there is room for.
const FRESH: Duration = Duration::from_secs(10);
/// How long a session can count. Why 5 minutes: hundreds of thousands of items; after that the others may try, and what
/// comes twice costs no more than its way.
const FILLING_MAX: Duration = Duration::from_secs(300);

/// The sessions that fill this node now. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bulk(Arc<Mutex<Sessions>>);

#[derive(Debug, Default)]
struct Sessions {
    next: u64,
    /// Until when each counts, by its number.
    until: BTreeMap<u64, Instant>,
}

/// One session, which may come to fill the node. It does not any more once this is dropped.
#[derive(Debug)]
pub(super) struct Filling {
    bulk: Bulk,
    number: u64,
    /// What it had brought when it last counted anew.
    counted: u64,
    /// When it began to count.
    since: Option<Instant>,
}

impl Bulk {
    /// Whether a session fills this node.
    pub(super) fn is_under_way(&self, now: Instant) -> bool {
        self.sessions().until.values().any(|until| now < *until)
    }

    /// A session begins.
    pub(super) fn begin(&self) -> Filling {
        let mut sessions = self.sessions();
        sessions.next += 1;
        Filling { bulk: self.clone(), number: sessions.next, counted: 0, since: None }
    }

    fn sessions(&self) -> MutexGuard<'_, Sessions> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Filling {
    /// The session has brought so many new items by now.
    pub(super) fn watch(&mut self, received: u64, now: Instant) {
        if received.saturating_sub(self.counted) < MANY {
            return;
        }
        self.counted = received;
        let since = *self.since.get_or_insert(now);
        let until = (now + FRESH).min(since + FILLING_MAX);
        self.bulk.sessions().until.insert(self.number, until);
    }
}

impl Drop for Filling {
    fn drop(&mut self) {
        self.bulk.sessions().until.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_counts_while_it_brings_many_and_not_for_ever() {
        let (bulk, begun) = (Bulk::default(), Instant::now());
        let mut filling = bulk.begin();
        filling.watch(MANY - 1, begun);
        assert!(!bulk.is_under_way(begun));
        filling.watch(MANY, begun);
        assert!(bulk.is_under_way(begun));
        // One more now and then is not many.
        filling.watch(MANY + 1, begun + FRESH / 2);
        assert!(!bulk.is_under_way(begun + FRESH));
        let later = begun + 2 * FRESH;
        filling.watch(2 * MANY, later);
        assert!(bulk.is_under_way(later + FRESH / 2));
        drop(filling);
        assert!(!bulk.is_under_way(later + FRESH / 2), "it has ended");

        let (mut filling, mut now, mut received) = (bulk.begin(), begun, 0);
        while now < begun + FILLING_MAX {
            received += MANY;
            filling.watch(received, now);
            assert!(bulk.is_under_way(now));
            now += FRESH / 2;
        }
        filling.watch(received + MANY, now);
        assert!(!bulk.is_under_way(now), "others may try now");
    }
}
