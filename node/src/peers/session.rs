//! The control stream of two neighbours: each is home of some runs and executor of others.
//!
//! What the kernel decides comes through its outbox, already durable. Hints and logs are this session's own: they are
//! repeated or made good by what comes later, and wait for nothing.

mod checkpoints;
mod custody;
mod endings;
mod listen;
mod logs;
mod regents;
mod tell;

use std::collections::HashMap;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_kernel::{Command, Input, Principal, Reply};
use shoal_mesh::Stream;
use shoal_protocol::custody::{CustodianSet, SignedCustodians};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{NodeId, ObjectId, Problem};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::Peers;
use super::serve::Parts;
use crate::frames::FrameError;

/// Messages to one peer that wait to be written. Why 4,096: an offer or an acknowledgement for each run that it may
/// hold, several times over; a peer that takes none of so many is closed.
const OUTBOX_MAX: usize = 4_096;

/// How long a session that this node has begun with one that is no neighbour stays without a run. Why a minute: the kernel
/// searches anew for what it still needs, and jobs of one kind often come one after the other.
const IDLE_MAX: Duration = Duration::from_secs(60);
/// How often it is looked whether it carries any.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Since when a session is of no use.
#[derive(Debug, Default)]
struct Idle(Option<Instant>);

impl Idle {
    /// Whether it has been for too long.
    fn look(&mut self, is_used: bool, now: Instant) -> bool {
        if is_used {
            self.0 = None;
            return false;
        }
        now.saturating_duration_since(*self.0.get_or_insert(now)) >= IDLE_MAX
    }
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// The stream.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer breaks the protocol.
    #[error("it breaks the protocol: {0}")]
    Fault(&'static str),
    /// The kernel has no use for the connection.
    #[error("{}", .0.detail)]
    Closed(Problem),
    /// It was begun for what a search has found, and nothing has come of it.
    #[error("it carries no runs, neither keeps jobs of the other, and the peer is no neighbour")]
    Unused,
    /// The kernel begins anew, or another connection took the place of this one.
    #[error("the connection was replaced")]
    Replaced,
    /// What a run has made could not be had: it is told again on the next connection.
    #[error("what a run has made could not be fetched: {0}")]
    Bytes(String),
}

impl End {
    /// What speaks against the peer, if anything does.
    fn blame(&self) -> Option<&'static str> {
        match self {
            Self::Frame(error) => error.is_hostile().then_some("it breaks the protocol of peers"),
            Self::Fault(why) => Some(why),
            Self::Closed(_) | Self::Unused | Self::Replaced | Self::Bytes(_) => None,
        }
    }
}

/// One session.
struct Session {
    peers: Peers,
    parts: Parts,
    peer: NodeId,
    connection: u64,
    /// Runs of this home's jobs that the peer has, by its own word.
    placed: Mutex<HashMap<ObjectId, Run>>,
    /// Runs of the peer's jobs that are here, with how much of their logs it has heard.
    guests: Mutex<HashMap<Run, usize>>,
    /// The peer has welcomed this node.
    welcomed: AtomicBool,
    /// Checkpoints of runs at the peer that are being fetched: the last of each run.
    fetching: Mutex<HashMap<Run, checkpoints::Fetching>>,
    /// The set of custodians that the peer has sent last, and that it has signed.
    custodians: Mutex<Option<(SignedCustodians, CustodianSet)>>,
}

/// Runs a session until its stream ends, the peer misbehaves, it is of no use, or it is ended. `ours`: this node has begun
/// it.
pub(super) async fn run(
    peers: Peers,
    parts: Parts,
    peer: NodeId,
    stream: Stream,
    ours: bool,
    ended: CancellationToken,
) {
    let connection = parts.runtime.connection_number();
    let (outbox, says) = mpsc::channel(OUTBOX_MAX);
    let (reader, writer) = tokio::io::split(stream);
    parts.runtime.connect(peer, connection, outbox).await;
    let session = Arc::new(Session {
        peers: peers.clone(),
        parts: parts.clone(),
        peer,
        connection,
        placed: Mutex::default(),
        guests: Mutex::default(),
        welcomed: AtomicBool::new(false),
        fetching: Mutex::default(),
        custodians: Mutex::default(),
    });
    let end = tokio::select! {
        end = Arc::clone(&session).tell(writer, says) => end,
        end = Arc::clone(&session).listen(reader) => end,
        () = session.unused(), if ours => End::Unused,
        () = ended.cancelled() => End::Replaced,
    };
    peers.known().forget(&peer, connection);
    parts.runtime.input(Input::PeerDetached { node: peer, connection }).await;
    tracing::info!(peer = %peer.short(), %end, "the session with a peer ended");
    if let Some(why) = end.blame() {
        peers.mesh().block(peer, why);
    }
}

impl Session {
    fn placed(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectId, Run>> {
        self.placed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn guests(&self) -> std::sync::MutexGuard<'_, HashMap<Run, usize>> {
        self.guests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once the session has been of no use for a while. A neighbour's always is.
    async fn unused(&self) {
        let mut idle = Idle::default();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        loop {
            looks.tick().await;
            let is_neighbour = self.peers.mesh().peer(&self.peer).is_some_and(|peer| peer.neighbour);
            let is_used = is_neighbour || self.has_use().await;
            if idle.look(is_used, Instant::now()) {
                return;
            }
        }
    }

    /// Whether one of both has runs of the other's jobs, also such as have ended and are not settled, or keeps jobs of the other.
    async fn has_use(&self) -> bool {
        let nobody = Principal { user: None, operator: true };
        match self.parts.runtime.request(nobody, Command::RunsWith(self.peer)).await {
            Ok(Reply::Runs { placed, guests, keeps }) => keeps || !placed.is_empty() || !guests.is_empty(),
            // That the kernel does not answer says nothing of the runs.
            Ok(_) | Err(_) => true,
        }
    }

    fn fetching(&self) -> std::sync::MutexGuard<'_, HashMap<Run, checkpoints::Fetching>> {
        self.fetching.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn custodians(&self) -> std::sync::MutexGuard<'_, Option<(SignedCustodians, CustodianSet)>> {
        self.custodians.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There and back, in microseconds; 0 where it is not measured yet.
    fn rtt_us(&self) -> u64 {
        let rtt = self.peers.mesh().peer(&self.peer).and_then(|peer| peer.rtt);
        rtt.map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_without_runs_ends_after_a_while_and_not_before() {
        let (mut idle, begun) = (Idle::default(), Instant::now());
        assert!(!idle.look(false, begun));
        assert!(!idle.look(false, begun + IDLE_MAX / 2));
        assert!(!idle.look(true, begun + IDLE_MAX), "it is of use");
        assert!(!idle.look(false, begun + 2 * IDLE_MAX), "from here on it is not");
        assert!(idle.look(false, begun + 3 * IDLE_MAX));
    }
}
