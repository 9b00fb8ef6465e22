//! What the kernel wants of the mesh: nodes that have what a job needs, and homes whose runs are here.

use std::time::Duration;

use shoal_protocol::NodeId;
use shoal_protocol::object::function::Needs;
use shoal_protocol::wire::names::capability_key;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::Peers;

/// How long providers are listened for. Why 3 s: the kernel asks again after that as long as it needs them.
const SEEK_MAX: Duration = Duration::from_secs(3);
/// Providers of one need that are met. Why 8: a look-up ends at the first good ones, and each costs a connection.
const FOUND_MAX: usize = 8;

/// Looks for nodes that have what is needed, and tells each one that was reached.
pub(super) async fn seek(peers: Peers, needs: Needs, met: mpsc::Sender<NodeId>) {
    // Whoever has all of it provides each part; the rarest is not known, so it is any: the offer settles the rest.
    let Some(key) = key(&needs) else { return };
    let mut found = peers.mesh().find(key);
    let finding = async {
        for _ in 0..FOUND_MAX {
            let Some(node) = found.recv().await else { return };
            if met.send(node).await.is_err() {
                return;
            }
        }
    };
    drop(timeout(SEEK_MAX, finding).await);
}

fn key(needs: &Needs) -> Option<Vec<u8>> {
    let capability = needs.capabilities.iter().next().map(|name| capability_key(name, None));
    capability.or_else(|| needs.labels.iter().next().map(|(key, value)| capability_key(key, Some(value))))
}

/// Connects to a node. Whether it was reached.
pub(super) async fn reach(peers: Peers, node: NodeId, met: mpsc::Sender<NodeId>) {
    if peers.mesh().connect(node).await.is_ok() {
        // Nobody listens any more: the node is stopping.
        let _ = met.send(node).await;
    }
}
