//! What is asked of a change by itself, before anything is known of its document.
//!
//! The answer depends on the bytes and the mesh alone, so a change that is refused here is refused everywhere and
//! leaves no trace. Cheapest first: nothing is decoded that is too large, nothing is verified that is not for this
//! mesh, and nothing but the bytes as received is verified.

use std::collections::BTreeSet;

use shoal_protocol::change::{self, Change, ChangeHash, DocumentClass, Operation, Scalar, SignedChange};
use shoal_protocol::key::{PublicKey, Purpose};
use shoal_protocol::limits::{CHANGE_DEPS_MAX, CHANGE_LEN_MAX, CHANGE_OPERATIONS_MAX};
use shoal_protocol::{Kind, ObjectId, Problem};

use crate::schema;

/// Why a change is refused. It leaves no trace in the replica.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Above [`CHANGE_LEN_MAX`].
    #[error("the change has {len} bytes, at most {CHANGE_LEN_MAX}")]
    TooLong {
        /// Its length, in bytes.
        len: usize,
    },
    /// The bytes are no change.
    #[error("the bytes are no change: {0}")]
    Malformed(String),
    /// A version of the format that is not known here.
    #[error("the change is of version {version}, this node reads version {}", change::VERSION)]
    Version {
        /// Its version.
        version: u8,
    },
    /// Made for another mesh.
    #[error("the change is for the mesh {theirs}, this is {ours}")]
    Mesh {
        /// The mesh that it names.
        theirs: PublicKey,
        /// This mesh.
        ours: PublicKey,
    },
    /// Not signed by the author that it names.
    #[error("the signature is not {author}'s over these bytes")]
    Signature {
        /// Who is said to have signed it.
        author: PublicKey,
    },
    /// Numbers, dependencies or operations out of form.
    #[error("the change is out of form: {0}")]
    Structure(&'static str),
    /// The id of a founded document does not carry the tag of its author's key.
    #[error("{document} cannot be founded by {author}: its last 64 bits are not the tag of that key")]
    NotMinted {
        /// The document.
        document: ObjectId,
        /// Who signed.
        author: PublicKey,
    },
    /// An operation does not fit the class.
    #[error("operation {index}: {error}")]
    Schema {
        /// The operation, counted from 0.
        index: usize,
        /// What is wrong with it.
        error: schema::Error,
    },
    /// It does not continue the changes that it depends on.
    #[error("the change breaks its chain: {0}")]
    Chain(&'static str),
    /// The author has left too many changes of equal number in this document.
    #[error("{author} has signed too many changes of equal number in this document")]
    Equivocates {
        /// Who signed.
        author: PublicKey,
    },
    /// The document or the replica takes no more.
    #[error("{what} is full: at most {max}")]
    Full {
        /// What is full.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
}

impl From<&Refused> for Problem {
    fn from(refused: &Refused) -> Self {
        let kind = match refused {
            Refused::TooLong { .. } => Kind::TooLarge,
            Refused::Malformed(_) => Kind::Malformed,
            Refused::Full { .. } => Kind::Full,
            _ => Kind::ChangeRefused,
        };
        Self::new(kind, refused.to_string())
    }
}

/// A change that has passed every check that needs no document.
#[derive(Debug, Clone)]
pub(crate) struct Checked {
    pub(crate) hash: ChangeHash,
    pub(crate) change: Change,
    pub(crate) signed: SignedChange,
}

/// Decodes and checks a change for this mesh. `known` says that exactly this signature over exactly these bytes has
/// been verified before.
pub(crate) fn check(
    mesh: &PublicKey,
    signed: &SignedChange,
    known: impl FnOnce(ObjectId, ChangeHash) -> bool,
) -> Result<Checked, Refused> {
    if signed.bytes.len() > CHANGE_LEN_MAX {
        return Err(Refused::TooLong { len: signed.bytes.len() });
    }
    let change = signed.decode().map_err(|error| Refused::Malformed(error.to_string()))?;
    if change.version != change::VERSION {
        return Err(Refused::Version { version: change.version });
    }
    if change.mesh != *mesh {
        return Err(Refused::Mesh { theirs: change.mesh, ours: *mesh });
    }
    let hash = signed.hash();
    if !known(change.document, hash) {
        if !change.author.verify(Purpose::Change, &signed.bytes, &signed.signature) {
            return Err(Refused::Signature { author: change.author });
        }
        structure(&change)?;
    }
    Ok(Checked { hash, change, signed: signed.clone() })
}

/// Checks everything about an unsigned change that can be told without its document.
pub(crate) fn structure(change: &Change) -> Result<(), Refused> {
    if change.sequence == 0 {
        return Err(Refused::Structure("its number is 0; an author's first change has number 1"));
    }
    if change.deps.len() > CHANGE_DEPS_MAX {
        return Err(Refused::Structure("it depends on too many changes"));
    }
    if !change.deps.is_sorted_by(|a, b| a < b) {
        return Err(Refused::Structure("its dependencies are not sorted, or stand there twice"));
    }
    if change.operations.is_empty() {
        return Err(Refused::Structure("it has no operations"));
    }
    if change.operations.len() > CHANGE_OPERATIONS_MAX {
        return Err(Refused::Structure("it has too many operations"));
    }
    let founding = change.deps.is_empty();
    for (index, operation) in change.operations.iter().enumerate() {
        schema::check_operation(change.class, operation, founding).map_err(|error| Refused::Schema { index, error })?;
    }
    if founding { check_founding(change) } else { Ok(()) }
}

/// A change without dependencies founds its document: it is its author's first, the id is its author's, and it says
/// whose the document is.
fn check_founding(change: &Change) -> Result<(), Refused> {
    if change.sequence != 1 {
        return Err(Refused::Structure("it depends on nothing, but is not its author's first"));
    }
    if !change.document.minted_by(&change.author) {
        return Err(Refused::NotMinted { document: change.document, author: change.author });
    }
    if change.class == DocumentClass::User {
        if change.user != change.document {
            return Err(Refused::Structure("a user is founded in their own name"));
        }
        if !listed(change).contains(&change.author) {
            return Err(Refused::Structure("it founds a user but does not list its author's key"));
        }
        return Ok(());
    }
    let owner = Scalar::Text(change.user.to_string());
    let mut owners = change.operations.iter().filter_map(|operation| match operation {
        Operation::Put { path, value } if path.first().is_some_and(|word| word == "owner") => Some(value),
        _ => None,
    });
    if owners.next() == Some(&owner) && owners.all(|value| *value == owner) {
        Ok(())
    } else {
        Err(Refused::Structure("the owner is not the user in whose name the document is founded"))
    }
}

/// The keys that a change adds to those that may sign for a user: the user's own, and nodes'.
pub(crate) fn listed(change: &Change) -> BTreeSet<PublicKey> {
    if change.class != DocumentClass::User {
        return BTreeSet::new();
    }
    let key = |operation: &Operation| match operation {
        Operation::Put { path, value } => match (path.as_slice(), value) {
            ([collection, key], Scalar::Text(_)) if collection == "keys" => key.parse().ok(),
            ([collection, key], Scalar::Bool(true)) if collection == "nodes" => key.parse().ok(),
            _ => None,
        },
        Operation::Delete { .. } | Operation::Add { .. } => None,
    };
    change.operations.iter().filter_map(key).collect()
}
