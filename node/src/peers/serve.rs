//! The task that serves peers: it keeps a session with every neighbour, and hands each stream to what it is for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shoal_mesh::{Event, Gossiped, Inbound, Inbox, Lane, Verdict};
use shoal_protocol::NodeId;
use shoal_protocol::wire::peer::Hint;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::places::Places;
use super::rates::Rate;
use super::{Peers, answers, bytes, provide, replicas, seek, session};
use crate::logs::LogBook;
use crate::replication::Sets;
use crate::runtime::{Runtime, Wish};
use crate::service::Service;

/// Calls of peers that are answered at once. Why 512: most wait for a job.
const CALLS_MAX: usize = 512;
/// Blobs that are served at once, over streams of the mesh and by direct paths together: with their buffers 128 MiB at the worst.
const BLOBS_MAX: usize = 128;
/// Reconciliations that peers have begun and that run at once.
const SYNCS_MAX: usize = 16;
/// Gossiped changes that are checked at once. Why 256: they wait for the documents' thread, which takes them together.
const GOSSIP_MAX: usize = 256;
/// Searches of the kernel that run at once; it repeats those that it still needs.
const SEARCHES_MAX: usize = 16;
/// How long after the end of a session with a neighbour the next is begun.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// Where it ends again and again the pause doubles, up to this: the peer has no place for us.
const AGAIN_AFTER_MAX: Duration = Duration::from_secs(30);
/// Two streams that are begun within this time cross.
const CROSSING: Duration = Duration::from_secs(1);
/// A session that lasts so long has been one.
const LASTING: Duration = Duration::from_secs(10);
/// How long the one with the higher id waits for the other to begin a session.
const HIGHER_WAITS: Duration = Duration::from_secs(1);
/// Sessions beyond the view: of nodes that have us in theirs, or that a search has found. Why 64: a node that all others
/// join by is in the view of many.
const SESSIONS_BEYOND_VIEW: usize = 64;
/// What peers say on control streams, in messages. Why 6,000 a second: a run takes three, so that one peer may end 2,000 of
/// them a second; twice that at once, since what waited for a connection comes at once.
const MESSAGES_PER_SECOND: u32 = 6_000;
/// Streams that one peer may open. Why 2,000 a second: each call of a client for another home is one.
const STREAMS_PER_SECOND: u32 = 2_000;
/// Why a peer is kept out that opens more.
pub(super) const TOO_MANY_STREAMS: &str = "it opens too many streams";
/// What a control stream counts for, in streams. Why 100: honest nodes pause between two sessions, and each costs the
/// kernel a greeting.
const SESSION_COST: u32 = 100;
/// Nodes that have been reached for the kernel and wait for their session.
const MET_MAX: usize = 64;

/// What serving needs of the node.
#[derive(Clone)]
pub(crate) struct Parts {
    /// The operations.
    pub(crate) service: Service,
    /// The kernel.
    pub(crate) runtime: Runtime,
    /// Bytes.
    pub(crate) blobs: shoal_blobs::Store,
    /// Live logs.
    pub(crate) logs: Arc<LogBook>,
    /// Documents and global KV.
    pub(crate) replicas: Sets,
    /// Numbers this process's hints.
    pub(crate) hints: Arc<AtomicU64>,
    /// Neighbours at most.
    pub(crate) view: u32,
    /// Told whenever documents or global KV have changed.
    pub(crate) news: watch::Sender<()>,
    /// Told when the node has to stop.
    pub(crate) stop_node: Arc<Notify>,
}

/// How fast peers may speak.
pub(super) struct Rates {
    pub(super) messages: Rate,
    /// Over the mesh and by direct paths together.
    pub(super) streams: Rate,
    /// Those that this node opens at each, for calls and blobs. Half of what a peer bears: it also counts those that keep both equal.
    pub(super) own_streams: Rate,
}

impl Default for Rates {
    fn default() -> Self {
        let rate = |each_second: u32| Rate::new(2 * each_second, each_second);
        Self {
            messages: rate(MESSAGES_PER_SECOND),
            streams: rate(STREAMS_PER_SECOND),
            own_streams: rate(STREAMS_PER_SECOND / 2),
        }
    }
}

impl Parts {
    /// What this node says of itself now.
    pub(super) fn own_hint(&self) -> Hint {
        let own = self.runtime.hint().borrow().clone();
        let node = self.service.facts();
        Hint {
            number: self.hints.fetch_add(1, Ordering::Relaxed) + 1,
            name: self.service.node_name(),
            labels: self.service.node_labels(),
            gateway: node.gateway(),
            workers: own.workers,
            waiting: own.waiting,
            replica: Some(self.replicas.digest()),
            stopping: self.service.is_stopping() || self.service.is_draining(),
            tallies: own.tallies,
        }
    }
}

/// Serves peers until `stop`.
pub(crate) async fn serve(
    peers: Peers,
    parts: Parts,
    inbox: Inbox,
    wishes: mpsc::Receiver<Wish>,
    stop: CancellationToken,
) {
    let (met, reached) = mpsc::channel(MET_MAX);
    let mut tasks = JoinSet::new();
    let places = AllPlaces::new();
    tasks.spawn(bytes::serve_direct(peers.clone(), parts.clone(), places.blobs.clone()));
    tasks.spawn(provide::provide(peers.clone(), parts.runtime.clone()));
    tasks.spawn(provide::provide_blobs(peers.clone(), parts.service.clone()));
    tasks.spawn(replicas::publish(peers.clone(), parts.replicas.clone(), parts.news.clone()));
    tasks.spawn(replicas::reconcile(peers.clone(), parts.replicas.clone(), parts.news.subscribe()));
    tasks.spawn(parts.service.clone().prefetch());
    tasks.spawn(search(peers.clone(), wishes, met));
    let server = Server::new(peers, parts, places, stop.clone());
    let stop_node = server.parts.stop_node.clone();
    tokio::select! {
        () = stop.cancelled() => {}
        () = server.run(inbox, reached) => {}
        panic = first_panic(tasks) => {
            tracing::error!(%panic, "a part of what this node does for its mesh has panicked: the node stops; start it again");
            stop_node.notify_one();
        }
    }
}

/// Returns when one of the tasks has panicked. One that has nothing more to do may end.
async fn first_panic(mut tasks: JoinSet<()>) -> JoinError {
    while let Some(ended) = tasks.join_next().await {
        if let Err(panic) = ended {
            return panic;
        }
    }
    std::future::pending().await
}

/// Does what the kernel wishes.
async fn search(peers: Peers, mut wishes: mpsc::Receiver<Wish>, met: mpsc::Sender<NodeId>) {
    let mut searches = JoinSet::new();
    while let Some(wish) = wishes.recv().await {
        while searches.try_join_next().is_some() {}
        if searches.len() >= SEARCHES_MAX {
            continue;
        }
        match wish {
            Wish::Seek(needs) => searches.spawn(seek::seek(peers.clone(), needs, met.clone())),
            Wish::Reach(node) => searches.spawn(seek::reach(peers.clone(), node, met.clone())),
        };
    }
}

/// Places for what peers ask at once.
struct AllPlaces {
    gossip: Places,
    calls: Places,
    blobs: Places,
    syncs: Places,
}

impl AllPlaces {
    fn new() -> Self {
        // Several peers at least find a place, whatever one of them does.
        let places = |all_max| Places::new(all_max, (all_max / 4).max(1));
        Self {
            gossip: places(GOSSIP_MAX),
            calls: places(CALLS_MAX),
            blobs: places(BLOBS_MAX),
            syncs: places(SYNCS_MAX),
        }
    }
}

/// The session with a peer.
struct Current {
    number: u64,
    end: CancellationToken,
    /// When this node began to open it; none: the peer did.
    began: Option<Instant>,
}

struct Server {
    peers: Peers,
    parts: Parts,
    stop: CancellationToken,
    places: AllPlaces,
    /// Who is in the view.
    neighbours: HashSet<NodeId>,
    /// The sessions, each with what ends it.
    sessions: HashMap<NodeId, Current>,
    /// Neighbours whose sessions have ended early, how often in a row.
    short: HashMap<NodeId, u32>,
    /// Beyond so many sessions only neighbours get one.
    sessions_max: usize,
    number: u64,
    tasks: JoinSet<Ended>,
    /// The tasks that run sessions, with the session's number.
    running: HashMap<Id, (NodeId, u64)>,
}

/// A task has ended: a session, with its number; the pause before the next one; the wait for the other to begin; what
/// served a stream.
enum Ended {
    Session(NodeId, u64, Duration),
    Pause(NodeId),
    Wait(NodeId),
    Stream,
}

impl Server {
    fn new(peers: Peers, parts: Parts, places: AllPlaces, stop: CancellationToken) -> Self {
        let sessions_max = SESSIONS_BEYOND_VIEW + parts.view as usize;
        Self {
            peers,
            parts,
            stop,
            places,
            neighbours: HashSet::new(),
            sessions: HashMap::new(),
            short: HashMap::new(),
            sessions_max,
            number: 0,
            tasks: JoinSet::new(),
            running: HashMap::new(),
        }
    }

    async fn run(mut self, mut inbox: Inbox, mut reached: mpsc::Receiver<NodeId>) {
        loop {
            tokio::select! {
                event = inbox.events.recv() => match event {
                    Some(event) => self.notice(event),
                    None => return,
                },
                Some(inbound) = inbox.streams.recv() => self.take(inbound),
                Some(node) = reached.recv() => {
                    if !self.sessions.contains_key(&node) && self.has_room(node) {
                        self.open(node);
                    }
                }
                Some(ended) = self.tasks.join_next_with_id() => self.joined(ended),
            }
        }
    }

    fn notice(&mut self, event: Event) {
        match event {
            Event::Met(node) => {
                self.neighbours.insert(node);
                self.meet(node);
            }
            Event::Lost(node) => {
                self.neighbours.remove(&node);
                self.short.remove(&node);
            }
            Event::Gossip(gossiped) => self.hear(gossiped),
            Event::OwnKeyElsewhere => {
                tracing::error!(
                    "another process in this mesh has this node's key: a data folder was copied; this node stops. Start the copy with a folder of its own"
                );
                self.parts.stop_node.notify_one();
            }
        }
    }

    /// Beyond what can be checked at once gossip is dropped: reconciliation finds it.
    fn hear(&mut self, gossiped: Gossiped) {
        let Some(place) = self.places.gossip.take(gossiped.from) else {
            return self.peers.mesh().judge(gossiped.id, Verdict::Ignore);
        };
        let (peers, sets) = (self.peers.clone(), self.parts.replicas.clone());
        self.tasks.spawn(async move {
            replicas::hear(peers, sets, gossiped).await;
            drop(place);
            Ended::Stream
        });
    }

    /// A neighbour without a session gets one. Of two that have each other in their views the one with the lower id begins;
    /// the other one waits a while, for views are not always mutual.
    fn meet(&mut self, node: NodeId) {
        if !self.neighbours.contains(&node) || self.sessions.contains_key(&node) {
            return;
        }
        if self.peers.node() < node {
            return self.open(node);
        }
        self.tasks.spawn(async move {
            tokio::time::sleep(HIGHER_WAITS).await;
            Ended::Wait(node)
        });
    }

    /// Whether this node may get a session.
    fn has_room(&self, node: NodeId) -> bool {
        self.sessions.len() < self.sessions_max || self.neighbours.contains(&node)
    }

    fn open(&mut self, node: NodeId) {
        let peers = self.peers.clone();
        self.begin(node, true, async move { peers.mesh().open(node, Lane::Peer).await.ok() });
    }

    /// Begins a session on the stream that comes, in the place of one that there may be.
    fn begin(
        &mut self,
        node: NodeId,
        ours: bool,
        stream: impl Future<Output = Option<shoal_mesh::Stream>> + Send + 'static,
    ) {
        self.number += 1;
        let number = self.number;
        let end = self.stop.child_token();
        let current = Current { number, end: end.clone(), began: ours.then(Instant::now) };
        if let Some(former) = self.sessions.insert(node, current) {
            former.end.cancel();
        }
        let (peers, parts) = (self.peers.clone(), self.parts.clone());
        let task = self.tasks.spawn(async move {
            let begun = Instant::now();
            let stream = tokio::select! {
                biased;
                // Another one took its place before it was open.
                () = end.cancelled() => None,
                stream = stream => stream,
            };
            if let Some(stream) = stream {
                session::run(peers, parts, node, stream, ours, end).await;
            }
            Ended::Session(node, number, begun.elapsed())
        });
        self.running.insert(task.id(), (node, number));
    }

    fn joined(&mut self, ended: Result<(Id, Ended), JoinError>) {
        match ended {
            Ok((id, ended)) => {
                self.running.remove(&id);
                self.ended(ended);
            }
            Err(panic) => {
                tracing::error!(%panic, "what served a peer has panicked");
                // Its session is over: the next one may begin.
                if let Some((node, number)) = self.running.remove(&panic.id()) {
                    self.ended(Ended::Session(node, number, Duration::ZERO));
                }
            }
        }
    }

    fn ended(&mut self, ended: Ended) {
        match ended {
            Ended::Session(node, number, lasted) => {
                if self.sessions.get(&node).is_some_and(|current| current.number == number) {
                    self.sessions.remove(&node);
                    let pause = self.pause_after(node, lasted);
                    self.tasks.spawn(async move {
                        tokio::time::sleep(pause).await;
                        Ended::Pause(node)
                    });
                }
            }
            Ended::Pause(node) => self.meet(node),
            Ended::Wait(node) => {
                if self.neighbours.contains(&node) && !self.sessions.contains_key(&node) {
                    self.open(node);
                }
            }
            Ended::Stream => {}
        }
    }

    /// How long to wait before the next session with a neighbour.
    fn pause_after(&mut self, node: NodeId, lasted: Duration) -> Duration {
        if lasted >= LASTING || !self.neighbours.contains(&node) {
            self.short.remove(&node);
            return AGAIN_AFTER;
        }
        let short = self.short.entry(node).or_default();
        *short = short.saturating_add(1);
        AGAIN_AFTER.saturating_mul(1 << (*short - 1).min(6)).min(AGAIN_AFTER_MAX)
    }

    /// A stream that a peer has opened. Beyond what can be served at once it is closed: the peer tries again, or elsewhere.
    fn take(&mut self, inbound: Inbound) {
        let Inbound { from, lane, stream } = inbound;
        let cost = if lane == Lane::Peer { SESSION_COST } else { 1 };
        if !self.peers.rates().streams.spend(from, cost, Instant::now()) {
            return self.peers.mesh().block(from, TOO_MANY_STREAMS);
        }
        let parts = self.parts.clone();
        let peers = self.peers.clone();
        match lane {
            Lane::Peer => {
                // Where both have begun at once, the stream of the one with the lower id stays.
                let ours = self
                    .sessions
                    .get(&from)
                    .is_some_and(|session| session.began.is_some_and(|at| at.elapsed() < CROSSING));
                if ours && self.peers.node() < from {
                    return;
                }
                // Whoever has us in their view is taken although they are not in ours, up to a bound: so each finds a place.
                if self.has_room(from) {
                    self.begin(from, false, std::future::ready(Some(stream)));
                }
            }
            Lane::Call => {
                let Some(place) = self.places.calls.take(from) else { return };
                self.tasks.spawn(async move {
                    if let Err(error) = answers::answer(&peers, &parts.service, from, stream).await
                        && error.is_hostile()
                    {
                        peers.mesh().block(from, "it breaks the protocol of calls");
                    }
                    drop(place);
                    Ended::Stream
                });
            }
            Lane::Blob => {
                let Some(place) = self.places.blobs.take(from) else { return };
                self.tasks.spawn(async move {
                    bytes::serve(&peers, &parts, from, stream).await;
                    drop(place);
                    Ended::Stream
                });
            }
            Lane::Sync => {
                let Some(place) = self.places.syncs.take(from) else { return };
                self.tasks.spawn(async move {
                    if timeout(replicas::SYNC_MAX, replicas::respond(&peers, &parts.replicas, from, stream))
                        .await
                        .is_err()
                    {
                        tracing::debug!(peer = %from.short(), "a reconciliation took a peer too long");
                    }
                    drop(place);
                    Ended::Stream
                });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn a_task_that_panics_is_noticed_and_one_that_ends_is_not() {
        let mut tasks = JoinSet::new();
        tasks.spawn(async {});
        let (send, receive) = tokio::sync::oneshot::channel::<()>();
        tasks.spawn(async { receive.await.expect("somebody says so") });
        let mut panicked = std::pin::pin!(first_panic(tasks));
        tokio::task::yield_now().await;
        assert!(panicked.as_mut().now_or_never().is_none());
        drop(send);
        assert!(timeout(Duration::from_secs(10), panicked).await.unwrap().is_panic());
    }
}
