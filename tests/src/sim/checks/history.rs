//! What must hold of a job's history: every hand-over of it stands there, as a run or as one that came to nothing.

use shoal_kernel::Standing;
use shoal_protocol::ObjectId;
use shoal_protocol::limits::{ATTEMPTS_KEPT_MAX, REFUSALS_KEPT_MAX};
use shoal_protocol::regency::term_of;

use super::Broken;

/// Each epoch is one hand-over.
pub(super) fn complete(id: ObjectId, standing: &Standing) -> Result<(), Broken> {
    let refusals = standing.refusals.as_deref();
    let refused = refusals.map_or(0, |refusals| refusals.total);
    let kept = refusals.map_or(0, |refusals| refusals.kept.len());
    let bounded = standing.attempts.len() <= ATTEMPTS_KEPT_MAX && kept <= REFUSALS_KEPT_MAX;
    // A regent begins anew to count; what its home has handed over stands before that.
    if bounded && term_of(standing.revision) > 0 {
        return Ok(());
    }
    if bounded && standing.epoch == u64::from(standing.attempts_total) + u64::from(refused) {
        return Ok(());
    }
    Err(("every hand-over is a run or a refusal", format!("{id}: {standing:?}")))
}
