//! Blobs between nodes: who is asked for one, and who gets one.
//!
//! What replicated state refers to, code and values of the global KV, is for every node of the mesh, as that state itself
//! is. What only a job refers to is for the nodes that take part in it: its home, and where its current run is.

use std::io;

use shoal_blobs::exchange::{Provider, ServeError, ServeOptions, Served};
use shoal_mesh::{Lane, Stream};
use shoal_protocol::wire::peer;
use shoal_protocol::{BlobId, NodeId, Problem};

use super::Peers;
use crate::runtime::{Referrer, read_guest, read_job};
use crate::service::Service;
use crate::store::{Store, Table};

/// Referrers that are looked at to find out whether a peer gets a blob. Why 256: as for callers.
const REFERENCES_READ_MAX: usize = 256;

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
pub(super) async fn serve(
    service: &Service,
    blobs: &shoal_blobs::Store,
    from: NodeId,
    stream: Stream,
) -> Result<Served, ServeError> {
    let allowed = |blob| async move { may_have(service, from, blob).unwrap_or(false) };
    blobs.serve(stream, allowed, &ServeOptions::default()).await
}

fn may_have(service: &Service, from: NodeId, blob: BlobId) -> Result<bool, Problem> {
    let store = service.store();
    for (key, _) in store.scan_prefix(Table::References, blob.as_bytes(), None, REFERENCES_READ_MAX)? {
        let may = match Referrer::of_key(&key) {
            Some(Referrer::Function(_) | Referrer::Kv(_)) => true,
            Some(Referrer::Job(job)) => runs_at(store, job, from)?,
            Some(Referrer::Guest(job)) => read_guest(store, job)?.is_some_and(|guest| guest.home == from),
            None => false,
        };
        if may {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether the current run of a job of this home is at a node.
fn runs_at(store: &Store, job: shoal_protocol::ObjectId, node: NodeId) -> Result<bool, Problem> {
    let standing = read_job(store, job)?.and_then(|(_, standing)| standing);
    Ok(standing.is_some_and(|standing| {
        !standing.state.is_settled() && standing.attempts.last().and_then(|attempt| attempt.node) == Some(node)
    }))
}
