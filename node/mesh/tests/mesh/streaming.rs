//! Streams between peers.

use shoal_mesh::{Lane, OpenError, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Node, options, within};

async fn send(stream: &mut Stream, bytes: &[u8]) {
    within("bytes are sent", async {
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
    })
    .await;
}

async fn receive(stream: &mut Stream) -> Vec<u8> {
    let mut bytes = Vec::new();
    within("bytes arrive", stream.read_to_end(&mut bytes)).await.unwrap();
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_of_each_lane_carries_bytes_both_ways() {
    let mut a = Node::start(options(&[])).await;
    let b = Node::start(options(&[&a])).await;
    b.meets_all(&[&a]).await;
    for lane in Lane::ALL {
        let mut asking = b.mesh.open(a.id(), lane).await.unwrap();
        send(&mut asking, lane.name().as_bytes()).await;
        let mut inbound = within("the stream arrives", a.streams.recv()).await.unwrap();
        assert_eq!((inbound.from, inbound.lane), (b.id(), lane));
        assert_eq!(receive(&mut inbound.stream).await, lane.name().as_bytes());
        let answer = vec![7; 3_000_000];
        let answering = tokio::spawn(async move { send(&mut inbound.stream, &answer).await });
        assert_eq!(receive(&mut asking).await.len(), 3_000_000);
        answering.await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_opens_to_who_is_not_connected() {
    let a = Node::start(options(&[])).await;
    let b = Node::start(options(&[])).await;
    assert!(matches!(a.mesh.open(b.id(), Lane::Call).await, Err(OpenError::NotConnected)));
    a.mesh.stop().await;
    assert!(matches!(a.mesh.open(b.id(), Lane::Call).await, Err(OpenError::Stopped)));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_burst_each_stream_arrives_or_fails() {
    const BURST: u32 = 200;
    let mut a = Node::start(options(&[])).await;
    let b = Node::start(options(&[&a])).await;
    b.meets_all(&[&a]).await;
    let echo = tokio::spawn(async move {
        while let Some(mut inbound) = a.streams.recv().await {
            tokio::spawn(async move {
                let bytes = receive(&mut inbound.stream).await;
                send(&mut inbound.stream, &bytes).await;
            });
        }
    });
    let burst = (0..BURST).map(|n| {
        let (mesh, node) = (b.mesh.clone(), b.mesh.peers()[0].node);
        tokio::spawn(async move {
            let mut stream = mesh.open(node, Lane::Call).await.ok()?;
            let asking = async {
                stream.write_all(&n.to_be_bytes()).await?;
                stream.shutdown().await?;
                let mut answer = Vec::new();
                stream.read_to_end(&mut answer).await?;
                Ok::<_, std::io::Error>(answer)
            };
            within("a stream of the burst ends", asking).await.ok().filter(|answer| !answer.is_empty()).map(|answer| {
                assert_eq!(answer, n.to_be_bytes());
            })
        })
    });
    let mut delivered = 0;
    for one in burst.collect::<Vec<_>>() {
        delivered += u32::from(within("the burst ends", one).await.unwrap().is_some());
    }
    assert!(delivered >= 64, "only {delivered} of {BURST} were delivered");
    b.mesh.stop().await;
    echo.abort();
}
