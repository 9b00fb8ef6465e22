//! Kernels with one bug each. The simulator must find every one of them; a rule that finds none of them proves nothing.

use shoal_kernel::faults::Faults;

macro_rules! mutations {
    ($( $(#[$doc:meta])* $name:ident = $fault:ident; )*) => {
        $(
            $(#[$doc])*
            #[derive(Debug)]
            pub struct $name;

            impl Faults for $name {
                const $fault: bool = true;
            }
        )*
    };
}

mutations! {
    /// Runs start before their epoch is journaled.
    EpochUnwritten = EPOCH_UNWRITTEN;
    /// A result counts whatever its epoch.
    LateResultCounts = LATE_RESULT_COUNTS;
    /// Jobs are acknowledged before they are journaled.
    AcknowledgedFirst = ACKNOWLEDGED_FIRST;
    /// Lost runs are not offered again.
    LostRunStays = LOST_RUN_STAYS;
    /// A restart forgets the jobs that were at workers.
    OfferedForgotten = OFFERED_FORGOTTEN;
    /// A settled job can settle again.
    SettledStays = SETTLED_STAYS;
    /// Cancellations are answered without being journaled.
    CancelUnwritten = CANCEL_UNWRITTEN;
    /// Runs of other homes are taken without being journaled.
    GuestUnwritten = GUEST_UNWRITTEN;
    /// A run of another home gives way to any other epoch.
    GuestEpochUnchecked = GUEST_EPOCH_UNCHECKED;
    /// The ending of a run of another home is forgotten before it is settled.
    GuestForgotten = GUEST_FORGOTTEN;
}
