//! The rules of the kernel, one test each: a kernel, inputs, and what comes out. No runtime, no clock, no sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod array_takeover;
mod arrays;
mod calling;
mod charges;
mod checkpoints;
mod custody;
mod dependencies;
mod disconnect;
mod drain;
mod guests;
mod harness;
mod homes;
mod keys;
mod left;
mod memo;
mod once;
mod pair;
mod peers;
mod placing;
mod restarting;
mod running;
mod seeking;
mod sharing;
mod submitting;
mod sweeping;
mod takeover;
mod waiting;
mod workers;
