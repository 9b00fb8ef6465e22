//! Whole meshes in one process, over real sockets on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

mod harness;
mod knowing;
mod meeting;
mod relaying;
mod streaming;
mod talking;
