//! The responder's side of the comparison: it answers from its index, and keeps nothing but what it is to send.
//!
//! What an honest initiator may ask is bounded by our own set: it descends only where we have more than a list, and names
//! no prefix twice. A multiple of that is allowed, and then no more.

use shoal_protocol::wire::sync::{
    Answer, COMPARE_WEIGHT_MAX, Claim, ItemHash, LIST_ITEMS_MAX, Prefix, VERSION, WANTS_MAX,
};

use super::asking::{check_list, weight_of};
use super::{Index, Misbehaviour, SLACK};

/// Claims for each of our items. Why 8: evenly spread items cause one at most; items that somebody has ground to share
/// their first digits cause about as many as they share.
const CLAIMS_PER_ITEM: usize = 8;

/// How often all of our items may be looked through or asked for. Why 2: an honest peer does once, sets may grow meanwhile.
const PASSES: usize = 2;

#[derive(Debug, Default)]
pub(super) struct Answering {
    claims: usize,
    visited: usize,
    wanted: usize,
}

impl Answering {
    pub(super) fn open(
        &mut self,
        index: &Index,
        version: u8,
        claim: &Claim,
        lacks: &mut Vec<u64>,
    ) -> Result<Answer, Misbehaviour> {
        if version != VERSION {
            return Err(Misbehaviour::Version { version });
        }
        self.answer(index, &Prefix::ROOT, claim, lacks)
    }

    /// Answers all claims of a message; puts the places of what the peer lacks into `lacks`.
    pub(super) fn compare(
        &mut self,
        index: &Index,
        claims: &[(Prefix, Claim)],
        lacks: &mut Vec<u64>,
    ) -> Result<Vec<Answer>, Misbehaviour> {
        if claims.is_empty() {
            return Err(Misbehaviour::Form("it compares nothing"));
        }
        if claims.iter().map(|(_, claim)| weight_of(claim)).sum::<usize>() > COMPARE_WEIGHT_MAX {
            return Err(Misbehaviour::TooMany { what: "claims in a message, by weight", max: COMPARE_WEIGHT_MAX });
        }
        let max = CLAIMS_PER_ITEM * index.len() + SLACK;
        spend(&mut self.claims, claims.len(), max, "claims")?;
        claims.iter().map(|(prefix, claim)| self.answer(index, prefix, claim, lacks)).collect()
    }

    fn answer(
        &mut self,
        index: &Index,
        prefix: &Prefix,
        claim: &Claim,
        lacks: &mut Vec<u64>,
    ) -> Result<Answer, Misbehaviour> {
        match claim {
            Claim::Fingerprint(theirs) if *theirs == index.fingerprint(prefix) => Ok(Answer::Equal),
            Claim::Fingerprint(_) if index.count(prefix) <= LIST_ITEMS_MAX => {
                Ok(Answer::Items(index.under(prefix).into_iter().map(|held| held.item).collect()))
            }
            Claim::Fingerprint(_) => {
                let children = index.children(prefix);
                children.map(Answer::Children).ok_or(Misbehaviour::Form("it descends below the last digit"))
            }
            Claim::Items(theirs) => {
                check_list(prefix, theirs)?;
                spend(&mut self.visited, index.count(prefix), PASSES * index.len() + SLACK, "items looked through")?;
                let before = lacks.len();
                index.places(prefix, theirs, lacks);
                let bits = bits(index, theirs);
                let equal = lacks.len() == before && bits.iter().all(|byte| *byte == 0);
                Ok(if equal { Answer::Equal } else { Answer::Lacks(bits.into()) })
            }
        }
    }

    /// Takes what the peer asks for; puts the places into `lacks`.
    pub(super) fn wants(
        &mut self,
        index: &Index,
        wants: &[ItemHash],
        lacks: &mut Vec<u64>,
    ) -> Result<(), Misbehaviour> {
        if wants.len() > WANTS_MAX {
            return Err(Misbehaviour::TooMany { what: "wanted items in a message", max: WANTS_MAX });
        }
        spend(&mut self.wanted, wants.len(), PASSES * index.len() + SLACK, "wanted items")?;
        // What is not here has left since we named it.
        lacks.extend(wants.iter().filter_map(|item| index.place(item)));
        Ok(())
    }
}

fn spend(spent: &mut usize, more: usize, max: usize, what: &'static str) -> Result<(), Misbehaviour> {
    *spent = spent.saturating_add(more);
    if *spent > max { Err(Misbehaviour::TooMany { what, max }) } else { Ok(()) }
}

/// A bit for each item that is not here.
fn bits(index: &Index, items: &[ItemHash]) -> Vec<u8> {
    let of = |items: &[ItemHash]| {
        let lacked = items.iter().enumerate().filter(|(_, item)| !index.contains(item));
        lacked.fold(0u8, |byte, (at, _)| byte | (1 << at))
    };
    items.chunks(8).map(of).collect()
}
