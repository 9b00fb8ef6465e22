//! Calls to URLs when jobs have ended, with a receiver of the test's own: signed, repeated until they are answered, not lost in a
//! kill, and not sent to the node's own addresses unless its operator says so. And jobs that are not run again.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, SigningKey, VerifyingKey};
use serde_json::Value;
use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{CallState, Notify, OnDisconnect, State, Submit};
use shoal_testnet::Node;

use crate::{local_worker, shoal};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What a receiver was sent.
struct Received {
    head: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Received {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// Checks the signature as a receiver does that knows nothing of Shoal but the node's key.
    fn is_signed_by(&self, key: [u8; 32]) -> bool {
        let (id, time) = (&self.head["webhook-id"], &self.head["webhook-timestamp"]);
        let signature = self.head["webhook-signature"].strip_prefix("v1a,").unwrap();
        let signature = Signature::from_slice(&STANDARD.decode(signature).unwrap()).unwrap();
        let covered = [format!("{id}.{time}.").as_bytes(), &self.body].concat();
        VerifyingKey::from_bytes(&key).unwrap().verify_strict(&covered, &signature).is_ok()
    }
}

/// A receiver that answers with these statuses, one call after the other: its URL, and what it was sent.
fn receiver(statuses: &'static [u16]) -> (String, Receiver<Received>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/done?secret=7", listener.local_addr().unwrap());
    let (send, receive) = sync_channel(statuses.len());
    std::thread::spawn(move || {
        for status in statuses {
            let (mut stream, _) = listener.accept().unwrap();
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            assert_eq!(line, "POST /done?secret=7 HTTP/1.1\r\n");
            let mut head = BTreeMap::new();
            loop {
                line.clear();
                reader.read_line(&mut line).unwrap();
                let Some((name, value)) = line.trim_end().split_once(": ") else { break };
                head.insert(name.to_lowercase(), value.to_owned());
            }
            let mut body = vec![0; head["content-length"].parse().unwrap()];
            reader.read_exact(&mut body).unwrap();
            write!(stream, "HTTP/1.1 {status} x\r\ncontent-length: 0\r\n\r\n").unwrap();
            send.send(Received { head, body }).unwrap();
        }
    });
    (url, receive)
}

fn told(url: &str) -> Submit {
    Submit { notify: Some(Notify { url: url.into(), events: Default::default() }), ..local_worker::sleeper(1) }
}

async fn settled_call(client: &Client, id: ObjectId) -> shoal_protocol::object::job::Called {
    let mut pause = tokio::time::interval(Duration::from_millis(50));
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let called = client.job(id, false).await.unwrap().called;
        if let Some(called) = called.filter(|called| called.state != CallState::Pending) {
            return called;
        }
        assert!(tokio::time::Instant::now() < deadline, "the call stays pending");
        pause.tick().await;
    }
}

#[tokio::test]
async fn who_is_to_hear_of_an_end_hears_of_it_signed_and_through_a_kill() {
    let mut node = Node::new(shoal()).unwrap().with_arguments(&["--notify-allow", "127.0.0.0/8"]);
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    local_worker::deploy(&client).await;
    let key = client.node().await.unwrap().id.0;

    // The first answer is an error: it is called again.
    let (url, calls) = receiver(&[500, 204]);
    let id = client.submit(&told(&url)).await.unwrap();
    let (first, second) = (calls.recv_timeout(PATIENCE).unwrap(), calls.recv_timeout(PATIENCE).unwrap());
    for call in [&first, &second] {
        assert!(
            call.is_signed_by(key) && !call.is_signed_by(SigningKey::from_bytes(&[7; 32]).verifying_key().to_bytes())
        );
        assert_eq!(call.head["webhook-id"], id.to_string());
        assert_eq!(call.head["content-type"], "application/json");
        let body = call.json();
        assert_eq!((&body["type"], &body["data"]["id"]), (&"job.succeeded".into(), &id.to_string().into()));
        assert_eq!(body["data"]["state"], "succeeded");
    }
    let called = settled_call(&client, id).await;
    assert_eq!((called.state, called.attempts), (CallState::Delivered, 2));
    let shown = String::from_utf8(node.shoal(&["job", "show", &id.to_string()]).output().unwrap().stdout).unwrap();
    assert!(shown.contains("delivered, tried 2 times"), "{shown}");

    // The node ends with the end of the job on disk, before anybody has heard of it.
    node.stop().await.unwrap();
    node.crash_at(Some("settle:1".into()));
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    let (url, calls) = receiver(&[200]);
    let id = client.submit(&told(&url)).await.unwrap();
    let mut pause = tokio::time::interval(Duration::from_millis(20));
    while !node.has_ended().unwrap() {
        pause.tick().await;
    }
    assert!(calls.try_recv().is_err(), "nobody was told");
    node.crash_at(None);
    node.start().await.unwrap();
    let call = calls.recv_timeout(PATIENCE).unwrap();
    assert!(call.is_signed_by(key) && call.head["webhook-id"] == id.to_string());
    let client = node.client().await.unwrap();
    assert_eq!(settled_call(&client, id).await.state, CallState::Delivered);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_does_not_call_itself_and_equal_jobs_run_once() {
    let mut node = Node::new(shoal()).unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    local_worker::deploy(&client).await;
    let (url, calls) = receiver(&[200]);
    let id = client.submit(&told(&url)).await.unwrap();
    let called = settled_call(&client, id).await;
    let error = called.last_error.unwrap_or_default();
    assert!(called.state == CallState::GivenUp && error.contains("--notify-allow"), "{error}");
    assert!(calls.try_recv().is_err(), "nobody was called");
    let output = node.shoal(&["submit", "sleeper", "--notify", "ftp://x"]).output().unwrap();
    assert!(!output.status.success());
    assert!(String::from_utf8_lossy(&output.stderr).contains("notify.url"));

    let submit = ["submit", "sleeper", "--arg", "sleep", "--arg", "1", "--memo", "--on-disconnect", "30m"];
    let mut ids = Vec::new();
    for _ in 0..2 {
        let id = String::from_utf8(node.shoal(&submit).output().unwrap().stdout).unwrap();
        let id: ObjectId = id.trim().parse().unwrap();
        client.wait(id, Some(PATIENCE), false).await.unwrap();
        ids.push(id);
    }
    // What was done before a kill is not done again either.
    node.kill().unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    let memo = Submit { memo: true, ..local_worker::sleeper(1) };
    let third = client.submit(&memo).await.unwrap();
    let third = client.wait(third, Some(PATIENCE), false).await.unwrap();
    let first = client.job(ids[0], false).await.unwrap();
    let second = client.job(ids[1], false).await.unwrap();
    assert_eq!((first.memo_of, first.on_disconnect), (None, Some(OnDisconnect::ReplaceAfterMs(30 * 60_000))));
    for job in [&second, &third] {
        assert_eq!((job.state, job.memo_of, job.attempts_total), (State::Succeeded, Some(ids[0]), 0));
        assert_eq!(job.output.as_ref().unwrap().id, first.output.as_ref().unwrap().id);
    }
    let shown = String::from_utf8(node.shoal(&["job", "show", &ids[1].to_string()]).output().unwrap().stdout).unwrap();
    assert!(shown.contains("not run") && shown.contains("30m"), "{shown}");
    node.stop().await.unwrap();
}
