//! Which changes count: a pure function of the set of changes.
//!
//! The rule for now: an owner may change what they own. A user owns themself; a project or function is owned by the
//! user in whose name the counting founding change was made, and that never changes. Roles in projects, sharing and
//! revocation are further rules for [`judge`]; none of them is anticipated here.
//!
//! Who signs for a user: every key that a counting change of the user's document has ever listed, as the user's own
//! or as a node's. A key once listed keeps counting, because leaving out the changes after a removal needs the heads
//! that the removal accepts, and those are not part of a change yet. So the rule only ever adds signers as changes
//! arrive, and two replicas with the same changes know the same ones. Within the user's own document the listing
//! must be in the past of the change; across documents there is no common past, so any listing counts.

use std::collections::BTreeSet;

use shoal_protocol::ObjectId;
use shoal_protocol::change::DocumentClass;
use shoal_protocol::key::PublicKey;

use crate::history::{History, Place};
use crate::schema;

/// Why a change does not count. It stands in the history without its operations, and may come to count when changes
/// arrive that it did not know.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum Reason {
    /// Another change of the same author with the same number has the lower hash, or this one continues such a loser.
    #[error("another change of the same author with the same number counts instead")]
    Equivocation,
    /// The document's founding change does not count, or is not in this change's past.
    #[error("the document is not founded by a change that counts")]
    NotFounded,
    /// The user in whose name it is made is not known here.
    #[error("the user {0} is not known")]
    UnknownUser(ObjectId),
    /// The author's key is none that signs for the user.
    #[error("the key {author} does not sign for the user {user}")]
    NotSigner {
        /// Whose change it says it is.
        user: ObjectId,
        /// Who signed it.
        author: PublicKey,
    },
    /// The user may not change this document.
    #[error("the user {0} does not own the document")]
    NotOwner(ObjectId),
    /// The document would break its schema as a whole.
    #[error("{0}")]
    Schema(schema::Error),
    /// Automerge could not derive it. This is a fault of ours, and the same at every node.
    #[error("the change could not be derived: {0}")]
    Underivable(String),
}

impl Reason {
    /// Whether it is judged here, of rights and chains, and not of the document's content.
    pub(crate) fn is_of_rights(&self) -> bool {
        !matches!(self, Self::Schema(_) | Self::Underivable(_))
    }
}

/// Judges the change at `place`, given for each change before it whether it counts.
///
/// `signers` are the keys that sign for a user, by what all documents of the replica say.
pub(crate) fn judge<'a>(
    document: ObjectId,
    history: &History,
    place: Place,
    counts: impl Fn(Place) -> bool,
    signers: impl Fn(ObjectId) -> Option<&'a BTreeSet<PublicKey>>,
) -> Result<(), Reason> {
    if !history.is_winner(place) {
        return Err(Reason::Equivocation);
    }
    let founding = history.founding().ok_or(Reason::NotFounded)?;
    if place != founding && !(history.descends_from(place, founding) && counts(founding)) {
        return Err(Reason::NotFounded);
    }
    let (Some(entry), Some(first)) = (history.entry(place), history.entry(founding)) else {
        return Err(Reason::NotFounded);
    };
    let not_signer = || Reason::NotSigner { user: entry.user, author: entry.author };
    if first.class == DocumentClass::User {
        if entry.user != document {
            return Err(Reason::NotOwner(entry.user));
        }
        // A founding change lists its author, or it would have been refused.
        if place == founding || listed_in_past(history, place, &entry.author, counts) {
            return Ok(());
        }
        return Err(not_signer());
    }
    if entry.user != first.user {
        return Err(Reason::NotOwner(entry.user));
    }
    match signers(entry.user) {
        None => Err(Reason::UnknownUser(entry.user)),
        Some(keys) if keys.contains(&entry.author) => Ok(()),
        Some(_) => Err(not_signer()),
    }
}

/// Whether a counting change in the past of `place` lists the key.
fn listed_in_past(history: &History, place: Place, key: &PublicKey, counts: impl Fn(Place) -> bool) -> bool {
    let listing =
        |(at, entry): (Place, &crate::history::Entry)| (entry.lists.contains(key) && counts(at)).then_some(at);
    let places: Vec<Place> = history.entries().enumerate().take(place).filter_map(listing).collect();
    history.past_holds_any(place, &places)
}

/// The keys that sign for the user of this document: those that its counting changes list.
pub(crate) fn signers_of(history: &History, counts: impl Fn(Place) -> bool) -> BTreeSet<PublicKey> {
    if !matches!(history.founded(), Some((DocumentClass::User, _))) {
        return BTreeSet::new();
    }
    let counting = history.entries().enumerate().filter(|(place, _)| counts(*place));
    counting.flat_map(|(_, entry)| entry.lists.iter().copied()).collect()
}
