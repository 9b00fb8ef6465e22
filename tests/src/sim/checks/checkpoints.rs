//! What must hold of what runs save: the last is kept, by epoch and number, and every later run begins with it.

use std::collections::BTreeMap;

use shoal_kernel::{Record, Saving, Standing};
use shoal_protocol::ObjectId;
use shoal_protocol::codec;
use shoal_protocol::object::job::{Checkpoint, Payload, State};
use shoal_protocol::regency::term_of;
use shoal_protocol::wire::worker::Run;

use super::Broken;
use crate::sim::disk::Disk;

/// What runs have saved.
#[derive(Debug, Default)]
pub(super) struct Saves {
    /// The last of each job of the home, by what the kernel has written.
    own: BTreeMap<ObjectId, Checkpoint>,
    /// The same of each run of another home.
    guests: BTreeMap<ObjectId, Checkpoint>,
    /// The last that a guest, or the node of one, was told to be durable.
    acknowledged: BTreeMap<ObjectId, (u64, u64)>,
}

/// What a guest in the simulator saves: which of its checkpoints it is.
pub fn saved_by(run: Run, number: u64) -> Payload {
    Payload::Inline(codec::encode(&(run.epoch, number)).into())
}

/// Which checkpoint it is: that of this epoch with this number.
pub fn place_of(bytes: &Payload) -> (u64, u64) {
    match bytes {
        Payload::Inline(bytes) => codec::decode(bytes).unwrap_or_default(),
        Payload::Blob { .. } => (0, 0),
    }
}

impl Saves {
    /// What was not durable was not saved.
    pub(super) fn restarted(&mut self, disk: &Disk) {
        self.own = disk.saved.clone();
        self.guests = disk.guest_saved.clone();
    }

    /// The kernel writes what was saved; `standing` is that of the job, if it is one of the home.
    pub(super) fn write(&mut self, record: &Record, standing: Option<&Standing>) -> Result<(), Broken> {
        match record {
            Record::Checkpoint(job, saving) => {
                if let Some(checkpoint) = &saving.checkpoint
                    // What a run here had saved a regent takes over with its job.
                    && standing.is_none_or(|s| {
                        let current = s.state == State::Offered && s.epoch == checkpoint.epoch;
                        !current && term_of(s.revision) == term_of(checkpoint.epoch)
                    })
                {
                    return Err(("only the current run saves", format!("{job}: {checkpoint:?} and {standing:?}")));
                }
                keep(&mut self.own, *job, saving)
            }
            Record::GuestCheckpoint(run, saving) => keep(&mut self.guests, run.job, saving),
            _ => Ok(()),
        }
    }

    /// A run of a job of the home begins, here or at a peer.
    pub(super) fn begins(&self, job: ObjectId, given: Option<&Payload>) -> Result<(), Broken> {
        let saved = self.own.get(&job).map(|saved| &saved.bytes);
        if saved == given {
            return Ok(());
        }
        Err(("a run begins with what was saved last", format!("{job}: {given:?} instead of {saved:?}")))
    }

    /// A run leaves for its worker or peer: it has what was acknowledged, or something later.
    /// What a home had a regent need not have.
    pub(super) fn leaves(&self, run: Run, given: Option<&Payload>) -> Result<(), Broken> {
        let job = run.job;
        if term_of(run.epoch) > 0 {
            return Ok(());
        }
        let given = given.map(place_of);
        match self.acknowledged.get(&job) {
            Some(place) if given.is_none_or(|given| given < *place) => {
                Err(("an acknowledged checkpoint is never lost", format!("{job}: {given:?} instead of {place:?}")))
            }
            _ => Ok(()),
        }
    }

    /// A guest, or the node of one, hears that its checkpoint is durable.
    pub(super) fn told(&mut self, run: Run, number: u64, disk: &Disk) -> Result<(), Broken> {
        let place = (run.epoch, number);
        let has = |saved: Option<&Checkpoint>| saved.is_some_and(|saved| saved.place() >= place);
        if has(disk.saved.get(&run.job)) {
            let last = self.acknowledged.entry(run.job).or_default();
            *last = place.max(*last);
            return Ok(());
        }
        let current = disk.jobs.get(&run.job).is_some_and(|(_, s)| s.state == State::Offered && s.epoch == run.epoch);
        let current_guest = disk.guests.get(&run.job).is_some_and(|(guest, _)| guest.run == run);
        if (current && !current_guest) || current_guest && !has(disk.guest_saved.get(&run.job)) {
            return Err(("a checkpoint is durable before it is acknowledged", format!("{run:?} number {number}")));
        }
        Ok(())
    }
}

fn keep(saved: &mut BTreeMap<ObjectId, Checkpoint>, job: ObjectId, saving: &Saving) -> Result<(), Broken> {
    let before = saved.remove(&job);
    let Some(checkpoint) = &saving.checkpoint else { return Ok(()) };
    if before.as_ref().is_some_and(|before| before.place() >= checkpoint.place()) {
        return Err(("a checkpoint gives way to a later one only", format!("{job}: {before:?}, then {checkpoint:?}")));
    }
    saved.insert(job, checkpoint.clone());
    Ok(())
}
