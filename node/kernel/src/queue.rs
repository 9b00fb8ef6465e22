//! Jobs that wait for a place, grouped by what they need.
//!
//! Jobs with equal needs form a *shape*. Whether a worker can take one of a shape it can take any, so a scheduling step
//! looks at the first job of each shape only: it costs shapes × workers, however many jobs wait, and a shape that fits
//! nowhere holds up no other. Within a shape, and between shapes, the job of the lower [`Turn`] comes first: that of the project
//! that has used the least of its share, of its users the one who has ([`lanes`]), and of theirs the job of the lower
//! [`Rank`]: the older one, where priorities are equal. Age is in the ids, which a node mints rising: a job that comes back
//! after a lost run has its old place.

mod lanes;

use std::collections::BTreeMap;

use shoal_protocol::ObjectId;
use shoal_protocol::object::function::Needs;

pub(crate) use lanes::{Keys, Lane, Turn};

use lanes::Lanes;

/// Shapes that may wait at once. Why 1,024: each scheduling step looks at every one of them.
pub(crate) const SHAPES_MAX: usize = 1024;

/// How much age a step of priority is worth, in milliseconds. Why a minute: the highest priority is 100 minutes before the
/// usual one, which reorders a day's work and lets nothing wait for ever.
const STEP_MS: i64 = 60_000;

/// Names a shape as long as a job of it waits.
pub(crate) type ShapeId = u64;

/// A job's place among those that wait. Priority is age that was given: with time every job is the first, whatever comes
/// after it, and no rank has to be changed for that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    given_ms: i64,
    job: ObjectId,
}

impl Rank {
    pub(crate) fn of(job: ObjectId, priority: i8) -> Self {
        let minted_ms = i64::try_from(job.millis()).unwrap_or(i64::MAX);
        Self { given_ms: minted_ms.saturating_sub(i64::from(priority) * STEP_MS), job }
    }

    pub(crate) fn job(self) -> ObjectId {
        self.job
    }
}

/// The jobs that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    by_needs: BTreeMap<Needs, ShapeId>,
    shapes: BTreeMap<ShapeId, Shape>,
    next: ShapeId,
    len: usize,
    aside: usize,
}

#[derive(Debug)]
struct Shape {
    needs: Needs,
    jobs: Lanes,
    /// Jobs that will come: they keep the shape, so that it has its place when they do.
    aside: usize,
}

impl Queue {
    /// Jobs that wait in the queue.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// All jobs that wait: in the queue, and beside it for something else.
    pub(crate) fn waiting(&self) -> usize {
        self.len + self.aside
    }

    /// Whether a job with these needs can be put in without exceeding [`SHAPES_MAX`].
    pub(crate) fn has_room(&self, needs: &Needs) -> bool {
        self.shapes.len() < SHAPES_MAX || self.by_needs.contains_key(needs)
    }

    /// Puts a job in.
    pub(crate) fn insert(&mut self, needs: &Needs, lane: Lane, keys: Keys, job: Rank) {
        if self.shape(needs).jobs.insert(lane, keys, job) {
            self.len += 1;
        }
    }

    /// Keeps a place for a job that waits for something else first.
    pub(crate) fn reserve(&mut self, needs: &Needs) {
        self.shape(needs).aside += 1;
        self.aside += 1;
    }

    /// Such a job waits for nothing else any more.
    pub(crate) fn give_back(&mut self, needs: &Needs) {
        let Some(&id) = self.by_needs.get(needs) else { return };
        let Some(shape) = self.shapes.get_mut(&id) else { return };
        shape.aside = shape.aside.saturating_sub(1);
        self.aside = self.aside.saturating_sub(1);
        self.drop_empty(id);
    }

    fn shape(&mut self, needs: &Needs) -> &mut Shape {
        let id = match self.by_needs.get(needs) {
            Some(&id) => id,
            None => {
                self.next += 1;
                self.by_needs.insert(needs.clone(), self.next);
                self.next
            }
        };
        self.shapes.entry(id).or_insert_with(|| Shape { needs: needs.clone(), jobs: Lanes::default(), aside: 0 })
    }

    fn drop_empty(&mut self, id: ShapeId) {
        if self.shapes.get(&id).is_some_and(|shape| shape.jobs.is_empty() && shape.aside == 0)
            && let Some(shape) = self.shapes.remove(&id)
        {
            self.by_needs.remove(&shape.needs);
        }
    }

    /// Takes a job out.
    pub(crate) fn remove(&mut self, needs: &Needs, lane: Lane, job: Rank) {
        let Some(&id) = self.by_needs.get(needs) else { return };
        let Some(shape) = self.shapes.get_mut(&id) else { return };
        if shape.jobs.remove(lane, job) {
            self.len -= 1;
        }
        self.drop_empty(id);
    }

    /// The shapes of which a job waits.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = ShapeId> + '_ {
        self.shapes.iter().filter(|(_, shape)| !shape.jobs.is_empty()).map(|(id, _)| *id)
    }

    /// The first job of a shape, of the groups and users that may have more of them under way.
    pub(crate) fn head(
        &self,
        shape: ShapeId,
        group_is_open: impl Fn(ObjectId) -> bool,
        user_is_open: impl Fn(ObjectId) -> bool,
    ) -> Option<Turn> {
        self.shapes.get(&shape).and_then(|shape| shape.jobs.first(group_is_open, user_is_open))
    }

    /// The use of a lane is another one now.
    pub(crate) fn rekey(&mut self, lane: Lane, keys: Keys) {
        self.shapes.values_mut().for_each(|shape| shape.jobs.rekey(lane, keys));
    }

    /// The uses of all lanes are others now.
    pub(crate) fn rekey_all(&mut self, keys: impl Fn(Lane) -> Keys) {
        self.shapes.values_mut().for_each(|shape| shape.jobs.rekey_all(&keys));
    }

    /// What the jobs of a shape need.
    pub(crate) fn needs(&self, shape: ShapeId) -> Option<&Needs> {
        self.shapes.get(&shape).map(|shape| &shape.needs)
    }

    /// Whether other jobs with the same needs come before it.
    pub(crate) fn place(&self, needs: &Needs, lane: Lane, job: Rank) -> Place {
        let Some(shape) = self.by_needs.get(needs).and_then(|id| self.shapes.get(id)) else { return Place::First };
        match shape.jobs.first(|_| true, |_| true) {
            _ if shape.jobs.is_behind_its_own(lane, job) => Place::BehindOlder,
            Some(first) if first.rank != job => Place::BehindOthers,
            _ => Place::First,
        }
    }
}

/// Where a job stands among those with the same needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Place {
    /// None is before it.
    First,
    /// Older ones of the same user and project are.
    BehindOlder,
    /// Those of others are, who have used less of their share.
    BehindOthers,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(n: u64) -> Rank {
        Rank::of(ObjectId::from_parts(n, 0, [0; 8]), 0)
    }

    fn needs(memory_mb: u32) -> Needs {
        Needs { memory_mb: Some(memory_mb), ..Needs::default() }
    }

    fn lane() -> Lane {
        let id = ObjectId::from_parts(1, 0, [0; 8]);
        Lane { group: id, user: id }
    }

    impl Queue {
        fn put(&mut self, needs: &Needs, job: Rank) {
            self.insert(needs, lane(), Keys::default(), job);
        }

        fn first(&self, shape: ShapeId) -> Option<Rank> {
            self.head(shape, |_| true, |_| true).map(|turn| turn.rank)
        }
    }

    #[test]
    fn a_shape_gives_its_oldest_job_and_vanishes_with_its_last() {
        let mut queue = Queue::default();
        for n in [5, 3, 4] {
            queue.put(&needs(1), job(n));
        }
        queue.put(&needs(2), job(1));
        let shapes: Vec<_> = queue.shapes().collect();
        assert_eq!(shapes.iter().filter_map(|shape| queue.first(*shape)).collect::<Vec<_>>(), [job(3), job(1)]);
        let shape = shapes[0];
        queue.remove(&needs(1), lane(), job(3));
        assert_eq!(queue.first(shape), Some(job(4)));
        assert_eq!(queue.place(&needs(1), lane(), job(5)), Place::BehindOlder);
        assert_eq!(queue.place(&needs(1), lane(), job(4)), Place::First);
        queue.put(&needs(1), job(3));
        assert_eq!(queue.first(shape), Some(job(3)), "a job that comes back has its old place");
        for n in [3, 4, 5] {
            queue.remove(&needs(1), lane(), job(n));
        }
        assert_eq!((queue.len(), queue.shapes().count(), queue.needs(shape)), (1, 1, None));
    }

    #[test]
    fn priority_is_age_that_was_given() {
        let rank = |minted_ms: i64, priority| Rank::of(ObjectId::from_parts(minted_ms as u64, 0, [0; 8]), priority);
        let start = 1_000 * STEP_MS;
        assert!(rank(start + 1, 1) < rank(start, 0) && rank(start, 0) < rank(start, -1));
        assert!(rank(start + 3 * STEP_MS, 2) > rank(start, 0), "two steps are two minutes, not three");
        assert!(rank(start + STEP_MS, 1) > rank(start, 0), "of equals the older");
        assert!(rank(0, 127) < rank(0, -128), "no bound is overrun");
    }

    #[test]
    fn a_job_that_will_come_keeps_its_shape() {
        let mut queue = Queue::default();
        queue.reserve(&needs(1));
        queue.put(&needs(1), job(1));
        queue.remove(&needs(1), lane(), job(1));
        assert_eq!((queue.len(), queue.waiting(), queue.shapes().count(), queue.shapes.len()), (0, 1, 0, 1));
        queue.give_back(&needs(1));
        queue.give_back(&needs(1));
        assert_eq!((queue.waiting(), queue.shapes.len(), queue.by_needs.len()), (0, 0, 0));
    }

    #[test]
    fn shapes_are_bounded() {
        let mut queue = Queue::default();
        for n in 0..SHAPES_MAX {
            assert!(queue.has_room(&needs(n as u32)));
            queue.put(&needs(n as u32), job(n as u64));
        }
        assert!(!queue.has_room(&needs(u32::MAX)));
        assert!(queue.has_room(&needs(7)), "one more job of a known shape costs nothing");
    }
}
