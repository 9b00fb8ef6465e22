//! The addresses that people give: `HOST:PORT`, `NODEID@HOST:PORT`, or libp2p's own form.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use shoal_protocol::NodeId;

use crate::peer_id::{node_id, peer_id};

/// Names and addresses that one name may stand for. Why 8: what one dial of a peer takes.
const RESOLVED_MAX: usize = 8;

/// Where a node of the mesh is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address(Kind);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    /// A host, and the node if it must be this one.
    Host { node: Option<NodeId>, host: String, port: u16 },
    /// libp2p's own form, for what has no other: a way through a relay.
    Multi(Multiaddr),
}

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseError {
    /// Nothing, or no port.
    #[error("expected HOST:PORT, NODEID@HOST:PORT or /ip4/...: a port is missing")]
    NoPort,
    /// The port is not one.
    #[error("expected a port from 1 to 65535, not {0:?}")]
    Port(String),
    /// The host is empty, or an IPv6 address without brackets.
    #[error("expected a host name, an IPv4 address, or an IPv6 address in brackets such as [::1], not {0:?}")]
    Host(String),
    /// What stands before the @ names no node.
    #[error("expected the 64 hexadecimal characters of a node id before the @, not {0:?}")]
    Node(String),
    /// It begins with a slash, but libp2p cannot read it.
    #[error("expected an address such as /ip4/192.0.2.1/udp/4001/quic-v1: {0}")]
    Multiaddr(String),
}

impl FromStr for Address {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        if text.starts_with('/') {
            let address: Multiaddr = text.parse().map_err(|error| ParseError::Multiaddr(format!("{error}")))?;
            return Ok(Self(Kind::Multi(address)));
        }
        let (node, place) = match text.split_once('@') {
            Some((node, place)) => (Some(parse_node(node)?), place),
            None => (None, text),
        };
        let (host, port) = place.rsplit_once(':').ok_or(ParseError::NoPort)?;
        let port = match port.parse() {
            Ok(port) if port != 0 => port,
            _ => return Err(ParseError::Port(port.to_owned())),
        };
        Ok(Self(Kind::Host { node, host: parse_host(host)?, port }))
    }
}

fn parse_node(text: &str) -> Result<NodeId, ParseError> {
    let node: NodeId = text.parse().map_err(|_| ParseError::Node(text.to_owned()))?;
    // 32 bytes that are no point of the curve can be nobody's key.
    peer_id(node).map(|_| node).ok_or_else(|| ParseError::Node(text.to_owned()))
}

fn parse_host(text: &str) -> Result<String, ParseError> {
    let wrong = || ParseError::Host(text.to_owned());
    if let Some(inner) = text.strip_prefix('[') {
        let inner: Ipv6Addr = inner.strip_suffix(']').and_then(|ip| ip.parse().ok()).ok_or_else(wrong)?;
        return Ok(inner.to_string());
    }
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    if text.is_empty() || !text.chars().all(is_name) {
        return Err(wrong());
    }
    Ok(text.to_owned())
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Kind::Multi(address) => address.fmt(f),
            Kind::Host { node, host, port } => {
                if let Some(node) = node {
                    write!(f, "{node}@")?;
                }
                match host.contains(':') {
                    true => write!(f, "[{host}]:{port}"),
                    false => write!(f, "{host}:{port}"),
                }
            }
        }
    }
}

/// Where one dial goes: first to last, and who must be there.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) peer: Option<PeerId>,
    pub(crate) addresses: Vec<Multiaddr>,
}

impl Address {
    /// Asks the system's resolver for a name. Each IP is tried by QUIC, then by TCP.
    pub(crate) async fn resolve(&self) -> std::io::Result<Target> {
        match &self.0 {
            Kind::Multi(address) => Ok(Target { peer: last_peer(address), addresses: vec![address.clone()] }),
            Kind::Host { node, host, port } => {
                let found = tokio::net::lookup_host((host.as_str(), *port)).await?;
                let addresses = found.take(RESOLVED_MAX).flat_map(|socket| [quic(socket), tcp(socket)]).collect();
                Ok(Target { peer: node.and_then(peer_id), addresses })
            }
        }
    }
}

/// The address of QUIC at this socket.
pub(crate) fn quic(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Udp(socket.port())).with(Protocol::QuicV1)
}

/// The address of TCP at this socket.
pub(crate) fn tcp(socket: SocketAddr) -> Multiaddr {
    Multiaddr::from(socket.ip()).with(Protocol::Tcp(socket.port()))
}

/// The IP and port that an address begins with; of a relayed one they are the relay's.
pub(crate) fn socket(address: &Multiaddr) -> Option<SocketAddr> {
    let port = address.iter().find_map(|part| match part {
        Protocol::Udp(port) | Protocol::Tcp(port) => Some(port),
        _ => None,
    })?;
    Some(SocketAddr::new(ip(address)?, port))
}

/// The IP that an address begins with.
pub(crate) fn ip(address: &Multiaddr) -> Option<IpAddr> {
    address.iter().find_map(|part| match part {
        Protocol::Ip4(ip) => Some(IpAddr::V4(ip)),
        Protocol::Ip6(ip) => Some(IpAddr::V6(ip)),
        _ => None,
    })
}

/// Whether an address leads through a relay.
pub(crate) fn is_relayed(address: &Multiaddr) -> bool {
    address.iter().any(|part| matches!(part, Protocol::P2pCircuit))
}

/// Whether an address may be dialled or told on: of a machine, and not this machine's own loopback when the peer is
/// elsewhere. Link-local addresses of IPv6 mean nothing without their interface.
pub(crate) fn is_dialable(address: &Multiaddr, peer_is_here: bool) -> bool {
    match ip(address) {
        Some(IpAddr::V6(ip)) if ip.is_unicast_link_local() => false,
        Some(ip) => !ip.is_unspecified() && (peer_is_here || !ip.is_loopback()),
        None => false,
    }
}

/// Whether the other end of a connection is on this very machine.
pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    ip(address).is_some_and(|ip| ip.is_loopback())
}

/// The texts by which others reach `node` at these addresses, each once: QUIC and TCP share a port.
pub(crate) fn texts(node: NodeId, addresses: &[Multiaddr]) -> Vec<String> {
    let mut texts: Vec<String> = Vec::new();
    for address in addresses {
        let text = match (is_relayed(address), socket(address)) {
            (false, Some(socket)) => format!("{node}@{socket}"),
            _ => address.to_string(),
        };
        if !texts.contains(&text) {
            texts.push(text);
        }
    }
    texts
}

/// Who is at the end of an address.
fn last_peer(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) if node_id(&peer).is_some() => Some(peer),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::key::SecretKey;

    #[test]
    fn addresses_are_read_and_written_alike() {
        let node = NodeId::from(SecretKey::from_bytes([7; 32]).public());
        for text in [
            "192.0.2.1:4001".to_owned(),
            "edge-7.example.org:4001".to_owned(),
            "[2001:db8::1]:4001".to_owned(),
            format!("{node}@192.0.2.1:4001"),
            format!("{node}@[::1]:65535"),
            "/ip4/192.0.2.1/udp/4001/quic-v1".to_owned(),
        ] {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let nobody = "zz".repeat(32);
        for (text, error) in [
            ("", ParseError::NoPort),
            ("host", ParseError::NoPort),
            ("host:", ParseError::Port(String::new())),
            ("host:0", ParseError::Port("0".into())),
            ("host:65536", ParseError::Port("65536".into())),
            (":4001", ParseError::Host(String::new())),
            ("a b:4001", ParseError::Host("a b".into())),
            ("::1:4001", ParseError::Host("::1".into())),
            ("[::1:4001", ParseError::Host("[::1".into())),
            ("quic://host:4001", ParseError::Host("quic://host".into())),
            ("abc@host:4001", ParseError::Node("abc".into())),
            (&format!("{nobody}@host:4001"), ParseError::Node(nobody.clone())),
        ] {
            assert_eq!(text.parse::<Address>(), Err(error), "{text:?}");
        }
        assert!(matches!("/ip4/1.2.3".parse::<Address>(), Err(ParseError::Multiaddr(_))));
    }

    #[tokio::test]
    async fn an_ip_is_tried_by_quic_and_then_by_tcp() {
        let address: Address = "192.0.2.1:4001".parse().unwrap();
        let texts: Vec<String> = address.resolve().await.unwrap().addresses.iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["/ip4/192.0.2.1/udp/4001/quic-v1", "/ip4/192.0.2.1/tcp/4001"]);
    }

    #[test]
    fn quic_and_tcp_at_one_port_are_told_as_one() {
        let node = NodeId::from(SecretKey::from_bytes([7; 32]).public());
        let at: SocketAddr = "192.0.2.1:4001".parse().unwrap();
        assert_eq!(texts(node, &[quic(at), tcp(at)]), [format!("{node}@192.0.2.1:4001")]);
    }
}
