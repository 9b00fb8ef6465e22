//! What a node does on the libp2p network, put together, and the settings of each part.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    PeerId, StreamProtocol, Swarm, SwarmBuilder, autonat, connection_limits, dcutr, identify, kad, mdns, noise, ping,
    relay, tcp, yamux,
};
use shoal_protocol::key::PublicKey;
use shoal_protocol::wire::names::protocol_name;
use tokio::sync::mpsc;

use crate::Options;
use crate::counters::Tally;
use crate::gate::Gate;
use crate::gossip::Gossip;
use crate::lanes::{self, Lane};
use crate::program::Program;
use crate::shelf::Shelf;

/// Streams that peers opened and nobody has taken yet.
const INBOUND_STREAMS_MAX: usize = 256;
/// Connections in all. Why 512: a view of 64 with a few connections each, and what look-ups need.
const CONNECTIONS_MAX: u32 = 512;
/// Connections that are being made.
const PENDING_MAX: u32 = 64;
/// Why 4: two dials that cross, a relayed connection, and the dial-back by which a peer tests our address.
const CONNECTIONS_PER_PEER_MAX: u32 = 4;
/// Bytes that wait unread on one stream, and on one connection: a view of 64 holds 256 MiB at the very worst.
const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;
const STREAMS_PER_CONNECTION_MAX: u32 = 256;
/// Streams of one connection whose protocol is not agreed yet. Why 256: so many may arrive with one packet train.
const NEGOTIATING_STREAMS_MAX: usize = 256;
/// A connection that nothing uses ends after this time, unless the peer is a neighbour.
const IDLE: Duration = Duration::from_secs(30);
/// How long it may take to reach an address.
const CONNECT_MAX: Duration = Duration::from_secs(3);
/// Records of the DHT live so long, and are renewed so often.
const RECORD_TTL: Duration = Duration::from_secs(600);
const RECORD_RENEWAL: Duration = Duration::from_secs(240);

/// Everything that this node does on the network. What may deny a connection stands first: libp2p asks in this order, and
/// a part before the one that denies would keep state for a connection that never lives.
#[derive(NetworkBehaviour)]
pub(crate) struct Behaviour {
    pub(crate) gate: Gate,
    limits: connection_limits::Behaviour,
    pub(crate) relay_client: relay::client::Behaviour,
    pub(crate) relay: relay::Behaviour,
    dcutr: Toggle<dcutr::Behaviour>,
    identify: identify::Behaviour,
    ping: ping::Behaviour,
    autonat_client: autonat::v2::client::Behaviour,
    autonat_server: autonat::v2::server::Behaviour,
    mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) kad: kad::Behaviour<Shelf>,
    pub(crate) gossip: Gossip,
    pub(crate) lanes: lanes::Behaviour,
}

/// A swarm with its lanes.
pub(crate) struct Made {
    pub(crate) swarm: Swarm<Behaviour>,
    pub(crate) opener: lanes::Opener,
    pub(crate) inbound: mpsc::Receiver<lanes::Inbound>,
}

/// Why the parts did not fit together: a text, since every part has an error of its own and none can be acted on.
type BuildError = Box<dyn std::error::Error + Send + Sync>;

/// Makes the swarm; it does not listen yet. Needs a tokio runtime.
pub(crate) fn make(options: &Options, tally: &Arc<Tally>) -> Result<Made, BuildError> {
    let key = Keypair::ed25519_from_bytes(options.secret.to_bytes())?;
    let named = |lane: &Lane| Ok::<_, BuildError>((*lane, named(&options.mesh, lane.name())?));
    let names = Lane::ALL.iter().map(named).collect::<Result<Vec<_>, _>>()?;
    let me = key.public().to_peer_id();
    let (lanes, opener, inbound) = lanes::new(names, INBOUND_STREAMS_MAX, me, tally.clone());
    let swarm = SwarmBuilder::with_existing_identity(key)
        .with_tokio()
        .with_tcp(tcp::Config::new(), noise::Config::new, multiplexer)?
        .with_quic_config(quic_config)
        .with_relay_client(noise::Config::new, multiplexer)?
        .with_behaviour(|key, relay_client| build(key, relay_client, lanes, options))
        .map_err(|error| error.to_string())?
        // Not `Version::V1Lazy`, although it would save each stream a round trip: a sender that only writes and never reads
        // (identify's pushes, Kademlia's provider records) has left before the receiver could agree to the protocol, and
        // over QUIC the receiver then drops what was sent.
        .with_swarm_config(|config| {
            config
                .with_idle_connection_timeout(IDLE)
                .with_smart_dial()
                .with_max_negotiating_inbound_streams(NEGOTIATING_STREAMS_MAX)
        })
        .with_connection_timeout(CONNECT_MAX)
        .build();
    Ok(Made { swarm, opener, inbound })
}

fn quic_config(mut config: libp2p::quic::Config) -> libp2p::quic::Config {
    config.handshake_timeout = CONNECT_MAX;
    // In milliseconds: a peer that was killed is noticed after this time.
    config.max_idle_timeout = 10_000;
    config.keep_alive_interval = Duration::from_secs(4);
    config.max_concurrent_stream_limit = STREAMS_PER_CONNECTION_MAX;
    config.max_stream_data = STREAM_WINDOW;
    config.max_connection_data = CONNECTION_WINDOW;
    config
}

fn named(mesh: &PublicKey, name: &str) -> Result<StreamProtocol, libp2p::swarm::InvalidProtocol> {
    StreamProtocol::try_from_owned(protocol_name(mesh, name))
}

/// What this mesh calls itself towards libp2p's own protocols, whose names are the same everywhere.
pub(crate) fn mesh_protocol(mesh: &PublicKey) -> String {
    protocol_name(mesh, "mesh")
}

fn multiplexer() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(STREAMS_PER_CONNECTION_MAX as usize);
    config
}

fn build(
    key: &Keypair,
    relay_client: relay::client::Behaviour,
    lanes: lanes::Behaviour,
    options: &Options,
) -> Result<Behaviour, BuildError> {
    let me = key.public().to_peer_id();
    let mut kad = kad::Behaviour::with_config(me, Shelf::new(me), kad_config(options)?);
    // The default, client until somebody confirms an address, would leave a LAN's DHT empty.
    kad.set_mode(Some(kad::Mode::Server));
    let gossip = Gossip::new(protocol_name(&options.mesh, "gossip"), protocol_name(&options.mesh, "changes"))?;
    let identify = identify::Config::new(mesh_protocol(&options.mesh), key.public())
        .with_agent_version(Program::new(&options.version).to_string())
        .with_push_listen_addr_updates(true)
        .with_cache_size(256);
    let ping = ping::Config::new().with_interval(Duration::from_secs(15)).with_timeout(Duration::from_secs(10));
    Ok(Behaviour {
        gate: Gate::default(),
        limits: connection_limits::Behaviour::new(limits()),
        relay_client,
        relay: relay::Behaviour::new(me, relay_config()),
        dcutr: Toggle::from(options.hole_punching.then(|| dcutr::Behaviour::new(me))),
        identify: identify::Behaviour::new(identify),
        ping: ping::Behaviour::new(ping),
        autonat_client: autonat::v2::client::Behaviour::default(),
        autonat_server: autonat::v2::server::Behaviour::default(),
        mdns: Toggle::from(if options.mdns { lan(me) } else { None }),
        kad,
        gossip,
        lanes,
    })
}

/// mDNS, where the system lets us; elsewhere nodes are found by address.
fn lan(me: PeerId) -> Option<mdns::tokio::Behaviour> {
    let config = mdns::Config { query_interval: Duration::from_secs(30), ..mdns::Config::default() };
    mdns::tokio::Behaviour::new(config, me)
        .inspect_err(
            |error| tracing::warn!(%error, "mDNS does not work here: nodes on the LAN are not found by themselves"),
        )
        .ok()
}

fn limits() -> connection_limits::ConnectionLimits {
    connection_limits::ConnectionLimits::default()
        .with_max_pending_incoming(Some(PENDING_MAX))
        .with_max_pending_outgoing(Some(PENDING_MAX))
        .with_max_established(Some(CONNECTIONS_MAX))
        .with_max_established_per_peer(Some(CONNECTIONS_PER_PEER_MAX))
}

fn relay_config() -> relay::Config {
    relay::Config {
        max_circuit_duration: Duration::from_secs(24 * 60 * 60),
        // No limit: results go through where there is no direct path.
        max_circuit_bytes: 0,
        max_circuits: 256,
        max_circuits_per_peer: 16,
        ..relay::Config::default()
    }
}

fn kad_config(options: &Options) -> Result<kad::Config, libp2p::swarm::InvalidProtocol> {
    let mut config = kad::Config::new(named(&options.mesh, "kad")?);
    config
        .set_replication_factor(options.k)
        .set_kbucket_size(options.k)
        .set_parallelism(NonZeroUsize::new(4).unwrap_or(NonZeroUsize::MIN))
        .set_query_timeout(Duration::from_secs(5))
        // One dead contact must not cost a look-up its time.
        .set_substreams_timeout(Duration::from_secs(1))
        .set_record_ttl(None)
        .set_replication_interval(None)
        .set_publication_interval(None)
        .set_provider_record_ttl(Some(RECORD_TTL))
        .set_provider_publication_interval(Some(RECORD_RENEWAL))
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        .set_caching(kad::Caching::Disabled)
        .set_periodic_bootstrap_interval(Some(Duration::from_secs(300)));
    Ok(config)
}
