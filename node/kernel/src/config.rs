//! What a kernel is told once, when it is made.

use shoal_protocol::NodeId;
use shoal_protocol::object::project::Quota;

use crate::record::Group;

/// Length of a worker's lease, in milliseconds. Why 15 s: three heartbeats of 5 s, so that one lost in a reconnect costs
/// no run, and a job of a vanished worker waits no longer than a person would.
pub const LEASE_MS_DEFAULT: u64 = 15_000;

/// What the unsettled jobs may take in memory, in bytes. Why 200 MiB: a machine at the edge can spare it, and it holds some
/// 200,000 jobs with short inputs.
pub const JOBS_BYTES_MAX_DEFAULT: u64 = 200 * 1024 * 1024;

/// How long settled jobs are kept, in milliseconds: seven days. Why: somebody who was away for a week still finds them.
pub const KEEP_MS_DEFAULT: u64 = 7 * 24 * 3_600_000;

/// How long those are kept that have failed for good, in milliseconds: 30 days. Why: somebody has to look at them.
pub const KEEP_DEAD_MS_DEFAULT: u64 = 30 * 24 * 3_600_000;

/// Settled jobs of one project that are kept, an array as one of them. Why a million: some 2 GiB on disk with what stands in
/// their records, beside the elements of arrays.
pub const KEEP_JOBS_DEFAULT: u64 = 1_000_000;

/// Those of them that have failed for good. Why 100,000: more than anybody looks at.
pub const KEEP_DEAD_JOBS_DEFAULT: u64 = 100_000;

/// How long a home may be away until a custodian acts for it, in milliseconds. Why a minute: a machine that is restarted is
/// back by then, and what it runs need not be run twice.
pub const TAKEOVER_AFTER_MS_DEFAULT: u64 = 60_000;

/// After how long what was used counts half, in milliseconds: an hour. Why: jobs of seconds make their shares even within minutes,
/// and who has had a node to themselves for a day does not wait for a day.
pub const SHARE_HALF_LIFE_MS_DEFAULT: u64 = 3_600_000;

/// How long settled jobs of a project are kept, and how many of them: the oldest go first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// For so many milliseconds after they have settled.
    pub age_ms: u64,
    /// At most so many; an array counts as one, and goes with all its elements.
    pub jobs: u64,
}

/// Which settled jobs are kept, of each project, or of each owner of functions that are in none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Those that succeeded or were cancelled.
    pub settled: Keep,
    /// Those that have failed for good.
    pub dead: Keep,
}

impl Retention {
    /// What holds for a group.
    pub fn of(&self, group: Group) -> Keep {
        if group.dead { self.dead } else { self.settled }
    }
}

impl Default for Retention {
    fn default() -> Self {
        Self {
            settled: Keep { age_ms: KEEP_MS_DEFAULT, jobs: KEEP_JOBS_DEFAULT },
            dead: Keep { age_ms: KEEP_DEAD_MS_DEFAULT, jobs: KEEP_DEAD_JOBS_DEFAULT },
        }
    }
}

/// What a kernel is told once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// The node whose jobs these are.
    pub node: NodeId,
    /// Length of a worker's lease, in milliseconds, as its holder counts it.
    pub lease_ms: u64,
    /// What the unsettled jobs may take in memory, in bytes, each as [`crate::JOB_BYTES`] says; a submission beyond it is
    /// refused as `full`.
    pub jobs_bytes_max: u64,
    /// How far workers are handed jobs ahead of their slots.
    pub prefetch: Prefetch,
    /// Which settled jobs are kept.
    pub retention: Retention,
    /// How long a home may be away until a custodian acts for it, in milliseconds.
    pub takeover_after_ms: u64,
    /// After how long what was used counts half, in milliseconds.
    pub share_half_life_ms: u64,
    /// What each user may have at most, whatever the project.
    pub user_quota: Quota,
}

impl Config {
    /// The defaults, for this node.
    pub fn new(node: NodeId) -> Self {
        Self {
            node,
            lease_ms: LEASE_MS_DEFAULT,
            jobs_bytes_max: JOBS_BYTES_MAX_DEFAULT,
            prefetch: Prefetch::default(),
            retention: Retention::default(),
            takeover_after_ms: TAKEOVER_AFTER_MS_DEFAULT,
            share_half_life_ms: SHARE_HALF_LIFE_MS_DEFAULT,
            user_quota: Quota::default(),
        }
    }
}

/// How far workers are handed jobs ahead of their slots, so that a worker has its next job before it needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefetch {
    /// A job is handed ahead only if it promises to start within so many milliseconds. Why 50: several times what a
    /// journal's fsync and a round trip take, and too short for a wrong guess to hurt.
    pub wait_ms: u64,
    /// Jobs ahead for each slot. Why 2: one that starts next, and one while the next is on its way.
    pub per_slot: u32,
    /// Jobs ahead beyond that. Why 8: with few slots and runs far shorter than an fsync, one batch of the journal
    /// must bring enough work to last until the next.
    pub extra: u32,
    /// A job that has waited at a worker for so many milliseconds goes to another one that is idle. Why 200: four times
    /// the promise, so that it happens only when the promise was wrong.
    pub withdraw_ms: u64,
}

impl Default for Prefetch {
    fn default() -> Self {
        Self { wait_ms: 50, per_slot: 2, extra: 8, withdraw_ms: 200 }
    }
}
