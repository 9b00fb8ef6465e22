//! Blobs that nothing refers to any more, or only seemed so.

use shoal_protocol::Kind;
use shoal_protocol::object::job::Input;
use shoal_protocol::object::kv::{Put, Value};

use super::*;
use crate::runtime::{Referrer, reference_key};
use crate::store::{Mutation, Table};

const LONG: usize = 100_000;

impl World {
    async fn refer(&self, id: BlobId) {
        let key = reference_key(id, Referrer::Kv(ObjectId::MAX), &[]);
        self.runtime.store().commit(vec![Mutation::put(Table::References, key, Bytes::new())]).await.unwrap();
    }

    async fn is_here(&self, id: BlobId) -> bool {
        self.service.blob_size(id).await.unwrap().is_some()
    }
}

#[tokio::test]
async fn a_reference_that_appears_while_its_blob_is_forgotten_saves_it() {
    let world = World::new().await;
    let id = world.put(&world.operator, &vec![1; LONG]).await;
    assert!(world.service.begin_forgetting(id).await.unwrap());
    world.refer(id).await;
    assert!(!world.service.end_forgetting(id, |_| true).await.unwrap());
    world.service.sweep_blobs().await.unwrap();
    assert_eq!(world.read(&world.operator, id).await.unwrap().len(), LONG, "and it is still its owner's");
    assert!(!world.service.begin_forgetting(id).await.unwrap());
}

#[tokio::test]
async fn a_blob_that_is_taken_while_it_is_forgotten_is_kept_for_whoever_took_it() {
    let world = World::new().await;
    let id = world.put(&world.operator, &vec![2; LONG]).await;
    assert!(world.service.begin_forgetting(id).await.unwrap());
    // From here on it is held, but nothing durable says so when its fate is decided.
    let held = world.service.hold_blob(id).await.unwrap().unwrap();
    assert!(world.service.end_forgetting(id, |_| true).await.unwrap());
    world.refer(id).await;
    drop(held);
    world.service.collect_blobs().await.unwrap();
    assert!(world.is_here(id).await);
}

#[tokio::test]
async fn jobs_keys_and_functions_hold_what_they_are_about_to_refer_to() {
    let world = World::new().await;
    let function = world.deploy("f").await;
    let (input, value) = (world.put(&world.operator, &vec![3; LONG]).await, world.put(&world.operator, &[4]).await);
    for id in [input, value, function.current] {
        // As if it had just been forgotten by a sweep.
        world.service.0.blobs.forget(id).await.unwrap();
    }
    world.submit(&world.operator, "f", Input::Blob(input)).await;
    let put = Put { key: "k".into(), value: Value::Blob(value), version: None };
    world.tell(&world.operator, method(Class::Kv, "me", "set"), &put).await.unwrap();
    let again = NewFunction::new("g", function.current);
    let again = NewFunction { grants: [Grant::Blob].into(), ..again };
    world.tell(&world.operator, Call::Create { class: Class::Function }, &again).await.unwrap();
    world.service.collect_blobs().await.unwrap();
    for id in [input, value, function.current] {
        assert!(world.is_here(id).await);
    }
}

#[tokio::test]
async fn whoever_has_uploaded_the_same_bytes_may_read_them_and_nobody_else_may() {
    let world = World::new().await;
    let (second, third) = (world.user("second").await, world.user("third").await);
    let id = world.put(&world.operator, &vec![7; LONG]).await;
    assert!(world.read(&second, id).await.is_err());
    assert_eq!(world.put(&second, &vec![7; LONG]).await, id);
    assert_eq!(world.read(&second, id).await.unwrap().len(), LONG);
    assert_eq!(world.read(&world.operator, id).await.unwrap().len(), LONG, "who was first may still");
    assert!(world.read(&third, id).await.is_err());
}

#[tokio::test]
async fn what_is_about_to_be_referred_to_is_neither_forgotten_nor_deleted() {
    let world = World::new().await;
    let id = world.put(&world.operator, &vec![3; LONG]).await;
    let held = world.service.hold_blob(id).await.unwrap();
    let delete = Call::Delete { class: Class::Blob, object: id.to_string() };
    let refused = world.tell(&world.operator, delete.clone(), &()).await.unwrap_err();
    assert_eq!((refused.kind, refused.retry_after_ms), (Kind::Conflict, Some(1000)));
    world.service.sweep_blobs().await.unwrap();
    drop(held);
    assert_eq!(world.read(&world.operator, id).await.unwrap().len(), LONG);
    world.tell(&world.operator, delete, &()).await.unwrap();
    assert!(!world.is_here(id).await);
}

#[tokio::test]
async fn a_sweep_takes_what_is_old_and_what_broken_uploads_left() {
    let world = World::new().await;
    let old = world.put(&world.operator, &vec![4; LONG]).await;
    let referred = world.put(&world.operator, &vec![5; LONG]).await;
    world.refer(referred).await;
    let kept = Upload { keep: true, ..Upload::default() };
    let bytes = stream::once(vec![6; LONG].into());
    let kept = world.service.put_blob(&world.operator, kept, bytes).await.unwrap().id;
    // What a broken upload leaves: bytes that nobody holds and no row knows.
    let left = world.service.0.blobs.put_bytes(vec![7; LONG].into()).await.unwrap().id();
    assert_eq!(world.service.sweep_blobs().await.unwrap(), 2);
    assert!(!world.is_here(old).await && !world.is_here(left).await);
    assert!(world.is_here(referred).await && world.is_here(kept).await);
    // Also where nothing is old.
    let left = world.service.0.blobs.put_bytes(vec![8; LONG].into()).await.unwrap().id();
    assert_eq!(world.service.sweep_blobs().await.unwrap(), 1);
    assert!(!world.is_here(left).await);
}

#[tokio::test]
async fn a_start_finds_what_is_missing_and_keeps_what_is_referred_to() {
    let world = World::new().await;
    let id = world.put(&world.operator, &vec![9; LONG]).await;
    assert_eq!(world.service.check_references().await.unwrap(), 0);
    assert!(world.service.begin_forgetting(id).await.unwrap());
    // More references than one step looks at, to two blobs of which one is not here.
    let missing = BlobId::of(b"never put");
    for blob in [id, missing] {
        let rows = (0..600u32).map(|n| {
            let key = reference_key(blob, Referrer::Kv(ObjectId::MAX), &n.to_be_bytes());
            Mutation::put(Table::References, key, Bytes::new())
        });
        world.runtime.store().commit(rows.collect()).await.unwrap();
    }
    assert_eq!(world.service.check_references().await.unwrap(), 1);
    world.service.collect_blobs().await.unwrap();
    assert!(world.is_here(id).await, "it was forgotten, but something refers to it");
}
