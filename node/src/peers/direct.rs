//! Direct paths to other nodes, for blobs: connections of iroh's own, over UDP, beside those of the mesh.
//!
//! Where a node's direct path is, the node itself says when it is asked over the mesh. What it says is bounded, is only
//! used to dial it, and it has to prove its key there. A node that is not reached is left alone for a while, so that what
//! a firewall drops costs once.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use shoal_blobs::exchange::ServeOptions;
use shoal_blobs::exchange::direct::{Direct, DirectError, DirectStream, Gate};
use shoal_protocol::NodeId;
use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::limits::DIRECT_ADDRESSES_MAX;
use shoal_protocol::object::node::Path;
use shoal_protocol::wire::names::protocol_name;
use tokio::time::timeout;

use super::{Home, Peers};

/// How long it may take to ask a node for its addresses, and then to reach it at one of them. Why 2 s: four round trips
/// at the far side of the world, with one of them lost; a stream of the mesh is there already.
const REACH_MAX: Duration = Duration::from_secs(2);
/// How long a stream may wait for a place on a connection that stands.
const OPEN_MAX: Duration = Duration::from_secs(2);
/// How long a node that was not reached is left alone. Why a minute: it may have got another address, and it costs two
/// seconds to try.
const AGAIN_AFTER: Duration = Duration::from_secs(60);
/// How long all connections may take to be closed in order.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// This node's end of all direct paths.
pub(crate) struct DirectPaths {
    endpoint: Direct,
    /// Nodes that are being dialled, or were not reached lately.
    dialled: Mutex<HashMap<NodeId, Arc<Dialled>>>,
}

/// When a node was not reached; locked while it is dialled.
type Dialled = tokio::sync::Mutex<Option<Instant>>;

impl DirectPaths {
    /// Opens a UDP socket for nodes of this mesh.
    pub(crate) async fn bind(key: &SecretKey, mesh: &PublicKey, address: SocketAddr) -> Result<Self, DirectError> {
        let endpoint = Direct::bind(&key.to_bytes(), &[address], &protocol_name(mesh, "blob")).await?;
        Ok(Self { endpoint, dialled: Mutex::default() })
    }

    fn dialled(&self, node: NodeId) -> Arc<Dialled> {
        let mut all = self.dialled.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever dials holds another reference; of the others those that still count are kept.
        all.retain(|_, dialled| {
            Arc::strong_count(dialled) > 1 || dialled.try_lock().is_ok_and(|failed| is_recent(*failed))
        });
        all.entry(node).or_default().clone()
    }
}

fn is_recent(failed: Option<Instant>) -> bool {
    failed.is_some_and(|at| at.elapsed() < AGAIN_AFTER)
}

impl Peers {
    /// A stream to a node by the direct path, where there is one to it.
    pub(super) async fn open_directly(&self, node: NodeId) -> Option<DirectStream> {
        let paths = self.0.direct.as_ref()?;
        if !paths.endpoint.is_connected(node) {
            self.dial_directly(paths, node).await?;
        }
        timeout(OPEN_MAX, paths.endpoint.open(node)).await.ok()?.ok()
    }

    /// Whether a connection of the direct path to this node stands.
    pub(super) fn is_directly_connected(&self, node: NodeId) -> bool {
        self.0.direct.as_ref().is_some_and(|paths| paths.endpoint.is_connected(node))
    }

    async fn dial_directly(&self, paths: &DirectPaths, node: NodeId) -> Option<()> {
        // What the mesh itself reaches by a relay, or through a hole that it has punched for its own port, another port
        // does not reach.
        let peer = self.mesh().peer(&node).filter(|peer| peer.connected && peer.path == Path::Direct)?;
        let dialled = paths.dialled(node);
        let mut failed = dialled.lock().await;
        if paths.endpoint.is_connected(node) {
            return Some(());
        }
        if is_recent(*failed) {
            return None;
        }
        let reach = async {
            let told = self.ask_direct_addresses(Home(node)).await.map_err(|problem| problem.detail)?;
            let addresses = candidates(&told, peer.remote);
            if addresses.is_empty() {
                return Err("it has no direct path".to_owned());
            }
            paths.endpoint.connect(node, &addresses).await.map_err(|error| format!("at {addresses:?}: {error}"))
        };
        let reached = timeout(REACH_MAX, reach).await;
        let why = match reached {
            Ok(Ok(())) => {
                *failed = None;
                return Some(());
            }
            Ok(Err(why)) => why,
            Err(_) => format!("not within {} s", REACH_MAX.as_secs()),
        };
        tracing::debug!(peer = %node.short(), why, "no direct path: blobs go over the mesh");
        *failed = Some(Instant::now());
        None
    }

    /// Where others reach this node by the direct path.
    pub(super) fn direct_addresses(&self) -> Vec<SocketAddr> {
        let mut addresses = self.0.direct.as_ref().map(|paths| paths.endpoint.addresses()).unwrap_or_default();
        addresses.truncate(DIRECT_ADDRESSES_MAX);
        addresses
    }

    /// Serves blobs by the direct path, for ever; at once if there is none.
    pub(super) async fn serve_directly<G: Gate>(&self, blobs: shoal_blobs::Store, gate: G) {
        if let Some(paths) = &self.0.direct {
            paths.endpoint.serve(blobs, Arc::new(gate), ServeOptions::default()).await;
        }
    }

    /// Tells those at the other ends of direct paths that this node leaves.
    pub(crate) async fn close_direct_paths(&self) {
        if let Some(paths) = &self.0.direct
            && timeout(CLOSE_MAX, paths.endpoint.close()).await.is_err()
        {
            tracing::debug!("the direct paths were not closed in order");
        }
    }
}

/// Where a node is dialled: at what it has told, and at the same ports of the IP from which the mesh sees it, which helps
/// where the node does not know its own address. Nobody makes this node dial its own loopback from elsewhere.
fn candidates(told: &[SocketAddr], seen: Option<IpAddr>) -> Vec<SocketAddr> {
    let is_near = seen.is_some_and(|ip| ip.is_loopback());
    let may_be = |address: &SocketAddr| {
        let ip = address.ip();
        address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && (is_near || !ip.is_loopback())
    };
    let mut addresses: Vec<SocketAddr> = told.iter().copied().filter(may_be).collect();
    for told in told {
        let Some(ip) = seen.filter(|ip| ip.is_ipv4() == told.is_ipv4()) else { continue };
        let address = SocketAddr::new(ip, told.port());
        if may_be(&address) && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses.truncate(DIRECT_ADDRESSES_MAX);
    addresses
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_node_is_dialled_where_it_says_and_where_it_is_seen() {
        let told = addresses(&["10.0.0.7:7453", "192.0.2.1:7453", "[2001:db8::1]:7453"]);
        let seen = Some("198.51.100.9".parse().unwrap());
        let found = candidates(&told, seen);
        assert_eq!(found, [told, addresses(&["198.51.100.9:7453"])].concat());
        let many: Vec<SocketAddr> = (1..100).map(|port| ([10, 0, 0, 7], port).into()).collect();
        assert_eq!(candidates(&many, None).len(), DIRECT_ADDRESSES_MAX);
    }

    #[test]
    fn nobody_elsewhere_makes_this_node_dial_itself_or_nothing() {
        let told = addresses(&["127.0.0.1:22", "[::1]:22", "0.0.0.0:7453", "10.0.0.7:0", "224.0.0.1:7453"]);
        assert_eq!(candidates(&told, None), []);
        let far = Some("10.0.0.7".parse().unwrap());
        assert_eq!(candidates(&told, far), addresses(&["10.0.0.7:22", "10.0.0.7:7453"]));
        let near = Some("127.0.0.1".parse().unwrap());
        assert_eq!(candidates(&told, near), addresses(&["127.0.0.1:22", "[::1]:22", "127.0.0.1:7453"]));
    }
}
