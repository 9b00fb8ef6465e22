//! What jobs are alike in stands in memory once, however many of them wait.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::record::Spec;

/// How many are kept before those that no job has any more are looked for.
const KEPT_MIN: usize = 64;

/// The specs of the jobs in memory.
#[derive(Debug, Default)]
pub(crate) struct Specs {
    known: BTreeSet<Arc<Spec>>,
    /// At this many the unused ones go. Twice what was in use at the last time, so that it costs each new one little.
    sweep_at: usize,
}

impl Specs {
    /// Makes it the same as an equal one that is known.
    pub(crate) fn share(&mut self, spec: &mut Arc<Spec>) {
        if let Some(known) = self.known.get(&**spec) {
            *spec = known.clone();
            return;
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|known| Arc::strong_count(known) > 1);
            self.sweep_at = self.known.len().saturating_mul(2).max(KEPT_MIN);
        }
        self.known.insert(spec.clone());
    }
}

#[cfg(test)]
mod tests {
    use shoal_protocol::{BlobId, ObjectId};

    use super::*;

    fn spec(version: u32) -> Arc<Spec> {
        let id = ObjectId::from_parts(1, 0, [0; 8]);
        Arc::new(Spec {
            owner: id,
            function: id,
            function_name: "resize".into(),
            function_owner: id,
            project: None,
            function_version: version,
            component: BlobId([0; 32]),
            grants: Default::default(),
            needs: Default::default(),
            limits: Default::default(),
        })
    }

    #[test]
    fn equal_ones_are_one_and_unused_ones_go() {
        let mut specs = Specs::default();
        let (mut first, mut second) = (spec(1), spec(1));
        specs.share(&mut first);
        specs.share(&mut second);
        assert!(Arc::ptr_eq(&first, &second));
        for version in 2..10_000 {
            specs.share(&mut spec(version));
        }
        assert!(specs.known.len() <= KEPT_MIN, "{} are kept for one job", specs.known.len());
        let mut third = spec(1);
        specs.share(&mut third);
        assert!(Arc::ptr_eq(&first, &third), "one in use stays");
    }
}
