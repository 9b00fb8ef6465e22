//! Jobs that are forgotten, the latest of them: what was on its way then, or asked for, changes nothing any more.

use std::collections::{BTreeSet, VecDeque};

use shoal_protocol::ObjectId;

/// Jobs that are remembered so. Why 4,096: far more than a home has on their way with bytes that must be fetched, and a node's clients
/// may ask for at once, in 160 KB.
const GONE_MAX: usize = 4_096;

/// Those of one home, or of this node.
#[derive(Debug, Default)]
pub(crate) struct Gone {
    jobs: BTreeSet<ObjectId>,
    /// The oldest first.
    order: VecDeque<ObjectId>,
}

impl Gone {
    pub(crate) fn contains(&self, job: ObjectId) -> bool {
        self.jobs.contains(&job)
    }

    pub(crate) fn insert(&mut self, job: ObjectId) {
        if !self.jobs.insert(job) {
            return;
        }
        self.order.push_back(job);
        if self.order.len() > GONE_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.jobs.remove(&oldest);
        }
    }

    /// It is there again.
    pub(crate) fn remove(&mut self, job: ObjectId) {
        if self.jobs.remove(&job) {
            self.order.retain(|other| *other != job);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_latest_are_remembered_and_no_more() {
        let id = |n: usize| ObjectId::from_parts(n as u64, 0, [0; 8]);
        let mut gone = Gone::default();
        for n in [0, 0].into_iter().chain(1..=GONE_MAX) {
            gone.insert(id(n));
        }
        assert!(!gone.contains(id(0)) && gone.contains(id(1)) && gone.contains(id(GONE_MAX)));
        assert_eq!((gone.jobs.len(), gone.order.len()), (GONE_MAX, GONE_MAX));
        gone.remove(id(1));
        gone.remove(id(0));
        assert!(!gone.contains(id(1)) && gone.order.len() == GONE_MAX - 1);
    }
}
