//! A replica seen from outside: what it takes, what counts, and that order does not matter.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a test fails by panicking"
)]

mod golden;
mod hostile;
mod order;
mod refusals;
mod rights;
mod scenarios;
mod world;
