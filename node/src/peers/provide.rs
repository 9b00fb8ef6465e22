//! What this node says in the DHT that it has: itself as a home, the homes whose jobs it keeps, and what its workers are
//! labelled with and capable of.
//!
//! Nothing per job. Large blobs, and code, are told of by the node where they were put; of code also by those that have
//! fetched it: a capable node far away finds it by that.

use std::collections::{BTreeSet, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use shoal_kernel::{Command, Principal, Reply};
use shoal_protocol::BlobId;
use shoal_protocol::limits::LABELS_MAX;
use shoal_protocol::object::worker::Worker;
use shoal_protocol::wire::names::{blob_key, capability_key, node_key};

use super::Peers;
use crate::runtime::Runtime;
use crate::service::Service;

/// A blob from this length on is told of. Why 1 MiB: shorter ones are found through the job or the function.
pub(crate) const BLOB_LEN_MIN: u64 = 1 << 20;
/// Large blobs that one process tells of. Why 4,096: each is renewed at eight nodes every four minutes; further ones are
/// found through their job.
const BLOBS_MAX: usize = 4_096;
/// Code that one process tells of. Why 1,024: as above, and every node that could run it has it too.
const CODE_MAX: usize = 1_024;
/// Keys of workers that are told of at once. Why 256: eight workers with all the labels and capabilities they may have.
const KEYS_MAX: usize = 4 * LABELS_MAX * 2;
/// Homes of whose jobs it is told that they are kept here. Why 1,024: each is renewed as the others are.
const HOMES_MAX: usize = 1_024;
/// How often it is looked at most what the workers offer: what else a hint says changes with every job.
const LOOK_PAUSE: Duration = Duration::from_secs(1);

/// Keeps the DHT up to date until the kernel is gone.
pub(super) async fn provide(peers: Peers, runtime: Runtime) {
    peers.mesh().provide(node_key(peers.node().tag()));
    let nobody = Principal { user: None, operator: true };
    let (mut hint, mut homes_kept) = (runtime.hint(), runtime.homes_kept());
    let mut told = BTreeSet::new();
    loop {
        hint.mark_unchanged();
        // Not what the hint says: it names the freest ones, and who is full is as capable as before.
        if let Ok(Reply::Workers(workers)) = runtime.request(nobody, Command::Workers).await {
            let mut wanted = keys(&workers);
            // Whoever looks for a home that is gone finds those who keep its jobs.
            wanted.extend(homes_kept.borrow_and_update().iter().take(HOMES_MAX).map(|home| node_key(home.tag())));
            for key in wanted.difference(&told) {
                peers.mesh().provide(key.clone());
            }
            for key in told.difference(&wanted) {
                peers.mesh().withdraw(key);
            }
            told = wanted;
        }
        tokio::time::sleep(LOOK_PAUSE).await;
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

/// What the attached workers that take runs are labelled with and capable of.
fn keys(workers: &[Worker]) -> BTreeSet<Vec<u8>> {
    let offers = workers.iter().filter(|worker| worker.attached && !worker.cordoned).map(|worker| &worker.offer);
    let keys = offers.flat_map(|offer| {
        let labels = offer.labels.iter().map(|(key, value)| capability_key(key, Some(value)));
        labels.chain(offer.capabilities.iter().map(|name| capability_key(name, None)))
    });
    let all: BTreeSet<_> = keys.collect();
    all.into_iter().take(KEYS_MAX).collect()
}

/// The blobs that this process tells of.
#[derive(Default)]
pub(super) struct Told {
    large: Mutex<HashSet<BlobId>>,
    code: Mutex<HashSet<BlobId>>,
}

impl Told {
    fn forget(&self, blob: BlobId) {
        for told in [&self.large, &self.code] {
            told.lock().unwrap_or_else(PoisonError::into_inner).remove(&blob);
        }
    }
}

/// Whether there is room to tell of this blob, now or still.
fn may_tell(told: &Mutex<HashSet<BlobId>>, max: usize, blob: BlobId) -> bool {
    let mut told = told.lock().unwrap_or_else(PoisonError::into_inner);
    told.contains(&blob) || (told.len() < max && told.insert(blob))
}

impl Peers {
    /// A blob is here now: a large one is told of.
    pub(crate) fn tell_of_blob(&self, blob: BlobId, size: u64) {
        if size >= BLOB_LEN_MIN && may_tell(&self.0.told.large, BLOBS_MAX, blob) {
            self.mesh().provide(blob_key(blob));
        }
    }

    /// The code of a function is here now.
    pub(crate) fn tell_of_code(&self, component: BlobId) {
        if may_tell(&self.0.told.code, CODE_MAX, component) {
            self.mesh().provide(blob_key(component));
        }
    }

    /// A blob is no longer here.
    pub(crate) fn untell_of_blob(&self, blob: BlobId) {
        self.0.told.forget(blob);
        self.mesh().withdraw(&blob_key(blob));
    }
}

#[cfg(test)]
mod tests {
    use shoal_protocol::WorkerId;
    use shoal_protocol::object::worker::Offer;

    use super::*;

    fn worker(capabilities: impl IntoIterator<Item = String>) -> Worker {
        Worker {
            id: WorkerId::MIN,
            name: String::new(),
            local: false,
            attached: true,
            cordoned: false,
            offer: Offer { capabilities: capabilities.into_iter().collect(), ..Offer::default() },
            running: Vec::new(),
            attached_ms: 0,
        }
    }

    #[test]
    fn what_many_workers_have_alike_is_one_key() {
        let alike = (0..2 * KEYS_MAX).map(|_| worker(["camera".into()]));
        let all: Vec<Worker> = alike.chain([worker(["gpu".into()])]).collect();
        assert_eq!(keys(&all), [capability_key("camera", None), capability_key("gpu", None)].into());
        let many: Vec<Worker> = (0..2 * KEYS_MAX).map(|n| worker([n.to_string()])).collect();
        assert_eq!(keys(&many).len(), KEYS_MAX);
        let cordoned = Worker { cordoned: true, ..worker(["gpu".into()]) };
        let away = Worker { attached: false, ..worker(["gpu".into()]) };
        assert!(keys(&[cordoned, away]).is_empty());
    }

    #[test]
    fn what_is_told_is_bounded_and_what_is_told_again_takes_no_room() {
        let told = Told::default();
        let blob = |n: u8| BlobId([n; 32]);
        assert!(may_tell(&told.code, 2, blob(1)) && may_tell(&told.code, 2, blob(1)));
        assert!(may_tell(&told.code, 2, blob(2)) && !may_tell(&told.code, 2, blob(3)));
        assert!(may_tell(&told.large, 2, blob(3)));
        told.forget(blob(1));
        assert!(may_tell(&told.code, 2, blob(3)));
    }
}
