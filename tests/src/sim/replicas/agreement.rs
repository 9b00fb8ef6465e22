//! What replicas must agree on once everybody has heard everything.

use std::collections::{BTreeMap, BTreeSet};

use shoal_crdt::{Facts, Reason, Replica};
use shoal_protocol::ObjectId;
use shoal_protocol::change::{ChangeHash, SignedChange};
use shoal_protocol::key::PublicKey;

use super::mesh_key;
use super::site::Site;
use crate::sim::checks::Broken;
use crate::sim::mutations::Bugs;
use crate::sim::random::Random;

/// The rule that nodes which reach each other come to hold the same.
pub(crate) const SAME_CHANGES: &str = "nodes that reach each other hold the same changes";
/// The rule that what documents say depends on the set of changes alone.
const SAME_DOCUMENTS: &str = "the same changes make the same documents";
/// The rule that a client is told the truth.
pub(crate) const NEVER_LOST: &str = "an acknowledged change is never lost";

/// All that a replica says of one document.
#[derive(Debug, PartialEq, Eq)]
struct Said {
    heads: Vec<ChangeHash>,
    facts: Option<Facts>,
    derived: Vec<[u8; 32]>,
    verdicts: BTreeMap<ChangeHash, Option<Result<(), Reason>>>,
}

/// All that a replica says.
#[derive(Debug, PartialEq, Eq)]
struct View {
    documents: BTreeMap<ObjectId, Said>,
    equivocators: BTreeSet<(ObjectId, PublicKey)>,
    held_back: usize,
    digest: [u8; 32],
}

impl View {
    fn of<F: Bugs>(replica: &mut Replica<F>) -> Self {
        let ids: Vec<ObjectId> = replica.ids().collect();
        let documents = ids.into_iter().map(|id| {
            let hashes: Vec<ChangeHash> = replica.changes(id).map(SignedChange::hash).collect();
            let verdicts = hashes.into_iter().map(|hash| (hash, replica.verdict(id, &hash).cloned())).collect();
            let (heads, facts) = (replica.heads(id), replica.document(id).cloned());
            (id, Said { heads, facts, verdicts, derived: replica.derived_heads(id) })
        });
        Self {
            documents: documents.collect(),
            equivocators: replica.equivocators().collect(),
            held_back: replica.held_back(),
            digest: replica.digest(),
        }
    }

    fn of_changes<F: Bugs>(changes: &[SignedChange]) -> Self {
        let mut replica = Replica::<F>::with_faults(mesh_key());
        // What is refused is missing from the digest.
        changes.iter().for_each(|change| drop(replica.apply(change)));
        Self::of(&mut replica)
    }

    /// The first document of which two replicas say something else.
    fn difference(&self, other: &Self) -> String {
        let differs = |id: &&ObjectId| self.documents.get(*id) != other.documents.get(*id);
        match self.documents.keys().chain(other.documents.keys()).find(differs) {
            Some(id) => format!("{id}: {:?} and {:?}", self.documents.get(id), other.documents.get(id)),
            None => format!("held back {} and {}", self.held_back, other.held_back),
        }
    }
}

/// Whether all nodes are up, have nothing left to do, and hold the same, as far as their indexes say.
pub(crate) fn is_reached<F: Bugs>(sites: &[Site<F>]) -> bool {
    let Some(first) = sites.first().and_then(|site| site.process.as_ref()).map(|process| process.index.root()) else {
        return false;
    };
    let holds = |site: &Site<F>| {
        site.process.as_ref().is_some_and(|process| process.is_idle() && process.index.root() == first)
    };
    sites.iter().all(holds)
}

/// Every node holds the same changes, on disk and in memory; they make the same documents at every node, and in replicas
/// that get them in the order of their hashes, and in any other. Answers with how many equivocated.
pub(crate) fn check<F: Bugs>(
    sites: &mut [Site<F>],
    acknowledged: &BTreeSet<ChangeHash>,
    random: &mut Random,
) -> Result<usize, Broken> {
    let by_hash = |site: &Site<F>| -> BTreeMap<ChangeHash, SignedChange> {
        site.journal.iter().map(|change| (change.hash(), change.clone())).collect()
    };
    let Some(all) = sites.first().map(by_hash) else { return Ok(0) };
    if let Some(place) = sites.iter().position(|site| !by_hash(site).keys().eq(all.keys())) {
        return Err((SAME_CHANGES, format!("the journal of node {place} is not that of node 0")));
    }
    if let Some(hash) = acknowledged.iter().find(|hash| !all.contains_key(hash)) {
        return Err((NEVER_LOST, format!("{hash:?}")));
    }
    let mut changes: Vec<SignedChange> = all.into_values().collect();
    let sorted = View::of_changes::<F>(&changes);
    for at in (1..changes.len()).rev() {
        changes.swap(at, random.within(0..at as u64 + 1) as usize);
    }
    let shuffled = View::of_changes::<F>(&changes);
    if shuffled != sorted {
        return Err((SAME_DOCUMENTS, format!("two orders make {}", sorted.difference(&shuffled))));
    }
    for (place, site) in sites.iter_mut().enumerate() {
        let Some(process) = &mut site.process else { continue };
        let view = View::of(&mut process.replica);
        if view != sorted {
            return Err((SAME_DOCUMENTS, format!("node {place} and a fresh replica say {}", view.difference(&sorted))));
        }
    }
    Ok(sorted.equivocators.len())
}
