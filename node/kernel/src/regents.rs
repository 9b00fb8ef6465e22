//! Who acts for which home: what this node knows of it, has voted for, and claims itself.
//!
//! Invariant: in one term this node votes for one regent of a set at most, and that is written before anybody hears of it.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::regency::{Regent, SignedVote};
use shoal_protocol::{NodeId, ObjectId};

use crate::input::{Principal, RequestId};
use crate::record::Reign;

/// Jobs that are taken over in one step. Why 64: a few milliseconds of reading, and then
/// others have their turn.
pub(crate) const TAKE_LEN: usize = 64;

/// A custodian claims a set so much later than the one before it in the set, in milliseconds. Why 10 s: two that claim at once
/// have one vote each, and neither has a majority before one gives way.
pub(crate) const CLAIM_STEP_MS: u64 = 10_000;

/// A home and the number of a set of it.
pub(crate) type Realm = (NodeId, u32);

/// A claim of this node.
#[derive(Debug)]
pub(crate) struct Claim {
    pub(crate) regent: Regent,
    /// Members that have voted for it, this node among them.
    pub(crate) voters: BTreeSet<NodeId>,
    /// The votes of the others.
    pub(crate) votes: Vec<SignedVote>,
}

/// The regent of a set, as far as it is known.
#[derive(Debug)]
pub(crate) struct Known {
    /// For whom this node has voted last, or of whom it has heard: the highest term.
    pub(crate) last: Regent,
    /// Who acts. A claim of a later term that comes to nothing takes nothing from that.
    pub(crate) acting: Option<Reign>,
    /// Its home has been there since, so that jobs which come later are not of this reign.
    pub(crate) over: bool,
    /// Jobs are on their way out of the store, to be taken over.
    pub(crate) taking: bool,
    /// Jobs that are left to their home, and why.
    pub(crate) left: BTreeMap<ObjectId, Left>,
    /// Those of them that somebody wants to have ended, and are on their way out of the store.
    pub(crate) given_up: Vec<GivenUp>,
}

/// Why a regent leaves a job to its home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    /// Its last allowed run was under way.
    LastRun,
    /// It waits for whoever runs it.
    WaitsForRun,
    /// It never runs twice, and may have begun.
    Once,
    /// It waits for jobs that are not kept here.
    Earlier,
    /// Its function is not known here.
    Function,
}

/// A job that is to end although only its home knows what became of it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct GivenUp {
    pub(crate) job: ObjectId,
    pub(crate) request: RequestId,
    pub(crate) principal: Principal,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Regents {
    known: BTreeMap<Realm, Known>,
    claims: BTreeMap<Realm, Claim>,
}

impl Regents {
    pub(crate) fn get(&self, realm: Realm) -> Option<&Known> {
        self.known.get(&realm)
    }

    pub(crate) fn get_mut(&mut self, realm: Realm) -> Option<&mut Known> {
        self.known.get_mut(&realm)
    }

    /// The highest term of which this node knows.
    pub(crate) fn term(&self, realm: Realm) -> u32 {
        self.get(realm).map_or(0, |known| known.last.term)
    }

    /// What is true of a set from now on.
    pub(crate) fn put(&mut self, reign: Reign, over: bool) {
        let realm = (reign.regent.home, reign.regent.set);
        let regent = reign.regent;
        let known = self.known.entry(realm).or_insert_with(|| Known {
            last: regent,
            acting: None,
            over,
            taking: false,
            left: BTreeMap::new(),
            given_up: Vec::new(),
        });
        if known.last.term <= regent.term {
            known.last = regent;
        }
        if reign.acts && known.acting.as_ref().is_none_or(|acting| acting.regent.term <= regent.term) {
            known.acting = Some(reign);
            (known.over, known.taking) = (over, false);
            known.left.clear();
        }
    }

    /// A home is there: who acts for it takes nothing more over.
    pub(crate) fn home_is_there(&mut self, home: NodeId) {
        self.claims.retain(|(claimed, _), _| *claimed != home);
        for known in self.of_home(home) {
            known.over = true;
        }
    }

    fn of_home(&mut self, home: NodeId) -> impl Iterator<Item = &mut Known> {
        self.known.range_mut((home, 0)..=(home, u32::MAX)).map(|(_, known)| known)
    }

    /// The sets of which a node acts as regent.
    pub(crate) fn acts_for(&self, regent: NodeId) -> Vec<Realm> {
        let acts = self
            .known
            .iter()
            .filter(|(_, known)| known.acting.as_ref().is_some_and(|acting| acting.regent.regent == regent));
        acts.map(|(realm, _)| *realm).collect()
    }

    pub(crate) fn claim(&self, realm: Realm) -> Option<&Claim> {
        self.claims.get(&realm)
    }

    pub(crate) fn claim_mut(&mut self, realm: Realm) -> Option<&mut Claim> {
        self.claims.get_mut(&realm)
    }

    pub(crate) fn begin_claim(&mut self, realm: Realm, regent: Regent) {
        let voters = BTreeSet::from([regent.regent]);
        self.claims.insert(realm, Claim { regent, voters, votes: Vec::new() });
    }

    pub(crate) fn end_claim(&mut self, realm: Realm) -> Option<Claim> {
        self.claims.remove(&realm)
    }
}
