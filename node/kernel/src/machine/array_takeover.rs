//! Arrays that change hands. A regent takes one over with all its elements in one step: those that have ended count, those that had
//! begun begin anew, in the numbers of its term, and the others follow as at any home. The home, when it is there again, runs
//! none of them any more: what of them has ended there counts there, and all others count with the array, however far its
//! regent is.
//!
//! An element is written before its array: so an array is never found after a restart without elements that it counts. Each element
//! that its regent begins is a job that was taken over, of which home and custodians hear as of any other.

use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Elements, State};

use super::Machine;
use super::left::{Found, was_last};
use super::runs::{empty_outcome, saved_no_more};
use super::takeover::lost_with_its_home;
use super::telling::noted;
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::Now;
use crate::jobs::{Job, Phase, Rule};
use crate::record::{Accepted, Record, Reign, Standing};

impl<F: Faults> Machine<F> {
    /// Takes an array over. `elements`: what is kept here of those that have begun and not ended, of this array and of others.
    pub(super) fn take_array(
        &mut self,
        now: Now,
        reign: &Reign,
        array: Accepted,
        before: Standing,
        elements: &Found,
        effects: &mut Vec<Effect>,
    ) {
        match self.left_to_its_home(&array, &before) {
            Some(why) => self.leave_to_home((reign.regent.home, reign.regent.set), array.id, why),
            None => self.take_whole_array(now, reign, array, before, elements, effects),
        }
    }

    /// The same, whatever would leave it to its home.
    pub(super) fn take_whole_array(
        &mut self,
        now: Now,
        reign: &Reign,
        array: Accepted,
        before: Standing,
        elements: &Found,
        effects: &mut Vec<Effect>,
    ) {
        let id = array.id;
        let far = self.known_elements(&array, before.elements.unwrap_or_default());
        self.counters.arrays_taken += 1;
        let mut taken = Vec::new();
        for (accepted, before) in self.under_way_elsewhere(&array, &before, far.begun, elements) {
            let element = accepted.id;
            let lost = was_last(&accepted, &before).then(|| empty_outcome(lost_with_its_home()));
            let ended = self.take(now, reign, accepted, before, effects);
            taken.push((element, ended.or(lost)));
        }
        self.take(now, reign, array, Standing { elements: Some(far), ..before }, effects);
        self.begin_deciding(now, id, None, effects);
        taken.into_iter().for_each(|(element, ended)| self.begin_deciding(now, element, ended, effects));
        self.array_restored(now, id, effects);
    }

    /// How far an array is, by its elements that are kept here. A home begins them in order: those before one that is known have begun.
    fn known_elements(&self, array: &Accepted, before: Elements) -> Elements {
        let mut far = Elements { bytes: before.bytes, ..Elements::default() };
        for element in self.charges.elements_of(array.id) {
            let place = array.id.index_of(element).and_then(|index| array.extras.array?.place(index));
            far.begun = far.begun.max(place.map_or(0, |place| place + 1));
            if let Some(state) = self.charges.get(element).and_then(|known| known.ended) {
                far.end(state);
            }
        }
        far
    }

    /// The elements that have begun and have not ended, as far as that is known here; one of which nothing is known as if it began now.
    fn under_way_elsewhere(
        &self,
        array: &Accepted,
        before: &Standing,
        begun: u32,
        known: &Found,
    ) -> Vec<(Accepted, Standing)> {
        let head = Job::new(array.clone(), before.clone(), 0);
        let indices = (0..begun).filter_map(|place| array.extras.array?.index(place));
        let open = indices.filter(|index| {
            array.id.element(*index).is_some_and(|element| {
                let ended = self.charges.get(element).is_some_and(|known| known.settled());
                !ended && !self.jobs.contains(element)
            })
        });
        open.filter_map(|index| {
            let known = known.get(&array.id.element(index)?).cloned();
            known.or_else(|| {
                let element = array.element(index)?;
                let standing = head.standing_of_element(&element);
                Some((element, standing))
            })
        })
        .collect()
    }

    /// Writes the first of an element of an array that this node has taken over: the home and the custodians hear of it.
    pub(super) fn write_taken(&mut self, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(realm) = self.charges.set_of(id).map(|set| (set.home, set.number)) else { return };
        let Some(job) = self.jobs.get_mut(id) else { return };
        let (standing, accepted) = (job.next_standing(), job.accepted.clone());
        self.write_as_taken(realm, &accepted, &standing, effects);
        self.keep_standing(&accepted, &standing, effects);
    }

    /// Another node decides an array of this one from now on: what has ended here stays, the rest counts with the array. Where that stands,
    /// as it is counted here.
    pub(super) fn cede_array(
        &mut self,
        now: Now,
        id: ObjectId,
        theirs: Standing,
        effects: &mut Vec<Effect>,
    ) -> Standing {
        let Some(ours) = self.jobs.get(id).and_then(|job| job.extras.elements.as_deref().copied()) else {
            return theirs;
        };
        let mut apart = ours.apart();
        if self.jobs.get(id).is_some_and(|job| job.phase != Phase::Yielded) {
            apart = ours.ended();
            self.cede(
                id,
                theirs.regent.map(|regent| Rule { regent, term: 0, unconfirmed: theirs.unconfirmed }),
                effects,
            );
            self.withdraw_elements(now, id, effects);
        }
        let elements = theirs.elements.map(|elements| elements.seen_from(apart));
        Standing { elements, ..theirs }
    }

    fn cede(&mut self, id: ObjectId, rule: Option<Rule>, effects: &mut Vec<Effect>) {
        self.take_out(id);
        let Some(mut job) = self.jobs.remove(id) else { return };
        if let Some(elements) = &mut job.extras.elements {
            elements.apart = Some(elements.ended());
        }
        self.counters.yielded += 1;
        self.counters.arrays_ceded += 1;
        job.extras.rule = rule.map(Box::new);
        self.jobs.insert(job);
        self.set_aside(id, Phase::Yielded);
        self.write_standing(id, effects);
    }

    /// Stops the elements of an array that another node decides: they count with the array again.
    pub(super) fn withdraw_elements(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        if F::has(Fault::ElementsNotWithdrawn) {
            return;
        }
        for element in self.jobs.elements_of(id) {
            self.give_up_run(element, effects);
            self.take_out(element);
            self.end_use(element);
            let Some(job) = self.jobs.remove(element) else { continue };
            effects.extend(saved_no_more(&job));
            effects.push(Effect::Write(Record::Withdrawn(element)));
            if job.phase == Phase::Yielded {
                // Its regent has told of it before it has told of its array.
                effects.push(Effect::Write(Record::Elsewhere(element, Box::new(job.standing()))));
                continue;
            }
            if job.told != State::Queued {
                effects.push(noted(now, &job, State::Queued, None));
            }
            effects.push(Effect::Changed { job: element, settled: false });
        }
    }

    /// Whether a job is an element of an array of this node that another one decides, or has decided beside it, and has not ended here.
    /// One that never began here has no revision.
    pub(super) fn is_elsewhere(&self, accepted: &Accepted, ours: &Standing, theirs: &Standing) -> bool {
        let Some(array) = accepted.array_id().filter(|array| !self.is_foreign(*array)) else { return false };
        let by_another = ours.regent.is_some_and(|regent| regent != self.config.node);
        let ended_here = ours.state.is_settled() && !by_another && ours.revision > 0;
        match self.jobs.contains(array) {
            true => self.is_yielded(array) && !ended_here,
            false => by_another || (ours.revision == 0 && theirs.state.is_settled()),
        }
    }

    /// Such an element stands like this.
    pub(super) fn element_elsewhere(
        &mut self,
        now: Now,
        accepted: Accepted,
        theirs: Standing,
        effects: &mut Vec<Effect>,
    ) {
        let (job, settled) = (accepted.id, theirs.state.is_settled());
        self.counters.elements_elsewhere += 1;
        effects.push(Effect::Write(Record::Elsewhere(job, Box::new(theirs.clone()))));
        let (state, outcome) = (theirs.state, theirs.outcome.clone());
        effects.push(noted(now, &Job::new(accepted, theirs, now.mono_ms), state, outcome.as_ref()));
        if settled && self.dependents.has(job) {
            effects.push(Effect::Learn { job });
        }
        effects.push(Effect::Changed { job, settled });
    }
}
