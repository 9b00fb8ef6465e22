//! Which URLs are to be called since a job has ended: some 200 bytes for each that nobody has answered yet.

use std::collections::{BTreeMap, VecDeque};

use shoal_protocol::ObjectId;

use crate::record::Call;

/// Calls that may wait for their answers. Why 100,000: some 20 MB; beyond it no job is taken that wants one.
pub(crate) const CALLS_MAX: usize = 100_000;

/// Calls at once. Why 32: receivers that do not answer hold each for ten seconds, and must not hold up the others for long.
pub(crate) const AT_ONCE_MAX: usize = 32;

/// One that was not answered yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pending {
    pub(crate) call: Call,
    /// The time of its one timer; none: it waits for others to end.
    pub(crate) due_ms: Option<u64>,
    /// It is being made.
    pub(crate) under_way: bool,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    table: BTreeMap<ObjectId, Pending>,
    under_way: usize,
    /// Those that are due, while as many are under way as may be; some of them may be gone.
    ready: VecDeque<ObjectId>,
}

impl Calls {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    pub(crate) fn get_mut(&mut self, job: ObjectId) -> Option<&mut Pending> {
        self.table.get_mut(&job)
    }

    pub(crate) fn insert(&mut self, job: ObjectId, call: Call) {
        self.table.insert(job, Pending { call, due_ms: None, under_way: false });
    }

    /// Begins a call, if one more may be under way; else it is ready. Its number.
    pub(crate) fn begin(&mut self, job: ObjectId) -> Option<u32> {
        let pending = self.table.get_mut(&job)?;
        if self.under_way >= AT_ONCE_MAX {
            self.ready.push_back(job);
            return None;
        }
        pending.under_way = true;
        self.under_way += 1;
        Some(pending.call.called.attempts.saturating_add(1))
    }

    /// A call is under way no more. The next that is ready.
    pub(crate) fn end(&mut self, job: ObjectId) -> Option<ObjectId> {
        if let Some(pending) = self.table.get_mut(&job)
            && std::mem::take(&mut pending.under_way)
        {
            self.under_way -= 1;
        }
        self.next_ready()
    }

    /// A call is needed no more: what was known of it.
    pub(crate) fn remove(&mut self, job: ObjectId) -> Option<Pending> {
        let pending = self.table.remove(&job)?;
        self.under_way -= usize::from(pending.under_way);
        Some(pending)
    }

    /// The next that is ready, if one more may be under way.
    pub(crate) fn next_ready(&mut self) -> Option<ObjectId> {
        while self.under_way < AT_ONCE_MAX {
            let job = self.ready.pop_front()?;
            if self.table.get(&job).is_some_and(|pending| !pending.under_way && pending.due_ms.is_none()) {
                return Some(job);
            }
        }
        None
    }
}
