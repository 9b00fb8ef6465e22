//! The simulator: kernel and replicas of production, in virtual time, among faults that a seed chooses.
//!
//! One [`World`] holds a node (kernel, journal, edges), workers, clients, and the connections between them. A [`Mesh`]
//! holds many worlds and the links between their nodes. Everything happens in an order that the seed alone decides, in one
//! thread, without a clock: the same seed gives the same trace.
//!
//! | part | stands for |
//! |---|---|
//! | [`disk`] | the journal: what is written is durable only after an fsync that takes its time; a crash loses a part of the rest |
//! | [`node`] | the runtime: hands inputs in, holds effects back until what they depend on is durable, crashes, restarts |
//! | [`network`] | connections: in order, delayed, stalling, breaking with messages under way, delivering late ones after a new connection stands |
//! | [`worker`] | worker processes: slow, failing, stubborn, dying, coming back |
//! | [`client`] | people: submit, ask, cancel, give up waiting and submit again |
//! | [`peers`] | a node's edge towards other nodes |
//! | [`mesh`] | many nodes: links with latency, loss, duplicates, reordering and cuts; what replicates functions, and who is found |
//! | [`plan`], `fates` | which faults happen when, and what they do |
//! | [`replicas`] | the documents of a mesh: signed changes, gossip, reconciliation |
//! | `shares` | two projects that compete for one worker, with nothing else to disturb them |
//! | [`checks`] | what must always hold, looked at after every step |
//! | [`mutations`] | kernels, replicas and edges with a bug each, to show that the checks find it |

pub mod checks;
pub mod client;
pub mod coverage;
pub mod disk;
mod fates;
mod lookups;
pub mod mesh;
pub mod mutations;
pub mod network;
pub mod node;
pub mod peers;
pub mod plan;
pub mod random;
mod replicas;
mod shares;
pub mod worker;
pub mod world;

use shoal_kernel::faults::Faults;

use mesh::long;
use mutations::Bugs;

pub use coverage::Coverage;
pub use mesh::Mesh;
pub use mesh::long::Long;
pub use shares::{Had, run_shares};
pub use world::World;

/// A rule that did not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// When, in virtual milliseconds.
    pub at_ms: u64,
    /// Which rule.
    pub rule: &'static str,
    /// What happened.
    pub detail: String,
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "after {} ms: {}: {}", self.at_ms, self.rule, self.detail)
    }
}

/// What a seed has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Hash of all inputs and effects in their order.
    pub trace: String,
    /// Jobs that were acknowledged.
    pub acknowledged: u64,
    /// Virtual time, in milliseconds.
    pub elapsed_ms: u64,
    /// How many kinds of fault happened.
    pub fault_kinds: usize,
    /// How often what was exercised.
    pub coverage: Coverage,
}

/// Runs one seed to its end: ten virtual minutes with faults, then as long as it takes until everything has settled.
pub fn run<F: Faults>(seed: u64, print: bool) -> Result<Report, Violation> {
    World::<F>::new(seed, print).run()
}

/// Runs one seed of a mesh of so many nodes: as long as its size allows with faults, then until everything has settled.
pub fn run_mesh<F: Bugs>(nodes: usize, seed: u64, print: bool) -> Result<Report, Violation> {
    Mesh::<F>::new(nodes, seed, print).run()
}

/// Runs a mesh of so many nodes of a seed in which arrays change hands again and again, as [`run_mesh`] does.
pub fn run_arrays<F: Bugs>(nodes: usize, seed: u64, print: bool) -> Result<Report, Violation> {
    Mesh::<F>::of_arrays(nodes, seed, print).run()
}

/// Runs one job of eight hours in a mesh of three nodes of this seed, where whoever has to do with it restarts meanwhile.
pub fn run_long<F: Bugs>(seed: u64, print: bool) -> Result<Long, Violation> {
    Mesh::<F>::new(long::NODES, seed, print).run_long()
}
