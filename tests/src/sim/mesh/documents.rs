//! Documents in the mesh: who signs what where, what becomes of it on the links, and when nodes reconcile.
//!
//! Gossip may be lost, come twice, late, and after its connection. A session's messages come in order over the connection
//! on which it began, and end with it.

use std::collections::BTreeSet;

use shoal_protocol::change::{ChangeHash, SignedChange};

use super::{Event, Mesh};
use crate::sim::Violation;
use crate::sim::coverage::Coverage;
use crate::sim::mutations::Bugs;
use crate::sim::network::ConnectionId;
use crate::sim::random::Random;
use crate::sim::replicas::agreement;
use crate::sim::replicas::authors::Authors;
use crate::sim::replicas::site::Site;
use crate::sim::replicas::{Letter, Out, TalkId};

/// What happens about documents.
#[derive(Debug)]
pub(super) enum News {
    /// Somebody signs something at some node.
    Signs,
    /// A client brings a change to a node.
    Submits { at: usize, change: SignedChange },
    /// A letter arrives.
    Arrives { from: usize, to: usize, connection: ConnectionId, letter: Letter },
    /// What a node was making durable is, or could not be.
    Committed { at: usize, life: u64 },
    /// A node reconciles with one that it is connected to.
    Reconciles { at: usize },
}

/// The documents of all nodes, and those who sign.
#[derive(Debug)]
pub(super) struct Documents<F> {
    sites: Vec<Site<F>>,
    authors: Authors,
    /// Chance of its own: what happens about jobs does not depend on how documents are written.
    random: Random,
    coverage: Coverage,
    /// Changes of which a client has heard that they count.
    acknowledged: BTreeSet<ChangeHash>,
    last_talk: TalkId,
}

impl<F: Bugs> Documents<F> {
    pub(super) fn new(nodes: usize, seed: u64) -> Self {
        Self {
            sites: (0..nodes).map(|_| Site::new()).collect(),
            authors: Authors::new(),
            random: Random::new(seed ^ 0x646f_6373),
            coverage: Coverage::default(),
            acknowledged: BTreeSet::new(),
            last_talk: 0,
        }
    }

    /// Adds what all nodes have shown, and to the trace what they hold, in the order in which it came.
    pub(super) fn finish(self, coverage: &mut Coverage, trace: &mut blake3::Hasher) {
        coverage.merge(&self.coverage);
        for site in self.sites {
            coverage.merge(&site.coverage);
            for change in &site.journal {
                trace.update(change.hash().0.as_bytes());
            }
        }
    }
}

impl<F: Bugs> Mesh<F> {
    /// The first change, and the first look of every node for somebody to reconcile with.
    pub(super) fn documents_begin(&mut self) {
        self.after(1_500, Event::Documents(News::Signs));
        for at in 0..self.worlds.len() {
            let later_ms = self.documents.random.within(1_000..10_000);
            self.after(later_ms, Event::Documents(News::Reconciles { at }));
        }
    }

    pub(super) fn documents_happen(&mut self, news: News) -> Result<(), Violation> {
        match news {
            News::Signs => {
                self.somebody_signs();
                Ok(())
            }
            News::Submits { at, change } => self.at_site(at, |site, outs| site.submit(change, outs)),
            News::Arrives { from, to, connection, letter } => self.letter_arrives(from, to, connection, letter),
            News::Committed { at, life } => {
                let failed = self.faults_are_on() && self.documents.random.within(0..200) == 0;
                self.at_site(at, |site, outs| site.committed(life, failed, outs))
            }
            News::Reconciles { at } => {
                let later_ms = self.documents.random.within(3_000..10_000);
                self.after(later_ms, Event::Documents(News::Reconciles { at }));
                let connections = self.links.of(at);
                let picked = self.documents.random.pick(&connections).copied();
                picked.map_or(Ok(()), |connection| self.reconcile(at, connection))
            }
        }
    }

    /// A node's process has started, or is gone.
    pub(super) fn documents_up(&mut self, place: usize, up: bool) {
        let reached = self.documents.random.percent(50);
        let Some(site) = self.documents.sites.get_mut(place) else { return };
        if up { site.start() } else { site.crash(reached) }
    }

    /// A connection stands: the lower of the two nodes reconciles at once.
    pub(super) fn documents_opened(
        &mut self,
        at: usize,
        from: usize,
        connection: ConnectionId,
    ) -> Result<(), Violation> {
        if let Some(site) = self.documents.sites.get_mut(at) {
            site.connection_ended(|talk| talk.peer == from && talk.connection != connection);
        }
        if at < from { self.reconcile(at, connection) } else { Ok(()) }
    }

    /// A node sees that a connection has ended.
    pub(super) fn documents_closed(&mut self, at: usize, connection: ConnectionId) {
        if let Some(site) = self.documents.sites.get_mut(at) {
            site.connection_ended(|talk| talk.connection == connection);
        }
    }

    /// Whether all nodes hold the same, as far as it can be told at a glance.
    pub(super) fn documents_agree(&self) -> bool {
        agreement::is_reached(&self.documents.sites)
    }

    /// All nodes hold the same: whether they, and fresh replicas, make the same of it.
    pub(super) fn documents_check(&mut self) -> Result<(), Violation> {
        let Documents { sites, acknowledged, random, coverage, .. } = &mut self.documents;
        let checked = agreement::check(sites, acknowledged, random);
        let equivocators = checked.map_err(|(rule, detail)| Violation { at_ms: self.now_ms, rule, detail })?;
        coverage.hit("agreements checked");
        coverage.add("equivocators in agreements", equivocators as u64);
        Ok(())
    }

    fn somebody_signs(&mut self) {
        if self.now_ms >= self.faults_ms {
            return;
        }
        let later_ms = self.documents.random.within(400..7_500);
        self.after(later_ms, Event::Documents(News::Signs));
        let nodes = self.documents.sites.len();
        if !self.faults_are_on() {
            return;
        }
        let Documents { sites, authors, random, coverage, .. } = &mut self.documents;
        let place = random.within(0..nodes as u64) as usize;
        // As in production, nothing is prepared on top of what is not durable.
        let idle = sites.get_mut(place).and_then(|site| site.process.as_mut()).filter(|process| process.is_idle());
        let Some(process) = idle else { return };
        let signed = authors.sign(place, &mut process.replica, random, coverage);
        self.note("signed", &(place, signed.iter().map(SignedChange::hash).collect::<Vec<_>>()));
        for (number, change) in signed.into_iter().enumerate() {
            let random = &mut self.documents.random;
            let elsewhere = number > 0 || random.percent(12);
            let at = if elsewhere { random.within(0..nodes as u64) as usize } else { place };
            let later_ms = random.within(0..600);
            if elsewhere {
                self.documents.coverage.hit("changes brought to another node");
            }
            self.after(later_ms, Event::Documents(News::Submits { at, change }));
        }
    }

    fn letter_arrives(
        &mut self,
        from: usize,
        to: usize,
        connection: ConnectionId,
        letter: Letter,
    ) -> Result<(), Violation> {
        let stands = !self.links.is_broken(connection);
        match letter {
            Letter::Gossip(change) if self.links.arrives(connection, from, self.now_ms) => {
                self.at_site(to, |site, outs| site.gossiped(from, change, outs))
            }
            Letter::Sync { talk, message } if stands => {
                self.at_site(to, |site, outs| site.hears((from, connection), talk, message, outs))
            }
            Letter::Cut { talk } if stands => self.at_site(to, |site, _| site.talk_cut(talk)),
            Letter::Gossip(_) | Letter::Sync { .. } | Letter::Cut { .. } => {
                self.documents.coverage.hit("letters lost with their connection");
                Ok(())
            }
        }
    }

    fn reconcile(&mut self, at: usize, connection: ConnectionId) -> Result<(), Violation> {
        let Some(peer) = self.links.other(connection, at) else { return Ok(()) };
        self.documents.last_talk += 1;
        let talk = self.documents.last_talk;
        self.at_site(at, |site, outs| site.begin_talk(talk, peer, connection, outs))
    }

    /// Something happens to the documents of a node, and what follows leaves it.
    fn at_site(&mut self, place: usize, what: impl FnOnce(&mut Site<F>, &mut Vec<Out>)) -> Result<(), Violation> {
        let Some(site) = self.documents.sites.get_mut(place) else { return Ok(()) };
        let mut outs = Vec::new();
        what(site, &mut outs);
        outs.into_iter().try_for_each(|out| self.leaves(place, out))
    }

    fn leaves(&mut self, place: usize, out: Out) -> Result<(), Violation> {
        let broken =
            |rule, detail| Err(Violation { at_ms: self.now_ms, rule, detail: format!("node {place}: {detail}") });
        match out {
            Out::Commit { life } => self.commit(place, life),
            Out::Acknowledged(hash) => {
                let durable = self.documents.sites.get(place).map(|site| &site.journal);
                if durable.is_none_or(|journal| !journal.iter().rev().any(|change| change.hash() == hash)) {
                    return broken("a change is durable before it is acknowledged", format!("{hash:?}"));
                }
                self.note("acknowledged", &(place, hash));
                self.documents.acknowledged.insert(hash);
            }
            Out::Publish { changes, except } => {
                for connection in self.links.of(place) {
                    let to = self.links.other(connection, place).filter(|to| except != Some(*to));
                    let told = to.map_or(&[][..], |_| &changes);
                    told.iter().for_each(|change| self.gossip(place, connection, change));
                }
            }
            Out::Say { connection, letter } => self.post(place, connection, letter, 0),
            Out::Accuses { peer, of } => {
                return broken("no honest node says what is refused", format!("of node {peer}: {of}"));
            }
        }
        Ok(())
    }

    /// A commit takes as long as the disk of that node does.
    fn commit(&mut self, at: usize, life: u64) {
        let random = &mut self.documents.random;
        let slow_ms = if random.percent(20) { random.within(10..1_000) } else { random.within(0..4) };
        let stall_ms = self.worlds.get(at).map_or(0, |world| world.fsync_stall_ms);
        let at_ms = (self.now_ms + slow_ms).max(stall_ms);
        self.at(at_ms, Event::Documents(News::Committed { at, life }));
    }

    fn gossip(&mut self, from: usize, connection: ConnectionId, change: &SignedChange) {
        let Documents { random, coverage, .. } = &mut self.documents;
        let copies = match random.within(0..100) {
            0..25 => {
                coverage.hit("gossip lost");
                0
            }
            25..35 => {
                coverage.hit("gossip delivered twice");
                2
            }
            _ => 1,
        };
        for _ in 0..copies {
            let random = &mut self.documents.random;
            let later_ms = if random.percent(15) { random.within(1..8_000) } else { 0 };
            self.post(from, connection, Letter::Gossip(change.clone()), later_ms);
        }
    }

    /// Sends a letter, which arrives so much later than the link takes.
    fn post(&mut self, from: usize, connection: ConnectionId, letter: Letter, later_ms: u64) {
        let Some(to) = self.links.other(connection, from) else { return };
        match self.links.send(connection, from, self.now_ms, &mut self.documents.random) {
            Some(at_ms) => {
                self.at(at_ms + later_ms, Event::Documents(News::Arrives { from, to, connection, letter }));
            }
            None => self.documents.coverage.hit("letters lost with their connection"),
        }
    }
}
