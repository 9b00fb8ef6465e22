//! Two nodes that reconcile their sets: two sessions and a queue.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod differences;
mod fingerprints;
mod hostile;
mod live;
mod nodes;
mod replicas;
#[path = "../replica/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the replica, which use all of it")]
mod world;
