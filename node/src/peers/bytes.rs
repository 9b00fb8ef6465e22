//! Blobs between nodes: who is asked for one, and who gets one.
//!
//! What replicated state refers to, code and values of the global KV, is for every node of the mesh, as that state itself
//! is. What only a job refers to is for the nodes that take part in it: its home, and where its current run is.

use std::io;

use shoal_blobs::exchange::{Provider, ServeError, ServeOptions, Served};
use shoal_kernel::{Command, Principal, Reply};
use shoal_mesh::{Lane, Stream};
use shoal_protocol::object::kv::Scope;
use shoal_protocol::wire::peer;
use shoal_protocol::{BlobId, NodeId, Problem};

use super::Peers;
use super::serve::Parts;
use crate::runtime::{REFERENCE_PLACE, Referrer, ReferrerKind, read_guest_end, reference_key, reference_prefix};
use crate::store::Table;

/// Keys that are looked at to find one of the global KV. Why 256: a blob that more local keys than that name is rare, and
/// is then asked for elsewhere.
const KEYS_READ_MAX: usize = 256;

impl Peers {
    /// A node as a provider of blobs.
    pub(crate) fn provider(&self, node: NodeId) -> Provider {
        let mesh = self.mesh().clone();
        Provider::new(node, move || {
            let mesh = mesh.clone();
            async move {
                mesh.connect(node).await.map_err(io::Error::other)?;
                mesh.open(node, Lane::Blob).await.map_err(io::Error::other)
            }
        })
    }

    /// Nodes that say in the DHT that they have a blob, as they are found.
    pub(crate) fn holders(&self, blob: BlobId) -> tokio::sync::mpsc::Receiver<NodeId> {
        self.mesh().find(peer::blob_key(blob))
    }
}

/// Serves one stream of a peer.
pub(super) async fn serve(parts: &Parts, from: NodeId, stream: Stream) -> Result<Served, ServeError> {
    let allowed = |blob| async move { may_have(parts, from, blob).await.unwrap_or(false) };
    parts.blobs.serve(stream, allowed, &ServeOptions::default()).await
}

async fn may_have(parts: &Parts, from: NodeId, blob: BlobId) -> Result<bool, Problem> {
    let store = parts.service.store();
    // What global KV has stands under its scope; what is local stays here.
    let functions = reference_prefix(blob, ReferrerKind::Function);
    if !store.scan_prefix(Table::References, &functions, None, 1)?.is_empty() {
        return Ok(true);
    }
    let keys = store.scan_prefix(Table::References, &reference_prefix(blob, ReferrerKind::Kv), None, KEYS_READ_MAX)?;
    if keys.iter().any(|(key, _)| key.get(REFERENCE_PLACE) == Some(&(Scope::Global as u8))) {
        return Ok(true);
    }
    let nobody = Principal { user: None, operator: true };
    let Reply::Runs { placed, guests } = parts.runtime.request(nobody, Command::RunsWith(from)).await? else {
        return Ok(false);
    };
    for job in placed {
        if store.get(Table::References, &reference_key(blob, Referrer::Job(job), &[]))?.is_some() {
            return Ok(true);
        }
    }
    for job in guests {
        // Of its own jobs a home gets what was made here, and not what it says that it put in.
        let made = read_guest_end(store, job)?;
        if made.is_some_and(|end| [end.outcome.output.blob(), end.outcome.log.blob()].contains(&Some(blob))) {
            return Ok(true);
        }
    }
    Ok(false)
}
