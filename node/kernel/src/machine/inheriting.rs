//! Jobs that a node which leaves hands over to this one: they are its own to decide from then on, as those of a home for which it
//! acts. Settled ones come as well, so that they are found here when their home is gone.

use shoal_protocol::object::job::{Checkpoint, State};
use shoal_protocol::regency::first_of_term;
use shoal_protocol::wire::drain::HandedJob;
use shoal_protocol::{Kind, Problem};

use super::Machine;
use super::guests::check_version;
use super::merging::kept_bytes;
use super::telling::noted;
use crate::effect::{Effect, Reply};
use crate::faults::Faults;
use crate::input::{Inheritance, Now, Principal};
use crate::jobs::Job;
use crate::record::{Accepted, Custodians, Group, Record, Reign, Retained, Saving, Standing};
use crate::rights;

/// When to try again where there is no room, in milliseconds.
const RETRY_FULL_MS: u64 = 1_000;

impl<F: Faults> Machine<F> {
    /// Takes jobs of a home that leaves. Those that it decides already stay as they are.
    pub(super) fn inherit(
        &mut self,
        now: Now,
        principal: &Principal,
        inheritance: Inheritance,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Problem> {
        if !rights::may_operate(principal) {
            return Err(rights::refusal(principal, "hand jobs over to this node"));
        }
        self.check_room(&inheritance)?;
        let Inheritance { set, signed, regent, vote, jobs } = inheritance;
        let (home, number) = (regent.home, regent.set);
        if !self.charges.knows(&set) {
            let record = Custodians { set: set.clone(), signed: Some(signed), unconfirmed: false };
            effects.push(Effect::Write(Record::Custodians(Box::new(record))));
            self.charges.put_set(set);
        }
        let acting = self.regents.get((home, number)).and_then(|known| known.acting.as_ref());
        let reign = match acting.filter(|reign| reign.regent.regent == self.config.node) {
            Some(reign) => reign.clone(),
            None => {
                let reign = Reign { regent, acts: true, confirmed: true, votes: vec![vote] };
                self.counters.reigns += 1;
                self.write_reign(reign.clone(), effects);
                reign
            }
        };
        let mut taken = Vec::with_capacity(jobs.len());
        for job in jobs {
            let id = job.accepted.id;
            if self.charges.get(id).is_some_and(|known| known.taken) || self.inherit_one(now, &reign, job, effects) {
                taken.push(id);
            }
        }
        self.look_again(now);
        Ok(Reply::Inherited(taken))
    }

    fn check_room(&self, inheritance: &Inheritance) -> Result<(), Problem> {
        if let Some(problem) = &self.refusing {
            return Err(problem.clone());
        }
        if self.jobs.bytes() >= self.config.jobs_bytes_max || self.charges.is_full() {
            let detail =
                "this node has as many jobs as it has room for: let some of them end, or hand over to another one";
            return Err(Problem::new(Kind::Full, detail).retry_after(RETRY_FULL_MS));
        }
        let regent = inheritance.regent;
        let later = self.regents.get((regent.home, regent.set)).and_then(|known| known.acting.as_ref());
        match later.filter(|reign| reign.regent.regent != regent.regent && reign.regent.term >= regent.term) {
            Some(reign) => {
                let detail =
                    format!("node {} acts for that home already, in a later term", reign.regent.regent.short());
                Err(Problem::new(Kind::Conflict, detail))
            }
            None => Ok(()),
        }
    }

    /// One job. Whether it is here: an element without its array is none, and one that has not ended waits until its function is known here. It
    /// is for no home to say what that may do here: a job that says otherwise ends.
    fn inherit_one(&mut self, now: Now, reign: &Reign, job: HandedJob, effects: &mut Vec<Effect>) -> bool {
        let HandedJob { accepted, standing, checkpoint } = job;
        let (accepted, standing) = (*accepted, standing_of(reign, *standing));
        let id = accepted.id;
        if accepted.array_id().is_some_and(|array| self.charges.get(array).is_none_or(|known| !known.taken)) {
            return false;
        }
        let function = self.functions.get(accepted.spec.function);
        if !standing.state.is_settled() && function.is_none() {
            return false;
        }
        let allowed = function.map_or(Ok(()), |function| check_version(function, &accepted));
        self.drop_guest(now, id, effects);
        self.write_as_taken((reign.regent.home, reign.regent.set), &accepted, &standing, effects);
        self.counters.taken += 1;
        self.counters.accepted += if accepted.array_id().is_some() { 0 } else { u64::from(accepted.size()) };
        self.note_key(&accepted);
        match standing.state.is_settled() {
            true => self.inherit_settled(now, &accepted, &standing, effects),
            false => {
                self.inherit_open(now, accepted, standing, checkpoint, effects);
                if let Err(problem) = allowed {
                    self.settle_without_function(now, id, problem.detail, effects);
                }
            }
        }
        true
    }

    fn inherit_settled(&mut self, now: Now, accepted: &Accepted, standing: &Standing, effects: &mut Vec<Effect>) {
        if accepted.array_id().is_none() {
            let group = Group::of(accepted, standing.state);
            let settled_ms = standing.settled_ms.unwrap_or_default();
            let bytes = kept_bytes(accepted, standing);
            effects.push(Effect::Write(Record::Retained(Retained { group, job: accepted.id, settled_ms, bytes })));
            self.shelve(now, group, bytes, effects);
        }
        if self.dependents.has(accepted.id) {
            effects.push(Effect::Learn { job: accepted.id });
        }
        self.keep_standing(accepted, standing, effects);
        effects.push(Effect::Changed { job: accepted.id, settled: true });
    }

    fn inherit_open(
        &mut self,
        now: Now,
        accepted: Accepted,
        standing: Standing,
        checkpoint: Option<Box<Checkpoint>>,
        effects: &mut Vec<Effect>,
    ) {
        let (id, state, retry_ms) = (accepted.id, standing.state, standing.retry_ms);
        let mut job = Job::new(accepted, standing, now.mono_ms);
        if let Some(checkpoint) = checkpoint {
            let saving = Saving { checkpoint: Some((*checkpoint).clone()), replaces: None };
            effects.push(Effect::Write(Record::Checkpoint(id, Box::new(saving))));
            job.history.checkpoint = Some(checkpoint);
        }
        let (stopping, is_array) = (job.is_stopping(), job.extras.elements.is_some());
        self.take_in(now, job);
        self.wait_as(now, id, if state == State::Offered { State::Queued } else { state }, retry_ms);
        self.depend(id, effects);
        self.tell_members(id, effects);
        effects.extend(self.jobs.get(id).map(|job| noted(now, job, job.told, None)));
        effects.push(Effect::Changed { job: id, settled: false });
        match (is_array, stopping) {
            (true, _) => self.array_restored(now, id, effects),
            (false, true) => self.settle_stopped(now, id, None, effects),
            (false, false) => {}
        }
    }
}

/// Where a job stands from now on: above all that its home has said.
fn standing_of(reign: &Reign, before: Standing) -> Standing {
    let first = first_of_term(reign.regent.term);
    let settled = before.state.is_settled();
    Standing {
        epoch: if settled { before.epoch } else { before.epoch.max(first) },
        revision: before.revision.saturating_add(1).max(first),
        regent: Some(reign.regent.regent),
        ..before
    }
}
