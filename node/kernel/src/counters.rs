//! What the kernel has done since it was made: for `/metrics`, and for the simulator to see what it has exercised.

use std::collections::BTreeMap;

use shoal_protocol::Kind;
use shoal_protocol::object::job::State;

/// Counts since the kernel was made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counters {
    /// Jobs accepted.
    pub accepted: u64,
    /// Jobs refused, by the kind of problem.
    pub refused: BTreeMap<Kind, u64>,
    /// Unsettled jobs taken back after a restart.
    pub restored: u64,
    /// Runs handed to workers.
    pub offers: u64,
    /// Of these, runs handed ahead of a free slot.
    pub prefetched: u64,
    /// Runs taken back from a worker because another one was idle.
    pub withdrawn: u64,
    /// Runs that a worker did not take.
    pub declined: u64,
    /// Runs that were lost with their worker, or by it.
    pub lost: u64,
    /// Runs whose jobs began to wait for a worker that was out of reach.
    pub disconnected: u64,
    /// Of these, runs that were given up because the worker was not back in time.
    pub replaced: u64,
    /// Jobs that went back into the queue, for whatever reason.
    pub requeued: u64,
    /// Endings of runs that no longer counted.
    pub fenced: u64,
    /// Submissions that were answered with the job of the same key.
    pub same_key: u64,
    /// Jobs that ended as duplicates of others with the same key.
    pub duplicates: u64,
    /// Calls to URLs that were made, each time counted.
    pub calls: u64,
    /// Calls that were answered as they should be.
    pub calls_delivered: u64,
    /// Calls that are tried no more.
    pub calls_given_up: u64,
    /// Jobs that were given the result of an equal one.
    pub memoised: u64,
    /// Jobs that somebody cancelled.
    pub cancelled: u64,
    /// Jobs that somebody held, when they were submitted or later.
    pub held: u64,
    /// Jobs that somebody released.
    pub released: u64,
    /// Jobs of which all that they waited for has ended as it must.
    pub unblocked: u64,
    /// Jobs that ended because one that they waited for ended otherwise than it must.
    pub never_met: u64,
    /// Jobs whose time has come.
    pub begun: u64,
    /// Elements of arrays that began.
    pub elements_begun: u64,
    /// Runs that failed by themselves and are tried again because the job says so.
    pub retried: u64,
    /// Jobs that waited for their first run longer than they may.
    pub queue_limits: u64,
    /// Jobs that took longer in all than they may.
    pub total_limits: u64,
    /// Checkpoints that runs here, or runs of this home, have saved.
    pub checkpoints: u64,
    /// Checkpoints of runs that no longer counted.
    pub checkpoints_fenced: u64,
    /// Runs that were handed the checkpoint of an earlier one.
    pub resumed: u64,
    /// Runs that outlived their limit although their worker should have stopped them.
    pub overdue: u64,
    /// Leases that ended without renewal.
    pub leases_ended: u64,
    /// Workers that attached, again or for the first time.
    pub attachments: u64,
    /// Of the runs handed over, those that were offered to peers.
    pub peer_offers: u64,
    /// Of these, those that peers declined.
    pub peer_declines: u64,
    /// Peers that attached, again or for the first time.
    pub peer_attachments: u64,
    /// Hints that were not within their bounds.
    pub hints_refused: u64,
    /// Searches for peers that have what a job needs.
    pub seeks: u64,
    /// Runs of other homes taken.
    pub guests_taken: u64,
    /// Runs of other homes declined when they were offered.
    pub guests_declined: u64,
    /// Runs of other homes that ended, however.
    pub guests_ended: u64,
    /// Of these, those that were lost with their worker, or by it.
    pub guests_lost: u64,
    /// Runs of other homes taken back after a restart.
    pub guests_restored: u64,
    /// Runs of other homes that gave way to a newer epoch.
    pub guests_replaced: u64,
    /// Endings that were dropped because their home did not come back for them.
    pub guests_dropped: u64,
    /// Jobs that were acknowledged when as many custodians had them as was wanted.
    pub kept: u64,
    /// Jobs that were acknowledged when this node alone had them, though another was to have them.
    pub kept_alone: u64,
    /// Jobs that were refused because custodians did not answer in time.
    pub unkept: u64,
    /// Sets of custodians begun.
    pub custodian_sets: u64,
    /// Records of jobs that custodians did not have when they were compared.
    pub records_sent_again: u64,
    /// Jobs of other homes that were taken to be kept here, each once.
    pub charges_taken: u64,
    /// Of these, elements of arrays.
    pub elements_taken: u64,
    /// Arrays of other homes that were taken over with their elements.
    pub arrays_taken: u64,
    /// Jobs that this node had taken over and not ended, and that their home had forgotten.
    pub forgotten_by_home: u64,
    /// Jobs that this node had left to their home, and has ended as somebody wanted.
    pub left_ended: u64,
    /// Arrays of this home that other nodes decide.
    pub arrays_ceded: u64,
    /// Elements of these of which such a node has told.
    pub elements_elsewhere: u64,
    /// Jobs of other homes that are kept here no more.
    pub charges_gone: u64,
    /// Jobs of other homes kept here, taken back after a restart.
    pub charges_restored: u64,
    /// Votes for others to act for homes.
    pub votes: u64,
    /// Reigns of this node.
    pub reigns: u64,
    /// Of these, those that no majority has confirmed.
    pub reigns_unconfirmed: u64,
    /// Reigns of others of which this node has heard, of this home or beside it.
    pub reigns_heard: u64,
    /// Jobs of other homes taken over.
    pub taken: u64,
    /// Jobs given to a regent.
    pub yielded: u64,
    /// Settlements that have given way to one of a higher epoch.
    pub superseded: u64,
    /// Jobs taken over that their homes had settled meanwhile.
    pub settled_by_home: u64,
    /// Submissions refused because a quota was used up.
    pub over_quota: u64,
    /// Times at which a project had jobs that could run, but for its quota of runs.
    pub quota_waits: u64,
    /// Tallies journaled of what was used.
    pub tallies: u64,
    /// Tallies of other nodes that were news.
    pub tallies_heard: u64,
    /// Words given that an epoch of a job with effects `once` may begin.
    pub grants: u64,
    /// Such words refused, since another node may have begun the job.
    pub grants_refused: u64,
    /// Jobs that were let begin, or end, by a majority of their custodians.
    pub granted: u64,
    /// Jobs settled, by state.
    pub settled: BTreeMap<State, u64>,
    /// Settled jobs forgotten.
    pub swept: u64,
    /// Of these, those that went because there were too many.
    pub swept_for_number: u64,
}

impl Counters {
    pub(crate) fn refuse(&mut self, kind: Kind) {
        *self.refused.entry(kind).or_default() += 1;
    }

    /// So many jobs have settled in this state.
    pub(crate) fn settle(&mut self, state: State, count: u32) {
        if count > 0 {
            *self.settled.entry(state).or_default() += u64::from(count);
        }
    }
}
