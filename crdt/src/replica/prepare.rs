//! Changes to be signed: the right number, the right dependencies, and an answer beforehand whether it would count.

use shoal_protocol::ObjectId;
use shoal_protocol::change::{self, Change, ChangeHash, DocumentClass, Operation};
use shoal_protocol::key::PublicKey;
use shoal_protocol::{Kind, Problem, codec};

use super::Replica;
use super::document::Document;
use crate::check::{self, Refused};
use crate::faults::Faults;
use crate::rights::Reason;
use crate::{schema, wanted};

/// A change that somebody wants to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// The document; one that is not known is founded.
    pub document: ObjectId,
    /// Its class.
    pub class: DocumentClass,
    /// In whose name.
    pub user: ObjectId,
    /// Whose key will sign it.
    pub author: PublicKey,
    /// What it does.
    pub operations: Vec<Operation>,
}

/// Why a change cannot be prepared.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotPrepared {
    /// Every node would refuse it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// It would not count.
    #[error("the change would not count: {0}")]
    WouldNotCount(Reason),
}

impl From<&NotPrepared> for Problem {
    fn from(error: &NotPrepared) -> Self {
        match error {
            NotPrepared::Refused(Refused::Schema { error, .. }) => Self::new(Kind::InvalidField, error.to_string()),
            NotPrepared::Refused(refused) => Self::from(refused),
            NotPrepared::WouldNotCount(Reason::Schema(error)) => Self::new(Kind::InvalidField, error.to_string()),
            NotPrepared::WouldNotCount(Reason::Equivocation | Reason::NotFounded | Reason::Underivable(_)) => {
                Self::new(Kind::ChangeRefused, error.to_string())
            }
            NotPrepared::WouldNotCount(_) => Self::new(Kind::Forbidden, error.to_string()),
        }
    }
}

impl<F: Faults> Replica<F> {
    /// The number of the author's next change of a document, and what it depends on: the changes that count and
    /// that nothing else which counts depends on, and the author's own last one.
    pub fn next(&self, author: &PublicKey, document: ObjectId) -> (u64, Vec<ChangeHash>) {
        match self.documents.get(&document) {
            Some(document) => document.history.next(author, |place| document.counts(place)),
            None => (1, Vec::new()),
        }
    }

    /// Makes the change that does what is wanted, ready to be signed by its author. A founding change gets what it
    /// must say by itself: the owner, or the author's key.
    ///
    /// # Errors
    /// Says why every node would refuse the change or not count it, by what this replica knows.
    pub fn prepare(&mut self, wanted: Wanted) -> Result<Change, NotPrepared> {
        let Wanted { document, class, user, author, operations } = wanted;
        let (sequence, deps) = self.next(&author, document);
        let mesh = self.mesh;
        let mut change =
            Change { version: change::VERSION, mesh, document, class, user, author, sequence, deps, operations };
        if change.deps.is_empty() {
            complete_founding(&mut change);
        }
        check::structure(&change)?;
        let len = codec::encode(&change).len();
        if len > shoal_protocol::limits::CHANGE_LEN_MAX {
            return Err(Refused::TooLong { len }.into());
        }
        self.check_right(&change)?;
        let mut state = self.open(document).map(|derived| derived.state().clone()).unwrap_or_default();
        state.apply(&change.operations);
        schema::check_document(class, &state).map_err(|error| NotPrepared::WouldNotCount(Reason::Schema(error)))?;
        Ok(change)
    }

    /// Whether the change will have the right, by what the replica holds.
    fn check_right(&self, change: &Change) -> Result<(), NotPrepared> {
        let would_not = |reason| Err(NotPrepared::WouldNotCount(reason));
        let owner = match self.documents.get(&change.document) {
            None => change.user,
            Some(document) => {
                let Some((class, owner)) = document.history.founded().filter(|_| document.facts().is_some()) else {
                    return would_not(Reason::NotFounded);
                };
                if class != change.class {
                    return Err(Refused::Chain("its class is not that of the document").into());
                }
                if class == DocumentClass::User { change.document } else { owner }
            }
        };
        if change.user != owner {
            return would_not(Reason::NotOwner(change.user));
        }
        if change.deps.is_empty() && change.class == DocumentClass::User {
            return Ok(());
        }
        match self.documents.get(&owner).and_then(Document::signers) {
            None => would_not(Reason::UnknownUser(owner)),
            Some(keys) if keys.contains(&change.author) => Ok(()),
            Some(_) => would_not(Reason::NotSigner { user: owner, author: change.author }),
        }
    }
}

/// Adds the owner, or the author's key, where the operations do not say it yet.
fn complete_founding(change: &mut Change) {
    if change.class == DocumentClass::User {
        if !check::listed(change).contains(&change.author) {
            change.operations.push(wanted::key(&change.author, ""));
        }
        return;
    }
    let owner = wanted::owner(change.user);
    if !change.operations.contains(&owner) {
        change.operations.push(owner);
    }
}
