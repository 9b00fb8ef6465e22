//! Taking jobs in: each is accepted or refused by itself, and all are answered at once.

use std::num::NonZeroU8;
use std::sync::Arc;

use shoal_protocol::custody::{Custody, DURABILITY_MAX};
use shoal_protocol::limits::{JOB_MS_MAX, SUBMIT_BATCH_LEN_MAX};
use shoal_protocol::object::function::Function;
use shoal_protocol::object::job::{IdempotencyKey, Receipt, State, check_after, check_key};
use shoal_protocol::record::{Extras, check_texts};
use shoal_protocol::{Kind, ObjectId, Problem};

use super::Machine;
use super::keys::body_of;
use super::memo::check_memo;
use crate::effect::{Effect, Reply};
use crate::faults::{Fault, Faults};
use crate::input::{NewJob, Now, Principal, RequestId};
use crate::jobs::{Job, Phase};
use crate::queue::Lane;
use crate::record::{Accepted, Record, Spec, VERSION};
use crate::rights;

/// When to try again after a refusal for want of room, in milliseconds. Why 1 s: some jobs have ended by then.
const RETRY_FULL_MS: u64 = 1_000;

/// What a submission comes to.
enum Admitted {
    /// The job that was submitted before under the same key.
    Known(ObjectId),
    /// A new one.
    New(Box<Accepted>),
}

impl<F: Faults> Machine<F> {
    pub(super) fn submit(
        &mut self,
        now: Now,
        request: RequestId,
        principal: Principal,
        jobs: Vec<NewJob>,
        effects: &mut Vec<Effect>,
    ) {
        if jobs.len() > SUBMIT_BATCH_LEN_MAX {
            let detail = format!("{} jobs in one submission, at most {SUBMIT_BATCH_LEN_MAX}", jobs.len());
            effects.push(Effect::Reply { request, reply: Err(Problem::new(Kind::TooLarge, detail)) });
            return;
        }
        let first = effects.len();
        let mut keeping = Vec::new();
        let submit = |job| self.submit_one(now, &principal, job, &mut keeping, effects);
        let receipts = jobs.into_iter().map(submit).collect();
        if !keeping.is_empty() {
            return self.await_custodians(now, request, receipts, &keeping, effects);
        }
        let reply = Effect::Reply { request, reply: Ok(Reply::Receipts(receipts)) };
        let place = if F::has(Fault::AcknowledgedFirst) { first } else { effects.len() };
        effects.insert(place, reply);
    }

    /// One job. Where custodians shall have it before it is acknowledged that is noted in `keeping`.
    fn submit_one(
        &mut self,
        now: Now,
        principal: &Principal,
        job: NewJob,
        keeping: &mut Vec<(ObjectId, bool, u8)>,
        effects: &mut Vec<Effect>,
    ) -> Receipt {
        let strict = job.durability.is_some();
        match self.known_or_admitted(now, principal, job) {
            Ok(Admitted::Known(id)) => {
                self.counters.same_key += 1;
                let custody = self.jobs.get(id).and_then(|job| job.accepted.custody);
                if let Some(custody) = custody.filter(|_| self.custody.is_unsure(id)) {
                    keeping.push((id, strict, custody.durability.get()));
                }
                Receipt::Accepted { id }
            }
            Ok(Admitted::New(accepted)) => {
                let accepted = *accepted;
                let id = accepted.id;
                self.note_key(&accepted);
                self.count_submission(now, Lane::of(&accepted));
                let standing = accepted.standing();
                let state = standing.state;
                effects.push(Effect::Write(Record::Accepted(Box::new(accepted.clone()))));
                self.counters.accepted += u64::from(accepted.size());
                self.counters.held += u64::from(state == State::Held);
                let durability = accepted.custody.map_or(1, |custody| custody.durability.get());
                self.take_in(now, Job::new(accepted, standing, now.mono_ms));
                if durability > 1 && !F::has(Fault::KeepingNotAwaited) {
                    self.wait_for_custodians(now, id);
                    keeping.push((id, strict, durability));
                } else {
                    self.begin_waiting(now, id, effects);
                    self.keep_whole(id, effects);
                }
                Receipt::Accepted { id }
            }
            Err(problem) => {
                self.counters.refuse(problem.kind);
                self.counters.over_quota += u64::from(problem.kind == Kind::OverQuota);
                Receipt::Refused(problem)
            }
        }
    }

    /// The job that was submitted before under the same key, or a new one.
    fn known_or_admitted(&self, now: Now, principal: &Principal, job: NewJob) -> Result<Admitted, Problem> {
        if let Some(problem) = &self.refusing {
            return Err(problem.clone());
        }
        match self.job_of_key(principal, &job)? {
            Some(id) if self.is_being_kept(id) => Err(being_kept(id)),
            Some(id) => Ok(Admitted::Known(id)),
            None => self.admit(now, principal, job).map(|accepted| Admitted::New(Box::new(accepted))),
        }
    }

    /// Whether a job was not acknowledged yet: it waits for its custodians, and may be refused.
    fn is_being_kept(&self, id: ObjectId) -> bool {
        self.custody.is_open(id) || self.jobs.get(id).is_some_and(|job| job.phase == Phase::Keeping)
    }

    /// The checks, cheapest and most general first.
    fn admit(&self, now: Now, principal: &Principal, job: NewJob) -> Result<Accepted, Problem> {
        let owner = principal.user.ok_or_else(|| rights::refusal(principal, "submit a job"))?;
        if self.jobs.bytes() >= self.config.jobs_bytes_max {
            let (jobs, mib) = (self.jobs.len(), self.config.jobs_bytes_max >> 20);
            return Err(full(format!(
                "{jobs} jobs are unsettled at this node, which is all that fits into the {mib} MiB that it has for them"
            )));
        }
        if self.jobs.contains(job.id) {
            return Err(Problem::new(Kind::Internal, format!("the id {} was minted twice", job.id)));
        }
        let function = self.functions.get(job.function).ok_or_else(|| {
            Problem::new(Kind::NotFound, format!("no function {} is known to this node", job.function))
        })?;
        if !rights::may_run(principal, function, self.functions.members(function)) {
            return Err(rights::refusal(principal, &format!("run the function {}", function.name)));
        }
        check_texts(&job.name, &job.labels, &job.input, &job.args, &job.env)?;
        job.terms.check()?;
        check_memo(function, &job)?;
        self.check_calls(&job)?;
        job.array.map_or(Ok(()), |array| array.check())?;
        job.key.as_deref().map_or(Ok(()), check_key)?;
        self.check_after(principal, &job)?;
        rights::check_priority(principal, job.terms.priority)?;
        if job.terms.not_before_ms.is_some_and(|at_ms| at_ms > now.wall_ms.saturating_add(JOB_MS_MAX)) {
            let detail =
                "not_before_ms: the time is more than a year ahead; it is in milliseconds since the Unix epoch";
            return Err(Problem::new(Kind::InvalidField, detail));
        }
        let custody = self.custody_for(now, job.durability)?;
        let group = function.project.unwrap_or(function.owner);
        self.check_quotas(now, Lane { group, user: owner }, &job)?;
        let accepted = accept(now, owner, function, job, custody)?;
        if !self.queue.has_room(&accepted.spec.needs) {
            return Err(full("jobs of too many different needs wait at this node".into()));
        }
        Ok(accepted)
    }
}

impl<F: Faults> Machine<F> {
    /// With whom a job is kept that so many nodes shall have.
    fn custody_for(&self, now: Now, durability: Option<u8>) -> Result<Option<Custody>, Problem> {
        let Some(durability) = durability else { return self.custody.terms(None, now.mono_ms) };
        match NonZeroU8::new(durability).filter(|durability| durability.get() <= DURABILITY_MAX) {
            Some(durability) => self.custody.terms(Some(durability), now.mono_ms),
            None => {
                let detail = format!("durability is {durability}; it goes from 1 to {DURABILITY_MAX}");
                Err(Problem::new(Kind::InvalidField, detail))
            }
        }
    }

    /// Checks what a job is to wait for.
    fn check_after(&self, principal: &Principal, job: &NewJob) -> Result<(), Problem> {
        check_after(&job.after, job.input_of)?;
        for earlier in job.after.iter().map(|after| after.job) {
            if earlier.tag() != self.config.node.tag() {
                let detail = format!(
                    "after: the home of job {earlier} is another node; a job waits for jobs of its own home only: submit it there"
                );
                return Err(Problem::new(Kind::InvalidField, detail));
            }
            let known = self.jobs.get(earlier).or_else(|| self.jobs.array_ahead(earlier));
            let unseen = known.is_some_and(|earlier| {
                !rights::may_read_job(principal, earlier.accepted.spec.owner, earlier.accepted.spec.function_owner)
            });
            if unseen {
                return Err(Problem::new(Kind::NotFound, format!("after: there is no job {earlier} that you may see")));
            }
        }
        Ok(())
    }
}

fn being_kept(id: ObjectId) -> Problem {
    let detail = format!("job {id} was submitted under this key just now, and is on its way to the nodes that keep it");
    Problem::new(Kind::Unavailable, detail).retry_after(RETRY_FULL_MS)
}

fn full(detail: String) -> Problem {
    Problem::new(Kind::Full, detail).retry_after(RETRY_FULL_MS)
}

fn accept(
    now: Now,
    owner: ObjectId,
    function: &Function,
    job: NewJob,
    custody: Option<Custody>,
) -> Result<Accepted, Problem> {
    let version = match job.version {
        Some(number) => function.versions.iter().find(|version| version.number == number),
        None => function.versions.iter().rev().find(|version| version.component == function.current),
    };
    let version = version.ok_or_else(|| {
        let which = job.version.map_or("current version".to_owned(), |number| format!("version {number}"));
        Problem::new(Kind::NotFound, format!("the function {} has no {which}", function.name))
    })?;
    let needs = function.needs.and(&job.needs);
    needs.check()?;
    let limits = job.limits.or(&function.limits);
    limits.check()?;
    let body = job.key.is_some().then(|| body_of(owner, &job));
    let key = job.key.zip(body).map(|(key, body)| Box::new(IdempotencyKey { key, body }));
    let extras = Extras {
        traceparent: job.traceparent,
        args: job.args,
        env: job.env,
        labels: job.labels,
        array: job.array,
        index: None,
        key,
        rerun_of: job.rerun_of,
        after: job.after,
        input_of: job.input_of,
    };
    Ok(Accepted {
        version: VERSION,
        id: job.id,
        trace: job.trace,
        spec: Arc::new(Spec {
            owner,
            function: function.id,
            function_name: function.name.clone(),
            function_owner: function.owner,
            project: function.project,
            function_version: version.number,
            component: version.component,
            grants: function.grants.clone(),
            needs,
            limits,
        }),
        input: job.input,
        accepted_ms: now.wall_ms,
        name: job.name.into(),
        terms: job.terms.into(),
        custody,
        extras: extras.into(),
    })
}
