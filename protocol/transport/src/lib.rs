//! QUIC as Shoal's clients, workers and gateways speak it.
//!
//! One key is one identity: the certificate of either side is self-signed with its ed25519 key, and a peer is who
//! holds the key, never who a name or an authority says. This package makes the configurations of both sides
//! ([`tls`], [`endpoint`]), reads and writes the protocol's frames on streams ([`frame`]), and reads addresses of
//! the form `quic://NODEID@host:port` ([`address`]). It decides nothing and keeps no state.
//!
//! What always holds: TLS 1.3 only, with aws-lc-rs, passed explicitly, so that no process-wide provider is needed; no
//! session resumption and no 0-RTT, so that each connection proves its keys anew and nothing can be replayed.

pub mod address;
pub mod endpoint;
pub mod frame;
pub mod tls;

pub use address::NodeAddr;
pub use endpoint::{client_config, client_endpoint, server_config, server_endpoint};
pub use frame::{FrameError, FrameReader, read_frame, write_frame};
pub use tls::peer_key;

/// Why a configuration or an endpoint could not be made.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The certificate could not be made from the key.
    #[error("the certificate of the key could not be made: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The TLS configuration is refused by its library.
    #[error("TLS refused its configuration: {0}")]
    Tls(#[from] rustls::Error),
    /// The address could not be bound.
    #[error("{address} could not be bound: {source}")]
    Bind {
        /// What was to be bound.
        address: std::net::SocketAddr,
        /// Why not.
        source: std::io::Error,
    },
}
