//! The word of custodians that jobs with effects `once` may begin: what this node has given, and what it waits for.
//!
//! Invariant: of one job the epochs that are granted here never fall, and a higher one is granted to another node only if that knows
//! how all lower ones have ended.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::object::job::{Outcome, State};
use shoal_protocol::wire::custody::Begin;
use shoal_protocol::{NodeId, ObjectId};

use crate::record::Promise;

/// Jobs that leave the queue in one step to wait for the word of their custodians. Why 64: the answers come within a round trip, and
/// those that are granted and do not run yet are left to this home should it go away.
pub(crate) const ASK_LEN: usize = 64;

/// What this node waits for before a job may begin, or end, or be taken over.
#[derive(Debug)]
pub(crate) struct Waiting {
    pub(crate) ask: Begin,
    /// Members beside this one that have given their word.
    pub(crate) by: BTreeSet<NodeId>,
    /// Whom another member has given it before.
    pub(crate) given_to: Option<NodeId>,
    /// How the job ends then; none: it begins.
    pub(crate) ending: Option<Box<(State, Option<Outcome>)>>,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Grants {
    given: BTreeMap<ObjectId, (u64, NodeId)>,
    waiting: BTreeMap<ObjectId, Waiting>,
}

impl Grants {
    /// Whether this node may give its word.
    pub(crate) fn may_give(&self, ask: Begin, to: NodeId) -> Result<(), NodeId> {
        match self.given.get(&ask.job) {
            // Who has it knows what has become of it.
            Some((epoch, holder)) if *epoch > ask.epoch || (*epoch > ask.after && *holder != to) => Err(*holder),
            _ => Ok(()),
        }
    }

    /// This node has given its word. Whether that is new.
    pub(crate) fn give(&mut self, promise: Promise) -> bool {
        let Promise { job, epoch, to } = promise;
        self.given.insert(job, (epoch, to)) != Some((epoch, to))
    }

    /// Whether a node may begin this epoch, as far as this one knows.
    pub(crate) fn is_given(&self, job: ObjectId, epoch: u64, to: NodeId) -> bool {
        self.given.get(&job) == Some(&(epoch, to))
    }

    /// Whether this node has given its word for a job, to whomever.
    pub(crate) fn has_given(&self, job: ObjectId) -> bool {
        self.given.contains_key(&job)
    }

    /// The job has settled, or is gone.
    pub(crate) fn forget(&mut self, job: ObjectId) {
        self.given.remove(&job);
        self.waiting.remove(&job);
    }

    /// Forgets all other jobs.
    pub(crate) fn keep_only(&mut self, stays: impl Fn(ObjectId) -> bool) {
        self.given.retain(|job, _| stays(*job));
    }

    /// Waits for the word of others. What was heard of the same epoch before counts.
    pub(crate) fn wait(&mut self, ask: Begin, ending: Option<Box<(State, Option<Outcome>)>>) {
        let before = self.waiting.remove(&ask.job).filter(|before| before.ask.epoch == ask.epoch);
        let by = before.map(|before| before.by).unwrap_or_default();
        self.waiting.insert(ask.job, Waiting { ask, by, given_to: None, ending });
    }

    /// What a job waits for.
    pub(crate) fn waiting(&self, job: ObjectId) -> Option<&Waiting> {
        self.waiting.get(&job)
    }

    /// The same, for this epoch, to be changed.
    pub(crate) fn waiting_mut(&mut self, job: ObjectId, epoch: u64) -> Option<&mut Waiting> {
        self.waiting.get_mut(&job).filter(|waiting| waiting.ask.epoch == epoch)
    }

    /// A job waits no more.
    pub(crate) fn stop_waiting(&mut self, job: ObjectId) -> Option<Waiting> {
        self.waiting.remove(&job)
    }

    /// All jobs that wait.
    pub(crate) fn all_waiting(&self) -> impl Iterator<Item = (ObjectId, &Waiting)> {
        self.waiting.iter().map(|(job, waiting)| (*job, waiting))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: NodeId = NodeId([1; 32]);
    const REGENT: NodeId = NodeId([2; 32]);

    #[test]
    fn an_epoch_is_granted_to_who_knows_what_became_of_the_last() {
        let job = ObjectId::from_parts(1, 0, [0; 8]);
        let ask = |epoch, after| Begin { job, epoch, after };
        let mut grants = Grants::default();
        assert_eq!(grants.may_give(ask(1, 0), HOME), Ok(()));
        assert!(grants.give(Promise { job, epoch: 1, to: HOME }) && !grants.give(Promise { job, epoch: 1, to: HOME }));
        assert_eq!(grants.may_give(ask(1, 0), HOME), Ok(()), "the same once more");
        assert_eq!(grants.may_give(ask(9, 0), REGENT), Err(HOME), "the home may have begun it");
        assert_eq!(grants.may_give(ask(9, 1), REGENT), Ok(()), "the home has told that it came to nothing");
        assert_eq!(grants.may_give(ask(2, 1), HOME), Ok(()));
        grants.give(Promise { job, epoch: 9, to: REGENT });
        assert_eq!(grants.may_give(ask(2, 1), HOME), Err(REGENT));
        assert_eq!(grants.may_give(ask(17, 0), REGENT), Ok(()), "in a later term, as it never began");
        grants.forget(job);
        assert_eq!(grants.may_give(ask(2, 0), HOME), Ok(()));
    }
}
