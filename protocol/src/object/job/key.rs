//! Idempotency keys: whoever does not know whether a job was accepted submits it again under the same key.

use serde::{Deserialize, Serialize};

use crate::id::{BlobId, ObjectId};
use crate::limits::IDEMPOTENCY_KEY_LEN_MAX;
use crate::record::Accepted;
use crate::{Kind, Problem, codec};

/// The key that a job was submitted with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdempotencyKey {
    /// As the submitter chose it.
    pub key: String,
    /// The hash of what was submitted under it, submitter included: the same key with something else is a mistake.
    pub body: BlobId,
}

impl IdempotencyKey {
    /// Checks the bounds.
    pub fn check(&self) -> Result<(), Problem> {
        check_key(&self.key)
    }
}

/// Checks the bounds of an idempotency key.
pub fn check_key(key: &str) -> Result<(), Problem> {
    if (1..=IDEMPOTENCY_KEY_LEN_MAX).contains(&key.len()) && !key.chars().any(char::is_control) {
        return Ok(());
    }
    let detail = format!("idempotency_key: 1 to {IDEMPOTENCY_KEY_LEN_MAX} bytes without control characters");
    Err(Problem::new(Kind::InvalidField, detail))
}

/// What tells a key apart from all others of the mesh: 128 bits of a hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeyId(#[serde(with = "serde_bytes_16")] pub [u8; 16]);

impl KeyId {
    /// A key counts within the project of the function; where there is none, for the submitter among the functions of the
    /// same owner, since anybody may run these.
    pub fn new(project: Option<ObjectId>, function_owner: ObjectId, submitter: ObjectId, key: &str) -> Self {
        let scope = match project {
            Some(project) => (project, None),
            None => (function_owner, Some(submitter)),
        };
        let hash = blake3::derive_key("shoal idempotency key v1", &codec::encode(&(scope, key)));
        let mut id = [0; 16];
        id.copy_from_slice(hash.split_at(16).0);
        Self(id)
    }

    /// Of a job that was submitted with one.
    pub fn of(accepted: &Accepted) -> Option<Self> {
        let key = accepted.extras.key.as_ref()?;
        let spec = &accepted.spec;
        Some(Self::new(spec.project, spec.function_owner, spec.owner, &key.key))
    }
}

mod serde_bytes_16 {
    use serde::{Deserialize as _, Deserializer, Serializer, de};

    use crate::Octets;

    pub(super) fn serialize<S: Serializer>(id: &[u8; 16], s: S) -> Result<S::Ok, S::Error> {
        s.serialize_bytes(id)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<[u8; 16], D::Error> {
        let octets = Octets::deserialize(d)?;
        octets.0.as_ref().try_into().map_err(|_| de::Error::custom("a key's id has 16 bytes"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> ObjectId {
        ObjectId::from_parts(n, 0, [0; 8])
    }

    #[test]
    fn a_key_counts_within_its_project_or_for_its_submitter() {
        let of = |project, owner, submitter, key| KeyId::new(project, id(owner), id(submitter), key);
        assert_eq!(of(Some(id(9)), 1, 2, "k"), of(Some(id(9)), 3, 4, "k"));
        assert_ne!(of(Some(id(9)), 1, 2, "k"), of(Some(id(8)), 1, 2, "k"));
        assert_ne!(of(Some(id(9)), 1, 2, "k"), of(Some(id(9)), 1, 2, "l"));
        assert_eq!(of(None, 1, 2, "k"), of(None, 1, 2, "k"));
        assert_ne!(of(None, 1, 2, "k"), of(None, 1, 3, "k"));
        assert_ne!(of(None, 1, 2, "k"), of(Some(id(1)), 1, 2, "k"));
        let key = of(None, 1, 2, "k");
        assert_eq!(codec::decode::<KeyId>(&codec::encode(&key)), Ok(key));
    }

    #[test]
    fn bounds_are_named() {
        assert_eq!(check_key("order 7/2"), Ok(()));
        for bad in [String::new(), "a\nb".into(), "x".repeat(IDEMPOTENCY_KEY_LEN_MAX + 1)] {
            assert_eq!(check_key(&bad).expect_err("out of bounds").kind, Kind::InvalidField, "{bad:?}");
        }
    }
}
