//! What the documents say, by id and by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use shoal_crdt::{Facts, Object};
use shoal_kernel::Input;
use shoal_protocol::ObjectId;
use shoal_protocol::change::DocumentClass;
use shoal_protocol::object::function::Function;
use shoal_protocol::object::project::Project;
use shoal_protocol::object::user::User;

/// The documents that are not deleted, and whose all are.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    /// Of every document, the deleted ones included: what somebody wrote by their right does not go with it.
    owners: BTreeMap<ObjectId, (DocumentClass, ObjectId)>,
    facts: BTreeMap<ObjectId, Arc<Facts>>,
    /// Class, name, owner, id. Of two with the same owner and name the lower id has the name.
    names: BTreeSet<(DocumentClass, String, ObjectId, ObjectId)>,
}

impl Directory {
    /// Sets or removes what a document says.
    pub(super) fn set(&mut self, id: ObjectId, facts: Option<Arc<Facts>>) {
        let key = |facts: &Facts| (facts.class(), facts.name().to_owned(), facts.owner(), id);
        if let Some(former) = self.facts.remove(&id) {
            self.names.remove(&key(&former));
        }
        match &facts {
            Some(facts) => self.owners.insert(id, (facts.class(), facts.owner())),
            None => self.owners.remove(&id),
        };
        if let Some(facts) = facts.filter(|facts| !facts.deleted) {
            self.names.insert(key(&facts));
            self.facts.insert(id, facts);
        }
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// One document.
    pub(crate) fn get(&self, id: ObjectId) -> Option<&Arc<Facts>> {
        self.facts.get(&id)
    }

    /// The class and the owner of a document, also of a deleted one. Neither ever changes.
    pub(crate) fn owner(&self, id: ObjectId) -> Option<(DocumentClass, ObjectId)> {
        self.owners.get(&id).copied()
    }

    /// The documents of a class, by rising id, after `after`.
    pub(crate) fn of_class(&self, class: DocumentClass, after: Option<ObjectId>) -> impl Iterator<Item = &Arc<Facts>> {
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        let range = self.facts.range((start, std::ops::Bound::Unbounded));
        range.map(|(_, facts)| facts).filter(move |facts| facts.class() == class)
    }

    /// The documents of this class and name, of all owners.
    pub(crate) fn named(&self, class: DocumentClass, name: &str) -> impl Iterator<Item = &Arc<Facts>> {
        let start = (class, name.to_owned(), ObjectId::MIN, ObjectId::MIN);
        let end = (class, name.to_owned(), ObjectId::MAX, ObjectId::MAX);
        let mut last = None;
        self.names.range(start..=end).filter_map(move |(_, _, owner, id)| {
            let first = last.replace(*owner) != Some(*owner);
            self.facts.get(id).filter(|_| first)
        })
    }

    /// The document of this class, name and owner.
    pub(crate) fn owned(&self, class: DocumentClass, name: &str, owner: ObjectId) -> Option<&Arc<Facts>> {
        self.named(class, name).find(|facts| facts.owner() == owner)
    }

    /// A user.
    pub(crate) fn user(&self, id: ObjectId) -> Option<&User> {
        match &self.facts.get(&id)?.object {
            Object::User(user) => Some(user),
            _ => None,
        }
    }

    /// A project.
    pub(crate) fn project(&self, id: ObjectId) -> Option<&Project> {
        match &self.facts.get(&id)?.object {
            Object::Project { project } => Some(project),
            _ => None,
        }
    }

    /// A function.
    pub(crate) fn function(&self, id: ObjectId) -> Option<&Function> {
        match &self.facts.get(&id)?.object {
            Object::Function { function, .. } => Some(function),
            _ => None,
        }
    }

    /// All that the kernel has to know of.
    pub(super) fn inputs(&self) -> Vec<Input> {
        self.facts.values().filter_map(|facts| input(facts)).collect()
    }
}

/// A document as the kernel hears of it.
pub(super) fn input(facts: &Facts) -> Option<Input> {
    match (&facts.object, facts.deleted) {
        (Object::User(_), _) => None,
        (Object::Project { project }, false) => Some(Input::Project(Box::new(project.clone()))),
        (Object::Project { project }, true) => Some(Input::ProjectGone(project.id)),
        (Object::Function { function, .. }, false) => Some(Input::Function(Box::new(function.clone()))),
        (Object::Function { function, .. }, true) => Some(Input::FunctionGone(function.id)),
    }
}
