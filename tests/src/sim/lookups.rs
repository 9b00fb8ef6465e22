//! What the kernel has the edge look up in the store: answered a little later, from what is durable by then.

use shoal_kernel::faults::Faults;
use shoal_kernel::{End, Group, Input, Recall};
use shoal_protocol::object::job::Payload;
use shoal_protocol::wire::custody::KeepJob;
use shoal_protocol::{NodeId, ObjectId};

use super::Violation;
use super::world::World;

impl<F: Faults> World<F> {
    /// The edge has looked into the store how a job ended.
    pub(crate) fn learned(&mut self, life: u64, job: ObjectId) -> Result<(), Violation> {
        if self.node.as_ref().is_none_or(|node| node.life != life) {
            return Ok(());
        }
        let ended = self.disk.read(job).map(|(_, standing)| standing).filter(|standing| standing.state.is_settled());
        let end = ended.map(|standing| End {
            state: standing.state,
            output: standing.outcome.as_ref().map_or_else(Payload::empty, |outcome| outcome.output.clone()),
        });
        self.coverage.hit(if end.is_some() { "ends learned from the store" } else { "ends that nobody knows" });
        self.input(Input::Learned { job, end })
    }

    /// The edge has looked into the store for a job that a custodian shall have.
    pub(crate) fn recalled(&mut self, life: u64, recall: Recall) -> Result<(), Violation> {
        if self.node.as_ref().is_none_or(|node| node.life != life) {
            return Ok(());
        }
        let record = self.disk.read(recall.job).map(Box::new);
        self.input(Input::Recalled { recall, record })
    }

    /// The edge has looked into the store for jobs of another home that are to be taken over.
    pub(crate) fn took(&mut self, life: u64, home: NodeId, set: u32, jobs: &[ObjectId]) -> Result<(), Violation> {
        if self.node.as_ref().is_none_or(|node| node.life != life) {
            return Ok(());
        }
        let kept = jobs.iter().filter_map(|job| self.disk.charges.get(job));
        let jobs = kept.map(|(_, _, accepted, standing)| (accepted.clone(), standing.clone())).collect();
        self.input(Input::Took { home, set, jobs })
    }

    /// The edge has looked into the store for a job of which another node says something newer.
    pub(crate) fn merged(&mut self, life: u64, from: NodeId, told: Box<KeepJob>) -> Result<(), Violation> {
        if self.node.as_ref().is_none_or(|node| node.life != life) {
            return Ok(());
        }
        let record = self.disk.read(told.job).map(Box::new);
        self.input(Input::Merge { from, told, record })
    }

    /// The edge has looked into the store which settled jobs are the oldest.
    pub(crate) fn oldest(&mut self, life: u64, group: Group, after: Option<(u64, ObjectId)>) -> Result<(), Violation> {
        if self.node.as_ref().is_none_or(|node| node.life != life) {
            return Ok(());
        }
        let jobs = self.disk.oldest(group, after);
        self.input(Input::Oldest { group, jobs })
    }
}
