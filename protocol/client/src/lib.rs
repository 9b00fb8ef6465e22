//! The QUIC client library of Shoal: everything that the HTTP API offers, over one pinned connection to a node.
//!
//! A [`Client`] is cheap to clone and may be shared between tasks. Requests are pipelined on one stream, transfers of
//! bytes have a stream each. It needs a tokio runtime and pulls in neither wasmtime nor libp2p. Another project depends
//! on it by path or git:
//!
//! ```toml
//! [dependencies]
//! shoal-client = { path = "../shoal/protocol/client" }
//! tokio = { version = "1", features = ["rt-multi-thread", "macros"] }
//! ```
//!
//! ```no_run
//! use shoal_client::{Client, NodeAddr};
//! use shoal_client::protocol::object::job::{Input, Submit};
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! // `shoal status` shows the address; the token is the file `token` in the node's data folder.
//! let address: NodeAddr = std::env::var("SHOAL_NODE")?.parse()?;
//! let client = Client::connect(&address, std::env::var("SHOAL_TOKEN").ok()).await?;
//!
//! // Once this returns the job is durable: the client may go away.
//! let job = client
//!     .submit(&Submit {
//!         function: "digest".into(),
//!         input: Input::Text("hello".into()),
//!         ..Submit::default()
//!     })
//!     .await?;
//!
//! // Here or in another process, now or tomorrow.
//! let job = client.wait(job, None, false).await?;
//! let result = client.result_bytes(job.id, 64 * 1024).await?;
//! println!("{}: {} bytes", job.state.text(), result.len());
//! # Ok(())
//! # }
//! ```
//!
//! # What happens when the connection is lost
//!
//! The client connects again by itself, with growing pauses, for as long as [`Options::reconnect_for`] says. Requests
//! that change nothing (reads, waits) are then repeated; of the others only those that were certainly never sent. What
//! may or may not have been done ends in [`Error::Disconnected`], and the caller looks before they repeat it. Downloads,
//! logs and subscriptions go on where they were cut.
//!
//! # Bounds
//!
//! A client has at most [`CLIENT_REQUESTS_IN_FLIGHT_MAX`](protocol::limits::CLIENT_REQUESTS_IN_FLIGHT_MAX) unanswered
//! requests; further callers wait. Waits count: who waits for thousands of jobs at once uses several clients, or asks
//! for the list.

mod blob;
mod client;
pub mod document;
mod error;
mod events;
mod job;
mod kv;
mod link;
mod log;
mod node;
mod transfer;

pub use blob::Upload;
pub use client::{Client, Options};
pub use error::Error;
pub use events::Events;
pub use log::Log;
pub use shoal_protocol as protocol;
pub use shoal_transport::NodeAddr;
pub use transfer::Download;
