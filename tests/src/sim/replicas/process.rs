//! One life of the thread that owns a node's replica: what it holds in memory, and how it takes a batch.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use shoal_crdt::reconcile::{Index, Stored};
use shoal_crdt::{Applied, Outcome, Refused, Replica};
use shoal_protocol::change::{ChangeHash, SignedChange};

use super::talks::Talk;
use super::{TalkId, mesh_key};
use crate::sim::coverage::Coverage;
use crate::sim::mutations::Bugs;

/// How changes came to a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Origin {
    /// A client brought it.
    Client,
    /// This peer gossiped it.
    Gossip(usize),
    /// This session with a peer brought them.
    Sync(usize, TalkId),
}

/// What the thread is asked to take.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) origin: Origin,
    pub(super) changes: Vec<SignedChange>,
}

/// What was taken of an ask, and is not durable yet.
#[derive(Debug)]
pub(super) struct Commit {
    pub(super) ask: Ask,
    pub(super) accepted: Vec<SignedChange>,
    pub(super) stored: Stored,
    /// The client's change, which counts.
    pub(super) counted: Option<ChangeHash>,
    /// Why the first of those was refused that no honest node passes on.
    pub(super) refused: Option<Refused>,
}

/// One life of a node's documents.
#[derive(Debug)]
pub(crate) struct Process<F> {
    pub(super) life: u64,
    pub(crate) replica: Replica<F>,
    /// Of what is durable.
    pub(crate) index: Index,
    pub(super) asks: VecDeque<Ask>,
    pub(super) commit: Option<Commit>,
    /// What was gossiped to or by this node: gossip drops what it has had.
    pub(super) heard: BTreeSet<ChangeHash>,
    pub(super) talks: BTreeMap<TalkId, Talk<F>>,
}

impl<F: Bugs> Process<F> {
    /// Replica and index from what is durable.
    pub(super) fn start(life: u64, journal: &[SignedChange]) -> Self {
        let mut process = Self {
            life,
            replica: Replica::with_faults(mesh_key()),
            index: Index::new(),
            asks: VecDeque::new(),
            commit: None,
            heard: BTreeSet::new(),
            talks: BTreeMap::new(),
        };
        process.rebuild(journal);
        process
    }

    pub(super) fn rebuild(&mut self, journal: &[SignedChange]) {
        self.replica = Replica::with_faults(mesh_key());
        self.index = Index::new();
        for (place, change) in (0..).zip(journal) {
            if self.replica.apply(change).is_ok() {
                self.index.insert(place, change.hash().into());
            }
        }
    }

    /// Whether nothing waits here: what the replica holds is durable.
    pub(crate) fn is_idle(&self) -> bool {
        self.commit.is_none() && self.asks.is_empty()
    }

    /// What a crash would lose.
    pub(super) fn has_pending(&self) -> bool {
        !self.is_idle() || self.replica.held_back() > 0
    }

    /// Hands a batch to the replica.
    pub(super) fn take(&mut self, ask: Ask, coverage: &mut Coverage) -> Commit {
        let mut commit = Commit { accepted: Vec::new(), stored: Stored::default(), counted: None, refused: None, ask };
        for change in &commit.ask.changes {
            match self.replica.apply(change) {
                Ok(Applied { outcome: Outcome::Duplicate, .. }) => commit.stored.idle += 1,
                Ok(Applied { outcome: Outcome::HeldBack { .. }, .. }) => {
                    commit.stored.held += 1;
                    coverage.hit("changes held back");
                }
                Ok(applied) => {
                    commit.stored.taken += 1;
                    commit.accepted.extend(applied.accepted);
                    match applied.outcome {
                        Outcome::Counted => {
                            commit.counted = (commit.ask.origin == Origin::Client).then(|| change.hash());
                        }
                        Outcome::DoesNotCount(_) | Outcome::Duplicate | Outcome::HeldBack { .. } => {
                            coverage.hit("changes that do not count");
                        }
                    }
                }
                Err(Refused::Full { .. } | Refused::Equivocates { .. }) => commit.stored.idle += 1,
                Err(refused) => {
                    commit.stored.refused += 1;
                    commit.refused.get_or_insert(refused);
                }
            }
        }
        commit
    }
}
