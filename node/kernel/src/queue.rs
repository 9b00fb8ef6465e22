//! Jobs that wait for a place, grouped by what they need.
//!
//! Jobs with equal needs form a *shape*. Whether a worker can take one of a shape it can take any, so a scheduling step
//! looks at the oldest job of each shape only: it costs shapes × workers, however many jobs wait, and a shape that fits
//! nowhere holds up no other. Within a shape, and between shapes, the older job comes first. Age is the order of ids,
//! which a node mints rising: a job that comes back after a lost run has its old place.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::ObjectId;
use shoal_protocol::object::function::Needs;

/// Shapes that may wait at once. Why 1,024: each scheduling step looks at every one of them.
pub(crate) const SHAPES_MAX: usize = 1024;

/// Names a shape as long as a job of it waits.
pub(crate) type ShapeId = u64;

/// The jobs that wait.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    by_needs: BTreeMap<Needs, ShapeId>,
    shapes: BTreeMap<ShapeId, Shape>,
    next: ShapeId,
    len: usize,
}

#[derive(Debug)]
struct Shape {
    needs: Needs,
    jobs: BTreeSet<ObjectId>,
}

impl Queue {
    /// Jobs that wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Whether a job with these needs can be put in without exceeding [`SHAPES_MAX`].
    pub(crate) fn has_room(&self, needs: &Needs) -> bool {
        self.shapes.len() < SHAPES_MAX || self.by_needs.contains_key(needs)
    }

    /// Puts a job in.
    pub(crate) fn insert(&mut self, needs: &Needs, job: ObjectId) {
        let id = match self.by_needs.get(needs) {
            Some(&id) => id,
            None => {
                self.next += 1;
                self.by_needs.insert(needs.clone(), self.next);
                self.next
            }
        };
        let shape = self.shapes.entry(id).or_insert_with(|| Shape { needs: needs.clone(), jobs: BTreeSet::new() });
        if shape.jobs.insert(job) {
            self.len += 1;
        }
    }

    /// Takes a job out.
    pub(crate) fn remove(&mut self, needs: &Needs, job: ObjectId) {
        let Some(&id) = self.by_needs.get(needs) else { return };
        let Some(shape) = self.shapes.get_mut(&id) else { return };
        if shape.jobs.remove(&job) {
            self.len -= 1;
        }
        if shape.jobs.is_empty() {
            self.shapes.remove(&id);
            self.by_needs.remove(needs);
        }
    }

    /// The oldest job of each shape.
    pub(crate) fn heads(&self) -> impl Iterator<Item = (ObjectId, ShapeId)> + '_ {
        self.shapes.iter().filter_map(|(id, shape)| shape.jobs.first().map(|job| (*job, *id)))
    }

    /// The oldest job of a shape.
    pub(crate) fn head(&self, shape: ShapeId) -> Option<ObjectId> {
        self.shapes.get(&shape).and_then(|shape| shape.jobs.first().copied())
    }

    /// What the jobs of a shape need.
    pub(crate) fn needs(&self, shape: ShapeId) -> Option<&Needs> {
        self.shapes.get(&shape).map(|shape| &shape.needs)
    }

    /// Whether older jobs with the same needs wait.
    pub(crate) fn is_behind(&self, needs: &Needs, job: ObjectId) -> bool {
        let shape = self.by_needs.get(needs).and_then(|id| self.shapes.get(id));
        shape.and_then(|shape| shape.jobs.first()).is_some_and(|first| *first < job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(n: u64) -> ObjectId {
        ObjectId::from_parts(n, 0, [0; 8])
    }

    fn needs(memory_mb: u32) -> Needs {
        Needs { memory_mb: Some(memory_mb), ..Needs::default() }
    }

    #[test]
    fn a_shape_gives_its_oldest_job_and_vanishes_with_its_last() {
        let mut queue = Queue::default();
        for n in [5, 3, 4] {
            queue.insert(&needs(1), job(n));
        }
        queue.insert(&needs(2), job(1));
        let heads: Vec<_> = queue.heads().collect();
        assert_eq!(heads.iter().map(|(job, _)| *job).collect::<Vec<_>>(), [job(3), job(1)]);
        let (_, shape) = heads[0];
        queue.remove(&needs(1), job(3));
        assert_eq!(queue.head(shape), Some(job(4)));
        assert!(queue.is_behind(&needs(1), job(5)) && !queue.is_behind(&needs(1), job(4)));
        queue.insert(&needs(1), job(3));
        assert_eq!(queue.head(shape), Some(job(3)), "a job that comes back has its old place");
        for n in [3, 4, 5] {
            queue.remove(&needs(1), job(n));
        }
        assert_eq!((queue.len(), queue.heads().count(), queue.needs(shape)), (1, 1, None));
    }

    #[test]
    fn shapes_are_bounded() {
        let mut queue = Queue::default();
        for n in 0..SHAPES_MAX {
            assert!(queue.has_room(&needs(n as u32)));
            queue.insert(&needs(n as u32), job(n as u64));
        }
        assert!(!queue.has_room(&needs(u32::MAX)));
        assert!(queue.has_room(&needs(7)), "one more job of a known shape costs nothing");
    }
}
