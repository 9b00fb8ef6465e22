//! Slots for attempts to fetch: so many at the same time, and of those no provider has more than its part. One that is
//! slow, by ill will or by its link, leaves the others theirs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use shoal_protocol::NodeId;
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, SemaphorePermit};

use crate::store::held::locked;

/// Attempts that run at the same time; further ones wait. Why 32: each holds about 400 KiB of what comes in.
const ATTEMPTS_MAX: usize = 32;
/// Attempts at one provider. Why 8: a quarter, so that three that are slow leave some to a fourth; more streams to one
/// node bring its bytes no sooner.
const EACH_MAX: usize = 8;

/// All slots of a store.
pub(super) struct Slots {
    all: Semaphore,
    /// Of the providers that are being asked, or waited for.
    each: Mutex<HashMap<NodeId, Arc<Semaphore>>>,
}

impl Default for Slots {
    fn default() -> Self {
        Self { all: Semaphore::new(ATTEMPTS_MAX), each: Mutex::default() }
    }
}

/// One attempt may run, until this is dropped.
pub(super) struct Slot<'a> {
    // Semaphores that are never closed always give.
    _own: Result<OwnedSemaphorePermit, AcquireError>,
    _one: Result<SemaphorePermit<'a>, AcquireError>,
}

impl Slots {
    /// Whether this provider has one of its own left.
    pub(super) fn has_room(&self, node: NodeId) -> bool {
        locked(&self.each).get(&node).is_none_or(|own| own.available_permits() > 0)
    }

    /// Waits for a slot at this provider. The future may be dropped at any point.
    pub(super) async fn take(&self, node: NodeId) -> Slot<'_> {
        let own = {
            let mut each = locked(&self.each);
            each.retain(|_, own| Arc::strong_count(own) > 1);
            each.entry(node).or_insert_with(|| Arc::new(Semaphore::new(EACH_MAX))).clone()
        };
        // First its own: who waits for that takes nothing from others.
        let own = own.acquire_owned().await;
        Slot { _own: own, _one: self.all.acquire().await }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    const ANNA: NodeId = NodeId([1; 32]);
    const BERT: NodeId = NodeId([2; 32]);

    #[test]
    fn one_provider_leaves_slots_for_others() {
        let slots = Slots::default();
        let mut held: Vec<_> = (0..EACH_MAX).map(|_| slots.take(ANNA).now_or_never().unwrap()).collect();
        assert!(!slots.has_room(ANNA) && slots.has_room(BERT));
        assert!(slots.take(ANNA).now_or_never().is_none(), "it waits");
        assert!(slots.take(BERT).now_or_never().is_some());
        held.pop();
        assert!(slots.take(ANNA).now_or_never().is_some());
        drop(held);
        assert!(slots.take(BERT).now_or_never().is_some());
        assert!(!locked(&slots.each).contains_key(&ANNA), "who is not asked is forgotten");
    }

    #[test]
    fn all_together_are_bounded() {
        let slots = Slots::default();
        let of = |n: usize| NodeId([u8::try_from(n / EACH_MAX).unwrap(); 32]);
        let held: Vec<_> = (0..ATTEMPTS_MAX).map(|n| slots.take(of(n)).now_or_never().unwrap()).collect();
        assert!(slots.take(of(ATTEMPTS_MAX)).now_or_never().is_none());
        drop(held);
        assert!(slots.take(of(ATTEMPTS_MAX)).now_or_never().is_some());
    }
}
