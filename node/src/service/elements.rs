//! The elements of an array, listed: those that have begun.

use shoal_kernel::rights;
use shoal_protocol::object::Class;
use shoal_protocol::{Kind, ObjectId, Problem};

use super::custody::Record;
use super::job::{SCAN_LEN, Stretch};
use super::{Caller, Service, target};
use crate::runtime::begun_before;

impl Service {
    /// The array of this id: of this home, or one that is kept here.
    pub(super) fn array(&self, caller: &Caller, object: &str) -> Result<Record, Problem> {
        let id = target::id(Class::Job, object)?;
        let may_read = |Record { accepted: job, .. }: &Record| {
            rights::may_read_job(&caller.principal, job.spec.owner, job.spec.function_owner)
        };
        let array = self.record(id)?.filter(may_read).ok_or_else(|| target::not_found(Class::Job, object))?;
        if !array.accepted.is_array() {
            return Err(Problem::new(Kind::InvalidQuery, format!("array: job {id} is no array, it has no elements")));
        }
        Ok(array)
    }

    /// A stretch of its elements that have begun, newest first, before an id.
    pub(super) async fn elements_before(
        &self,
        caller: &Caller,
        array: &Record,
        before: Option<ObjectId>,
    ) -> Result<Stretch, Problem> {
        let begun = begun_before(self.0.runtime.store(), &array.accepted, before, SCAN_LEN)?;
        let (rows, last) = (begun.len(), begun.last().copied());
        let records = begun.into_iter().filter_map(|id| self.record(id).transpose()).collect::<Result<_, _>>()?;
        Ok(Stretch { jobs: self.described(caller, records).await?, rows, last })
    }
}
