//! Places for what peers ask at once: so many in all, and of those no peer holds more than its part.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_protocol::NodeId;

/// One kind of places. Cheap to clone.
#[derive(Clone)]
pub(super) struct Places(Arc<Inner>);

struct Inner {
    all_max: usize,
    each_max: usize,
    held: Mutex<Held>,
}

#[derive(Default)]
struct Held {
    all: usize,
    each: HashMap<NodeId, usize>,
}

impl Places {
    pub(super) fn new(all_max: usize, each_max: usize) -> Self {
        Self(Arc::new(Inner { all_max, each_max, held: Mutex::default() }))
    }

    /// A place for this peer, until it is dropped; none: all are taken, or as many as one peer gets.
    pub(super) fn take(&self, peer: NodeId) -> Option<Place> {
        let mut held = self.0.held();
        let own = held.each.get(&peer).copied().unwrap_or_default();
        if held.all >= self.0.all_max || own >= self.0.each_max {
            return None;
        }
        held.all += 1;
        held.each.insert(peer, own + 1);
        Some(Place { places: self.clone(), peer })
    }
}

impl Inner {
    fn held(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place that is taken.
pub(super) struct Place {
    places: Places,
    peer: NodeId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.places.0.held();
        held.all = held.all.saturating_sub(1);
        match held.each.get_mut(&self.peer) {
            Some(own) if *own > 1 => *own -= 1,
            _ => drop(held.each.remove(&self.peer)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_peer_leaves_places_for_others_and_what_is_dropped_is_free() {
        let places = Places::new(3, 2);
        let (one, other) = (NodeId([1; 32]), NodeId([2; 32]));
        let held = [places.take(one), places.take(one)];
        assert!(held.iter().all(Option::is_some) && places.take(one).is_none());
        let last = places.take(other);
        assert!(last.is_some() && places.take(other).is_none());
        drop(held);
        assert!(places.take(one).is_some() && places.take(other).is_some());
        drop(last);
        assert!(places.0.held().each.is_empty() && places.0.held().all == 0);
    }
}
