//! Names of documents that are not deleted.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::ObjectId;
use shoal_protocol::change::DocumentClass;

use crate::facts::Facts;

/// Who has which name. Users have no owner: their names are of the whole mesh.
#[derive(Debug, Default)]
pub(super) struct Names(BTreeMap<Key, BTreeSet<ObjectId>>);

/// Class, name, owner: all of one name stand together.
type Key = (DocumentClass, String, Option<ObjectId>);

impl Names {
    /// The lowest id of this name: ids sort by time, so it is the document that was founded first.
    pub(super) fn find(&self, class: DocumentClass, owner: Option<ObjectId>, name: &str) -> Option<ObjectId> {
        self.0.get(&(class, name.to_owned(), owner)).and_then(|ids| ids.first().copied())
    }

    /// The lowest id of this name for each owner.
    pub(super) fn find_all(&self, class: DocumentClass, name: &str) -> impl Iterator<Item = ObjectId> {
        let from = (class, name.to_owned(), None);
        let to = (class, name.to_owned(), Some(ObjectId::MAX));
        self.0.range(from..=to).filter_map(|(_, ids)| ids.first().copied())
    }

    /// Moves a document from what it was called to what it is called.
    pub(super) fn replace(&mut self, before: Option<&Facts>, after: Option<&Facts>) {
        if let Some((key, id)) = before.and_then(entry) {
            let empty = self.0.get_mut(&key).is_some_and(|ids| {
                ids.remove(&id);
                ids.is_empty()
            });
            if empty {
                self.0.remove(&key);
            }
        }
        if let Some((key, id)) = after.and_then(entry) {
            self.0.entry(key).or_default().insert(id);
        }
    }
}

fn entry(facts: &Facts) -> Option<(Key, ObjectId)> {
    let owner = (facts.class() != DocumentClass::User).then(|| facts.owner());
    (!facts.deleted).then(|| ((facts.class(), facts.name().to_owned(), owner), facts.id()))
}
