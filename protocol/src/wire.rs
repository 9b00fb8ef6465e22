//! Messages of the two QUIC protocols of the gateway.

pub mod client;
pub mod worker;
