//! What is asked of an entry that a peer has sent, before anything is looked up of its key. Cheapest first.

use shoal_kernel::kv;
use shoal_protocol::change::DocumentClass;
use shoal_protocol::entry::{self, Content, Entry, SignedEntry};
use shoal_protocol::key::{PublicKey, Purpose};
use shoal_protocol::wire::sync::ITEM_LEN_MAX;

use super::standing::Named;
use crate::documents::Directory;

/// Why an entry is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unfit {
    /// No honest node passes it on.
    #[error("{0}")]
    Refused(String),
    /// An honest node may have it, and it is of no use here, or not yet.
    #[error("{0}")]
    Idle(&'static str),
}

/// Reads and checks an entry for this mesh.
///
/// Whose right it was written by is told as far as it can be: who owns the namespace never changes, so every node that
/// knows the owner's document says the same. That the node which signed was asked to by the author, or ran the job that
/// it names, cannot be told from an entry: here the nodes of a mesh trust each other.
pub(super) fn check(mesh: &PublicKey, directory: &Directory, signed: SignedEntry) -> Result<Named, Unfit> {
    let refused = |why: &str| Unfit::Refused(why.to_owned());
    if signed.bytes.len() > ITEM_LEN_MAX {
        return Err(refused("the entry is too long"));
    }
    let named = Named::read(signed).map_err(|error| Unfit::Refused(format!("the bytes are no entry: {error}")))?;
    let entry = &named.entry;
    if entry.version != entry::VERSION {
        return Err(Unfit::Idle("the entry is of a version that this node does not read"));
    }
    if entry.mesh != *mesh {
        return Err(refused("the entry is for another mesh"));
    }
    check_form(entry)?;
    check_right(entry, directory)?;
    if !PublicKey::from(entry.node).verify(Purpose::Entry, &named.signed.bytes, &named.signed.signature) {
        return Err(refused("the signature is not that of the entry's node"));
    }
    Ok(named)
}

fn check_form(entry: &Entry) -> Result<(), Unfit> {
    let value = match &entry.content {
        Content::Value(value) => kv::check_value(value),
        Content::Tombstone | Content::Total { .. } => Ok(()),
    };
    kv::check_key(&entry.key).and(value).map_err(|problem| Unfit::Refused(problem.to_string()))?;
    if entry.counter == 0 {
        return Err(Unfit::Refused("counters begin with 1".into()));
    }
    Ok(())
}

/// As for this node's callers: the namespace's owner writes there, and whoever may run a function lets its guest write
/// in the namespaces that the function's owner has opened to it.
fn check_right(entry: &Entry, directory: &Directory) -> Result<(), Unfit> {
    let (_, owner) = directory.owner(entry.namespace).ok_or(Unfit::Idle("the namespace is not known here"))?;
    match (entry.job, directory.owner(entry.author)) {
        (_, None) => Err(Unfit::Idle("the author is not known here")),
        (_, Some((class, _))) if class != DocumentClass::User => Err(Unfit::Refused("the author is no user".into())),
        (None, Some(_)) if entry.author != owner => {
            Err(Unfit::Refused("the namespace is not its author's, and no job has written it".into()))
        }
        (None | Some(_), Some(_)) => Ok(()),
    }
}
