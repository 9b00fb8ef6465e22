//! Plain objects out of documents: what the rest of the node sees.
//!
//! A document that counts for its parts can still, after concurrent changes, break a rule as a whole: two islands
//! each add the last label that fits, or each delete the version that the other one runs. What is read here always
//! has a plain meaning, the same at every node, and the next change sets it right.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::change::{ChangeHash, DocumentClass};
use shoal_protocol::limits::LABELS_MAX;
use shoal_protocol::name::Labels;
use shoal_protocol::object::function::{Function, Grant, Needs, RunLimits, Version};
use shoal_protocol::object::project::{Project, Quota, WEIGHT_USUAL};
use shoal_protocol::object::user::User;
use shoal_protocol::{BlobId, NodeId, ObjectId};

use crate::schema::State;
use crate::schema::limits::VERSION_NUMBER_MAX;

/// What a document says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// The object as its readers see it.
    pub object: Object,
    /// Its owner has deleted it: it is out of lists and has no name any more, its history stays.
    pub deleted: bool,
}

/// An object of one of the classes that are documents.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A user.
    User(User),
    /// A project.
    Project {
        /// What everybody sees.
        project: Project,
    },
    /// A function.
    Function {
        /// What those see who may run it.
        function: Function,
        /// Notes on versions, by component.
        notes: BTreeMap<BlobId, String>,
    },
}

impl Facts {
    /// The id.
    pub fn id(&self) -> ObjectId {
        match &self.object {
            Object::User(user) => user.id,
            Object::Project { project } => project.id,
            Object::Function { function, .. } => function.id,
        }
    }

    /// The class.
    pub fn class(&self) -> DocumentClass {
        match &self.object {
            Object::User(_) => DocumentClass::User,
            Object::Project { .. } => DocumentClass::Project,
            Object::Function { .. } => DocumentClass::Function,
        }
    }

    /// The name.
    pub fn name(&self) -> &str {
        match &self.object {
            Object::User(user) => &user.name,
            Object::Project { project } => &project.name,
            Object::Function { function, .. } => &function.name,
        }
    }

    /// The owner; users own themselves.
    pub fn owner(&self) -> ObjectId {
        match &self.object {
            Object::User(user) => user.id,
            Object::Project { project } => project.owner,
            Object::Function { function, .. } => function.owner,
        }
    }

    /// What the next change has to follow: the frontier of the changes that count.
    pub fn heads(&self) -> &[ChangeHash] {
        match &self.object {
            Object::User(user) => &user.heads,
            Object::Project { project } => &project.heads,
            Object::Function { function, .. } => &function.heads,
        }
    }
}

/// Reads the object of this class. None: the document has no name yet, so nothing of it counts.
pub(crate) fn read(
    id: ObjectId,
    class: DocumentClass,
    owner: ObjectId,
    heads: Vec<ChangeHash>,
    state: &State,
) -> Option<Facts> {
    let name = state.text(&["name"])?.to_owned();
    let labels = labels(state, &["labels"]);
    let object = match class {
        DocumentClass::User => {
            let nodes = trues(state, &["nodes"]).filter_map(|node| node.parse::<NodeId>().ok()).collect();
            Object::User(User { id, name, keys: texts(state, &["keys"]), nodes, labels, heads })
        }
        DocumentClass::Project => {
            let weight = number(state, &["weight"]).unwrap_or(WEIGHT_USUAL);
            let members = texts(state, &["members"]);
            let project = Project { id, name, owner, members, labels, weight, quota: quota(state), usage: None, heads };
            Object::Project { project }
        }
        DocumentClass::Function => function(id, name, owner, labels, heads, state)?,
    };
    Some(Facts { object, deleted: state.is_true(&["deleted"]) })
}

fn function(
    id: ObjectId,
    name: String,
    owner: ObjectId,
    labels: Labels,
    heads: Vec<ChangeHash>,
    state: &State,
) -> Option<Object> {
    let versions = versions(state);
    let chosen: BlobId = state.text(&["current"])?.parse().ok()?;
    // Two islands can each delete the version that the other one runs: then the newest that is left runs.
    let known = versions.iter().any(|version| version.component == chosen);
    let current = versions.last().filter(|_| !known).map_or(chosen, |version| version.component);
    let notes = versions.iter().filter_map(|version| {
        let note = state.text(&["versions", &version.component.to_string(), "note"])?;
        Some((version.component, note.to_owned()))
    });
    let notes = notes.collect();
    let function = Function {
        id,
        name,
        owner,
        project: state.text(&["project"]).and_then(|project| project.parse().ok()),
        description: state.text(&["description"]).unwrap_or_default().to_owned(),
        current,
        needs: Needs {
            memory_mb: number(state, &["needs", "memory_mb"]),
            labels: self::labels(state, &["needs", "labels"]),
            capabilities: trues(state, &["needs", "capabilities"]).take(LABELS_MAX).collect(),
        },
        limits: RunLimits {
            run_ms: number(state, &["limits", "run_ms"]),
            output_bytes: number(state, &["limits", "output_bytes"]),
            attempts: number(state, &["limits", "attempts"]),
            queue_ms: number(state, &["limits", "queue_ms"]),
            total_ms: number(state, &["limits", "total_ms"]),
        },
        grants: grants(state),
        labels,
        heads,
        versions,
    };
    Some(Object::Function { function, notes })
}

/// The versions by number, then by component. A number is what the deploying change gave; where islands gave the
/// same one, the later in this order moves up by one, and so do those that it then meets.
fn versions(state: &State) -> Vec<Version> {
    let read = |component: &str| {
        let given = state.int(&["versions", component, "number"]).unwrap_or(VERSION_NUMBER_MAX);
        let size: u64 = number(state, &["versions", component, "size"])?;
        Some((given, component.parse::<BlobId>().ok()?, size))
    };
    let mut given: Vec<(i64, BlobId, u64)> =
        state.children(&["versions".to_owned()]).into_iter().filter_map(read).collect();
    given.sort_unstable();
    let mut next = 1;
    let mut numbered = |(given, component, size): (i64, BlobId, u64)| {
        let number = u32::try_from(given).unwrap_or(u32::MAX).max(next);
        next = number.saturating_add(1);
        Version { number, component, size }
    };
    given.into_iter().map(&mut numbered).collect()
}

fn quota(state: &State) -> Quota {
    let limit = |what| number(state, &["quota", what]);
    Quota { queued: limit("queued"), running: limit("running"), rate: limit("rate"), storage: limit("storage") }
}

fn grants(state: &State) -> BTreeSet<Grant> {
    Grant::ALL.into_iter().filter(|grant| state.is_true(&["grants", grant.text()])).collect()
}

fn labels(state: &State, collection: &[&str]) -> Labels {
    texts(state, collection).into_iter().take(LABELS_MAX).collect()
}

/// The entries of a collection of texts.
fn texts<K: std::str::FromStr + Ord>(state: &State, collection: &[&str]) -> BTreeMap<K, String> {
    let text = |entry: &str| Some((entry.parse().ok()?, state.text(&below(collection, entry))?.to_owned()));
    children(state, collection).iter().filter_map(|entry| text(entry)).collect()
}

/// The entries of a collection at which true stands.
fn trues<'a>(state: &'a State, collection: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    children(state, collection).into_iter().filter(move |entry| state.is_true(&below(collection, entry)))
}

fn children(state: &State, collection: &[&str]) -> Vec<String> {
    let path: Vec<String> = collection.iter().map(|&word| word.to_owned()).collect();
    state.children(&path).into_iter().map(str::to_owned).collect()
}

fn below<'a>(collection: &[&'a str], entry: &'a str) -> Vec<&'a str> {
    collection.iter().copied().chain([entry]).collect()
}

fn number<N: TryFrom<i64>>(state: &State, path: &[&str]) -> Option<N> {
    state.int(path).and_then(|number| N::try_from(number).ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::change::{Operation, Scalar};

    fn with_versions(given: &[(u8, i64)]) -> State {
        let mut state = State::default();
        for &(byte, number) in given {
            let component = BlobId([byte; 32]).to_string();
            let put = |part: &str, value| Operation::Put {
                path: vec!["versions".to_owned(), component.clone(), part.to_owned()],
                value: Scalar::Int(value),
            };
            state.apply(&[put("number", number), put("size", 10)]);
        }
        state
    }

    #[test]
    fn versions_of_equal_number_move_up_in_a_fixed_order() {
        let state = with_versions(&[(9, 1), (7, 3), (5, 3), (6, 4), (1, 20)]);
        let numbers: Vec<(u32, u8)> = versions(&state).iter().map(|v| (v.number, v.component.0[0])).collect();
        assert_eq!(numbers, [(1, 9), (3, 5), (4, 7), (5, 6), (20, 1)]);
    }

    #[test]
    fn a_function_whose_version_was_deleted_runs_the_newest_that_is_left() {
        let mut state = with_versions(&[(1, 1), (2, 2)]);
        let gone = BlobId([3; 32]).to_string();
        for (path, text) in [("name", "f"), ("current", &gone)] {
            state.apply(&[Operation::Put { path: vec![path.to_owned()], value: Scalar::Text(text.to_owned()) }]);
        }
        let facts = read(ObjectId::MIN, DocumentClass::Function, ObjectId::MIN, Vec::new(), &state).expect("a name");
        let Object::Function { function, .. } = facts.object else { panic!("no function") };
        assert_eq!(function.current, BlobId([2; 32]));
    }
}
