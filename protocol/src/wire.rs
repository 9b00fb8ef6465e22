//! Messages between processes: the two QUIC protocols of the gateway, and what nodes say to each other.

pub mod client;
pub mod custody;
pub mod drain;
pub mod forward;
pub mod gossip;
pub mod names;
pub mod peer;
pub mod sync;
pub mod worker;
