//! What must hold of what projects have used.

use shoal_protocol::wire::peer::UseTally;

use super::super::disk::Disk;
use super::Broken;

/// A node has started and says what was used: no less than is on disk.
pub(crate) fn forgotten(disk: &Disk, told: &[UseTally]) -> Result<(), Broken> {
    let known = |group| told.iter().find(|told| told.group == group).map_or(0, |told| told.total_us);
    let of_groups = disk.tallies.values().filter(|tally| tally.user.is_none());
    match of_groups.into_iter().find(|tally| known(tally.group) < tally.total_us) {
        Some(tally) => {
            let detail = format!("{} us are known of {tally:?}", known(tally.group));
            Err(("a restart does not forget what was used", detail))
        }
        None => Ok(()),
    }
}
