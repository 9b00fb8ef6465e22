//! Who may change what, across documents and in any order.

use shoal_crdt::{Outcome, Reason, Refused, limits, wanted};
use shoal_protocol::change::{Change, DocumentClass};
use shoal_protocol::{NodeId, ObjectId};

use crate::world::{Person, all_changes, apply, assert_equal, function, key, prepare, replica, user};

const FUNCTION: DocumentClass = DocumentClass::Function;
const USER: DocumentClass = DocumentClass::User;

#[test]
fn a_strangers_change_keeps_its_place_and_loses_its_operations() {
    let (mut ada, bob) = (Person::new(1, "ada"), Person::new(2, "bob"));
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    apply(&mut replica, &bob.founding);
    let document = ada.function(&mut replica, "f");
    let first = replica.changes(document).next().expect("founding").decode().expect("change");
    let (sequence, deps) = replica.next(&bob.key.public(), document);
    let operations = vec![wanted::name("mine")];
    let his = Change { user: bob.user, author: bob.key.public(), sequence, deps: deps.clone(), operations, ..first };
    let signed = his.sign(&bob.key);
    let applied = apply(&mut replica, &signed);
    assert_eq!(applied.outcome, Outcome::DoesNotCount(Reason::NotOwner(bob.user)));
    assert_eq!(applied.accepted, std::slice::from_ref(&signed));
    assert!(applied.changed.is_empty());
    assert_eq!(function(&replica, document).name, "f");
    assert_eq!(replica.heads(document), [signed.hash()]);
    // In ada's name it counts no more, and nothing of hers builds upon it.
    let forged = Change { user: ada.user, sequence: 2, deps: vec![signed.hash()], ..his };
    let outcome = apply(&mut replica, &forged.sign(&bob.key)).outcome;
    assert!(matches!(outcome, Outcome::DoesNotCount(Reason::NotSigner { .. })), "{outcome:?}");
    let hers = ada.change(&mut replica, FUNCTION, document, vec![wanted::name("hers")]).decode().expect("change");
    assert_eq!(hers.deps, deps);
    assert_eq!(function(&replica, document).name, "hers");
}

#[test]
fn strangers_fill_their_own_room_only() {
    let mut ada = Person::new(1, "ada");
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    let document = ada.function(&mut replica, "f");
    let first = replica.changes(document).next().expect("founding");
    let deps = vec![first.hash()];
    let first = first.decode().expect("change");
    let mut full = 0;
    for n in 0..limits::WITHOUT_RIGHT_MAX as u32 + 5 {
        let mut bytes = [200; 32];
        bytes[..4].copy_from_slice(&n.to_be_bytes());
        let stranger = shoal_protocol::key::SecretKey::from_bytes(bytes);
        let operations = vec![wanted::name("x")];
        let change = Change { author: stranger.public(), deps: deps.clone(), operations, ..first.clone() };
        match replica.apply(&change.sign(&stranger)) {
            Ok(applied) => assert!(matches!(applied.outcome, Outcome::DoesNotCount(_))),
            Err(Refused::Full { .. }) => full += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(full, 5);
    ada.change(&mut replica, FUNCTION, document, vec![wanted::name("hers")]);
    assert_eq!(function(&replica, document).name, "hers");
    // They are leaves: deriving hers needed no fork, and nothing was derived again.
    assert_eq!(replica.work().rebuilt, 0);
}

#[test]
fn a_function_counts_once_its_users_document_is_here() {
    let mut ada = Person::new(1, "ada");
    let mut there = replica();
    apply(&mut there, &ada.founding);
    let document = ada.function(&mut there, "f");
    ada.change(&mut there, FUNCTION, document, vec![wanted::name("g")]);
    let changes: Vec<_> = there.changes(document).cloned().collect();
    let mut here = replica();
    assert_eq!(apply(&mut here, &changes[0]).outcome, Outcome::DoesNotCount(Reason::UnknownUser(ada.user)));
    apply(&mut here, &changes[1]);
    assert_eq!(here.document(document), None);
    assert_eq!(here.named(FUNCTION, Some(ada.user), "g"), None);
    let applied = apply(&mut here, &ada.founding);
    assert!(applied.changed.contains(&document), "the function is named as changed by the user's change");
    assert_eq!(function(&here, document).name, "g");
    assert_eq!(here.named(FUNCTION, Some(ada.user), "g"), Some(document));
    assert_equal(&mut here, &mut there);
}

#[test]
fn nodes_and_keys_sign_once_they_are_listed_and_keep_counting_after_removal() {
    let mut ada = Person::new(1, "ada");
    let node = key(50);
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    let document = ada.function(&mut replica, "f");
    let first = replica.changes(document).next().expect("founding").decode().expect("change");
    let (sequence, deps) = replica.next(&node.public(), document);
    let operations = vec![wanted::name("by-node")];
    let signed = Change { author: node.public(), sequence, deps, operations, ..first }.sign(&node);
    assert!(matches!(apply(&mut replica, &signed).outcome, Outcome::DoesNotCount(Reason::NotSigner { .. })));
    assert_eq!(function(&replica, document).name, "f");
    ada.change(&mut replica, USER, ada.user, vec![wanted::node(&NodeId::from(node.public()))]);
    assert_eq!(function(&replica, document).name, "by-node");
    assert_eq!(user(&replica, ada.user).nodes, [NodeId::from(node.public())]);
    ada.change(&mut replica, USER, ada.user, vec![wanted::remove_node(&NodeId::from(node.public()))]);
    assert!(user(&replica, ada.user).nodes.is_empty());
    assert_eq!(function(&replica, document).name, "by-node");
}

#[test]
fn a_user_changes_themself_by_keys_listed_before() {
    let ada = Person::new(1, "ada");
    let laptop = key(60);
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    let first = ada.founding.decode().expect("change");
    let founded = vec![ada.founding.hash()];
    // Beside the change that lists the key: its own past does not list it.
    let operations = vec![wanted::name("early")];
    let early = Change { author: laptop.public(), deps: founded, operations, ..first }.sign(&laptop);
    assert!(matches!(apply(&mut replica, &early).outcome, Outcome::DoesNotCount(Reason::NotSigner { .. })));
    ada.change(&mut replica, USER, ada.user, vec![wanted::key(&laptop.public(), "laptop")]);
    assert_eq!(user(&replica, ada.user).name, "ada");
    let later = prepare(&mut replica, USER, ada.user, ada.user, &laptop, vec![wanted::name("later")]);
    assert_eq!(later.sequence, 2, "it goes on after its own change that did not count");
    assert_eq!(apply(&mut replica, &later.sign(&laptop)).outcome, Outcome::Counted);
    assert_eq!(user(&replica, ada.user).name, "later");
    // The same when the listing comes first: what counts is the past of the change, not what was here before it.
    let mut changes = all_changes(&replica);
    assert_eq!(changes.remove(1), early);
    changes.insert(2, early);
    let mut other = crate::world::replica();
    changes.iter().for_each(|change| drop(apply(&mut other, change)));
    assert_equal(&mut replica, &mut other);
}

#[test]
fn a_node_can_found_a_user_and_sign_for_them() {
    let node = key(50);
    let mut replica = replica();
    let user_id = ObjectId::from_parts(3, 0, node.public().tag());
    let operations = vec![wanted::name("guest"), wanted::node(&NodeId::from(node.public()))];
    let founding = prepare(&mut replica, USER, user_id, user_id, &node, operations);
    assert_eq!(apply(&mut replica, &founding.sign(&node)).outcome, Outcome::Counted);
    let guest = user(&replica, user_id);
    assert!(guest.keys.is_empty());
    assert_eq!(guest.nodes, [NodeId::from(node.public())]);
    let rename = prepare(&mut replica, USER, user_id, user_id, &node, vec![wanted::name("other")]);
    assert_eq!(apply(&mut replica, &rename.sign(&node)).outcome, Outcome::Counted);
}
