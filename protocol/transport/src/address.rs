//! `quic://NODEID@host:port`: who a node is and where it listens.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use shoal_protocol::NodeId;

/// The scheme of every address.
const SCHEME: &str = "quic://";
/// A host's name, in bytes: DNS has no longer ones.
const HOST_LEN_MAX: usize = 253;

/// Why a text is not a node's address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is no node address: {why}; the form is quic://NODEID@host:port")]
pub struct ParseError {
    text: String,
    why: &'static str,
}

/// A node and where it listens. The text of an IPv6 host stands in brackets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeAddr {
    /// The node: the key that a connection to it is pinned to.
    pub node: NodeId,
    /// A name or an IP address, without brackets.
    pub host: String,
    /// The UDP port.
    pub port: u16,
}

impl NodeAddr {
    /// A node at this socket address.
    pub fn new(node: NodeId, address: SocketAddr) -> Self {
        Self { node, host: address.ip().to_string(), port: address.port() }
    }

    /// The socket addresses of the host. Asks the system's resolver unless the host is an IP address.
    pub async fn resolve(&self) -> std::io::Result<Vec<SocketAddr>> {
        Ok(tokio::net::lookup_host((self.host.as_str(), self.port)).await?.collect())
    }
}

impl fmt::Display for NodeAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { node, host, port } = self;
        if host.contains(':') {
            write!(f, "{SCHEME}{node}@[{host}]:{port}")
        } else {
            write!(f, "{SCHEME}{node}@{host}:{port}")
        }
    }
}

impl FromStr for NodeAddr {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let wrong = |why| ParseError { text: text.chars().take(400).collect(), why };
        let rest = text.trim().strip_prefix(SCHEME).ok_or_else(|| wrong("it does not start with quic://"))?;
        let (node, place) = rest.split_once('@').ok_or_else(|| wrong("it names no node"))?;
        let node = node.parse().map_err(|_| wrong("the node id is not 64 hexadecimal characters"))?;
        let (host, port) = place.rsplit_once(':').ok_or_else(|| wrong("it has no port"))?;
        let port = port.parse().map_err(|_| wrong("the port is not a number up to 65535"))?;
        let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        if bare.is_none() && host.contains(':') {
            return Err(wrong("an IPv6 address stands in brackets"));
        }
        let host = bare.unwrap_or(host);
        if host.is_empty() || host.len() > HOST_LEN_MAX || host.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(wrong("the host is no name or IP address"));
        }
        Ok(Self { node, host: host.to_string(), port })
    }
}

impl Serialize for NodeAddr {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for NodeAddr {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_back() {
        for place in ["127.0.0.1:4433", "[::1]:1", "edge-7.example.org:65535"] {
            let text = format!("quic://{}@{place}", "ab".repeat(32));
            let address: NodeAddr = text.parse().expect("an address");
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let id = "ab".repeat(32);
        for (text, why) in [
            ("http://x".to_string(), "quic://"),
            (format!("quic://{id}"), "names no node"),
            ("quic://abc@host:1".to_string(), "64 hexadecimal"),
            (format!("quic://{id}@host"), "no port"),
            (format!("quic://{id}@host:70000"), "65535"),
            (format!("quic://{id}@::1:5"), "brackets"),
            (format!("quic://{id}@:5"), "no name"),
        ] {
            let error = text.parse::<NodeAddr>().expect_err(&text).to_string();
            assert!(error.contains(why), "{text}: {error}");
        }
    }
}
