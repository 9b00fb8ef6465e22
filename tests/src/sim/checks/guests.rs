//! What must always hold of runs at peers, and of the runs of other homes.

use std::collections::BTreeMap;

use shoal_kernel::{Effect, Input, Load, Record};
use shoal_protocol::limits::PEER_RUNS_MAX;
use shoal_protocol::regency::term_of;
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::wire::worker::{Run, Start};
use shoal_protocol::{NodeId, WorkerId};

use super::{Broken, Checks};
use crate::sim::disk::Disk;

impl Checks {
    pub(super) fn note_peer(&mut self, now_ms: u64, input: Option<&Input>) {
        match input {
            Some(Input::PeerConnected { node, .. }) => drop(self.peers.remove(&WorkerId::of_node(node))),
            Some(Input::PeerAttached(attached)) => {
                let id = WorkerId::of_node(&attached.node);
                self.peers.insert(id, attached.connection);
                self.heard_ms.insert(id, now_ms);
            }
            Some(Input::PeerDetached { node, connection }) => {
                let id = WorkerId::of_node(node);
                if self.peers.get(&id) == Some(connection) {
                    self.peers.remove(&id);
                }
            }
            _ => {}
        }
    }

    /// The kernel holds the guest runs that its journal says, and no more of one home than it may.
    pub(super) fn guest_books(&self, load: Load) -> Result<(), Broken> {
        let under_way = self.guests.values().filter(|(_, end)| end.is_none()).count() as u64;
        if load.guests != under_way {
            let detail = format!("the kernel runs {} of other homes, by its journal it has {under_way}", load.guests);
            return Err(("a guest is written before it starts", detail));
        }
        let mut held: BTreeMap<NodeId, usize> = BTreeMap::new();
        self.guests.values().for_each(|(guest, _)| *held.entry(guest.home).or_default() += 1);
        match held.values().max() {
            Some(most) if *most > PEER_RUNS_MAX => Err(("guests are bounded", format!("{most} of one home"))),
            _ => Ok(()),
        }
    }

    /// An ending is kept until its home has it; an older run makes room for none but a newer one.
    pub(super) fn guests_go_for_a_reason(&self, input: Option<&Input>, effects: &[Effect]) -> Result<(), Broken> {
        for effect in effects {
            let Effect::Write(Record::GuestGone(gone)) = effect else { continue };
            let newer = match input {
                Some(Input::Offered { offer, .. }) if offer.run.job == gone.job => {
                    if offer.run.epoch <= gone.epoch {
                        let detail = format!("{gone:?} makes room for {:?}", offer.run);
                        return Err(("a run gives way to a newer epoch only", detail));
                    }
                    true
                }
                _ => false,
            };
            let asked = match input {
                Some(Input::HomeSettled { run, .. }) => run == gone,
                Some(Input::HomeAttached { drop, .. }) => drop.contains(gone),
                _ => false,
            };
            let ends_now =
                effects.iter().any(|e| matches!(e, Effect::Write(Record::GuestEnded(run, _)) if run == gone));
            // Its job is this node's now, and its ending that of the job.
            let taken = effects
                .iter()
                .any(|effect| matches!(effect, Effect::Write(Record::Taken(taken)) if taken.accepted.id == gone.job));
            let ended = self.guests.get(&gone.job).is_some_and(|(_, end)| end.is_some()) || ends_now;
            if ended && !newer && !asked && !taken {
                return Err(("an ending is kept until its home has it", format!("{gone:?} goes with {input:?}")));
            }
        }
        Ok(())
    }

    pub(super) fn guest_record(&mut self, record: &Record) -> Result<(), Broken> {
        match record {
            Record::GuestAccepted(guest) => {
                let run = guest.run;
                // In a term of a regent the job is another home's, which may be this one.
                let by_regent = term_of(run.epoch) > 0;
                let by_home = run.job.tag() != self.home && run.job.tag() == guest.home.tag();
                if !(by_home || by_regent) || guest.accepted.id != run.job {
                    return Err(("a run is taken from its job's home", format!("{run:?} from {}", guest.home)));
                }
                match self.guests.insert(run.job, ((**guest).clone(), None)) {
                    None => Ok(()),
                    Some((other, _)) => {
                        Err(("one run of each job", format!("{run:?} is taken while {:?} is here", other.run)))
                    }
                }
            }
            Record::GuestEnded(run, end) => match self.guests.get_mut(&run.job) {
                Some((guest, ended @ None)) if guest.run == *run => {
                    *ended = Some((**end).clone());
                    Ok(())
                }
                other => Err(("a guest ends once", format!("{run:?} ends and stands as {other:?}"))),
            },
            Record::GuestGone(run) => match self.guests.remove(&run.job) {
                Some((guest, _)) if guest.run == *run => Ok(()),
                other => Err(("a guest goes once", format!("{run:?} goes and stands as {other:?}"))),
            },
            _ => Ok(()),
        }
    }

    /// A run of this home is offered to a peer.
    pub(super) fn offer(&self, peer: WorkerId, run: Run) -> Result<(), Broken> {
        self.run_of_ours(peer, run)?;
        if self.peers.contains_key(&peer) {
            Ok(())
        } else {
            Err(("only attached peers get runs", format!("{run:?} goes to {peer}")))
        }
    }

    /// A run of another home goes to a worker of this node.
    pub(super) fn guest_starts(&self, worker: WorkerId, start: &Start) -> Result<(), Broken> {
        match self.guests.get(&start.run.job) {
            Some((guest, None)) if guest.run == start.run && guest.worker == worker => {
                self.fits(worker, start.run, &guest.accepted.spec.needs)
            }
            other => Err(("a guest is written before it starts", format!("{:?} stands as {other:?}", start.run))),
        }
    }

    /// Something is decided to be said to a home.
    pub(super) fn to_home(&self, home: NodeId, message: &PeerMessage) -> Result<(), Broken> {
        let known = |run: &Run| self.guests.get(&run.job).filter(|(guest, _)| guest.run == *run && guest.home == home);
        let written = match message {
            PeerMessage::Taken { run, .. } | PeerMessage::Started(run) | PeerMessage::Progress(run, _) => {
                known(run).is_some_and(|(_, end)| end.is_none())
            }
            PeerMessage::Ended(run, outcome) => {
                known(run).is_some_and(|(_, end)| end.as_ref().is_some_and(|end| end.outcome == **outcome))
            }
            PeerMessage::Heartbeat { runs } => runs.iter().all(|run| known(run).is_some()),
            _ => true,
        };
        if written { Ok(()) } else { Err(("a guest is written before its home hears of it", format!("{message:?}"))) }
    }
}

/// A run of another home goes to a worker: it is durable by then that it is here, or it is here no more.
pub(super) fn start_leaves(run: Run, disk: &Disk) -> Result<(), Broken> {
    match disk.guest_epochs.get(&run.job) {
        Some(epoch) if *epoch >= run.epoch => Ok(()),
        durable => {
            Err(("a guest is durable before anybody hears of it", format!("{run:?} leaves, durable is {durable:?}")))
        }
    }
}

/// Something is said to a home: what it says is durable.
pub(super) fn message_leaves(home: NodeId, message: &PeerMessage, disk: &Disk) -> Result<(), Broken> {
    match message {
        PeerMessage::Taken { run, .. } | PeerMessage::Started(run) => start_leaves(*run, disk),
        PeerMessage::Heartbeat { runs } => runs.iter().try_for_each(|run| start_leaves(*run, disk)),
        PeerMessage::Ended(run, outcome) => {
            let known = disk.guests.get(&run.job).filter(|(guest, _)| guest.run == *run && guest.home == home);
            match known {
                // It may have been settled on the connection before.
                None => start_leaves(*run, disk),
                Some((_, Some(end))) if end.outcome == **outcome => Ok(()),
                other => Err(("an ending is durable before its home hears of it", format!("{run:?}: {other:?}"))),
            }
        }
        _ => Ok(()),
    }
}
