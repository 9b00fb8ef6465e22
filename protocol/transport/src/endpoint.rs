//! Endpoints and their configuration, the same for clients and workers, on loopback and on a LAN.
//!
//! A server's endpoint derives the key of its stateless resets from its node key: a node that was killed and started
//! again tells its peers with the first packet that their connections are gone, and they come back at once instead of
//! after the idle timeout.

use std::collections::hash_map::RandomState;
use std::hash::{BuildHasher as _, Hasher as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::CubicConfig;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt,
};
use shoal_protocol::NodeId;
use shoal_protocol::key::SecretKey;

use crate::{Error, tls};

/// How long a connection lives without a packet from the other side, in milliseconds. Why 15 s: longer than a stall of a
/// busy machine, shorter than a lease.
pub const IDLE_MS: u32 = 15_000;
/// How often a client or worker shows that it lives, in milliseconds: several lost packets do not end a connection.
pub const KEEP_ALIVE_MS: u64 = 2_000;
/// Streams that one peer may have open at once. Why 1,024: one blob transfer each; a worker has a few for each run.
pub const STREAMS_MAX: u32 = 1_024;
/// Unread bytes of one stream. Why 2 MiB: 1 Gbit/s at 16 ms.
const STREAM_WINDOW: u32 = 2 * 1024 * 1024;
/// Unread bytes of all streams of a connection: what one peer can make us hold.
const CONNECTION_WINDOW: u32 = 8 * 1024 * 1024;
/// Unacknowledged bytes of all streams of a connection: what we hold for one peer.
const SEND_WINDOW: u64 = 8 * 1024 * 1024;
/// Bytes sent before the first acknowledgement. Why 128 KiB: a LAN takes it, and a short result needs no second round.
const INITIAL_WINDOW: u64 = 128 * 1024;
/// The largest packet, where the path takes it: a jumbo frame less its headers. Found out by probing, loopback takes it.
const UDP_PAYLOAD_MAX: u16 = 8_952;
/// Bytes of a connection id: as many as a hasher gives.
const CONNECTION_ID_LEN: usize = size_of::<u64>();

/// The configuration of a node's server side: it shows `key` and speaks these protocols. A client may show a key of its
/// own, see [`crate::peer_key`].
pub fn server_config(key: &SecretKey, alpns: &[&[u8]]) -> Result<quinn::ServerConfig, Error> {
    let crypto = QuicServerConfig::try_from(tls::server(key, alpns)?)
        .map_err(|_| rustls::Error::General("no cipher suite for QUIC".into()))?;
    let mut config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

/// The configuration of a connection to the node `pin`, and to nobody else. `own` is shown to it.
pub fn client_config(pin: NodeId, own: Option<&SecretKey>, alpn: &[u8]) -> Result<quinn::ClientConfig, Error> {
    let crypto = QuicClientConfig::try_from(tls::client(pin, own, alpn)?)
        .map_err(|_| rustls::Error::General("no cipher suite for QUIC".into()))?;
    let mut config = quinn::ClientConfig::new(Arc::new(crypto));
    let mut transport = transport();
    // One side's packets keep both alive, since they are acknowledged.
    transport.keep_alive_interval(Some(Duration::from_millis(KEEP_ALIVE_MS)));
    config.transport_config(Arc::new(transport));
    Ok(config)
}

/// Binds a node's endpoint. Port 0: the system chooses, `local_addr` tells. To be called within a tokio runtime.
pub fn server_endpoint(
    address: SocketAddr,
    config: quinn::ServerConfig,
    key: &SecretKey,
) -> Result<quinn::Endpoint, Error> {
    let reset = blake3::derive_key("shoal quic stateless reset key v1", &key.to_bytes());
    let mut settings = EndpointConfig::new(Arc::new(ResetKey(reset)));
    settings.cid_generator(|| Box::new(RandomIds));
    endpoint(address, Some(config), settings)
}

/// Binds an endpoint for outgoing connections, of the family of `towards`. To be called within a tokio runtime.
pub fn client_endpoint(towards: SocketAddr) -> Result<quinn::Endpoint, Error> {
    let address = if towards.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0u16; 8], 0).into() };
    endpoint(address, None, EndpointConfig::default())
}

/// The name to give to `Endpoint::connect`: nobody reads it, since keys are pinned.
pub const SERVER_NAME: &str = tls::SERVER_NAME;

fn endpoint(
    address: SocketAddr,
    server: Option<quinn::ServerConfig>,
    mut settings: EndpointConfig,
) -> Result<quinn::Endpoint, Error> {
    let failed = |source| Error::Bind { address, source };
    // In bounds by its constant, and the default would serve as well.
    let _ = settings.max_udp_payload_size(UDP_PAYLOAD_MAX);
    let socket = std::net::UdpSocket::bind(address).map_err(failed)?;
    quinn::Endpoint::new(settings, server, socket, Arc::new(quinn::TokioRuntime)).map_err(failed)
}

fn transport() -> TransportConfig {
    let mut mtu = MtuDiscoveryConfig::default();
    mtu.upper_bound(UDP_PAYLOAD_MAX);
    let mut congestion = CubicConfig::default();
    congestion.initial_window(INITIAL_WINDOW);
    let mut transport = TransportConfig::default();
    transport
        .max_concurrent_bidi_streams(VarInt::from_u32(STREAMS_MAX))
        .max_concurrent_uni_streams(VarInt::from_u32(0))
        .datagram_receive_buffer_size(None)
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_MS))))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW))
        .send_window(SEND_WINDOW)
        .mtu_discovery_config(Some(mtu))
        .congestion_controller_factory(Arc::new(congestion));
    transport
}

/// Connection ids of random bytes. Why not the library's default: it recognises its ids by a key drawn at start, so a
/// restarted node would take the packets of old connections for noise and send no reset.
struct RandomIds;

impl ConnectionIdGenerator for RandomIds {
    fn generate_cid(&mut self) -> ConnectionId {
        // Each state is keyed anew from the system's random bytes, and unlike reading those itself cannot fail.
        ConnectionId::new(&RandomState::new().build_hasher().finish().to_be_bytes())
    }

    fn cid_len(&self) -> usize {
        CONNECTION_ID_LEN
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Keyed BLAKE3 as the pseudo-random function of stateless resets.
struct ResetKey([u8; 32]);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        for (out, byte) in signature_out.iter_mut().zip(blake3::keyed_hash(&self.0, data).as_bytes()) {
            *out = *byte;
        }
    }

    fn signature_len(&self) -> usize {
        blake3::OUT_LEN
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        let given = <[u8; blake3::OUT_LEN]>::try_from(signature).map_err(|_| CryptoError)?;
        // `Hash` compares in constant time.
        if blake3::keyed_hash(&self.0, data) == blake3::Hash::from_bytes(given) { Ok(()) } else { Err(CryptoError) }
    }
}
