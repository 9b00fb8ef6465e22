//! The rules of the kernel, one test each: a kernel, inputs, and what comes out. No runtime, no clock, no sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod arrays;
mod charges;
mod checkpoints;
mod custody;
mod dependencies;
mod guests;
mod harness;
mod homes;
mod keys;
mod once;
mod pair;
mod peers;
mod placing;
mod restarting;
mod running;
mod seeking;
mod submitting;
mod sweeping;
mod takeover;
mod waiting;
mod workers;
