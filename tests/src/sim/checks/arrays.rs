//! What must hold of arrays: no more elements at once than may be, none begins twice, and all of them are counted.

use std::collections::BTreeMap;

use shoal_kernel::{Accepted, Standing};
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::State;

use super::{Broken, Checks};

impl Checks {
    /// An element of an array has begun.
    pub(super) fn begins(&mut self, id: ObjectId, standing: &Standing) -> Result<(), Broken> {
        let Some(accepted) = element(&self.emitted, id) else {
            return Err(("an element has an array", format!("{id} began")));
        };
        let array = accepted.array_id();
        let at_once = accepted.extras.array.and_then(|array| array.at_once).unwrap_or(u32::MAX);
        if self.emitted.insert(id, (accepted, standing.clone())).is_some() {
            return Err(("an element begins once", format!("{id}")));
        }
        let elements = array.and_then(|array| self.emitted.get(&array)).map(|(array, _)| array.clone());
        let begun = elements.iter().flat_map(|array| elements_of(&self.emitted, array));
        let under_way = begun.filter(|(_, standing)| !standing.state.is_settled()).count();
        if under_way > at_once as usize {
            return Err(("no more elements at once than may be", format!("{id}: {under_way}, at most {at_once}")));
        }
        Ok(())
    }

    /// An element is one of its array again: another node decides that.
    pub(super) fn withdrawn(&mut self, id: ObjectId) -> Result<(), Broken> {
        let Some((accepted, standing)) = self.emitted.remove(&id) else {
            return Err(("accepted, then anything else", format!("{id} was withdrawn and never began")));
        };
        let array = accepted.array_id().and_then(|array| self.emitted.get(&array));
        let yielded = array.is_some_and(|(_, array)| array.regent.is_some_and(|regent| Some(regent) != self.node));
        if standing.state.is_settled() || !yielded {
            return Err((
                "only what another node decides is withdrawn",
                format!("{id} was {standing:?}, of {array:?}"),
            ));
        }
        self.elsewhere.insert(id, Standing { state: State::Queued, ..standing });
        Ok(())
    }

    /// For how many unsettled jobs one of the journal stands: an array for its elements that have not begun.
    pub(super) fn stands_for(&self, accepted: &Accepted) -> u64 {
        if !accepted.is_array() {
            return 1;
        }
        let begun = elements_of(&self.emitted, accepted).count() as u64;
        let before = self.ended_before.get(&accepted.id).copied().unwrap_or(0);
        u64::from(accepted.size()).saturating_sub(begun + before)
    }
}

/// The elements of an array that have begun: their ids follow that of the array.
pub(super) fn elements_of<'a>(
    jobs: &'a BTreeMap<ObjectId, (Accepted, Standing)>,
    array: &Accepted,
) -> impl Iterator<Item = &'a (Accepted, Standing)> {
    let id = array.id;
    let among = if array.is_array() { id..=array.last_id() } else { id..=id };
    jobs.range(among).map(|(_, job)| job).filter(move |(job, _)| job.array_id() == Some(id))
}

/// What an element of an array was accepted with; none: there is no array with such an element.
pub(in crate::sim) fn element(jobs: &BTreeMap<ObjectId, (Accepted, Standing)>, id: ObjectId) -> Option<Accepted> {
    let (_, (near, _)) = jobs.range(..=id).rev().find(|(near, _)| near.tag() == id.tag())?;
    let array = near.array_id().unwrap_or(near.id);
    jobs.get(&array)?.0.element_of_id(id)
}

/// An array stands otherwise. `adopted`: as another node has decided.
pub(super) fn changes(accepted: &Accepted, last: &Standing, next: &Standing, adopted: bool) -> Result<(), Broken> {
    let (Some(before), Some(after)) = (last.elements, next.elements) else { return Ok(()) };
    // One side of a cut need not know what has ended on the other.
    if !adopted && (after.begun < before.begun || after.ended() < before.ended()) {
        return Err(("an array goes on", format!("{}: from {before:?} to {after:?}", accepted.id)));
    }
    let all = after.under_way() == 0 && after.begun + after.cut == accepted.size();
    if next.state.is_settled() && !all {
        return Err(("an array ends with its last element", format!("{}: {after:?}", accepted.id)));
    }
    Ok(())
}
