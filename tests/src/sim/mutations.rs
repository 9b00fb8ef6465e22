//! Kernels, replicas and edges with one bug each. The simulator must find every one of them; a rule that finds none of
//! them proves nothing.

use shoal_crdt::faults::Faults as ReplicaFaults;
use shoal_kernel::faults::Faults as KernelFaults;

/// All bugs that a node of a mesh can have: the kernel's, its replica's, and those of the edge around the replica.
pub trait Bugs: KernelFaults + ReplicaFaults {
    /// A client hears that its change was taken before it is durable.
    const CHANGE_ACKNOWLEDGED_FIRST: bool = false;
}

/// No bugs that we know of.
#[derive(Debug)]
pub struct Sound;

impl KernelFaults for Sound {}
impl ReplicaFaults for Sound {}
impl Bugs for Sound {}

macro_rules! mutations {
    ($( $(#[$doc:meta])* $part:ident $name:ident = $fault:ident; )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $name;

            mutations!(@ $part $name $fault);
        )*
    };
    (@ kernel $name:ident $fault:ident) => {
        impl KernelFaults for $name {
            const $fault: bool = true;
        }
        impl ReplicaFaults for $name {}
        impl Bugs for $name {}
    };
    (@ replica $name:ident $fault:ident) => {
        impl KernelFaults for $name {}
        impl ReplicaFaults for $name {
            const $fault: bool = true;
        }
        impl Bugs for $name {}
    };
    (@ edge $name:ident $fault:ident) => {
        impl KernelFaults for $name {}
        impl ReplicaFaults for $name {}
        impl Bugs for $name {
            const $fault: bool = true;
        }
    };
}

mutations! {
    /// Runs start before their epoch is journaled.
    kernel EpochUnwritten = EPOCH_UNWRITTEN;
    /// A result counts whatever its epoch.
    kernel LateResultCounts = LATE_RESULT_COUNTS;
    /// Jobs are acknowledged before they are journaled.
    kernel AcknowledgedFirst = ACKNOWLEDGED_FIRST;
    /// Lost runs are not offered again.
    kernel LostRunStays = LOST_RUN_STAYS;
    /// A restart forgets the jobs that were at workers.
    kernel OfferedForgotten = OFFERED_FORGOTTEN;
    /// A settled job can settle again.
    kernel SettledStays = SETTLED_STAYS;
    /// Cancellations are answered without being journaled.
    kernel CancelUnwritten = CANCEL_UNWRITTEN;
    /// Holds are answered without being journaled.
    kernel HoldUnwritten = HOLD_UNWRITTEN;
    /// A restart forgets which jobs wait for their time.
    kernel TimeForgotten = TIME_FORGOTTEN;
    /// A restart forgets how long jobs may wait and take.
    kernel LimitsForgotten = LIMITS_FORGOTTEN;
    /// A restart forgets which jobs wait for others.
    kernel BlockForgotten = BLOCK_FORGOTTEN;
    /// Jobs run after others whatever became of these.
    kernel AnyEndWillDo = ANY_END_WILL_DO;
    /// Nobody tells dependents of an end.
    kernel DependentsUntold = DEPENDENTS_UNTOLD;
    /// The end of an array's element is journaled without how far its array is.
    kernel ElementUncounted = ELEMENT_UNCOUNTED;
    /// Subscribers do not hear of ends.
    kernel EndUntold = END_UNTOLD;
    /// Hand-overs that came to nothing are forgotten.
    kernel RefusalForgotten = REFUSAL_FORGOTTEN;
    /// A checkpoint counts whatever its epoch.
    kernel CheckpointUnfenced = CHECKPOINT_UNFENCED;
    /// Checkpoints are acknowledged without being journaled.
    kernel CheckpointUnwritten = CHECKPOINT_UNWRITTEN;
    /// A restart forgets what runs have saved.
    kernel CheckpointForgotten = CHECKPOINT_FORGOTTEN;
    /// Runs of other homes are taken without being journaled.
    kernel GuestUnwritten = GUEST_UNWRITTEN;
    /// A run of another home gives way to any other epoch.
    kernel GuestEpochUnchecked = GUEST_EPOCH_UNCHECKED;
    /// The ending of a run of another home is forgotten before it is settled.
    kernel GuestForgotten = GUEST_FORGOTTEN;
    /// Jobs are acknowledged before custodians have them.
    kernel KeepingNotAwaited = KEEPING_NOT_AWAITED;
    /// A custodian says that it keeps what it has not journaled.
    kernel ChargeUnwritten = CHARGE_UNWRITTEN;
    /// What is kept gives way to what is older.
    kernel ChargeRevisionUnchecked = CHARGE_REVISION_UNCHECKED;
    /// A custodian is never asked what it has missed.
    kernel CustodianNotCompared = CUSTODIAN_NOT_COMPARED;
    /// Changes are let in before those that they depend on.
    replica DepsSkipped = DEPS_SKIPPED;
    /// Of changes with the same author and number the one that came first counts.
    replica FirstOfEquals = FIRST_OF_EQUALS;
    /// A change goes on counting when another one takes its place.
    replica LoserStays = LOSER_STAYS;
    /// A change is judged by what is known when it arrives, and never again.
    replica JudgedOnArrival = JUDGED_ON_ARRIVAL;
    /// Batches of a reconciliation count as taken and are not stored.
    replica BatchLost = BATCH_LOST;
    /// A reconciliation finds what the peer lacks, and does not send it.
    replica LacksForgotten = LACKS_FORGOTTEN;
    /// Changes are acknowledged before they are durable.
    edge ChangeAcknowledgedFirst = CHANGE_ACKNOWLEDGED_FIRST;
}
