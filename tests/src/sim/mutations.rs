//! Kernels, replicas and edges with one bug each. The simulator must find every one of them; a rule that finds none of
//! them proves nothing.

use std::cell::Cell;

use shoal_crdt::faults::{Fault as ReplicaFault, Faults as ReplicaFaults};
use shoal_kernel::faults::{Fault as KernelFault, Faults as KernelFaults};

/// All bugs that a node of a mesh can have: the kernel's, its replica's, and those of the edge around the replica.
pub trait Bugs: KernelFaults + ReplicaFaults {
    /// Whether a client hears that its change was taken before it is durable.
    fn acknowledges_changes_first() -> bool;
}

/// No bugs that we know of.
#[derive(Debug)]
pub struct Sound;

impl KernelFaults for Sound {
    fn has(_: KernelFault) -> bool {
        false
    }
}

impl ReplicaFaults for Sound {
    fn has(_: ReplicaFault) -> bool {
        false
    }
}

impl Bugs for Sound {
    fn acknowledges_changes_first() -> bool {
        false
    }
}

/// A bug that the simulator must find.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// One of every kernel.
    Kernel(KernelFault),
    /// One of every replica.
    Replica(ReplicaFault),
    /// One of the edge: changes are acknowledged before they are durable.
    ChangeAcknowledgedFirst,
}

impl From<KernelFault> for Mutation {
    fn from(fault: KernelFault) -> Self {
        Self::Kernel(fault)
    }
}

impl From<ReplicaFault> for Mutation {
    fn from(fault: ReplicaFault) -> Self {
        Self::Replica(fault)
    }
}

thread_local! {
    /// The bug of what runs in this thread: a world never leaves its thread.
    static MUTATION: Cell<Option<Mutation>> = const { Cell::new(None) };
}

/// Everything with the bug that [`with`] names. One type for all of them: a type for each would compile the whole kernel
/// and its world once more.
#[derive(Debug)]
pub struct Mutated;

impl KernelFaults for Mutated {
    fn has(fault: KernelFault) -> bool {
        MUTATION.get() == Some(Mutation::Kernel(fault))
    }
}

impl ReplicaFaults for Mutated {
    fn has(fault: ReplicaFault) -> bool {
        MUTATION.get() == Some(Mutation::Replica(fault))
    }
}

impl Bugs for Mutated {
    fn acknowledges_changes_first() -> bool {
        MUTATION.get() == Some(Mutation::ChangeAcknowledgedFirst)
    }
}

/// Runs a world of [`Mutated`] parts with this bug.
pub fn with<T>(mutation: Mutation, run: impl FnOnce() -> T) -> T {
    MUTATION.set(Some(mutation));
    let result = run();
    MUTATION.set(None);
    result
}
