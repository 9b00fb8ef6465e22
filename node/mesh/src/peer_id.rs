//! Node ids and libp2p's peer ids: the same ed25519 key in two forms.

use libp2p::PeerId;
use libp2p::identity::{PublicKey, ed25519};
use shoal_protocol::NodeId;

/// The peer id of a node. None: the node's id is no point of the curve.
pub(crate) fn peer_id(node: NodeId) -> Option<PeerId> {
    let key = ed25519::PublicKey::try_from_bytes(node.as_bytes()).ok()?;
    Some(PublicKey::from(key).to_peer_id())
}

/// The node of a peer id. None: it is of another kind of key.
pub(crate) fn node_id(peer: &PeerId) -> Option<NodeId> {
    let hash = peer.as_ref();
    // Code 0 is the identity hash: the id holds the key itself.
    if hash.code() != 0 {
        return None;
    }
    let key = PublicKey::try_decode_protobuf(hash.digest()).ok()?.try_into_ed25519().ok()?;
    Some(NodeId(key.to_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::key::SecretKey;

    #[test]
    fn a_node_and_its_peer_id_name_each_other() {
        let node = NodeId(*SecretKey::from_bytes([7; 32]).public().as_bytes());
        let peer = peer_id(node).unwrap();
        assert_eq!(node_id(&peer), Some(node));
        assert_eq!(node_id(&PeerId::random()), None, "the hash of nothing is no key");
    }
}
