//! Who signs changes: people with several keys who use them at any node, nodes that sign for people, and strangers.
//!
//! A key that is used at two nodes which have not heard of each other's changes signs one number twice: nobody means ill.

use shoal_crdt::{Object, Replica, Wanted, wanted};
use shoal_protocol::change::{self, Change, DocumentClass, Operation, Scalar, SignedChange};
use shoal_protocol::id::IdSource;
use shoal_protocol::key::SecretKey;
use shoal_protocol::object::function::NewFunction;
use shoal_protocol::{BlobId, NodeId, ObjectId};

use super::mesh_key;
use crate::sim::coverage::Coverage;
use crate::sim::mutations::Bugs;
use crate::sim::random::Random;

/// People of a mesh.
const PEOPLE: u64 = 4;
/// Projects and functions of a mesh.
const DOCUMENTS_MAX: usize = 10;

/// Somebody with a key that founds a user, and one that may get listed.
#[derive(Debug)]
struct Person {
    user: ObjectId,
    founded: bool,
    key: SecretKey,
    other_key: SecretKey,
    ids: IdSource,
}

/// A document that somebody has founded, at some node.
#[derive(Debug, Clone, Copy)]
struct Founded {
    id: ObjectId,
    class: DocumentClass,
    owner: usize,
}

/// Everybody who signs.
#[derive(Debug)]
pub(crate) struct Authors {
    people: Vec<Person>,
    stranger: SecretKey,
    documents: Vec<Founded>,
    /// Makes what is written differ.
    number: u64,
}

fn secret(kind: u8, number: u64) -> SecretKey {
    let mut bytes = [kind; 32];
    bytes.iter_mut().zip(number.to_be_bytes()).for_each(|(byte, of)| *byte = of);
    SecretKey::from_bytes(bytes)
}

/// The key with which a node signs.
fn node_key(place: usize) -> SecretKey {
    secret(3, place as u64)
}

impl Authors {
    pub(crate) fn new() -> Self {
        let person = |number: u64| {
            let key = secret(1, number);
            let mut ids = IdSource::new(&key.public(), None);
            Person { user: ids.mint(1 + number), founded: false, key, other_key: secret(2, number), ids }
        };
        Self { people: (0..PEOPLE).map(person).collect(), stranger: secret(4, 0), documents: Vec::new(), number: 0 }
    }

    /// Somebody signs something by what the node at this place knows: mostly one change; two when they use the same key
    /// at two nodes at once.
    pub(crate) fn sign<F: Bugs>(
        &mut self,
        place: usize,
        replica: &mut Replica<F>,
        random: &mut Random,
        coverage: &mut Coverage,
    ) -> Vec<SignedChange> {
        self.number += 1;
        if self.people.iter().any(|person| !person.founded) && (self.number == 1 || random.percent(30)) {
            return self.found_user(replica, random).into_iter().collect();
        }
        let founded = self.documents.len().saturating_sub(self.people.len());
        if founded < DOCUMENTS_MAX && random.percent(25) {
            return self.found_document(replica, random).into_iter().collect();
        }
        let Some(document) = random.pick(&self.documents).copied() else { return Vec::new() };
        let twice = random.percent(5);
        let Some((user, key)) = self.signer(place, document, random) else { return Vec::new() };
        let mut signed = Vec::new();
        for _ in 0..if twice { 2 } else { 1 } {
            self.number += 1;
            let operations = self.operations(replica, document, random, coverage);
            let wanted =
                Wanted { document: document.id, class: document.class, user, author: key.public(), operations };
            signed.extend(prepare(replica, wanted, random).map(|change| change.sign(&key)));
        }
        signed
    }

    fn found_user<F: Bugs>(&mut self, replica: &mut Replica<F>, random: &mut Random) -> Option<SignedChange> {
        let index = self.people.iter().position(|person| !person.founded)?;
        let person = self.people.get_mut(index)?;
        person.founded = true;
        let (id, class) = (person.user, DocumentClass::User);
        self.documents.push(Founded { id, class, owner: index });
        let operations = vec![wanted::name(&format!("person-{index}")), wanted::key(&person.key.public(), "laptop")];
        let wanted = Wanted { document: id, class, user: id, author: person.key.public(), operations };
        prepare(replica, wanted, random).map(|change| change.sign(&person.key))
    }

    /// Also by people of whom the node has not heard yet.
    fn found_document<F: Bugs>(&mut self, replica: &mut Replica<F>, random: &mut Random) -> Option<SignedChange> {
        let owner = random.within(0..self.people.len() as u64) as usize;
        let number = self.number;
        let person = self.people.get_mut(owner)?;
        let id = person.ids.mint(1_000 + number);
        let mut operations = vec![wanted::owner(person.user)];
        let class = if random.percent(60) {
            let component = BlobId::of(&number.to_be_bytes());
            operations.extend(wanted::function(&NewFunction::new("function", component), component, number));
            DocumentClass::Function
        } else {
            operations.push(wanted::name("project"));
            DocumentClass::Project
        };
        self.documents.push(Founded { id, class, owner });
        let wanted = Wanted { document: id, class, user: person.user, author: person.key.public(), operations };
        prepare(replica, wanted, random).map(|change| change.sign(&person.key))
    }

    /// In whose name, and with which key: the owner's own, one that may be listed, the node's, somebody else's.
    fn signer(&self, place: usize, document: Founded, random: &mut Random) -> Option<(ObjectId, SecretKey)> {
        let owner = self.people.get(document.owner)?;
        Some(match random.within(0..100) {
            0..60 => (owner.user, owner.key.clone()),
            60..75 => (owner.user, owner.other_key.clone()),
            75..90 => (owner.user, node_key(place)),
            90..95 => (owner.user, self.stranger.clone()),
            _ => random.pick(&self.people).map(|person| (person.user, person.key.clone()))?,
        })
    }

    fn operations<F: Bugs>(
        &self,
        replica: &Replica<F>,
        document: Founded,
        random: &mut Random,
        coverage: &mut Coverage,
    ) -> Vec<Operation> {
        let number = self.number;
        match random.within(0..10) {
            0..4 => {
                let label = format!("l{}", number % 3);
                vec![wanted::put(&["labels", &label], Scalar::Text(format!("v{number}")))]
            }
            4 => vec![wanted::name(&format!("name-{}", number % 5))],
            5 => {
                coverage.hit("documents deleted or taken back");
                vec![wanted::deleted(random.percent(60))]
            }
            _ => match document.class {
                DocumentClass::User => self.keys(document.owner, random, coverage),
                DocumentClass::Project => self.project(random),
                DocumentClass::Function => self.function(replica, document.id),
            },
        }
    }

    /// Lists a key or a node, or takes one away.
    fn keys(&self, owner: usize, random: &mut Random, coverage: &mut Coverage) -> Vec<Operation> {
        let Some(person) = self.people.get(owner) else { return Vec::new() };
        let key = person.other_key.public();
        let node = NodeId::from(node_key(random.within(0..3) as usize).public());
        let removal = random.percent(35);
        if removal {
            coverage.hit("keys and nodes taken from users");
        }
        match (random.percent(50), removal) {
            (true, false) => vec![wanted::key(&key, "listed")],
            (true, true) => vec![wanted::remove_key(&key)],
            (false, false) => vec![wanted::node(&node)],
            (false, true) => vec![wanted::remove_node(&node)],
        }
    }

    fn project(&self, random: &mut Random) -> Vec<Operation> {
        let Some(person) = random.pick(&self.people) else { return Vec::new() };
        match random.within(0..3) {
            0 => vec![wanted::member(person.user, "developer")],
            1 => vec![wanted::remove_member(person.user)],
            _ => vec![wanted::weight(1 + (self.number % 100) as u32)],
        }
    }

    /// Deploys another version, where the function is known.
    fn function<F: Bugs>(&self, replica: &Replica<F>, id: ObjectId) -> Vec<Operation> {
        match replica.document(id).map(|facts| &facts.object) {
            Some(Object::Function { function, .. }) => {
                let component = BlobId::of(&(self.number % 7).to_be_bytes());
                wanted::deploy(function, component, 1, "")
            }
            _ => vec![wanted::description(&format!("number {}", self.number))],
        }
    }
}

/// The change as the node prepares it. Some insist on a change that the node would not prepare.
fn prepare<F: Bugs>(replica: &mut Replica<F>, wanted: Wanted, random: &mut Random) -> Option<Change> {
    let Wanted { document, class, user, author, operations } = wanted.clone();
    if let Ok(change) = replica.prepare(wanted) {
        return Some(change);
    }
    if random.percent(30) {
        return None;
    }
    let (sequence, deps) = replica.next(&author, document);
    Some(Change {
        version: change::VERSION,
        mesh: mesh_key(),
        document,
        class,
        user,
        author,
        sequence,
        deps,
        operations,
    })
}
