//! One node's documents: what is durable, and the thread that owns the replica, as in `node/src/documents/owner.rs`.
//!
//! The thread does one thing after the other: it takes a batch, makes it durable as one commit, puts it into the index,
//! and only then answers and tells others. A crash loses all but the journal; of the commit that was under way all
//! or nothing has reached the disk.

use shoal_crdt::reconcile::{Index, Misbehaviour};
use shoal_protocol::change::SignedChange;
use shoal_protocol::wire::sync::SyncMessage;

use super::process::{Ask, Commit, Origin, Process};
use super::talks::{Progress, Talk};
use super::{Letter, Out, TalkId};
use crate::sim::coverage::Coverage;
use crate::sim::mutations::Bugs;
use crate::sim::network::ConnectionId;

/// Changes from a reconciliation that are gossiped on, as in production.
const PASSED_ON_MAX: usize = 64;

/// The documents of one node.
#[derive(Debug)]
pub(crate) struct Site<F> {
    /// What is durable, in the order of its arrival: a place is a position here.
    pub(crate) journal: Vec<SignedChange>,
    /// None while the node is down.
    pub(crate) process: Option<Process<F>>,
    lives: u64,
    pub(crate) coverage: Coverage,
}

impl<F: Bugs> Site<F> {
    /// A node that has never run.
    pub(crate) fn new() -> Self {
        Self { journal: Vec::new(), process: None, lives: 0, coverage: Coverage::default() }
    }

    /// The node's process starts, from what is durable.
    pub(crate) fn start(&mut self) {
        self.lives += 1;
        self.process = Some(Process::start(self.lives, &self.journal));
    }

    /// The node's process is killed. `reached`: the commit that was under way has reached the disk.
    pub(crate) fn crash(&mut self, reached: bool) {
        let Some(process) = self.process.take() else { return };
        if process.has_pending() {
            self.coverage.hit("replicas restarted with pending changes");
        }
        for talk in process.talks.values().filter(|talk| talk.is_half_way()) {
            self.coverage.hit(cut_short(talk));
        }
        match process.commit {
            Some(commit) if reached => self.journal.extend(commit.accepted),
            Some(commit) => self.coverage.add("changes lost in a crash", commit.accepted.len() as u64),
            None => {}
        }
    }

    /// A client brings a change.
    pub(crate) fn submit(&mut self, change: SignedChange, outs: &mut Vec<Out>) {
        self.ask(Ask { origin: Origin::Client, changes: vec![change] }, outs);
    }

    /// A peer gossips a change.
    pub(crate) fn gossiped(&mut self, from: usize, change: SignedChange, outs: &mut Vec<Out>) {
        let Some(process) = &mut self.process else { return };
        if process.heard.insert(change.hash()) {
            self.ask(Ask { origin: Origin::Gossip(from), changes: vec![change] }, outs);
        } else {
            self.coverage.hit("gossip that was heard before");
        }
    }

    fn ask(&mut self, ask: Ask, outs: &mut Vec<Out>) {
        let Some(process) = &mut self.process else { return };
        process.asks.push_back(ask);
        self.work(outs);
    }

    /// Takes what waits, until something has to become durable.
    fn work(&mut self, outs: &mut Vec<Out>) {
        while let Some(process) = self.process.as_mut().filter(|process| process.commit.is_none()) {
            let Some(ask) = process.asks.pop_front() else { return };
            let commit = process.take(ask, &mut self.coverage);
            if F::acknowledges_changes_first() {
                outs.extend(commit.counted.map(Out::Acknowledged));
            }
            if commit.accepted.is_empty() {
                self.done(commit, outs);
            } else {
                outs.push(Out::Commit { life: process.life });
                process.commit = Some(commit);
            }
        }
    }

    /// The commit that was under way has ended.
    pub(crate) fn committed(&mut self, life: u64, failed: bool, outs: &mut Vec<Out>) {
        let Some(process) = self.process.as_mut().filter(|process| process.life == life) else { return };
        let Some(commit) = process.commit.take() else { return };
        if failed {
            self.coverage.hit("commits that failed");
            process.rebuild(&self.journal);
            if let Origin::Sync(_, talk) = commit.ask.origin {
                self.end_talk(talk, outs);
            }
        } else {
            for change in &commit.accepted {
                process.index.insert(self.journal.len() as u64, change.hash().into());
                self.journal.push(change.clone());
            }
            self.done(commit, outs);
        }
        self.work(outs);
    }

    /// What was taken is durable.
    fn done(&mut self, commit: Commit, outs: &mut Vec<Out>) {
        let Commit { ask: Ask { origin, changes }, accepted, stored, counted, refused } = commit;
        let count = accepted.len() as u64;
        let (publish, except) = match origin {
            Origin::Client => {
                self.coverage.add("changes by clients", count);
                outs.extend(counted.map(Out::Acknowledged));
                (accepted, None)
            }
            Origin::Gossip(peer) => {
                self.coverage.add("changes by gossip", count);
                outs.extend(refused.map(|refused| Out::Accuses { peer, of: refused.to_string() }));
                (if stored.taken > 0 { changes } else { Vec::new() }, Some(peer))
            }
            Origin::Sync(peer, talk) => {
                self.coverage.add("changes by reconciliation", count);
                outs.extend(refused.map(|refused| Out::Accuses { peer, of: refused.to_string() }));
                self.with_talk(talk, outs, |talk, index| talk.stored(index, stored));
                (if accepted.len() <= PASSED_ON_MAX { accepted } else { Vec::new() }, Some(peer))
            }
        };
        let Some(process) = self.process.as_mut().filter(|_| !publish.is_empty()) else { return };
        process.heard.extend(publish.iter().map(SignedChange::hash));
        outs.push(Out::Publish { changes: publish, except });
    }

    /// Begins a session, unless one with this peer is under way.
    pub(crate) fn begin_talk(&mut self, id: TalkId, peer: usize, connection: ConnectionId, outs: &mut Vec<Out>) {
        let Some(process) = &mut self.process else { return };
        if process.talks.values().any(|talk| talk.peer == peer) {
            return;
        }
        let talk = Talk::begin(id, peer, connection, &process.index);
        process.talks.insert(id, talk);
        self.with_talk(id, outs, |_, _| Ok(()));
    }

    /// A message of a session arrives. None but the first begins one.
    pub(crate) fn hears(
        &mut self,
        (from, connection): (usize, ConnectionId),
        id: TalkId,
        message: SyncMessage,
        outs: &mut Vec<Out>,
    ) {
        let Some(process) = &mut self.process else { return };
        if matches!(message, SyncMessage::Open { .. }) {
            let talk = Talk::answer(id, from, connection, &process.index);
            process.talks.insert(id, talk);
        }
        self.with_talk(id, outs, |talk, _| {
            talk.hears(message);
            Ok(())
        });
    }

    /// A connection has ended, and its sessions with it.
    pub(crate) fn connection_ended(&mut self, ended: impl Fn(&Talk<F>) -> bool) {
        let Some(process) = &mut self.process else { return };
        for (_, talk) in process.talks.extract_if(.., |_, talk| ended(talk)) {
            self.coverage.hit(cut_short(&talk));
        }
    }

    /// The peer has ended a session early.
    pub(crate) fn talk_cut(&mut self, id: TalkId) {
        if let Some(talk) = self.process.as_mut().and_then(|process| process.talks.remove(&id)) {
            self.coverage.hit(cut_short(&talk));
        }
    }

    /// This node ends a session early.
    fn end_talk(&mut self, id: TalkId, outs: &mut Vec<Out>) {
        if let Some(talk) = self.process.as_mut().and_then(|process| process.talks.remove(&id)) {
            self.coverage.hit(cut_short(&talk));
            outs.push(Out::Say { connection: talk.connection, letter: Letter::Cut { talk: id } });
        }
    }

    /// Something happens to a session, and it goes on as far as it can.
    fn with_talk(
        &mut self,
        id: TalkId,
        outs: &mut Vec<Out>,
        happens: impl FnOnce(&mut Talk<F>, &Index) -> Result<(), Misbehaviour>,
    ) {
        let Some(process) = &mut self.process else { return };
        let Some(talk) = process.talks.get_mut(&id) else { return };
        let (peer, index) = (talk.peer, &process.index);
        let progress = happens(talk, index).and_then(|()| talk.advance(index, &self.journal, &mut self.coverage, outs));
        match progress {
            Ok(Progress::Waits) => {}
            Ok(Progress::Ended) => drop(process.talks.remove(&id)),
            Ok(Progress::Stores(items)) => {
                let changes = items.into_iter().map(SignedChange::from).collect();
                process.asks.push_back(Ask { origin: Origin::Sync(peer, id), changes });
                self.work(outs);
            }
            Err(misbehaviour) => outs.push(Out::Accuses { peer, of: misbehaviour.to_string() }),
        }
    }
}

/// As what a session counts that did not end by itself.
fn cut_short<F: Bugs>(talk: &Talk<F>) -> &'static str {
    if talk.is_half_way() { "reconciliations cut half way" } else { "reconciliations cut at their beginning" }
}
