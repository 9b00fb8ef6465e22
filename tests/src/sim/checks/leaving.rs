//! What must hold of what leaves a node: all that it rests on is durable by then.

use shoal_kernel::{Effect, Reply};
use shoal_protocol::object::job::{Receipt, State};
use shoal_protocol::wire::worker::Run;

use super::charges::Charges;
use super::{Asked, Broken, Checks, arrays, guests, once};
use crate::sim::disk::Disk;

impl Checks {
    /// Something leaves the node.
    pub fn leaves(&mut self, effect: &Effect, asked: Option<Asked>, disk: &Disk) -> Result<(), Broken> {
        match effect {
            Effect::Start { start, .. } if self.is_guest(start.run, disk) => guests::start_leaves(start.run, disk),
            Effect::Start { start, .. } => {
                self.saves.leaves(start.run, start.checkpoint.as_ref())?;
                epoch_is_durable(start.run, disk)
            }
            Effect::Offer { offer, .. } => {
                self.saves.leaves(offer.run, offer.checkpoint.as_ref().map(|given| &given.bytes))?;
                epoch_is_durable(offer.run, disk)
            }
            Effect::Checkpointed { run, number, .. } => self.saves.told(*run, *number, disk),
            Effect::Keep { set, .. } => Charges::set_leaves(set, disk),
            Effect::ToHome { home, message } => {
                Charges::leaves(message, disk)?;
                once::word_leaves(message, disk)?;
                guests::message_leaves(*home, message, disk)
            }
            Effect::Settled { worker, run } => match disk.jobs.get(&run.job) {
                Some((_, standing))
                    if standing.state == State::Offered
                        && standing.epoch == run.epoch
                        && standing.attempts.last().is_some_and(|last| last.worker == *worker) =>
                {
                    Err(("an ending is durable before it is acknowledged", format!("{run:?}")))
                }
                _ => Ok(()),
            },
            Effect::Changed { job, settled: true } => match disk.jobs_and_elsewhere(*job) {
                Some((_, standing)) if standing.state.is_settled() => self.see(*job, standing),
                Some(_) => Err(("an end is durable before anybody hears of it", format!("{job}"))),
                None => Ok(()),
            },
            Effect::Reply { reply: Ok(reply), .. } => self.reply_leaves(reply, asked.unwrap_or(Asked::Other), disk),
            _ => Ok(()),
        }
    }

    /// Whether another node decides a run that begins here: the job's home, or a regent. Of a job in the books of this node that is so
    /// if just this run is durable as one of another node's: by its term no run of this one has the same epoch. Its regent may have the
    /// job's own home run it, and may not have heard yet that it has settled there, or was even forgotten.
    fn is_guest(&self, run: Run, disk: &Disk) -> bool {
        let ours = match run.job.tag() == self.home {
            // An element may have been withdrawn since.
            true => disk.jobs.contains_key(&run.job) || arrays::element(&disk.jobs, run.job).is_some(),
            // Its home may have had it forgotten since.
            false => disk.taken.contains_key(&run.job) || epoch_is_durable(run, disk).is_ok(),
        };
        !ours || disk.guest_epochs.get(&run.job) == Some(&run.epoch)
    }

    fn reply_leaves(&mut self, reply: &Reply, asked: Asked, disk: &Disk) -> Result<(), Broken> {
        match (asked, reply) {
            (_, Reply::Receipts(receipts)) => {
                for receipt in receipts {
                    let Receipt::Accepted { id } = receipt else { continue };
                    if !disk.jobs.contains_key(id) && !self.forgotten.contains(id) {
                        return Err(("no fake accept", format!("{id} is acknowledged and not durable")));
                    }
                    self.node.map_or(Ok(()), |node| self.charges.acknowledged(node, *id, disk))?;
                    self.acknowledged.insert(*id);
                    self.acknowledged_now.push(*id);
                }
                Ok(())
            }
            (Asked::Cancel(id), Reply::Job(Some(_))) => match disk.jobs.get(&id) {
                Some((_, standing)) if standing.cancelled || standing.state.is_settled() => Ok(()),
                None if self.forgotten.contains(&id) => Ok(()),
                other => Err(("a cancellation is durable before it is answered", format!("{id}: {other:?}"))),
            },
            (Asked::Show(id), Reply::Job(Some(view))) => {
                if view.epoch > disk.epochs.get(&id).copied().unwrap_or(0) {
                    return Err(("an epoch is durable before anybody hears of it", format!("{id}: {view:?}")));
                }
                if view.state != State::Running && view.reason.is_none() {
                    return Err(("what does not run says why", format!("{view:?}")));
                }
                Ok(())
            }
            (Asked::Show(id), Reply::Job(None)) => match disk.jobs.get(&id) {
                Some((_, standing)) if standing.state.is_settled() => self.see(id, standing),
                None if self.forgotten.contains(&id) || !self.acknowledged.contains(&id) => Ok(()),
                other => Err(("an acknowledged job is never lost", format!("{id}: {other:?}"))),
            },
            (Asked::Save(run, number), Reply::Done) => self.saves.told(run, number, disk),
            (Asked::Forget(id), Reply::Done) => {
                self.forgotten.insert(id);
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

fn epoch_is_durable(run: Run, disk: &Disk) -> Result<(), Broken> {
    let durable = disk.epochs.get(&run.job).copied().unwrap_or(0);
    if durable < run.epoch {
        let detail = format!("{run:?} leaves, {durable} is durable");
        return Err(("an epoch is durable before anybody hears of it", detail));
    }
    Ok(())
}
