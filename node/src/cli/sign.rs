//! Writing documents: the node prepares a change, this reads it, and signs it if it says what was asked for and nothing
//! else.
//!
//! What always holds: nothing is signed that this machine has not read; what the node may fill in by itself is named by
//! the command, all else must be exactly what the command means.

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_client::Client;
use shoal_client::document::NEW;
use shoal_protocol::change::{self, Change, DocumentClass, Operation, SignedChange};
use shoal_protocol::key::{PublicKey, Purpose};
use shoal_protocol::limits::CHANGE_LEN_MAX;
use shoal_protocol::object::Class;
use shoal_protocol::object::user::Prepared;
use shoal_protocol::{ObjectId, codec};

use super::key::Signer;

/// What a command wants to write.
pub(crate) struct Intent {
    /// The class.
    pub(crate) class: DocumentClass,
    /// The document; none: a new one.
    pub(crate) document: Option<ObjectId>,
    /// Whether the body is what makes a new object, not a merge patch: a deployment may be either of a new function or of
    /// one that exists.
    pub(crate) made: bool,
    /// What the change does, all of it.
    pub(crate) operations: Vec<Operation>,
    /// Fields that the node fills in by itself, such as the number of a version.
    pub(crate) filled_in: &'static [&'static str],
}

/// Lets the node prepare the change for `body`, checks it against the intent, signs it and hands it back. Returns the
/// document as it then stands.
pub(crate) async fn write<T: DeserializeOwned>(
    client: &Client,
    signer: &Signer,
    intent: &Intent,
    body: &impl Serialize,
) -> Result<T, shoal_client::Error> {
    let class = object_class(intent.class);
    let author = signer.key.public();
    let patched = intent.document.filter(|_| !intent.made);
    let object = patched.map_or_else(|| NEW.to_owned(), |id| id.to_string());
    let mesh = client.node().await?.mesh.key;
    let prepared = client.prepare(class, object, &author, body).await?;
    let expected = Expected { mesh, user: signer.user, author };
    check(&prepared, &expected, intent).map_err(|why| {
        shoal_client::Error::Protocol(format!(
            "the change that it prepared is not what was asked for ({why}), it was not signed"
        ))
    })?;
    let signature = signer.key.sign(Purpose::Change, &prepared.bytes);
    client.apply(class, prepared.document, SignedChange { bytes: prepared.bytes, signature }).await
}

/// What every change of this signer says.
struct Expected {
    mesh: PublicKey,
    user: ObjectId,
    author: PublicKey,
}

fn check(prepared: &Prepared, expected: &Expected, intent: &Intent) -> Result<(), String> {
    if prepared.bytes.len() > CHANGE_LEN_MAX {
        return Err(format!("it has {} bytes, at most {CHANGE_LEN_MAX}", prepared.bytes.len()));
    }
    let change: Change = codec::decode(&prepared.bytes).map_err(|error| error.to_string())?;
    let right = |holds: bool, what: &str| if holds { Ok(()) } else { Err(what.to_owned()) };
    right(change.version == change::VERSION, "it has another version")?;
    right(change.mesh == expected.mesh, "it is for another mesh")?;
    right(change.class == intent.class, "it is of another class")?;
    right(change.user == expected.user, "it is in another name")?;
    right(change.author == expected.author, "it is for another key")?;
    right(change.document == prepared.document, "it is of another document")?;
    match intent.document {
        Some(document) => {
            right(change.document == document, "it is of another document")?;
            right(!change.deps.is_empty(), "it founds a document anew")?;
        }
        None => {
            right(change.deps.is_empty() && change.sequence == 1, "it does not found a new document")?;
            right(change.document.minted_by(&expected.author), "its document's id is not this key's")?;
        }
    }
    let filled_in =
        |operation: &Operation| path(operation).first().is_some_and(|word| intent.filled_in.contains(&word.as_str()));
    for operation in &change.operations {
        right(intent.operations.contains(operation) || filled_in(operation), &format!("it also does {operation:?}"))?;
    }
    for operation in &intent.operations {
        right(change.operations.contains(operation), &format!("it does not do {operation:?}"))?;
    }
    Ok(())
}

/// Where an operation writes.
pub(crate) fn path(operation: &Operation) -> &[String] {
    match operation {
        Operation::Put { path, .. } | Operation::Delete { path } | Operation::Add { path, .. } => path,
    }
}

fn object_class(class: DocumentClass) -> Class {
    match class {
        DocumentClass::User => Class::User,
        DocumentClass::Project => Class::Project,
        DocumentClass::Function => Class::Function,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_crdt::wanted;
    use shoal_protocol::BlobId;
    use shoal_protocol::change::ChangeHash;
    use shoal_protocol::key::SecretKey;

    fn key() -> SecretKey {
        SecretKey::from_bytes([5; 32])
    }

    fn expected() -> Expected {
        Expected { mesh: PublicKey([9; 32]), user: ObjectId::from_parts(1, 1, [1; 8]), author: key().public() }
    }

    fn intent(document: Option<ObjectId>) -> Intent {
        let owner = wanted::owner(expected().user);
        let operations = if document.is_none() { vec![wanted::name("f"), owner] } else { vec![wanted::name("f")] };
        let filled_in = &["versions", "current"];
        Intent { class: DocumentClass::Function, document, made: true, operations, filled_in }
    }

    fn good(intent: &Intent) -> Change {
        let Expected { mesh, user, author } = expected();
        let founding = intent.document.is_none();
        let minted = ObjectId::from_parts(3, 3, author.tag());
        let mut operations = intent.operations.clone();
        operations.push(wanted::current(BlobId([1; 32])));
        Change {
            version: change::VERSION,
            mesh,
            document: intent.document.unwrap_or(minted),
            class: DocumentClass::Function,
            user,
            author,
            sequence: 1,
            deps: if founding { vec![] } else { vec![ChangeHash(BlobId([4; 32]))] },
            operations,
        }
    }

    fn verdict(change: &Change, intent: &Intent) -> Result<(), String> {
        let prepared = Prepared { document: change.document, bytes: codec::encode(change).into() };
        check(&prepared, &expected(), intent)
    }

    #[test]
    fn what_was_asked_for_is_signed() {
        for document in [None, Some(ObjectId::from_parts(7, 7, [7; 8]))] {
            let intent = intent(document);
            assert_eq!(verdict(&good(&intent), &intent), Ok(()));
        }
    }

    #[test]
    fn anything_else_is_not() {
        type Bend = fn(&mut Change);
        let bends: [(&str, Bend); 11] = [
            ("version", |c| c.version = 2),
            ("mesh", |c| c.mesh = PublicKey([8; 32])),
            ("class", |c| c.class = DocumentClass::User),
            ("user", |c| c.user = ObjectId::MAX),
            ("author", |c| c.author = PublicKey([8; 32])),
            ("document", |c| c.document = ObjectId::MAX),
            ("founding", |c| c.deps = if c.deps.is_empty() { vec![ChangeHash(BlobId([6; 32]))] } else { vec![] }),
            ("one operation more", |c| c.operations.push(wanted::deleted(true))),
            ("an owner", |c| c.operations.push(wanted::owner(ObjectId::MAX))),
            ("one operation less", |c| drop(c.operations.remove(0))),
            ("another value", |c| {
                c.operations.remove(0);
                c.operations.push(wanted::name("g"));
            }),
        ];
        for document in [None, Some(ObjectId::from_parts(7, 7, [7; 8]))] {
            let intent = intent(document);
            for (what, bend) in &bends {
                let mut change = good(&intent);
                bend(&mut change);
                assert!(verdict(&change, &intent).is_err(), "{what}");
            }
            let change = good(&intent);
            let elsewhere = Prepared { document: ObjectId::MIN, bytes: codec::encode(&change).into() };
            assert!(check(&elsewhere, &expected(), &intent).is_err());
            let mut bytes = codec::encode(&change);
            bytes.push(0);
            let longer = Prepared { document: change.document, bytes: bytes.into() };
            assert!(check(&longer, &expected(), &intent).is_err());
        }
    }
}
