//! Custodians: the nodes that keep the jobs of a home with it, so that the loss of one machine loses none of them.
//!
//! A home names its custodians in a *set*: numbered, signed by the home, and never changed. Each job says the number of the
//! set under which it was accepted, and stays with that set; jobs that are accepted later may come under a later one. What
//! is kept of a job is its record, [`crate::record`], with what the record refers to.

use std::num::NonZeroU8;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::id::NodeId;
use crate::key::{PublicKey, Purpose, SecretKey, Signature};
use crate::{Kind, Octets, Problem};

/// The version of [`CustodianSet`] that this package writes.
pub const VERSION: u8 = 1;

/// Members of a set, the home among them. Why 3: the least of which any two are a majority; each more costs an fsync of
/// another machine for every job.
pub const MEMBERS_MAX: usize = 3;

/// The highest durability that can be asked for: every member has the job.
pub const DURABILITY_MAX: u8 = MEMBERS_MAX as u8;

/// The nodes that keep the jobs that a home accepts under this number.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustodianSet {
    /// [`VERSION`].
    pub version: u8,
    /// The home.
    pub home: NodeId,
    /// From 1 on, rising with each set of this home.
    pub number: u32,
    /// The home first, then those that keep its jobs with it.
    pub members: Vec<NodeId>,
}

impl CustodianSet {
    /// Checks the shape: two or three members, each once, the home first.
    pub fn check(&self) -> Result<(), Problem> {
        let refused = |detail: String| Err(Problem::new(Kind::InvalidField, detail));
        if self.version != VERSION {
            return refused(format!("custodians: version is {}; this node reads {VERSION}", self.version));
        }
        if self.number == 0 || self.members.first() != Some(&self.home) {
            return refused("custodians: a set has a number from 1 on, and its home stands first".into());
        }
        if !(2..=MEMBERS_MAX).contains(&self.members.len()) {
            return refused(format!("custodians: {} members, a set has two or three", self.members.len()));
        }
        if self
            .members
            .iter()
            .enumerate()
            .any(|(place, member)| self.members.iter().skip(place + 1).any(|m| m == member))
        {
            return refused("custodians: a member stands twice".into());
        }
        Ok(())
    }

    /// Those that keep the jobs beside the home.
    pub fn others(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().copied().skip(1)
    }

    /// Whether a node keeps the jobs beside the home.
    pub fn has_custodian(&self, node: NodeId) -> bool {
        self.others().any(|member| member == node)
    }

    /// How many members are a majority of all.
    pub fn majority(&self) -> usize {
        self.members.len() / 2 + 1
    }

    /// Signs the set with the key of its home.
    pub fn sign(&self, key: &SecretKey) -> SignedCustodians {
        let bytes = codec::encode(self);
        let signature = key.sign(Purpose::Custodians, &bytes);
        SignedCustodians { bytes: bytes.into(), signature }
    }
}

/// A set as it is sent and stored: its home's word, which any node can check.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedCustodians {
    /// The CBOR of a [`CustodianSet`].
    pub bytes: Octets,
    /// By the set's home.
    pub signature: Signature,
}

impl SignedCustodians {
    /// Reads the set without believing it, and checks its shape.
    pub fn decode(&self) -> Result<CustodianSet, Problem> {
        let set: CustodianSet = codec::decode(&self.bytes)
            .map_err(|error| Problem::new(Kind::Malformed, format!("custodians: {error}")))?;
        set.check()?;
        Ok(set)
    }

    /// The set, if its home has signed it.
    pub fn verify(&self) -> Result<CustodianSet, Problem> {
        let set = self.decode()?;
        if PublicKey::from(set.home).verify(Purpose::Custodians, &self.bytes, &self.signature) {
            return Ok(set);
        }
        Err(Problem::new(Kind::Forbidden, "custodians: the set is not signed by its home"))
    }
}

/// With whom a job is kept; of a job that its home alone keeps nothing is said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Custody {
    /// The number of the set under which the job was accepted.
    pub set: u32,
    /// How many members were to have the job before it was acknowledged, from 1 to 3.
    pub durability: NonZeroU8,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(members: &[u8]) -> CustodianSet {
        let key = SecretKey::from_bytes([1; 32]);
        let home = NodeId::from(key.public());
        let others = members.iter().map(|n| NodeId([*n; 32]));
        CustodianSet { version: VERSION, home, number: 7, members: std::iter::once(home).chain(others).collect() }
    }

    #[test]
    fn a_set_counts_as_its_home_has_signed_it_and_not_otherwise() {
        let signed = set(&[2, 3]).sign(&SecretKey::from_bytes([1; 32]));
        assert_eq!(signed.verify(), Ok(set(&[2, 3])));
        assert!(set(&[2, 3]).sign(&SecretKey::from_bytes([2; 32])).verify().is_err());
        let other = SignedCustodians { bytes: codec::encode(&set(&[2, 4])).into(), ..signed };
        assert!(other.verify().is_err() && other.decode().is_ok());
    }

    #[test]
    fn a_set_has_two_or_three_members_each_once_and_its_home_first() {
        assert!(set(&[2]).check().is_ok() && set(&[2, 3]).check().is_ok());
        assert!(set(&[]).check().is_err() && set(&[2, 3, 4]).check().is_err() && set(&[2, 2]).check().is_err());
        let mut turned = set(&[2, 3]);
        turned.members.swap(0, 1);
        assert!(turned.check().is_err());
        assert!(CustodianSet { number: 0, ..set(&[2]) }.check().is_err());
        assert_eq!((set(&[2]).majority(), set(&[2, 3]).majority()), (2, 2));
    }

    /// Nodes of another version read these bytes.
    #[test]
    fn golden_bytes_of_a_set() {
        let plain = CustodianSet {
            version: VERSION,
            home: NodeId([1; 32]),
            number: 7,
            members: vec![NodeId([1; 32]), NodeId([2; 32])],
        };
        assert_eq!(crate::BlobId::of(&codec::encode(&plain)).short(), "7daa43615a");
        assert_eq!(codec::encode(&Custody { set: 7, durability: NonZeroU8::MIN }).len(), 18);
    }
}
