//! Which object a text means.

use shoal_crdt::Facts;
use shoal_protocol::change::DocumentClass;
use shoal_protocol::object::Class;
use shoal_protocol::{Kind, ObjectId, Problem};
use std::sync::Arc;

use super::{Caller, Service};

/// The class of documents that a class of objects is.
pub(super) fn document_class(class: Class) -> Option<DocumentClass> {
    match class {
        Class::User => Some(DocumentClass::User),
        Class::Project => Some(DocumentClass::Project),
        Class::Function => Some(DocumentClass::Function),
        _ => None,
    }
}

/// An id in a path.
pub(super) fn id(class: Class, text: &str) -> Result<ObjectId, Problem> {
    text.parse().map_err(|error| Problem::new(Kind::InvalidId, format!("{text:?} is no id of a {class}: {error}")))
}

pub(super) fn not_found(class: Class, text: &str) -> Problem {
    Problem::new(Kind::NotFound, format!("there is no {class} {text:?} here, or none that you may see"))
}

impl Service {
    /// A document by its id, by its name, or by `owner/name`. A plain name means the caller's own before others'.
    pub(super) fn document(&self, caller: &Caller, class: Class, text: &str) -> Result<Arc<Facts>, Problem> {
        let kind = document_class(class).ok_or_else(|| not_found(class, text))?;
        let directory = self.0.documents.directory();
        if let Ok(id) = text.parse::<ObjectId>() {
            let found = directory.get(id).filter(|facts| facts.class() == kind);
            return found.cloned().ok_or_else(|| not_found(class, text));
        }
        if let Some((owner, name)) = text.split_once('/') {
            let owner = match owner.parse() {
                Ok(id) => Some(id),
                Err(_) => directory.named(DocumentClass::User, owner).next().map(|user| user.id()),
            };
            let found = owner.and_then(|owner| directory.owned(kind, name, owner));
            return found.cloned().ok_or_else(|| not_found(class, text));
        }
        let own = caller.principal.user.and_then(|user| directory.owned(kind, text, user));
        if let Some(own) = own {
            return Ok(own.clone());
        }
        let mut others = directory.named(kind, text);
        match (others.next(), others.next()) {
            (None, _) => Err(not_found(class, text)),
            (Some(only), None) => Ok(only.clone()),
            (Some(_), Some(_)) => Err(Problem::new(
                Kind::Conflict,
                format!("several users have a {class} {text:?}: say whose, as owner/{text}, or give its id"),
            )),
        }
    }
}
