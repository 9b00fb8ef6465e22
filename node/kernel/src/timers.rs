//! What is due when. The kernel reads no clock: it says when it wants to be woken.

use std::collections::BTreeSet;

use shoal_protocol::{NodeId, ObjectId, WorkerId};

use crate::record::Group;

/// What is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    /// A worker's lease may have ended. There is one for each known worker; it moves on when the lease was renewed.
    Lease(WorkerId),
    /// A job's pause is over, or its time has come.
    Backoff(ObjectId),
    /// A job has waited for a worker that is out of reach for as long as it wants to.
    Replace(ObjectId),
    /// A job has waited for its first run for as long as it may.
    QueueLimit(ObjectId),
    /// A job has taken as long in all as it may.
    TotalLimit(ObjectId),
    /// The next heartbeat to a home whose runs this node may hold, or the next attempt to reach one that is away.
    Beat(NodeId),
    /// An ending that no home has asked for is old.
    Guest(ObjectId),
    /// Jobs of a submission have waited for their custodians for as long as they may.
    Keep(u64),
    /// Who keeps this home's jobs is looked at again.
    Custody,
    /// The oldest settled job of a group may be due.
    Sweep(Group),
    /// A URL is to be called for a job, or nothing was heard of a call that was begun.
    Call(ObjectId),
    /// What was used is looked at, and journaled.
    Shares,
    /// Placement may find something that it did not find before.
    Place,
}

/// All that is due, by time.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeSet<(u64, Timer)>,
}

impl Timers {
    pub(crate) fn set(&mut self, at_ms: u64, timer: Timer) {
        self.due.insert((at_ms, timer));
    }

    pub(crate) fn remove(&mut self, at_ms: u64, timer: Timer) {
        self.due.remove(&(at_ms, timer));
    }

    /// The next that is due by now, earliest first.
    pub(crate) fn pop(&mut self, now_ms: u64) -> Option<Timer> {
        let first = self.due.first().copied().filter(|(at, _)| *at <= now_ms)?;
        self.due.remove(&first);
        Some(first.1)
    }

    /// When the next is due.
    pub(crate) fn next_ms(&self) -> Option<u64> {
        self.due.first().map(|(at, _)| *at)
    }
}
