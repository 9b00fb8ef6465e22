//! What must hold of custodians across nodes: an acknowledged job is on as many disks as it says, and once everything has
//! healed custodians hold what their homes hold.

use std::collections::BTreeMap;

use shoal_kernel::{Accepted, Standing};
use shoal_protocol::NodeId;
use shoal_protocol::object::job::Elements;
use shoal_protocol::regency::Regent;

use super::Mesh;
use crate::sim::Violation;
use crate::sim::disk::Disk;
use crate::sim::mutations::Bugs;

impl<F: Bugs> Mesh<F> {
    /// The jobs that a node has just acknowledged are on other disks, too.
    pub(super) fn acknowledged_at(&mut self, place: usize) -> Result<(), Violation> {
        for job in std::mem::take(&mut self.world(place).checks.acknowledged_now) {
            let wanted = self.world(place).disk.jobs.get(&job).and_then(|(accepted, standing)| {
                let open = !standing.alone && !standing.state.is_settled();
                accepted.custody.filter(|_| open).map(|custody| usize::from(custody.durability.get()))
            });
            let has = |disk: &Disk| disk.jobs.contains_key(&job) || disk.charges.contains_key(&job);
            let disks = self.worlds.iter().filter(|world| has(&world.disk)).count();
            if wanted.is_some_and(|wanted| disks < wanted) {
                let detail = format!("node {place}: {job} is on {disks} disks, it says {wanted:?}");
                return Err(self.broken("a job is on as many disks as it says when it is acknowledged", detail));
            }
        }
        Ok(())
    }

    /// Whether custodians hold what their homes hold.
    pub(super) fn custodians_agree(&self) -> bool {
        self.stale_charge().is_none() && self.split_job().is_none()
    }

    /// The same, when all is over.
    pub(super) fn custodians_check(&self) -> Result<(), Violation> {
        match self.stale_charge() {
            None => {}
            Some(detail) => return Err(self.broken("custodians come to hold what the home holds", detail)),
        }
        if let Some(detail) = self.split_job() {
            return Err(self.broken("a home and its regent come to say the same", detail));
        }
        match self.two_regents() {
            None => Ok(()),
            Some(detail) => Err(self.broken("a set has one regent in a term", detail)),
        }
    }

    /// A job that was taken over and stands otherwise at its home.
    fn split_job(&self) -> Option<String> {
        self.worlds.iter().enumerate().find_map(|(place, world)| {
            world.disk.taken.iter().find_map(|(job, (home, _))| {
                let home = self.ids.iter().position(|id| id == home)?;
                let (_, theirs) = world.disk.jobs.get(job)?;
                let (_, ours) = self.worlds.get(home)?.disk.jobs_and_elsewhere(*job)?;
                let at = |standing: &Standing| (standing.revision, standing.state, standing.epoch);
                (!is_same(ours, theirs)).then(|| {
                    format!(
                        "{job} stands as {:?} at its home, node {home}, and as {:?} at its regent, node {place}",
                        at(ours),
                        at(theirs)
                    )
                })
            })
        })
    }

    /// Two nodes that act for the same home in the same term.
    fn two_regents(&self) -> Option<String> {
        let mut acting: BTreeMap<(NodeId, u32, u32), NodeId> = BTreeMap::new();
        let reigns = self.worlds.iter().flat_map(|world| world.disk.reigns.values()).filter(|reign| reign.acts);
        for Regent { home, set, term, regent } in reigns.map(|reign| reign.regent) {
            if let Some(other) = acting.insert((home, set, term), regent).filter(|other| *other != regent) {
                return Some(format!("{other:?} and {regent:?} for set {set} of {home:?} in term {term}"));
            }
        }
        None
    }

    /// A job that is kept somewhere otherwise than its home has it.
    fn stale_charge(&self) -> Option<String> {
        self.worlds.iter().enumerate().find_map(|(place, world)| {
            world.disk.charges.iter().find_map(|(job, (home, set, accepted, standing))| {
                let home = self.ids.iter().position(|id| id == home)?;
                let disk = &self.worlds.get(home)?.disk;
                let ours = disk.jobs_and_elsewhere(*job);
                if ours.is_some_and(|(ours, stands)| is_same_job(ours, accepted, stands) && is_same(stands, standing)) {
                    return None;
                }
                // Its home has withdrawn it, and who decides the array has not begun it.
                let array = accepted.array_id().filter(|_| ours.is_none()).and_then(|array| disk.jobs.get(&array));
                if array.is_some_and(|(_, array)| array.regent.is_some()) {
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

/// Whether two nodes say the same of what was accepted. Where a job and one that has its result as input were both run at the home and again by
/// a regent, its custodians have it with the input of whoever told them last.
fn is_same_job(ours: &Accepted, theirs: &Accepted, standing: &Standing) -> bool {
    if ours.extras.input_of.is_none() || standing.superseded.is_none() {
        return ours == theirs;
    }
    *ours == Accepted { input: ours.input.clone(), ..theirs.clone() }
}

/// Whether two nodes say the same of a job. Of an array each counts those elements apart that are jobs of its own.
fn is_same(ours: &Standing, theirs: &Standing) -> bool {
    let said = |standing: &Standing| Standing {
        elements: standing.elements.map(|elements| Elements { apart: None, ..elements }),
        ..standing.clone()
    };
    said(ours) == said(theirs)
}
