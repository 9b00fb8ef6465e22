//! Any order, any duplication: equal documents.

use proptest::prelude::*;
use shoal_crdt::{Outcome, Replica, wanted};
use shoal_protocol::change::{Change, DocumentClass, Operation, Scalar, SignedChange};
use shoal_protocol::key::SecretKey;
use shoal_protocol::object::function::Grant;
use shoal_protocol::{BlobId, NodeId, ObjectId};

use crate::world::{Chance, Person, all_changes, apply, assert_equal, function, key, prepare, replica};

/// What somebody does on some island.
#[derive(Debug, Clone)]
struct Step {
    island: usize,
    actor: usize,
    document: usize,
    action: Action,
}

#[derive(Debug, Clone)]
enum Action {
    Deploy(u8),
    DropVersion(usize),
    Label(u8, u8),
    DropLabels,
    Rename(u8),
    Grant(bool),
    Delete(bool),
    ListKey(u8),
    /// Signs by hand, with the sequence and dependencies of the island, whatever the right.
    Force(u8),
    /// Takes over everything from another island.
    Sync(usize),
}

const ISLANDS: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let action = prop_oneof![
        4 => any::<u8>().prop_map(Action::Deploy),
        2 => (0..4usize).prop_map(Action::DropVersion),
        4 => (0..4u8, any::<u8>()).prop_map(|(key, value)| Action::Label(key, value)),
        1 => Just(Action::DropLabels),
        2 => (0..3u8).prop_map(Action::Rename),
        1 => any::<bool>().prop_map(Action::Grant),
        1 => any::<bool>().prop_map(Action::Delete),
        2 => (60..64u8).prop_map(Action::ListKey),
        3 => any::<u8>().prop_map(Action::Force),
        5 => (0..ISLANDS).prop_map(Action::Sync),
    ];
    (0..ISLANDS, 0..6usize, 0..5usize, action).prop_map(|(island, actor, document, action)| Step {
        island,
        actor,
        document,
        action,
    })
}

/// Two people with a function each; ada's nodes sign for her too, each on its island, and some keys sign for her
/// only once they are listed.
struct World {
    islands: Vec<Replica>,
    people: Vec<Person>,
    documents: Vec<(DocumentClass, ObjectId)>,
}

impl World {
    fn new() -> Self {
        let mut people = vec![Person::new(1, "ada"), Person::new(2, "bob")];
        let mut first = replica();
        let mut documents = Vec::new();
        for person in &mut people {
            apply(&mut first, &person.founding);
            documents.push((DocumentClass::User, person.user));
            let id = person.function(&mut first, "f");
            documents.push((DocumentClass::Function, id));
        }
        let nodes = (0..ISLANDS as u8).map(|n| wanted::node(&NodeId::from(key(50 + n).public()))).collect();
        people[0].change(&mut first, DocumentClass::User, people[0].user, nodes);
        let project = people[0].ids.mint(2000);
        people[0].change(&mut first, DocumentClass::Project, project, vec![wanted::name("p")]);
        documents.push((DocumentClass::Project, project));
        let changes = all_changes(&first);
        let islands = (0..ISLANDS).map(|_| {
            let mut island = replica();
            changes.iter().for_each(|change| drop(apply(&mut island, change)));
            island
        });
        Self { islands: islands.collect(), people, documents }
    }

    /// Whose name and whose key: the two people by their own keys (used on every island, so they come to sign equal
    /// numbers), the island's node for ada, a stranger for himself and for ada, a key that may get listed.
    fn signer(&self, step: &Step) -> (ObjectId, SecretKey) {
        let (ada, bob) = (&self.people[0], &self.people[1]);
        match step.actor {
            0 => (ada.user, ada.key.clone()),
            1 => (bob.user, bob.key.clone()),
            2 => (ada.user, key(50 + step.island as u8)),
            3 => (ada.user, key(99)),
            4 => (ObjectId::from_parts(1, 1, key(99).public().tag()), key(99)),
            _ => (ada.user, key(60 + (step.island as u8 & 3))),
        }
    }

    fn step(&mut self, step: &Step) {
        if let Action::Sync(from) = step.action {
            let changes = all_changes(&self.islands[from]);
            let island = &mut self.islands[step.island];
            changes.iter().for_each(|change| drop(apply(island, change)));
            return;
        }
        let (user, key) = self.signer(step);
        let (class, document) = self.documents[step.document % self.documents.len()];
        let island = &mut self.islands[step.island];
        let operations = operations(island, class, document, &step.action);
        if let Action::Force(_) = step.action {
            let (sequence, deps) = island.next(&key.public(), document);
            let author = key.public();
            let mesh = crate::world::mesh();
            let change = Change { version: 1, mesh, document, class, user, author, sequence, deps, operations };
            let _ = island.apply(&change.sign(&key));
            return;
        }
        let wanted = shoal_crdt::Wanted { document, class, user, author: key.public(), operations };
        // Many steps mean nothing for their document or are not allowed to their actor.
        if let Ok(change) = island.prepare(wanted) {
            let applied = apply(island, &change.sign(&key));
            assert_eq!(applied.outcome, Outcome::Counted, "{change:?}");
        }
    }
}

fn operations(island: &Replica, class: DocumentClass, document: ObjectId, action: &Action) -> Vec<Operation> {
    let is_function = class == DocumentClass::Function && island.document(document).is_some();
    match *action {
        Action::Deploy(n) if is_function => {
            wanted::deploy(&function(island, document), BlobId::of(&[n % 5]), u64::from(n), "note")
        }
        Action::DropVersion(n) if is_function => {
            let versions = function(island, document).versions;
            versions.get(n).map(|version| wanted::remove_version(version.component)).into_iter().collect()
        }
        Action::Label(key, value) => {
            vec![wanted::put(&["labels", &format!("l{key}")], Scalar::Text(format!("v{value}")))]
        }
        Action::DropLabels => vec![wanted::delete(&["labels"])],
        Action::Rename(n) => vec![wanted::name(&format!("name{n}"))],
        Action::Grant(on) => vec![wanted::put(&["grants", Grant::Kv.text()], Scalar::Bool(on))],
        Action::Delete(on) => vec![wanted::deleted(on)],
        Action::ListKey(n) => vec![wanted::key(&key(n).public(), "listed")],
        Action::Force(n) => vec![wanted::name(&format!("forced{}", n % 4)), wanted::deleted(n % 2 == 0)],
        Action::Deploy(_) | Action::DropVersion(_) | Action::Sync(_) => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_order_and_any_duplication_give_equal_documents(
        steps in proptest::collection::vec(step(), 10..60),
        seed in any::<u64>(),
    ) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.step(step));
        let mut changes: Vec<SignedChange> = world.islands.iter().flat_map(all_changes).collect();
        let mut reference = replica();
        changes.iter().for_each(|change| drop(apply(&mut reference, change)));
        prop_assert_eq!(reference.held_back(), 0);
        let mut chance = Chance(seed);
        for _ in 0..3 {
            let repeated: Vec<SignedChange> = (0..changes.len() / 3).map(|_| changes[chance.below(changes.len())].clone()).collect();
            changes.extend(repeated);
            chance.shuffle(&mut changes);
            let mut other = replica();
            changes.iter().for_each(|change| drop(apply(&mut other, change)));
            prop_assert_eq!(other.held_back(), 0);
            assert_equal(&mut reference, &mut other);
        }
        for island in &mut world.islands {
            changes.iter().for_each(|change| drop(apply(island, change)));
            assert_equal(&mut reference, island);
        }
    }
}

/// Names found, facts and open documents are those of the set of changes also when `changed` alone is followed.
#[test]
fn a_follower_of_changed_sees_what_a_reader_sees() {
    let mut world = World::new();
    let mut chance = Chance(7);
    let mut seen = std::collections::BTreeMap::new();
    let mut target = replica();
    for round in 0..200 {
        let step = Step {
            island: chance.below(ISLANDS),
            actor: chance.below(6),
            document: chance.below(5),
            action: match chance.below(6) {
                0 => Action::Deploy(round as u8),
                1 => Action::Label(chance.below(4) as u8, round as u8),
                2 => Action::ListKey(60 + chance.below(4) as u8),
                3 => Action::Force(round as u8),
                4 => Action::Rename(chance.below(3) as u8),
                _ => Action::Sync(chance.below(ISLANDS)),
            },
        };
        world.step(&step);
    }
    let mut changes: Vec<SignedChange> = world.islands.iter().flat_map(all_changes).collect();
    chance.shuffle(&mut changes);
    let mut accepted = Vec::new();
    for change in &changes {
        let applied = apply(&mut target, change);
        accepted.extend(applied.accepted);
        for id in applied.changed {
            seen.insert(id, target.document(id).cloned());
        }
    }
    for id in target.ids() {
        assert_eq!(seen.get(&id).cloned().flatten().as_ref(), target.document(id), "{id}");
    }
    assert!(target.equivocators().count() > 0, "keys that were used on several islands sign equal numbers");
    // The journal: what was accepted, in that order, gives the same replica without holding anything back.
    let mut replayed = replica();
    for change in &accepted {
        assert!(!matches!(apply(&mut replayed, change).outcome, Outcome::HeldBack { .. }));
    }
    assert_equal(&mut target, &mut replayed);
}

#[test]
fn a_closed_document_is_derived_again_as_it_was() {
    let mut ada = Person::new(1, "ada");
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    let first = ada.function(&mut replica, "first");
    let component = BlobId::of(b"second");
    let deploy = wanted::deploy(&function(&replica, first), component, 5, "");
    ada.change(&mut replica, DocumentClass::Function, first, deploy);
    let heads = replica.derived_heads(first);
    for n in 0..2 * shoal_crdt::limits::OPEN_DOCUMENTS_MAX {
        ada.function(&mut replica, &format!("f{n}"));
    }
    let before = replica.work().rebuilt;
    assert_eq!(replica.derived_heads(first), heads);
    assert_eq!(replica.work().rebuilt, before + 1);
    let rename = prepare(&mut replica, DocumentClass::Function, first, ada.user, &ada.key, vec![wanted::name("other")]);
    apply(&mut replica, &rename.sign(&ada.key));
    assert_eq!(function(&replica, first).name, "other");
    assert_eq!(function(&replica, first).versions.len(), 2);
}

#[test]
fn a_document_with_many_forks_is_put_away_and_not_derived_again() {
    let mut ada = Person::new(1, "ada");
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    let first = ada.function(&mut replica, "first");
    let founding = replica.changes(first).next().map(SignedChange::hash).unwrap();
    // Every change stands on the founding alone, each by a key of its own.
    let keys: Vec<SecretKey> = (100..120).map(key).collect();
    for (n, key) in keys.iter().enumerate() {
        ada.change(&mut replica, DocumentClass::User, ada.user, vec![wanted::key(&key.public(), &format!("k{n}"))]);
        let name = vec![wanted::name(&format!("n{n}"))];
        let mut change = prepare(&mut replica, DocumentClass::Function, first, ada.user, key, name);
        change.deps = vec![founding];
        apply(&mut replica, &change.sign(key));
    }
    let close = |replica: &mut Replica, ada: &mut Person, more: &str| {
        for n in 0..2 * shoal_crdt::limits::OPEN_DOCUMENTS_MAX {
            ada.function(replica, &format!("{more}{n}"));
        }
    };
    let heads = replica.derived_heads(first);
    close(&mut replica, &mut ada, "f");
    let before = replica.work();
    assert_eq!(replica.derived_heads(first), heads);
    assert_eq!((replica.work().rebuilt, replica.work().forks), (before.rebuilt, before.forks));
    // What follows is the same as at a replica that never closed it.
    close(&mut replica, &mut ada, "g");
    let rename = prepare(&mut replica, DocumentClass::Function, first, ada.user, &ada.key, vec![wanted::name("other")]);
    apply(&mut replica, &rename.sign(&ada.key));
    assert_eq!(function(&replica, first).name, "other");
    let mut fresh = crate::world::replica();
    for change in all_changes(&replica) {
        apply(&mut fresh, &change);
    }
    assert_equal(&mut replica, &mut fresh);
}

#[test]
fn a_key_that_changes_no_verdict_derives_nothing() {
    let mut ada = Person::new(1, "ada");
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    for n in 0..2 * shoal_crdt::limits::OPEN_DOCUMENTS_MAX {
        ada.function(&mut replica, &format!("f{n}"));
    }
    let before = replica.work();
    ada.change(&mut replica, DocumentClass::User, ada.user, vec![wanted::key(&key(9).public(), "second")]);
    assert_eq!(replica.work().derived, before.derived + 2, "those of the user alone");
}
