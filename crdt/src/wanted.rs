//! The operations that make and change objects: what a node or a client puts into a change, field by field.
//!
//! They write the same paths that the schema knows; [`crate::Replica::prepare`] makes a change from them.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::change::{Operation, Scalar};
use shoal_protocol::key::PublicKey;
use shoal_protocol::name::Labels;
use shoal_protocol::object::function::{Function, Grant, Needs, NewFunction, RunLimits};
use shoal_protocol::object::project::Quota;
use shoal_protocol::{BlobId, NodeId, ObjectId};

use crate::schema::limits::VERSIONS_MAX;

/// Puts a value at a path.
pub fn put(path: &[&str], value: Scalar) -> Operation {
    Operation::Put { path: path.iter().map(|&word| word.to_owned()).collect(), value }
}

/// Deletes what stands at a path, with all below it.
pub fn delete(path: &[&str]) -> Operation {
    Operation::Delete { path: path.iter().map(|&word| word.to_owned()).collect() }
}

fn text(value: impl Into<String>) -> Scalar {
    Scalar::Text(value.into())
}

/// A number as documents hold it; above `i64::MAX` is above every bound of the schema too.
fn int(value: impl TryInto<i64>) -> Scalar {
    Scalar::Int(value.try_into().unwrap_or(i64::MAX))
}

/// Sets the name of any object.
pub fn name(name: &str) -> Operation {
    put(&["name"], text(name))
}

/// Marks any object as deleted, or takes that back.
pub fn deleted(deleted: bool) -> Operation {
    put(&["deleted"], Scalar::Bool(deleted))
}

/// Makes the labels of any object these: what is in `before` and not in `after` is deleted.
pub fn labels(before: &Labels, after: &Labels) -> Vec<Operation> {
    replace_texts(&["labels"], before, after)
}

/// Lists a key of a user, with a note of where it lives.
pub fn key(key: &PublicKey, note: &str) -> Operation {
    put(&["keys", &key.to_string()], text(note))
}

/// Takes a key from a user's document. Changes that it signed keep counting, see `rights`.
pub fn remove_key(key: &PublicKey) -> Operation {
    delete(&["keys", &key.to_string()])
}

/// Lets a node sign for a user.
pub fn node(node: &NodeId) -> Operation {
    put(&["nodes", &node.to_string()], Scalar::Bool(true))
}

/// Takes a node from a user's document.
pub fn remove_node(node: &NodeId) -> Operation {
    delete(&["nodes", &node.to_string()])
}

/// Gives a user a role in a project.
pub fn member(user: ObjectId, role: &str) -> Operation {
    put(&["members", &user.to_string()], text(role))
}

/// Takes a user out of a project.
pub fn remove_member(user: ObjectId) -> Operation {
    delete(&["members", &user.to_string()])
}

/// Sets a project's share where projects compete.
pub fn weight(weight: u32) -> Operation {
    put(&["weight"], int(weight))
}

/// Makes a project's quota this.
pub fn quota(before: &Quota, after: &Quota) -> Vec<Operation> {
    let mut operations = Vec::new();
    operations.extend(replace_int(&["quota", "queued"], before.queued, after.queued));
    operations.extend(replace_int(&["quota", "running"], before.running, after.running));
    operations.extend(replace_int(&["quota", "rate"], before.rate, after.rate));
    operations.extend(replace_int(&["quota", "storage"], before.storage, after.storage));
    operations
}

/// Says whose the document is, in the change that founds it. [`crate::Replica::prepare`] adds it by itself.
pub fn owner(user: ObjectId) -> Operation {
    put(&["owner"], text(user.to_string()))
}

/// Everything that a new function says. `size` is the component's length, in bytes.
pub fn function(new: &NewFunction, component: BlobId, size: u64) -> Vec<Operation> {
    let mut operations = vec![name(&new.name)];
    if !new.description.is_empty() {
        operations.push(description(&new.description));
    }
    operations.extend(new.project.map(|id| project(Some(id))));
    operations.extend(version(component, 1, size, ""));
    operations.push(current(component));
    operations.extend(needs(&Needs::default(), &new.needs));
    operations.extend(run_limits(&RunLimits::default(), &new.limits));
    operations.extend(grants(&BTreeSet::new(), &new.grants));
    operations.extend(labels(&Labels::new(), &new.labels));
    operations
}

/// Adds a version to a function and lets it run. A component that is a version already just runs again. The oldest
/// version makes room when there are [`VERSIONS_MAX`].
pub fn deploy(function: &Function, component: BlobId, size: u64, note: &str) -> Vec<Operation> {
    let mut operations = Vec::new();
    if !function.versions.iter().any(|version| version.component == component) {
        let surplus = (function.versions.len() + 1).saturating_sub(VERSIONS_MAX);
        operations.extend(function.versions.iter().take(surplus).map(|version| remove_version(version.component)));
        let number = function.versions.last().map_or(1, |version| version.number.saturating_add(1));
        operations.extend(self::version(component, number, size, note));
    }
    operations.push(current(component));
    operations
}

fn version(component: BlobId, number: u32, size: u64, note: &str) -> Vec<Operation> {
    let component = component.to_string();
    let mut operations =
        vec![put(&["versions", &component, "number"], int(number)), put(&["versions", &component, "size"], int(size))];
    if !note.is_empty() {
        operations.push(put(&["versions", &component, "note"], text(note)));
    }
    operations
}

/// Takes a version from a function; the one that runs cannot be taken.
pub fn remove_version(component: BlobId) -> Operation {
    delete(&["versions", &component.to_string()])
}

/// Chooses the version that runs.
pub fn current(component: BlobId) -> Operation {
    put(&["current"], text(component.to_string()))
}

/// Says what a function does.
pub fn description(description: &str) -> Operation {
    put(&["description"], text(description))
}

/// Puts a function into a project, or takes it out.
pub fn project(project: Option<ObjectId>) -> Operation {
    match project {
        Some(id) => put(&["project"], text(id.to_string())),
        None => delete(&["project"]),
    }
}

/// Makes a function's needs these.
pub fn needs(before: &Needs, after: &Needs) -> Vec<Operation> {
    let mut operations = Vec::new();
    operations.extend(replace_int(&["needs", "memory_mb"], before.memory_mb, after.memory_mb));
    operations.extend(replace_texts(&["needs", "labels"], &before.labels, &after.labels));
    operations.extend(replace_names(&["needs", "capabilities"], &before.capabilities, &after.capabilities));
    operations
}

/// Makes a function's limits these.
pub fn run_limits(before: &RunLimits, after: &RunLimits) -> Vec<Operation> {
    let mut operations = Vec::new();
    operations.extend(replace_int(&["limits", "run_ms"], before.run_ms, after.run_ms));
    operations.extend(replace_int(&["limits", "output_bytes"], before.output_bytes, after.output_bytes));
    operations.extend(replace_int(&["limits", "attempts"], before.attempts, after.attempts));
    operations.extend(replace_int(&["limits", "queue_ms"], before.queue_ms, after.queue_ms));
    operations.extend(replace_int(&["limits", "total_ms"], before.total_ms, after.total_ms));
    operations
}

/// Makes a function's grants these.
pub fn grants(before: &BTreeSet<Grant>, after: &BTreeSet<Grant>) -> Vec<Operation> {
    let names = |grants: &BTreeSet<Grant>| grants.iter().map(|grant| grant.text().to_owned()).collect();
    replace_names(&["grants"], &names(before), &names(after))
}

fn replace_int<N: TryInto<i64> + PartialEq + Copy>(
    path: &[&str],
    before: Option<N>,
    after: Option<N>,
) -> Option<Operation> {
    match after {
        _ if before == after => None,
        Some(number) => Some(put(path, int(number))),
        None => Some(delete(path)),
    }
}

fn replace_texts(
    collection: &[&str],
    before: &BTreeMap<String, String>,
    after: &BTreeMap<String, String>,
) -> Vec<Operation> {
    let path = |entry: &str| collection.iter().map(|&word| word.to_owned()).chain([entry.to_owned()]).collect();
    let gone = before.keys().filter(|entry| !after.contains_key(*entry));
    let gone = gone.map(|entry| Operation::Delete { path: path(entry) });
    let set = after.iter().filter(|(entry, value)| before.get(*entry) != Some(value));
    let set = set.map(|(entry, value)| Operation::Put { path: path(entry), value: text(value.as_str()) });
    gone.chain(set).collect()
}

fn replace_names(collection: &[&str], before: &BTreeSet<String>, after: &BTreeSet<String>) -> Vec<Operation> {
    let path = |entry: &str| collection.iter().map(|&word| word.to_owned()).chain([entry.to_owned()]).collect();
    let gone = before.difference(after).map(|entry| Operation::Delete { path: path(entry) });
    let set = after.difference(before).map(|entry| Operation::Put { path: path(entry), value: Scalar::Bool(true) });
    gone.chain(set).collect()
}
