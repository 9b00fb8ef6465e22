//! What the peer says, on its way to the kernel: bounded, and only where it has a place.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Instant;

use shoal_kernel::{Input, PeerAttached};
use shoal_mesh::Stream;
use shoal_protocol::WorkerId;
use shoal_protocol::limits::{
    KEEP_JOBS_MAX, LOG_LEN_MAX, MESSAGE_LEN_MAX, NAME_LEN_MAX, PEER_FRAME_LEN_MAX, PEER_RUNS_MAX,
};
use shoal_protocol::object::job::Progress;
use shoal_protocol::wire::peer::{Hello, Hint, PeerMessage, RunOffer};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Octets, Problem};
use tokio::io::ReadHalf;
use tokio::task::JoinSet;

use super::{End, Session, custody};
use crate::frames;

/// Endings and checkpoints whose bytes are on their way at once. Why 128: twice as many as a peer reports before one is settled. With more
/// of them the peer is not listened to until one is done.
const ENDINGS_MAX: usize = 128;

impl Session {
    pub(super) async fn listen(self: Arc<Self>, mut reader: ReadHalf<Stream>) -> End {
        let hello = match frames::expect(&mut reader, PEER_FRAME_LEN_MAX).await {
            Ok(PeerMessage::Hello(hello)) => hello,
            Ok(_) => return End::Fault("its first word is no hello"),
            Err(error) => return error.into(),
        };
        if let Err(end) = self.hello(hello).await {
            return end;
        }
        let mut endings: JoinSet<Result<(), End>> = JoinSet::new();
        loop {
            let message = next(&mut reader, &mut endings).await;
            if !self.peers.rates().messages.spend(self.peer, 1, Instant::now()) {
                return End::Fault("it floods the control stream");
            }
            let heard = match message {
                Ok(Some(PeerMessage::Ended(run, outcome))) => {
                    self.placed().remove(&run.job);
                    let (session, saving) = (Arc::clone(&self), self.fetching().remove(&run));
                    endings.spawn(async move {
                        if let Some(saving) = saving {
                            drop(saving.done.await);
                        }
                        session.ended(run, *outcome).await
                    });
                    Ok(())
                }
                Ok(Some(PeerMessage::Checkpoint(run, checkpoint))) => self.saved(run, *checkpoint, &mut endings).await,
                Ok(Some(PeerMessage::Keep(keep)))
                    if keep.jobs.iter().any(|job| custody::blobs_of(job).next().is_some()) =>
                {
                    endings.spawn(Arc::clone(&self).keep(*keep));
                    Ok(())
                }
                Ok(Some(PeerMessage::Keep(keep))) => Arc::clone(&self).keep(*keep).await,
                Ok(Some(PeerMessage::KeepTaken(told))) => {
                    endings.spawn(Arc::clone(&self).told_by_regent(*told));
                    Ok(())
                }
                Ok(Some(message)) => self.heard(message).await,
                Ok(None) => Err(End::Frame(frames::FrameError::Ended)),
                Err(end) => Err(end),
            };
            if let Err(end) = heard {
                return end;
            }
        }
    }

    async fn hello(&self, hello: Hello) -> Result<(), End> {
        let Hello { name, runs, keeps, .. } = hello;
        if runs.len() > PEER_RUNS_MAX || name.len() > NAME_LEN_MAX {
            return Err(End::Fault("its hello is out of bounds"));
        }
        for run in &runs {
            self.note(*run)?;
        }
        let attached =
            PeerAttached { node: self.peer, connection: self.connection, name, runs, rtt_us: self.rtt_us(), keeps };
        self.parts.runtime.input(Input::PeerAttached(Box::new(attached))).await;
        Ok(())
    }

    async fn heard(&self, message: PeerMessage) -> Result<(), End> {
        let (node, home, worker) = (self.peer, self.peer, WorkerId::of_node(&self.peer));
        let connection = self.connection;
        let input = match message {
            PeerMessage::Hello(_) => return Err(End::Fault("it says hello twice")),
            // These have ways of their own.
            PeerMessage::Ended(..) | PeerMessage::Checkpoint(..) | PeerMessage::Keep(_) | PeerMessage::KeepTaken(_) => {
                return Ok(());
            }
            PeerMessage::Claim(vote) => self.claimed(&vote)?,
            PeerMessage::Voted(vote) => self.voted(vote)?,
            PeerMessage::Kept(kept) if self.is_sound(&kept) => Input::Kept { node, kept },
            PeerMessage::Compare { after } => Input::Compare { home, after },
            PeerMessage::Holding(page) if page.is_sound() => Input::Holding { node, page },
            PeerMessage::Forget(jobs) if self.are_its_own(&jobs) => Input::Forget { home, jobs },
            PeerMessage::Grant(grant) if grant.jobs.len() <= KEEP_JOBS_MAX => Input::Grant { from: node, grant },
            PeerMessage::Granted(granted) if granted.is_sound() => Input::Granted { node, granted },
            PeerMessage::Kept(_)
            | PeerMessage::Holding(_)
            | PeerMessage::Forget(_)
            | PeerMessage::Grant(_)
            | PeerMessage::Granted(_) => {
                return Err(End::Fault("what it says of jobs that are kept is out of bounds"));
            }
            PeerMessage::Welcome { lease_ms, drop } => {
                let dropped = dropped(&drop)?;
                if self.welcomed.swap(true, Relaxed) {
                    return Err(End::Fault("it says welcome twice"));
                }
                self.guests().retain(|run, _| !dropped.contains(run));
                Input::HomeAttached { home, connection, lease_ms, drop }
            }
            PeerMessage::Hint(hint) => return self.hint(hint).await,
            PeerMessage::Offer(offer) => self.offer(offer, connection)?,
            PeerMessage::Cancel(run) => Input::HomeCancel { home, run },
            PeerMessage::Settled(run) => {
                self.guests().remove(&run);
                Input::HomeSettled { home, run }
            }
            PeerMessage::Checkpointed { run, number } => Input::HomeCheckpointed { home, run, number },
            PeerMessage::Taken { run, worker } => {
                self.note(run)?;
                Input::PeerTaken { node, run, worker: cut(worker, NAME_LEN_MAX) }
            }
            PeerMessage::Declined(run, problem) => {
                self.placed().remove(&run.job);
                Input::Declined { worker, run, problem: bounded(problem) }
            }
            PeerMessage::Heartbeat { runs } if runs.len() > PEER_RUNS_MAX => {
                return Err(End::Fault("its heartbeat names too many runs"));
            }
            PeerMessage::Heartbeat { runs } => Input::Heartbeat { worker, runs },
            PeerMessage::Started(run) => Input::Started { worker, run },
            PeerMessage::Progress(run, progress) => {
                let progress = Progress { message: cut(progress.message, MESSAGE_LEN_MAX), ..progress };
                Input::Progress { worker, run, progress }
            }
            PeerMessage::Log { run, offset, bytes } => {
                self.log(run, offset, &bytes);
                return Ok(());
            }
        };
        self.parts.runtime.input(input).await;
        Ok(())
    }

    async fn hint(&self, hint: Hint) -> Result<(), End> {
        if hint.check().is_err() {
            return Err(End::Fault("its hint is out of bounds"));
        }
        self.peers.known().hear(self.peer, self.connection, hint.clone());
        let input = Input::PeerHint { node: self.peer, hint: Box::new(hint), rtt_us: self.rtt_us() };
        self.parts.runtime.input(input).await;
        Ok(())
    }

    fn offer(&self, offer: Box<RunOffer>, connection: u64) -> Result<Input, End> {
        if offer.accepted.check().is_err() || offer.accepted.id != offer.run.job {
            return Err(End::Fault("it offers a job that is out of bounds"));
        }
        if offer.run.job.tag() != self.peer.tag() {
            // A regent shows by which right; this node need not have heard of the home's set.
            let home = offer.right.as_ref().and_then(|right| right.verify(self.peer).ok());
            if home.is_none_or(|home| home.tag() != offer.run.job.tag()) {
                return Err(End::Fault("it offers a job whose home it is not, and for which it does not act"));
            }
        }
        Ok(Input::Offered { home: self.peer, connection, offer })
    }

    /// The peer says that it has a run. Of one that is not at it nothing is heard: not its log, for one.
    fn note(&self, run: Run) -> Result<(), End> {
        if self.output_max(run)?.is_none() {
            return Ok(());
        }
        let mut placed = self.placed();
        if placed.len() >= PEER_RUNS_MAX && !placed.contains_key(&run.job) {
            return Err(End::Fault("it takes more runs than it may hold"));
        }
        placed.insert(run.job, run);
        Ok(())
    }

    fn log(&self, run: Run, offset: u64, bytes: &Octets) {
        let within = offset.saturating_add(bytes.len() as u64) <= LOG_LEN_MAX as u64;
        let has = self.placed().get(&run.job) == Some(&run);
        if within && has && self.parts.logs.append(run, offset, bytes) {
            self.parts.runtime.changed(run.job);
        }
    }
}

/// The runs that a home does not want any more. It names none but those that this node has told it of.
fn dropped(drop: &[Run]) -> Result<BTreeSet<Run>, End> {
    if drop.len() > PEER_RUNS_MAX {
        return Err(End::Fault("its welcome names too many runs"));
    }
    Ok(drop.iter().copied().collect())
}

/// The next message. What an ending comes to is looked at meanwhile, and takes nothing from a frame that has begun.
async fn next(
    reader: &mut ReadHalf<Stream>,
    endings: &mut JoinSet<Result<(), End>>,
) -> Result<Option<PeerMessage>, End> {
    while endings.len() >= ENDINGS_MAX {
        done(endings.join_next().await)?;
    }
    let mut reading = std::pin::pin!(frames::read(reader, PEER_FRAME_LEN_MAX));
    loop {
        tokio::select! {
            biased;
            ended = endings.join_next(), if !endings.is_empty() => done(ended)?,
            message = &mut reading => return Ok(message?),
        }
    }
}

fn done(ended: Option<Result<Result<(), End>, tokio::task::JoinError>>) -> Result<(), End> {
    match ended {
        Some(Err(lost)) => Err(End::Bytes(lost.to_string())),
        Some(Ok(ended)) => ended,
        None => Ok(()),
    }
}

fn bounded(problem: Problem) -> Problem {
    let (detail, title) = (cut(problem.detail, MESSAGE_LEN_MAX), cut(problem.title, MESSAGE_LEN_MAX));
    Problem { detail, title, ..problem }
}

/// The text up to `max` bytes.
pub(super) fn cut(mut text: String, max: usize) -> String {
    if text.len() > max {
        text.truncate(text.floor_char_boundary(max));
    }
    text
}

#[cfg(test)]
mod tests {
    use shoal_protocol::ObjectId;

    use super::*;

    #[test]
    fn a_welcome_drops_no_more_runs_than_there_may_be() {
        let runs = |count: usize| vec![Run { job: ObjectId::MIN, epoch: 1 }; count];
        assert_eq!(dropped(&runs(PEER_RUNS_MAX)).unwrap().len(), 1);
        assert!(dropped(&runs(PEER_RUNS_MAX + 1)).unwrap_err().blame().is_some());
    }
}
