//! QUIC for clients and for workers. The only home of quinn, together with `shoal-transport`.
//!
//! One endpoint, two protocols: `shoal-client/1` ([`clients`]) and `shoal-worker/1` ([`workers`]). The gateway finds out
//! who is there, decodes, bounds, and hands on to the service and the runtime; it decides nothing about jobs. The node
//! binds it, serves it, and stops it by a token; [`Gateway::serve`] returns when every connection has ended.
//!
//! What always holds: connections, requests, streams and bytes are bounded, for each peer and for all; a peer that does
//! not move loses its place; a peer that breaks the protocol is told what was wrong, and then its connection is closed
//! with a code of [`close`] and a sentence.

mod backend;
mod clients;
mod frames;
mod local;
mod transfer;
mod workers;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Endpoint, Incoming};
use shoal_protocol::wire::{client, worker};
use shoal_transport::NodeAddr;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use crate::identity::Identity;
use crate::logs::LogBook;
use crate::runtime::Runtime;
use crate::service::Service;
use backend::{Backend, Live};
pub(crate) use local::LocalWorker;

/// Connections of clients. Why 512: at their largest windows they hold as much as a small machine has; a browser's worth
/// of tools and some hundred devices are far below it.
const CLIENTS_MAX: usize = 512;
/// Connections of workers. Why 256: a node serves the machines near it.
const WORKERS_MAX: usize = 256;
/// Handshakes under way. From half of it on a peer must first show that it receives at its address.
const HANDSHAKES_MAX: usize = 256;
/// How long a handshake, an opening or a first frame may take. Why 10 s: a poor radio link, with lost packets.
const HELLO_MAX: Duration = Duration::from_secs(10);
/// How long last words may take to reach a peer.
const FLUSH_MAX: Duration = Duration::from_secs(2);
/// How long connections may take to end once the gateway stops: longer than a client's requests may take then.
const STOP_MAX: Duration = Duration::from_secs(8);

/// The codes with which connections and streams are closed.
mod close {
    /// All was said.
    pub(super) const DONE: u32 = 0;
    /// A transfer cannot go on; the node has logged why.
    pub(super) const BROKEN: u32 = 1;
    /// The peer broke the protocol.
    pub(super) const PROTOCOL: u32 = 2;
    /// The peer is not who it says, or may not come in.
    pub(super) const UNAUTHENTICATED: u32 = 3;
    /// The peer said nothing in time.
    pub(super) const SILENT: u32 = 4;
    /// The peer does not take what it is sent.
    pub(super) const STALLED: u32 = 5;
    /// Too many are connected.
    pub(super) const FULL: u32 = 6;
    /// The node stops.
    pub(super) const STOPPING: u32 = 7;
    /// A newer connection of the same worker is there, or the node has restored its state: attach again.
    pub(super) const REPLACED: u32 = 8;
    /// The worker was sent away.
    pub(super) const REFUSED: u32 = 9;
}

/// How a connection ends: the code and the sentence that its peer sees; none if the peer is gone.
#[derive(Debug, Clone)]
struct Ending(Option<(u32, String)>);

impl Ending {
    /// A sentence on the wire, in bytes. Why 256: it travels in one packet.
    const SENTENCE_LEN_MAX: usize = 256;

    fn new(code: u32, sentence: &str) -> Self {
        let end = sentence.floor_char_boundary(Self::SENTENCE_LEN_MAX);
        Self(Some((code, sentence.get(..end).unwrap_or_default().to_string())))
    }

    fn gone() -> Self {
        Self(None)
    }

    fn sentence(&self) -> &str {
        self.0.as_ref().map_or("the connection was lost", |(_, sentence)| sentence)
    }

    /// Whether the peer is to blame.
    fn is_fault(&self) -> bool {
        matches!(self.0, Some((close::PROTOCOL | close::UNAUTHENTICATED, _)))
    }

    fn close(&self, connection: &Connection) {
        let (code, sentence) = self.0.as_ref().map_or((close::DONE, ""), |(code, sentence)| (*code, sentence));
        connection.close(code.into(), sentence.as_bytes());
    }
}

/// A bound endpoint that nobody is served on yet.
pub(crate) struct Gateway {
    endpoint: Endpoint,
    address: SocketAddr,
    identity: Arc<Identity>,
    local: LocalWorker,
}

impl Gateway {
    /// Binds the first of these addresses that is free; the last error if none is. Port 0: the system chooses. To be
    /// called within a tokio runtime.
    pub(crate) fn bind(addresses: &[SocketAddr], identity: Arc<Identity>) -> Result<Self, shoal_transport::Error> {
        let mut failure = None;
        for &address in addresses {
            let config = shoal_transport::server_config(&identity.node, &[client::ALPN, worker::ALPN])?;
            match shoal_transport::server_endpoint(address, config, &identity.node) {
                Ok(endpoint) => {
                    let bound = endpoint.local_addr();
                    let bound = bound.map_err(|source| shoal_transport::Error::Bind { address, source })?;
                    return Ok(Self { endpoint, address: bound, identity, local: LocalWorker::default() });
                }
                Err(error) => failure = Some(error),
            }
        }
        Err(failure.unwrap_or_else(|| shoal_transport::Error::Bind {
            address: ([0, 0, 0, 0], 0).into(),
            source: std::io::Error::new(std::io::ErrorKind::InvalidInput, "no address was given"),
        }))
    }

    /// Where it listens.
    #[cfg(test)]
    fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The address for peers: as bound, but loopback where it is bound to every interface.
    pub(crate) fn node_addr(&self) -> NodeAddr {
        let ip = match self.address.ip() {
            ip if !ip.is_unspecified() => ip,
            std::net::IpAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::IpAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        };
        NodeAddr::new(self.identity.node_id(), SocketAddr::new(ip, self.address.port()))
    }

    /// Where the supervisor meets the session of the node's own worker.
    pub(crate) fn local_worker(&self) -> LocalWorker {
        self.local.clone()
    }

    /// Serves until `stop`, then refuses newcomers, lets clients' requests end, closes every connection, and returns.
    pub(crate) async fn serve(self, service: Service, runtime: Runtime, logs: Arc<LogBook>, stop: CancellationToken) {
        self.serve_with(Live { service, runtime, logs }, stop).await;
    }

    async fn serve_with<B: Backend>(self, backend: B, stop: CancellationToken) {
        let door = Door {
            backend,
            identity: self.identity,
            local: self.local,
            client_places: clients::Places::new(),
            worker_places: workers::places(),
            clients: Arc::new(Semaphore::new(CLIENTS_MAX)),
            workers: Arc::new(Semaphore::new(WORKERS_MAX)),
            handshakes: Arc::new(Semaphore::new(HANDSHAKES_MAX)),
            stop: stop.clone(),
        };
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Some(ended) = connections.join_next() => log_panic(ended),
                incoming = self.endpoint.accept() => match incoming {
                    Some(incoming) => door.knock(incoming, &mut connections),
                    None => break,
                },
            }
        }
        self.endpoint.set_server_config(None);
        let ended = async {
            while let Some(ended) = connections.join_next().await {
                log_panic(ended);
            }
        };
        if timeout(STOP_MAX, ended).await.is_err() {
            tracing::warn!(open = connections.len(), "connections did not end in time and are cut");
            connections.shutdown().await;
        }
        self.endpoint.close(close::STOPPING.into(), b"the node stops");
        // The closing packets still go out; a peer that does not confirm them is not waited for.
        let _ = timeout(FLUSH_MAX, self.endpoint.wait_idle()).await;
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "serving a connection failed");
    }
}

/// What every new connection needs.
#[derive(Clone)]
struct Door<B> {
    backend: B,
    identity: Arc<Identity>,
    local: LocalWorker,
    client_places: clients::Places,
    worker_places: workers::Places,
    clients: Arc<Semaphore>,
    workers: Arc<Semaphore>,
    handshakes: Arc<Semaphore>,
    stop: CancellationToken,
}

impl<B: Backend> Door<B> {
    /// Lets a newcomer begin its handshake, if there is a place.
    fn knock(&self, incoming: Incoming, connections: &mut JoinSet<()>) {
        if self.handshakes.available_permits() < HANDSHAKES_MAX / 2 && incoming.may_retry() {
            // Fails only if it was validated already, which was just looked at.
            let _ = incoming.retry();
            return;
        }
        let Ok(place) = Arc::clone(&self.handshakes).try_acquire_owned() else { return incoming.refuse() };
        let peer = incoming.remote_address();
        let span = tracing::debug_span!("connection", %peer);
        let door = self.clone();
        let task = async move {
            let connecting = match incoming.accept() {
                Ok(connecting) => connecting,
                Err(error) => return tracing::debug!(%error, "a handshake failed"),
            };
            let connection = match timeout(HELLO_MAX, connecting).await {
                Ok(Ok(connection)) => connection,
                Ok(Err(error)) => return tracing::debug!(%error, "a handshake failed"),
                Err(_) => return tracing::debug!("a handshake took too long"),
            };
            drop(place);
            let ending = door.enter(&connection).await;
            tracing::debug!(why = ending.sentence(), "a connection ends");
            ending.close(&connection);
        };
        connections.spawn(task.instrument(span));
    }

    async fn enter(self, connection: &Connection) -> Ending {
        let data = connection.handshake_data().and_then(|data| data.downcast::<HandshakeData>().ok());
        let is_worker = data.and_then(|data| data.protocol).is_some_and(|protocol| protocol == worker::ALPN);
        let (peer, places) = if is_worker { ("worker", &self.workers) } else { ("client", &self.clients) };
        let Ok(_place) = Arc::clone(places).try_acquire_owned() else {
            return Ending::new(close::FULL, "too many are connected to this node; try again later, or another node");
        };
        let backend = self.backend.clone();
        backend.count_connection(peer, true);
        let ending = if is_worker {
            let Self { backend, identity, local, worker_places, stop, .. } = self;
            workers::serve(connection, backend, identity, local, worker_places, stop).await
        } else {
            clients::serve(connection, self.backend, self.client_places, self.stop).await
        };
        backend.count_connection(peer, false);
        if ending.is_fault() {
            backend.count_fault(peer);
        }
        ending
    }
}

#[cfg(test)]
mod tests;
