//! What users, projects and functions have in common: somebody signs a change, the documents take it.
//!
//! Whoever has a key signs themselves: `prepare` gives them the change, `apply` takes it signed. For those who have
//! none, or leave it to the node, the node signs if their user document names it.

use std::collections::{BTreeMap, BTreeSet};

use shoal_crdt::{Facts, Object, Wanted};
use shoal_protocol::change::{Change, DocumentClass, Operation, Scalar};
use shoal_protocol::id::IdSource;
use shoal_protocol::key::PublicKey;
use shoal_protocol::object::Class;
use shoal_protocol::object::user::{Apply, Prepared};
use shoal_protocol::{BlobId, Kind, ObjectId, Problem, codec};

use super::answer::{Answer, Body, Format};
use super::{Caller, Service, target};
use crate::runtime::now;

/// What shall be written, before it is known who signs.
pub(super) struct Draft {
    /// The document; none: a new one.
    pub(super) document: Option<ObjectId>,
    pub(super) class: DocumentClass,
    pub(super) operations: Vec<Operation>,
    /// What it will refer to: held until the change is durable.
    pub(super) held: Vec<shoal_blobs::Held>,
}

impl Draft {
    /// A draft that refers to no blob.
    pub(super) fn new(class: DocumentClass, document: Option<ObjectId>, operations: Vec<Operation>) -> Self {
        Self { document, class, operations, held: Vec::new() }
    }
}

impl Service {
    /// Signs a draft in the caller's name and takes it. The document's id.
    pub(super) async fn sign(&self, caller: &Caller, mut draft: Draft) -> Result<ObjectId, Problem> {
        let held = std::mem::take(&mut draft.held);
        let key = self.0.identity.node.clone();
        let user = self.author_of(caller, &draft)?;
        let new_user = draft.document.is_none() && draft.class == DocumentClass::User;
        if !new_user {
            self.check_signs_for(user)?;
        }
        let wanted = wanted(draft, user, key.public());
        let document = wanted.document;
        self.0.documents.sign(wanted, key).await?;
        drop(held);
        Ok(document)
    }

    /// In whose name a draft is: a new user founds themselves, everything else is the caller's.
    fn author_of(&self, caller: &Caller, draft: &Draft) -> Result<Option<ObjectId>, Problem> {
        let user = caller.user()?;
        match (draft.class, draft.document) {
            (DocumentClass::User, None) => {
                if !caller.principal.operator {
                    return Err(Problem::new(Kind::Forbidden, "only an operator of this node adds users"));
                }
                Ok(None)
            }
            // The operator of a node stands in for the users that the node signs for.
            (DocumentClass::User, Some(document)) if caller.principal.operator => Ok(Some(document)),
            _ => Ok(Some(user)),
        }
    }

    /// Whether this node may sign for a user.
    fn check_signs_for(&self, user: Option<ObjectId>) -> Result<(), Problem> {
        let node = self.0.identity.node_id();
        let directory = self.0.documents.directory();
        let facts = user.and_then(|user| directory.user(user));
        let may = facts.is_some_and(|user| user.nodes.contains(&node) || user.keys.contains_key(&node.into()));
        if may {
            return Ok(());
        }
        Err(Problem::new(
            Kind::Forbidden,
            "this node may not sign for you: sign the change yourself, with the methods prepare and apply (the command line does)",
        ))
    }

    /// Method `prepare`: the change that would do what the body says, for the caller to sign with `author`.
    pub(super) async fn prepare(
        &self,
        caller: &Caller,
        class: Class,
        object: &str,
        query: &BTreeMap<String, String>,
        body: Body,
    ) -> Result<Answer, Problem> {
        let author = query.get("author").ok_or_else(|| {
            Problem::new(
                Kind::InvalidQuery,
                "prepare takes the parameter author: the public key that will sign, in hexadecimal",
            )
        })?;
        let author: PublicKey =
            author.parse().map_err(|error| Problem::new(Kind::InvalidQuery, format!("author: {error}")))?;
        let new = object == "new";
        let draft = match class {
            Class::User if new => self.draft_user(&body)?,
            Class::Project if new => self.draft_project(&body)?,
            Class::Function if new => self.draft_function(caller, &body).await?,
            _ => {
                let facts = self.document(caller, class, object)?;
                self.draft_patch(&facts, &body)?
            }
        };
        if draft.document.is_some() && draft.operations.is_empty() {
            let detail = format!("the {class} is as the body says already: there is nothing to sign");
            return Err(Problem::new(Kind::NothingToChange, detail));
        }
        let user = self.author_of(caller, &draft)?;
        let change = self.0.documents.prepare(wanted(draft, user, author)).await?;
        let prepared = Prepared { document: change.document, bytes: codec::encode(&change).into() };
        Answer::new(200, body.format, &prepared)
    }

    /// Method `apply`: takes a signed change. The signature says in whose name; the token only opens the door.
    pub(super) async fn apply(
        &self,
        caller: &Caller,
        class: Class,
        object: &str,
        body: Body,
    ) -> Result<Answer, Problem> {
        caller.user()?;
        let Apply { change: signed } = body.read()?;
        let change: Change = signed
            .decode()
            .map_err(|error| Problem::new(Kind::ChangeRefused, format!("the change cannot be read: {error}")))?;
        if Some(change.class) != target::document_class(class) {
            return Err(Problem::new(Kind::ChangeRefused, format!("the change is not one of a {class}")));
        }
        if object != "new" && object.parse() != Ok(change.document) {
            return Err(Problem::new(
                Kind::ChangeRefused,
                format!("the change is of document {}, not of {object}", change.document),
            ));
        }
        let founds = change.class == DocumentClass::User && change.deps.is_empty();
        if founds && !caller.principal.operator {
            return Err(Problem::new(Kind::Forbidden, "only an operator of this node adds users"));
        }
        let mut held = Vec::new();
        for component in components(&change.operations) {
            held.extend(self.hold_blob(component).await?);
        }
        self.0.documents.apply(signed).await?;
        drop(held);
        self.answer_document(200, body.format, change.document)
    }

    /// A document as its readers see it.
    pub(super) fn answer_document(&self, status: u16, format: Format, id: ObjectId) -> Result<Answer, Problem> {
        let facts = self.0.documents.directory().get(id).cloned();
        match facts.as_ref().map(|facts| &facts.object) {
            Some(Object::User(user)) => Answer::object(status, format, user),
            Some(Object::Project { project }) => Answer::object(status, format, project),
            Some(Object::Function { function, .. }) => Answer::object(status, format, function),
            // It was deleted by this very change.
            None => Ok(Answer::done()),
        }
    }

    /// Changes an existing document in the caller's name.
    pub(super) async fn change(
        &self,
        caller: &Caller,
        facts: &Facts,
        operations: Vec<Operation>,
        format: Format,
    ) -> Result<Answer, Problem> {
        caller.user()?;
        let (document, class) = (facts.id(), facts.class());
        if !operations.is_empty() {
            self.sign(caller, Draft::new(class, Some(document), operations)).await?;
        }
        self.answer_document(200, format, document)
    }

    pub(super) async fn delete_document(&self, caller: &Caller, class: Class, object: &str) -> Result<Answer, Problem> {
        let facts = self.document(caller, class, object)?;
        if Some(facts.id()) == caller.principal.user {
            return Err(Problem::new(Kind::Conflict, "you cannot delete yourself: another operator can"));
        }
        self.change(caller, &facts, vec![shoal_crdt::wanted::deleted(true)], Format::Cbor).await?;
        Ok(Answer::done())
    }

    fn draft_patch(&self, facts: &Facts, body: &Body) -> Result<Draft, Problem> {
        let operations = match &facts.object {
            Object::User(user) => super::user::patch(user, body)?,
            Object::Project { project } => super::project::patch(project, body)?,
            Object::Function { function, .. } => super::function::patch(function, body)?,
        };
        Ok(Draft::new(facts.class(), Some(facts.id()), operations))
    }
}

/// The code that a change makes its document refer to.
fn components(operations: &[Operation]) -> BTreeSet<BlobId> {
    let texts = operations.iter().filter_map(|operation| match operation {
        Operation::Put { path, value } => match (path.first()?.as_str(), path.get(1), value) {
            ("versions", Some(component), _) | ("current", None, Scalar::Text(component)) => Some(component),
            _ => None,
        },
        Operation::Delete { .. } | Operation::Add { .. } => None,
    });
    texts.filter_map(|text| text.parse().ok()).collect()
}

/// A new document gets an id that its signer may mint.
fn wanted(draft: Draft, user: Option<ObjectId>, author: PublicKey) -> Wanted {
    let Draft { document, class, operations, held: _ } = draft;
    let document = document.unwrap_or_else(|| mint(&author));
    Wanted { document, class, user: user.unwrap_or(document), author, operations }
}

/// The sequence is drawn: other nodes mint for the same author without asking this one.
fn mint(author: &PublicKey) -> ObjectId {
    let mut drawn = [0; 2];
    // Without entropy two documents founded in the same millisecond collide, and the second is refused: nothing is lost.
    let _ = getrandom::fill(&mut drawn);
    let millis = now().wall_ms;
    let start = ObjectId::from_parts(millis, u16::from_be_bytes(drawn), author.tag());
    IdSource::new(author, Some(start)).mint(millis)
}
