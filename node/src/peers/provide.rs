//! What this node says in the DHT that it has: itself as a home, and what its workers are labelled with and capable of.
//!
//! Nothing per job. Large blobs are told of where they are put, see [`super::Peers::tell_of_blob`].

use std::collections::BTreeSet;

use shoal_protocol::BlobId;
use shoal_protocol::limits::LABELS_MAX;
use shoal_protocol::wire::peer::{blob_key, capability_key, node_key};
use tokio::sync::watch;

use super::Peers;
use crate::runtime::OwnHint;

/// A blob from this length on is told of. Why 1 MiB: shorter ones are found through the job or the function.
pub(crate) const BLOB_LEN_MIN: u64 = 1 << 20;
/// Keys of workers that are told of at once. Why 256: eight workers with all the labels and capabilities they may have.
const KEYS_MAX: usize = 4 * LABELS_MAX * 2;

/// Keeps the DHT up to date until the kernel is gone.
pub(super) async fn provide(peers: Peers, mut hint: watch::Receiver<OwnHint>) {
    peers.mesh().provide(node_key(peers.node().tag()));
    let mut told = BTreeSet::new();
    loop {
        let wanted = keys(&hint.borrow_and_update());
        for key in wanted.difference(&told) {
            peers.mesh().provide(key.clone());
        }
        for key in told.difference(&wanted) {
            peers.mesh().withdraw(key);
        }
        told = wanted;
        if hint.changed().await.is_err() {
            return;
        }
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

    /// A blob is no longer here.
    pub(crate) fn untell_of_blob(&self, blob: BlobId) {
        self.mesh().withdraw(&blob_key(blob));
    }
}
