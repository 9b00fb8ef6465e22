//! Who holds which blob, and whose turn it is.
//!
//! Holds live here and not in iroh-blobs' temp tags, because they outlive it: after a disk error the store opens a new
//! instance, and what callers hold must still be held there. A lock is taken for a map operation only, never across
//! an await.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_protocol::BlobId;
use tokio::sync::Notify;

/// A blob that is here and is not collected while this value, or a clone of it, lives.
#[derive(Clone)]
pub struct Held {
    id: BlobId,
    size: u64,
    _hold: Arc<Hold>,
}

impl Held {
    pub(crate) fn new(size: u64, hold: Hold) -> Self {
        Self { id: hold.id, size, _hold: Arc::new(hold) }
    }

    /// The hash of the bytes.
    pub fn id(&self) -> BlobId {
        self.id
    }

    /// Length in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({}, {} bytes)", self.id.short(), self.size)
    }
}

/// Counts the holders of each blob.
#[derive(Default)]
pub(crate) struct Holds {
    counts: Mutex<HashMap<BlobId, u32>>,
}

impl Holds {
    /// Holds an id, whether its bytes are here or not yet.
    pub(crate) fn hold(self: &Arc<Self>, id: BlobId) -> Hold {
        *locked(&self.counts).entry(id).or_default() += 1;
        Hold { id, holds: self.clone() }
    }

    pub(crate) fn is_held(&self, id: BlobId) -> bool {
        locked(&self.counts).contains_key(&id)
    }

    pub(crate) fn all(&self) -> Vec<BlobId> {
        locked(&self.counts).keys().copied().collect()
    }
}

/// One count of [`Holds`], given back on drop.
pub(crate) struct Hold {
    id: BlobId,
    holds: Arc<Holds>,
}

impl Drop for Hold {
    fn drop(&mut self) {
        let mut counts = locked(&self.holds.counts);
        if let Some(count) = counts.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.id);
            }
        }
    }
}

/// One at a time per blob: who writes its files, and who sets or removes its tag.
#[derive(Default)]
pub(crate) struct Turns {
    taken: Mutex<HashSet<BlobId>>,
    freed: Notify,
}

impl Turns {
    /// Waits until nobody else has the turn for this blob. Dropping the future halfway is safe.
    pub(crate) async fn take(self: &Arc<Self>, id: BlobId) -> Turn {
        loop {
            let mut freed = std::pin::pin!(self.freed.notified());
            freed.as_mut().enable();
            if locked(&self.taken).insert(id) {
                return Turn { id, turns: self.clone() };
            }
            freed.await;
        }
    }
}

/// A turn, given on at drop.
pub(crate) struct Turn {
    id: BlobId,
    turns: Arc<Turns>,
}

impl Drop for Turn {
    fn drop(&mut self) {
        locked(&self.turns.taken).remove(&self.id);
        self.turns.freed.notify_waiters();
    }
}

/// A panic elsewhere does not make these maps wrong: each operation on them is complete in itself.
pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hold_ends_with_its_last_clone() {
        let holds = Arc::new(Holds::default());
        let id = BlobId::of(b"x");
        let first = Held::new(1, holds.hold(id));
        let clone = first.clone();
        let second = Held::new(1, holds.hold(id));
        drop(first);
        drop(second);
        assert!(holds.is_held(id));
        drop(clone);
        assert!(!holds.is_held(id));
        assert!(holds.all().is_empty());
    }

    #[tokio::test]
    async fn turns_come_one_after_the_other() {
        let turns = Arc::new(Turns::default());
        let id = BlobId::of(b"x");
        let inside = Arc::new(Mutex::new((0u32, 0u32)));
        let mut tasks = Vec::new();
        for _ in 0..50 {
            let (turns, inside) = (turns.clone(), inside.clone());
            tasks.push(tokio::spawn(async move {
                let _turn = turns.take(id).await;
                locked(&inside).0 += 1;
                tokio::task::yield_now().await;
                let mut inside = locked(&inside);
                inside.1 = inside.1.max(inside.0);
                inside.0 -= 1;
            }));
        }
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(*locked(&inside), (0, 1));
    }
}
