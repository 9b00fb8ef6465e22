//! What is refused, held back or does not count, each with a sentence that names what is wrong.

use shoal_crdt::{NotPrepared, Outcome, Reason, Refused, Replica, limits, wanted};
use shoal_protocol::change::{Change, ChangeHash, DocumentClass, Operation, Scalar, SignedChange};
use shoal_protocol::key::{Purpose, SecretKey};
use shoal_protocol::{BlobId, Kind, ObjectId, Problem};

use crate::world::{Chance, Person, apply, assert_equal, function, key, mesh, prepare, replica, user};

/// A user, their function, and an unsigned next change of it.
fn setting() -> (Replica, Person, ObjectId, Change) {
    let mut ada = Person::new(1, "ada");
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    let document = ada.function(&mut replica, "f");
    let next = prepare(&mut replica, DocumentClass::Function, document, ada.user, &ada.key, vec![wanted::name("g")]);
    (replica, ada, document, next)
}

/// Refused with this sentence, without a trace.
fn refuse(replica: &mut Replica, signed: &SignedChange, sentence: &str) -> Refused {
    let digest = replica.digest();
    let refused = replica.apply(signed).expect_err("refused");
    assert!(refused.to_string().contains(sentence), "{refused} does not say {sentence:?}");
    assert_eq!(replica.digest(), digest);
    assert_eq!(replica.held_back(), 0);
    refused
}

#[test]
fn bytes_that_are_no_change_of_this_mesh() {
    let (mut replica, ada, _, next) = setting();
    let signed = next.sign(&ada.key);
    for len in 0..signed.bytes.len() {
        let bytes = signed.bytes[..len].to_vec();
        let signature = ada.key.sign(Purpose::Change, &bytes);
        refuse(&mut replica, &SignedChange { bytes: bytes.into(), signature }, "no change");
    }
    for len in [61_441, 1 << 20] {
        let bytes = vec![0; len];
        let signature = ada.key.sign(Purpose::Change, &bytes);
        let refused = refuse(&mut replica, &SignedChange { bytes: bytes.into(), signature }, "at most 61440");
        assert_eq!(Problem::from(&refused).kind, Kind::TooLarge);
    }
    let elsewhere = Change { mesh: SecretKey::of_open_mesh("other").public(), ..next.clone() };
    refuse(&mut replica, &elsewhere.sign(&ada.key), "is for the mesh");
    refuse(&mut replica, &Change { version: 2, ..next.clone() }.sign(&ada.key), "version 2");
    assert_eq!(apply(&mut replica, &signed).outcome, Outcome::Counted);
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let (mut replica, ada, _, next) = setting();
    let signed = next.sign(&ada.key);
    for bit in 0..signed.bytes.len() * 8 {
        let mut bytes = signed.bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        refuse(&mut replica, &SignedChange { bytes: bytes.into(), signature: signed.signature }, "");
    }
    for bit in 0..64 * 8 {
        let mut signature = signed.signature;
        signature.0[bit / 8] ^= 1 << (bit % 8);
        let forged = SignedChange { bytes: signed.bytes.clone(), signature };
        refuse(&mut replica, &forged, "signature");
    }
    apply(&mut replica, &signed);
    // Also when the bytes are known: a signature that does not count is not believed because of its bytes.
    let mut signature = signed.signature;
    signature.0[0] ^= 1;
    refuse(&mut replica, &SignedChange { bytes: signed.bytes.clone(), signature }, "signature");
}

#[test]
fn a_signature_of_another_key_or_purpose_is_refused() {
    let (mut replica, ada, _, next) = setting();
    refuse(&mut replica, &next.sign(&key(9)), "signature is not");
    let bytes = next.sign(&ada.key).bytes;
    let signature = ada.key.sign(Purpose::Entry, &bytes);
    refuse(&mut replica, &SignedChange { bytes, signature }, "signature is not");
}

#[test]
fn a_replayed_change_is_a_duplicate() {
    let (mut replica, ada, document, next) = setting();
    let signed = next.sign(&ada.key);
    apply(&mut replica, &signed);
    let facts = replica.document(document).cloned();
    let applied = apply(&mut replica, &signed);
    assert_eq!(applied.outcome, Outcome::Duplicate);
    assert!(applied.accepted.is_empty() && applied.changed.is_empty());
    assert_eq!(replica.document(document).cloned(), facts);
}

#[test]
fn a_change_out_of_form_is_refused() {
    let (mut replica, ada, document, next) = setting();
    let hash = |n: u8| ChangeHash(BlobId([n; 32]));
    let many = vec![wanted::name("x"); 257];
    let owner = Person::new(3, "eve").user;
    let bad = [
        (Change { sequence: 0, ..next.clone() }, "number is 0"),
        (Change { operations: vec![], ..next.clone() }, "no operations"),
        (Change { operations: many, ..next.clone() }, "too many operations"),
        (Change { deps: (0..17).map(hash).collect(), ..next.clone() }, "too many changes"),
        (Change { deps: vec![hash(2), hash(1)], ..next.clone() }, "not sorted"),
        (Change { deps: vec![hash(1), hash(1)], ..next.clone() }, "twice"),
        (Change { deps: vec![], ..next.clone() }, "not its author's first"),
        (Change { operations: vec![wanted::owner(owner)], ..next.clone() }, "stays as it is"),
        (Change { operations: vec![wanted::put(&["nom"], Scalar::Int(1))], ..next.clone() }, "no field /nom"),
        (Change { operations: vec![wanted::name("Not A Name")], ..next.clone() }, "is no name"),
        (Change { operations: vec![wanted::put(&["name"], Scalar::Bool(true))], ..next.clone() }, "expected a text"),
        (Change { class: DocumentClass::Project, ..next.clone() }, "class is not that"),
        (Change { sequence: 3, ..next.clone() }, "the number before is not in its past"),
        (Change { sequence: 1, ..next.clone() }, "this number or above"),
    ];
    for (change, sentence) in bad {
        refuse(&mut replica, &change.sign(&ada.key), sentence);
    }
    let path = vec!["name".to_owned()];
    let add = Change { operations: vec![Operation::Add { path, amount: 1 }], ..next.clone() };
    refuse(&mut replica, &add.sign(&ada.key), "no counter");
    assert_eq!(function(&replica, document).name, "f");
}

#[test]
fn a_document_is_founded_under_its_authors_tag_only() {
    let (mut replica, ada, document, _) = setting();
    let first = replica.changes(document).next().expect("founding").decode().expect("change");
    let stranger = key(9);
    let foreign = ObjectId::from_parts(5, 0, stranger.public().tag());
    let founded = Change { document: foreign, ..first.clone() };
    refuse(&mut replica, &founded.sign(&ada.key), "cannot be founded by");
    let other = Change { author: stranger.public(), ..first.clone() };
    refuse(&mut replica, &other.sign(&stranger), "cannot be founded by");
    let bob = Person::new(2, "bob");
    let in_his_name = Change { user: bob.user, ..first.clone() };
    refuse(&mut replica, &in_his_name.sign(&ada.key), "owner is not the user");
    // A user founds themself, with the key that signs.
    let user = ada.founding.decode().expect("change");
    let without_key = Change { operations: vec![wanted::name("ada")], ..user.clone() };
    refuse(&mut replica, &without_key.sign(&ada.key), "does not list its author's key");
    let other_name = Change { user: bob.user, ..user.clone() };
    refuse(&mut replica, &other_name.sign(&ada.key), "in their own name");
}

#[test]
fn a_gap_is_held_back_until_it_closes() {
    let (mut replica, ada, document, _) = setting();
    let mut ahead = Replica::new(mesh());
    for change in replica.ids().flat_map(|id| replica.changes(id)).cloned().collect::<Vec<_>>() {
        apply(&mut ahead, &change);
    }
    let changes: Vec<SignedChange> = (0..5)
        .map(|n| ada.change(&mut ahead, DocumentClass::Function, document, vec![wanted::name(&format!("n{n}"))]))
        .collect();
    for (n, change) in changes.iter().enumerate().skip(1).rev() {
        let applied = apply(&mut replica, change);
        assert_eq!(applied.outcome, Outcome::HeldBack { missing: vec![changes[n - 1].hash()] });
        assert!(applied.accepted.is_empty());
    }
    assert_eq!(replica.held_back(), 4);
    assert_eq!(function(&replica, document).name, "f");
    let applied = apply(&mut replica, &changes[0]);
    assert_eq!(applied.outcome, Outcome::Counted);
    assert_eq!(applied.accepted, changes);
    assert_eq!(replica.held_back(), 0);
    assert_equal(&mut replica, &mut ahead);
}

#[test]
fn what_is_held_back_is_bounded() {
    let (mut replica, ada, _, next) = setting();
    let mut signed = next;
    for n in 0..limits::HELD_CHANGES_MAX as u64 + 50 {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        signed.deps = vec![ChangeHash(BlobId(bytes))];
        assert!(matches!(apply(&mut replica, &signed.sign(&ada.key)).outcome, Outcome::HeldBack { .. }));
    }
    assert_eq!(replica.held_back(), limits::HELD_CHANGES_MAX);
    // By bytes as well: large changes fill the buffer long before their number does.
    let text = "x".repeat(8000);
    signed.operations = vec![wanted::description(&text); 7];
    for n in 0..200u64 {
        let mut bytes = [1; 32];
        bytes[..8].copy_from_slice(&n.to_be_bytes());
        signed.deps = vec![ChangeHash(BlobId(bytes))];
        apply(&mut replica, &signed.sign(&ada.key));
    }
    assert!(replica.held_back() * 56_000 <= limits::HELD_LEN_MAX, "{}", replica.held_back());
}

#[test]
fn a_held_change_that_breaks_its_chain_is_dropped_when_that_is_known() {
    let (mut replica, ada, document, next) = setting();
    let first = next.sign(&ada.key);
    let broken = Change { deps: vec![first.hash()], sequence: 7, ..next.clone() }.sign(&ada.key);
    assert!(matches!(apply(&mut replica, &broken).outcome, Outcome::HeldBack { .. }));
    let applied = apply(&mut replica, &first);
    assert_eq!(applied.outcome, Outcome::Counted);
    assert!(matches!(applied.dropped.as_slice(), [(hash, Refused::Chain(_))] if *hash == broken.hash()));
    assert_eq!(replica.held_back(), 0);
    assert_eq!(function(&replica, document).name, "g");
}

#[test]
fn of_two_changes_with_one_number_the_lower_hash_counts() {
    let (mut replica, ada, document, next) = setting();
    let signed: Vec<SignedChange> = (0..6)
        .map(|n| Change { operations: vec![wanted::name(&format!("n{n}"))], ..next.clone() }.sign(&ada.key))
        .collect();
    let lowest = signed.iter().min_by_key(|change| change.hash()).expect("some").clone();
    for (n, change) in signed.iter().enumerate() {
        let so_far = signed[..=n].iter().map(SignedChange::hash).min().expect("some");
        let outcome = apply(&mut replica, change).outcome;
        if so_far == change.hash() {
            assert_eq!(outcome, Outcome::Counted);
        } else {
            assert_eq!(outcome, Outcome::DoesNotCount(Reason::Equivocation));
        }
    }
    let Operation::Put { value: Scalar::Text(name), .. } = &lowest.decode().expect("change").operations[0] else {
        panic!("a name")
    };
    assert_eq!(&function(&replica, document).name, name);
    assert_eq!(replica.equivocators().collect::<Vec<_>>(), [(document, ada.key.public())]);
    // What continues a loser does not count either; the author goes on from the winner.
    let loser = signed.iter().find(|change| change.hash() != lowest.hash()).expect("some");
    let on_loser = Change { sequence: 3, deps: vec![loser.hash()], ..next.clone() }.sign(&ada.key);
    assert_eq!(apply(&mut replica, &on_loser).outcome, Outcome::DoesNotCount(Reason::Equivocation));
    ada.change(&mut replica, DocumentClass::Function, document, vec![wanted::name("after")]);
    assert_eq!(function(&replica, document).name, "after");
}

#[test]
fn equivocation_is_bounded() {
    let (mut replica, ada, _, next) = setting();
    let mut refused = 0;
    for n in 0..limits::EQUIVOCATIONS_MAX + 10 {
        let change = Change { operations: vec![wanted::name(&format!("n{n}"))], ..next.clone() };
        match replica.apply(&change.sign(&ada.key)) {
            Ok(_) => {}
            Err(Refused::Equivocates { author }) if author == ada.key.public() => refused += 1,
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(refused, 9);
}

#[test]
fn a_change_that_makes_the_document_too_large_does_not_count() {
    let (mut replica, ada, document, _) = setting();
    let labels = |from: usize, to: usize| -> Vec<Operation> {
        (from..to).map(|n| wanted::put(&["labels", &format!("l{n}")], Scalar::Text("x".into()))).collect()
    };
    ada.change(&mut replica, DocumentClass::Function, document, labels(0, 32));
    let wanted = shoal_crdt::Wanted {
        document,
        class: DocumentClass::Function,
        user: ada.user,
        author: ada.key.public(),
        operations: labels(32, 33),
    };
    let error = replica.prepare(wanted.clone()).expect_err("one too many");
    assert!(error.to_string().contains("33 entries, at most 32"), "{error}");
    assert_eq!(Problem::from(&error).kind, Kind::InvalidField);
    let (sequence, deps) = replica.next(&ada.key.public(), document);
    let first = replica.changes(document).next().expect("founding").decode().expect("change");
    let change = Change { sequence, deps, operations: wanted.operations, ..first };
    let outcome = apply(&mut replica, &change.sign(&ada.key)).outcome;
    assert!(matches!(outcome, Outcome::DoesNotCount(Reason::Schema(_))), "{outcome:?}");
    assert_eq!(function(&replica, document).labels.len(), 32);
    // It keeps its place, and the author goes on after it.
    let mut operations = vec![wanted::delete(&["labels", "l0"])];
    operations.extend(labels(32, 33));
    ada.change(&mut replica, DocumentClass::Function, document, operations);
    assert_eq!(function(&replica, document).labels.len(), 32);
    assert!(function(&replica, document).labels.contains_key("l32"));
}

#[test]
fn prepare_says_what_would_not_count() {
    let (mut replica, ada, document, _) = setting();
    let bob = Person::new(2, "bob");
    apply(&mut replica, &bob.founding);
    let class = DocumentClass::Function;
    let ask = |replica: &mut Replica, user, key: &SecretKey, operations| {
        let wanted = shoal_crdt::Wanted { document, class, user, author: key.public(), operations };
        replica.prepare(wanted).expect_err("refused")
    };
    let forbidden = ask(&mut replica, bob.user, &bob.key, vec![wanted::name("x")]);
    assert_eq!(forbidden, NotPrepared::WouldNotCount(Reason::NotOwner(bob.user)));
    assert_eq!(Problem::from(&forbidden).kind, Kind::Forbidden);
    let forged = ask(&mut replica, ada.user, &bob.key, vec![wanted::name("x")]);
    assert_eq!(Problem::from(&forged).kind, Kind::Forbidden);
    let dangling = ask(&mut replica, ada.user, &ada.key, vec![wanted::current(BlobId([1; 32]))]);
    assert!(dangling.to_string().contains("not among the versions"), "{dangling}");
    let invalid = ask(&mut replica, ada.user, &ada.key, vec![wanted::name("X")]);
    assert_eq!(Problem::from(&invalid).kind, Kind::InvalidField);
    let nobody = ObjectId::from_parts(1, 1, [0; 8]);
    let unknown = shoal_crdt::Wanted {
        document: ObjectId::from_parts(1, 1, bob.key.public().tag()),
        class,
        user: nobody,
        author: bob.key.public(),
        operations: wanted::function(&crate::world::new_function("f"), BlobId([1; 32]), 1),
    };
    assert_eq!(replica.prepare(unknown), Err(NotPrepared::WouldNotCount(Reason::UnknownUser(nobody))));
    assert_eq!(user(&replica, bob.user).name, "bob");
}

#[test]
fn random_bytes_are_refused() {
    let mut replica = replica();
    let mut chance = Chance(1);
    for _ in 0..2000 {
        let bytes: Vec<u8> = (0..chance.below(300)).map(|_| chance.next() as u8).collect();
        let signature = key(1).sign(Purpose::Change, &bytes);
        refuse(&mut replica, &SignedChange { bytes: bytes.into(), signature }, "no change");
    }
}
