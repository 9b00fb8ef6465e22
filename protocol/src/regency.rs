//! Regents: custodians that act for a home which is away.
//!
//! A regent is one member of a [`CustodianSet`], for one *term*. It has the word of a majority of the set, its own among
//! them; in a set of two there is none without the home, and it acts by its own word, *unconfirmed*. Terms rise, and what is
//! decided in a higher one stands above everything of a lower one: epochs and revisions of a job begin with the term
//! ([`first_of_term`]). A home itself acts in term 0.
//!
//! A home that leaves hands over: its own word makes any node regent, also one that is no member. It decides nothing of what it
//! has given away, so that nobody else has to be asked.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::codec;
use crate::custody::{CustodianSet, MEMBERS_MAX};
use crate::id::NodeId;
use crate::key::{PublicKey, Purpose, SecretKey, Signature};
use crate::{Kind, Octets, Problem};

/// The version of [`Vote`] that this package writes.
pub const VERSION: u8 = 1;

/// Bits of an epoch or a revision below its term.
const TERM_SHIFT: u32 = 32;

/// The number below all epochs and revisions of a term.
pub const fn first_of_term(term: u32) -> u64 {
    (term as u64) << TERM_SHIFT
}

/// The term of an epoch or a revision.
pub const fn term_of(number: u64) -> u32 {
    (number >> TERM_SHIFT) as u32
}

/// Which member acts for a home, and since which term.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Regent {
    /// The home.
    pub home: NodeId,
    /// The number of the home's set.
    pub set: u32,
    /// From 1 on.
    pub term: u32,
    /// Who acts.
    pub regent: NodeId,
}

/// The word of a member that another one, or itself, is regent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vote {
    /// [`VERSION`].
    pub version: u8,
    /// For whom.
    pub regent: Regent,
    /// Whose word.
    pub voter: NodeId,
}

impl Vote {
    /// The vote of a member.
    pub const fn new(regent: Regent, voter: NodeId) -> Self {
        Self { version: VERSION, regent, voter }
    }

    /// Signs the vote with the key of its voter.
    pub fn sign(&self, key: &SecretKey) -> SignedVote {
        let bytes = codec::encode(self);
        let signature = key.sign(Purpose::Vote, &bytes);
        SignedVote { bytes: bytes.into(), signature }
    }
}

/// A vote as it is sent and stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SignedVote {
    /// The CBOR of a [`Vote`].
    pub bytes: Octets,
    /// By the voter.
    pub signature: Signature,
}

impl SignedVote {
    /// Reads the vote without believing it.
    pub fn decode(&self) -> Result<Vote, Problem> {
        let vote: Vote = codec::decode(&self.bytes)
            .map_err(|error| Problem::new(Kind::Malformed, format!("vote of a custodian: {error}")))?;
        if vote.version != VERSION || vote.regent.term == 0 || vote.regent.regent == vote.regent.home {
            return Err(Problem::new(Kind::InvalidField, "vote of a custodian: it names no regent for a term"));
        }
        Ok(vote)
    }

    /// The vote, if its voter has signed it.
    pub fn verify(&self) -> Result<Vote, Problem> {
        let vote = self.decode()?;
        if PublicKey::from(vote.voter).verify(Purpose::Vote, &self.bytes, &self.signature) {
            return Ok(vote);
        }
        Err(Problem::new(Kind::Forbidden, "vote of a custodian: it is not signed by its voter"))
    }
}

/// A regent with the votes for it, as any member of the set can check them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Regency {
    /// Who acts for whom.
    pub regent: Regent,
    /// At most [`MEMBERS_MAX`], the regent's own among them.
    pub votes: Vec<SignedVote>,
}

impl Regency {
    /// Checks the votes against the set. Whether a majority of it has voted, or the home itself; without either the set has two
    /// members.
    pub fn verify(&self, set: &CustodianSet) -> Result<bool, Problem> {
        let refused = |detail: &str| Err(Problem::new(Kind::Forbidden, format!("regent: {detail}")));
        let Regent { home, set: number, regent, .. } = self.regent;
        if (home, number) != (set.home, set.number) || regent == home {
            return refused("it is for another set, or its home");
        }
        if self.votes.len() > MEMBERS_MAX {
            return refused("more votes than members");
        }
        let mut voters = BTreeSet::new();
        for vote in &self.votes {
            let vote = vote.verify()?;
            let may_vote = set.members.contains(&vote.voter) || vote.voter == regent;
            if vote.regent != self.regent || !may_vote || !voters.insert(vote.voter) {
                return refused("a vote is for another one, of no member, or there twice");
            }
        }
        if !voters.contains(&regent) {
            return refused("its own vote is missing");
        }
        if voters.contains(&home) {
            return Ok(true);
        }
        if !set.has_custodian(regent) {
            return refused("it is no custodian of this set, and the home has not handed over to it");
        }
        match voters.len() >= set.majority() {
            false if set.members.len() > 2 => refused("no majority of the set has voted for it"),
            confirmed => Ok(confirmed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes([n; 32])
    }

    fn node(n: u8) -> NodeId {
        key(n).public().into()
    }

    fn set(members: &[u8]) -> CustodianSet {
        let members: Vec<NodeId> = members.iter().map(|n| node(*n)).collect();
        CustodianSet { version: crate::custody::VERSION, home: node(1), number: 7, members }
    }

    fn regent() -> Regent {
        Regent { home: node(1), set: 7, term: 2, regent: node(2) }
    }

    fn regency(voters: &[u8]) -> Regency {
        let votes = voters.iter().map(|n| Vote::new(regent(), node(*n)).sign(&key(*n))).collect();
        Regency { regent: regent(), votes }
    }

    #[test]
    fn a_regent_of_three_has_a_majority_and_one_of_two_need_not() {
        let (three, two) = (set(&[1, 2, 3]), set(&[1, 2]));
        assert_eq!(regency(&[2, 3]).verify(&three), Ok(true));
        assert_eq!(regency(&[1, 2]).verify(&three), Ok(true), "its home hands over");
        assert_eq!(regency(&[2]).verify(&two), Ok(false));
        assert_eq!(regency(&[1, 2]).verify(&two), Ok(true));
        for short in [&[2][..], &[3], &[1, 3], &[2, 2], &[2, 4], &[]] {
            assert!(regency(short).verify(&three).is_err(), "{short:?}");
        }
        assert!(regency(&[2, 3]).verify(&CustodianSet { number: 8, ..three.clone() }).is_err());
        let home = Regency { regent: Regent { regent: node(1), ..regent() }, votes: Vec::new() };
        assert!(home.verify(&three).is_err(), "a home is no regent of itself");
    }

    #[test]
    fn a_home_hands_over_to_any_node_and_nobody_else_does() {
        let others = set(&[1, 3, 4]);
        assert_eq!(regency(&[1, 2]).verify(&others), Ok(true));
        for short in [&[2][..], &[2, 3], &[2, 3, 4], &[1], &[1, 3]] {
            assert!(regency(short).verify(&others).is_err(), "{short:?}");
        }
    }

    #[test]
    fn a_vote_counts_for_its_regent_and_term_alone() {
        let three = set(&[1, 2, 3]);
        for other in [Regent { term: 3, ..regent() }, Regent { regent: node(3), ..regent() }] {
            let mut mixed = regency(&[2, 3]);
            mixed.votes[1] = Vote::new(other, node(3)).sign(&key(3));
            assert!(mixed.verify(&three).is_err());
        }
        let mut forged = regency(&[2, 3]);
        forged.votes[1] = Vote::new(regent(), node(3)).sign(&key(2));
        assert!(forged.verify(&three).is_err());
    }

    #[test]
    fn numbers_of_a_higher_term_stand_above_all_of_a_lower_one() {
        assert!(first_of_term(1) > u64::from(u32::MAX) && term_of(first_of_term(1) + 5) == 1 && term_of(9) == 0);
    }

    /// Nodes of another version read these bytes.
    #[test]
    fn golden_bytes_of_a_vote() {
        let home = NodeId([1; 32]);
        let vote = Vote::new(Regent { home, set: 7, term: 1, regent: NodeId([2; 32]) }, NodeId([3; 32]));
        assert_eq!(crate::BlobId::of(&codec::encode(&vote)).short(), "d63024b2ce");
    }
}
