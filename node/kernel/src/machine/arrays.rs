//! Arrays: one job that stands for many. It waits as any other, in one place; when its turn comes, its next element begins,
//! which is a job of its own from then on. So an array is one record and one entry of the queue, however many elements
//! it has, until they run.
//!
//! An element's first epoch is journaled by itself; how far its array is, with the element's end, in one record. An element
//! that is found unsettled after a restart has begun: nothing else has to be known of its beginning.

use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Array, Elements, Ending, Failure, FailureCode, State};
use shoal_protocol::regency::first_of_term;

use super::Machine;
use super::runs::empty_outcome;
use crate::effect::{Effect, Reply};
use crate::faults::{Fault, Faults};
use crate::input::{End, Now};
use crate::jobs::{Job, Names, Phase};
use crate::record::{Accepted, Standing};

impl<F: Faults> Machine<F> {
    /// The job that is handed over when this one's turn has come: itself, or the next element of an array. None: as many
    /// elements of the array as may be under way are, and it waits for one of them to end.
    pub(super) fn next_to_run(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) -> Option<ObjectId> {
        let job = self.jobs.get(id)?;
        if job.extras.elements.is_none() {
            return Some(id);
        }
        if !may_begin(job) {
            self.take_out(id);
            self.set_aside(id, Phase::Begun);
            return None;
        }
        self.begin_element(now, id, effects)
    }

    /// Takes the next element of an array into the table. It is to be handed over in the same step.
    fn begin_element(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) -> Option<ObjectId> {
        let array = self.jobs.get(id)?;
        let place = array.extras.elements.as_ref()?.begun;
        let index = array.accepted.extras.array?.index(place)?;
        let accepted = array.accepted.element(index)?;
        let standing = array.standing_of_element(&accepted);
        self.jobs.begun(id, place + 1);
        self.counters.elements_begun += 1;
        let element = Job::new(accepted, standing, now.mono_ms);
        let element_id = element.id();
        // Its home may have had it run here before.
        self.drop_guest(now, element_id, effects);
        self.take_in(now, element);
        Some(element_id)
    }

    /// Whether it is an element of which nothing stands in the journal.
    pub(super) fn is_new_element(&self, job: &Job) -> bool {
        let is_taken = || self.charges.get(job.id()).is_some_and(|known| known.taken);
        job.accepted.extras.index.is_some() && if self.is_foreign(job.id()) { !is_taken() } else { job.epoch == 1 }
    }

    /// After a restart an element was found that has not ended.
    pub(super) fn element_restored(&mut self, element: ObjectId) {
        let Some(job) = self.jobs.get(element) else { return };
        let place =
            job.accepted.extras.index.zip(job.accepted.extras.array).and_then(|(index, array)| array.place(index));
        if let Some((array, place)) = job.accepted.array_id().zip(place) {
            self.jobs.begun(array, place + 1);
        }
    }

    /// An array was taken back after a restart, with its elements: what was to end them may not have reached all.
    pub(super) fn array_restored(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        match self.jobs.get(id).is_some_and(|job| job.is_stopping()) {
            _ if self.is_yielded(id) => self.withdraw_elements(now, id, effects),
            true => self.stop_array(now, id, effects),
            false => self.array_goes_on(now, id, effects),
        }
    }

    /// Counts an element that has ended, with so many bytes of result and log: its array, and where that stands now.
    pub(super) fn count_ended(&mut self, element: &Accepted, state: State, bytes: u64) -> Option<(ObjectId, Standing)> {
        if self.is_yielded(element.array_id()?) {
            return None;
        }
        self.jobs.made(element.array_id()?, bytes);
        let array = self.jobs.get_mut(element.array_id()?)?;
        array.extras.elements.as_mut()?.end(state);
        Some((array.id(), array.next_standing())).filter(|_| !F::has(Fault::ElementUncounted))
    }

    /// An element has ended, or its array is to: the next one may begin, or the array has ended.
    pub(super) fn array_goes_on(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get(id).filter(|job| job.phase != Phase::Yielded) else { return };
        let Some((elements, array)) = job.extras.elements.as_deref().zip(job.accepted.extras.array) else { return };
        let all_begun = elements.begun >= array.size();
        if elements.under_way() == 0 && (all_begun || is_ending(job)) {
            return self.end_array(now, id, array, *elements, effects);
        }
        if job.phase == Phase::Begun && may_begin(job) {
            self.take_out(id);
            self.enqueue(now, id);
        }
        effects.push(Effect::Changed { job: id, settled: false });
    }

    fn end_array(&mut self, now: Now, id: ObjectId, array: Array, elements: Elements, effects: &mut Vec<Effect>) {
        let Some(job) = self.jobs.get(id) else { return };
        if job.is_stopping() {
            return self.settle_stopped(now, id, None, effects);
        }
        if job.function_gone && elements.begun < array.size() {
            return self.settle_gone(now, id, effects);
        }
        let (state, ending) = match elements.succeeded == array.size() {
            true => (State::Succeeded, Ending::Succeeded),
            false => (State::Failed, Ending::Failed(not_all(&array, &elements))),
        };
        self.settle(now, id, state, Some(empty_outcome(ending)), effects);
    }

    /// Whether it is an array that ends only with its elements: some of them have not ended.
    pub(super) fn has_elements_under_way(&self, id: ObjectId) -> bool {
        self.jobs.get(id).and_then(|job| job.extras.elements.as_ref()).is_some_and(|elements| elements.under_way() > 0)
    }

    /// Ends an array that somebody cancels, or that has taken as long as it may: what has not begun never does, what is under
    /// way is stopped.
    pub(super) fn stop_array(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) {
        self.write_standing(id, effects);
        for element in self.jobs.elements_of(id) {
            self.stop_element(now, id, element, effects);
        }
        self.array_goes_on(now, id, effects);
    }

    fn stop_element(&mut self, now: Now, array: ObjectId, element: ObjectId, effects: &mut Vec<Effect>) {
        let Some((cancelled, out_of_time)) = self.jobs.get(array).map(|array| (array.cancelled, array.out_of_time))
        else {
            return;
        };
        let Some(job) = self.jobs.get_mut(element).filter(|job| !job.is_stopping()) else { return };
        (job.cancelled, job.out_of_time) = (cancelled, out_of_time);
        let run = job.run();
        let Some(placed) = job.placed_mut().filter(|placed| placed.disconnected.is_none()) else {
            return self.settle_stopped(now, element, None, effects);
        };
        placed.cancel_ms = Some(now.mono_ms);
        let worker = placed.worker;
        self.write_standing(element, effects);
        effects.push(Effect::Cancel { worker, run });
        effects.push(Effect::Changed { job: element, settled: false });
    }

    /// Cancels an array with all its elements.
    pub(super) fn cancel_array(&mut self, now: Now, id: ObjectId, effects: &mut Vec<Effect>) -> Option<Reply> {
        let job = self.jobs.get_mut(id)?;
        job.cancelled = true;
        let mut view = self.reply_view(now, id).ok()?;
        self.counters.cancelled += 1;
        self.stop_array(now, id, effects);
        match self.reply_view(now, id) {
            Ok(view) => Some(Reply::Job(Some(view))),
            Err(_) => {
                (view.state, view.settled_ms, view.reason) = (State::Cancelled, Some(now.wall_ms), None);
                Some(Reply::Job(Some(view)))
            }
        }
    }

    /// Tells those that wait for elements which never began how these ended: with their array.
    pub(super) fn tell_of_cut(&mut self, array: &Accepted, begun: u32, state: State) {
        let Some(Array { last, .. }) = array.extras.array else { return };
        let first = array.extras.array.and_then(|array| array.index(begun)).and_then(|index| array.id.element(index));
        if let Some((first, last)) = first.zip(array.id.element(last)) {
            let end = || Some(End { state, output: shoal_protocol::object::job::Payload::empty() });
            self.dependents.ended_within(first..=last, end);
        }
    }
}

impl Job {
    /// Where an element of this array stands that begins: decided by whom the array is.
    pub(super) fn standing_of_element(&self, element: &Accepted) -> Standing {
        let Names { name, labels } = self.names();
        let standing = Standing { name, labels, priority: self.priority, alone: self.alone, ..element.standing() };
        match self.extras.rule.as_deref() {
            None => standing,
            Some(rule) => {
                let first = first_of_term(rule.term);
                let (regent, unconfirmed) = (Some(rule.regent), rule.unconfirmed);
                Standing { epoch: first, revision: first, regent, unconfirmed, ..standing }
            }
        }
    }
}

/// Whether another element may begin.
fn may_begin(job: &Job) -> bool {
    let Some((elements, array)) = job.extras.elements.as_ref().zip(job.accepted.extras.array) else { return false };
    let places = array.at_once.is_none_or(|most| elements.under_way() < most);
    places && elements.begun < array.size() && !is_ending(job)
}

/// Whether it ends as soon as what is under way has.
fn is_ending(job: &Job) -> bool {
    job.is_stopping() || job.function_gone
}

fn not_all(array: &Array, elements: &Elements) -> Failure {
    let Elements { failed, cancelled, timed_out, expired, .. } = *elements;
    let how = [(failed, "failed"), (cancelled, "were cancelled"), (timed_out, "timed out"), (expired, "expired")];
    let how: Vec<String> =
        how.iter().filter(|(count, _)| *count > 0).map(|(count, how)| format!("{count} {how}")).collect();
    let message = format!("of its {} elements {} succeeded, {}", array.size(), elements.succeeded, how.join(", "));
    Failure { code: FailureCode::Elements, message }
}
