//! The rules of the kernel, one test each: a kernel, inputs, and what comes out. No runtime, no clock, no sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod harness;
mod placing;
mod restarting;
mod running;
mod submitting;
mod workers;
