//! Runs of other homes that this node has taken, and the homes themselves.
//!
//! Invariant: there is at most one run of each job here, the one with the newest epoch that was accepted.
//! Invariant: a run leaves this table only when its home has said so, has lost interest in it by a newer epoch, was told
//! that it is declined after all, or has not come back for its ending ([`KEPT_MS`], [`GUESTS_MAX`]).

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::limits::PEER_RUNS_MAX;
use shoal_protocol::object::job::{Checkpoint, Outcome};
use shoal_protocol::wire::worker::{Run, Start};
use shoal_protocol::{NodeId, ObjectId, WorkerId};

use crate::input::RequestId;
use crate::jobs::{Placed, start};
use crate::record::Accepted;

/// Runs of other homes that a node holds at once, under way or ended and not yet settled. Why 2,048: with inline input,
/// result and log each is at most some 60 KiB, so at worst an eighth of a GiB; in practice a few MiB.
pub(crate) const GUESTS_MAX: usize = 2_048;

/// How long the ending of a run waits for its home, in milliseconds: seven days. Why: long enough for a machine that
/// somebody has to drive to and mend; after that the home has lost the run long ago, and runs it again.
pub(crate) const KEPT_MS: u64 = 7 * 24 * 3_600_000;

/// Endings that are reported to a home and not yet settled. Why 64: at most 3 MiB of messages when a home comes back
/// after a long time; the others follow as these are settled.
pub(crate) const REPORTED_MAX: usize = 64;

/// One run of another home.
#[derive(Debug)]
pub(crate) struct Guest {
    pub(crate) home: NodeId,
    pub(crate) run: Run,
    pub(crate) attempt: u32,
    pub(crate) accepted: Accepted,
    /// The home has told us to stop it.
    pub(crate) cancelled: bool,
    /// What it was given of an earlier run.
    pub(crate) given: Option<Box<Checkpoint>>,
    /// What it has saved last.
    pub(crate) kept: Option<Box<Kept>>,
    pub(crate) phase: Phase,
}

/// What a guest run has saved: durable here, and on its way to its home.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) checkpoint: Checkpoint,
    /// Its home has it.
    pub(crate) delivered: bool,
    /// When its home was last told.
    pub(crate) said_ms: u64,
    /// The guest waits for the home to have it, since then.
    pub(crate) asked: Option<(RequestId, u64)>,
}

impl Kept {
    /// Of which its home knows nothing.
    pub(crate) fn new(checkpoint: Checkpoint, now_ms: u64) -> Self {
        Self { checkpoint, delivered: false, said_ms: now_ms, asked: None }
    }
}

/// What a guest run is doing.
#[derive(Debug)]
pub(crate) enum Phase {
    /// A worker of this node has it, or will have it as soon as that is durable.
    Placed(Placed),
    /// It has ended, and is kept until then at most.
    Ended { outcome: Box<Outcome>, until_ms: u64 },
}

impl Guest {
    pub(crate) fn placed(&self) -> Option<&Placed> {
        match &self.phase {
            Phase::Placed(placed) => Some(placed),
            Phase::Ended { .. } => None,
        }
    }

    pub(crate) fn placed_mut(&mut self) -> Option<&mut Placed> {
        match &mut self.phase {
            Phase::Placed(placed) => Some(placed),
            Phase::Ended { .. } => None,
        }
    }

    /// How it ended, if it has.
    pub(crate) fn outcome(&self) -> Option<&Outcome> {
        match &self.phase {
            Phase::Placed(_) => None,
            Phase::Ended { outcome, .. } => Some(outcome),
        }
    }

    /// What the worker is sent.
    pub(crate) fn start(&self) -> Start {
        start(&self.accepted, self.run, self.attempt, self.given.as_deref())
    }
}

/// A home, as the executor of its runs sees it.
#[derive(Debug, Default)]
pub(crate) struct Home {
    /// The connection that stands.
    pub(crate) connection: Option<u64>,
    /// How long its leases are, in milliseconds, once it has welcomed us on that connection.
    pub(crate) lease_ms: Option<u64>,
    /// When the next heartbeat is due, or while it is away the next attempt to reach it.
    pub(crate) beat_ms: Option<u64>,
    /// How long it was waited for it last.
    pub(crate) reach_ms: u64,
    /// Jobs of which a run is here.
    jobs: BTreeSet<ObjectId>,
    /// Endings that it was told on this connection and has not settled.
    told: BTreeSet<ObjectId>,
    /// Endings that it was not yet told on this connection.
    untold: BTreeSet<ObjectId>,
}

impl Home {
    /// Whether it hears what is said to it.
    pub(crate) fn is_up(&self) -> bool {
        self.lease_ms.is_some()
    }

    /// Runs of it that are here.
    pub(crate) fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether it was told of this ending on this connection.
    pub(crate) fn was_told(&self, job: ObjectId) -> bool {
        self.told.contains(&job)
    }

    /// The next ending to tell it, which counts as told from now on.
    pub(crate) fn tell_next(&mut self) -> Option<ObjectId> {
        if !self.is_up() || self.told.len() >= REPORTED_MAX {
            return None;
        }
        let next = self.untold.pop_first()?;
        self.told.insert(next);
        Some(next)
    }

    fn is_forgotten(&self) -> bool {
        self.connection.is_none() && self.jobs.is_empty()
    }
}

/// All runs of other homes, by job, and the homes.
#[derive(Debug, Default)]
pub(crate) struct Guests {
    table: BTreeMap<ObjectId, Box<Guest>>,
    homes: BTreeMap<NodeId, Home>,
}

impl Guests {
    pub(crate) fn len(&self) -> usize {
        self.table.len()
    }

    /// How many are under way.
    pub(crate) fn placed(&self) -> usize {
        self.table.values().filter(|guest| guest.placed().is_some()).count()
    }

    pub(crate) fn contains(&self, job: ObjectId) -> bool {
        self.table.contains_key(&job)
    }

    pub(crate) fn get(&self, job: ObjectId) -> Option<&Guest> {
        self.table.get(&job).map(Box::as_ref)
    }

    pub(crate) fn get_mut(&mut self, job: ObjectId) -> Option<&mut Guest> {
        self.table.get_mut(&job).map(Box::as_mut)
    }

    /// The run, if it is the one that this worker of the node has.
    pub(crate) fn current(&self, worker: WorkerId, run: Run) -> Option<&Guest> {
        let guest = self.get(run.job).filter(|guest| guest.run == run)?;
        guest.placed().is_some_and(|placed| placed.worker == worker).then_some(guest)
    }

    /// The same, to be changed.
    pub(crate) fn current_mut(&mut self, worker: WorkerId, run: Run) -> Option<&mut Guest> {
        self.current(worker, run)?;
        self.get_mut(run.job)
    }

    /// The run, if it is this home's and not of another epoch.
    pub(crate) fn of_home(&self, home: NodeId, run: Run) -> Option<&Guest> {
        self.get(run.job).filter(|guest| guest.home == home && guest.run == run)
    }

    /// Takes a run in.
    pub(crate) fn insert(&mut self, guest: Guest) {
        let home = self.homes.entry(guest.home).or_default();
        home.jobs.insert(guest.run.job);
        if guest.outcome().is_some() {
            home.untold.insert(guest.run.job);
        }
        self.table.insert(guest.run.job, Box::new(guest));
    }

    /// A run has ended.
    pub(crate) fn end(&mut self, job: ObjectId, outcome: Outcome, until_ms: u64) {
        let Some(guest) = self.table.get_mut(&job) else { return };
        guest.phase = Phase::Ended { outcome: Box::new(outcome), until_ms };
        self.homes.entry(guest.home).or_default().untold.insert(job);
    }

    /// Forgets a run.
    pub(crate) fn remove(&mut self, job: ObjectId) -> Option<Guest> {
        let guest = self.table.remove(&job)?;
        if let Some(home) = self.homes.get_mut(&guest.home) {
            home.jobs.remove(&job);
            home.told.remove(&job);
            home.untold.remove(&job);
            if home.is_forgotten() {
                self.homes.remove(&guest.home);
            }
        }
        Some(*guest)
    }

    /// Whether the home is connected, or one more can be. Those that are away are bounded by their runs.
    pub(crate) fn has_room_for(&self, home: NodeId, max: usize) -> bool {
        let connected = |home: &&Home| home.connection.is_some();
        self.homes.get(&home).is_some_and(|home| connected(&home))
            || self.homes.values().filter(connected).count() < max
    }

    pub(crate) fn home(&self, home: NodeId) -> Option<&Home> {
        self.homes.get(&home)
    }

    pub(crate) fn home_mut(&mut self, home: NodeId) -> Option<&mut Home> {
        self.homes.get_mut(&home)
    }

    /// A connection to a home stands; it has not welcomed us on it yet.
    pub(crate) fn connected(&mut self, home: NodeId, connection: u64) {
        let home = self.homes.entry(home).or_default();
        home.connection = Some(connection);
        home.lease_ms = None;
    }

    /// A home has welcomed us: it hears every ending again.
    pub(crate) fn welcomed(&mut self, id: NodeId, lease_ms: u64) {
        let Some(home) = self.homes.get_mut(&id) else { return };
        home.lease_ms = Some(lease_ms);
        home.untold.append(&mut home.told);
    }

    /// The connection to a home has ended.
    pub(crate) fn disconnected(&mut self, id: NodeId) {
        let Some(home) = self.homes.get_mut(&id) else { return };
        home.connection = None;
        home.lease_ms = None;
        if home.is_forgotten() {
            self.homes.remove(&id);
        }
    }

    /// The runs of a home that are here, under way or ended.
    pub(crate) fn runs(&self, home: NodeId) -> Vec<Run> {
        let jobs = self.homes.get(&home).into_iter().flat_map(|home| &home.jobs);
        jobs.filter_map(|job| self.get(*job)).map(|guest| guest.run).take(PEER_RUNS_MAX).collect()
    }

    /// The ending that has waited longest for a home that is not there.
    pub(crate) fn oldest_unasked(&self) -> Option<ObjectId> {
        let ended = self.table.values().filter_map(|guest| match &guest.phase {
            Phase::Ended { until_ms, .. } => Some((*until_ms, guest)),
            Phase::Placed(_) => None,
        });
        let away = ended.filter(|(_, guest)| self.homes.get(&guest.home).is_none_or(|home| !home.is_up()));
        away.min_by_key(|(until_ms, guest)| (*until_ms, guest.run)).map(|(_, guest)| guest.run.job)
    }
}
