//! Custodians that act for a home which is away: their votes, and what they have decided.
//!
//! Votes are checked here, the kernel hears of sound ones alone: one is signed by who sends it, and a regent shows those of a
//! majority of a set which this node knows.

use std::sync::Arc;

use shoal_kernel::{Input, Reign};
use shoal_protocol::limits::KEEP_JOBS_MAX;
use shoal_protocol::regency::{Regency, Regent, SignedVote, Vote};
use shoal_protocol::wire::custody::{KeepJob, KeepTaken};
use shoal_protocol::wire::peer::{PeerMessage, Right, RunOffer};
use shoal_protocol::{Kind, ObjectId, Problem};

use super::custody::within_bounds;
use super::{End, Session};
use crate::runtime::read_right;

impl Session {
    /// This node's vote, signed.
    pub(super) fn sign_vote(&self, vote: &Vote) -> SignedVote {
        self.parts.service.sign_vote(vote)
    }

    /// Jobs that a regent has taken over, with the right to it: the votes of others, and its own, which only this node adds if it is
    /// the regent.
    pub(super) fn keep_taken(&self, reign: &Reign, jobs: Vec<KeepJob>) -> PeerMessage {
        let me = self.peers.node();
        let own = (reign.regent.regent == me).then(|| self.sign_vote(&Vote::new(reign.regent, me)));
        let votes = reign.votes.iter().cloned().chain(own).collect();
        PeerMessage::KeepTaken(Box::new(KeepTaken { regency: Regency { regent: reign.regent, votes }, jobs }))
    }

    /// An offer with the right to it, where the job's home is another node.
    pub(super) fn with_right(&self, mut offer: Box<RunOffer>) -> Box<RunOffer> {
        if offer.run.job.tag() != self.peers.node().tag() {
            match self.right(offer.run.job) {
                Ok(right) => offer.right = right.map(Box::new),
                Err(problem) => {
                    tracing::warn!(job = %offer.run.job, %problem, "by which right a job is offered cannot be read")
                }
            }
        }
        offer
    }

    fn right(&self, job: ObjectId) -> Result<Option<Right>, Problem> {
        let found = read_right(self.parts.runtime.store(), job)?;
        Ok(found.map(|(set, Reign { regent, mut votes, .. })| {
            votes.push(self.sign_vote(&Vote::new(regent, self.peers.node())));
            Right { set, regency: Regency { regent, votes } }
        }))
    }

    /// The peer wants to act for a home: with a vote of its own for itself.
    pub(super) fn claimed(&self, signed: &SignedVote) -> Result<Input, End> {
        match signed.verify() {
            Ok(vote) if vote.voter == self.peer && vote.regent.regent == self.peer => Ok(Input::Claimed { vote }),
            _ => Err(End::Fault("it claims a home with a vote that is not its own")),
        }
    }

    /// The peer has voted for this node.
    pub(super) fn voted(&self, signed: SignedVote) -> Result<Input, End> {
        match signed.verify() {
            Ok(vote) if vote.voter == self.peer && vote.regent.regent == self.peers.node() => {
                Ok(Input::Voted { vote, signed: Box::new(signed) })
            }
            _ => Err(End::Fault("it sends a vote that is not its own, or not for this node")),
        }
    }

    /// The peer says how jobs of a home stand: as its regent, or to the home what it keeps of the regent's word.
    pub(super) async fn told_by_regent(self: Arc<Self>, told: KeepTaken) -> Result<(), End> {
        let KeepTaken { regency, jobs } = told;
        let home = regency.regent.home;
        let sound = |job: &KeepJob| job.job.tag() == home.tag() && job.check().is_ok() && within_bounds(job);
        if jobs.len() > KEEP_JOBS_MAX || !jobs.iter().all(sound) {
            return Err(End::Fault("it tells of jobs that are out of bounds"));
        }
        let confirmed = match self.confirmed(&regency) {
            Ok(Some(confirmed)) => confirmed,
            // A set of which this node has not heard: it is none of those that keep its jobs, and has no say.
            Ok(None) => return Ok(()),
            Err(_) => {
                return Err(End::Fault(
                    "it tells of a regent without the votes for that one, or is none that keeps the jobs",
                ));
            }
        };
        let (held, here) = self.fetch_for_each(jobs).await;
        let reign = Reign { regent: regency.regent, acts: true, confirmed, votes: regency.votes };
        let input = Input::KeepTaken { from: self.peer, reign: Box::new(reign), jobs: here };
        self.parts.runtime.input(input).await;
        self.hold_until_written(held);
        Ok(())
    }

    /// Whether a majority has voted for a regent; none: the set is not known here. An error: it must not act, or the peer has no
    /// say.
    fn confirmed(&self, regency: &Regency) -> Result<Option<bool>, Problem> {
        let Regent { home, set, regent, .. } = regency.regent;
        let Some(set) = self.parts.service.custodian_set(home, set)? else { return Ok(None) };
        let keeps = home == self.peers.node() && set.has_custodian(self.peer);
        if regent != self.peer && !keeps {
            return Err(Problem::new(Kind::Forbidden, "it is neither the regent nor a custodian of this home"));
        }
        regency.verify(&set).map(Some)
    }
}
