//! What runs save for the next run of their job. A job keeps the last: the highest by epoch and number, so that nothing
//! that is late or told twice replaces a later one.
//!
//! A run of another home saves here first, then at its home, of which the guest waits for a word; not while the home is out
//! of reach, nor for longer than its lease: what was saved then follows when the home is there again, before the ending.

use shoal_protocol::object::job::{Checkpoint, Ending, Payload};
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem, WorkerId};

use super::Machine;
use crate::effect::{Effect, Reply};
use crate::faults::{Fault, Faults};
use crate::guests::Kept;
use crate::input::{Now, RequestId};
use crate::record::{Record, Saving};

impl<F: Faults> Machine<F> {
    /// Takes the checkpoints of a journal back: after [`Self::restore`] and [`Self::restore_guests`], before any input. No
    /// worker is attached by then, so that no run begins without them.
    pub fn restore_checkpoints(
        &mut self,
        own: impl Iterator<Item = (ObjectId, Checkpoint)>,
        guests: impl Iterator<Item = (ObjectId, Checkpoint)>,
    ) {
        for (job, checkpoint) in own.filter(|_| !F::has(Fault::CheckpointForgotten)) {
            if let Some(job) = self.jobs.get_mut(job) {
                job.history.checkpoint = Some(Box::new(checkpoint));
            }
        }
        for (job, checkpoint) in guests {
            if let Some(guest) = self.guests.get_mut(job) {
                guest.kept = Some(Box::new(Kept::new(checkpoint, 0)));
            }
        }
    }

    /// A guest at a worker of this node has saved its state. It is answered when that is durable where it should be.
    pub(super) fn checkpoint(
        &mut self,
        now: Now,
        request: RequestId,
        (worker, run): (WorkerId, Run),
        (number, bytes): (u64, Payload),
        effects: &mut Vec<Effect>,
    ) {
        let checkpoint = Checkpoint { epoch: run.epoch, number, saved_ms: now.wall_ms, bytes };
        if self.guests.current(worker, run).is_some() {
            return self.guest_checkpoint(now, request, run, checkpoint, effects);
        }
        let reply = self.save(worker, run, checkpoint, effects);
        effects.push(Effect::Reply { request, reply });
    }

    /// A peer says what a run of this home has saved there; its bytes are durable at this node.
    pub(super) fn peer_checkpoint(
        &mut self,
        node: NodeId,
        run: Run,
        checkpoint: Checkpoint,
        effects: &mut Vec<Effect>,
    ) {
        let (worker, number) = (WorkerId::of_node(&node), checkpoint.number);
        if checkpoint.epoch == run.epoch {
            // One that counts for nothing is answered, too: the peer need not say it again.
            drop(self.save(worker, run, checkpoint, effects));
        }
        effects.push(Effect::Checkpointed { peer: node, run, number });
    }

    /// Saves for a job of this home, if the run is its current one.
    fn save(
        &mut self,
        worker: WorkerId,
        run: Run,
        checkpoint: Checkpoint,
        effects: &mut Vec<Effect>,
    ) -> Result<Reply, Problem> {
        let counts = self.jobs.current(worker, run).is_some() || F::has(Fault::CheckpointUnfenced);
        let Some(job) = self.jobs.get_mut(run.job).filter(|_| counts) else {
            self.counters.checkpoints_fenced += 1;
            let detail = "this run does not count any more: the job goes on elsewhere or has settled";
            return Err(Problem::new(Kind::Conflict, detail));
        };
        let last = job.history.checkpoint.as_deref();
        if last.is_some_and(|last| last.place() >= checkpoint.place()) && !F::has(Fault::CheckpointUnfenced) {
            return Ok(Reply::Done);
        }
        let replaces = replaced(last, &checkpoint);
        job.history.checkpoint = Some(Box::new(checkpoint.clone()));
        self.counters.checkpoints += 1;
        if !F::has(Fault::CheckpointUnwritten) {
            let saving = Saving { checkpoint: Some(checkpoint), replaces };
            effects.push(Effect::Write(Record::Checkpoint(run.job, Box::new(saving))));
        }
        effects.push(Effect::Changed { job: run.job, settled: false });
        Ok(Reply::Done)
    }

    /// A guest run has saved its state: it is written here, and its home is told.
    fn guest_checkpoint(
        &mut self,
        now: Now,
        request: RequestId,
        run: Run,
        checkpoint: Checkpoint,
        effects: &mut Vec<Effect>,
    ) {
        self.answer_saved(run.job, Err(another_asks()), effects);
        let Some(guest) = self.guests.get_mut(run.job) else { return };
        let last = guest.kept.as_deref();
        if last.is_none_or(|last| last.checkpoint.place() < checkpoint.place()) {
            let replaces = replaced(last.map(|last| &last.checkpoint), &checkpoint);
            guest.kept = Some(Box::new(Kept::new(checkpoint.clone(), now.mono_ms)));
            self.counters.checkpoints += 1;
            let saving = Saving { checkpoint: Some(checkpoint), replaces };
            effects.push(Effect::Write(Record::GuestCheckpoint(run, Box::new(saving))));
        }
        let home = guest.home;
        let reachable = self.guests.home(home).is_some_and(|home| home.is_up());
        let kept = self.guests.get_mut(run.job).and_then(|guest| guest.kept.as_deref_mut());
        match kept.filter(|kept| reachable && !kept.delivered) {
            None => effects.push(Effect::Reply { request, reply: Ok(Reply::Done) }),
            Some(kept) => {
                kept.asked = Some((request, now.mono_ms));
                self.deliver(now, run.job, effects);
            }
        }
    }

    /// Tells a home what a run of it has saved here, unless it has it.
    pub(super) fn deliver(&mut self, now: Now, job: ObjectId, effects: &mut Vec<Effect>) {
        let Some(guest) = self.guests.get_mut(job) else { return };
        let (home, run) = (guest.home, guest.run);
        // Of a run that has a result nobody goes on from there.
        let needed = guest.outcome().is_none_or(|outcome| outcome.ending != Ending::Succeeded);
        let Some(kept) = guest.kept.as_deref_mut().filter(|kept| needed && !kept.delivered) else { return };
        kept.said_ms = now.mono_ms;
        let message = PeerMessage::Checkpoint(run, Box::new(kept.checkpoint.clone()));
        self.to_home(home, message, effects);
    }

    /// What a home was told a lease ago and has not answered is said again; its guest waits no longer.
    pub(super) fn deliver_again(&mut self, now: Now, home: NodeId, lease_ms: u64, effects: &mut Vec<Effect>) {
        let due = |since_ms: u64| now.mono_ms >= since_ms.saturating_add(lease_ms);
        for run in self.guests.runs(home) {
            let Some(kept) = self.guests.get(run.job).and_then(|guest| guest.kept.as_deref()) else { continue };
            let (said, asked) = (due(kept.said_ms), kept.asked.is_some_and(|(_, since_ms)| due(since_ms)));
            if asked {
                self.answer_saved(run.job, Ok(Reply::Done), effects);
            }
            if said {
                self.deliver(now, run.job, effects);
            }
        }
    }

    /// To a home this checkpoint is durable, or counts for nothing.
    pub(super) fn home_checkpointed(&mut self, home: NodeId, run: Run, number: u64, effects: &mut Vec<Effect>) {
        if self.guests.of_home(home, run).is_none() {
            return;
        }
        let kept = self.guests.get_mut(run.job).and_then(|guest| guest.kept.as_deref_mut());
        if let Some(kept) = kept.filter(|kept| kept.checkpoint.number == number) {
            kept.delivered = true;
            self.answer_saved(run.job, Ok(Reply::Done), effects);
        }
    }

    /// A home is out of reach: what its runs have saved is durable here.
    pub(super) fn home_cannot_save(&mut self, home: NodeId, effects: &mut Vec<Effect>) {
        for run in self.guests.runs(home) {
            self.answer_saved(run.job, Ok(Reply::Done), effects);
        }
    }

    /// Answers a guest that waits for its home to have what it has saved, if it does.
    pub(super) fn answer_saved(&mut self, job: ObjectId, reply: Result<Reply, Problem>, effects: &mut Vec<Effect>) {
        let kept = self.guests.get_mut(job).and_then(|guest| guest.kept.as_deref_mut());
        if let Some((request, _)) = kept.and_then(|kept| kept.asked.take()) {
            effects.push(Effect::Reply { request, reply });
        }
    }

    /// A guest run is forgotten, and with it what it has saved.
    pub(super) fn drop_guest_checkpoint(&mut self, run: Run, effects: &mut Vec<Effect>) {
        self.answer_saved(run.job, Err(Problem::new(Kind::Conflict, "this run was dropped by its home")), effects);
        let kept = self.guests.get_mut(run.job).and_then(|guest| guest.kept.take());
        effects.extend(kept.map(|kept| {
            let saving = Saving { checkpoint: None, replaces: kept.checkpoint.bytes.blob() };
            Effect::Write(Record::GuestCheckpoint(run, Box::new(saving)))
        }));
    }
}

/// The blob that nobody needs any more.
fn replaced(last: Option<&Checkpoint>, next: &Checkpoint) -> Option<BlobId> {
    last.and_then(|last| last.bytes.blob()).filter(|blob| next.bytes.blob() != Some(*blob))
}

fn another_asks() -> Problem {
    Problem::new(Kind::Conflict, "the run has asked for this once more")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_blob_saved_again_stays() {
        let blob = |n| Payload::Blob { id: BlobId([n; 32]), size: 20_000 };
        let checkpoint = |number, bytes| Checkpoint { epoch: 1, number, saved_ms: 0, bytes };
        let last = checkpoint(1, blob(1));
        assert_eq!(replaced(Some(&last), &checkpoint(2, blob(1))), None);
        assert_eq!(replaced(Some(&last), &checkpoint(2, blob(2))), Some(BlobId([1; 32])));
        assert_eq!(replaced(Some(&last), &checkpoint(2, Payload::empty())), Some(BlobId([1; 32])));
        assert_eq!(replaced(None, &last), None);
    }
}
