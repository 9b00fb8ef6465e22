//! What comes over HTTP: paths, ids, methods, bodies.

use serde_json::Value;
use shoal_protocol::limits::HTTP_BODY_LEN_MAX;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::{Answer, Bench, expect, kind};

/// Of the form of an id, and nobody's.
pub const NOBODYS: &str = "01BX5ZZKBKACTAV9WEVGEMMVRZ";
/// Of the form of a hash, and nobody's.
pub const NO_HASH: &str = "0000000000000000000000000000000000000000000000000000000000000000";
/// The classes whose ids are of the first form.
const CLASSES: [&str; 6] = ["user", "project", "function", "job", "worker", "kv"];
/// A blob that is far above what a body of JSON may be: the client is still sending when it is refused.
const LARGE_LEN: usize = 8 * 1024 * 1024;

/// A request as bytes.
pub struct Request<'a> {
    pub method: &'a str,
    pub path: &'a str,
    pub body: &'a [u8],
    /// The length that is announced, where it is not the body's. What is missing never comes.
    pub announced: Option<usize>,
    pub token: Option<&'a str>,
}

/// Sends a request in a connection of its own; the status, the head and the body.
pub async fn send(address: &str, request: Request<'_>) -> (u16, String, Vec<u8>) {
    let Request { method, path, body, announced, token } = request;
    let mut stream = TcpStream::connect(address).await.unwrap();
    let len = announced.unwrap_or(body.len());
    let token = token.map(|token| format!("authorization: Bearer {token}\r\n")).unwrap_or_default();
    let head = format!(
        "{method} {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n{token}content-length: {len}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // All of it, before anything is read: as clients do that do not expect to be refused.
    stream.write_all(body).await.unwrap();
    if announced.is_some() {
        stream.shutdown().await.unwrap();
    }
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer") + 4;
    let body = answer.split_off(end);
    let head = String::from_utf8(answer).unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), head, body)
}

impl Bench {
    /// Sends a request that is expected to be refused.
    pub async fn http(&self, method: &str, path: &str, body: &[u8], announced: Option<usize>) -> Answer {
        let token = self.node.token().unwrap();
        let request = Request { method, path, body, announced, token: Some(&token) };
        read(send(&self.node.http().unwrap(), request).await)
    }
}

/// What a person and a program read of an answer.
fn read((status, head, body): (u16, String, Vec<u8>)) -> Answer {
    let body: Value = serde_json::from_slice(&body).unwrap_or(Value::Null);
    let text = |key: &str| body[key].as_str().unwrap_or_default();
    if (200..300).contains(&status) {
        return Answer::new(status, "", body.to_string());
    }
    assert!(head.to_ascii_lowercase().contains("content-type: application/problem+json"), "{head}");
    assert_eq!(body["status"], status, "{body}");
    assert!(!text("title").is_empty(), "{body}");
    Answer::new(status, kind(text("type")), text("detail"))
}

pub async fn rows(bench: &mut Bench) {
    paths(bench).await;
    bodies(bench).await;
    let answer = bench.http("GET", &format!("/blob/{NO_HASH}/content"), b"", None).await;
    bench.row("GET /blob/ID/content, a blob nobody has", answer, expect("404", "blob-unavailable", NO_HASH)).await;
}

async fn paths(bench: &mut Bench) {
    let answer = bench.http("GET", "/robot", b"", None).await;
    bench.row("GET /robot", answer, expect("404", "unknown-class", "\"robot\" is no class")).await;
    let answer = bench.http("GET", "/jobs", b"", None).await;
    bench.row("GET /jobs", answer, expect("404", "unknown-class", "classes are singular: /job")).await;
    let answer = bench.http("DELETE", "/job", b"", None).await;
    bench.row("DELETE /job", answer, expect("405", "not-applicable", "/job does not take DELETE")).await;
    let object = |class: &str| (class.to_owned(), if CLASSES.contains(&class) { NOBODYS } else { NO_HASH });
    for (class, id) in CLASSES.into_iter().chain(["blob", "node"]).map(object) {
        let answer = bench.http("GET", &format!("/{class}/{id}"), b"", None).await;
        let (status, kind) = match class.as_str() {
            "blob" => ("404", "blob-unavailable"),
            // Its home may be away: that nobody knows it is not known.
            "job" => ("503", "unavailable"),
            _ => ("404", "not-found"),
        };
        bench.row(&format!("GET /{class}/{}…, nobody's", &id[..6]), answer, expect(status, kind, id)).await;
        let answer = bench.http("GET", &format!("/{class}/~~~"), b"", None).await;
        bench.row(&format!("GET /{class}/~~~"), answer, expect("400", "invalid-id", "\"~~~\" is no id")).await;
        let answer = bench.http("POST", &format!("/{class}/{id}/fly"), b"", None).await;
        let row = format!("POST /{class}/{}…/fly", &id[..6]);
        bench.row(&row, answer, expect("404", "unknown-method", "has no method \"fly\"; it has ")).await;
    }
}

async fn bodies(bench: &mut Bench) {
    let answer = bench.http("POST", "/job", b"{\"function\": ", None).await;
    bench.row("POST /job, JSON that ends early", answer, expect("400", "malformed", "line 1 column 13")).await;
    let answer = bench.http("POST", "/job", b"{\"function\" 7}", None).await;
    bench.row("POST /job, JSON without a colon", answer, expect("400", "malformed", "expected `:`")).await;
    let deep = "[".repeat(HTTP_BODY_LEN_MAX);
    let user = bench.client.welcome().user.unwrap();
    let answer = bench.http("POST", &format!("/user/{user}"), deep.as_bytes(), None).await;
    bench.row("POST /user/ID, a million arrays in each other", answer, expect("400", "malformed", "recursion")).await;
    let answer = bench.http("POST", "/job", b"{\"function\":\"digest\",\"inptu\":{}}", None).await;
    bench.row("POST /job, an unknown field", answer, expect("422", "invalid-field", "unknown field `inptu`")).await;
    let batch = format!("[{}]", vec!["{\"function\":\"\"}"; HTTP_BODY_LEN_MAX / 16 - 1].join(","));
    let answer = bench.http("POST", "/job", batch.as_bytes(), None).await;
    bench.row("POST /job, a batch of 65,535 jobs", answer, expect("413", "too-large", "at most 1000 jobs")).await;
    for len in [HTTP_BODY_LEN_MAX + 1, LARGE_LEN] {
        let answer = bench.http("POST", "/job", &vec![b' '; len], None).await;
        let row = format!("POST /job, a body of {len} bytes");
        bench.row(&row, answer, expect("413", "too-large", "at most 1048576 bytes")).await;
    }
    for (path, body) in [("/job", &b"{\"function\""[..]), ("/blob", &[7; 1000])] {
        let answer = bench.http("POST", path, body, Some(100_000)).await;
        let row = format!("POST {path}, a body cut off");
        bench.row(&row, answer, expect("400", "incomplete", "ended before its announced length")).await;
    }
    let large = vec![7; LARGE_LEN];
    let request = Request { method: "POST", path: "/blob", body: &large, announced: None, token: None };
    let answer = read(send(&bench.node.http().unwrap(), request).await);
    bench.row("POST /blob without a token", answer, expect("401", "unauthenticated", "Authorization: Bearer")).await;
}
