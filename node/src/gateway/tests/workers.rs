//! Workers, well-behaved and not.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use shoal_kernel::Input;
use shoal_protocol::limits::MESSAGE_LEN_MAX;
use shoal_protocol::object::function::RunLimits;
use shoal_protocol::object::job::{Ending as RunEnding, Failure, FailureCode, Outcome, Payload, Usage};
use shoal_protocol::object::kv::Key;
use shoal_protocol::object::kv::Scope;
use shoal_protocol::object::worker::Offer;
use shoal_protocol::wire::client::{BlobOpened, BlobStored, Reply};
use shoal_protocol::wire::worker::{
    Answer, Ask, Attach, BlobRequest, Credential, FromWorker, KvOperation, Namespace, Run, Start, ToWorker,
};
use shoal_protocol::{BlobId, Kind, ObjectId, WorkerId};

use super::*;

const ALPN: &[u8] = worker::ALPN;
const WORKER: WorkerId = WorkerId::MAX;
const OURS: Run = Run { job: ObjectId::MAX, epoch: 3 };
const ANOTHERS: Run = Run { job: ObjectId::MIN, epoch: 3 };

fn attach(key: &SecretKey, credential: Credential) -> Attach {
    Attach {
        name: "w".into(),
        key: key.public(),
        incarnation: 1,
        pid: std::process::id(),
        credential,
        offer: Offer { slots: 2, memory_mb: 512, ..Offer::default() },
        runs: vec![],
    }
}

struct Worker {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
}

impl Worker {
    async fn knock(running: &Running, key: &SecretKey, message: &FromWorker) -> Self {
        let connection = running.connect(ALPN, Some(key)).await;
        let (mut to, from) = connection.open_bi().await.expect("a stream");
        send(&mut to, message).await;
        Self { connection, send: to, receive: from }
    }

    async fn say(&mut self, message: &FromWorker) {
        send(&mut self.send, message).await;
    }

    async fn hear(&mut self) -> ToWorker {
        receive(&mut self.receive).await.expect("a message")
    }

    async fn refusal(mut self) -> (Kind, u32) {
        match self.hear().await {
            ToWorker::Refused(problem) => (problem.kind, closed(&self.connection).await.0),
            other => panic!("{other:?} instead of a refusal"),
        }
    }
}

fn ticket(running: &Running) -> Credential {
    let text = running.identity.worker_ticket(WORKER, "gpu", u64::MAX, "quic://x@h:1").expect("a ticket");
    Credential::Ticket(text)
}

/// A worker that is let in and was given [`OURS`].
async fn with_run(running: &Running, key: &SecretKey) -> Worker {
    let mut worker = Worker::knock(running, key, &FromWorker::Attach(attach(key, ticket(running)))).await;
    assert!(matches!(worker.hear().await, ToWorker::Attached { worker: WORKER, .. }));
    let outbox = running.stub.0.outboxes.lock().expect("a list").last().expect("an outbox").clone();
    outbox.send(ToWorker::Start(Box::new(start()))).await.expect("a session");
    assert!(matches!(worker.hear().await, ToWorker::Start(_)));
    worker
}

fn start() -> Start {
    Start {
        run: OURS,
        attempt: 1,
        component: BlobId([0; 32]),
        name: "f".into(),
        args: vec![],
        env: BTreeMap::new(),
        input: Payload::empty(),
        memory_mb: 1,
        limits: RunLimits::default(),
        grants: vec![],
        checkpoint: None,
        trace: String::new(),
        traceparent: None,
    }
}

fn failed(message: String, output: Payload) -> Box<Outcome> {
    let failure = Failure { code: FailureCode::Guest, message };
    Box::new(Outcome {
        ending: RunEnding::Failed(failure),
        exit_code: Some(1),
        output,
        log: Payload::empty(),
        log_dropped: 0,
        usage: Usage::default(),
    })
}

#[tokio::test]
async fn the_nodes_own_worker_comes_in_with_its_key_and_meets_its_supervisor() {
    let running = Running::start().await;
    let folder = running.folder.path().join("worker");
    crate::identity::files::make_folder(&folder).expect("a folder");
    let key = crate::identity::files::read_or_create_key(&folder.join("key")).expect("a key");
    let attach_local = FromWorker::Attach(attach(&key, Credential::Local));
    let mut worker = Worker::knock(&running, &key, &attach_local).await;
    let ToWorker::Attached { worker: id, .. } = worker.hear().await else { panic!("not attached") };
    assert_eq!(id, running.identity.workers.local());
    {
        let attached = running.stub.0.attached.lock().expect("a list");
        assert!(attached[0].local && attached[0].offer.slots == 2);
    }
    assert!(running.local.tell(ToWorker::Stop { now: false }));
    assert_eq!(worker.hear().await, ToWorker::Stop { now: false });
    let (dead, connection) = running.local.died().expect("an attachment");
    assert_eq!(dead, id);
    closed(&worker.connection).await;
    let detached = Input::WorkerDetached { worker: id, connection, dead: false };
    running.stub.heard(|input| *input == detached).await;
    // Another key does not pass for it.
    let stranger = SecretKey::from_bytes([9; 32]);
    let worker = Worker::knock(&running, &stranger, &FromWorker::Attach(attach(&stranger, Credential::Local))).await;
    assert_eq!(worker.refusal().await, (Kind::Unauthenticated, close::UNAUTHENTICATED));
    running.stop().await;
}

#[tokio::test]
async fn a_ticket_lets_in_the_key_that_shows_it_first() {
    let running = Running::start().await;
    let key = SecretKey::from_bytes([5; 32]);
    let worker = with_run(&running, &key).await;
    drop(worker);
    let credential = ticket(&running);
    let other = SecretKey::from_bytes([6; 32]);
    let worker = Worker::knock(&running, &other, &FromWorker::Attach(attach(&other, credential.clone()))).await;
    assert_eq!(worker.refusal().await, (Kind::Unauthenticated, close::UNAUTHENTICATED));
    // A key that the connection does not prove.
    let worker = Worker::knock(&running, &other, &FromWorker::Attach(attach(&key, credential.clone()))).await;
    assert_eq!(worker.refusal().await, (Kind::Unauthenticated, close::UNAUTHENTICATED));
    let mut worker = Worker::knock(&running, &key, &FromWorker::Attach(attach(&key, credential))).await;
    assert!(matches!(worker.hear().await, ToWorker::Attached { .. }));
    running.stop().await;
}

#[tokio::test]
async fn what_a_worker_says_reaches_the_kernel_within_bounds() {
    let running = Running::start().await;
    let key = SecretKey::from_bytes([5; 32]);
    let mut worker = with_run(&running, &key).await;
    worker.say(&FromWorker::Started(OURS)).await;
    worker.say(&FromWorker::Heartbeat { runs: vec![OURS] }).await;
    worker.say(&FromWorker::Ended(OURS, failed("ä".repeat(10_000), Payload::empty()))).await;
    running.stub.heard(|input| matches!(input, Input::Started { worker: WORKER, run: OURS })).await;
    running.stub.heard(|input| matches!(input, Input::Heartbeat { worker: WORKER, .. })).await;
    let ended = running.stub.heard(|input| matches!(input, Input::Ended { .. })).await;
    let Input::Ended { outcome, .. } = ended else { panic!("just matched") };
    let RunEnding::Failed(failure) = outcome.ending else { panic!("it failed") };
    assert_eq!(failure.message.len(), MESSAGE_LEN_MAX);
    worker.connection.close(0u32.into(), b"");
    running.stub.heard(|input| matches!(input, Input::WorkerDetached { worker: WORKER, dead: false, .. })).await;
    running.stop().await;
}

#[tokio::test]
async fn a_worker_speaks_for_the_runs_that_it_was_given_only() {
    let running = Running::start().await;
    let key = SecretKey::from_bytes([5; 32]);
    let mut worker = with_run(&running, &key).await;
    let bytes = vec![7; 200_000];
    let id = BlobId::of(&bytes);
    for run in [ANOTHERS, OURS] {
        worker.say(&FromWorker::Log { run, offset: 0, bytes: b"x"[..].into() }).await;
        let ask = Ask::Kv {
            namespace: Namespace::Function,
            scope: Scope::Local,
            operation: KvOperation::Get(Key { key: "k".into(), after: None, timeout_ms: None }),
        };
        worker.say(&FromWorker::Ask { call: run.epoch, run, ask }).await;
        let ToWorker::Answer { call: 3, answer } = worker.hear().await else { panic!("no answer") };
        let (mut to, mut from) = worker.connection.open_bi().await.expect("a stream");
        send(&mut to, &BlobRequest::Put { run }).await;
        if run == OURS {
            assert_eq!(answer, Ok(Answer::Entry(None)));
            send_raw(&mut to, &bytes).await;
            to.finish().expect("finished");
            assert_eq!(receive(&mut from).await, Some(Reply::Ok(BlobStored { id, size: 200_000 })));
            let (mut to, mut from) = worker.connection.open_bi().await.expect("a stream");
            send(&mut to, &BlobRequest::Get { run, id, offset: 0, len: None }).await;
            assert_eq!(receive(&mut from).await, Some(Reply::Ok(BlobOpened { id, size: 200_000 })));
            assert_eq!(within(from.read_to_end(bytes.len())).await.expect("all"), bytes);
        } else {
            assert_eq!(answer.expect_err("not its run").kind, Kind::Forbidden);
            let refused: Reply<BlobStored> = receive(&mut from).await.expect("an answer");
            assert_eq!(refused.expect_err("not its run").kind, Kind::Forbidden);
        }
    }
    assert_eq!(*running.stub.0.logs.lock().expect("a list"), vec![(OURS, 0, b"x".to_vec())]);
    running.stop().await;
}

#[tokio::test]
async fn a_worker_that_breaks_the_protocol_is_told_and_detached() {
    let running = Running::start().await;
    let key = SecretKey::from_bytes([5; 32]);
    let large = Payload::Inline(vec![0; 100_000].into());
    let again = FromWorker::Attach(attach(&key, Credential::Local));
    let encode = |message: &FromWorker| codec::frame(message, usize::MAX).expect("a frame");
    for (bytes, kind) in [
        (vec![0xff; 8], Kind::TooLarge),
        (vec![0, 0, 0, 2, 1, 1], Kind::Malformed),
        (encode(&again), Kind::Malformed),
        (encode(&FromWorker::Heartbeat { runs: vec![OURS; 5_000] }), Kind::TooLarge),
        (encode(&FromWorker::Ended(OURS, failed(String::new(), large))), Kind::TooLarge),
    ] {
        let mut worker = with_run(&running, &key).await;
        send_raw(&mut worker.send, &bytes).await;
        assert_eq!(worker.refusal().await, (kind, close::PROTOCOL));
        running.stub.heard(|input| matches!(input, Input::WorkerDetached { .. })).await;
        running.stub.0.inputs.lock().expect("a list").clear();
    }
    let stub = running.stub.clone();
    running.stop().await;
    assert_eq!((stub.0.faults.load(Ordering::SeqCst), stub.0.connections.load(Ordering::SeqCst)), (5, 0));
}

#[tokio::test]
async fn an_attachment_that_makes_no_sense_is_refused() {
    let running = Running::start().await;
    let key = SecretKey::from_bytes([5; 32]);
    let good = attach(&key, ticket(&running));
    let offer = |slots| Offer { slots, ..good.offer.clone() };
    for (message, kind) in [
        (FromWorker::Leaving, Kind::Malformed),
        (FromWorker::Attach(Attach { name: "A B".into(), ..good.clone() }), Kind::InvalidField),
        (FromWorker::Attach(Attach { offer: offer(0), ..good.clone() }), Kind::InvalidField),
        (FromWorker::Attach(Attach { offer: offer(u32::MAX), ..good.clone() }), Kind::InvalidField),
        (FromWorker::Attach(Attach { runs: vec![OURS; 2], ..good.clone() }), Kind::InvalidField),
        (FromWorker::Attach(attach(&key, Credential::Ticket("x".into()))), Kind::Unauthenticated),
    ] {
        let worker = Worker::knock(&running, &key, &message).await;
        assert_eq!(worker.refusal().await.0, kind, "{message:?}");
    }
    assert!(running.stub.0.attached.lock().expect("a list").is_empty());
    running.stop().await;
}

#[tokio::test]
async fn a_session_whose_outbox_ends_closes_its_connection() {
    let running = Running::start().await;
    let key = SecretKey::from_bytes([5; 32]);
    let worker = with_run(&running, &key).await;
    running.stub.0.outboxes.lock().expect("a list").clear();
    assert_eq!(closed(&worker.connection).await.0, close::REPLACED);
    let mut worker = with_run(&running, &key).await;
    let outbox = running.stub.0.outboxes.lock().expect("a list").pop().expect("an outbox");
    outbox.send(ToWorker::Refused(shoal_protocol::Problem::new(Kind::Conflict, "sent away"))).await.expect("a session");
    assert!(matches!(worker.hear().await, ToWorker::Refused(_)));
    assert_eq!(closed(&worker.connection).await, (close::REFUSED, "sent away".into()));
    running.stop().await;
}

#[tokio::test]
async fn a_restarted_node_says_at_once_that_old_connections_are_gone() {
    let running = Running::start().await;
    let key = SecretKey::from_bytes([5; 32]);
    let worker = with_run(&running, &key).await;
    running.stop().await;
    assert_eq!(closed(&worker.connection).await, (close::STOPPING, "the node stops".into()));
}
