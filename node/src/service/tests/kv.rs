//! Keys: lists that fit into the frames that carry them.

use shoal_protocol::limits::{CLIENT_FRAME_LEN_MAX, VALUE_LEN_MAX, WORKER_FRAME_LEN_MAX};
use shoal_protocol::object::Page;
use shoal_protocol::object::job::Input;
use shoal_protocol::object::kv::{Entry, ListKeys, Put, Scope, Value};
use shoal_protocol::wire::client::Response;
use shoal_protocol::wire::worker::{Answer as GuestAnswer, Ask, KvOperation, Namespace};

use super::*;

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
