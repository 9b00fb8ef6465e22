//! Keeps documents and global KV the same as the peers': pushes what is new by gossip, reconciles when two nodes meet,
//! when a hint says that they differ, and from time to time.
//!
//! Gossip is a hint. What makes nodes equal is reconciliation.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use shoal_crdt::reconcile::{self, Report};
use shoal_mesh::{Gossiped, Lane, Stream, Verdict};
use shoal_protocol::limits::GOSSIP_LEN_MAX;
use shoal_protocol::wire::gossip::Gossip;
use shoal_protocol::wire::sync::SetKind;
use shoal_protocol::{NodeId, codec};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, timeout};

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
/// After a session that has brought nothing the next one waits, at first as long as it takes to see that two differ, and
/// twice as long after each further one, up to [`SYNC_EVERY`]. Two may differ for ever: where there is no room left, which
/// items have found some is a matter of the order in which they came.
const FRUITLESS_PAUSE: Duration = Duration::from_secs(1);
/// With each neighbour a session is held so often, although nothing seems to differ: one neighbour at a time.
const SYNC_EVERY: Duration = Duration::from_secs(30);
/// Sessions that this node begins at once.
const SYNCS_MAX: usize = 4;
/// How long a session with a peer may take in all, whoever began it. Why ten minutes: each message has its own time, and a
/// peer that uses up all of it each time would hold its place for a day; an honest one that needs longer begins anew with
/// what it has by then.
pub(super) const SYNC_MAX: Duration = Duration::from_secs(600);

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
        Judgement::Useless => Verdict::Useless,
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
    let mut with = HashMap::new();
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
            Some(ended) = sessions.join_next_with_id() => {
                let (task, came) = match ended {
                    Ok((task, came)) => (task, came),
                    Err(panic) => {
                        tracing::error!(%panic, "a reconciliation has panicked");
                        (panic.id(), Came::TooLate)
                    }
                };
                if let Some(node) = with.remove(&task) {
                    due.ended(node, came, Instant::now());
                }
                continue;
            }
        }
        let differ = peers.known().ahead_of(&states);
        let neighbours = peers.known().nodes();
        due.look(peers.node(), &neighbours, &differ, Instant::now());
        while sessions.len() < SYNCS_MAX {
            let Some(node) = due.next(Instant::now()) else { break };
            let (peers, sets) = (peers.clone(), sets.clone());
            let task = sessions.spawn(async move {
                timeout(SYNC_MAX, session(&peers, &sets, node)).await.unwrap_or_else(|_| {
                    tracing::debug!(peer = %node.short(), "a reconciliation took too long");
                    Came::TooLate
                })
            });
            with.insert(task.id(), node);
        }
    }
}

/// What has come of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Came {
    /// Something, or both were equal: it was worth it.
    Something,
    /// It was held to its end, and both differ as before.
    Nothing,
    /// It was not held, or broke off.
    Unknown,
    /// It took too long.
    TooLate,
}

async fn session(peers: &Peers, sets: &Sets, node: NodeId) -> Came {
    let mut reports = Vec::new();
    for set in [SetKind::Changes, SetKind::Entries] {
        let Ok(stream) = peers.mesh().open(node, Lane::Sync).await else { return Came::Unknown };
        match sets.initiate(stream, set).await {
            Ok(report) => {
                tracing::debug!(peer = %node.short(), ?report, "reconciled with a peer");
                reports.push(report);
            }
            Err(error) => {
                tracing::debug!(peer = %node.short(), %error, "reconciliation broke off");
                if error.is_hostile() {
                    peers.mesh().block(node, "it misbehaves while it reconciles");
                }
                return Came::Unknown;
            }
        }
    }
    came(&reports)
}

fn came(reports: &[Report]) -> Came {
    let is = |verdict| reports.iter().filter(|report| report.verdict == verdict).count();
    if is(reconcile::Verdict::Busy) > 0 {
        Came::Unknown
    } else if reports.iter().any(|report| report.received > 0) || is(reconcile::Verdict::Equal) == reports.len() {
        Came::Something
    } else {
        Came::Nothing
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
    /// The last session took too long.
    late: bool,
    /// Sessions in a row that have brought nothing, and when the next one may begin because both differ.
    fruitless: u32,
    rests_until: Option<Instant>,
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
            let rests = known.rests_until.is_some_and(|until| now < until);
            known.wanted |= first || old || (known.differed >= patience && !rests);
        }
    }

    /// The next one: who differs for longest first. Those that took too long come last, and one of them at a time: however
    /// many they are, they leave the other places to those that do not.
    fn next(&mut self, now: Instant) -> Option<NodeId> {
        let late_runs = self.neighbours.values().any(|known| known.running && known.late);
        let may_begin = |known: &Neighbour| known.wanted && !known.running && !(known.late && late_runs);
        let waiting = self.neighbours.iter_mut().filter(|(_, known)| may_begin(known));
        let (node, known) = waiting.max_by_key(|(node, known)| (!known.late, known.differed, **node))?;
        (known.wanted, known.running, known.differed) = (false, true, 0);
        known.last = Some(now);
        Some(*node)
    }

    fn ended(&mut self, node: NodeId, came: Came, now: Instant) {
        let Some(known) = self.neighbours.get_mut(&node) else { return };
        (known.running, known.late) = (false, came == Came::TooLate);
        match came {
            Came::Something => (known.fruitless, known.rests_until) = (0, None),
            Came::Nothing => {
                let pause = FRUITLESS_PAUSE.saturating_mul(1 << known.fruitless.min(16)).min(SYNC_EVERY);
                (known.fruitless, known.rests_until) = (known.fruitless.saturating_add(1), Some(now + pause));
            }
            Came::Unknown | Came::TooLate => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ME: NodeId = NodeId([0; 32]);

    fn nodes(numbers: std::ops::RangeInclusive<u8>) -> Vec<NodeId> {
        numbers.map(|number| NodeId([number; 32])).collect()
    }

    #[test]
    fn those_that_take_too_long_leave_places_to_the_others() {
        let (mut due, all, mut now) = (Due::default(), nodes(1..=8), Instant::now());
        due.look(ME, &all, &[], now);
        let slow: Vec<_> = (0..4).map(|_| due.next(now).unwrap()).collect();
        assert_eq!(slow, [8, 7, 6, 5].map(|number| NodeId([number; 32])));
        for node in &slow {
            due.ended(*node, Came::TooLate, now);
        }
        now += SYNC_EVERY;
        due.look(ME, &all, &slow, now);
        let next: Vec<_> = std::iter::from_fn(|| due.next(now)).collect();
        let others = [4, 3, 2, 1].map(|number| NodeId([number; 32]));
        assert_eq!(next[..4], others, "they come last, although they differ");
        assert_eq!(next[4..], [slow[0]], "and one at a time");
        due.ended(slow[0], Came::Something, now);
        assert_eq!(due.next(now), Some(slow[1]), "the next of them");
    }

    /// How often a session begins within five minutes with one who always differs.
    fn sessions(came: Came) -> usize {
        let (mut due, them, begun) = (Due::default(), nodes(1..=1), Instant::now());
        let mut sessions = 0;
        let mut now = begun;
        while now < begun + 10 * SYNC_EVERY {
            due.look(ME, &them, &them, now);
            while let Some(node) = due.next(now) {
                sessions += 1;
                due.ended(node, came, now);
            }
            now += LOOK_EVERY;
        }
        sessions
    }

    #[test]
    fn two_that_differ_for_ever_do_not_reconcile_all_the_time() {
        assert!(sessions(Came::Something) > 250, "as long as it is worth it");
        assert!((12..=20).contains(&sessions(Came::Nothing)), "{}", sessions(Came::Nothing));
    }
}
