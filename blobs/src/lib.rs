//! Content-addressed bytes: store, fetch, serve, keep and drop. The only home of iroh and iroh-blobs.
//!
//! [`Store`] is a folder of blobs, each named by the BLAKE3 hash of its bytes. The node's edges drive it: they put
//! content in as a stream, make it durable once per batch, read ranges of it, and collect what nobody keeps. Who refers
//! to a blob is the node's business, this package knows only what is kept:
//!
//! - **held**: somebody has a [`Held`] in their hand. Lives in memory, ends with the last clone.
//! - **kept**: a permanent tag, made by [`Store::put_durable`], ended by [`Store::forget`]. Lives on disk.
//! - everything else goes at the next [`Store::collect`], and at the next opening.
//!
//! Between nodes a blob goes by [`exchange`]: iroh-blobs' own protocol over any stream.
//!
//! What always holds: a blob that is held or kept is not collected; a kept blob's bytes were on disk before its tag, so it
//! survives a kill and a power cut; nothing overwrites a kept blob's files; no type of iroh-blobs crosses the border.

pub mod bare;
mod error;
pub mod exchange;
mod store;

pub use error::Error;
pub use store::{Checked, Collected, Held, Options, Reading, Store, Totals, check};
