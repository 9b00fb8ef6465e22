//! What this node says in the DHT that it has: itself as a home, the homes whose jobs it keeps, and what its workers are
//! labelled with and capable of.
//!
//! Nothing per job. Large blobs, and code, are told of by the node where they were put; of code also by those that have
//! fetched it: a capable node far away finds it by that.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering::Relaxed;

use shoal_protocol::limits::LABELS_MAX;
use shoal_protocol::wire::peer::{blob_key, capability_key, node_key};
use shoal_protocol::{BlobId, NodeId};
use tokio::sync::watch;

use super::Peers;
use crate::runtime::OwnHint;
use crate::service::Service;

/// A blob from this length on is told of. Why 1 MiB: shorter ones are found through the job or the function.
pub(crate) const BLOB_LEN_MIN: u64 = 1 << 20;
/// Blobs that are told of after a start.
const BLOBS_MAX: usize = 4_096;
/// Code that one process tells of. Why 1,024: each is renewed at eight nodes every four minutes.
const CODE_MAX: u32 = 1_024;
/// Keys of workers that are told of at once. Why 256: eight workers with all the labels and capabilities they may have.
const KEYS_MAX: usize = 4 * LABELS_MAX * 2;
/// Homes of whose jobs it is told that they are kept here. Why 1,024: each is renewed as the others are.
const HOMES_MAX: usize = 1_024;

/// Keeps the DHT up to date until the kernel is gone.
pub(super) async fn provide(
    peers: Peers,
    mut hint: watch::Receiver<OwnHint>,
    mut homes_kept: watch::Receiver<BTreeSet<NodeId>>,
) {
    peers.mesh().provide(node_key(peers.node().tag()));
    let mut told = BTreeSet::new();
    loop {
        let mut wanted = keys(&hint.borrow_and_update());
        // Whoever looks for a home that is gone finds those who keep its jobs.
        wanted.extend(homes_kept.borrow_and_update().iter().take(HOMES_MAX).map(|home| node_key(home.tag())));
        for key in wanted.difference(&told) {
            peers.mesh().provide(key.clone());
        }
        for key in told.difference(&wanted) {
            peers.mesh().withdraw(key);
        }
        told = wanted;
        let changed = tokio::select! {
            changed = hint.changed() => changed,
            changed = homes_kept.changed() => changed,
        };
        if changed.is_err() {
            return;
        }
    }
}

/// Tells of what was put here before this start.
pub(super) async fn provide_blobs(peers: Peers, service: Service) {
    match service.blobs_to_tell_of(BLOB_LEN_MIN, BLOBS_MAX).await {
        Ok(told) => told.into_iter().for_each(|(blob, is_code)| match is_code {
            true => peers.tell_of_code(blob),
            false => peers.tell_of_blob(blob, BLOB_LEN_MIN),
        }),
        Err(problem) => tracing::warn!(%problem, "blobs cannot be listed: the mesh is not told of them"),
    }
}

fn keys(hint: &OwnHint) -> BTreeSet<Vec<u8>> {
    let offers = hint.workers.iter().map(|worker| &worker.offer);
    let keys = offers.flat_map(|offer| {
        let labels = offer.labels.iter().map(|(key, value)| capability_key(key, Some(value)));
        labels.chain(offer.capabilities.iter().map(|name| capability_key(name, None)))
    });
    keys.take(KEYS_MAX).collect()
}

impl Peers {
    /// A blob is here now: a large one is told of.
    pub(crate) fn tell_of_blob(&self, blob: BlobId, size: u64) {
        if size >= BLOB_LEN_MIN {
            self.mesh().provide(blob_key(blob));
        }
    }

    /// The code of a function is here now.
    pub(crate) fn tell_of_code(&self, component: BlobId) {
        if self.0.code_told.fetch_add(1, Relaxed) < CODE_MAX {
            self.mesh().provide(blob_key(component));
        }
    }

    /// A blob is no longer here.
    pub(crate) fn untell_of_blob(&self, blob: BlobId) {
        self.mesh().withdraw(&blob_key(blob));
    }
}
