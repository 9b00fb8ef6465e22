//! The control stream of two neighbours: each is home of some runs and executor of others.
//!
//! What the kernel decides comes through its outbox, already durable. Hints and logs are this session's own: they are
//! repeated or made good by what comes later, and wait for nothing.

mod custody;
mod endings;
mod listen;
mod logs;
mod tell;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use shoal_kernel::Input;
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
            Self::Closed(_) | Self::Replaced | Self::Bytes(_) => None,
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
    /// The set of custodians that the peer has sent last, and that it has signed.
    custodians: Mutex<Option<(SignedCustodians, CustodianSet)>>,
}

/// Runs a session until its stream ends, the peer misbehaves, or it is ended.
pub(super) async fn run(peers: Peers, parts: Parts, peer: NodeId, stream: Stream, ended: CancellationToken) {
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
        custodians: Mutex::default(),
    });
    let end = tokio::select! {
        end = Arc::clone(&session).tell(writer, says) => end,
        end = Arc::clone(&session).listen(reader) => end,
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

    fn custodians(&self) -> std::sync::MutexGuard<'_, Option<(SignedCustodians, CustodianSet)>> {
        self.custodians.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// There and back, in microseconds; 0 where it is not measured yet.
    fn rtt_us(&self) -> u64 {
        let rtt = self.peers.mesh().peer(&self.peer).and_then(|peer| peer.rtt);
        rtt.map_or(0, |rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX))
    }
}
