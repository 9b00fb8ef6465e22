//! The elements of an array, listed: those that have begun.

use shoal_kernel::{Accepted, rights, view};
use shoal_protocol::object::Class;
use shoal_protocol::object::job::Job;
use shoal_protocol::{Kind, ObjectId, Problem};

use super::job::SCAN_LEN;
use super::{Caller, Service, target};
use crate::runtime::{begun_before, read_job};

impl Service {
    /// The array of this id.
    pub(super) fn array(&self, caller: &Caller, object: &str) -> Result<Accepted, Problem> {
        let id = target::id(Class::Job, object)?;
        let record = read_job(self.0.runtime.store(), id)?
            .filter(|(job, _)| rights::may_read_job(&caller.principal, job.spec.owner, job.spec.function_owner));
        let (job, _) = record.ok_or_else(|| target::not_found(Class::Job, object))?;
        if !job.is_array() {
            return Err(Problem::new(Kind::InvalidQuery, format!("array: job {id} is no array, it has no elements")));
        }
        Ok(job)
    }

    /// A stretch of its elements that have begun, newest first, before an id.
    pub(super) async fn elements_before(
        &self,
        caller: &Caller,
        array: &Accepted,
        before: Option<ObjectId>,
    ) -> Result<Vec<Job>, Problem> {
        let store = self.0.runtime.store();
        let (mut jobs, mut live) = (Vec::new(), Vec::new());
        for id in begun_before(store, array, before, SCAN_LEN)? {
            let Some((accepted, Some(standing))) = read_job(store, id)? else { continue };
            if !standing.state.is_settled() {
                live.push(id);
            }
            jobs.push(view::job(self.0.identity.node_id(), &accepted, &standing, false));
        }
        self.describe(caller, live, &mut jobs).await?;
        Ok(jobs)
    }
}
