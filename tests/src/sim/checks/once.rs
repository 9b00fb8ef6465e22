//! What must hold of jobs that never run twice, as far as one node can see it.

use shoal_kernel::{Accepted, Standing};
use shoal_protocol::object::job::{Attempt, Ending};
use shoal_protocol::regency::term_of;
use shoal_protocol::wire::peer::PeerMessage;

use super::Broken;
use crate::sim::disk::Disk;

/// Whether nothing of a job begins or ends without the word of its custodians.
pub(super) fn needs_word(accepted: &Accepted) -> bool {
    accepted.terms.effects.is_once() && accepted.custody.is_some() && accepted.extras.array.is_none()
}

/// Whether one settlement of a job gives way to another.
pub(super) fn settles_twice(accepted: &Accepted, last: &Standing, next: &Standing) -> bool {
    let same = (last.epoch, last.state, &last.outcome) == (next.epoch, next.state, &next.outcome);
    needs_word(accepted) && (!same || next.superseded.is_some())
}

/// Whether a settlement comes from who had nothing to say of the job any more.
pub(super) fn is_ended_by_a_stranger(accepted: &Accepted, last: &Standing, next: &Standing) -> bool {
    needs_word(accepted) && next.state.is_settled() && term_of(next.epoch) < term_of(last.epoch)
}

/// A run that may have done something is not repeated.
pub(super) fn is_repeated(accepted: &Accepted, next: &Standing) -> Result<(), Broken> {
    let lost = next.attempts.last().filter(|last| {
        let Attempt { ending, epoch, .. } = last;
        let lost = match ending {
            Some(Ending::Failed(failure)) => failure.code.is_transient(),
            Some(Ending::Cancelled) => true,
            Some(Ending::Succeeded | Ending::TimedOut) | None => false,
        };
        lost && *epoch == next.epoch
    });
    match lost.filter(|_| accepted.terms.effects.is_once()) {
        Some(lost) => Err(("a run that may have done something is not repeated", format!("{}: {lost:?}", accepted.id))),
        None => Ok(()),
    }
}

/// The word of a member leaves: it is durable, or its job is gone since.
pub(super) fn word_leaves(message: &PeerMessage, disk: &Disk) -> Result<(), Broken> {
    let PeerMessage::Granted(granted) = message else { return Ok(()) };
    let is_here = |job| disk.charges.contains_key(job) || disk.jobs.contains_key(job);
    let mut here = granted.jobs.iter().filter(|(job, _)| is_here(job));
    let volatile = here.find(|(job, epoch)| disk.grants.get(job).is_none_or(|promise| promise.epoch < *epoch));
    match volatile {
        Some(volatile) => Err(("a word is durable before anybody hears it", format!("{volatile:?}"))),
        None => Ok(()),
    }
}
