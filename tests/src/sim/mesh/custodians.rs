//! What must hold of custodians across nodes: an acknowledged job is on as many disks as it says, and once everything has
//! healed custodians hold what their homes hold.

use super::Mesh;
use crate::sim::Violation;
use crate::sim::mutations::Bugs;

impl<F: Bugs> Mesh<F> {
    /// The jobs that a node has just acknowledged are on other disks, too.
    pub(super) fn acknowledged_at(&mut self, place: usize) -> Result<(), Violation> {
        for job in std::mem::take(&mut self.world(place).checks.acknowledged_now) {
            let wanted = self.world(place).disk.jobs.get(&job).and_then(|(accepted, standing)| {
                accepted.custody.filter(|_| !standing.alone).map(|custody| usize::from(custody.durability.get()))
            });
            let disks = 1 + self.worlds.iter().filter(|world| world.disk.charges.contains_key(&job)).count();
            if wanted.is_some_and(|wanted| disks < wanted) {
                let detail = format!("node {place}: {job} is on {disks} disks, it says {wanted:?}");
                return Err(self.broken("a job is on as many disks as it says when it is acknowledged", detail));
            }
        }
        Ok(())
    }

    /// Whether custodians hold what their homes hold.
    pub(super) fn custodians_agree(&self) -> bool {
        self.stale_charge().is_none()
    }

    /// The same, when all is over.
    pub(super) fn custodians_check(&self) -> Result<(), Violation> {
        match self.stale_charge() {
            None => Ok(()),
            Some(detail) => Err(self.broken("custodians come to hold what the home holds", detail)),
        }
    }

    /// A job that is kept somewhere otherwise than its home has it.
    fn stale_charge(&self) -> Option<String> {
        self.worlds.iter().enumerate().find_map(|(place, world)| {
            world.disk.charges.iter().find_map(|(job, (home, set, accepted, standing))| {
                let home = self.ids.iter().position(|id| id == home)?;
                let ours = self.worlds.get(home).and_then(|home| home.disk.jobs.get(job));
                if ours.is_some_and(|(ours, stands)| (ours, stands) == (accepted, standing)) {
                    return None;
                }
                let stands = ours.map(|(_, stands)| (stands.revision, stands.state));
                Some(format!(
                    "node {place} keeps {job} under set {set} as {:?}, its home, node {home}, has it as {stands:?}",
                    (standing.revision, standing.state)
                ))
            })
        })
    }

    pub(super) fn broken(&self, rule: &'static str, detail: String) -> Violation {
        Violation { at_ms: self.now_ms, rule, detail }
    }
}
