//! Which faults happen when. Each seed has its own choice of kinds, so that some seeds know few of them and meet these
//! often: a rare order of two faults is found by a world in which nothing else happens.

use super::random::Random;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The node's process is killed; it starts again after a while.
    NodeCrash,
    /// The node takes nothing for a while.
    NodeRefuses,
    /// An fsync takes far longer than usual.
    FsyncStall,
    /// The disk is full for a while: nothing can be written.
    DiskFull,
    /// The wall clock jumps, in either direction.
    ClockJump,
    /// A worker's process is killed; it starts again after a while.
    WorkerCrash,
    /// A worker becomes slow for a while.
    WorkerSlow,
    /// A worker takes its leave, and a new process comes.
    WorkerLeaves,
    /// An operator cordons a worker for a while.
    WorkerCordoned,
    /// An operator sends a worker away.
    WorkerSentAway,
    /// A connection breaks.
    ConnectionReset,
    /// A connection delivers nothing for a while, perhaps for longer than a lease.
    ConnectionStall,
    /// A function is deleted, and another one deployed.
    FunctionDeleted,
    /// A function has a new version.
    FunctionUpdated,
}

impl Fault {
    /// Every kind.
    pub const ALL: [Self; 14] = [
        Self::NodeCrash,
        Self::NodeRefuses,
        Self::FsyncStall,
        Self::DiskFull,
        Self::ClockJump,
        Self::WorkerCrash,
        Self::WorkerSlow,
        Self::WorkerLeaves,
        Self::WorkerCordoned,
        Self::WorkerSentAway,
        Self::ConnectionReset,
        Self::ConnectionStall,
        Self::FunctionDeleted,
        Self::FunctionUpdated,
    ];

    /// As it is counted.
    pub const fn text(self) -> &'static str {
        match self {
            Self::NodeCrash => "fault: node crash",
            Self::NodeRefuses => "fault: node refuses",
            Self::FsyncStall => "fault: fsync stall",
            Self::DiskFull => "fault: disk full",
            Self::ClockJump => "fault: clock jump",
            Self::WorkerCrash => "fault: worker crash",
            Self::WorkerSlow => "fault: worker slow",
            Self::WorkerLeaves => "fault: worker leaves",
            Self::WorkerCordoned => "fault: worker cordoned",
            Self::WorkerSentAway => "fault: worker sent away",
            Self::ConnectionReset => "fault: connection reset",
            Self::ConnectionStall => "fault: connection stall",
            Self::FunctionDeleted => "fault: function deleted",
            Self::FunctionUpdated => "fault: function updated",
        }
    }
}

/// The faults of one seed.
#[derive(Debug, Clone)]
pub struct Plan {
    kinds: Vec<Fault>,
    pause_ms: u64,
}

impl Plan {
    /// Four to nine kinds, and how often they come: so many times less often than usual.
    pub fn new(calm: u64, random: &mut Random) -> Self {
        let mut kinds = Fault::ALL.to_vec();
        let keep = random.within(4..10) as usize;
        while kinds.len() > keep {
            let place = random.within(0..kinds.len() as u64) as usize;
            kinds.swap_remove(place);
        }
        Self { kinds, pause_ms: calm * random.within(3_000..15_000) }
    }

    /// The next fault, and how long after the last it comes.
    pub fn next(&self, random: &mut Random) -> (Option<Fault>, u64) {
        let pause_ms = random.within(self.pause_ms / 4..self.pause_ms * 2);
        (random.pick(&self.kinds).copied(), pause_ms)
    }
}
