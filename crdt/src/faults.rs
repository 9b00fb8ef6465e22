//! Bugs that replication could have, each under a name, so that the simulator can show that it would find them.
//!
//! As in the kernel they are constants of a trait: chosen at compile time, nothing at run time, and no feature of Cargo
//! can switch one on. [`crate::Replica`] and [`crate::reconcile::Session`] have those of [`Sound`], which are none, unless
//! they are made with others by name.

/// Which bugs a replica and its sessions have. All off unless said otherwise.
pub trait Faults {
    /// A change is let into its history although what it depends on is not there.
    const DEPS_SKIPPED: bool = false;
    /// Of changes with the same author and number the one that came first counts.
    const FIRST_OF_EQUALS: bool = false;
    /// A change that counted goes on counting when another one takes its place.
    const LOSER_STAYS: bool = false;
    /// A change is judged by the keys that are known when it comes, and not again when its user lists more.
    const JUDGED_ON_ARRIVAL: bool = false;
    /// A batch that a peer has sent counts as taken, and is not stored.
    const BATCH_LOST: bool = false;
    /// What the peer lacks is compared and not sent.
    const LACKS_FORGOTTEN: bool = false;
}

/// No bugs that we know of.
#[derive(Debug, Clone, Copy, Default)]
pub struct Sound;

impl Faults for Sound {}
