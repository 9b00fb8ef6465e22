//! Ways through a third node.

use shoal_mesh::{Lane, Options};
use shoal_protocol::object::node::Path;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Node, options, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_dialled_is_reached_through_a_peer() {
    let relay = Node::start(options(&[])).await;
    // They listen nowhere, as if each was behind a NAT.
    let mut hidden = Node::start(Options { listen: Vec::new(), ..options(&[&relay]) }).await;
    let other = Node::start(Options { listen: Vec::new(), ..options(&[&relay]) }).await;
    for node in [&hidden, &other] {
        node.meets_all(&[&relay]).await;
        until("a way through the relay is told", || !node.mesh.addresses().is_empty()).await;
    }
    within("the hidden node is reached", async { while other.mesh.connect(hidden.id()).await.is_err() {} }).await;
    assert_eq!(other.mesh.peer(&hidden.id()).unwrap().path, Path::Relayed);
    let mut asking = other.mesh.open(hidden.id(), Lane::Blob).await.unwrap();
    asking.write_all(b"who is there?").await.unwrap();
    asking.shutdown().await.unwrap();
    let mut inbound = within("the stream arrives", hidden.streams.recv()).await.unwrap();
    let mut bytes = Vec::new();
    within("the bytes arrive", inbound.stream.read_to_end(&mut bytes)).await.unwrap();
    assert_eq!((inbound.from, bytes.as_slice()), (other.id(), b"who is there?".as_slice()));
}
