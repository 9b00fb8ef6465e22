//! Which worker or peer gets a run. The one replaceable part of scheduling: [`examine`] says what must hold, [`choose`]
//! and [`choose_peer`] what is better. Pure, over the workers in the order of their ids; scores are whole numbers.

use std::cmp::Reverse;

use shoal_protocol::limits::PEER_RUNS_MAX;
use shoal_protocol::object::function::Needs;
use shoal_protocol::object::job::ReasonCode;
use shoal_protocol::object::worker::Offer;
use shoal_protocol::{BlobId, WorkerId};

use crate::peers::Peer;
use crate::workers::Worker;

/// A run that looks for a place.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Request<'a> {
    pub(crate) needs: &'a Needs,
    pub(crate) component: BlobId,
    /// Where the job failed before.
    pub(crate) avoid: Option<WorkerId>,
    /// Kept free for a job that has waited for long.
    pub(crate) reserved: Option<WorkerId>,
}

/// Why a worker does not get a run. In the order in which they are looked at: the first that applies is told. Of a peer
/// that has several workers it is the last that applies to any of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Obstacle<'a> {
    /// It is a peer without workers.
    NoWorkers,
    /// It lacks memory, whatever runs there.
    Memory { offered_mb: u32, needed_mb: u32 },
    /// It lacks a label, or has it with another value.
    Label { key: &'a str, value: &'a str },
    /// It lacks a capability.
    Capability(&'a str),
    /// It is not connected.
    Detached,
    /// It is a peer that has not said yet what it could run.
    Silent,
    /// An operator has cordoned it.
    Cordoned,
    /// It takes its leave.
    Leaving,
    /// It declined a run a moment ago, or, being a peer, one with the same needs.
    Paused(&'a str),
    /// Its memory is in use.
    MemoryInUse { offered_mb: u32, needed_mb: u32 },
    /// Its slots are in use.
    SlotsInUse { slots: u32 },
}

impl Obstacle<'_> {
    /// Whether it is one of this worker for ever, however little it has to do.
    pub(crate) fn is_misfit(&self) -> bool {
        matches!(self, Self::NoWorkers | Self::Memory { .. } | Self::Label { .. } | Self::Capability(_))
    }

    /// Whether it passes by itself as runs end.
    pub(crate) fn is_load(&self) -> bool {
        matches!(self, Self::Paused(_) | Self::MemoryInUse { .. } | Self::SlotsInUse { .. })
    }

    pub(crate) fn code(&self) -> ReasonCode {
        match self {
            Self::NoWorkers | Self::Memory { .. } | Self::Label { .. } | Self::Capability(_) => ReasonCode::NoFit,
            Self::Detached | Self::Silent => ReasonCode::WorkerUnreachable,
            Self::Cordoned | Self::Leaving => ReasonCode::Cordoned,
            Self::Paused(_) | Self::MemoryInUse { .. } | Self::SlotsInUse { .. } => ReasonCode::Busy,
        }
    }

    pub(crate) fn message(&self) -> String {
        match self {
            Self::NoWorkers => "has no workers".into(),
            Self::Memory { offered_mb, needed_mb } => format!("has {offered_mb} MiB of memory, {needed_mb} are needed"),
            Self::Label { key, value } => format!("does not carry the label {key}={value}"),
            Self::Capability(name) => format!("does not have the capability {name}"),
            Self::Detached => "is not connected".into(),
            Self::Silent => "has not yet said what it could run".into(),
            Self::Cordoned => "is cordoned: it takes no new jobs".into(),
            Self::Leaving => "is leaving: it takes no new jobs".into(),
            Self::Paused(why) => format!("declined a run a moment ago: {why}"),
            Self::MemoryInUse { offered_mb, needed_mb } => {
                format!("has {offered_mb} MiB of memory in use by other runs, {needed_mb} more are needed")
            }
            Self::SlotsInUse { slots } => format!("has {slots} slots, all in use"),
        }
    }
}

/// Whether a worker or a peer can take a run with these needs now. A worker whose only obstacle is
/// [`Obstacle::SlotsInUse`] can be handed it ahead.
pub(crate) fn examine<'a>(worker: &'a Worker, needs: &'a Needs, now_ms: u64) -> Result<(), Obstacle<'a>> {
    let Some(peer) = &worker.peer else {
        fit(&worker.offer, needs)?;
        check_open(worker, now_ms)?;
        return check_load(worker, needs.memory());
    };
    if !worker.attached() {
        return Err(Obstacle::Detached);
    }
    if !peer.hinted {
        return Err(Obstacle::Silent);
    }
    check_peer_fit(peer, needs)?;
    check_open(worker, now_ms)?;
    if let Some(why) = peer.declines(needs, now_ms) {
        return Err(Obstacle::Paused(why));
    }
    check_peer_load(worker, peer, needs)
}

/// Whether a worker has what is needed at all.
pub(crate) fn fit<'a>(offer: &Offer, needs: &'a Needs) -> Result<(), Obstacle<'a>> {
    let (offered_mb, needed_mb) = (offer.memory_mb, needs.memory());
    if needed_mb > offered_mb {
        return Err(Obstacle::Memory { offered_mb, needed_mb });
    }
    if let Some((key, value)) = needs.labels.iter().find(|(key, value)| offer.labels.get(*key) != Some(value)) {
        return Err(Obstacle::Label { key, value });
    }
    match needs.capabilities.iter().find(|name| !offer.capabilities.contains(*name)) {
        Some(name) => Err(Obstacle::Capability(name)),
        None => Ok(()),
    }
}

/// Whether a worker takes any runs at the moment.
fn check_open(worker: &Worker, now_ms: u64) -> Result<(), Obstacle<'_>> {
    if !worker.attached() {
        return Err(Obstacle::Detached);
    }
    if worker.cordoned {
        return Err(Obstacle::Cordoned);
    }
    if worker.leaving {
        return Err(Obstacle::Leaving);
    }
    match worker.pause.as_ref().filter(|pause| pause.until_ms > now_ms) {
        Some(pause) => Err(Obstacle::Paused(&pause.why)),
        None => Ok(()),
    }
}

/// Whether a worker of this node has room.
fn check_load(worker: &Worker, needed_mb: u32) -> Result<(), Obstacle<'_>> {
    let offered_mb = worker.offer.memory_mb;
    if worker.memory_with(needed_mb) > u64::from(offered_mb) {
        return Err(Obstacle::MemoryInUse { offered_mb, needed_mb });
    }
    if worker.free_slots() == 0 {
        return Err(Obstacle::SlotsInUse { slots: worker.offer.slots });
    }
    Ok(())
}

/// Whether any worker of a peer has what is needed at all.
fn check_peer_fit<'a>(peer: &Peer, needs: &'a Needs) -> Result<(), Obstacle<'a>> {
    let mut least = Obstacle::NoWorkers;
    for room in peer.rooms() {
        match fit(&room.offer, needs) {
            Ok(()) => return Ok(()),
            Err(obstacle) => least = least.max(obstacle),
        }
    }
    Err(least)
}

/// Whether any worker of a peer has room, as far as is known here.
fn check_peer_load<'a>(worker: &Worker, peer: &Peer, needs: &Needs) -> Result<(), Obstacle<'a>> {
    if worker.occupied() >= PEER_RUNS_MAX {
        return Err(Obstacle::SlotsInUse { slots: PEER_RUNS_MAX as u32 });
    }
    if peer.room_for(needs).is_some() {
        return Ok(());
    }
    let fitting = || peer.rooms().iter().filter(|room| fit(&room.offer, needs).is_ok());
    match fitting().find(|room| !room.has_slot()) {
        Some(room) => Err(Obstacle::SlotsInUse { slots: room.offer.slots }),
        None => {
            let offered_mb = fitting().map(|room| room.offer.memory_mb).max().unwrap_or(0);
            Err(Obstacle::MemoryInUse { offered_mb, needed_mb: needs.memory() })
        }
    }
}

/// The best worker that can start the run now.
pub(crate) fn choose<'a>(
    workers: impl Iterator<Item = &'a Worker>,
    request: &Request<'_>,
    now_ms: u64,
) -> Option<WorkerId> {
    workers
        .filter(|worker| request.reserved != Some(worker.id) && examine(worker, request.needs, now_ms).is_ok())
        .max_by_key(|worker| score(worker, request))
        .map(|worker| worker.id)
}

/// What makes a worker better, most important first: the job has not failed there; it has the component compiled;
/// more of its slots are free (in thousandths); it is on this machine; at last the lower id, so that there is no tie.
fn score(worker: &Worker, request: &Request<'_>) -> (bool, bool, usize, bool, Reverse<WorkerId>) {
    let slots = (worker.offer.slots as usize).max(1);
    let free = worker.free_slots() * 1000 / slots;
    let fresh = request.avoid != Some(worker.id);
    (fresh, worker.is_warm(request.component), free, worker.local, Reverse(worker.id))
}

/// The best peer that could start the run now, as far as is known here.
pub(crate) fn choose_peer<'a>(
    peers: impl Iterator<Item = &'a Worker>,
    request: &Request<'_>,
    now_ms: u64,
) -> Option<WorkerId> {
    peers
        .filter(|worker| examine(worker, request.needs, now_ms).is_ok())
        .filter_map(|worker| worker.peer.as_ref().map(|peer| (worker, peer)))
        .max_by_key(|(worker, peer)| score_peer(worker, peer, request))
        .map(|(worker, _)| worker.id)
}

/// What makes a peer better, most important first: the job has not failed there; it has run the component; more of the
/// slots are free, in quarters (a finer measure would send every second run to the far end for one slot more); it is
/// near; at last the lower id, so that there is no tie.
fn score_peer(
    worker: &Worker,
    peer: &Peer,
    request: &Request<'_>,
) -> (bool, bool, i64, Reverse<u64>, Reverse<WorkerId>) {
    let free = peer.room_for(request.needs).map_or(0, |(_, room)| room.free_quarters());
    let fresh = request.avoid != Some(worker.id);
    (fresh, worker.is_warm(request.component), free, Reverse(peer.rtt_us), Reverse(worker.id))
}

/// The worker to keep free for a job that has waited for long although it fits: of those that hinder it only by their
/// load the one with the least, so that it comes free soon.
pub(crate) fn reserve<'a>(workers: impl Iterator<Item = &'a Worker>, needs: &Needs, now_ms: u64) -> Option<WorkerId> {
    workers
        .filter(|worker| examine(worker, needs, now_ms).is_err_and(|obstacle| obstacle.is_load()))
        .min_by_key(|worker| (worker.memory_with(0), worker.occupied(), worker.id))
        .map(|worker| worker.id)
}
