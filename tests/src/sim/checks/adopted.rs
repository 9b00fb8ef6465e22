//! Jobs that a regent finds settled at their home: they have ended as they did there, whatever it has decided or was asked meanwhile.

use std::collections::BTreeMap;

use shoal_kernel::{Input, Standing};
use shoal_protocol::ObjectId;

/// How homes have settled jobs of theirs, by their word that has just come: nobody takes them over so later.
#[derive(Debug, Default)]
pub(super) struct Adopted {
    settled: BTreeMap<ObjectId, Standing>,
}

impl Adopted {
    pub(super) fn note(&mut self, input: Option<&Input>) {
        self.settled.clear();
        let Some(Input::Keep { home, jobs, .. }) = input else { return };
        let said = jobs.iter().filter(|told| told.job.tag() == home.tag());
        let settled = said.filter_map(|told| Some((told.job, told.standing.as_deref()?)));
        let settled = settled.filter(|(_, standing)| standing.state.is_settled());
        self.settled.extend(settled.map(|(job, standing)| (job, standing.clone())));
    }

    /// Whether a job stands from now on just as its home has settled it, but for who says so. What the home has decided was looked
    /// at there, with all that it knew.
    pub(super) fn is(&self, job: ObjectId, next: &Standing) -> bool {
        let Standing { revision, regent, unconfirmed, .. } = *next;
        let home = self.settled.get(&job).cloned();
        home.is_some_and(|home| Standing { revision, regent, unconfirmed, ..home } == *next)
    }
}
