//! What a project may have at most, by the command line and over HTTP, and what is said of what it has.

use std::io::{Read as _, Write as _};
use std::process::Output;
use std::time::Duration;

use shoal_protocol::object::function::NewFunction;
use shoal_protocol::object::job::{ReasonCode, State};
use shoal_testnet::Node;

use crate::{file, node};

fn shoal(node: &Node, arguments: &[&str]) -> String {
    let output = node.shoal(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(node: &Node, arguments: &[&str]) -> (Option<i32>, String) {
    let Output { status, stderr, .. } = node.shoal(arguments).output().unwrap();
    assert!(!status.success(), "{arguments:?}");
    (status.code(), String::from_utf8(stderr).unwrap())
}

/// The head and the body of what `POST /job` answers.
fn post(node: &Node, body: &str) -> String {
    let (token, host) = (node.token().unwrap(), node.http().unwrap());
    let host = host.strip_prefix("http://").unwrap_or(&host).trim_end_matches('/').to_owned();
    let mut stream = std::net::TcpStream::connect(&host).unwrap();
    let len = body.len();
    let head = format!(
        "POST /job HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\nContent-Type: application/json\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(body.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[tokio::test]
async fn a_project_has_no_more_than_its_quota_and_says_so() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    let component = client.put_bytes(&file("node/functions/wait/wait.wasm"), true, "wait").await.unwrap().id;
    shoal(&node, &["project", "add", "vision"]);
    let project = client.project("vision").await.unwrap();
    let wait = NewFunction { project: Some(project.id), ..NewFunction::new("wait", component) };
    client.deploy(&wait).await.unwrap();

    let shown =
        shoal(&node, &["project", "set", "vision", "--weight", "3", "--quota-running", "0", "--quota-queued", "2"]);
    assert!(shown.contains("weight") && shown.contains("at most 2"), "{shown}");
    let first = shoal(&node, &["submit", "wait"]);
    let second = shoal(&node, &["submit", "wait"]);
    let reason = client.job(first.trim().parse().unwrap(), false).await.unwrap().reason.unwrap();
    assert_eq!(reason.code, ReasonCode::QuotaRunning, "{reason:?}");
    assert!(shoal(&node, &["job", "show", first.trim()]).contains("quota_running"));
    let (code, said) = refused(&node, &["submit", "wait"]);
    assert_eq!(code, Some(7), "{said}");
    assert!(said.contains("2 jobs of project") && said.contains("try again in 1 s"), "{said}");
    let answer = post(&node, r#"{"function":"wait"}"#);
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    assert!(answer.to_lowercase().contains("\r\nretry-after: 1\r\n"), "{answer}");
    assert!(answer.contains("urn:shoal:problem:over-quota"), "{answer}");
    let shown = shoal(&node, &["project", "show", "vision"]);
    assert!(shown.contains("2 of 2") && shown.contains("0 of 0"), "{shown}");

    // What waits goes on when it may, also after a kill, and what it has used is known then.
    node.kill().unwrap();
    node.start().await.unwrap();
    shoal(&node, &["project", "set", "vision", "--quota-running", "none", "--quota-queued", "none"]);
    let client = node.client().await.unwrap();
    for id in [first, second] {
        let job = client.wait(id.trim().parse().unwrap(), Some(Duration::from_secs(60)), false).await.unwrap();
        assert_eq!(job.state, State::Succeeded, "{:?}", job.failure);
    }
    let usage = client.project("vision").await.unwrap().usage.unwrap();
    assert!((100..60_000).contains(&usage.total_ms) && usage.used_permille == 1_000, "{usage:?}");
    let again = client.project("vision").await.unwrap();
    assert_eq!((again.weight, again.quota.is_empty()), (3, true));

    let (code, said) = refused(&node, &["project", "set", "vision", "--weight", "1001"]);
    assert_eq!(code, Some(2), "{said}");
    node.stop().await.unwrap();
}
