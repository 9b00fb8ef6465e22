//! Bytes made to hurt: valid changes, mutated, and signed again by their authors.
//!
//! `SHOAL_FUZZ_CASES` sets how many cases each test runs; 2,000 unless it says otherwise.

use shoal_crdt::{Replica, limits, wanted};
use shoal_protocol::change::{Change, ChangeHash, DocumentClass, Operation, Scalar, SignedChange};
use shoal_protocol::key::{Purpose, SecretKey};
use shoal_protocol::{BlobId, ObjectId, Octets};

use crate::world::{Chance, Person, all_changes, apply, assert_equal, key, replica};

fn cases() -> usize {
    std::env::var("SHOAL_FUZZ_CASES").ok().and_then(|text| text.parse().ok()).unwrap_or(2000)
}

/// A user with a function of some history, and the keys that sign there.
fn target() -> (Replica, Person, ObjectId) {
    let mut ada = Person::new(1, "ada");
    let mut replica = replica();
    apply(&mut replica, &ada.founding);
    ada.change(&mut replica, DocumentClass::User, ada.user, vec![wanted::key(&key(2).public(), "second")]);
    let document = ada.function(&mut replica, "f");
    for n in 0..5 {
        ada.change(&mut replica, DocumentClass::Function, document, vec![wanted::name(&format!("n{n}"))]);
    }
    (replica, ada, document)
}

/// Applies a hostile change. It may be taken, since its author may change what they own, but it never costs more than
/// deriving each history that it touches anew, and never lets automerge see what it cannot derive.
fn attack(replica: &mut Replica, signed: &SignedChange) {
    let before = replica.work();
    let known: usize = replica.ids().map(|id| replica.changes(id).count()).sum();
    if let Ok(applied) = replica.apply(signed) {
        let text = format!("{:?}", applied.outcome);
        assert!(!text.contains("Underivable"), "{text}");
    }
    let after = replica.work();
    let bound = (known + limits::HELD_CHANGES_MAX + 1) as u64;
    assert!(after.derived - before.derived <= bound && after.forks - before.forks <= bound);
}

/// The replica still does its work, and its content does not depend on how it came to it.
fn assert_sound(replica: &mut Replica, chance: &mut Chance) {
    let mut changes = all_changes(replica);
    chance.shuffle(&mut changes);
    let mut other = crate::world::replica();
    for change in &changes {
        other.apply(change).unwrap_or_else(|error| panic!("{error}"));
    }
    assert_equal(replica, &mut other);
}

#[test]
fn mutated_bytes_never_panic() {
    let mut chance = Chance(11);
    for round in 0..cases().div_ceil(500) {
        let (mut replica, ada, _) = target();
        let originals = all_changes(&replica);
        for _ in 0..500 {
            let mut bytes = originals[chance.below(originals.len())].bytes.to_vec();
            for _ in 0..=chance.below(4) {
                mutate(&mut bytes, &mut chance);
            }
            let signature = ada.key.sign(Purpose::Change, &bytes);
            attack(&mut replica, &SignedChange { bytes: bytes.into(), signature });
        }
        if round == 0 {
            assert_sound(&mut replica, &mut chance);
        }
    }
}

fn mutate(bytes: &mut Vec<u8>, chance: &mut Chance) {
    let at = chance.below(bytes.len());
    match chance.below(7) {
        0 => bytes[at] ^= 1 << chance.below(8),
        1 => bytes[at] = chance.next() as u8,
        2 => drop(bytes.drain(at..(at + chance.below(9)).min(bytes.len()))),
        3 => bytes.insert(at, chance.next() as u8),
        4 => {
            // A head that announces more than there is, of every major type.
            let head = [(chance.below(8) as u8) << 5 | 0x1b, 0, 0, 0, chance.next() as u8, 255, 255, 255, 255];
            bytes.splice(at..at, head);
        }
        5 => {
            let (from, len) = (chance.below(bytes.len()), chance.below(64));
            let piece = bytes[from..(from + len).min(bytes.len())].to_vec();
            bytes.splice(at..at, piece);
        }
        _ => bytes.splice(at..at, std::iter::repeat_n(0x9f, chance.below(2000))).for_each(drop),
    }
    if bytes.is_empty() {
        bytes.push(0);
    }
}

#[test]
fn well_formed_nonsense_never_panics_and_keeps_replicas_equal() {
    let mut chance = Chance(12);
    for _ in 0..cases().div_ceil(250) {
        let (mut replica, ada, document) = target();
        let keys = [ada.key.clone(), key(2), key(3)];
        for _ in 0..250 {
            let change = nonsense(&replica, &ada, document, &keys, &mut chance);
            let signer = keys.iter().find(|key| key.public() == change.author).expect("one of them");
            attack(&mut replica, &change.sign(signer));
        }
        assert_sound(&mut replica, &mut chance);
    }
}

fn nonsense(replica: &Replica, ada: &Person, document: ObjectId, keys: &[SecretKey], chance: &mut Chance) -> Change {
    let target = if chance.below(3) == 0 { ada.user } else { document };
    let author = keys[chance.below(keys.len())].public();
    let originals: Vec<SignedChange> = replica.changes(target).cloned().collect();
    let mut change = originals[chance.below(originals.len())].decode().expect("change");
    let (sequence, deps) = replica.next(&author, target);
    change.author = author;
    change.sequence = if chance.below(4) == 0 { chance.below(8) as u64 } else { sequence };
    change.deps = match chance.below(6) {
        0 => vec![originals[chance.below(originals.len())].hash()],
        1 => vec![ChangeHash(BlobId([chance.next() as u8; 32]))],
        2 => originals.iter().map(SignedChange::hash).take(chance.below(20)).collect(),
        _ => deps,
    };
    change.deps.sort_unstable();
    if chance.below(8) == 0 {
        change.user = ObjectId::from_parts(chance.next(), 0, author.tag());
    }
    if chance.below(16) == 0 {
        change.sequence = u64::MAX - chance.below(2) as u64;
    }
    if chance.below(3) > 0 {
        change.operations = (0..chance.below(6)).map(|_| operation(chance)).collect();
    }
    change
}

fn operation(chance: &mut Chance) -> Operation {
    let hash = BlobId([chance.below(3) as u8; 32]).to_string();
    let words = [
        "name", "owner", "keys", "nodes", "versions", "labels", "needs", "limits", "current", "deleted", "", "a/b", "~",
    ];
    let path = match chance.below(8) {
        0 => vec!["versions".to_owned(), hash, ["number", "size", "note"][chance.below(3)].to_owned()],
        1 => vec!["keys".to_owned(), hash],
        2 => vec!["labels".to_owned(), format!("l{}", chance.below(40))],
        3 => vec!["current".to_owned()],
        4 => vec!["name".to_owned()],
        5 => vec!["description".to_owned()],
        _ => (0..chance.below(6)).map(|_| words[chance.below(words.len())].to_owned()).collect(),
    };
    let value = match chance.below(6) {
        0 => Scalar::Bool(chance.below(2) == 0),
        1 => Scalar::Int(chance.next() as i64 >> chance.below(64)),
        2 => Scalar::Text(BlobId([chance.below(3) as u8; 32]).to_string()),
        3 => Scalar::Bytes(Octets::from(vec![0; chance.below(100)])),
        4 => Scalar::Text("\u{0}\u{202e}é~/".repeat(chance.below(50))),
        _ => Scalar::Text(format!("n{}", chance.below(10))),
    };
    match chance.below(8) {
        0 => Operation::Add { path, amount: chance.next() as i64 },
        1 | 2 => Operation::Delete { path },
        _ => Operation::Put { path, value },
    }
}
