//! A whole node as processes: the program that ships, its worker, its disk, its sockets.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(unreachable_pub, reason = "the parts of one test")]

mod arrays;
mod bad_input;
mod bench;
mod calls;
mod checkpoints;
mod commands;
mod custody;
mod demo;
mod disks;
mod drain;
mod flood;
mod following;
mod life;
mod local_worker;
mod mesh;
mod patience;
mod shares;
mod trace;
mod upgrade;

use std::path::Path;

use shoal_protocol::BlobId;
use shoal_protocol::object::function::{Grant, NewFunction};
use shoal_protocol::object::job::{Input, State, Submit};
use shoal_testnet::Node;

/// The program that is tested.
pub fn shoal() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_shoal"))
}

/// A node that is up.
pub async fn node() -> Node {
    let mut node = Node::new(shoal()).unwrap();
    node.start().await.unwrap();
    node
}

/// What a command says that fails.
pub fn failure_of(mut command: std::process::Command) -> String {
    let output = command.output().unwrap();
    assert!(!output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    String::from_utf8(output.stderr).unwrap()
}

/// A file that ships with the functions or the guests of the tests; `path` is seen from the project's root.
pub fn file(path: &str) -> Vec<u8> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[tokio::test]
async fn a_job_outlives_its_client_and_its_node() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    let component = client.put_bytes(&file("node/functions/digest/digest.wasm"), true, "digest").await.unwrap().id;
    let digest = NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new("digest", component) };
    client.deploy(&digest).await.unwrap();
    let submit =
        Submit { function: "digest".into(), input: Input::Bytes(b"sea".as_slice().into()), ..Submit::default() };
    let id = client.submit(&submit).await.unwrap();
    client.close().await;
    node.kill().unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    let job = client.wait(id, None, true).await.unwrap();
    assert_eq!(job.state, State::Succeeded, "{:?}", job.failure);
    assert_eq!(job.output.unwrap().id, BlobId::of(BlobId::of(b"sea").as_bytes()));
    node.stop().await.unwrap();
}
