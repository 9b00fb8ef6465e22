//! What must hold of memoised jobs: each result that is given again is that of an equal job that has succeeded, and what has been
//! done is not done again.

use std::collections::BTreeMap;

use shoal_kernel::{Accepted, Standing};
use shoal_protocol::object::job::State;
use shoal_protocol::{BlobId, ObjectId};

use super::Broken;
use crate::sim::disk::Disk;

/// All jobs that are known, and where they stand.
type Jobs = BTreeMap<ObjectId, (Accepted, Standing)>;

/// Whose results may be given again.
#[derive(Debug, Default)]
pub(super) struct Memos {
    kept: BTreeMap<ObjectId, BlobId>,
}

/// Whether two jobs are so much alike that one can have the result of the other.
fn are_equal(a: &Accepted, b: &Accepted) -> bool {
    let what = |job: &Accepted| (job.spec.owner, job.spec.function, job.spec.component, job.input.id());
    let how = |job: &Accepted| (job.extras.args.clone(), job.extras.env.clone(), job.terms.memo);
    what(a) == what(b) && how(a) == how(b)
}

impl Memos {
    pub(super) fn restarted(&mut self, disk: &Disk) {
        self.kept = disk.memos.clone();
    }

    /// The result of a job may be given again, or may not any more.
    pub(super) fn write(&mut self, job: ObjectId, key: Option<BlobId>, jobs: &Jobs) -> Result<(), Broken> {
        let Some(key) = key else {
            self.kept.remove(&job);
            return Ok(());
        };
        self.kept.insert(job, key);
        match jobs.get(&job) {
            Some((accepted, standing)) if accepted.terms.memo && standing.state == State::Succeeded => Ok(()),
            other => Err(("only a result is given again", format!("{job} stands as {other:?}"))),
        }
    }

    pub(super) fn swept(&mut self, job: ObjectId) {
        self.kept.remove(&job);
    }

    /// A job stands otherwise.
    pub(super) fn changes(
        &self,
        accepted: &Accepted,
        last: &Standing,
        next: &Standing,
        jobs: &Jobs,
    ) -> Result<(), Broken> {
        if next.state == State::Offered && last.epoch == 0 && accepted.terms.memo {
            let equal = self.kept.keys().filter_map(|job| jobs.get(job)).find(|(other, _)| are_equal(accepted, other));
            if let Some((other, _)) = equal {
                let detail = format!("{} runs, and {} has its result", accepted.id, other.id);
                return Err(("what has been done is not done again", detail));
            }
        }
        let Some(first) = next.memo_of else { return Ok(()) };
        let output = |standing: &Standing| standing.outcome.as_ref().map(|outcome| outcome.output.clone());
        match jobs.get(&first) {
            Some((other, standing))
                if are_equal(accepted, other)
                    && standing.state == State::Succeeded
                    && output(standing) == output(next) =>
            {
                Ok(())
            }
            other => Err(("a result that is given again is that of an equal job", format!("{next:?} is of {other:?}"))),
        }
    }
}
