//! Bugs that replication could have, each under a name, so that the simulator can show that it would find them.
//!
//! As in the kernel a type says which there are: [`crate::Replica`] and [`crate::reconcile::Session`] have those of
//! [`Sound`], which are none, unless they are made with another type by name.

/// A bug that a replica or its sessions can have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A change is let into its history although what it depends on is not there.
    DepsSkipped,
    /// Of changes with the same author and number the one that came first counts.
    FirstOfEquals,
    /// A change that counted goes on counting when another one takes its place.
    LoserStays,
    /// A change is judged by the keys that are known when it comes, and not again when its user lists more.
    JudgedOnArrival,
    /// A batch that a peer has sent counts as taken, and is not stored.
    BatchLost,
    /// What the peer lacks is compared and not sent.
    LacksForgotten,
}

/// Which bugs a replica and its sessions have.
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
