//! What is asked of a job between its submission and its end, and after it: hold, release, run again.

use shoal_kernel::{Command, NewJob, Reply, Standing, rights};
use shoal_protocol::object::Class;
use shoal_protocol::object::job::{Accepted, Array, Job, Receipt, Terms};
use shoal_protocol::{Kind, ObjectId, Problem};

use super::answer::{Answer, Format};
use super::blob::unavailable;
use super::job::{trace_id, unexpected};
use super::{Caller, Service, target};
use crate::runtime::read_job;

impl Service {
    /// Methods `hold` and `release`.
    pub(super) async fn hold_job(
        &self,
        caller: &Caller,
        object: &str,
        hold: bool,
        format: Format,
    ) -> Result<Answer, Problem> {
        let id = target::id(Class::Job, object)?;
        caller.user()?;
        let command = if hold { Command::Hold(id) } else { Command::Release(id) };
        match self.0.runtime.request(caller.principal, command).await {
            Ok(Reply::Job(Some(job))) => Answer::object(200, format, &*job),
            Ok(other) => Err(unexpected(&other)),
            Err(problem) if problem.kind == Kind::NotFound => Err(self.has_ended(caller, id, hold).await?),
            Err(problem) => Err(problem),
        }
    }

    /// Why a job that is not in the kernel's memory can be held or released no more.
    async fn has_ended(&self, caller: &Caller, id: ObjectId, hold: bool) -> Result<Problem, Problem> {
        let Job { state, .. } = self.job(caller, id, false).await?;
        let what = if hold { "held" } else { "released" };
        Ok(Problem::new(Kind::Conflict, format!("the job has {}: it can be {what} no more", state.text())))
    }

    /// Method `rerun`: one more job with the function, version and input of this one, for whoever may see it.
    pub(super) async fn rerun_job(&self, caller: &Caller, object: &str, format: Format) -> Result<Answer, Problem> {
        let id = target::id(Class::Job, object)?;
        caller.user()?;
        let record = read_job(self.0.runtime.store(), id)?;
        let may_read = |(job, _): &(shoal_kernel::Accepted, Option<Standing>)| {
            rights::may_read_job(&caller.principal, job.spec.owner, job.spec.function_owner)
        };
        let (record, standing) =
            record.filter(may_read).ok_or_else(|| target::not_found(Class::Job, &id.to_string()))?;
        let earlier = record.extras.input_of;
        if earlier.is_some_and(|earlier| standing.is_none_or(|standing| standing.unmet.contains(&earlier))) {
            let detail =
                "the job's input is the result of another job and has not come: submit it anew, after that job";
            return Err(Problem::new(Kind::Conflict, detail));
        }
        // Held until the new job's own reference to it is durable; the old job may be forgotten meanwhile.
        let held = match record.input.blob() {
            Some(blob) => Some(self.hold_blob(blob).await?.ok_or_else(|| unavailable(blob))?),
            None => None,
        };
        let reply = self.0.runtime.request(caller.principal, Command::Submit(vec![self.again(caller, record)])).await?;
        drop(held);
        let Reply::Receipts(receipts) = reply else { return Err(unexpected(&reply)) };
        match receipts.into_iter().next() {
            Some(Receipt::Accepted { id }) => Answer::new(202, format, &Accepted { id }),
            Some(Receipt::Refused(problem)) => Err(problem),
            None => Err(Problem::new(Kind::Internal, "the job got no receipt")),
        }
    }

    /// The same job once more: now, and with no priority that the caller may not give.
    fn again(&self, caller: &Caller, job: shoal_kernel::Accepted) -> NewJob {
        let priority = if caller.principal.operator { job.terms.priority } else { job.terms.priority.min(0) };
        // An element is run again as an array of its own, which has no other.
        let one = |index| Array { first: index, last: index, step: 1, at_once: None };
        let extras = job.extras.into_inner();
        let array = extras.index.map(one).or(extras.array);
        NewJob {
            id: self.mint(array),
            trace: caller.traceparent.map_or_else(trace_id, |traceparent| traceparent.trace_id()),
            traceparent: caller.traceparent,
            function: job.spec.function,
            version: Some(job.spec.function_version),
            input: job.input,
            args: extras.args,
            env: extras.env,
            needs: job.spec.needs.clone(),
            limits: job.spec.limits,
            name: job.name.into(),
            labels: extras.labels,
            terms: Terms { hold: false, not_before_ms: None, priority, ..job.terms.into_inner() },
            array,
            key: None,
            rerun_of: Some(job.id),
            after: Vec::new(),
            input_of: None,
            durability: None,
        }
    }
}
