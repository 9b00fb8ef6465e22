//! How often what was exercised: a simulation that never reaches a case says nothing about it.

use std::collections::BTreeMap;
use std::fmt;

use shoal_kernel::Counters;
use shoal_protocol::object::job::State;

/// What the seeds together must have exercised at least once each.
pub const REQUIRED: &[&str] = &[
    "fault: clock jump",
    "fault: connection reset",
    "fault: connection stall",
    "fault: fsync stall",
    "fault: function deleted",
    "fault: function updated",
    "fault: node crash",
    "fault: node refuses",
    "fault: worker crash",
    "fault: worker cordoned",
    "fault: worker leaves",
    "fault: worker sent away",
    "fault: worker slow",
    "jobs accepted",
    "jobs cancelled",
    "jobs refused",
    "jobs restored",
    "jobs settled cancelled",
    "jobs settled failed",
    "jobs settled succeeded",
    "jobs settled timed out",
    "jobs swept",
    "leases ended",
    "messages delivered after their connection",
    "messages lost",
    "records lost in a crash",
    "requests given up",
    "results repeated",
    "runs adopted over a restart",
    "runs declined",
    "runs fenced",
    "runs handed ahead",
    "runs lost",
    "runs overdue",
    "runs requeued",
    "runs withdrawn",
    "workers attached",
];

/// Counts by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Coverage {
    counts: BTreeMap<&'static str, u64>,
}

impl Coverage {
    /// One more of this.
    pub fn hit(&mut self, what: &'static str) {
        self.add(what, 1);
    }

    /// So many more of this.
    pub fn add(&mut self, what: &'static str, count: u64) {
        *self.counts.entry(what).or_default() += count;
    }

    /// How many of this.
    pub fn count(&self, what: &str) -> u64 {
        self.counts.get(what).copied().unwrap_or(0)
    }

    /// How many kinds of fault there were.
    pub fn fault_kinds(&self) -> usize {
        self.counts.keys().filter(|name| name.starts_with("fault: ")).count()
    }

    /// Adds what another run has counted.
    pub fn merge(&mut self, other: &Self) {
        for (what, count) in &other.counts {
            self.add(what, *count);
        }
    }

    /// Adds what a kernel has counted in its life.
    pub fn add_kernel(&mut self, counters: &Counters) {
        self.add("jobs accepted", counters.accepted);
        self.add("jobs refused", counters.refused.values().sum());
        self.add("jobs restored", counters.restored);
        self.add("jobs cancelled", counters.cancelled);
        self.add("jobs swept", counters.swept);
        self.add("leases ended", counters.leases_ended);
        self.add("runs offered", counters.offers);
        self.add("runs handed ahead", counters.prefetched);
        self.add("runs withdrawn", counters.withdrawn);
        self.add("runs declined", counters.declined);
        self.add("runs lost", counters.lost);
        self.add("runs requeued", counters.requeued);
        self.add("runs fenced", counters.fenced);
        self.add("runs overdue", counters.overdue);
        self.add("workers attached", counters.attachments);
        for (state, count) in &counters.settled {
            let what = match state {
                State::Succeeded => "jobs settled succeeded",
                State::Failed => "jobs settled failed",
                State::Cancelled => "jobs settled cancelled",
                State::TimedOut => "jobs settled timed out",
                _ => "jobs settled otherwise",
            };
            self.add(what, *count);
        }
    }

    /// What should have been exercised and was not.
    pub fn missing(&self) -> Vec<&'static str> {
        REQUIRED.iter().copied().filter(|what| self.count(what) == 0).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|(what, count)| writeln!(f, "{count:>10}  {what}"))
    }
}
