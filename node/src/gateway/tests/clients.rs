//! Clients, well-behaved and not.

use std::sync::atomic::Ordering;

use shoal_protocol::limits::{CLIENT_FRAME_LEN_MAX, CLIENT_REQUESTS_IN_FLIGHT_MAX};
use shoal_protocol::object::Class;
use shoal_protocol::object::job::{LogPart, LogPlace};
use shoal_protocol::wire::client::{BlobOpened, BlobStored, Call, Opening, Reply, Request, Response, Welcome};
use shoal_protocol::{BlobId, Kind, ObjectId, Problem};

use super::stub::{TOKEN, USER};
use super::*;

const ALPN: &[u8] = client::ALPN;

struct Client {
    connection: Connection,
    send: SendStream,
    receive: RecvStream,
}

async fn open(running: &Running, token: Option<&str>) -> (Client, Reply<Welcome>) {
    let connection = running.connect(ALPN, None).await;
    let (mut to, mut from) = connection.open_bi().await.expect("a stream");
    send(&mut to, &Opening::Control { token: token.map(Into::into) }).await;
    let welcome = receive(&mut from).await.expect("an answer");
    (Client { connection, send: to, receive: from }, welcome)
}

async fn client(running: &Running) -> Client {
    let (client, welcome) = open(running, Some(TOKEN)).await;
    assert_eq!(welcome.expect("welcome").user, Some(USER));
    client
}

fn get(id: u64, object: &str, body: &[u8]) -> Request {
    Request { id, call: Call::Get { class: Class::Job, object: object.into() }, body: body.into(), traceparent: None }
}

impl Client {
    async fn ask(&mut self, request: &Request) {
        send(&mut self.send, request).await;
    }

    async fn answer(&mut self) -> Response {
        receive(&mut self.receive).await.expect("an answer")
    }

    async fn stream(&self, opening: &Opening) -> (SendStream, RecvStream) {
        let (mut to, from) = self.connection.open_bi().await.expect("a stream");
        send(&mut to, opening).await;
        (to, from)
    }
}

fn problem(response: &Response) -> Problem {
    codec::decode(&response.body).expect("a problem")
}

#[tokio::test]
async fn requests_are_answered_in_any_order_with_their_ids() {
    let running = Running::start().await;
    let mut client = client(&running).await;
    client.ask(&get(1, "wait", b"")).await;
    for id in 2..100 {
        client.ask(&get(id, "echo", &id.to_be_bytes())).await;
    }
    let mut ids: Vec<u64> = Vec::new();
    for _ in 2..100 {
        let response = client.answer().await;
        assert_eq!((response.status, &response.body[..]), (200, &response.id.to_be_bytes()[..]));
        ids.push(response.id);
    }
    ids.sort_unstable();
    assert_eq!(ids, (2..100).collect::<Vec<_>>());
    running.stub.0.gate.notify_waiters();
    assert_eq!(client.answer().await.id, 1);
    client
        .ask(&Request { id: 7, call: Call::Create { class: Class::Node }, body: Default::default(), traceparent: None })
        .await;
    let refused = client.answer().await;
    assert_eq!((refused.id, refused.status, problem(&refused).kind), (7, 405, Kind::NotApplicable));
    running.stop().await;
}

#[tokio::test]
async fn an_answer_above_the_frame_is_a_problem_and_the_connection_goes_on() {
    let running = Running::start().await;
    let mut client = client(&running).await;
    client.ask(&get(1, "long", b"")).await;
    let response = client.answer().await;
    assert_eq!((response.id, problem(&response).kind), (1, Kind::TooLarge));
    client.ask(&get(2, "echo", b"x")).await;
    assert_eq!(&client.answer().await.body[..], b"x");
    running.stop().await;
}

#[tokio::test]
async fn beyond_the_bound_nothing_is_read_until_answers_are_out() {
    let running = Running::start().await;
    let mut client = client(&running).await;
    let total = CLIENT_REQUESTS_IN_FLIGHT_MAX as u64 + 500;
    for id in 0..total {
        client.ask(&get(id, "wait", b"")).await;
    }
    let under_way = &running.stub.0.under_way;
    let mut answered = 0;
    let deadline = tokio::time::Instant::now() + SOON;
    while answered < total {
        assert!(tokio::time::Instant::now() < deadline, "{answered} of {total} answered");
        let wanted = (total - answered).min(CLIENT_REQUESTS_IN_FLIGHT_MAX as u64);
        if under_way.load(Ordering::SeqCst) == wanted {
            running.stub.0.gate.notify_waiters();
            for _ in 0..wanted {
                assert_eq!(client.answer().await.status, 200);
            }
            answered += wanted;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(running.stub.0.most_under_way.load(Ordering::SeqCst), CLIENT_REQUESTS_IN_FLIGHT_MAX as u64);
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_keeps_nobody_else_waiting() {
    let running = Running::start().await;
    let mut deaf = client(&running).await;
    let body = vec![1; 500_000];
    // Its answers fill every window on the way, then the node stops reading: so does the transport.
    let flood = async {
        for id in 0.. {
            deaf.ask(&get(id, "echo", &body)).await;
        }
    };
    assert!(timeout(Duration::from_secs(2), flood).await.is_err(), "the node reads on without end");
    let mut other = client(&running).await;
    other.ask(&get(1, "echo", b"x")).await;
    assert_eq!(other.answer().await.id, 1);
    running.stop.cancel();
    within(running.served).await.expect("it ends all the same");
}

#[tokio::test]
async fn who_is_not_let_in_hears_why() {
    let running = Running::start().await;
    let (client, welcome) = open(&running, Some("forged")).await;
    assert_eq!(welcome.expect_err("refused").kind, Kind::Unauthenticated);
    assert_eq!(closed(&client.connection).await, (close::UNAUTHENTICATED, "this token does not count".into()));
    let (_, welcome) = open(&running, None).await;
    assert_eq!(welcome.expect("anybody").user, None);
    running.stop().await;
}

#[tokio::test]
async fn what_is_no_opening_is_answered_with_a_problem_and_a_code() {
    let running = Running::start().await;
    let frame = |bytes: &[u8]| [&(bytes.len() as u32).to_be_bytes()[..], bytes].concat();
    let wrong_first =
        codec::frame(&Opening::GetLog { job: ObjectId::MAX, follow: false, from: None }, 1_000).expect("a frame");
    for (name, bytes, kind) in [
        ("no CBOR", frame(&[0xff; 20]), Kind::Malformed),
        ("an unknown opening", frame(&codec::encode(&"telnet")), Kind::Malformed),
        ("another stream's opening", wrong_first, Kind::Malformed),
        ("a length above the limit", vec![0xff; 8], Kind::TooLarge),
        ("HTTP", b"GET / HTTP/1.1\r\n\r\n".to_vec(), Kind::TooLarge),
    ] {
        let connection = running.connect(ALPN, None).await;
        let (mut to, mut from) = connection.open_bi().await.expect("a stream");
        send_raw(&mut to, &bytes).await;
        let answer: Reply<Welcome> = receive(&mut from).await.expect("an answer");
        assert_eq!(answer.expect_err(name).kind, kind, "{name}");
        assert_eq!(closed(&connection).await.0, close::PROTOCOL, "{name}");
    }
    // Cut off inside the frame.
    let connection = running.connect(ALPN, None).await;
    let (mut to, mut from) = connection.open_bi().await.expect("a stream");
    send_raw(&mut to, &[0, 0, 0, 9, 1]).await;
    to.finish().expect("finished");
    let answer: Reply<Welcome> = receive(&mut from).await.expect("an answer");
    assert_eq!(answer.expect_err("cut off").kind, Kind::Incomplete);
    running.stop().await;
}

#[tokio::test]
async fn a_request_that_cannot_be_read_ends_the_connection_after_the_others_are_answered() {
    let running = Running::start().await;
    let too_long = ((CLIENT_FRAME_LEN_MAX + 1) as u32).to_be_bytes();
    for (bytes, kind) in [(&too_long[..], Kind::TooLarge), (&[0, 0, 0, 3, 1, 2, 3][..], Kind::Malformed)] {
        let mut client = client(&running).await;
        client.ask(&get(1, "echo", b"x")).await;
        send_raw(&mut client.send, bytes).await;
        let mut answers = [client.answer().await, client.answer().await];
        answers.sort_by_key(|answer| answer.id);
        assert_eq!((answers[0].id, answers[1].id), (1, u64::MAX));
        assert_eq!(problem(&answers[1]).kind, kind);
        assert_eq!(closed(&client.connection).await.0, close::PROTOCOL);
    }
    running.stop().await;
}

#[tokio::test]
async fn bytes_go_in_and_out_whole_or_not_at_all() {
    let running = Running::start().await;
    let client = client(&running).await;
    let bytes: Vec<u8> = (0..3_000_000u32).flat_map(u32::to_be_bytes).collect();
    let size = bytes.len() as u64;
    let put = Opening::PutBlob { size: Some(size), keep: false, name: "x".into() };
    let (mut to, mut from) = client.stream(&put).await;
    send_raw(&mut to, &bytes).await;
    to.finish().expect("finished");
    let stored: Reply<BlobStored> = receive(&mut from).await.expect("an answer");
    let id = BlobId::of(&bytes);
    assert_eq!(stored, Ok(BlobStored { id, size }));

    let (_, mut from) = client.stream(&Opening::GetBlob { id, offset: 5, len: None }).await;
    assert_eq!(receive::<Reply<BlobOpened>>(&mut from).await, Some(Ok(BlobOpened { id, size })));
    assert_eq!(within(from.read_to_end(bytes.len())).await.expect("all"), &bytes[5..]);

    let (_, mut from) = client.stream(&Opening::GetBlob { id: BlobId::of(b"?"), offset: 0, len: None }).await;
    let missing: Reply<BlobOpened> = receive(&mut from).await.expect("an answer");
    assert_eq!(missing.expect_err("missing").kind, Kind::BlobUnavailable);

    // What breaks off at the node does not look whole; how much of it arrives is open.
    let (_, mut from) = client.stream(&Opening::GetResult { job: ObjectId::MAX, offset: 0 }).await;
    assert!(matches!(
        within(from.read_to_end(100)).await,
        Err(quinn::ReadToEndError::Read(quinn::ReadError::Reset(_)))
    ));

    // Nor does what breaks off at the client, here after more bytes than fit on the way: the node has read some.
    let (mut to, mut from) = client.stream(&Opening::PutBlob { size: None, keep: false, name: String::new() }).await;
    send_raw(&mut to, &bytes[..6_000_000]).await;
    to.reset(1u32.into()).expect("reset");
    let cut: Reply<BlobStored> = receive(&mut from).await.expect("an answer");
    assert_eq!(cut.expect_err("cut off").kind, Kind::Incomplete);
    assert_eq!(running.stub.0.blobs.lock().expect("a map").len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn a_followed_log_comes_as_it_grows_and_ends_with_its_reader() {
    let running = Running::start().await;
    let client = client(&running).await;
    let (_, mut from) = client.stream(&Opening::GetLog { job: ObjectId::MAX, follow: true, from: None }).await;
    assert_eq!(receive::<Reply<()>>(&mut from).await, Some(Ok(())));
    let mut line = [0; 5];
    within(from.read_exact(&mut line)).await.expect("a line");
    assert_eq!(&line, b"line\n");
    from.stop(0u32.into()).expect("stopped");
    let (_, mut from) = client.stream(&Opening::GetLog { job: ObjectId::MAX, follow: false, from: None }).await;
    assert_eq!(receive::<Reply<()>>(&mut from).await, Some(Ok(())));
    assert_eq!(within(from.read_to_end(100)).await.expect("all"), b"line\n");
    // Who says where they are is told where each part stands, and that it was all.
    let at = LogPlace { epoch: 2, offset: 7 };
    let (_, mut from) = client.stream(&Opening::GetLog { job: ObjectId::MAX, follow: false, from: Some(at) }).await;
    assert_eq!(receive::<Reply<()>>(&mut from).await, Some(Ok(())));
    let written = LogPart::Written { at, bytes: b"line\n".as_slice().into() };
    assert_eq!(receive::<LogPart>(&mut from).await, Some(written));
    assert_eq!(receive::<LogPart>(&mut from).await, Some(LogPart::Ended));
    running.stop().await;
}

#[tokio::test]
async fn a_second_control_stream_ends_the_connection() {
    let running = Running::start().await;
    let client = client(&running).await;
    let (_, mut from) = client.stream(&Opening::Control { token: None }).await;
    assert!(receive::<Reply<()>>(&mut from).await.expect("an answer").is_err());
    assert_eq!(closed(&client.connection).await.0, close::PROTOCOL);
    running.stop().await;
}

#[tokio::test]
async fn stopping_answers_what_was_asked_and_says_so() {
    let running = Running::start().await;
    let mut client = client(&running).await;
    client.ask(&get(1, "wait", b"")).await;
    let deadline = tokio::time::Instant::now() + SOON;
    while running.stub.0.under_way.load(Ordering::SeqCst) == 0 {
        assert!(tokio::time::Instant::now() < deadline, "the request did not arrive");
        tokio::task::yield_now().await;
    }
    running.stop.cancel();
    running.stub.0.gate.notify_waiters();
    assert_eq!(client.answer().await.id, 1);
    assert_eq!(closed(&client.connection).await, (close::STOPPING, "the node stops".into()));
    within(running.served).await.expect("ended in order");
}

#[tokio::test]
async fn a_connection_does_not_outlive_its_token() {
    let running = Running::start().await;
    let mut client = client(&running).await;
    running.stub.0.revoked.store(true, Ordering::SeqCst);
    let deadline = tokio::time::Instant::now() + SOON;
    let refused = loop {
        assert!(tokio::time::Instant::now() < deadline, "the token still counts");
        client.ask(&get(1, "echo", b"")).await;
        let answer = client.answer().await;
        if answer.status != 200 {
            break answer;
        }
    };
    assert_eq!((refused.id, problem(&refused).kind), (1, Kind::Unauthenticated));
    assert_eq!(closed(&client.connection).await.0, close::UNAUTHENTICATED);
    running.stop().await;
}
