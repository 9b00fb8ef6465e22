//! Changes of documents: from the envelope of gossip to their place in a replica that is well filled.

use shoal_crdt::{Outcome, Refused, Replica, Wanted, limits, wanted};
use shoal_protocol::change::{Change, ChangeHash, DocumentClass, Operation, Scalar, SignedChange};
use shoal_protocol::id::IdSource;
use shoal_protocol::key::{PublicKey, Purpose, SecretKey};
use shoal_protocol::limits::GOSSIP_LEN_MAX;
use shoal_protocol::object::function::NewFunction;
use shoal_protocol::wire::gossip::Gossip;
use shoal_protocol::{BlobId, NodeId, ObjectId, codec};

use super::mutate::{below, mutated};
use super::{Stopwatch, Target};
use crate::sim::random::Random;

/// People, each with keys of their own and a node that signs for them.
const PEOPLE: u8 = 4;
/// Keys of each: the first founds the user, the last is listed by nobody.
const KEYS: u8 = 4;
/// Functions of each.
const FUNCTIONS: u64 = 15;
/// The history of each person's busiest function, in changes.
const LONG: usize = 120;
/// The history of the one function whose owner is the enemy: nearly full, each change beside the heads.
const BUSH: usize = limits::HISTORY_LEN_MAX - 100;
/// Of a hundred changes so many are signed by another key than the one that they name.
const FORGED_PERCENT: u64 = 4;

/// A person, by their keys.
struct Person {
    user: ObjectId,
    keys: Vec<SecretKey>,
}

/// The replica, and what is known of it from outside.
struct Changes {
    replica: Replica,
    people: Vec<Person>,
    /// Each with whose it is.
    documents: Vec<(ObjectId, DocumentClass, usize)>,
    /// Changes that were taken, of which others are made.
    taken: Vec<Vec<u8>>,
}

/// A replica of four people and their functions.
pub fn make(random: &mut Random) -> Box<dyn Target> {
    let mut changes =
        Changes { replica: Replica::new(mesh()), people: Vec::new(), documents: Vec::new(), taken: Vec::new() };
    for number in 0..PEOPLE {
        changes.add_person(number, random);
    }
    changes.add_bush();
    Box::new(changes)
}

/// The mesh that everything hostile is for.
pub fn mesh() -> PublicKey {
    SecretKey::of_open_mesh("hostile").public()
}

impl Changes {
    fn add_person(&mut self, number: u8, random: &mut Random) {
        let keys: Vec<SecretKey> = (0..KEYS).map(|key| SecretKey::from_bytes([1 + number * KEYS + key; 32])).collect();
        let Some(first) = keys.first() else { return };
        let mut ids = IdSource::new(&first.public(), None);
        let user = ids.mint(1);
        let whose = self.people.len();
        let name = format!("person-{number}");
        let mut operations = vec![wanted::name(&name), wanted::key(&first.public(), "first")];
        operations.extend(keys.get(1).map(|key| wanted::key(&key.public(), "second")));
        operations.extend(keys.get(2).map(|key| wanted::node(&NodeId::from(key.public()))));
        self.people.push(Person { user, keys });
        self.write(user, DocumentClass::User, whose, 0, operations);
        for function in 0..FUNCTIONS {
            let document = ids.mint(2 + function);
            let new = NewFunction::new(format!("f{function}"), BlobId::of(&function.to_be_bytes()));
            self.write(document, DocumentClass::Function, whose, 0, wanted::function(&new, new.component, 1000));
            let more = if function == 0 { LONG } else { below(6, random) };
            for change in 0..more {
                self.write(document, DocumentClass::Function, whose, change % 3, vec![description(change)]);
            }
        }
        let project = ids.mint(1000);
        self.write(project, DocumentClass::Project, whose, 0, vec![wanted::name("project")]);
    }

    /// An honest change by one of the person's keys.
    fn write(
        &mut self,
        document: ObjectId,
        class: DocumentClass,
        whose: usize,
        key: usize,
        operations: Vec<Operation>,
    ) {
        let Some(person) = self.people.get(whose) else { return };
        let Some(key) = person.keys.get(key) else { return };
        let wanted = Wanted { document, class, user: person.user, author: key.public(), operations };
        let Ok(change) = self.replica.prepare(wanted) else { return };
        if self.replica.apply(&change.sign(key)).is_ok() {
            self.taken.push(codec::encode(&change));
            if !self.documents.iter().any(|(known, ..)| *known == document) {
                self.documents.push((document, class, whose));
            }
        }
    }

    /// A function of which each change stands on one far behind, so that none continues what is open: what its owner can
    /// do to make it dear.
    fn add_bush(&mut self) {
        let Some(&(document, class, whose)) =
            self.documents.iter().find(|(_, class, _)| *class == DocumentClass::Function)
        else {
            return;
        };
        let Some(person) = self.people.get(whose) else { return };
        let mut signed: Vec<SignedChange> = self.replica.changes(document).cloned().collect();
        while signed.len() < BUSH {
            let place = signed.len();
            let (Some(on), Some(key)) = (signed.get(place * 3 / 4), person.keys.get(place % 3)) else { return };
            let (user, author, deps) = (person.user, key.public(), vec![on.hash()]);
            let change = Change {
                version: 1,
                mesh: mesh(),
                document,
                class,
                user,
                author,
                sequence: 0,
                deps,
                operations: vec![description(place)],
            };
            // The number is how often the key stands in the past of that one: found by trial.
            let numbers = (1..=place as u64 + 1).rev();
            let one = numbers.map(|sequence| Change { sequence, ..change.clone() }.sign(key));
            let Some(one) = one.into_iter().find(|one| self.replica.apply(one).is_ok()) else { return };
            signed.push(one);
        }
    }

    /// A change that would be right, or is wrong by its place: then its form is made wrong, and it is signed.
    fn input(&mut self, random: &mut Random) -> Option<SignedChange> {
        let change = self.next(random)?;
        let bytes = mutated(&codec::encode(&change), &self.taken, random);
        // Whoever the bytes name signs, if their key is at hand: so what is wrong is found by more than the signature.
        let named = codec::decode::<Change>(&bytes).map_or(change.author, |change| change.author);
        let keys = || self.people.iter().flat_map(|person| &person.keys);
        let named = keys().find(|key| key.public() == named && !random.percent(FORGED_PERCENT));
        let key = named.or_else(|| keys().nth(below(keys().count(), random)))?;
        Some(SignedChange { signature: key.sign(Purpose::Change, &bytes), bytes: bytes.into() })
    }

    fn next(&mut self, random: &mut Random) -> Option<Change> {
        let (document, class, whose) = *self.documents.get(below(self.documents.len(), random))?;
        // Now and then by somebody else.
        let whose = if random.percent(10) { below(self.people.len(), random) } else { whose };
        let person = self.people.get(whose)?;
        let author = person.keys.get(below(person.keys.len(), random))?.public();
        let (sequence, deps) = self.replica.next(&author, document);
        let operations = (0..random.within(1..4)).map(|_| operation(class, random)).collect();
        let mut change =
            Change { version: 1, mesh: mesh(), document, class, user: person.user, author, sequence, deps, operations };
        if random.percent(40) {
            self.displace(&mut change, random);
        }
        Some(change)
    }

    /// Another number, other dependencies, another document: what equivocates, and what stands beside the heads.
    fn displace(&self, change: &mut Change, random: &mut Random) {
        let history: Vec<&SignedChange> = self.replica.changes(change.document).collect();
        let some = |random: &mut Random| history.get(below(history.len(), random)).map(|signed| signed.hash());
        match random.within(0..7) {
            0 => change.sequence = random.within(0..change.sequence.saturating_add(3)),
            1 => change.sequence = u64::MAX - random.within(0..2),
            2 => change.deps = some(random).into_iter().collect(),
            3 => {
                change.deps = (0..random.within(1..20)).filter_map(|_| some(random)).collect();
                change.deps.sort_unstable();
                change.deps.dedup();
            }
            4 => change.deps = vec![ChangeHash(BlobId([random.draw() as u8; 32]))],
            5 => {
                // Beside its author's last change: another one of the same number, on what that one stood on.
                let theirs = history.iter().filter_map(|signed| signed.decode().ok());
                let theirs: Vec<Change> = theirs.filter(|known| known.author == change.author).collect();
                if let Some(former) = random.pick(&theirs) {
                    (change.sequence, change.deps) = (former.sequence, former.deps.clone());
                }
            }
            _ => {
                // A document of its own, founded.
                change.document = ObjectId::from_parts(random.draw() >> 20, 0, change.author.tag());
                (change.sequence, change.deps) = (1, Vec::new());
                change.operations.push(wanted::owner(change.user));
            }
        }
    }
}

impl Target for Changes {
    fn feed(&mut self, random: &mut Random, stopwatch: &mut Stopwatch) -> bool {
        let Some(signed) = self.input(random) else { return false };
        let envelope = codec::encode(&Gossip::Change(signed));
        // What is longer never comes to the decoder: the mesh reads no longer message of gossip.
        if envelope.len() > GOSSIP_LEN_MAX {
            return false;
        }
        let replica = &mut self.replica;
        let fed = stopwatch.time(|| match codec::decode(&envelope) {
            Ok(Gossip::Change(signed)) => Some((replica.apply(&signed), signed)),
            _ => None,
        });
        match fed {
            None => false,
            Some((Ok(applied), signed)) => {
                let own_fault = format!("{:?}", applied.outcome).contains("Underivable");
                assert!(!own_fault, "what was admitted cannot be derived: {:?}", applied.outcome);
                if applied.outcome == Outcome::Counted && self.taken.len() < 1_000 {
                    self.taken.push(signed.bytes.to_vec());
                }
                true
            }
            Some((Err(refused), _)) => !matches!(
                refused,
                Refused::TooLong { .. }
                    | Refused::Malformed(_)
                    | Refused::Version { .. }
                    | Refused::Mesh { .. }
                    | Refused::Signature { .. }
            ),
        }
    }

    fn check(&self) -> Result<(), String> {
        let longest = self.replica.ids().map(|id| self.replica.changes(id).count()).max().unwrap_or_default();
        if longest > limits::HISTORY_LEN_MAX {
            return Err(format!("a history has {longest} changes, at most {}", limits::HISTORY_LEN_MAX));
        }
        let held = self.replica.held_back();
        if held > limits::HELD_CHANGES_MAX {
            return Err(format!("{held} changes are held back, at most {}", limits::HELD_CHANGES_MAX));
        }
        Ok(())
    }
}

fn description(number: usize) -> Operation {
    wanted::description(&format!("change {number}"))
}

/// An operation that its class has, in most cases.
fn operation(class: DocumentClass, random: &mut Random) -> Operation {
    let key = SecretKey::from_bytes([random.within(1..40) as u8; 32]).public();
    let hash = BlobId([random.within(0..200) as u8; 32]);
    let number = random.within(0..40);
    let label = |value: &str| wanted::put(&["labels", &format!("l{number}")], Scalar::Text(value.to_owned()));
    match (class, random.within(0..8)) {
        (_, 0) => wanted::name(&format!("n{number}")),
        (_, 1) => label("value"),
        (_, 2) => wanted::delete(&["labels"]),
        (_, 3) => wanted::deleted(random.percent(50)),
        (DocumentClass::User, 4 | 5) => wanted::key(&key, &"note ".repeat(number as usize)),
        (DocumentClass::User, 6) => wanted::node(&NodeId::from(key)),
        (DocumentClass::User, _) => wanted::remove_key(&key),
        (DocumentClass::Project, 4 | 5) => wanted::weight(number as u32),
        (DocumentClass::Project, _) => wanted::member(ObjectId::from_parts(number, 0, key.tag()), "developer"),
        (DocumentClass::Function, 4) => wanted::description(&"d".repeat(number as usize * 200)),
        (DocumentClass::Function, 5) => wanted::current(hash),
        (DocumentClass::Function, 6) => wanted::remove_version(hash),
        (DocumentClass::Function, _) => {
            wanted::put(&["versions", &hash.to_string(), "size"], Scalar::Int(number as i64))
        }
    }
}
