//! A trace from the request that submits a job to the guest that runs it, over every edge.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use shoal_client::Client;
use shoal_protocol::object::function::{Grant, NewFunction};
use shoal_protocol::object::job::{Accepted, State, Submit};
use shoal_protocol::{BlobId, ObjectId, Traceparent};
use shoal_testnet::Node;

use super::{file, node};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

fn traceparent(parent: &str) -> Traceparent {
    format!("00-{TRACE}-{parent}-01").parse().unwrap()
}

/// `POST /job` with this `traceparent` header.
fn post(node: &Node, submit: &Submit, traceparent: &str) -> ObjectId {
    let (body, token, host) = (serde_json::to_string(submit).unwrap(), node.token().unwrap(), node.http().unwrap());
    let mut stream = TcpStream::connect(&host).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
    write!(
        stream,
        "POST /job HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\nauthorization: Bearer {token}\r\n\
         traceparent: {traceparent}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 202"), "{answer}");
    serde_json::from_str::<Accepted>(body).unwrap().id
}

/// What the guest says of itself; its result is also read as a blob, by its hash.
async fn described(client: &Client, id: ObjectId) -> String {
    let job = client.wait(id, None, true).await.unwrap();
    assert_eq!(job.state, State::Succeeded, "{:?}", job.failure);
    let output = job.output.unwrap();
    let bytes = client.get_blob(output.id, 0, None).await.unwrap().into_vec(64 * 1024).await.unwrap();
    assert_eq!((BlobId::of(&bytes), Some(&bytes[..])), (output.id, output.inline.as_deref()));
    String::from_utf8(bytes).unwrap()
}

#[tokio::test]
async fn a_trace_goes_from_the_request_to_the_guest() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    let component = client.put_bytes(&file("tests/guests/probe/probe.wasm"), true, "probe").await.unwrap().id;
    let probe = NewFunction { grants: Grant::ALL.into_iter().collect(), ..NewFunction::new("probe", component) };
    client.deploy(&probe).await.unwrap();
    let submit = Submit { function: "probe".into(), args: vec!["describe".into()], ..Submit::default() };

    let http = traceparent("00f067aa0ba902b7");
    let id = post(&node, &submit, &http.to_string());
    assert!(described(&client, id).await.contains(&format!("TRACEPARENT={http}")));

    let quic = traceparent("b7ad6b7169203331");
    let id = client.traced(quic).submit(&submit).await.unwrap();
    assert!(described(&client, id).await.contains(&format!("TRACEPARENT={quic}")));

    // What is not of the form is ignored, the job runs without.
    let id = post(&node, &submit, "00-0-0-0");
    assert!(!described(&client, id).await.contains("TRACEPARENT"));
    assert_eq!(client.job(id, false).await.unwrap().traceparent, None);

    // The command line passes on what it was started with.
    let line = traceparent("53995c3f42cd8ad8");
    let mut command = node.shoal(&["submit", "probe", "--arg", "describe"]);
    let output = command.env("TRACEPARENT", line.to_string()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let id: ObjectId = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    assert!(described(&client, id).await.contains(&format!("TRACEPARENT={line}")));
    let shown = node.shoal(&["job", "show", &id.to_string(), "--json"]).output().unwrap();
    let shown: serde_json::Value = serde_json::from_slice(&shown.stdout).unwrap();
    assert_eq!((&shown["traceparent"], &shown["trace"]), (&line.to_string().into(), &TRACE.into()));
    node.stop().await.unwrap();
}
