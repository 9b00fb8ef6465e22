//! Calls about objects of other homes: they go on to the home, which answers as if the client had come to it.
//!
//! The home must know who calls. A token that is rooted in the caller's own key goes with the call, narrowed to the home and
//! a minute. For a session of this node's own it says the user's id, which the home believes if the user's document names
//! this node as one that may sign for them.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_mesh::{Lane, Stream};
use shoal_protocol::limits::{CLIENT_FRAME_LEN_MAX, DIRECT_ADDRESSES_MAX};
use shoal_protocol::object::job::{LogPart, LogPlace, Payload};
use shoal_protocol::wire::client::{Call, Reply};
use shoal_protocol::wire::drain::{HandOver, HandedOver};
use shoal_protocol::wire::forward::{self, Answered, Ask, BodyFormat, Forwarded};
use shoal_protocol::wire::names::node_key;
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem};
use tokio::time::timeout;

use super::Peers;
use crate::frames::{self, FrameError};
use crate::identity::token::{Narrowing, attenuate};
use crate::runtime::now;
use crate::service::{Answer, Body, Caller, Format, LogPiece, LogStream};

/// How long a look-up in the DHT may take until somebody has answered.
const FIND_MAX: Duration = Duration::from_secs(5);
/// How long a node may take to be reached whose jobs are kept elsewhere. Why 2 s: a person waits, and a custodian can answer.
const REACH_MAX: Duration = Duration::from_secs(2);
/// A node that was not reached is not tried again for so long, unless it is there by then. Why 3 s: whoever reads many jobs of a home
/// that is gone waits for it once, and not for each.
const MISSED_FOR: Duration = Duration::from_secs(3);
/// Nodes of which that is remembered. Why 1,024: homes whose jobs are asked for within a moment are few.
const MISSED_MAX: usize = 1_024;
/// How long the home itself is waited for when one of its custodians was found.
const HOME_FIRST: Duration = Duration::from_millis(300);
/// How long a home may take to answer; a wait has its own time on top.
const ANSWER_MAX: Duration = Duration::from_secs(20);
/// How long a node may take to fetch what it is handed over. Why ten minutes: blobs may be long; what it has fetched by then it
/// need not fetch again.
const HAND_OVER_WAIT: Duration = Duration::from_secs(600);
/// How long a token that goes with a call counts, in milliseconds. Why a minute: clocks differ.
const TOKEN_MS: u64 = 60_000;
/// The answer to where the direct path of a node is, in bytes: some addresses, or a problem.
const DIRECT_FRAME_LEN_MAX: usize = 4 * 1024;

/// The home of a job, a node that keeps it, or one that may have a blob: a connection to it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Home(pub(crate) NodeId);

/// What a caller may read at another node. The hash and the length of a blob are that node's word; the stream is for one
/// request for it, which proves them.
pub(crate) struct Granted {
    /// Short bytes, or the blob.
    pub(crate) payload: Payload,
    /// To the node.
    pub(crate) stream: Stream,
}

impl Peers {
    /// Whether a node is in reach.
    pub(crate) async fn reaches(&self, node: NodeId) -> bool {
        let is_connected = self.mesh().peer(&node).is_some_and(|peer| peer.connected);
        if !is_connected && self.missed().get(&node).is_some_and(|at| at.elapsed() < MISSED_FOR) {
            return false;
        }
        let reached = matches!(timeout(REACH_MAX, self.mesh().connect(node)).await, Ok(Ok(())));
        let mut missed = self.missed();
        missed.retain(|_, at| at.elapsed() < MISSED_FOR);
        if reached {
            missed.remove(&node);
        } else if missed.len() < MISSED_MAX {
            missed.insert(node, Instant::now());
        }
        reached
    }

    /// Nodes that were not reached a moment ago.
    fn missed(&self) -> MutexGuard<'_, HashMap<NodeId, Instant>> {
        self.0.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The home that this id names, wherever it is; or, where that is not in reach, a node that says that it keeps its jobs.
    /// None of `but` is meant. Fails where nobody answers for it.
    pub(crate) async fn home_of(&self, job: ObjectId, but: &[NodeId]) -> Result<Home, Problem> {
        let tag = job.tag();
        if let Some(node) = self.mesh().with_tag(tag).filter(|node| !but.contains(node))
            && self.reaches(node).await
        {
            return Ok(Home(node));
        }
        let look_up = self.look_up(tag, but);
        let is_here = |node| self.mesh().peer(&node).is_some_and(|peer| peer.connected);
        let found = match but {
            [] => self.0.keepers.find(tag, is_here, look_up).await,
            // The one that was found has none of this job. Not remembered: it may well have the home's next one.
            _ => look_up.await,
        };
        found.map(Home).ok_or_else(|| {
            let detail = format!(
                "job {job} has another home (tag {}), for which nobody in reach answers, nor a node that keeps its jobs: try again when one is back",
                hex::encode(tag)
            );
            Problem::new(Kind::Unavailable, detail).retry_after(1000)
        })
    }

    /// Whom the DHT names for a home: itself, or one that keeps its jobs.
    async fn look_up(&self, tag: [u8; 8], but: &[NodeId]) -> Option<NodeId> {
        let mut found = self.mesh().find(node_key(tag));
        let mut custodian = None;
        let home = timeout(FIND_MAX, async {
            loop {
                // Once a custodian is found its home has a moment more.
                let next = match custodian {
                    None => found.recv().await,
                    Some(_) => timeout(HOME_FIRST, found.recv()).await.ok().flatten(),
                };
                match next {
                    Some(node) if but.contains(&node) || node == self.node() => {}
                    Some(node) if node.tag() == tag => return Some(node),
                    Some(node) => drop(custodian.get_or_insert(node)),
                    None => return None,
                }
            }
        });
        home.await.ok().flatten().or(custodian)
    }

    /// Carries out an operation at another node.
    pub(crate) async fn call(&self, at: Home, caller: &Caller, call: Call, body: Body) -> Result<Answer, Problem> {
        let within = ANSWER_MAX + longest_wait(&call);
        let format = match body.format {
            Format::Json => BodyFormat::Json,
            Format::Cbor => BodyFormat::Cbor,
        };
        let ask = Ask::Call { call, format, body: body.bytes.into() };
        let mut stream = self.ask(at, caller, ask).await?;
        let answered = frames::expect_within::<Reply<Answered>>(&mut stream, CLIENT_FRAME_LEN_MAX, within);
        let Answered { status, etag, body } = answered.await.map_err(|error| gone(at, &error))??;
        Ok(Answer { status, etag, body: body.to_vec() })
    }

    /// Asks for the result of a job of another home.
    pub(crate) async fn ask_result(&self, at: Home, caller: &Caller, job: ObjectId) -> Result<Granted, Problem> {
        self.ask_bytes(at, caller, Ask::Result { job }).await
    }

    /// Asks another node for a blob.
    pub(crate) async fn ask_blob(&self, at: Home, caller: &Caller, id: BlobId) -> Result<Granted, Problem> {
        let granted = self.ask_bytes(at, caller, Ask::Blob { id }).await?;
        if granted.payload.id() != id {
            let detail = format!("node {} answers with another blob than the one that was asked for", at.0.short());
            return Err(Problem::new(Kind::BlobUnavailable, detail));
        }
        Ok(granted)
    }

    async fn ask_bytes(&self, at: Home, caller: &Caller, ask: Ask) -> Result<Granted, Problem> {
        let mut stream = self.ask(at, caller, ask).await?;
        let payload = frames::expect::<Reply<Payload>>(&mut stream, CLIENT_FRAME_LEN_MAX);
        let payload = payload.await.map_err(|error| gone(at, &error))??;
        Ok(Granted { payload, stream })
    }

    /// Opens the log of a job of another home behind a place.
    pub(crate) async fn open_log(
        &self,
        at: Home,
        caller: &Caller,
        job: ObjectId,
        from: LogPlace,
        follow: bool,
    ) -> Result<LogStream, Problem> {
        let mut stream = self.ask(at, caller, Ask::Log { job, follow, from: Some(from) }).await?;
        let opened = frames::expect::<Reply<()>>(&mut stream, CLIENT_FRAME_LEN_MAX);
        opened.await.map_err(|error| gone(at, &error))??;
        Ok(Box::pin(futures_util::stream::try_unfold(stream, next_piece)))
    }

    /// Where the node at the other end says that its direct path is.
    pub(super) async fn ask_direct_addresses(&self, at: Home) -> Result<Vec<SocketAddr>, Problem> {
        let mut stream = self.ask(at, &Caller::ANONYMOUS, Ask::Direct).await?;
        let told = frames::expect::<Reply<Vec<SocketAddr>>>(&mut stream, DIRECT_FRAME_LEN_MAX);
        let mut told = told.await.map_err(|error| gone(at, &error))??;
        told.truncate(DIRECT_ADDRESSES_MAX);
        Ok(told)
    }

    /// Hands something over to another node; the answer comes when that is durable there.
    pub(crate) async fn hand_over(&self, to: NodeId, handed: HandOver) -> Result<HandedOver, Problem> {
        let at = Home(to);
        let mut stream = self.ask(at, &Caller::ANONYMOUS, Ask::HandOver(Box::new(handed))).await?;
        let answer = frames::expect_within::<Reply<HandedOver>>(&mut stream, CLIENT_FRAME_LEN_MAX, HAND_OVER_WAIT);
        answer.await.map_err(|error| gone(at, &error))?
    }

    async fn ask(&self, at: Home, caller: &Caller, ask: Ask) -> Result<Stream, Problem> {
        let unreachable = |error: &dyn std::fmt::Display| {
            let detail = format!("node {}, which has it, cannot be reached: {error}", at.0.short());
            Problem::new(Kind::Unavailable, detail).retry_after(1000)
        };
        if !self.rates().own_streams.pace(at.0).await {
            let detail = format!("too much is asked of node {}, which has it, at the moment", at.0.short());
            return Err(Problem::new(Kind::Full, detail).retry_after(1000));
        }
        let mut stream = self.mesh().open(at.0, Lane::Call).await.map_err(|error| unreachable(&error))?;
        let forwarded = Forwarded {
            caller: shown(caller, at)?,
            ask,
            traceparent: caller.traceparent.map(|traceparent| traceparent.to_string()),
        };
        let sent = frames::write(&mut stream, &forwarded, CLIENT_FRAME_LEN_MAX).await;
        sent.map_err(|error| match error {
            FrameError::TooLong(_) => Problem::new(Kind::TooLarge, "the body is too long to go on to another node"),
            error => unreachable(&error),
        })?;
        Ok(stream)
    }
}

/// What shows the home who calls.
fn shown(caller: &Caller, at: Home) -> Result<forward::Caller, Problem> {
    match (&caller.token, caller.principal.user) {
        (Some(token), _) => {
            let expires_ms = Some(now().wall_ms + TOKEN_MS);
            let narrowing = Narrowing { expires_ms, node: Some(at.0), ..Narrowing::default() };
            let narrowed = attenuate(token, narrowing);
            narrowed
                .map(forward::Caller::Bearer)
                .map_err(|error| Problem::new(Kind::Unauthenticated, error.to_string()))
        }
        (None, Some(user)) => Ok(forward::Caller::Via(user)),
        (None, None) => Ok(forward::Caller::Anybody),
    }
}

/// How much longer than others this call may take by its nature.
fn longest_wait(call: &Call) -> Duration {
    match call {
        Call::Method { method, .. } if method == "wait" || method == "events" => {
            Duration::from_millis(shoal_protocol::limits::WAIT_MS_MAX)
        }
        _ => Duration::ZERO,
    }
}

/// The next piece of a log that comes in frames, and the stream after it; none: that was all.
async fn next_piece(mut stream: Stream) -> std::io::Result<Option<(LogPiece, Stream)>> {
    match frames::expect_at_last(&mut stream, CLIENT_FRAME_LEN_MAX).await {
        Ok(LogPart::Written { at, bytes }) => Ok(Some((LogPiece { at, bytes: bytes.0 }, stream))),
        Ok(LogPart::Ended) => Ok(None),
        Err(error) => Err(std::io::Error::other(error)),
    }
}

fn gone(at: Home, error: &FrameError) -> Problem {
    let detail = format!("node {} broke off while it answered: {error}", at.0.short());
    Problem::new(Kind::Unavailable, detail).retry_after(1000)
}
