//! The initiator's side of the comparison: it descends where fingerprints differ.
//!
//! It claims a fingerprint only for a prefix under which it has more than a list of items itself, and no prefix twice, so
//! that its work ends whatever the answers are.

use shoal_protocol::wire::sync::{
    Answer, CHILDREN, COMPARE_WEIGHT_MAX, Claim, Fingerprint, ItemHash, LIST_ITEMS_MAX, Prefix, SyncMessage,
};

use super::{Index, Misbehaviour};

#[derive(Debug, Default)]
pub(super) struct Asking {
    /// Prefixes under which the sets differ, the next one last.
    differing: Vec<Prefix>,
    /// What was claimed last and is not answered.
    claimed: Vec<(Prefix, Claim)>,
    /// Items that the last answers named and that are not here.
    wants: Vec<ItemHash>,
}

impl Asking {
    /// The claim of the first message.
    pub(super) fn open(&mut self, index: &Index) -> Claim {
        // A list would do for a small set too, but equal sets are the usual case, and a fingerprint is shorter.
        let claim = if index.is_empty() { Claim::Items(Vec::new()) } else { Claim::Fingerprint(index.root()) };
        self.claimed = vec![(Prefix::ROOT, claim.clone())];
        claim
    }

    /// The next message. None: everything is compared.
    pub(super) fn compare(&mut self, index: &Index) -> Option<SyncMessage> {
        self.claimed.clear();
        let mut weight = 0;
        while let Some(prefix) = self.differing.last() {
            let claim = claim(index, prefix);
            weight += weight_of(&claim);
            if weight > COMPARE_WEIGHT_MAX {
                break;
            }
            self.claimed.push((*prefix, claim));
            self.differing.pop();
        }
        if self.claimed.is_empty() {
            return None;
        }
        Some(SyncMessage::Compare { claims: self.claimed.clone(), wants: self.take_wants() })
    }

    pub(super) fn take_wants(&mut self) -> Vec<ItemHash> {
        std::mem::take(&mut self.wants)
    }

    /// Takes the answers to what was claimed last; puts the places of what the peer lacks into `lacks`.
    pub(super) fn answered(
        &mut self,
        index: &Index,
        answers: Vec<Answer>,
        lacks: &mut Vec<u64>,
    ) -> Result<(), Misbehaviour> {
        let claimed = std::mem::take(&mut self.claimed);
        if answers.len() != claimed.len() {
            return Err(Misbehaviour::Form("not one answer to each claim"));
        }
        for ((prefix, claim), answer) in claimed.into_iter().zip(answers) {
            match (claim, answer) {
                (_, Answer::Equal) => {}
                (Claim::Fingerprint(_), Answer::Children(theirs)) => self.descend(index, &prefix, &theirs, lacks)?,
                (Claim::Fingerprint(_), Answer::Items(theirs)) => {
                    check_list(&prefix, &theirs)?;
                    index.places(&prefix, &theirs, lacks);
                    self.wants.extend(theirs.into_iter().filter(|item| !index.contains(item)));
                }
                (Claim::Items(ours), Answer::Lacks(bits)) => lacks.extend(lacking(index, &ours, &bits)?),
                _ => return Err(Misbehaviour::Form("an answer that does not fit its claim")),
            }
        }
        Ok(())
    }

    fn descend(
        &mut self,
        index: &Index,
        prefix: &Prefix,
        theirs: &[Fingerprint],
        lacks: &mut Vec<u64>,
    ) -> Result<(), Misbehaviour> {
        if theirs.len() != CHILDREN {
            return Err(Misbehaviour::Form("not a fingerprint for each child"));
        }
        // From the last one on: the first is then compared first.
        for (digit, theirs) in theirs.iter().enumerate().rev() {
            let child = prefix.child(digit).ok_or(Misbehaviour::Form("it descends below the last digit"))?;
            if *theirs == index.fingerprint(&child) {
                continue;
            }
            if *theirs == Fingerprint::EMPTY {
                index.places(&child, &[], lacks);
            } else {
                self.differing.push(child);
            }
        }
        Ok(())
    }
}

fn claim(index: &Index, prefix: &Prefix) -> Claim {
    if index.count(prefix) <= LIST_ITEMS_MAX {
        Claim::Items(index.under(prefix).into_iter().map(|held| held.item).collect())
    } else {
        Claim::Fingerprint(index.fingerprint(prefix))
    }
}

/// What a claim and its answer may take in a message, in hashes.
pub(super) fn weight_of(claim: &Claim) -> usize {
    match claim {
        Claim::Fingerprint(_) => CHILDREN,
        Claim::Items(items) => items.len() + 1,
    }
}

/// A list is all of what it says, once.
pub(super) fn check_list(prefix: &Prefix, items: &[ItemHash]) -> Result<(), Misbehaviour> {
    if items.len() > LIST_ITEMS_MAX {
        return Err(Misbehaviour::TooMany { what: "items in a list", max: LIST_ITEMS_MAX });
    }
    if !items.is_sorted_by(|a, b| a < b) {
        return Err(Misbehaviour::Form("a list that does not rise"));
    }
    if !items.iter().all(|item| prefix.contains(item)) {
        return Err(Misbehaviour::Form("a list with items of another prefix"));
    }
    Ok(())
}

/// The places of the items that a peer lacks by its bits. Items that have left meanwhile are left out.
fn lacking(index: &Index, items: &[ItemHash], bits: &[u8]) -> Result<Vec<u64>, Misbehaviour> {
    if bits.len() != items.len().div_ceil(8) {
        return Err(Misbehaviour::Form("not a bit for each item"));
    }
    let is_set = |at: usize| bits.get(at / 8).is_some_and(|byte| byte & (1 << (at % 8)) != 0);
    if (items.len()..8 * bits.len()).any(is_set) {
        return Err(Misbehaviour::Form("a bit for no item"));
    }
    let lacked = items.iter().enumerate().filter(|(at, _)| is_set(*at));
    Ok(lacked.filter_map(|(_, item)| index.place(item)).collect())
}
