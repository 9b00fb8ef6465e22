//! Bugs that this kernel could have, each under a name, so that the simulator can show that it would find them.
//!
//! Why inside the kernel: a bug imitated from outside, by tampering with inputs and effects, shows that the simulator
//! sees the imitation. Why by a type: [`crate::Kernel`] is the machine with [`Sound`] faults, which are none; production
//! has no other name for it. For that type the compiler takes every branch out, and no feature of Cargo (which a workspace
//! build would unify into the binary) can switch one on.

/// A bug that a kernel can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A run is offered without journaling its epoch first.
    EpochUnwritten,
    /// A result counts whatever its epoch.
    LateResultCounts,
    /// A submission is answered before its jobs are journaled.
    AcknowledgedFirst,
    /// The runs of a worker whose lease has ended stay where they are.
    LostRunStays,
    /// A restarted kernel does not take back jobs that were at a worker.
    OfferedForgotten,
    /// A settled job stays in memory and can settle again.
    SettledStays,
    /// A cancellation of a run is answered without being journaled.
    CancelUnwritten,
    /// A hold is answered without being journaled.
    HoldUnwritten,
    /// A restarted kernel does not know which jobs wait for their time.
    TimeForgotten,
    /// A restarted kernel does not know how long jobs may wait and take.
    LimitsForgotten,
    /// A restarted kernel does not know which jobs wait for the worker that has their run.
    DisconnectForgotten,
    /// A restarted kernel does not know which jobs wait for others.
    BlockForgotten,
    /// Whatever the end of a job, it is as its dependents want it.
    AnyEndWillDo,
    /// Nobody is told of the end of a job.
    DependentsUntold,
    /// The end of an array's element is journaled without how far the array is with that.
    ElementUncounted,
    /// Subscribers are not told of the end of a job.
    EndUntold,
    /// A hand-over that came to nothing leaves no trace.
    RefusalForgotten,
    /// A checkpoint counts whatever its epoch.
    CheckpointUnfenced,
    /// A checkpoint is acknowledged without being journaled.
    CheckpointUnwritten,
    /// A restarted kernel does not know what runs have saved.
    CheckpointForgotten,
    /// A restarted kernel does not know which keys jobs were submitted under.
    KeysForgotten,
    /// A restarted kernel does not know which URLs it has to call.
    CallsForgotten,
    /// A restarted kernel does not know which results it may give again.
    MemosForgotten,
    /// A restarted kernel does not know that there are settled jobs.
    SettledUncounted,
    /// An element of an array is kept for itself, not with its array.
    ElementRetained,
    /// A run of another home is taken without being journaled.
    GuestUnwritten,
    /// A run of another home replaces the one that is here whatever their epochs.
    GuestEpochUnchecked,
    /// The ending of a run of another home is forgotten as soon as it was reported once.
    GuestForgotten,
    /// A job is acknowledged without waiting for its custodians.
    KeepingNotAwaited,
    /// A custodian says that it keeps a job without journaling it.
    ChargeUnwritten,
    /// An older record of a job that is kept here takes the place of a newer one.
    ChargeRevisionUnchecked,
    /// What is new of a job that is not here is kept without the job.
    ChargeUnfounded,
    /// No custodian is ever asked what it has missed.
    CustodianNotCompared,
    /// A home goes on with the elements of an array that another node decides.
    ElementsNotWithdrawn,
    /// A custodian votes for everybody who asks.
    VotedTwice,
    /// A vote is given without being journaled.
    VoteUnwritten,
    /// Jobs are taken over in the epochs of their home.
    TermUnused,
    /// A home goes on with the jobs that were taken over.
    NotYielded,
    /// A restarted kernel does not know what was used before.
    UseForgotten,
    /// More runs of a project are begun than may be under way.
    QuotaIgnored,
    /// Every project has the same weight.
    WeightIgnored,
    /// A job with effects `once` begins without the word of its custodians.
    GrantNotAwaited,
    /// A member of a set grants without journaling it.
    GrantUnwritten,
    /// A job with effects `once` is run again when a run of it was lost.
    LostRunRepeated,
}

/// Which bugs a kernel has.
pub trait Faults {
    /// Whether it has this one.
    fn has(fault: Fault) -> bool;
}

/// No bugs that we know of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sound;

impl Faults for Sound {
    #[inline(always)]
    fn has(_: Fault) -> bool {
        false
    }
}
