//! Jobs that are kept for other homes, and those of this home on their way to its custodians.
//!
//! What comes is checked before the kernel hears of it: the set is signed by the home that sends it, the jobs are that
//! home's, and whatever they refer to has been fetched and is durable here. What goes is put together: the jobs of many
//! submissions leave in one message.

use std::sync::Arc;

use shoal_kernel::Input;
use shoal_protocol::codec;
use shoal_protocol::custody::{CustodianSet, SignedCustodians};
use shoal_protocol::limits::{KEEP_JOBS_MAX, LOG_LEN_MAX, PEER_FRAME_LEN_MAX};
use shoal_protocol::object::job::Payload;
use shoal_protocol::wire::custody::{Keep, KeepJob, Kept};
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::{BlobId, ObjectId};

use super::{End, Session};

/// Bytes of jobs in one message, as long as one more job may make it. Why 128 KiB: with the longest job it stays within a frame.
const MESSAGE_LEN: usize = PEER_FRAME_LEN_MAX / 2;

/// Who signs sets of custodians: the node.
pub(super) trait Sign {
    /// The set, signed.
    fn sign(&self, set: &CustodianSet) -> SignedCustodians;
}

impl Sign for Session {
    fn sign(&self, set: &CustodianSet) -> SignedCustodians {
        self.parts.service.sign_custodians(set)
    }
}

/// What goes to a peer and can go together.
#[derive(Default)]
pub(super) struct Together {
    keep: Option<(Arc<CustodianSet>, Vec<KeepJob>, usize)>,
    kept: Option<Kept>,
}

impl Together {
    /// Jobs that a custodian shall have. What has to leave before.
    pub(super) fn keep(&mut self, sign: &impl Sign, set: Arc<CustodianSet>, jobs: Vec<KeepJob>) -> Vec<PeerMessage> {
        let mut out: Vec<PeerMessage> = self.kept.take().map(PeerMessage::Kept).into_iter().collect();
        if self.keep.as_ref().is_some_and(|(other, ..)| other.number != set.number) || jobs.is_empty() {
            out.extend(self.take_keep(sign));
        }
        let (_, waiting, len) = self.keep.get_or_insert_with(|| (set, Vec::new(), 0));
        for job in jobs {
            *len += codec::encode(&job).len();
            waiting.push(job);
        }
        if *len >= MESSAGE_LEN || waiting.len() >= KEEP_JOBS_MAX || waiting.is_empty() {
            out.extend(self.take_keep(sign));
        }
        out
    }

    /// Something else that is said to the peer: what goes together is joined, and the order stays.
    pub(super) fn say(&mut self, sign: &impl Sign, message: PeerMessage) -> Vec<PeerMessage> {
        let mut out: Vec<PeerMessage> = self.take_keep(sign).into_iter().collect();
        match message {
            PeerMessage::Kept(more) => match &mut self.kept {
                Some(kept)
                    if (kept.home, kept.set) == (more.home, more.set) && len(kept) + len(&more) <= KEEP_JOBS_MAX =>
                {
                    kept.jobs.extend(more.jobs);
                    kept.missing.extend(more.missing);
                    kept.full |= more.full;
                }
                kept => out.extend(kept.replace(more).map(PeerMessage::Kept)),
            },
            message => {
                out.extend(self.kept.take().map(PeerMessage::Kept));
                out.push(message);
            }
        }
        out
    }

    /// All that waits.
    pub(super) fn flush(&mut self, sign: &impl Sign) -> Vec<PeerMessage> {
        let kept = self.kept.take().map(PeerMessage::Kept);
        self.take_keep(sign).into_iter().chain(kept).collect()
    }

    fn take_keep(&mut self, sign: &impl Sign) -> Option<PeerMessage> {
        let (set, jobs, _) = self.keep.take()?;
        let set = sign.sign(&set);
        Some(PeerMessage::Keep(Box::new(Keep { set, jobs })))
    }
}

/// How many jobs an answer names.
fn len(kept: &Kept) -> usize {
    kept.jobs.len() + kept.missing.len()
}

impl Session {
    /// Jobs that the peer, as their home, wants to be kept here.
    pub(super) async fn keep(self: Arc<Self>, keep: Keep) -> Result<(), End> {
        let Keep { set: signed, jobs } = keep;
        let set = self.verified(&signed)?;
        if jobs.len() > KEEP_JOBS_MAX
            || jobs.iter().any(|job| job.job.tag() != self.peer.tag() || job.check().is_err() || !within_bounds(job))
        {
            return Err(End::Fault("it wants jobs to be kept that are out of bounds, or not its own"));
        }
        if !jobs.is_empty() && !set.has_custodian(self.peers.node()) {
            return Err(End::Fault("it wants jobs to be kept by a node that is no custodian of theirs"));
        }
        let (held, here) = self.fetch_for_each(jobs).await;
        let (home, set, signed) = (self.peer, Box::new(set), Box::new(signed));
        self.parts.runtime.input(Input::Keep { home, set, signed, jobs: here }).await;
        self.hold_until_written(held);
        Ok(())
    }

    /// What the kernel writes refers to the bytes from then on; until that they are held, also beyond this session.
    pub(super) fn hold_until_written(&self, held: Vec<shoal_blobs::Held>) {
        if !held.is_empty() {
            let runtime = self.parts.runtime.clone();
            tokio::spawn(async move {
                runtime.flush().await;
                drop(held);
            });
        }
    }

    /// The set, if the peer has signed it as its own. One that was seen before on this connection is not checked again.
    fn verified(&self, signed: &SignedCustodians) -> Result<CustodianSet, End> {
        let mut seen = self.custodians();
        if let Some((known, set)) = seen.as_ref()
            && known == signed
        {
            return Ok(set.clone());
        }
        match signed.verify() {
            Ok(set) if set.home == self.peer => {
                *seen = Some((signed.clone(), set.clone()));
                Ok(set)
            }
            _ => Err(End::Fault("it sends a set of custodians that it has not signed")),
        }
    }

    /// Fetches what jobs refer to, from the peer. A job without its bytes is left out: whoever sends it finds that when both
    /// compare.
    pub(super) async fn fetch_for_each(&self, jobs: Vec<KeepJob>) -> (Vec<shoal_blobs::Held>, Vec<KeepJob>) {
        let (mut held, mut here) = (Vec::new(), Vec::with_capacity(jobs.len()));
        for job in jobs {
            match self.fetch_for(&job).await {
                Ok(blobs) => {
                    held.extend(blobs);
                    here.push(job);
                }
                Err(problem) => {
                    tracing::warn!(job = %job.job, peer = %self.peer.short(), %problem, "a job cannot be kept here");
                }
            }
        }
        (held, here)
    }

    async fn fetch_for(&self, job: &KeepJob) -> Result<Vec<shoal_blobs::Held>, shoal_protocol::Problem> {
        let mut held = Vec::new();
        for (id, size) in blobs_of(job) {
            held.push(self.fetch(id, size).await?);
        }
        Ok(held)
    }

    /// Whether a peer may name these jobs as its own.
    pub(super) fn are_its_own(&self, jobs: &[ObjectId]) -> bool {
        jobs.len() <= KEEP_JOBS_MAX && jobs.iter().all(|job| job.tag() == self.peer.tag())
    }

    /// What a custodian may say that it has.
    pub(super) fn is_sound(&self, kept: &Kept) -> bool {
        // A home is told of its jobs by their regent, and a regent by other members.
        let home = kept.home.unwrap_or(self.peers.node()).tag();
        let ids = kept.jobs.iter().map(|(job, _)| job).chain(&kept.missing);
        len(kept) <= KEEP_JOBS_MAX && ids.into_iter().all(|job| job.tag() == home)
    }
}

/// The blobs that a record refers to, with their lengths.
pub(super) fn blobs_of(job: &KeepJob) -> impl Iterator<Item = (BlobId, u64)> {
    let input = job.accepted.iter().map(|accepted| &accepted.input);
    let outcome = job.standing.iter().filter_map(|standing| standing.outcome.as_ref());
    let made = outcome.flat_map(|outcome| [&outcome.output, &outcome.log]);
    input.chain(made).filter_map(|payload| match payload {
        Payload::Blob { id, size } => Some((*id, *size)),
        Payload::Inline(_) => None,
    })
}

/// Whether a record is within what a job may refer to: a log has its own bound.
pub(super) fn within_bounds(job: &KeepJob) -> bool {
    let outcome = job.standing.as_ref().and_then(|standing| standing.outcome.as_ref());
    outcome.is_none_or(|outcome| outcome.log.size() <= LOG_LEN_MAX as u64)
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::NodeId;
    use shoal_protocol::custody::VERSION;
    use shoal_protocol::key::SecretKey;

    impl Sign for SecretKey {
        fn sign(&self, set: &CustodianSet) -> SignedCustodians {
            set.sign(self)
        }
    }

    fn key() -> SecretKey {
        SecretKey::from_bytes([1; 32])
    }

    fn set(number: u32) -> Arc<CustodianSet> {
        let home: NodeId = key().public().into();
        Arc::new(CustodianSet { version: VERSION, home, number, members: vec![home, NodeId([2; 32])] })
    }

    fn job(n: u64) -> KeepJob {
        KeepJob { job: ObjectId::from_parts(n, 0, [0; 8]), accepted: None, standing: None, supplied: false }
    }

    /// For each message its set and how many jobs it has; or none.
    fn kept(messages: &[PeerMessage]) -> Vec<Option<(u32, usize)>> {
        let each = |message: &PeerMessage| match message {
            PeerMessage::Keep(keep) => Some((keep.set.verify().unwrap().number, keep.jobs.len())),
            _ => None,
        };
        messages.iter().map(each).collect()
    }

    #[test]
    fn jobs_under_one_set_leave_in_one_message_and_the_order_stays() {
        let mut together = Together::default();
        for n in 0..10 {
            assert_eq!(together.keep(&key(), set(1), vec![job(n)]), []);
        }
        assert_eq!(kept(&together.keep(&key(), set(2), vec![job(10)])), [Some((1, 10))], "another set");
        let out = together.say(&key(), PeerMessage::Compare { after: None });
        assert_eq!(kept(&out), [Some((2, 1)), None], "what was said before leaves before");
        assert_eq!(kept(&together.keep(&key(), set(3), Vec::new())), [Some((3, 0))], "a set alone waits for nothing");
        assert_eq!(together.flush(&key()), []);
    }

    #[test]
    fn messages_stay_within_their_bounds() {
        let mut together = Together::default();
        let jobs = (0..KEEP_JOBS_MAX as u64).map(job).collect();
        assert_eq!(kept(&together.keep(&key(), set(1), jobs)), [Some((1, KEEP_JOBS_MAX))]);
        let told = |n| Kept { set: 1, jobs: vec![(job(n).job, 0); KEEP_JOBS_MAX / 2], ..Kept::default() };
        assert_eq!(together.say(&key(), PeerMessage::Kept(told(1))), []);
        assert_eq!(together.say(&key(), PeerMessage::Kept(told(2))), []);
        let out = together.say(&key(), PeerMessage::Kept(told(3)));
        assert!(matches!(out.as_slice(), [PeerMessage::Kept(kept)] if kept.jobs.len() == KEEP_JOBS_MAX));
        assert_eq!(together.flush(&key()), [PeerMessage::Kept(told(3))]);
    }
}
