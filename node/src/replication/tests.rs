//! Nodes that reconcile over streams, each with documents, global KV and a store of its own.

mod entries;
mod hostile;
mod sessions;

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use shoal_protocol::entry::{self, Content, Entry, SignedEntry};
use shoal_protocol::key::SecretKey;
use shoal_protocol::object::kv::Value;

use super::*;
use crate::documents::tests::{Library, Person, all, mesh};
use crate::logs::LogBook;
use crate::metrics::Metrics;
use crate::runtime::{Runtime, Started, current_runs};

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// A node without edges.
struct Node {
    sets: Sets,
    library: Library,
    runtime: Runtime,
    kernel: std::thread::JoinHandle<()>,
}

impl Node {
    fn open(folder: &Path) -> Self {
        let library = Library::open(folder);
        let logs = Arc::new(LogBook::new(current_runs(library.store.clone())));
        let known = Box::new(library.documents.known());
        let node = node_key(1).public().into();
        let Started { runtime, thread: kernel, .. } =
            Runtime::start((node, Default::default()), library.store.clone(), known, Arc::new(Metrics::new()), logs)
                .unwrap();
        library.documents.connect(runtime.clone());
        let kv = GlobalKv::open(mesh(), runtime.clone(), library.documents.clone()).unwrap();
        Self { sets: Sets::new(library.documents.clone(), kv), library, runtime, kernel }
    }

    async fn close(self) {
        let Self { sets, library, runtime, kernel } = self;
        runtime.stop().await;
        drop((sets, runtime));
        kernel.join().unwrap();
        library.close();
    }

    fn documents(&self) -> &Documents {
        &self.sets.documents
    }

    async fn take(&self, entries: impl IntoIterator<Item = SignedEntry>) -> Stored {
        let items = entries.into_iter().map(SignedItem::from).collect();
        within(self.sets.kv.receive(items, Origin::Sync)).await.unwrap()
    }
}

/// Folders that stay as long as the nodes in them.
struct Folders(Vec<tempfile::TempDir>);

fn nodes<const N: usize>() -> (Folders, [Node; N]) {
    let folders: Vec<_> = (0..N).map(|_| tempfile::tempdir().unwrap()).collect();
    let nodes = std::array::from_fn(|at| Node::open(folders[at].path()));
    (Folders(folders), nodes)
}

async fn close_all<const N: usize>(nodes: [Node; N]) {
    for node in nodes {
        node.close().await;
    }
}

fn node_key(seed: u8) -> SecretKey {
    SecretKey::from_bytes([seed; 32])
}

/// An entry in the author's own namespace, signed by the node with this seed.
fn signed(author: &Person, node: u8, key: &str, content: Content, counter: u64) -> SignedEntry {
    entry(author, node, key, content, counter).sign(&node_key(node))
}

fn entry(author: &Person, node: u8, key: &str, content: Content, counter: u64) -> Entry {
    Entry {
        version: entry::VERSION,
        mesh: mesh(),
        namespace: author.user,
        key: key.into(),
        content,
        counter,
        node: node_key(node).public().into(),
        author: author.user,
        job: None,
    }
}

fn text(value: &str) -> Content {
    Content::Value(Value::Text(value.into()))
}

/// Both sets, the changes first. The streams hold `buffer` bytes.
async fn reconcile_over(a: &Node, b: &Node, buffer: usize) -> [[Report; 2]; 2] {
    let session = async |set| {
        let (left, right) = tokio::io::duplex(buffer);
        let (ours, theirs) = within(async { tokio::join!(a.sets.initiate(left, set), b.sets.respond(right)) }).await;
        [ours.unwrap(), theirs.unwrap()]
    };
    [session(SetKind::Changes).await, session(SetKind::Entries).await]
}

async fn reconcile(a: &Node, b: &Node) -> [[Report; 2]; 2] {
    reconcile_over(a, b, 64 * 1024).await
}
