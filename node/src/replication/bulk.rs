//! At most one session at a time fills this node: others would send it the same once more.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use shoal_crdt::reconcile::Report;

/// Items that a session brings before it counts as one that fills the node. Why 1,024: two or three batches; a node that
/// was away for a while takes less, one that is new takes more.
const MANY: u64 = 1024;

/// The sessions that fill this node now.
#[derive(Debug, Clone, Default)]
pub(crate) struct Bulk(Arc<AtomicUsize>);

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct UnderWay(Bulk);

impl Bulk {
    /// Whether a session fills this node.
    pub(super) fn is_under_way(&self) -> bool {
        self.0.load(Ordering::Acquire) > 0
    }

    /// Looks whether a session fills this node by now: its peer has many more items, or it has brought many.
    pub(super) fn watch(&self, report: &Report, under_way: &mut Option<UnderWay>) {
        let expected = report.peer_count.saturating_sub(report.own_count);
        if under_way.is_none() && expected.max(report.received) >= MANY {
            self.0.fetch_add(1, Ordering::AcqRel);
            *under_way = Some(UnderWay(self.clone()));
        }
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.0.fetch_sub(1, Ordering::AcqRel);
    }
}
