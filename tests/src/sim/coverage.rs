//! How often what was exercised: a simulation that never reaches a case says nothing about it.

use std::collections::BTreeMap;
use std::fmt;

use shoal_kernel::Counters;
use shoal_protocol::object::job::State;

/// What the seeds together must have exercised at least once each.
pub const REQUIRED: &[&str] = &[
    "calls answered",
    "checkpoint restored",
    "checkpoints fenced",
    "checkpoints saved",
    "fault: clock jump",
    "fault: connection reset",
    "fault: connection stall",
    "fault: disk full",
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
    "elements of arrays begun",
    "duplicate key",
    "ends learned from the store",
    "jobs cancelled",
    "jobs given the result of an equal one",
    "jobs held",
    "jobs out of time in all",
    "jobs out of time in the queue",
    "jobs of which a dependency was never met",
    "jobs refused",
    "jobs released",
    "jobs restored",
    "jobs settled cancelled",
    "jobs settled expired",
    "jobs settled failed",
    "jobs settled succeeded",
    "jobs settled timed out",
    "jobs swept",
    "jobs swept since there were too many",
    "jobs that waited for others",
    "jobs whose time has come",
    "keys answered with their job",
    "leases ended",
    "messages delivered after their connection",
    "messages lost",
    "journal writes that failed",
    "records lost in a crash",
    "requests given up",
    "results repeated",
    "runs adopted over a restart",
    "runs declined",
    "runs fenced",
    "runs handed ahead",
    "runs lost",
    "runs overdue",
    "runs replaced",
    "runs requeued",
    "runs tried again after a failure of their own",
    "runs withdrawn",
    "workers attached",
    "submissions over a quota",
    "tallies of use",
    "waits for a quota of runs",
];

/// What the seeds of a mesh must have exercised beyond that.
pub const REQUIRED_OF_A_MESH: &[&str] = &[
    "agreements checked",
    "changes brought to another node",
    "changes by clients",
    "changes by gossip",
    "changes by reconciliation",
    "changes held back",
    "changes lost in a crash",
    "changes that do not count",
    "charges gone",
    "charges restored after a restart",
    "charges taken",
    "checkpoint restored",
    "checkpoints told to homes",
    "commits that failed",
    "documents deleted or taken back",
    "elements of arrays kept for homes",
    "equivocators in agreements",
    "fault: link cut",
    "fault: link reset",
    "fault: link stall",
    "fault: mesh split",
    "fault: node crash",
    "gossip delivered twice",
    "gossip lost",
    "gossip that was heard before",
    "guests declined",
    "guests ended",
    "guests lost with their worker",
    "guests replaced by a newer epoch",
    "guests restored after a restart",
    "guests taken",
    "homes attached",
    "homes looked for",
    "jobs acknowledged with custodians",
    "jobs given to regents",
    "jobs acknowledged without the custodians that they wanted",
    "jobs refused for want of custodians",
    "keys and nodes taken from users",
    "settlements taken over from homes",
    "guests started of jobs that never run twice",
    "jobs that may begin by the word of a majority",
    "superseded",
    "takeover",
    "words given to jobs that never run twice",
    "words refused to jobs that never run twice",
    "unconfirmed reigns",
    "votes for regents",
    "letters lost with their connection",
    "nodes found",
    "nodes looked for",
    "peer messages delivered after their connection",
    "peer messages delivered out of order",
    "peer messages delivered twice",
    "peer messages lost",
    "peers attached",
    "reconciliations cut at their beginning",
    "reconciliations cut half way",
    "reconciliations of equal sets",
    "reconciliations that exchanged changes",
    "records sent again to custodians",
    "replicas restarted with pending changes",
    "runs at peers succeeded",
    "runs declined by peers",
    "runs lost with peers",
    "runs offered to peers",
    "sets of custodians",
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
        self.add("duplicate key", counters.duplicates);
        self.add("keys answered with their job", counters.same_key);
        self.add("jobs cancelled", counters.cancelled);
        self.add("jobs held", counters.held);
        self.add("calls to URLs", counters.calls);
        self.add("calls answered", counters.calls_delivered);
        self.add("jobs given the result of an equal one", counters.memoised);
        self.add("jobs released", counters.released);
        self.add("elements of arrays begun", counters.elements_begun);
        self.add("jobs that waited for others", counters.unblocked);
        self.add("jobs of which a dependency was never met", counters.never_met);
        self.add("jobs whose time has come", counters.begun);
        self.add("jobs out of time in the queue", counters.queue_limits);
        self.add("jobs out of time in all", counters.total_limits);
        self.add("runs tried again after a failure of their own", counters.retried);
        self.add("jobs swept", counters.swept);
        self.add("jobs swept since there were too many", counters.swept_for_number);
        self.add("submissions over a quota", counters.over_quota);
        self.add("waits for a quota of runs", counters.quota_waits);
        self.add("tallies of use", counters.tallies);
        self.add("tallies of other nodes", counters.tallies_heard);
        self.add("checkpoints saved", counters.checkpoints);
        self.add("checkpoints fenced", counters.checkpoints_fenced);
        self.add("checkpoint restored", counters.resumed);
        self.add("leases ended", counters.leases_ended);
        self.add("waits for a worker", counters.disconnected);
        self.add("runs replaced", counters.replaced);
        self.add("runs offered", counters.offers);
        self.add("runs handed ahead", counters.prefetched);
        self.add("runs withdrawn", counters.withdrawn);
        self.add("runs declined", counters.declined);
        self.add("runs lost", counters.lost);
        self.add("runs requeued", counters.requeued);
        self.add("runs fenced", counters.fenced);
        self.add("runs overdue", counters.overdue);
        self.add("workers attached", counters.attachments);
        self.add("runs offered to peers", counters.peer_offers);
        self.add("runs declined by peers", counters.peer_declines);
        self.add("peers attached", counters.peer_attachments);
        self.add("guests taken", counters.guests_taken);
        self.add("guests declined", counters.guests_declined);
        self.add("guests ended", counters.guests_ended);
        self.add("guests lost with their worker", counters.guests_lost);
        self.add("guests replaced by a newer epoch", counters.guests_replaced);
        self.add("guests restored after a restart", counters.guests_restored);
        self.add("jobs acknowledged with custodians", counters.kept);
        self.add("jobs acknowledged without the custodians that they wanted", counters.kept_alone);
        self.add("jobs refused for want of custodians", counters.unkept);
        self.add("sets of custodians", counters.custodian_sets);
        self.add("records sent again to custodians", counters.records_sent_again);
        self.add("charges taken", counters.charges_taken);
        self.add("charges gone", counters.charges_gone);
        self.add("elements of arrays kept for homes", counters.elements_taken);
        self.add("arrays taken over", counters.arrays_taken);
        self.add("jobs left to their home ended", counters.left_ended);
        self.add("jobs ended that their home had forgotten", counters.forgotten_by_home);
        self.add("arrays given to regents", counters.arrays_ceded);
        self.add("elements of which regents told", counters.elements_elsewhere);
        self.add("charges restored after a restart", counters.charges_restored);
        self.add("votes for regents", counters.votes);
        self.add("reigns", counters.reigns);
        self.add("unconfirmed reigns", counters.reigns_unconfirmed);
        self.add("reigns of others", counters.reigns_heard);
        self.add("takeover", counters.taken);
        self.add("jobs given to regents", counters.yielded);
        self.add("superseded", counters.superseded);
        self.add("settlements taken over from homes", counters.settled_by_home);
        self.add("words given to jobs that never run twice", counters.grants);
        self.add("words refused to jobs that never run twice", counters.grants_refused);
        self.add("jobs that may begin by the word of a majority", counters.granted);
        for (state, count) in &counters.settled {
            let what = match state {
                State::Succeeded => "jobs settled succeeded",
                State::Failed => "jobs settled failed",
                State::Cancelled => "jobs settled cancelled",
                State::TimedOut => "jobs settled timed out",
                State::Expired => "jobs settled expired",
                _ => "jobs settled otherwise",
            };
            self.add(what, *count);
        }
    }

    /// What should have been exercised and was not.
    pub fn missing(&self, required: &[&'static str]) -> Vec<&'static str> {
        required.iter().copied().filter(|what| self.count(what) == 0).collect()
    }
}

impl fmt::Display for Coverage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.counts.iter().try_for_each(|(what, count)| writeln!(f, "{count:>10}  {what}"))
    }
}
