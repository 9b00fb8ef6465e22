//! What has changed lately, for those who subscribe.
//!
//! One ring for all of them: a subscriber has a place in it and no queue of its own, so that a slow one costs nothing but
//! the changes that it misses, and is told of that.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use shoal_kernel::Noted;
use shoal_protocol::object::job::{Event, EventId};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Changes that are remembered. Why 16,384: a second of a node under full load, hours of a usual one; 3 MiB.
const REMEMBERED_MAX: usize = 16_384;
/// Subscribers at once. Why 256: each may be woken by every change.
const SUBSCRIBERS_MAX: usize = 256;

/// What has changed since this process began, as far as it is remembered.
pub(crate) struct Feed {
    start_ms: u64,
    ring: Mutex<Ring>,
    news: Notify,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct Ring {
    noted: VecDeque<Noted>,
    /// The number of the last change.
    last: u64,
}

/// What there is behind a place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Stretch {
    /// Changes are missing before the first; how many at most, where that is known.
    pub(crate) missed: Option<Option<u64>>,
    /// Those that fit, oldest first.
    pub(crate) events: Vec<(EventId, Event)>,
    /// Where to go on.
    pub(crate) next: EventId,
}

impl Feed {
    /// An empty one of a process that began then.
    pub(super) fn new(start_ms: u64) -> Self {
        let places = Arc::new(Semaphore::new(SUBSCRIBERS_MAX));
        Self { start_ms, ring: Mutex::default(), news: Notify::new(), places }
    }

    fn ring(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a change that is durable.
    pub(super) fn push(&self, noted: Noted) {
        let mut ring = self.ring();
        if ring.noted.len() >= REMEMBERED_MAX {
            ring.noted.pop_front();
        }
        ring.noted.push_back(noted);
        ring.last += 1;
        drop(ring);
        self.news.notify_waiters();
    }

    /// A place for one more subscriber, if there is one.
    pub(crate) fn take_place(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.places).try_acquire_owned().ok()
    }

    /// The last change.
    pub(crate) fn last(&self) -> EventId {
        self.id(self.ring().last)
    }

    fn id(&self, number: u64) -> EventId {
        EventId { start_ms: self.start_ms, number }
    }

    /// Completes when there are changes after this call, whether or not it has been polled by then.
    pub(crate) fn news(&self) -> impl Future<Output = ()> + '_ {
        self.news.notified()
    }

    /// What is remembered behind a place and fits, at most so many. Behind a place of another process, or one that was
    /// never told, it is all that is remembered.
    pub(crate) fn read(&self, after: EventId, max: usize, fits: impl Fn(&Noted) -> bool) -> Stretch {
        let ring = self.ring();
        let forgotten = ring.last.saturating_sub(ring.noted.len() as u64);
        let known = after.start_ms == self.start_ms && after.number <= ring.last;
        let missed = match known {
            false => Some(None),
            true if after.number < forgotten => Some(Some(forgotten - after.number)),
            true => None,
        };
        let from = if missed.is_some() { forgotten } else { after.number };
        let skipped = usize::try_from(from - forgotten).unwrap_or(usize::MAX);
        let (mut events, mut next) = (Vec::new(), ring.last);
        for (noted, number) in ring.noted.iter().skip(skipped).zip(from + 1..) {
            if events.len() >= max {
                next = number - 1;
                break;
            }
            if fits(noted) {
                events.push((self.id(number), noted.event.clone()));
            }
        }
        Stretch { missed, events, next: self.id(next) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::ObjectId;
    use shoal_protocol::object::job::State;

    fn noted(n: u64) -> Noted {
        let id = ObjectId::from_parts(n, 0, [0; 8]);
        let event = Event {
            job: id,
            state: State::Queued,
            epoch: 0,
            at_ms: n,
            function: id,
            project: None,
            owner: id,
            worker: None,
            node: None,
            failure: None,
        };
        Noted { event, function_owner: id }
    }

    fn feed(changes: u64) -> Feed {
        let feed = Feed::new(7);
        (1..=changes).for_each(|n| feed.push(noted(n)));
        feed
    }

    fn numbers(stretch: &Stretch) -> Vec<u64> {
        stretch.events.iter().map(|(id, _)| id.number).collect()
    }

    #[test]
    fn one_goes_on_where_one_was_and_hears_what_fits() {
        let feed = feed(10);
        let at = |number| EventId { start_ms: 7, number };
        let stretch = feed.read(at(3), 3, |noted| noted.event.at_ms % 2 == 0);
        assert_eq!((numbers(&stretch), stretch.next, stretch.missed), (vec![4, 6, 8], at(8), None));
        let rest = feed.read(stretch.next, 3, |noted| noted.event.at_ms % 2 == 0);
        assert_eq!((numbers(&rest), rest.next), (vec![10], at(10)));
        let none = feed.read(at(5), 3, |_| false);
        assert_eq!((numbers(&none), none.next), (vec![], at(10)), "what does not fit is behind one as well");
        assert_eq!(feed.read(feed.last(), 3, |_| true).events, []);
    }

    #[test]
    fn who_was_away_for_too_long_is_told_so() {
        let more = 5;
        let feed = feed(REMEMBERED_MAX as u64 + more);
        let stretch = feed.read(EventId { start_ms: 7, number: 2 }, 1, |_| true);
        assert_eq!((stretch.missed, numbers(&stretch)), (Some(Some(more - 2)), vec![more + 1]));
        for other in [EventId { start_ms: 6, number: 2 }, EventId { start_ms: 7, number: u64::MAX }] {
            let stretch = feed.read(other, 1, |_| true);
            assert_eq!((stretch.missed, numbers(&stretch)), (Some(None), vec![more + 1]));
        }
        assert_eq!(feed.ring().noted.len(), REMEMBERED_MAX);
    }

    #[test]
    fn subscribers_are_bounded() {
        let feed = feed(0);
        let places: Vec<_> = std::iter::from_fn(|| feed.take_place()).collect();
        assert_eq!(places.len(), SUBSCRIBERS_MAX);
        drop(places);
        assert!(feed.take_place().is_some());
    }
}
