//! The client against a node that each test scripts, over real QUIC on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::Ipv4Addr;
use std::time::Duration;

use quinn::{Connection, Endpoint, RecvStream, SendStream};
use shoal_client::protocol::limits::{CLIENT_FRAME_LEN_MAX, CLIENT_REQUESTS_IN_FLIGHT_MAX};
use shoal_client::protocol::object::Class;
use shoal_client::protocol::object::job::{Input, LogPart, LogPlace, Receipt, Submission, Submit, Wait};
use shoal_client::protocol::object::kv::{Entry, Key, Scope, Value};
use shoal_client::protocol::wire::client::{
    ALPN, BlobOpened, BlobStored, Call, Opening, Reply, Request, Response, Welcome,
};
use shoal_client::protocol::{BlobId, Kind, ObjectId, Octets, Problem, codec};
use shoal_client::{Client, Error, NodeAddr, Options, Upload};
use shoal_protocol::key::SecretKey;
use shoal_transport::{read_frame, server_config, server_endpoint, write_frame};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

const DEADLINE: Duration = Duration::from_secs(60);
const MAX: usize = CLIENT_FRAME_LEN_MAX;

struct Node {
    endpoint: Endpoint,
    address: NodeAddr,
}

/// One client's connection, welcomed.
struct Session {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
    token: Option<String>,
}

impl Node {
    fn start() -> Self {
        let key = SecretKey::from_bytes([1; 32]);
        let config = server_config(&key, &[ALPN]).unwrap();
        let endpoint = server_endpoint((Ipv4Addr::LOCALHOST, 0).into(), config, &key).unwrap();
        let address = NodeAddr::new(key.public().into(), endpoint.local_addr().unwrap());
        Self { endpoint, address }
    }

    async fn connection(&self) -> (Connection, SendStream, RecvStream, Option<String>) {
        let connection = self.endpoint.accept().await.unwrap().await.unwrap();
        let (send, mut receive) = connection.accept_bi().await.unwrap();
        match read_frame::<Opening>(&mut receive, MAX).await.unwrap().unwrap() {
            Opening::Control { token } => (connection, send, receive, token),
            other => panic!("{other:?}"),
        }
    }

    async fn session(&self) -> Session {
        let (connection, mut send, receive, token) = self.connection().await;
        let welcome = Welcome { node: self.address.node, name: "test".into(), user: Some(id(9)) };
        write_frame(&mut send, &Reply::Ok(welcome), MAX).await.unwrap();
        Session { connection, send, receive, token }
    }
}

impl Session {
    async fn request(&mut self) -> Request {
        read_frame(&mut self.receive, MAX).await.unwrap().unwrap()
    }

    async fn answer<T: serde::Serialize>(&mut self, id: u64, status: u16, body: &T) {
        let response = Response { id, status, etag: None, body: codec::encode(body).into() };
        write_frame(&mut self.send, &response, MAX).await.unwrap();
    }

    async fn transfer(&mut self) -> (Opening, SendStream, RecvStream) {
        let (send, mut receive) = self.connection.accept_bi().await.unwrap();
        let opening = read_frame(&mut receive, MAX).await.unwrap().unwrap();
        (opening, send, receive)
    }
}

fn id(n: u64) -> ObjectId {
    ObjectId::from_parts(n, 0, [7; 8])
}

fn entry(key: &str) -> Entry {
    Entry { key: key.into(), value: Value::Text(key.to_uppercase()), version: 1 }
}

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future).await.expect("in time")
}

fn key_of(request: &Request) -> String {
    codec::decode::<Key>(&request.body).unwrap().key
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_find_their_callers_in_any_order() {
    let node = Node::start();
    let address = node.address.clone();
    let serving = tokio::spawn(async move {
        let mut session = node.session().await;
        let mut requests = Vec::new();
        for _ in 0..100 {
            requests.push(session.request().await);
        }
        requests.reverse();
        for request in requests {
            let Call::Method { class: Class::Kv, method, query, .. } = &request.call else { panic!() };
            assert_eq!((method.as_str(), query.filters["scope"].as_str()), ("get", "local"));
            session.answer(request.id, 200, &entry(&key_of(&request))).await;
        }
        session.connection.closed().await;
        session.token
    });
    let client = Client::connect(&address, Some("secret".into())).await.unwrap();
    assert_eq!(client.welcome().user, Some(id(9)));
    let callers: Vec<_> = (0..100)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let key = format!("k{n}");
                (client.kv_get(id(1), Scope::Local, &key).await.unwrap(), key)
            })
        })
        .collect();
    for caller in callers {
        let (got, key) = within(caller).await.unwrap();
        assert_eq!(got, entry(&key));
    }
    client.close().await;
    assert_eq!(within(serving).await.unwrap().as_deref(), Some("secret"));
}

#[tokio::test(flavor = "multi_thread")]
async fn submits_one_and_many() {
    let node = Node::start();
    let address = node.address.clone();
    let serving = tokio::spawn(async move {
        let mut session = node.session().await;
        let request = session.request().await;
        assert_eq!(request.call, Call::Create { class: Class::Job });
        assert_eq!(request.traceparent.as_deref(), Some(TRACEPARENT));
        let Submission::One(job) = codec::decode(&request.body).unwrap() else { panic!() };
        session.answer(request.id, 202, &std::collections::BTreeMap::from([("id", id(5))])).await;
        let request = session.request().await;
        assert_eq!(request.traceparent, None);
        let Submission::Batch(jobs) = codec::decode(&request.body).unwrap() else { panic!() };
        let full = Problem::new(Kind::Full, "too much");
        session.answer(request.id, 202, &[Receipt::Accepted { id: id(6) }, Receipt::Refused(full)]).await;
        (session, *job, jobs)
    });
    let client = Client::connect(&address, None).await.unwrap();
    let job = Submit { function: "f".into(), input: Input::Bytes(vec![255].into()), ..Submit::default() };
    let blob = Submit { function: "f".into(), input: Input::Blob(BlobId([3; 32])), ..Submit::default() };
    let traced = client.traced(TRACEPARENT.parse().unwrap());
    assert_eq!(within(traced.submit(&job)).await.unwrap(), id(5));
    let receipts = within(client.submit_batch(&[job.clone(), blob.clone()])).await.unwrap();
    assert_eq!(receipts[0], Receipt::Accepted { id: id(6) });
    assert!(matches!(&receipts[1], Receipt::Refused(problem) if problem.kind == Kind::Full));
    let (_session, one, many) = within(serving).await.unwrap();
    assert_eq!((one, many), (job.clone(), vec![job, blob]));
}

#[tokio::test(flavor = "multi_thread")]
async fn problems_reach_the_caller() {
    let node = Node::start();
    let address = node.address.clone();
    let serving = tokio::spawn(async move {
        let (_connection, mut send, _receive, token) = node.connection().await;
        assert_eq!(token.as_deref(), Some("forged"));
        let problem = Problem::new(Kind::Unauthenticated, "this token does not count");
        write_frame(&mut send, &Reply::<Welcome>::Err(problem), MAX).await.unwrap();
        let mut session = node.session().await;
        let request = session.request().await;
        session.answer(request.id, 404, &Problem::new(Kind::NotFound, "no such job").retry_after(7)).await;
        session
    });
    let refused = within(Client::connect(&address, Some("forged".into()))).await.map(|_| ()).unwrap_err();
    assert_eq!(refused.kind(), Some(Kind::Unauthenticated));
    let client = Client::connect(&address, None).await.unwrap();
    let error = within(client.job(id(1), false)).await.unwrap_err();
    assert!(error.is_not_found(), "{error}");
    let Error::Problem(problem) = error else { panic!() };
    assert_eq!((problem.detail.as_str(), problem.retry_after_ms), ("no such job", Some(7)));
    within(serving).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_cut_reads_are_repeated_and_writes_are_not() {
    let node = Node::start();
    let address = node.address.clone();
    let serving = tokio::spawn(async move {
        for _ in 0..2 {
            let mut session = node.session().await;
            session.request().await;
            session.connection.close(7u32.into(), b"cut");
        }
        let mut session = node.session().await;
        let request = session.request().await;
        session.answer(request.id, 200, &entry(&key_of(&request))).await;
        let request = session.request().await;
        assert_eq!(request.call, Call::Create { class: Class::Job });
        session.connection.close(7u32.into(), b"cut");
        // Nothing may come again but what is asked anew.
        let mut session = node.session().await;
        let request = session.request().await;
        session.answer(request.id, 200, &entry(&key_of(&request))).await;
        session
    });
    let client = Client::connect(&address, None).await.unwrap();
    assert_eq!(within(client.kv_get(id(1), Scope::Global, "a")).await.unwrap(), entry("a"));
    let lost = within(client.submit(&Submit { function: "f".into(), ..Submit::default() })).await.unwrap_err();
    assert!(matches!(lost, Error::Disconnected), "{lost}");
    assert_eq!(within(client.kv_get(id(1), Scope::Global, "b")).await.unwrap(), entry("b"));
    within(serving).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_is_asked_again_until_the_job_is_settled() {
    let node = Node::start();
    let address = node.address.clone();
    let serving = tokio::spawn(async move {
        let mut session = node.session().await;
        let mut asked = Vec::new();
        for state in ["running", "running", "succeeded"] {
            let request = session.request().await;
            asked.push(codec::decode::<Wait>(&request.body).unwrap());
            session.answer(request.id, 200, &job(state)).await;
        }
        (session, asked)
    });
    let client = Client::connect(&address, None).await.unwrap();
    let done = within(client.wait(id(5), Some(Duration::from_secs(100)), true)).await.unwrap();
    assert!(done.state.is_settled());
    let (_session, asked) = within(serving).await.unwrap();
    assert!(asked.iter().all(|wait| wait.inline && wait.timeout_ms.unwrap() <= 60_000));
}

fn job(state: &str) -> shoal_client::protocol::object::job::Job {
    use shoal_client::protocol::object::job::{Bytes, Job, State};
    Job {
        id: id(5),
        name: String::new(),
        labels: Default::default(),
        function: id(2),
        function_name: "f".into(),
        version: 1,
        component: BlobId([1; 32]),
        owner: id(9),
        home: shoal_client::protocol::NodeId([1; 32]),
        durability: None,
        effects: Default::default(),
        custodians: Vec::new(),
        regent: None,
        unconfirmed: false,
        superseded: None,
        state: State::ALL.into_iter().find(|s| s.text() == state).unwrap(),
        reason: None,
        epoch: 1,
        accepted_ms: 1,
        settled_ms: None,
        args: vec![],
        needs: Default::default(),
        limits: Default::default(),
        not_before_ms: None,
        priority: 0,
        retry: None,
        on_disconnect: None,
        disconnected_ms: None,
        memo: false,
        memo_of: None,
        notify: None,
        called: None,
        array: None,
        elements: None,
        index: None,
        array_id: None,
        idempotency_key: None,
        duplicate_of: None,
        rerun_of: None,
        after: vec![],
        input_of: None,
        progress: None,
        checkpoint: None,
        project: None,
        input: Bytes { id: BlobId::of(b""), size: 0, inline: None },
        output: None,
        log: None,
        log_dropped: 0,
        failure: None,
        exit_code: None,
        usage: None,
        attempts: vec![],
        attempts_total: 1,
        refusals: vec![],
        refusals_total: 0,
        trace: "0".repeat(32),
        traceparent: None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_in_flight_are_bounded() {
    let node = Node::start();
    let address = node.address.clone();
    let more = 10;
    let (full, is_full) = tokio::sync::oneshot::channel();
    let serving = tokio::spawn(async move {
        let mut session = node.session().await;
        let mut waiting = std::collections::VecDeque::new();
        for _ in 0..CLIENT_REQUESTS_IN_FLIGHT_MAX {
            waiting.push_back(session.request().await);
        }
        full.send(()).unwrap();
        // A transfer goes through meanwhile: with the bound broken, a further request is there by now.
        let (_, mut send, mut receive) = session.transfer().await;
        let id = BlobId::of(&receive.read_to_end(100).await.unwrap());
        write_frame(&mut send, &Reply::Ok(BlobStored { id, size: 9 }), MAX).await.unwrap();
        let mut byte = [0; 1];
        let early = tokio::select! {
            biased;
            _ = session.receive.read(&mut byte) => true,
            () = std::future::ready(()) => false,
        };
        assert!(!early, "a request above the bound was sent");
        for _ in 0..CLIENT_REQUESTS_IN_FLIGHT_MAX + more {
            let request = match waiting.pop_front() {
                Some(request) => request,
                None => session.request().await,
            };
            session.answer(request.id, 200, &entry(&key_of(&request))).await;
        }
        session
    });
    let client = Client::connect(&address, None).await.unwrap();
    let callers: Vec<_> = (0..CLIENT_REQUESTS_IN_FLIGHT_MAX + more)
        .map(|n| {
            let client = client.clone();
            tokio::spawn(async move { client.kv_get(id(1), Scope::Global, &format!("{n}")).await.unwrap() })
        })
        .collect();
    within(is_full).await.unwrap();
    within(client.put_bytes(b"meanwhile", false, "")).await.unwrap();
    for caller in callers {
        within(caller).await.unwrap();
    }
    within(serving).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_above_the_frame_is_refused_before_it_is_sent() {
    let node = Node::start();
    let address = node.address.clone();
    let serving = tokio::spawn(async move { node.session().await });
    let client = Client::connect(&address, None).await.unwrap();
    let input = Input::Bytes(Octets::from(vec![0; MAX]));
    let error = within(client.submit(&Submit { function: "f".into(), input, ..Submit::default() })).await.unwrap_err();
    assert!(matches!(error, Error::TooLarge { max: MAX, .. }), "{error}");
    within(serving).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn unreachable_and_foreign_nodes_are_told_apart() {
    let node = Node::start();
    let mut other = node.address.clone();
    other.node = SecretKey::from_bytes([2; 32]).public().into();
    let accepting = tokio::spawn(async move { node.endpoint.accept().await.unwrap().await.map(|_| ()) });
    let error = within(Client::connect(&other, None)).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("another node"), "{error}");
    assert!(within(accepting).await.unwrap().is_err());

    let socket = std::net::UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let silent = NodeAddr::new(other.node, socket.local_addr().unwrap());
    let options = Options { connect_timeout: Duration::from_millis(200), ..Options::default() };
    let error = within(Client::connect_with(&silent, options)).await.map(|_| ()).unwrap_err();
    assert!(matches!(&error, Error::Unreachable { address, .. } if *address == silent.to_string()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_is_checked_against_what_the_node_stored() {
    let node = Node::start();
    let address = node.address.clone();
    let bytes = vec![42u8; 3_000_000];
    let expected = BlobId::of(&bytes);
    let serving = tokio::spawn(async move {
        let mut session = node.session().await;
        for lie in [false, true] {
            let (opening, mut send, mut receive) = session.transfer().await;
            let Opening::PutBlob { size: Some(size), keep: true, .. } = opening else { panic!("{opening:?}") };
            let got = receive.read_to_end(10_000_000).await.unwrap();
            let id = if lie { BlobId([0; 32]) } else { BlobId::of(&got) };
            write_frame(&mut send, &Reply::Ok(BlobStored { id, size }), MAX).await.unwrap();
        }
        // Refuses without reading.
        let (_, mut send, mut receive) = session.transfer().await;
        receive.stop(0u32.into()).unwrap();
        let full = Problem::new(Kind::StorageUnavailable, "the disk is full");
        write_frame(&mut send, &Reply::<BlobStored>::Err(full), MAX).await.unwrap();
        // A reader that fails must not leave half a blob that looks whole.
        let (_send, mut receive) = session.connection.accept_bi().await.unwrap();
        assert!(matches!(receive.read_to_end(10_000_000).await, Err(quinn::ReadToEndError::Read(_))));
        session
    });
    let client = Client::connect(&address, None).await.unwrap();
    assert_eq!(within(client.put_bytes(&bytes, true, "")).await.unwrap().id, expected);
    let lied = within(client.put_bytes(&bytes, true, "")).await.unwrap_err();
    assert!(matches!(lied, Error::HashMismatch { expected: e, .. } if e == expected), "{lied}");
    let refused = within(client.put_bytes(&bytes, true, "")).await.unwrap_err();
    assert_eq!(refused.kind(), Some(Kind::StorageUnavailable), "{refused}");
    let failing = tokio::io::AsyncReadExt::chain(&bytes[..1_000_000], Failing);
    let upload = Upload::default();
    let failed = within(client.put_blob(failing, upload, &mut |_| {})).await.unwrap_err();
    assert!(matches!(failed, Error::Source(_)), "{failed}");
    within(serving).await.unwrap();
}

struct Failing;

impl tokio::io::AsyncRead for Failing {
    fn poll_read(
        self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
        _: &mut tokio::io::ReadBuf<'_>,
    ) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Err(std::io::Error::other("the disk is broken")))
    }
}

/// Serves `bytes` for each transfer, cutting the connection after `cut` bytes where there is one. Returns the offsets.
async fn serve_blob(node: Node, bytes: Vec<u8>, cuts: Vec<Option<usize>>) -> (Node, Vec<u64>) {
    let mut offsets = Vec::new();
    let mut session = node.session().await;
    for cut in cuts {
        let (opening, mut send, _receive) = session.transfer().await;
        let Opening::GetBlob { id, offset, .. } = opening else { panic!("{opening:?}") };
        offsets.push(offset);
        write_frame(&mut send, &Reply::Ok(BlobOpened { id, size: bytes.len() as u64 }), MAX).await.unwrap();
        let start = usize::try_from(offset).unwrap();
        match cut {
            None => {
                // The client may leave early: it asks once only to learn the hash and the length.
                if send.write_all(&bytes[start..]).await.is_ok() {
                    send.finish().unwrap();
                    send.stopped().await.unwrap();
                }
            }
            Some(len) => {
                send.write_all(&bytes[start..start + len]).await.unwrap();
                send.reset(1u32.into()).unwrap();
                session.connection.close(1u32.into(), b"cut");
                session = node.session().await;
            }
        }
    }
    session.connection.closed().await;
    (node, offsets)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_download_goes_on_after_a_cut_and_is_verified() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..5_000_000u32).map(|n| (n * 7 % 251) as u8).collect();
    let id = BlobId::of(&bytes);
    let node = Node::start();
    let address = node.address.clone();
    let serving = tokio::spawn(serve_blob(node, bytes.clone(), vec![Some(4_000_000), Some(0), None]));
    let client = Client::connect(&address, None).await.unwrap();
    let path = folder.path().join("out");
    let mut told = 0;
    let stored = within(client.get_blob_to_file(id, &path, &mut |done, _| told = done)).await.unwrap();
    assert_eq!((stored.id, stored.size, told), (id, 5_000_000, 5_000_000));
    assert!(std::fs::read(&path).unwrap() == bytes);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 1, "nothing else is left");
    client.close().await;
    let (_, offsets) = within(serving).await.unwrap();
    assert_eq!((offsets[0], offsets.len()), (0, 3));
    // More than the stream's window was sent, so some of it was read before the cut.
    assert!(offsets[1] > 0 && offsets[2] >= offsets[1], "{offsets:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_earlier_process_left_is_taken_up() {
    let folder = tempfile::tempdir().unwrap();
    let bytes: Vec<u8> = (0..1_000_000u32).map(|n| (n * 3 % 241) as u8).collect();
    let id = BlobId::of(&bytes);
    let node = Node::start();
    let address = node.address.clone();
    let serving = tokio::spawn(serve_blob(node, bytes.clone(), vec![None, None]));
    std::fs::write(folder.path().join(format!(".out.{}.part", id.short())), &bytes[..600_000]).unwrap();
    let client = Client::connect(&address, None).await.unwrap();
    let path = folder.path().join("out");
    within(client.get_blob_to_file(id, &path, &mut |_, _| {})).await.unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes);
    client.close().await;
    let (_, offsets) = within(serving).await.unwrap();
    assert_eq!(offsets, [0, 600_000]);
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_never_become_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let node = Node::start();
    let address = node.address.clone();
    let serving = tokio::spawn(serve_blob(node, vec![1; 100_000], vec![None, None, None]));
    let client = Client::connect(&address, None).await.unwrap();
    let asked = BlobId::of(b"something else");
    let path = folder.path().join("out");
    let error = within(client.get_blob_to_file(asked, &path, &mut |_, _| {})).await.unwrap_err();
    assert!(matches!(error, Error::HashMismatch { .. }), "{error}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    let download = within(client.get_blob(asked, 0, None)).await.unwrap();
    assert!(matches!(within(download.into_vec(1_000_000)).await, Err(Error::HashMismatch { .. })));
    let mut download = within(client.get_blob(asked, 0, None)).await.unwrap();
    let mut all = Vec::new();
    let error = within(tokio::io::AsyncReadExt::read_to_end(&mut download, &mut all)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    client.close().await;
    within(serving).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_goes_on_after_a_cut() {
    let node = Node::start();
    let address = node.address.clone();
    let (seen, mut has_seen) = tokio::sync::mpsc::channel::<()>(1);
    let serving = tokio::spawn(async move {
        let mut session = node.session().await;
        let (opening, mut send, _receive) = session.transfer().await;
        let asked = |epoch, offset| {
            let from = Some(LogPlace { epoch, offset });
            Opening::GetLog { job: id(5), follow: true, from }
        };
        let part = |epoch, offset, bytes: &[u8]| {
            let at = LogPlace { epoch, offset };
            LogPart::Written { at, bytes: bytes.into() }
        };
        assert_eq!(opening, asked(0, 0));
        write_frame(&mut send, &Reply::Ok(()), MAX).await.unwrap();
        write_frame(&mut send, &part(1, 0, b"one\n"), MAX).await.unwrap();
        has_seen.recv().await.unwrap();
        session.connection.close(1u32.into(), b"cut");
        // The home is away, then the job runs again: its new log is longer than what was seen of the old one.
        let mut session = node.session().await;
        let (opening, mut send, _receive) = session.transfer().await;
        assert_eq!(opening, asked(1, 4));
        let away = Problem::new(Kind::Unavailable, "the home is away");
        write_frame(&mut send, &Reply::<()>::Err(away), MAX).await.unwrap();
        let (opening, mut send, _receive) = session.transfer().await;
        assert_eq!(opening, asked(1, 4));
        write_frame(&mut send, &Reply::Ok(()), MAX).await.unwrap();
        write_frame(&mut send, &part(2, 0, b"again\n"), MAX).await.unwrap();
        write_frame(&mut send, &LogPart::Ended, MAX).await.unwrap();
        send.finish().unwrap();
        session.connection.closed().await;
    });
    let client = Client::connect(&address, None).await.unwrap();
    let mut log = within(client.log(id(5), true)).await.unwrap();
    let mut text = within(log.chunk()).await.unwrap().unwrap().to_vec();
    seen.send(()).await.unwrap();
    while let Some(more) = within(log.chunk()).await.unwrap() {
        text.extend_from_slice(&more);
    }
    assert_eq!(text, b"one\nagain\n");
    assert_eq!(log.place(), LogPlace { epoch: 2, offset: 6 });
    drop(log);
    client.close().await;
    within(serving).await.unwrap();
}
