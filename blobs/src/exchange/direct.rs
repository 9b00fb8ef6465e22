//! The direct path between two nodes: iroh over UDP, with the node's own key, without relays and without discovery.
//!
//! Addresses come from whoever knows them, usually the peer itself over the mesh. Where there is no direct path this
//! cannot help (without a relay iroh has none across two NATs): the same protocol then goes over a stream of the mesh.
//!
//! What always holds: the other end of each stream has proven its key; a node that is not admitted gets no stream; there
//! are at most [`CONNECTIONS_MAX`] connections from others and [`STREAMS_MAX`] streams on each of them; a connection
//! without a stream ends after [`IDLE`], so that two nodes that have nothing to tell each other send nothing.

mod links;

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use iroh::endpoint::{Incoming, QuicTransportConfig, VarInt};
use iroh::{Endpoint, NetReportConfig, SecretKey};
use shoal_protocol::{BlobId, NodeId};
use tokio::io::join;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::Instrument;

pub use self::links::DirectStream;
use self::links::Links;
use super::{ServeError, ServeOptions, Served};
use crate::Store;

/// Connections from others at a time; further ones are refused. Why 64: as many as a node has neighbours.
pub const CONNECTIONS_MAX: usize = 64;
/// Streams of one connection at a time; a peer that wants more waits. Why 16: each takes about 1 MiB here.
pub const STREAMS_MAX: u32 = 16;
/// How long a connection without a stream stays.
pub const IDLE: Duration = Duration::from_secs(10);
/// How long a peer may take to prove its key.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// What may be on its way on one stream, and on one connection, in bytes: all that a peer can make us keep. Why 2 MiB:
/// 160 Mbit/s at 100 ms. (Tried: 4 MiB. noq ends a connection with more than 1,024 gaps in a stream, and after a burst of
/// losses in so large a window there are more.)
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;

/// Codes that a connection is closed with.
const DONE: VarInt = VarInt::from_u32(0);
const REFUSED: VarInt = VarInt::from_u32(1);
/// What a stream is reset with that finds no place: another attempt may find one.
const NO_PLACE: VarInt = VarInt::from_u32(2);

/// Why the direct path could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum DirectError {
    /// The address is in use, or is none of this machine.
    #[error("the direct path could not be opened at {addresses:?}: {cause}")]
    Bind {
        /// Where it was to be.
        addresses: Vec<SocketAddr>,
        /// What iroh said.
        cause: String,
    },
}

/// Who may fetch what from this node by the direct path. Asked by [`Direct::serve`].
pub trait Gate: Send + Sync + 'static {
    /// A place for one stream, held until it has been served.
    type Place: Send;

    /// Whether this node may have streams at all. It has proven its key.
    fn admits(&self, node: NodeId) -> bool;

    /// A place for one more stream of it; none: all that it may have are taken, and the stream is closed.
    fn place(&self, node: NodeId) -> Option<Self::Place>;

    /// Whether it may read this blob.
    fn allows(&self, node: NodeId, blob: BlobId) -> impl Future<Output = bool> + Send;

    /// How a request of it was served. After [`ServeError::Misbehaved`] the connection is closed.
    fn served(&self, node: NodeId, result: &Result<Served, ServeError>);
}

/// This node's end of all direct paths.
pub struct Direct {
    endpoint: Endpoint,
    links: Arc<Links>,
}

impl Direct {
    /// Opens UDP sockets at `addresses`, at most one of each address family; port 0 takes a free one. `secret` is the
    /// node's ed25519 secret, `protocol` names what is spoken, such as `/shoal/<mesh>/blob/1`: both ends have to agree.
    pub async fn bind(secret: &[u8; 32], addresses: &[SocketAddr], protocol: &str) -> Result<Self, DirectError> {
        let failed = |cause: String| DirectError::Bind { addresses: addresses.to_vec(), cause };
        let transport = QuicTransportConfig::builder()
            .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
            .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
            .datagram_receive_buffer_size(None)
            .build();
        let mut builder = iroh::endpoint::Builder::empty()
            .crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .secret_key(SecretKey::from_bytes(secret))
            .alpns(vec![protocol.as_bytes().to_vec()])
            .transport_config(transport)
            .net_report_config(NetReportConfig::minimal())
            .clear_ip_transports();
        for &address in addresses {
            builder = builder.bind_addr(address).map_err(|e| failed(e.to_string()))?;
        }
        let endpoint = builder.bind().await.map_err(|e| failed(format!("{e:#}")))?;
        let links = Links::new(endpoint.clone(), protocol.as_bytes().to_vec());
        Ok(Self { endpoint, links })
    }

    /// Whom others reach here.
    pub fn node(&self) -> NodeId {
        NodeId(*self.endpoint.id().as_bytes())
    }

    /// Where others reach it, as far as this machine knows: to be published. For a socket on all interfaces these are
    /// their addresses, and they change with them.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let bound = self.endpoint.bound_sockets().into_iter().filter(|address| !address.ip().is_unspecified());
        let known = self.endpoint.addr();
        bound.chain(known.ip_addrs().copied()).collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Whether there is a connection to `node` that this end has made.
    pub fn is_connected(&self, node: NodeId) -> bool {
        self.links.is_open(node)
    }

    /// Connects to `node`, which listens at one of `addresses`, and proves its key. How long that may take is the caller's
    /// to say: the future may be dropped at any point. Where there is a connection already this does nothing.
    pub async fn connect(&self, node: NodeId, addresses: &[SocketAddr]) -> io::Result<()> {
        if self.is_connected(node) { Ok(()) } else { self.links.connect(node, addresses).await }
    }

    /// Opens a stream to `node`, at whose other end [`Direct::serve`] answers one request. Streams to the same node share
    /// its connection; fails with `NotConnected` where there is none, see [`Direct::connect`].
    pub async fn open(&self, node: NodeId) -> io::Result<DirectStream> {
        self.links.open(node).await
    }

    /// Serves the blobs of `store` to those whom `gate` lets in, until [`Direct::close`] or until it is dropped.
    pub async fn serve<G: Gate>(&self, store: Store, gate: Arc<G>, options: ServeOptions) {
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut connections = JoinSet::new();
        while let Some(incoming) = self.endpoint.accept().await {
            while connections.try_join_next().is_some() {}
            // Half of them are kept for those who have shown that they are where they say.
            if slots.available_permits() <= CONNECTIONS_MAX / 2 && !incoming.remote_addr_validated() {
                // An error means that it has come with a token already, which was just denied.
                let _ = incoming.retry();
                continue;
            }
            let Ok(slot) = slots.clone().try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let (store, gate, options) = (store.clone(), gate.clone(), options.clone());
            let serving = async move {
                serve_connection(incoming, store, gate, options).await;
                drop(slot);
            };
            connections.spawn(serving.in_current_span());
        }
    }

    /// Closes all connections, after telling the peers.
    pub async fn close(&self) {
        self.endpoint.close().await;
    }
}

impl fmt::Debug for Direct {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Direct({} at {:?})", self.node().short(), self.addresses())
    }
}

async fn serve_connection<G: Gate>(incoming: Incoming, store: Store, gate: Arc<G>, options: ServeOptions) {
    let Ok(accepting) = incoming.accept() else { return };
    let connection = match timeout(HANDSHAKE, accepting).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(cause)) => return tracing::debug!(%cause, "a direct path was not set up"),
        Err(_) => return tracing::debug!("a direct path was not set up in time"),
    };
    let node = NodeId(*connection.remote_id().as_bytes());
    if !gate.admits(node) {
        return connection.close(REFUSED, b"not admitted");
    }
    let mut streams = JoinSet::new();
    loop {
        let stream = tokio::select! {
            served = streams.join_next(), if !streams.is_empty() => match served {
                Some(Ok(true)) => return connection.close(REFUSED, b"not a request"),
                _ => continue,
            },
            stream = connection.accept_bi() => stream,
            () = tokio::time::sleep(IDLE), if streams.is_empty() => return connection.close(DONE, b"idle"),
        };
        let Ok((mut writer, reader)) = stream else { return };
        let Some(place) = gate.place(node) else {
            // An error means that the connection is closed, which the next turn finds.
            let _ = writer.reset(NO_PLACE);
            continue;
        };
        let (store, gate, options) = (store.clone(), gate.clone(), options.clone());
        let serving = async move {
            let result = store.serve(join(reader, writer), |blob| gate.allows(node, blob), &options).await;
            gate.served(node, &result);
            drop(place);
            matches!(result, Err(ServeError::Misbehaved(_)))
        };
        streams.spawn(serving.in_current_span());
    }
}
