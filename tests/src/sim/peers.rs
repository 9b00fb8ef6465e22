//! A node's edge towards other nodes: what arrives on their connections becomes inputs, effects become messages.
//!
//! As in production, what is decided for a peer goes out on the connection that stood when it was decided, a connection's
//! first message is a hello, and the ending of a run is handed in only when its blobs have been fetched.

use std::collections::{BTreeMap, BTreeSet};

use shoal_kernel::faults::Faults;
use shoal_kernel::{Effect, Input, PeerAttached, Reign};
use shoal_protocol::custody::SignedCustodians;
use shoal_protocol::key::Signature;
use shoal_protocol::object::function::{Function, Needs};
use shoal_protocol::object::job::Outcome;
use shoal_protocol::regency::{Regency, SignedVote, Vote};
use shoal_protocol::wire::custody::{Keep, KeepTaken};
use shoal_protocol::wire::peer::{Hello, Hint, PeerMessage, Right};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{NodeId, ObjectId, WorkerId, codec};

use super::Violation;
use super::network::ConnectionId;
use super::world::{Event, World};

/// How often a node tells its peers what it could run, in milliseconds.
const HINT_EVERY_MS: u64 = 1_000;
/// So many times less often, where hours pass.
const HINT_RARELY: u64 = 10;

/// The connection to a peer.
#[derive(Debug, Clone, Copy)]
pub struct PeerLink {
    /// Which.
    pub connection: ConnectionId,
    /// The peer's hello has come.
    pub greeted: bool,
    /// The peer has welcomed this node.
    pub welcomed: bool,
}

/// What leaves a node for others.
#[derive(Debug)]
pub(crate) enum Outgoing {
    /// A message.
    Say { connection: ConnectionId, message: PeerMessage },
    /// The node closes a connection.
    Close(ConnectionId),
    /// It wants to be connected to this node.
    Reach(NodeId),
    /// It looks for nodes that have this.
    Seek(Needs),
    /// A function is new, or has changed.
    Function(Box<Function>),
    /// A function was deleted.
    FunctionGone(ObjectId),
    /// The node's process is gone.
    Down,
    /// The node's process has started.
    Up,
}

/// The connection that an effect goes to, if it is for a peer.
pub(crate) fn peer_of(effect: &Effect, peers: &BTreeMap<NodeId, PeerLink>) -> Option<PeerLink> {
    let by_id = |id: &WorkerId| peers.iter().find(|(node, _)| WorkerId::of_node(node) == *id).map(|(_, link)| *link);
    match effect {
        Effect::Greet { peer, .. } | Effect::Offer { peer, .. } => peers.get(peer).copied(),
        Effect::Checkpointed { peer, .. } => peers.get(peer).copied(),
        Effect::ToHome { home, .. } => peers.get(home).copied(),
        Effect::Keep { to, .. }
        | Effect::KeepTaken { to, .. }
        | Effect::Claim { to, .. }
        | Effect::Voted { to, .. } => peers.get(to).copied(),
        Effect::ToCustodian { custodian, .. } => peers.get(custodian).copied(),
        Effect::Attached { worker, .. }
        | Effect::Cancel { worker, .. }
        | Effect::Settled { worker, .. }
        | Effect::Detach { worker, .. }
            if worker.millis() == 0 =>
        {
            by_id(worker)
        }
        _ => None,
    }
}

/// A vote that nobody has signed.
fn unsigned(vote: &Vote) -> SignedVote {
    SignedVote { bytes: codec::encode(vote).into(), signature: Signature([0; 64]) }
}

impl<F: Faults> World<F> {
    /// What has been decided for a peer goes out.
    pub(crate) fn tell_peer(&mut self, connection: ConnectionId, effect: Effect) {
        let message = match effect {
            Effect::Greet { runs, .. } => PeerMessage::Hello(Hello {
                name: self.name(),
                version: "simulated".into(),
                runs,
                keeps: self.setting.keeps,
            }),
            Effect::Attached { lease_ms, drop, .. } => PeerMessage::Welcome { lease_ms, drop },
            Effect::Offer { mut offer, .. } => {
                offer.right = self.right(offer.run.job).map(Box::new);
                PeerMessage::Offer(offer)
            }
            Effect::Cancel { run, .. } => PeerMessage::Cancel(run),
            Effect::Settled { run, .. } => PeerMessage::Settled(run),
            Effect::Checkpointed { run, number, .. } => PeerMessage::Checkpointed { run, number },
            Effect::ToHome { message, .. } | Effect::ToCustodian { message, .. } => message,
            Effect::Keep { set, jobs, .. } => {
                // What is signed is for the edges: here nobody lies.
                let set = SignedCustodians { bytes: codec::encode(&*set).into(), signature: Signature([0; 64]) };
                PeerMessage::Keep(Box::new(Keep { set, jobs }))
            }
            // What is signed is for the edges: here nobody lies.
            Effect::Claim { vote, .. } => PeerMessage::Claim(unsigned(&vote)),
            Effect::Voted { vote, .. } => PeerMessage::Voted(unsigned(&vote)),
            Effect::KeepTaken { reign, jobs, .. } => {
                let me = self.setting.id;
                let own = (reign.regent.regent == me).then(|| unsigned(&Vote::new(reign.regent, me)));
                let votes = reign.votes.iter().cloned().chain(own).collect();
                PeerMessage::KeepTaken(Box::new(KeepTaken { regency: Regency { regent: reign.regent, votes }, jobs }))
            }
            Effect::Detach { .. } => {
                self.coverage.hit("peers sent away");
                return self.outbox.push(Outgoing::Close(connection));
            }
            _ => return,
        };
        self.outbox.push(Outgoing::Say { connection, message });
    }

    /// By which right a job of another home is offered.
    fn right(&self, job: ObjectId) -> Option<Right> {
        let (home, set) = self.disk.taken.get(&job)?;
        let reign = self.disk.reigns.get(&(*home, *set, true))?;
        let set = SignedCustodians {
            bytes: codec::encode(self.disk.sets.get(&(*home, *set))?).into(),
            signature: Signature([0; 64]),
        };
        Some(Right { set, regency: Regency { regent: reign.regent, votes: reign.votes.clone() } })
    }

    fn name(&self) -> String {
        format!("node-{}", self.setting.place.unwrap_or(0))
    }

    /// A connection to a peer stands. One that is older than that which stands is not taken for it.
    pub(crate) fn peer_opened(&mut self, peer: NodeId, connection: ConnectionId) -> Result<(), Violation> {
        let Some(node) = &mut self.node else { return Ok(()) };
        if node.peers.get(&peer).is_some_and(|link| link.connection >= connection) {
            return Ok(());
        }
        node.peers.insert(peer, PeerLink { connection, greeted: false, welcomed: false });
        self.input(Input::PeerConnected { node: peer, connection })
    }

    /// The node notices that a connection to a peer has ended.
    pub(crate) fn peer_gone(&mut self, peer: NodeId, connection: ConnectionId) -> Result<(), Violation> {
        let Some(node) = &mut self.node else { return Ok(()) };
        if node.peers.get(&peer).is_some_and(|link| link.connection == connection) {
            node.peers.remove(&peer);
        }
        self.input(Input::PeerDetached { node: peer, connection })
    }

    /// A peer's message arrives.
    pub(crate) fn peer_says(
        &mut self,
        peer: NodeId,
        connection: ConnectionId,
        message: PeerMessage,
    ) -> Result<(), Violation> {
        self.peer_opened(peer, connection)?;
        let Some(link) = self.node.as_mut().and_then(|node| node.peers.get_mut(&peer)) else { return Ok(()) };
        let current = link.connection == connection;
        if !current {
            self.coverage.hit("peer messages delivered after their connection");
        }
        let first = current && !link.greeted;
        if first != matches!(message, PeerMessage::Hello(_)) {
            // Before its hello a peer says nothing that is heard, and it says it once.
            return Ok(());
        }
        let worker = WorkerId::of_node(&peer);
        let rtt_us = self.random.within(100..50_000);
        let input = match message {
            PeerMessage::Hello(hello) => {
                link.greeted = true;
                let (name, runs, keeps) = (hello.name, hello.runs, hello.keeps);
                Input::PeerAttached(Box::new(PeerAttached { node: peer, connection, name, runs, rtt_us, keeps }))
            }
            PeerMessage::Welcome { lease_ms, drop } => {
                link.welcomed |= current;
                self.coverage.hit("homes attached");
                Input::HomeAttached { home: peer, connection, lease_ms, drop }
            }
            PeerMessage::Hint(hint) => Input::PeerHint { node: peer, hint: Box::new(hint), rtt_us },
            PeerMessage::Offer(offer) => Input::Offered { home: peer, connection, offer },
            PeerMessage::Cancel(run) => Input::HomeCancel { home: peer, run },
            PeerMessage::Settled(run) => Input::HomeSettled { home: peer, run },
            PeerMessage::Taken { run, worker } => Input::PeerTaken { node: peer, run, worker },
            PeerMessage::Declined(run, problem) => Input::Declined { worker, run, problem },
            PeerMessage::Heartbeat { runs } => Input::Heartbeat { worker, runs },
            PeerMessage::Started(run) => Input::Started { worker, run },
            PeerMessage::Progress(run, progress) => Input::Progress { worker, run, progress },
            PeerMessage::Ended(run, outcome) => return self.fetch(peer, run, outcome),
            PeerMessage::Checkpoint(run, checkpoint) => {
                self.coverage.hit("checkpoints told to homes");
                Input::PeerCheckpoint { node: peer, run, checkpoint }
            }
            PeerMessage::Checkpointed { run, number } => Input::HomeCheckpointed { home: peer, run, number },
            PeerMessage::Log { .. } => return Ok(()),
            PeerMessage::Keep(keep) => return self.keep(peer, keep),
            PeerMessage::Claim(signed) => {
                let vote = signed.decode().map_err(|problem| self.violation(("a vote can be read", problem.detail)))?;
                Input::Claimed { vote }
            }
            PeerMessage::Voted(signed) => {
                let vote = signed.decode().map_err(|problem| self.violation(("a vote can be read", problem.detail)))?;
                Input::Voted { vote, signed: Box::new(signed) }
            }
            PeerMessage::KeepTaken(told) => return self.told_by_regent(peer, *told),
            PeerMessage::Kept(kept) => Input::Kept { node: peer, kept },
            PeerMessage::Compare { after } => Input::Compare { home: peer, after },
            PeerMessage::Holding(page) => Input::Holding { node: peer, page },
            PeerMessage::Forget(jobs) => Input::Forget { home: peer, jobs },
            PeerMessage::Grant(grant) => Input::Grant { from: peer, grant },
            PeerMessage::Granted(granted) => Input::Granted { node: peer, granted },
        };
        self.input(input)
    }

    /// What jobs refer to is fetched before they are kept.
    fn keep(&mut self, peer: NodeId, keep: Box<Keep>) -> Result<(), Violation> {
        let life = self.node.as_ref().map_or(0, |node| node.life);
        if self.random.percent(80) {
            return self.keep_fetched(life, peer, *keep);
        }
        let fetch_ms = self.random.within(1..5_000);
        self.after(fetch_ms, Event::KeepFetched { life, peer, keep });
        Ok(())
    }

    /// What jobs refer to is here.
    pub(crate) fn keep_fetched(&mut self, life: u64, peer: NodeId, keep: Keep) -> Result<(), Violation> {
        if self.node.as_ref().is_none_or(|node| node.life != life) {
            return Ok(());
        }
        let set = keep.set.decode().map_err(|problem| self.violation(("a set can be read", problem.detail)))?;
        self.input(Input::Keep { home: peer, set: Box::new(set), signed: Box::new(keep.set), jobs: keep.jobs })
    }

    /// The votes of a regent are counted before it is heard.
    fn told_by_regent(&mut self, peer: NodeId, told: KeepTaken) -> Result<(), Violation> {
        let KeepTaken { regency, jobs } = told;
        let regent = regency.regent;
        let Some(set) = self.disk.sets.get(&(regent.home, regent.set)) else { return Ok(()) };
        let votes = regency.votes.iter().filter_map(|vote| vote.decode().ok());
        let voters: BTreeSet<NodeId> = votes.filter(|vote| vote.regent == regent).map(|vote| vote.voter).collect();
        let confirmed = voters.len() >= set.majority();
        // A home hands over by its own word.
        let by_home = voters.contains(&regent.home);
        if !confirmed && !by_home && set.members.len() > 2 {
            let detail = format!("{regent:?} with the votes of {voters:?}");
            return Err(self.violation(("a regent of three has a majority", detail)));
        }
        let keeps = regent.home == self.setting.id && set.has_custodian(peer);
        if regent.regent != peer && !keeps {
            let detail = format!("{peer:?} tells of {regent:?}");
            return Err(self.violation(("a regent speaks for itself, or who keeps its word to the home", detail)));
        }
        self.coverage.hit(if regent.regent == peer { "records told by regents" } else { "records told for regents" });
        let reign = Reign { regent, acts: true, confirmed, votes: regency.votes };
        self.input(Input::KeepTaken { from: peer, reign: Box::new(reign), jobs })
    }

    /// What a run has brought is fetched before its ending is handed in.
    fn fetch(&mut self, peer: NodeId, run: Run, outcome: Box<Outcome>) -> Result<(), Violation> {
        let life = self.node.as_ref().map_or(0, |node| node.life);
        if self.random.percent(70) {
            return self.fetched(life, peer, run, outcome);
        }
        let fetch_ms = self.random.within(1..2_000);
        self.after(fetch_ms, Event::Fetched { life, peer, run, outcome });
        Ok(())
    }

    /// What a run has brought is here.
    pub(crate) fn fetched(
        &mut self,
        life: u64,
        peer: NodeId,
        run: Run,
        outcome: Box<Outcome>,
    ) -> Result<(), Violation> {
        if self.node.as_ref().is_none_or(|node| node.life != life) {
            return Ok(());
        }
        self.input(Input::Ended { worker: WorkerId::of_node(&peer), run, outcome })
    }

    /// The node tells its peers what it could run now.
    pub(crate) fn hint_due(&mut self, life: u64) {
        let Some(node) = self.node.as_ref().filter(|node| node.life == life) else { return };
        if self.setting.place.is_none() {
            return;
        }
        let hint = Hint {
            number: self.now_ms,
            name: self.name(),
            workers: node.kernel.hints(),
            tallies: node.kernel.tallies().to_vec(),
            ..Hint::default()
        };
        let connections: Vec<ConnectionId> = node.peers.values().map(|link| link.connection).collect();
        for connection in connections {
            self.outbox.push(Outgoing::Say { connection, message: PeerMessage::Hint(hint.clone()) });
        }
        let times = if self.setting.hours { HINT_RARELY } else { 1 };
        self.after(times * HINT_EVERY_MS, Event::HintDue { life });
    }

    /// A function of another node is there, or has changed.
    pub(crate) fn hears_of_function(&mut self, function: Function) -> Result<(), Violation> {
        let behaviour = function.name.bytes().last().map_or(0, |last| usize::from(last.wrapping_sub(b'0')));
        let deleted = &self.deleted;
        if deleted.contains(&function.id) {
            return Ok(());
        }
        match self.functions.get_mut(behaviour) {
            Some(known) if known.id == function.id => {
                if function.versions.len() <= known.versions.len() {
                    return Ok(());
                }
                *known = function.clone();
            }
            Some(known) if deleted.contains(&known.id) => *known = function.clone(),
            _ => match self.foreign.get(&function.id) {
                Some(known) if function.versions.len() <= known.versions.len() => return Ok(()),
                _ => drop(self.foreign.insert(function.id, function.clone())),
            },
        }
        self.input(Input::Function(Box::new(function)))
    }

    /// Another node has deleted a function.
    pub(crate) fn hears_of_deletion(&mut self, function: ObjectId) -> Result<(), Violation> {
        self.deleted.insert(function);
        self.foreign.remove(&function);
        // Those who submit go on with one of the same behaviour that is known here, if there is one.
        for known in self.functions.iter_mut().filter(|known| known.id == function) {
            let other = self.foreign.values().find(|other| other.name == known.name).cloned();
            if let Some(other) = other {
                self.foreign.remove(&other.id);
                *known = other;
            }
        }
        self.input(Input::FunctionGone(function))
    }
}
