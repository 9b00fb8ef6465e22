//! Keys: lists that fit into the frames that carry them.

use shoal_protocol::limits::{CLIENT_FRAME_LEN_MAX, VALUE_LEN_MAX, WORKER_FRAME_LEN_MAX};
use shoal_protocol::object::Page;
use shoal_protocol::object::job::Input;
use shoal_protocol::object::kv::{Entry, ListKeys, Put, Scope, Value};
use shoal_protocol::wire::client::Response;
use shoal_protocol::wire::worker::{Answer as GuestAnswer, Ask, KvOperation, Namespace};

use super::*;
use crate::replication::{Origin, Sets, Shared as _};

fn put(key: String, len: usize) -> KvOperation {
    KvOperation::Set(Put { key, value: Value::Bytes(vec![7; len].into()), version: None })
}

fn ask(scope: Scope, operation: KvOperation) -> Ask {
    Ask::Kv { namespace: Namespace::Function, scope, operation }
}

#[tokio::test]
async fn a_list_fits_into_the_frame_of_its_answer_and_ends_with_none() {
    let world = World::new().await;
    let function = world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    world.submit(&world.operator, "f", Input::default()).await;
    let run = worker.start().await.run;
    for (scope, count, len) in
        [(Scope::Local, 20, VALUE_LEN_MAX), (Scope::Global, 20, VALUE_LEN_MAX), (Scope::Local, 700, 0)]
    {
        let prefix = format!("{len}-");
        // The longest keys that there are.
        let keys: Vec<String> =
            (0..count).map(|n| format!("{prefix}{n:0>width$}", width = 512 - prefix.len())).collect();
        for key in &keys {
            world.service.ask(worker.id, run, ask(scope, put(key.clone(), len))).await.unwrap();
        }
        let (mut seen, mut after, mut answers) = (Vec::new(), None, 0);
        loop {
            let list = ListKeys { prefix: prefix.clone(), after: after.clone(), limit: Some(1000) };
            let answer = within(world.service.ask(worker.id, run, ask(scope, KvOperation::List(list)))).await.unwrap();
            let framed = ToWorker::Answer { call: u64::MAX, answer: Ok(answer.clone()) };
            assert!(codec::frame(&framed, WORKER_FRAME_LEN_MAX).is_ok(), "the guest would never see it");
            let GuestAnswer::Entries(entries) = answer else { panic!("no list") };
            let Some(last) = entries.last() else { break };
            after = Some(last.key.clone());
            answers += 1;
            seen.extend(entries.into_iter().map(|entry| entry.key));
        }
        assert_eq!(seen, keys, "{scope:?}");
        assert!((2..10).contains(&answers), "{answers} answers: as much as fits in each");
    }

    let list = method(Class::Kv, function.id, "list");
    let body = ListKeys { limit: Some(1000), ..ListKeys::default() };
    let page: Page<Entry> = world.call(&world.operator, list.clone(), &body).await.unwrap();
    assert!(page.items.len() > 10 && page.items.len() < 20);
    assert_eq!(page.next.as_ref(), page.items.last().map(|last| &last.key));
    let response = Response { id: u64::MAX, status: 200, etag: None, body: codec::encode(&page).into() };
    assert!(codec::frame(&response, CLIENT_FRAME_LEN_MAX).is_ok());
    let rest = ListKeys { after: page.next, ..body };
    let rest: Page<Entry> = world.call(&world.operator, list, &rest).await.unwrap();
    assert_eq!((page.items.len() + rest.items.len(), rest.next), (20, None));
}

#[tokio::test]
async fn what_is_local_never_leaves_the_node_and_what_is_global_does() {
    let world = World::new().await;
    let kv = &world.service.0.kv;
    let sets = Sets::new(world.service.0.documents.clone(), kv.clone());
    let mut feed = sets.accepted_entries();
    let before = sets.digest();
    let set = |scope: &str| {
        let filters = [("scope".to_owned(), scope.to_owned())].into();
        let query = shoal_protocol::object::ListQuery { filters, ..Default::default() };
        Call::Method { class: Class::Kv, object: "me".into(), method: "set".into(), query }
    };
    let put = |text: &str| Put { key: "k".into(), value: Value::Text(text.into()), version: None };
    let _: Entry = world.call(&world.operator, set("local"), &put("secret")).await.unwrap();
    assert!(feed.try_recv().is_err());
    assert_eq!((sets.digest(), sets.counts().entries), (before, 0));

    for text in ["first", "second"] {
        let _: Entry = world.call(&world.operator, set("global"), &put(text)).await.unwrap();
        let accepted = feed.try_recv().unwrap();
        assert_eq!((accepted.origin, accepted.items.len()), (Origin::Local, 1));
        let entry = accepted.items[0].decode().unwrap();
        assert_eq!(entry.content, shoal_protocol::entry::Content::Value(Value::Text(text.into())));
    }
    assert_eq!(sets.counts().entries, 1, "the first does not stand any more");
    let held: Vec<_> = kv.with_index(|index| index.iter().collect());
    let items = kv.read_items(&held, usize::MAX).unwrap();
    let entry = shoal_protocol::entry::SignedEntry::from(items[0].clone().unwrap()).decode().unwrap();
    assert_eq!((entry.counter, entry.node), (2, world.service.0.identity.node_id()));
}

#[tokio::test]
async fn a_peers_entry_refers_to_its_blob_as_one_of_this_node_does() {
    let world = World::new().await;
    let user = world.operator.principal.user.unwrap();
    let key = SecretKey::from_bytes([5; 32]);
    let references = || {
        let table = crate::store::Table::References;
        let rows = world.runtime.store().scan_prefix(table, BlobId::of(b"far away").as_bytes(), None, 10).unwrap();
        rows.len()
    };
    let blob = Value::Blob(BlobId::of(b"far away"));
    for (content, counter, expected) in
        [(shoal_protocol::entry::Content::Value(blob), 1, 1), (shoal_protocol::entry::Content::Tombstone, 2, 0)]
    {
        let entry = shoal_protocol::entry::Entry {
            version: shoal_protocol::entry::VERSION,
            mesh: world.service.0.node.mesh.key,
            namespace: user,
            key: "k".into(),
            content,
            counter,
            node: key.public().into(),
            author: user,
            job: None,
        };
        let item = entry.sign(&key).into();
        let stored = world.service.0.kv.receive(vec![item], Origin::Sync).await.unwrap();
        assert_eq!((stored.taken, references()), (1, expected));
    }
}

#[tokio::test]
async fn a_guest_names_no_blob_in_a_key_that_nobody_of_its_job_may_read() {
    let world = World::new().await;
    let stranger = world.user("stranger").await;
    let (theirs, own) = (world.put(&stranger, b"theirs").await, world.put(&world.operator, b"own").await);
    world.deploy("f").await;
    let mut worker = Worker::attach(&world).await;
    world.submit(&world.operator, "f", Input::default()).await;
    let run = worker.start().await.run;
    let bytes = stream::once(Bytes::from_static(b"made by the run"));
    let made = world.service.put_blob_for_run(worker.id, run, bytes).await.unwrap().id;
    for scope in [Scope::Local, Scope::Global] {
        let name = |id| KvOperation::Set(Put { key: "k".into(), value: Value::Blob(id), version: None });
        let refused = world.service.ask(worker.id, run, ask(scope, name(theirs))).await.unwrap_err();
        assert_eq!(refused.kind, Kind::Forbidden, "{refused}");
        for id in [own, made] {
            world.service.ask(worker.id, run, ask(scope, name(id))).await.unwrap();
        }
    }
}
