//! What comes over QUIC: frames, calls, transfers.

use std::time::Duration;

use quinn::{Connection, ConnectionError, Endpoint, SendStream};
use shoal_protocol::limits::CLIENT_FRAME_LEN_MAX;
use shoal_protocol::object::{Class, ListQuery};
use shoal_protocol::wire::client::{ALPN, BlobOpened, BlobStored, Call, Opening, Reply, Request, Response, Welcome};
use shoal_protocol::{BlobId, Problem, codec};
use shoal_testnet::Node;
use shoal_transport::{FrameReader, client_config, client_endpoint, endpoint::SERVER_NAME, write_frame};

use super::{Answer, Bench, expect};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of a blob of twice as many bytes. Why 4 MiB: a stream's window takes 2 MiB, so once all of it is sent the node has begun.
const HALF_LEN: usize = 4 * 1024 * 1024;
/// The code with which a connection ends whose client breaks the protocol.
const PROTOCOL: u32 = 2;

/// A client that says what it wants.
struct Raw {
    _endpoint: Endpoint,
    connection: Connection,
    send: SendStream,
    frames: FrameReader,
}

impl Raw {
    async fn connect(node: &Node) -> Self {
        let address = node.gateway().unwrap();
        let at = address.resolve().await.unwrap()[0];
        let endpoint = client_endpoint(at).unwrap();
        let config = client_config(address.node, None, ALPN).unwrap();
        let connection = endpoint.connect_with(config, at, SERVER_NAME).unwrap().await.unwrap();
        let (mut send, recv) = connection.open_bi().await.unwrap();
        let opening = Opening::Control { token: Some(node.token().unwrap()) };
        write_frame(&mut send, &opening, CLIENT_FRAME_LEN_MAX).await.unwrap();
        let mut frames = FrameReader::new(recv, CLIENT_FRAME_LEN_MAX);
        frames.next::<Reply<Welcome>>().await.unwrap().unwrap().unwrap();
        Self { _endpoint: endpoint, connection, send, frames }
    }

    /// Sends these bytes as a frame of this length, and no more where there are fewer.
    async fn frame(&mut self, announced: usize, bytes: &[u8]) {
        self.send.write_all(&u32::try_from(announced).unwrap().to_be_bytes()).await.unwrap();
        self.send.write_all(bytes).await.unwrap();
        if bytes.len() < announced {
            self.send.finish().unwrap();
        }
    }

    async fn answer(&mut self) -> (u64, Answer) {
        let response = tokio::time::timeout(PATIENCE, self.frames.next::<Response>()).await.unwrap();
        let Response { id, status, body, .. } = response.unwrap().unwrap();
        let problem: Problem = codec::decode(&body).unwrap_or_else(|error| panic!("status {status}: {error}"));
        assert_eq!(status, problem.status);
        (id, Answer::quic(&problem))
    }

    /// The answer to a frame that cannot be read; the connection then ends with the same words.
    async fn last(mut self) -> Answer {
        let (id, answer) = self.answer().await;
        assert_eq!(id, u64::MAX);
        match tokio::time::timeout(PATIENCE, self.connection.closed()).await.unwrap() {
            ConnectionError::ApplicationClosed(close) => {
                assert_eq!(close.error_code, PROTOCOL.into());
                let said = String::from_utf8(close.reason.to_vec()).unwrap();
                assert!(answer.sentence.starts_with(&said), "{said:?} {answer:?}");
            }
            other => panic!("{other}"),
        }
        answer
    }

    /// Makes a call with this body on a connection that goes on.
    async fn call(&mut self, call: Call, body: &[u8]) -> Answer {
        let frame = codec::encode(&Request { id: 7, call, body: body.into(), traceparent: None });
        self.frame(frame.len(), &frame).await;
        let (id, answer) = self.answer().await;
        assert_eq!(id, 7);
        answer
    }
}

pub async fn rows(bench: &mut Bench) {
    frames(bench).await;
    calls(bench).await;
    transfers(bench).await;
}

async fn frames(bench: &mut Bench) {
    let nested = [&[0x81; CLIENT_FRAME_LEN_MAX - 1][..], &[0]].concat();
    let unknown_class = codec::encode(&serde_json::json!({ "id": 1, "call": { "create": { "class": "robot" } } }));
    let cases: [(&str, usize, &[u8], _); 6] = [
        ("above the limit", CLIENT_FRAME_LEN_MAX + 1, &[0], expect("QUIC 413", "too-large", "1048577 bytes is above")),
        ("of 4 GiB", u32::MAX as usize, &[0], expect("QUIC 413", "too-large", "limit of 1048576")),
        ("that is no CBOR", 16, &[0xff; 16], expect("QUIC 400", "malformed", "malformed CBOR")),
        ("cut off", 1000, &[0xa3], expect("QUIC 400", "incomplete", "ended inside a frame")),
        ("of a million arrays", nested.len(), &nested, expect("QUIC 400", "malformed", "nested deeper than 64")),
        ("about a class robot", unknown_class.len(), &unknown_class, expect("QUIC 400", "malformed", "robot")),
    ];
    for (what, announced, bytes, expected) in cases {
        let mut raw = Raw::connect(&bench.node).await;
        raw.frame(announced, bytes).await;
        bench.row(&format!("a frame {what}"), raw.last().await, expected).await;
    }
}

async fn calls(bench: &mut Bench) {
    let mut raw = Raw::connect(&bench.node).await;
    let answer = raw.call(Call::Create { class: Class::Job }, &[0xa1, 0xff]).await;
    bench.row("a job whose body is no CBOR", answer, expect("QUIC 400", "malformed", "the body: malformed CBOR")).await;
    let user = bench.client.welcome().user.unwrap().to_string();
    let nested = [&[0x81; CLIENT_FRAME_LEN_MAX / 2][..], &[0]].concat();
    let answer = raw.call(Call::Set { class: Class::User, object: user.clone(), if_match: None }, &nested).await;
    let row = "a patch of half a million arrays in each other";
    bench.row(row, answer, expect("QUIC 400", "malformed", "nested deeper than 64")).await;
    let object = super::http::NOBODYS.to_owned();
    for (class, object) in [(Class::Job, &object), (Class::Function, &object), (Class::Kv, &user)] {
        let (object, method, query) = (object.clone(), "fly".to_owned(), ListQuery::default());
        let answer = raw.call(Call::Method { class, object, method, query }, &[]).await;
        let row = format!("method fly of a {class}");
        bench.row(&row, answer, expect("QUIC 404", "unknown-method", "no method \"fly\"")).await;
    }
    let answer = raw.call(Call::Get { class: Class::Job, object }, &[]).await;
    bench.row("a job that nobody knows", answer, expect("QUIC 503", "unavailable", super::http::NOBODYS)).await;
}

async fn transfers(bench: &mut Bench) {
    let raw = Raw::connect(&bench.node).await;
    let half = vec![7; HALF_LEN];
    let put = |size| Opening::PutBlob { size, keep: false, name: String::new() };
    let refused = |reply: Reply<BlobStored>| Answer::quic(&reply.unwrap_err());

    let (mut send, recv) = raw.connection.open_bi().await.unwrap();
    write_frame(&mut send, &put(Some(2 * HALF_LEN as u64)), CLIENT_FRAME_LEN_MAX).await.unwrap();
    send.write_all(&half).await.unwrap();
    send.reset(0u32.into()).unwrap();
    let reply = FrameReader::new(recv, CLIENT_FRAME_LEN_MAX).next().await.unwrap().unwrap();
    let row = "a blob whose stream is reset halfway";
    bench.row(row, refused(reply), expect("QUIC 400", "incomplete", "reset by peer")).await;

    let (mut send, recv) = raw.connection.open_bi().await.unwrap();
    write_frame(&mut send, &put(Some(2 * HALF_LEN as u64)), CLIENT_FRAME_LEN_MAX).await.unwrap();
    send.write_all(&half).await.unwrap();
    send.finish().unwrap();
    let reply = FrameReader::new(recv, CLIENT_FRAME_LEN_MAX).next().await.unwrap().unwrap();
    let row = "a blob that is shorter than was said";
    bench.row(row, refused(reply), expect("QUIC 400", "incomplete", "4194304")).await;

    let (mut send, recv) = raw.connection.open_bi().await.unwrap();
    let opening = Opening::GetBlob { id: BlobId([0; 32]), offset: 0, len: None };
    write_frame(&mut send, &opening, CLIENT_FRAME_LEN_MAX).await.unwrap();
    let reply: Reply<BlobOpened> = FrameReader::new(recv, CLIENT_FRAME_LEN_MAX).next().await.unwrap().unwrap();
    let answer = Answer::quic(&reply.unwrap_err());
    bench.row("a blob that nobody has", answer, expect("QUIC 404", "blob-unavailable", super::http::NO_HASH)).await;
}
