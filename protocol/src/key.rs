//! Keys and signatures: ed25519, under a prefix that names the purpose.
//!
//! A node's key also speaks libp2p and iroh, so a signature of ours must never be mistaken for one of theirs, nor a
//! change for an admission. Each purpose has its own prefix, and signatures cover the bytes as received.

use std::fmt;
use std::str::FromStr;

use ed25519_dalek::{Signer as _, SigningKey, VerifyingKey};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::{NodeId, ObjectId, ParseError, bytes32, fixed_bytes, parse_text, text_or_bytes};

bytes32! {
    /// An ed25519 public key of a user, a node or a mesh.
    PublicKey
}

impl PublicKey {
    /// The tag of ids minted under this key: the first 8 bytes of its BLAKE3 hash.
    pub fn tag(&self) -> [u8; 8] {
        let hash = blake3::hash(&self.0);
        let mut tag = [0; 8];
        tag.copy_from_slice(hash.as_bytes().get(..8).unwrap_or(&[0; 8]));
        tag
    }

    /// Whether `signature` is this key's, for this purpose, over exactly these bytes.
    pub fn verify(&self, purpose: Purpose, bytes: &[u8], signature: &Signature) -> bool {
        let Ok(key) = VerifyingKey::from_bytes(&self.0) else { return false };
        let signature = ed25519_dalek::Signature::from_bytes(&signature.0);
        // `verify_strict` refuses keys of small order, with which one signature fits many messages.
        key.verify_strict(&purpose.covered(bytes), &signature).is_ok()
    }
}

impl From<NodeId> for PublicKey {
    fn from(node: NodeId) -> Self {
        Self(node.0)
    }
}

impl From<PublicKey> for NodeId {
    fn from(key: PublicKey) -> Self {
        Self(key.0)
    }
}

/// What a signature is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purpose {
    /// A change of a user, project or function.
    Change,
    /// A signed entry of the global KV.
    Entry,
    /// A ticket with which a worker attaches.
    WorkerTicket,
    /// The set of nodes that keep the jobs of a home.
    Custodians,
    /// The word of a member of such a set that another member is to act for the home.
    Vote,
}

impl Purpose {
    /// The prefix that is signed before the bytes.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Change => "shoal/change/v1",
            Self::Entry => "shoal/entry/v1",
            Self::WorkerTicket => "shoal/worker-ticket/v1",
            Self::Custodians => "shoal/custodians/v1",
            Self::Vote => "shoal/vote/v1",
        }
    }

    /// Prefix, a zero byte, the bytes: no prefix is the start of another's message.
    fn covered(self, bytes: &[u8]) -> Vec<u8> {
        let mut covered = Vec::with_capacity(self.prefix().len() + 1 + bytes.len());
        covered.extend_from_slice(self.prefix().as_bytes());
        covered.push(0);
        covered.extend_from_slice(bytes);
        covered
    }
}

/// An ed25519 signature.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signature(pub [u8; 64]);

impl fmt::Display for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl fmt::Debug for Signature {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Signature(..)")
    }
}

impl FromStr for Signature {
    type Err = ParseError;
    fn from_str(text: &str) -> Result<Self, ParseError> {
        let mut bytes = [0u8; 64];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| ParseError::Hex)?;
        Ok(Self(bytes))
    }
}

impl Serialize for Signature {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        text_or_bytes(s, self, &self.0)
    }
}

impl<'de> Deserialize<'de> for Signature {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        if d.is_human_readable() { parse_text(d) } else { fixed_bytes::<64, D>(d).map(Self) }
    }
}

impl schemars::JsonSchema for Signature {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Signature".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^[0-9a-f]{128}$" })
    }
}

/// A secret key. It is never printed, and leaves the process only into a file that its owner alone can read.
#[derive(Clone)]
pub struct SecretKey(SigningKey);

impl SecretKey {
    /// The key of these 32 bytes: the same bytes are the same key in libp2p and iroh.
    pub fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(SigningKey::from_bytes(&bytes))
    }

    /// The key of the open mesh of this name. Everybody can derive it: that is what makes the mesh open.
    pub fn of_open_mesh(name: &str) -> Self {
        Self::from_bytes(blake3::derive_key("shoal open mesh key v1", name.as_bytes()))
    }

    /// The 32 bytes, to be kept in a file.
    pub fn to_bytes(&self) -> [u8; 32] {
        self.0.to_bytes()
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.0.verifying_key().to_bytes())
    }

    /// Signs a call to a URL in the form of Standard Webhooks (`v1a`): over the call's id, the time in seconds since the Unix
    /// epoch, and the body, with dots between, under no prefix of ours. It is no signature for another purpose: an id begins
    /// with none of their prefixes.
    pub fn sign_call(&self, id: ObjectId, time_s: u64, body: &[u8]) -> Signature {
        let mut covered = format!("{id}.{time_s}.").into_bytes();
        covered.extend_from_slice(body);
        Signature(self.0.sign(&covered).to_bytes())
    }

    /// Signs the bytes for this purpose.
    pub fn sign(&self, purpose: Purpose, bytes: &[u8]) -> Signature {
        Signature(self.0.sign(&purpose.covered(bytes)).to_bytes())
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SecretKey of {:?}", self.public())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signature_counts_for_its_purpose_and_bytes_only() {
        let key = SecretKey::from_bytes([3; 32]);
        let signature = key.sign(Purpose::Change, b"bytes");
        assert!(key.public().verify(Purpose::Change, b"bytes", &signature));
        assert!(!key.public().verify(Purpose::Entry, b"bytes", &signature));
        assert!(!key.public().verify(Purpose::Change, b"byte", &signature));
        assert!(!SecretKey::from_bytes([4; 32]).public().verify(Purpose::Change, b"bytes", &signature));
    }

    #[test]
    fn the_open_mesh_of_a_name_is_the_same_everywhere() {
        let text = SecretKey::of_open_mesh("default").public().to_string();
        assert_eq!(text, SecretKey::of_open_mesh("default").public().to_string());
        assert_ne!(text, SecretKey::of_open_mesh("other").public().to_string());
    }
}
