//! What must hold of settled jobs: they go when they are old or when there are too many of them, and not before.

use std::collections::BTreeMap;

use shoal_kernel::{Accepted, Effect, Group, Now, Record, Retained, Retention, Standing};
use shoal_protocol::ObjectId;

use super::super::disk;
use super::Broken;
use super::arrays::elements_of;

/// The settled jobs of each group.
fn groups<'a>(
    jobs: impl Iterator<Item = &'a (Accepted, Standing)>,
) -> BTreeMap<Group, BTreeMap<ObjectId, &'a Standing>> {
    let mut groups: BTreeMap<Group, BTreeMap<ObjectId, &Standing>> = BTreeMap::new();
    for (accepted, standing) in jobs.filter(|(accepted, standing)| disk::is_kept(accepted, standing)) {
        groups.entry(Group::of(accepted, standing.state)).or_default().insert(accepted.id, standing);
    }
    groups
}

/// What the kernel sweeps because of its age or number may go: `jobs` are those that it has written until now, `found` when those of the group
/// had settled as far as that was durable when the edge looked. A job may be merged with another end of it since.
pub(super) fn may_go(
    now: Now,
    retention: &Retention,
    (group, found): (Group, &[(u64, ObjectId, u64)]),
    jobs: &BTreeMap<ObjectId, (Accepted, Standing)>,
    effects: &[Effect],
) -> Result<(), Broken> {
    let keep = retention.of(group);
    let settled = groups(jobs.values()).remove(&group).unwrap_or_default();
    let mut left = settled.len() as u64;
    for effect in effects {
        let Effect::Write(Record::Swept(job)) = effect else { continue };
        if !jobs.contains_key(job) {
            // Somebody has just forgotten it, which was not durable when the edge looked: it counts nothing.
            continue;
        }
        let Some(standing) = settled.get(job) else {
            return Err(("what is swept has settled", format!("{job} of {group:?}")));
        };
        let known_ms = found.iter().find(|(_, found, _)| found == job).map(|(settled_ms, ..)| *settled_ms);
        let settled_ms = standing.settled_ms.unwrap_or_default().min(known_ms.unwrap_or(u64::MAX));
        let age_ms = now.wall_ms.saturating_sub(settled_ms);
        if left <= keep.jobs && age_ms < keep.age_ms {
            let detail = format!("{job} is {age_ms} ms old, one of {left}, {keep:?}");
            return Err(("a settled job goes when it is old or there are too many", detail));
        }
        left -= 1;
    }
    Ok(())
}

/// A settled job is kept from now on.
pub(super) fn is_kept(retained: &Retained, jobs: &BTreeMap<ObjectId, (Accepted, Standing)>) -> Result<(), Broken> {
    match jobs.get(&retained.job) {
        Some((accepted, _)) if accepted.array_id().is_some() => {
            Err(("an element goes with its array", format!("{} is kept for itself", accepted.id)))
        }
        Some((accepted, standing)) if Group::of(accepted, standing.state) == retained.group => Ok(()),
        other => Err(("settled, then kept", format!("{retained:?} stands as {other:?}"))),
    }
}

/// A job is forgotten, an array with its elements.
pub(super) fn goes(id: ObjectId, jobs: &BTreeMap<ObjectId, (Accepted, Standing)>) -> Result<(), Broken> {
    let job = jobs.get(&id).map(|(job, _)| job);
    let alone = job.is_some_and(|job| job.array_id().is_some());
    let under_way = job.and_then(|job| elements_of(jobs, job).find(|(_, standing)| !standing.state.is_settled()));
    if alone || under_way.is_some() {
        return Err(("an element goes with its array", format!("{id} goes, under way is {under_way:?}")));
    }
    Ok(())
}

/// A group of which more jobs are kept than may be.
pub fn too_many<'a>(
    retention: &Retention,
    jobs: impl Iterator<Item = &'a (Accepted, Standing)>,
) -> Option<(Group, usize)> {
    let counts = groups(jobs).into_iter().map(|(group, jobs)| (group, jobs.len()));
    counts.into_iter().find(|(group, count)| *count > retention.of(*group).jobs as usize)
}
