//! Keeps documents and global KV the same as the peers': pushes what is new by gossip, reconciles when two nodes meet,
//! when a hint says that they differ, and from time to time.
//!
//! Gossip is a hint. What makes nodes equal is reconciliation.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use shoal_mesh::{Gossiped, Lane, Stream, Verdict};
use shoal_protocol::limits::GOSSIP_LEN_MAX;
use shoal_protocol::wire::peer::Gossip;
use shoal_protocol::wire::sync::SetKind;
use shoal_protocol::{NodeId, codec};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

use super::Peers;
use crate::replication::{Accepted, Judgement, Origin, Sets};

/// Changes from a reconciliation that are gossiped on. Why 64: what a healed cut brings reaches those behind us at once;
/// more than that they fetch themselves, all of it together.
const PASSED_ON_MAX: usize = 64;
/// How often neighbours' hints are compared with this replica.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Looks for which a neighbour has to differ. Why 4, a second: gossip on its way makes equal nodes differ for a moment.
const LOOKS_UNTIL_SYNC: u32 = 4;
/// Looks after which also the one with the higher id begins: where both miss something, one session is enough.
const LOOKS_UNTIL_HIGHER: u32 = 6;
/// States of this replica that are remembered. Why 64: a hint is some seconds old, and a neighbour that is where this
/// node was then misses something, which is for it to ask for.
const STATES_MAX: usize = 64;
/// With each neighbour a session is held so often, although nothing seems to differ: one neighbour at a time.
const SYNC_EVERY: Duration = Duration::from_secs(30);
/// Sessions that this node begins at once.
const SYNCS_MAX: usize = 4;

/// Gossips what is accepted at this node, and lets `news` know of all that was.
pub(super) async fn publish(peers: Peers, sets: Sets, news: watch::Sender<()>) {
    let (mut changes, mut entries) = (sets.accepted_changes(), sets.accepted_entries());
    loop {
        let messages: Vec<Gossip> = tokio::select! {
            accepted = changes.recv() => match accepted {
                Ok(accepted) => worth_telling(&accepted).iter().cloned().map(Gossip::Change).collect(),
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
            accepted = entries.recv() => match accepted {
                Ok(accepted) => worth_telling(&accepted).iter().cloned().map(Gossip::Entry).collect(),
                Err(RecvError::Lagged(_)) => continue,
                Err(RecvError::Closed) => return,
            },
        };
        news.send_replace(());
        for message in messages {
            let bytes = codec::encode(&message);
            // What is longer is found by reconciliation.
            if bytes.len() <= GOSSIP_LEN_MAX {
                peers.mesh().publish(bytes);
            }
        }
    }
}

fn worth_telling<T>(accepted: &Accepted<T>) -> &[T] {
    match accepted.origin {
        Origin::Local => &accepted.items,
        Origin::Sync if accepted.items.len() <= PASSED_ON_MAX => &accepted.items,
        // gossip passes on itself what it was told is right.
        Origin::Sync | Origin::Gossip => &[],
    }
}

/// Takes what somebody gossips, and says whether it goes on.
pub(super) async fn hear(peers: Peers, sets: Sets, gossiped: Gossiped) {
    let Gossiped { from, bytes, id } = gossiped;
    let verdict = match sets.judge(&bytes).await {
        Judgement::Accept => Verdict::Accept,
        Judgement::Ignore => Verdict::Ignore,
        Judgement::Reject => Verdict::Reject,
    };
    if verdict == Verdict::Reject {
        peers.mesh().block(from, "it gossips what no honest node passes on");
    }
    peers.mesh().judge(id, verdict);
}

/// Answers a session that a peer has begun.
pub(super) async fn respond(peers: &Peers, sets: &Sets, from: NodeId, stream: Stream) {
    match sets.respond(stream).await {
        Ok(report) => tracing::debug!(peer = %from.short(), ?report, "reconciled for a peer"),
        Err(error) if error.is_hostile() => {
            tracing::warn!(peer = %from.short(), %error, "a peer misbehaves while it reconciles");
            peers.mesh().block(from, "it misbehaves while it reconciles");
        }
        Err(error) => tracing::debug!(peer = %from.short(), %error, "reconciliation broke off"),
    }
}

/// Begins sessions where they are due.
pub(super) async fn reconcile(peers: Peers, sets: Sets, mut news: watch::Receiver<()>) {
    let mut due = Due::default();
    let mut states = VecDeque::from([sets.digest()]);
    let mut sessions = tokio::task::JoinSet::new();
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = look.tick() => {}
            Ok(()) = news.changed() => {
                states.truncate(STATES_MAX - 1);
                states.push_front(sets.digest());
                continue;
            }
            Some(ended) = sessions.join_next() => {
                if let Ok(node) = ended {
                    due.ended(node);
                }
                continue;
            }
        }
        let differ = peers.known().ahead_of(&states);
        let neighbours = peers.known().nodes();
        due.look(peers.node(), &neighbours, &differ, Instant::now());
        while sessions.len() < SYNCS_MAX {
            let Some(node) = due.next() else { break };
            let (peers, sets) = (peers.clone(), sets.clone());
            sessions.spawn(async move {
                session(&peers, &sets, node).await;
                node
            });
        }
    }
}

async fn session(peers: &Peers, sets: &Sets, node: NodeId) {
    for set in [SetKind::Changes, SetKind::Entries] {
        let Ok(stream) = peers.mesh().open(node, Lane::Sync).await else { return };
        match sets.initiate(stream, set).await {
            Ok(report) => tracing::debug!(peer = %node.short(), ?report, "reconciled with a peer"),
            Err(error) => {
                tracing::debug!(peer = %node.short(), %error, "reconciliation broke off");
                if error.is_hostile() {
                    peers.mesh().block(node, "it misbehaves while it reconciles");
                }
                return;
            }
        }
    }
}

/// With whom a session is due. Pure.
#[derive(Debug, Default)]
struct Due {
    /// Neighbours: how often in a row they differed, when the last session began, whether one runs.
    neighbours: HashMap<NodeId, Neighbour>,
}

#[derive(Debug, Default)]
struct Neighbour {
    differed: u32,
    last: Option<Instant>,
    running: bool,
    wanted: bool,
}

impl Due {
    fn look(&mut self, me: NodeId, neighbours: &[NodeId], differ: &[NodeId], now: Instant) {
        self.neighbours.retain(|node, known| known.running || neighbours.contains(node));
        for node in neighbours {
            let known = self.neighbours.entry(*node).or_default();
            known.differed = if differ.contains(node) { known.differed + 1 } else { 0 };
            let patience = if me < *node { LOOKS_UNTIL_SYNC } else { LOOKS_UNTIL_HIGHER };
            // Who has just been met is compared by hashes at once.
            let first = known.last.is_none() && (me < *node || known.differed > 0);
            let old = known.last.is_some_and(|last| now.duration_since(last) >= SYNC_EVERY) && me < *node;
            known.wanted |= first || old || known.differed >= patience;
        }
    }

    /// The next one: who differs for longest first.
    fn next(&mut self) -> Option<NodeId> {
        let waiting = self.neighbours.iter_mut().filter(|(_, known)| known.wanted && !known.running);
        let (node, known) = waiting.max_by_key(|(node, known)| (known.differed, **node))?;
        (known.wanted, known.running, known.differed) = (false, true, 0);
        known.last = Some(Instant::now());
        Some(*node)
    }

    fn ended(&mut self, node: NodeId) {
        if let Some(known) = self.neighbours.get_mut(&node) {
            known.running = false;
        }
    }
}
