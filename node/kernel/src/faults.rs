//! Bugs that this kernel could have, each under a name, so that the simulator can show that it would find them.
//!
//! Why inside the kernel: a bug imitated from outside, by tampering with inputs and effects, shows that the simulator
//! sees the imitation. Why a trait of constants: the branches are chosen at compile time, nothing at run time and no
//! feature of Cargo (which a workspace build would unify into the binary) can switch one on. [`crate::Kernel`] is the
//! machine with [`Sound`] faults, which are none; production has no other name for it.

/// Which bugs a kernel has. All off unless said otherwise.
pub trait Faults {
    /// A run is offered without journaling its epoch first.
    const EPOCH_UNWRITTEN: bool = false;
    /// A result counts whatever its epoch.
    const LATE_RESULT_COUNTS: bool = false;
    /// A submission is answered before its jobs are journaled.
    const ACKNOWLEDGED_FIRST: bool = false;
    /// The runs of a worker whose lease has ended stay where they are.
    const LOST_RUN_STAYS: bool = false;
    /// A restarted kernel does not take back jobs that were at a worker.
    const OFFERED_FORGOTTEN: bool = false;
    /// A settled job stays in memory and can settle again.
    const SETTLED_STAYS: bool = false;
    /// A cancellation of a run is answered without being journaled.
    const CANCEL_UNWRITTEN: bool = false;
    /// A hold is answered without being journaled.
    const HOLD_UNWRITTEN: bool = false;
    /// A restarted kernel does not know which jobs wait for their time.
    const TIME_FORGOTTEN: bool = false;
    /// A restarted kernel does not know how long jobs may wait and take.
    const LIMITS_FORGOTTEN: bool = false;
    /// A restarted kernel does not know which jobs wait for others.
    const BLOCK_FORGOTTEN: bool = false;
    /// Whatever the end of a job, it is as its dependents want it.
    const ANY_END_WILL_DO: bool = false;
    /// Nobody is told of the end of a job.
    const DEPENDENTS_UNTOLD: bool = false;
    /// The end of an array's element is journaled without how far the array is with that.
    const ELEMENT_UNCOUNTED: bool = false;
    /// Subscribers are not told of the end of a job.
    const END_UNTOLD: bool = false;
    /// A hand-over that came to nothing leaves no trace.
    const REFUSAL_FORGOTTEN: bool = false;
    /// A checkpoint counts whatever its epoch.
    const CHECKPOINT_UNFENCED: bool = false;
    /// A checkpoint is acknowledged without being journaled.
    const CHECKPOINT_UNWRITTEN: bool = false;
    /// A restarted kernel does not know what runs have saved.
    const CHECKPOINT_FORGOTTEN: bool = false;
    /// A run of another home is taken without being journaled.
    const GUEST_UNWRITTEN: bool = false;
    /// A run of another home replaces the one that is here whatever their epochs.
    const GUEST_EPOCH_UNCHECKED: bool = false;
    /// The ending of a run of another home is forgotten as soon as it was reported once.
    const GUEST_FORGOTTEN: bool = false;
    /// A job is acknowledged without waiting for its custodians.
    const KEEPING_NOT_AWAITED: bool = false;
    /// A custodian says that it keeps a job without journaling it.
    const CHARGE_UNWRITTEN: bool = false;
    /// An older record of a job that is kept here takes the place of a newer one.
    const CHARGE_REVISION_UNCHECKED: bool = false;
    /// No custodian is ever asked what it has missed.
    const CUSTODIAN_NOT_COMPARED: bool = false;
}

/// No bugs that we know of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sound;

impl Faults for Sound {}
