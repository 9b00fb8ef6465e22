//! What people do: deploy, deploy again, deploy on two islands, give one name twice.

use shoal_crdt::{Facts, Object, limits, wanted};
use shoal_protocol::change::DocumentClass;
use shoal_protocol::object::function::{Grant, Needs, NewFunction, RunLimits};
use shoal_protocol::object::project::Quota;
use shoal_protocol::{BlobId, NodeId};

use crate::world::{Person, all_changes, apply, assert_equal, function, key, new_function, prepare, replica};

const FUNCTION: DocumentClass = DocumentClass::Function;

#[test]
fn what_is_deployed_reads_back() {
    let mut ada = Person::new(1, "ada");
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    let new = NewFunction {
        description: "finds faces".into(),
        needs: Needs {
            memory_mb: Some(64),
            labels: [("zone".into(), "a".into()), ("vendor/gpu".into(), "x".into())].into(),
            capabilities: ["gpu".into()].into(),
        },
        limits: RunLimits {
            run_ms: Some(1000),
            output_bytes: Some(10),
            attempts: Some(2),
            queue_ms: Some(3000),
            total_ms: Some(4000),
        },
        grants: [Grant::Kv, Grant::Blob].into(),
        labels: [("team".into(), "vision".into())].into(),
        project: Some(ada.user),
        ..new_function("detect")
    };
    let document = ada.ids.mint(1);
    ada.change(&mut replica, FUNCTION, document, wanted::function(&new, new.component, 100));
    let read = function(&replica, document);
    assert_eq!(
        (&read.needs, &read.limits, &read.grants, &read.labels),
        (&new.needs, &new.limits, &new.grants, &new.labels)
    );
    assert_eq!((read.owner, read.project, read.current), (ada.user, Some(ada.user), new.component));
    assert_eq!(read.description, new.description);
    assert_eq!(read.heads, replica.heads(document));
    let mut operations = wanted::needs(&new.needs, &Needs::default());
    operations.extend(wanted::run_limits(&new.limits, &RunLimits { run_ms: Some(5), ..RunLimits::default() }));
    operations.extend(wanted::grants(&new.grants, &[Grant::Kv].into()));
    operations.extend(wanted::labels(&new.labels, &[("team".into(), "audio".into())].into()));
    operations.push(wanted::project(None));
    ada.change(&mut replica, FUNCTION, document, operations);
    let read = function(&replica, document);
    assert_eq!(read.needs, Needs::default());
    assert_eq!(read.limits, RunLimits { run_ms: Some(5), ..RunLimits::default() });
    assert_eq!((read.grants, read.project), ([Grant::Kv].into(), None));
    assert_eq!(read.labels, [("team".to_owned(), "audio".to_owned())].into());
}

#[test]
fn deploying_again_gives_the_next_version_and_rolling_back_gives_none() {
    let mut ada = Person::new(1, "ada");
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    let document = ada.function(&mut replica, "f");
    let first = function(&replica, document).current;
    let second = BlobId::of(b"second");
    let deploy = wanted::deploy(&function(&replica, document), second, 7, "faster");
    ada.change(&mut replica, FUNCTION, document, deploy);
    let numbers = |f: &shoal_protocol::object::function::Function| -> Vec<(u32, BlobId)> {
        f.versions.iter().map(|version| (version.number, version.component)).collect()
    };
    let read = function(&replica, document);
    assert_eq!((numbers(&read), read.current), (vec![(1, first), (2, second)], second));
    let Some(Facts { object: Object::Function { notes, .. }, .. }) = replica.document(document) else { panic!() };
    assert_eq!(notes.get(&second).map(String::as_str), Some("faster"));
    let again = wanted::deploy(&read, first, 100, "");
    ada.change(&mut replica, FUNCTION, document, again);
    let read = function(&replica, document);
    assert_eq!((numbers(&read), read.current), (vec![(1, first), (2, second)], first));
}

#[test]
fn two_islands_that_deploy_at_once_both_keep_their_versions() {
    let mut ada = Person::new(1, "ada");
    let nodes = [key(50), key(51)];
    let mut first = replica();
    apply(&mut first, &ada.founding);
    let listing = nodes.iter().map(|node| wanted::node(&NodeId::from(node.public()))).collect();
    ada.change(&mut first, DocumentClass::User, ada.user, listing);
    let document = ada.function(&mut first, "f");
    let mut second = replica();
    all_changes(&first).iter().for_each(|change| drop(apply(&mut second, change)));
    for (island, node, code) in [(&mut first, &nodes[0], "one"), (&mut second, &nodes[1], "two")] {
        let deploy = wanted::deploy(&function(island, document), BlobId::of(code.as_bytes()), 1, "");
        let mut operations = deploy;
        operations.push(wanted::put(&["labels", code], shoal_protocol::change::Scalar::Text("here".into())));
        let change = prepare(island, FUNCTION, document, ada.user, node, operations);
        apply(island, &change.sign(node));
    }
    let (from_first, from_second) = (all_changes(&first), all_changes(&second));
    from_second.iter().for_each(|change| drop(apply(&mut first, change)));
    from_first.iter().for_each(|change| drop(apply(&mut second, change)));
    assert_equal(&mut first, &mut second);
    let read = function(&first, document);
    let mut concurrent = [BlobId::of(b"one"), BlobId::of(b"two")];
    concurrent.sort_unstable();
    let versions: Vec<_> = read.versions.iter().map(|version| (version.number, version.component)).collect();
    assert_eq!(versions[1..], [(2, concurrent[0]), (3, concurrent[1])]);
    assert!(concurrent.contains(&read.current));
    assert_eq!(read.labels.len(), 2, "both islands wrote the first label");
    assert_eq!(read.heads.len(), 2);
    // The next change merges.
    ada.change(&mut first, FUNCTION, document, wanted::deploy(&read, BlobId::of(b"three"), 1, ""));
    let merged = function(&first, document);
    assert_eq!((merged.heads.len(), merged.versions.last().map(|version| version.number)), (1, Some(4)));
}

#[test]
fn deploying_drops_the_oldest_version_when_there_is_no_room() {
    let mut ada = Person::new(1, "ada");
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    let document = ada.function(&mut replica, "f");
    for n in 0..limits::VERSIONS_MAX as u32 + 3 {
        let deploy = wanted::deploy(&function(&replica, document), BlobId::of(&n.to_be_bytes()), 1, "");
        ada.change(&mut replica, FUNCTION, document, deploy);
    }
    let versions = function(&replica, document).versions;
    assert_eq!(versions.len(), limits::VERSIONS_MAX);
    assert_eq!(versions.first().map(|version| version.number), Some(5));
}

#[test]
fn the_lower_id_keeps_a_name_that_was_given_twice() {
    let (mut ada, mut bob) = (Person::new(1, "ada"), Person::new(2, "bob"));
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    apply(&mut replica, &bob.founding);
    let (first, second) = (ada.function(&mut replica, "f"), ada.function(&mut replica, "f"));
    let his = bob.function(&mut replica, "f");
    assert!(first < second);
    assert_eq!(replica.named(FUNCTION, Some(ada.user), "f"), Some(first));
    assert_eq!(replica.named(FUNCTION, Some(bob.user), "f"), Some(his));
    assert_eq!(replica.named_by_anyone(FUNCTION, "f").count(), 2);
    assert_eq!(replica.named(DocumentClass::User, None, "ada"), Some(ada.user));
    ada.change(&mut replica, FUNCTION, first, vec![wanted::deleted(true)]);
    assert_eq!(replica.named(FUNCTION, Some(ada.user), "f"), Some(second));
    assert!(replica.document(first).is_some_and(|facts| facts.deleted));
    assert_eq!(replica.documents(FUNCTION).count(), 2);
    ada.change(&mut replica, FUNCTION, first, vec![wanted::deleted(false), wanted::name("g")]);
    assert_eq!(replica.named(FUNCTION, Some(ada.user), "g"), Some(first));
    assert_eq!(replica.named(FUNCTION, Some(ada.user), "f"), Some(second));
}

#[test]
fn a_project_has_members_a_weight_and_a_quota() {
    let (mut ada, bob) = (Person::new(1, "ada"), Person::new(2, "bob"));
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    let document = ada.ids.mint(9);
    ada.change(&mut replica, DocumentClass::Project, document, vec![wanted::name("vision")]);
    let quota = Quota { queued: Some(100), rate: Some(0), ..Quota::default() };
    let mut operations = vec![wanted::member(bob.user, "developer"), wanted::weight(5)];
    operations.extend(wanted::quota(&Quota::default(), &quota));
    ada.change(&mut replica, DocumentClass::Project, document, operations);
    let Some(Facts { object: Object::Project { project }, .. }) = replica.document(document) else { panic!() };
    assert_eq!((project.owner, project.weight, project.quota), (ada.user, 5, quota));
    assert_eq!(project.members, [(bob.user, "developer".to_owned())].into());
    ada.change(&mut replica, DocumentClass::Project, document, vec![wanted::remove_member(bob.user)]);
    let unlimited = wanted::quota(&quota, &Quota { queued: None, ..quota });
    ada.change(&mut replica, DocumentClass::Project, document, unlimited);
    let Some(Facts { object: Object::Project { project }, .. }) = replica.document(document) else { panic!() };
    assert!(project.members.is_empty());
    assert_eq!(project.quota, Quota { rate: Some(0), ..Quota::default() });
}
