//! Entries of the global key-value store: decoded, their form and their signature checked, as far as no node is needed.
//!
//! Whose right an entry was written by is told by the node's directory, which only the node has.

use shoal_kernel::kv;
use shoal_protocol::entry::{self, Content, Entry, SignedEntry};
use shoal_protocol::key::{PublicKey, Purpose, SecretKey};
use shoal_protocol::object::kv::Value;
use shoal_protocol::wire::gossip::Gossip;
use shoal_protocol::wire::sync::ITEM_LEN_MAX;
use shoal_protocol::{BlobId, NodeId, ObjectId, codec};

use super::changes::mesh;
use super::mutate::mutated;
use super::{Stopwatch, Target};
use crate::sim::random::Random;

struct Entries {
    valid: Vec<Vec<u8>>,
    key: SecretKey,
}

/// One node's entries.
pub fn make(_: &mut Random) -> Box<dyn Target> {
    let key = SecretKey::from_bytes([9; 32]);
    let valid = all(&key, ObjectId::from_parts(1, 0, key.public().tag())).iter().map(codec::encode).collect();
    Box::new(Entries { valid, key })
}

/// An entry of each kind, of this node and in this namespace.
pub fn all(key: &SecretKey, namespace: ObjectId) -> Vec<Entry> {
    let contents = [
        Content::Value(Value::Text("a value".into())),
        Content::Value(Value::Bytes(vec![7; 5_000].into())),
        Content::Value(Value::Blob(BlobId([4; 32]))),
        Content::Tombstone,
        Content::Total { amount: -7, since: 3 },
    ];
    let entry = |content| Entry {
        version: entry::VERSION,
        mesh: mesh(),
        namespace,
        key: "a/key".into(),
        content,
        counter: 12,
        node: NodeId::from(key.public()),
        author: namespace,
        job: Some(ObjectId::from_parts(3, 1, *b"homenode")),
    };
    contents.map(entry).into()
}

/// Makes an entry hostile, and signs it.
pub fn hostile(valid: &[Vec<u8>], key: &SecretKey, random: &mut Random) -> SignedEntry {
    let entry = random.pick(valid).cloned().unwrap_or_default();
    let bytes = mutated(&entry, valid, random);
    SignedEntry { signature: key.sign(Purpose::Entry, &bytes), bytes: bytes.into() }
}

impl Target for Entries {
    fn feed(&mut self, random: &mut Random, stopwatch: &mut Stopwatch) -> bool {
        let envelope = codec::encode(&Gossip::Entry(hostile(&self.valid, &self.key, random)));
        stopwatch.time(|| {
            let Ok(Gossip::Entry(signed)) = codec::decode(&envelope) else { return false };
            if signed.bytes.len() > ITEM_LEN_MAX {
                return false;
            }
            let Ok(entry) = signed.decode() else { return false };
            let form = kv::check_key(&entry.key);
            let form = form.and(match &entry.content {
                Content::Value(value) => kv::check_value(value),
                Content::Tombstone | Content::Total { .. } => Ok(()),
            });
            let signed = PublicKey::from(entry.node).verify(Purpose::Entry, &signed.bytes, &signed.signature);
            let mut known = kv::Known::default();
            if form.is_ok() && signed {
                match entry.content {
                    Content::Total { .. } => known.totals = vec![entry.clone(), entry],
                    Content::Value(_) | Content::Tombstone => known.register = Some(entry),
                }
                // What a write of ours makes of what stands.
                drop((
                    known.current(),
                    known.set(Value::Text(String::new())),
                    known.delete(),
                    known.increment(None, i64::MAX),
                ));
            }
            true
        })
    }
}
