//! Peers that come, say what they could run, and take runs of this home. What they do as any worker does is in
//! [`super::attachment`] and [`super::runs`].

use std::collections::BTreeSet;

use shoal_protocol::limits::{PEER_OFFERS_MAX, PEER_RUNS_MAX};
use shoal_protocol::object::job::{Ending, FailureCode};
use shoal_protocol::wire::peer::{Hint, WorkerHint};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Kind, NodeId, Problem, WorkerId, name};

use super::Machine;
use crate::custody::ZONE;
use crate::effect::{Effect, PeerView, Reply};
use crate::faults::Faults;
use crate::input::{Now, PeerAttached, Principal};
use crate::lease::Lease;
use crate::peers::PEERS_MAX;
use crate::rights;
use crate::workers::{Link, Worker};

impl<F: Faults> Machine<F> {
    /// What this node offers its peers: its own workers that take runs now, the freest first. For hints.
    pub fn hints(&self) -> Vec<WorkerHint> {
        let open = self.workers.own().filter(|worker| worker.attached() && !worker.cordoned && !worker.leaving);
        let mut hints: Vec<WorkerHint> = open.map(|worker| self.hint_of(worker)).collect();
        // Stable: workers that are equally free stay in the order of their ids.
        hints.sort_by_key(|hint| std::cmp::Reverse((hint.free_slots, hint.free_memory_mb)));
        hints.truncate(PEER_OFFERS_MAX);
        hints
    }

    fn hint_of(&self, worker: &Worker) -> WorkerHint {
        let offer = worker.offer.clone();
        // What is kept for a job of this home is not free for others.
        if self.reserved == Some(worker.id) && self.queue.len() > 0 {
            return WorkerHint { offer, free_slots: 0, free_memory_mb: 0 };
        }
        let in_use_mb = u32::try_from(worker.memory_with(0)).unwrap_or(u32::MAX);
        WorkerHint {
            free_slots: u32::try_from(worker.free_slots()).unwrap_or(u32::MAX),
            free_memory_mb: offer.memory_mb.saturating_sub(in_use_mb),
            offer,
        }
    }

    /// A connection to a peer stands. It takes the place of a former one, whose end may be noticed later; nothing that is
    /// decided before the hellos have been exchanged is meant for it.
    pub(super) fn peer_connected(&mut self, now: Now, node: NodeId, connection: u64, effects: &mut Vec<Effect>) {
        let id = WorkerId::of_node(&node);
        if let Some(problem) = self.unwelcome(node) {
            effects.push(Effect::Detach { worker: id, problem });
            return;
        }
        if let Some(Link::Up(former)) = self.workers.get(id).map(|worker| worker.link) {
            self.detach(now, id, former, false, effects);
        }
        self.home_connected(node, connection, effects);
        effects.push(Effect::Greet { peer: node, connection, runs: self.guest_runs(node) });
    }

    /// Why a node cannot be a peer.
    fn unwelcome(&self, node: NodeId) -> Option<Problem> {
        let id = WorkerId::of_node(&node);
        if node == self.config.node {
            return Some(Problem::new(Kind::Conflict, "this is the node itself"));
        }
        let full = || Problem::new(Kind::Full, format!("this node knows {PEERS_MAX} peers, the most that it takes"));
        match self.workers.get(id) {
            Some(known) if known.node() != Some(node) => {
                Some(Problem::new(Kind::Conflict, "another node or worker has this id here"))
            }
            None if !self.workers.has_room_for_peer() => Some(full()),
            _ if !self.guests.has_room_for(node, PEERS_MAX) => Some(full()),
            _ => None,
        }
    }

    /// A peer's hello has come: from now on it is offered runs, once it has said what it could run.
    pub(super) fn attach_peer(&mut self, now: Now, attached: PeerAttached, effects: &mut Vec<Effect>) {
        let PeerAttached { node, connection, name, mut runs, rtt_us, keeps } = attached;
        let id = WorkerId::of_node(&node);
        if let Some(problem) = self.unwelcome(node) {
            effects.push(Effect::Detach { worker: id, problem });
            return;
        }
        if self.workers.get(id).is_none() {
            self.meet(now, id, &node.short(), Some(node));
        }
        let lease = Lease::grant(now.mono_ms, self.config.lease_ms);
        self.look_after(id, lease.until_ms);
        let Some(worker) = self.workers.get_mut(id) else { return };
        if name::check("name", &name).is_ok() {
            worker.name = name;
        }
        worker.link = Link::Up(connection);
        worker.attached_ms = now.wall_ms;
        worker.lease = lease;
        worker.leaving = false;
        worker.keep_strays(&BTreeSet::new());
        if let Some(peer) = &mut worker.peer {
            peer.attached(rtt_us);
        }
        self.counters.peer_attachments += 1;
        runs.truncate(PEER_RUNS_MAX);
        self.welcome(now, id, connection, runs, false, effects);
        if keeps {
            self.custodian_attached(now, node, connection, effects);
        }
    }

    /// A peer's connection ended: as an executor it keeps its runs as long as its lease lasts, as a home it is waited for.
    pub(super) fn detach_peer(&mut self, now: Now, node: NodeId, connection: u64, effects: &mut Vec<Effect>) {
        self.detach(now, WorkerId::of_node(&node), connection, false, effects);
        self.custodian_detached(now, node, connection, effects);
        self.home_detached(now, node, connection, effects);
    }

    /// A peer says what it could run now.
    pub(super) fn hint(&mut self, node: NodeId, hint: Hint, rtt_us: u64) {
        if hint.check().is_err() {
            self.counters.hints_refused += 1;
            return;
        }
        let id = WorkerId::of_node(&node);
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.attached()) else { return };
        let Some(peer) = &mut worker.peer else { return };
        peer.rtt_us = rtt_us;
        let jobs = &self.jobs;
        let seen = |job| jobs.get(job).and_then(|job| job.placed()).is_some_and(|placed| placed.seen);
        peer.hint(hint.workers, seen);
        worker.leaving = hint.stopping;
        self.placeable = true;
        self.heard_tallies(node, &hint.tallies);
        self.custodian_hints(node, hint.stopping, hint.labels.get(ZONE).cloned());
    }

    /// A peer has taken a run.
    pub(super) fn taken(&mut self, node: NodeId, run: Run, worker_name: String, effects: &mut Vec<Effect>) {
        let id = WorkerId::of_node(&node);
        let Some(job) = self.jobs.current_mut(id, run) else {
            effects.push(Effect::Cancel { worker: id, run });
            return;
        };
        if let Some(placed) = job.placed_mut() {
            placed.seen = true;
            placed.recovering = false;
        }
        if let Some(attempt) = job.history.attempts.last_mut().filter(|_| name::check("worker", &worker_name).is_ok()) {
            attempt.worker_name = worker_name;
        }
        if let Some(peer) = self.workers.get_mut(id).and_then(|worker| worker.peer.as_mut()) {
            peer.took(&job.accepted.spec.needs);
        }
        effects.push(Effect::Changed { job: run.job, settled: false });
    }

    /// A run at a peer has ended: its time is over no more, whatever its bytes take.
    pub(super) fn delivering(&mut self, now: Now, node: NodeId, run: Run) {
        let job = self.jobs.current_mut(WorkerId::of_node(&node), run);
        if let Some(placed) = job.and_then(|job| job.placed_mut()) {
            placed.seen = true;
            placed.delivering_ms.get_or_insert(now.mono_ms);
        }
    }

    /// Why a run that a peer says has ended is lost, with the peer's worker, and has not ended.
    pub(super) fn lost_at_peer<'a>(&self, from: WorkerId, ending: &'a Ending) -> Option<&'a str> {
        let Ending::Failed(failure) = ending else { return None };
        let by_peer = self.workers.get(from).is_some_and(|worker| worker.peer.is_some());
        (by_peer && failure.code == FailureCode::WorkerLost).then_some(failure.message.as_str())
    }

    pub(super) fn runs_with(&self, node: NodeId) -> Reply {
        let worker = self.workers.get(WorkerId::of_node(&node)).filter(|worker| worker.node() == Some(node));
        let placed = worker.map(|worker| worker.runs().collect()).unwrap_or_default();
        let guests = self.guests.runs(node).into_iter().map(|run| run.job).collect();
        let keeps = self.custody.is_custodian(node) || self.charges.keeps_for(node);
        Reply::Runs { placed, guests, keeps }
    }

    pub(super) fn list_peers(&self, now: Now, principal: &Principal) -> Result<Reply, Problem> {
        if !rights::may_see_workers(principal) {
            return Err(rights::refusal(principal, "see the peers"));
        }
        let peers = self.workers.peers().filter_map(|worker| {
            let peer = worker.peer.as_ref()?;
            let (slots, free_slots) = peer.slots();
            Some(PeerView {
                node: peer.node,
                name: worker.name.clone(),
                attached: worker.attached(),
                leaving: worker.leaving,
                slots,
                free_slots,
                placed: worker.runs().count() as u64,
                guests: self.guests.home(peer.node).map_or(0, |home| home.len()) as u64,
                declining: peer.declining(now.mono_ms).into_iter().map(str::to_owned).collect(),
            })
        });
        Ok(Reply::Peers(peers.collect()))
    }
}
