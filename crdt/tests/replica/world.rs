//! People with keys, replicas, and ways to sign for them.

use shoal_crdt::{Applied, Facts, Object, Replica, Wanted, wanted};
use shoal_protocol::change::{Change, DocumentClass, Operation, SignedChange};
use shoal_protocol::id::IdSource;
use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::object::function::{Function, NewFunction};
use shoal_protocol::object::user::User;
use shoal_protocol::{BlobId, ObjectId};

pub(crate) fn mesh() -> PublicKey {
    SecretKey::of_open_mesh("test").public()
}

pub(crate) fn replica() -> Replica {
    Replica::new(mesh())
}

pub(crate) fn key(seed: u8) -> SecretKey {
    SecretKey::from_bytes([seed; 32])
}

/// A person with one key and a user document.
pub(crate) struct Person {
    pub(crate) key: SecretKey,
    pub(crate) user: ObjectId,
    pub(crate) ids: IdSource,
    pub(crate) founding: SignedChange,
}

impl Person {
    /// Founds the user, in a replica of their own.
    pub(crate) fn new(seed: u8, name: &str) -> Self {
        let key = key(seed);
        let mut ids = IdSource::new(&key.public(), None);
        let user = ids.mint(u64::from(seed) + 1);
        let operations = vec![wanted::name(name), wanted::key(&key.public(), "laptop")];
        let founding = prepare(&mut replica(), DocumentClass::User, user, user, &key, operations).sign(&key);
        Self { key, user, ids, founding }
    }

    /// Founds a function with one version, and applies it.
    pub(crate) fn function(&mut self, replica: &mut Replica, name: &str) -> ObjectId {
        let document = self.ids.mint(1000);
        let component = BlobId::of(name.as_bytes());
        let operations = wanted::function(&new_function(name), component, 100);
        self.change(replica, DocumentClass::Function, document, operations);
        document
    }

    /// Signs and applies a change.
    pub(crate) fn change(
        &self,
        replica: &mut Replica,
        class: DocumentClass,
        document: ObjectId,
        operations: Vec<Operation>,
    ) -> SignedChange {
        let signed = prepare(replica, class, document, self.user, &self.key, operations).sign(&self.key);
        apply(replica, &signed);
        signed
    }
}

pub(crate) fn prepare(
    replica: &mut Replica,
    class: DocumentClass,
    document: ObjectId,
    user: ObjectId,
    key: &SecretKey,
    operations: Vec<Operation>,
) -> Change {
    let wanted = Wanted { document, class, user, author: key.public(), operations };
    replica.prepare(wanted).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn apply(replica: &mut Replica, signed: &SignedChange) -> Applied {
    replica.apply(signed).unwrap_or_else(|error| panic!("{error}"))
}

pub(crate) fn new_function(name: &str) -> NewFunction {
    NewFunction::new(name, BlobId::of(name.as_bytes()))
}

pub(crate) fn function(replica: &Replica, id: ObjectId) -> Function {
    match replica.document(id) {
        Some(Facts { object: Object::Function { function, .. }, .. }) => function.clone(),
        other => panic!("no function: {other:?}"),
    }
}

pub(crate) fn user(replica: &Replica, id: ObjectId) -> User {
    match replica.document(id) {
        Some(Facts { object: Object::User(user), .. }) => user.clone(),
        other => panic!("no user: {other:?}"),
    }
}

/// All changes of a replica, documents in the order of [`Replica::ids`].
pub(crate) fn all_changes(replica: &Replica) -> Vec<SignedChange> {
    replica.ids().flat_map(|id| replica.changes(id)).cloned().collect()
}

/// Everything that two replicas with the same changes must agree on.
pub(crate) fn assert_equal(a: &mut Replica, b: &mut Replica) {
    let ids: Vec<ObjectId> = a.ids().collect();
    assert_eq!(ids, b.ids().collect::<Vec<_>>());
    for id in ids {
        assert_eq!(a.heads(id), b.heads(id));
        assert_eq!(a.document(id), b.document(id));
        assert_eq!(a.derived_heads(id), b.derived_heads(id));
        let hashes: Vec<_> = a.changes(id).map(SignedChange::hash).collect();
        for hash in hashes {
            assert_eq!(a.verdict(id, &hash), b.verdict(id, &hash));
        }
    }
    assert_eq!(a.digest(), b.digest());
}

/// SplitMix64: chance that is the same in every run.
pub(crate) struct Chance(pub(crate) u64);

impl Chance {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `bound` - 1.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound.max(1) as u64) as usize
    }

    pub(crate) fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            let j = self.below(i + 1);
            items.swap(i, j);
        }
    }
}
