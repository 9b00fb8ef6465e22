//! The documents' thread over a real store.

use shoal_crdt::wanted;
use shoal_protocol::BlobId;
use shoal_protocol::ObjectId;
use shoal_protocol::change::{DocumentClass, Operation, Scalar};
use shoal_protocol::id::IdSource;
use shoal_protocol::object::function::NewFunction;

use super::*;
use crate::store::Threads;

/// Documents with their own store.
pub(crate) struct Library {
    pub(crate) documents: Documents,
    pub(crate) store: Store,
    threads: Threads,
    thread: std::thread::JoinHandle<()>,
}

pub(crate) fn mesh() -> PublicKey {
    SecretKey::of_open_mesh("test").public()
}

impl Library {
    pub(crate) fn open(folder: &std::path::Path) -> Self {
        let (store, threads) = Store::open(folder, u64::MAX, Box::new(|_, _, _| {})).unwrap();
        let (documents, thread) = Documents::open(mesh(), store.clone()).unwrap();
        Self { documents, store, threads, thread }
    }

    pub(crate) fn close(self) {
        let Self { documents, store, threads, thread } = self;
        drop((documents, store));
        thread.join().unwrap();
        threads.join();
    }
}

/// Somebody who signs for themselves.
pub(crate) struct Person {
    pub(crate) key: SecretKey,
    pub(crate) user: ObjectId,
    ids: IdSource,
}

impl Person {
    pub(crate) fn new(seed: u8) -> Self {
        let key = SecretKey::from_bytes([seed; 32]);
        let mut ids = IdSource::new(&key.public(), None);
        let user = ids.mint(u64::from(seed) + 1);
        Self { key, user, ids }
    }

    fn wanted(&self, document: ObjectId, class: DocumentClass, operations: Vec<Operation>) -> Wanted {
        Wanted { document, class, user: self.user, author: self.key.public(), operations }
    }

    pub(crate) async fn found(&self, documents: &Documents, name: &str) {
        documents.sign(founding(self, name), self.key.clone()).await.unwrap();
    }

    pub(crate) async fn function(&mut self, documents: &Documents, name: &str) -> ObjectId {
        let id = self.ids.mint(1000);
        let component = BlobId::of(name.as_bytes());
        let operations = wanted::function(&NewFunction::new(name, component), component, 100);
        documents.sign(self.wanted(id, DocumentClass::Function, operations), self.key.clone()).await.unwrap();
        id
    }

    pub(crate) async fn rename(&self, documents: &Documents, function: ObjectId, name: &str) {
        let change = self.wanted(function, DocumentClass::Function, vec![wanted::name(name)]);
        documents.sign(change, self.key.clone()).await.unwrap();
    }
}

/// The first change of somebody's own document.
pub(crate) fn founding(person: &Person, name: &str) -> Wanted {
    let operations = vec![wanted::name(name), wanted::key(&person.key.public(), "laptop")];
    person.wanted(person.user, DocumentClass::User, operations)
}

/// All that a node holds, in the order of its journal.
pub(crate) fn all(set: &impl Shared) -> Vec<SignedItem> {
    let held: Vec<Held> = set.with_index(|index| index.iter().collect());
    set.read_items(&held, usize::MAX).unwrap().into_iter().map(Option::unwrap).collect()
}

pub(crate) fn root(set: &impl Shared) -> shoal_protocol::wire::sync::Fingerprint {
    set.with_index(Index::root)
}

#[tokio::test]
async fn a_batch_is_taken_once_and_in_any_order() {
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [a, b] = folders.each_ref().map(|folder| Library::open(folder.path()));
    let mut ada = Person::new(1);
    ada.found(&a.documents, "ada").await;
    let function = ada.function(&a.documents, "first").await;
    ada.rename(&a.documents, function, "second").await;
    let mut items = all(&a.documents);
    assert_eq!(items.len(), 3);
    items.reverse();

    let mut feed = b.documents.accepted();
    let (last, earlier) = items.split_first().unwrap();
    let stored = b.documents.receive(vec![last.clone()], Origin::Gossip).await.unwrap();
    assert_eq!(stored, Stored { held: 1, ..Stored::default() }, "held back until the change before it comes");
    assert!(b.documents.with_index(Index::is_empty) && feed.try_recv().is_err(), "nothing of it is durable yet");
    let stored = b.documents.receive(earlier.to_vec(), Origin::Sync).await.unwrap();
    assert_eq!(stored, Stored { taken: 2, ..Stored::default() });
    let accepted = feed.try_recv().unwrap();
    assert_eq!((accepted.origin, accepted.items.len()), (Origin::Sync, 3));
    assert!(feed.try_recv().is_err(), "one commit");
    assert_eq!(b.documents.receive(items, Origin::Sync).await.unwrap(), Stored { idle: 3, ..Stored::default() });
    assert_eq!(b.documents.directory().function(function).unwrap().name, "second");
    assert_eq!(root(&a.documents), root(&b.documents));
    a.close();
    b.close();
}

#[tokio::test]
async fn the_index_is_rebuilt_at_a_start() {
    let folder = tempfile::tempdir().unwrap();
    let library = Library::open(folder.path());
    let mut ada = Person::new(1);
    ada.found(&library.documents, "ada").await;
    ada.function(&library.documents, "f").await;
    let (before, items) = (root(&library.documents), all(&library.documents));
    library.close();
    let library = Library::open(folder.path());
    assert_eq!((root(&library.documents), all(&library.documents)), (before, items));
    library.close();
}

#[tokio::test]
async fn what_no_honest_node_passes_on_is_refused_and_leaves_no_trace() {
    let folder = tempfile::tempdir().unwrap();
    let library = Library::open(folder.path());
    let ada = Person::new(1);
    let change = library.documents.prepare(founding(&ada, "ada")).await.unwrap();
    let signed = SignedItem::from(change.sign(&ada.key));
    let forged = SignedItem::from(change.sign(&SecretKey::from_bytes([9; 32])));
    let foreign = Change { mesh: PublicKey([7; 32]), ..change.clone() }.sign(&ada.key).into();
    let newer = Change { version: shoal_protocol::change::VERSION + 1, ..change }.sign(&ada.key).into();
    let noise = SignedItem { bytes: b"noise".as_slice().into(), signature: signed.signature };
    let batch = vec![forged, foreign, noise, newer];
    let stored = library.documents.receive(batch, Origin::Sync).await.unwrap();
    assert_eq!(stored, Stored { refused: 3, idle: 1, ..Stored::default() });
    assert!(library.documents.with_index(Index::is_empty));
    assert!(library.store.scan_prefix(Table::Changes, &[], None, 10).unwrap().is_empty());
    library.documents.apply(signed.into()).await.unwrap();
    assert_eq!(library.documents.with_index(Index::len), 1);
    library.close();
}

/// Changes that are together more than one frame of the journal takes.
fn more_than_a_frame(ada: &mut Person) -> Vec<SignedItem> {
    let descriptions: Vec<_> = (0..7).map(|n| wanted::description(&n.to_string().repeat(8 * 1024))).collect();
    let mut change = |n: usize| {
        let component = BlobId::of(b"code");
        let mut operations = wanted::function(&NewFunction::new(format!("f{n}"), component), component, 100);
        operations.extend(descriptions.clone());
        let owner = Scalar::Text(ada.user.to_string());
        operations.push(Operation::Put { path: vec!["owner".into()], value: owner });
        let document = ada.ids.mint(1000 + n as u64);
        let (user, author) = (ada.user, ada.key.public());
        let change = Change {
            version: shoal_protocol::change::VERSION,
            mesh: mesh(),
            document,
            class: DocumentClass::Function,
            user,
            author,
            sequence: 1,
            deps: Vec::new(),
            operations,
        };
        SignedItem::from(change.sign(&ada.key))
    };
    (0..1200).map(&mut change).collect()
}

#[tokio::test]
async fn after_a_failed_write_nothing_of_the_batch_is_there_and_it_can_be_sent_again() {
    let folder = tempfile::tempdir().unwrap();
    let library = Library::open(folder.path());
    let mut ada = Person::new(1);
    ada.found(&library.documents, "ada").await;
    let before = root(&library.documents);
    let items = more_than_a_frame(&mut ada);
    let failed = library.documents.receive(items.clone(), Origin::Sync).await.unwrap_err();
    assert_eq!(failed.kind, Kind::StorageUnavailable);
    assert_eq!(root(&library.documents), before);
    assert_eq!(library.documents.directory().of_class(DocumentClass::Function, None).count(), 0);
    let stored = library.documents.receive(items[..100].to_vec(), Origin::Sync).await.unwrap();
    assert_eq!(stored, Stored { taken: 100, ..Stored::default() });
    assert_eq!(library.documents.with_index(Index::len), 101);
    library.close();
}
