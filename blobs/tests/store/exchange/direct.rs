//! The direct path: two endpoints of iroh on loopback.

use std::net::SocketAddr;

use iroh::endpoint::{Builder, Connection};
use iroh::{Endpoint, EndpointAddr, PublicKey};
use iroh_blobs::protocol::{ChunkRanges, ChunkRangesSeq, PushRequest};
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::{Hash, HashAndFormat};
use shoal_blobs::exchange::direct::{Direct, Gate};

use super::*;

const PROTOCOL: &str = "/shoal/0123456789abcdef/blob/1";

/// Lets everybody in but one, and gives everything but one blob.
struct But {
    node: Option<NodeId>,
    blob: Option<BlobId>,
    results: Mutex<Vec<Result<Served, ServeError>>>,
}

impl Gate for But {
    type Place = ();

    fn admits(&self, node: NodeId) -> bool {
        self.node != Some(node)
    }

    fn place(&self, _node: NodeId) -> Option<()> {
        Some(())
    }

    async fn allows(&self, _node: NodeId, blob: BlobId) -> bool {
        self.blob != Some(blob)
    }

    fn served(&self, _node: NodeId, result: &Result<Served, ServeError>) {
        let result = match result {
            Ok(served) => Ok(*served),
            Err(ServeError::Misbehaved(what)) => Err(ServeError::Misbehaved(what.clone())),
            Err(cause) => Err(ServeError::Cut(io::Error::other(cause.to_string()))),
        };
        self.results.lock().unwrap().push(result);
    }
}

async fn bind(secret: u8) -> Arc<Direct> {
    let address = "127.0.0.1:0".parse().unwrap();
    Arc::new(Direct::bind(&[secret; 32], &[address], PROTOCOL).await.unwrap())
}

/// Fetches by the direct path from `node`, which is said to listen there.
fn provider(near: &Arc<Direct>, node: NodeId, addresses: Vec<SocketAddr>) -> Provider {
    let near = near.clone();
    Provider::new(node, move || {
        let (near, addresses) = (near.clone(), addresses.clone());
        async move {
            near.connect(node, &addresses).await?;
            near.open(node).await
        }
    })
}

/// Serves `store`; returns the end, and what it has been asked.
async fn serve(store: &Store, node: Option<NodeId>, blob: Option<BlobId>) -> (Arc<Direct>, Arc<But>, JoinHandle<()>) {
    let direct = bind(1).await;
    let gate = Arc::new(But { node, blob, results: Mutex::default() });
    let (serving, store, kept) = (direct.clone(), store.clone(), gate.clone());
    let task = tokio::spawn(async move { serving.serve(store, kept, ServeOptions::default()).await });
    (direct, gate, task)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_blob_comes_by_the_direct_path() {
    let bytes = content(1, 32 * MIB + 1);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let secret = content(3, KIB);
    let hidden = there.store.put_bytes(secret).await.unwrap();
    let near = bind(2).await;
    let (far, gate, task) = serve(&there.store, None, Some(hidden.id())).await;
    let provider = || provider(&near, far.node(), far.addresses());
    assert!(far.addresses().iter().all(|address| address.ip().is_loopback() && address.port() != 0));

    let fetched = here.store.fetch(BlobId::of(&bytes), vec![provider()], patient()).await.unwrap();
    // In one go: loopback loses packets under load, connections it must not lose.
    assert_eq!((fetched.moved, ends(&fetched.trials)), (bytes.len() as u64, vec![(far.node(), End::Complete)]));
    assert_eq!(here.read(BlobId::of(&bytes)).await, bytes);
    let refused = here.store.fetch(hidden.id(), vec![provider()], patient()).await.unwrap_err();
    assert!(refused.to_string().contains("does not give it to us"), "{refused}");
    let many: Vec<Bytes> = (0..40).map(|n| content(100 + n, 3000)).collect();
    let mut fetches = Vec::new();
    for bytes in &many {
        let id = there.store.put_bytes(bytes.clone()).await.unwrap().id();
        fetches.push(here.store.fetch(id, vec![provider()], patient()));
    }
    for (fetch, bytes) in fetches.into_iter().zip(&many) {
        assert_eq!(here.read(fetch.await.unwrap().held.id()).await, bytes);
    }
    assert!(gate.results.lock().unwrap().iter().all(Result::is_ok));
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_admitted_or_has_another_key_gets_nothing() {
    let bytes = content(1, 6 * MIB);
    let (here, there) = (Site::new().await, Site::with(&bytes).await);
    let near = bind(2).await;
    let (far, gate, task) = serve(&there.store, Some(near.node()), None).await;
    let id = BlobId::of(&bytes);
    let from_far = provider(&near, far.node(), far.addresses());
    assert!(here.store.fetch(id, vec![from_far], patient()).await.is_err());
    // The address is right, the key is not: the connection does not come about.
    let other = bind(3).await;
    let from_near = provider(&other, near.node(), far.addresses());
    let impatient = FetchOptions { stall: Duration::from_secs(2), ..patient() };
    assert!(here.store.fetch(id, vec![from_near], impatient).await.is_err());
    assert!(gate.results.lock().unwrap().is_empty());
    task.abort();
}

/// iroh-blobs without us.
async fn bare(far: &Direct) -> (Endpoint, Connection, tempfile::TempDir, FsStore) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = Builder::empty().crypto_provider(provider).clear_ip_transports();
    let endpoint = builder.bind_addr("127.0.0.1:0").unwrap().bind().await.unwrap();
    let mut peer = EndpointAddr::new(PublicKey::from_bytes(&far.node().0).unwrap());
    for address in far.addresses() {
        peer = peer.with_ip_addr(address);
    }
    let connection = endpoint.connect(peer, PROTOCOL.as_bytes()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let fs = FsStore::load(folder.path()).await.unwrap();
    (endpoint, connection, folder, fs)
}

#[tokio::test(flavor = "multi_thread")]
async fn bare_iroh_blobs_fetches_from_us_and_may_not_push() {
    let bytes = content(1, MIB + 1);
    let there = Site::with(&bytes).await;
    let (far, gate, task) = serve(&there.store, None, None).await;
    let (endpoint, connection, _folder, fs) = bare(&far).await;
    let hash = Hash::from_bytes(BlobId::of(&bytes).0);
    fs.remote().fetch(connection.clone(), HashAndFormat::raw(hash)).await.unwrap();
    assert_eq!(fs.get_bytes(hash).await.unwrap(), bytes);

    let pushed = fs.add_slice(b"pushed").await.unwrap().hash;
    let request = PushRequest::new(pushed, ChunkRangesSeq::from_ranges([ChunkRanges::all()]));
    // The provider says nothing to a push in any case; it is seen in what it did.
    let _ = fs.remote().execute_push(connection.clone(), request).await;
    connection.closed().await;
    assert!(
        matches!(gate.results.lock().unwrap().last(), Some(Err(ServeError::Misbehaved(what))) if what.contains("push"))
    );
    assert_eq!(there.store.size(BlobId::of(b"pushed")).await.unwrap(), None);
    fs.shutdown().await.unwrap();
    endpoint.close().await;
    task.abort();
}
