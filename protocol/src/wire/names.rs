//! Between nodes: the names of a mesh's protocols, and the keys under which the DHT knows what nodes have.

use crate::id::BlobId;
use crate::key::PublicKey;

/// The text that stands in protocol names for a mesh.
pub fn mesh_tag(mesh: &PublicKey) -> String {
    hex::encode(mesh.as_bytes().get(..8).unwrap_or_default())
}

/// A protocol's name: `/shoal/<mesh>/<name>/1`.
pub fn protocol_name(mesh: &PublicKey, name: &str) -> String {
    format!("/shoal/{}/{name}/1", mesh_tag(mesh))
}

/// The key under which the DHT knows who answers for a node's jobs: the node itself, and later its custodians.
pub fn node_key(tag: [u8; 8]) -> Vec<u8> {
    [b"node:".as_slice(), &tag].concat()
}

/// The key under which the DHT knows who has a worker with this label, or (without a value) this capability.
pub fn capability_key(name: &str, value: Option<&str>) -> Vec<u8> {
    match value {
        Some(value) => format!("label:{name}={value}").into_bytes(),
        None => format!("capability:{name}").into_bytes(),
    }
}

/// The key under which the DHT knows who has a large blob. A hash of its id: who stores the record learns no id.
pub fn blob_key(blob: BlobId) -> Vec<u8> {
    [b"blob:".as_slice(), &blake3::derive_key("shoal dht blob v1", blob.as_bytes())].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_names_of_protocols_and_keys_stay() {
        let mesh = PublicKey([0xab; 32]);
        assert_eq!(protocol_name(&mesh, "peer"), "/shoal/abababababababab/peer/1");
        assert_eq!(node_key(*b"homenode"), b"node:homenode");
        assert_eq!(capability_key("zone", Some("b")), b"label:zone=b");
        assert_eq!(capability_key("gpu", None), b"capability:gpu");
    }
}
