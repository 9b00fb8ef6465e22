//! Jobs that a regent leaves to their home, since only that knows what became of them; and what it does when somebody does not want to
//! wait for that any longer.
//!
//! Whoever may cancel such a job has it ended by the regent: it is taken over as it is durable here, and cancelled at once. What its home
//! says otherwise when it comes back after all is kept beside that, as of any job that two nodes have ended. Only a job with effects
//! `once` stays: for an end of it the word is needed that its home may have.

use std::collections::BTreeMap;

use shoal_protocol::object::job::{OnDisconnect, State};
use shoal_protocol::{Kind, ObjectId, Problem};

use super::Machine;
use crate::effect::{Away, Effect, Reply};
use crate::faults::Faults;
use crate::input::{Now, Principal, RequestId};
use crate::record::{Accepted, Reign, Standing};
use crate::regents::{GivenUp, Left, Realm};
use crate::{reason, rights};

/// When to try again where a job is on its way from one node to another, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// What stands in the store of jobs that are to be ended, or of elements that have begun.
pub(super) type Found = BTreeMap<ObjectId, (Accepted, Standing)>;

impl<F: Faults> Machine<F> {
    /// Why only its home can go on with a job: no further run of it is allowed, and what became of the last that one knows; it
    /// waits for who runs it, or for jobs that are not kept here; or its function is not known here as its home says it is.
    pub(super) fn left_to_its_home(&self, accepted: &Accepted, before: &Standing) -> Option<Left> {
        let here = |job: &ObjectId| self.jobs.contains(*job) || self.charges.get(*job).is_some();
        // Of an array any element may be under way.
        let under_way = before.state == State::Offered || accepted.is_array();
        let waits = under_way && accepted.terms.on_disconnect == Some(OnDisconnect::Wait);
        let once = accepted.is_array() && accepted.terms.effects.is_once();
        let reasons = [
            (once, Left::Once),
            (was_last(accepted, before), Left::LastRun),
            (waits, Left::WaitsForRun),
            (!before.unmet.iter().all(here), Left::Earlier),
            (self.check_function(accepted).is_err(), Left::Function),
        ];
        reasons.into_iter().find(|(is_so, _)| *is_so).map(|(_, left)| left)
    }

    /// A job is none of a regent's to go on with.
    pub(super) fn leave_to_home(&mut self, realm: Realm, id: ObjectId, why: Left) {
        self.grants.stop_waiting(id);
        if let Some(known) = self.regents.get_mut(realm) {
            known.left.insert(id, why);
        }
    }

    /// Why a job of another home, which this node only keeps, does not go on while that is away.
    pub(super) fn why_away(&self, id: ObjectId) -> Option<Away> {
        let set = self.charges.set_of(id).filter(|set| !self.is_there(set.home))?;
        let known = self.regents.get((set.home, set.number)).filter(|known| !known.over);
        let acting = known.and_then(|known| known.acting.as_ref()).map(|acting| acting.regent.regent);
        let why = |job| known.and_then(|known| known.left.get(&job)).copied();
        let array = self.charges.array_of(id);
        let left = why(id).map(|why| (why, None)).or_else(|| Some((why(array?)?, array)));
        let acts = acting.map(|regent| (regent != self.config.node).then_some(regent));
        Some(Away { reason: reason::home_away(set.home, acts, left), left: self.realm_of_left(id).is_some() })
    }

    /// The set under which this node acts for the home of a job that it has left to that.
    fn realm_of_left(&self, id: ObjectId) -> Option<Realm> {
        self.charges.get(id).filter(|known| !known.settled() && !known.taken)?;
        let realm = self.charges.set_of(id).map(|set| (set.home, set.number))?;
        let known = self.regents.get(realm).filter(|known| !known.over && known.left.contains_key(&id))?;
        known.acting.as_ref().filter(|acting| acting.regent.regent == self.config.node).map(|_| realm)
    }

    /// Somebody wants to have a job ended that is left to its home: whether it is one. The answer comes when the store has said how it
    /// stands.
    pub(super) fn give_up_left(
        &mut self,
        request: RequestId,
        principal: Principal,
        job: ObjectId,
        effects: &mut Vec<Effect>,
    ) -> bool {
        let Some(realm) = self.realm_of_left(job) else { return false };
        let Some(known) = self.regents.get_mut(realm) else { return false };
        known.given_up.push(GivenUp { job, request, principal });
        let jobs = self.charges.open_elements(job).into_iter().chain([job]).collect();
        effects.push(Effect::Take { home: realm.0, set: realm.1, jobs });
        true
    }

    /// Those that somebody wants to have ended of which the store has just spoken, or which are kept here no more.
    pub(super) fn given_up_among(&mut self, realm: Realm, found: &[(Accepted, Standing)]) -> Vec<GivenUp> {
        let (charges, known) = (&self.charges, self.regents.get_mut(realm));
        let answered = |given_up: &mut GivenUp| {
            let job = given_up.job;
            charges.get(job).is_none() || found.iter().any(|(accepted, _)| accepted.id == job)
        };
        known.map_or_else(Vec::new, |known| known.given_up.extract_if(.., answered).collect())
    }

    /// The store has said how jobs stand that somebody wants to have ended, if they are there still.
    pub(super) fn end_given_up(
        &mut self,
        now: Now,
        realm: Realm,
        given_up: Vec<GivenUp>,
        (jobs, elements): (&Found, &Found),
        effects: &mut Vec<Effect>,
    ) {
        for GivenUp { job, request, principal } in given_up {
            let reply = match self.take_to_end(now, realm, &principal, jobs.get(&job), elements, effects) {
                Ok(()) if self.jobs.contains(job) => self.cancel(now, &principal, job, effects),
                // It has ended meanwhile.
                Ok(()) => Ok(Reply::Job(None)),
                Err(problem) => Err(problem),
            };
            effects.push(Effect::Reply { request, reply });
        }
    }

    /// Takes a job over for no other reason than to end it.
    fn take_to_end(
        &mut self,
        now: Now,
        realm: Realm,
        principal: &Principal,
        kept: Option<&(Accepted, Standing)>,
        elements: &Found,
        effects: &mut Vec<Effect>,
    ) -> Result<(), Problem> {
        let moves = || {
            let detail = "the job is about to be its home's again, or another node's: try again";
            Problem::new(Kind::Unavailable, detail).retry_after(RETRY_MS)
        };
        let (accepted, standing) = kept.ok_or_else(moves)?;
        if !rights::may_change_job(principal, accepted.spec.owner) {
            return Err(rights::refusal(principal, "cancel this job"));
        }
        let id = accepted.id;
        if self.jobs.contains(id) || self.charges.get(id).is_some_and(|known| known.settled()) {
            return Ok(());
        }
        if let Some(drain) = &self.drain {
            return Err(super::drain::refusal(drain));
        }
        let reign = self.reign_over_left(realm, id).ok_or_else(moves)?;
        if accepted.terms.effects.is_once() {
            let detail = format!(
                "its effects are `once`, and only its home, node {}, knows for certain whether it has begun: nobody else can end it",
                realm.0.short()
            );
            return Err(Problem::new(Kind::Conflict, detail));
        }
        if accepted.is_array() {
            self.take_whole_array(now, &reign, accepted.clone(), standing.clone(), elements, effects);
        } else {
            let ended = self.take(now, &reign, accepted.clone(), standing.clone(), effects);
            self.begin_deciding(now, id, ended, effects);
        }
        self.counters.left_ended += 1;
        Ok(())
    }

    /// The right by which this node ends a job that it has left to its home.
    fn reign_over_left(&self, realm: Realm, id: ObjectId) -> Option<Reign> {
        let is_open = self.charges.get(id).is_some_and(|known| !known.settled() && !known.taken);
        let known = self.regents.get(realm).filter(|known| is_open && !known.over)?;
        known.acting.clone().filter(|acting| acting.regent.regent == self.config.node)
    }
}

/// Whether the last run that a job may have was under way.
pub(super) fn was_last(accepted: &Accepted, before: &Standing) -> bool {
    before.state == State::Offered && before.attempts_total >= accepted.spec.limits.attempts()
}
