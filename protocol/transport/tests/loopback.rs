//! Both sides over real QUIC on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_transport::{FrameError, FrameReader, server_endpoint, write_frame};
use shoal_transport::{client_config, client_endpoint, endpoint::SERVER_NAME, peer_key, read_frame, server_config};

const ALPN: &[u8] = b"shoal-test/1";
const FRAME_LEN_MAX: usize = 1024;
const DEADLINE: Duration = Duration::from_secs(30);

fn serve(key: &SecretKey, address: SocketAddr) -> quinn::Endpoint {
    server_endpoint(address, server_config(key, &[ALPN]).unwrap(), key).unwrap()
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

async fn connect(
    address: SocketAddr,
    pin: PublicKey,
    own: Option<&SecretKey>,
    alpn: &[u8],
) -> Result<(quinn::Endpoint, quinn::Connection), quinn::ConnectionError> {
    let endpoint = client_endpoint(address).unwrap();
    let config = client_config(pin.into(), own, alpn).unwrap();
    let connection = endpoint.connect_with(config, address, SERVER_NAME).unwrap().await?;
    Ok((endpoint, connection))
}

#[tokio::test]
async fn each_side_knows_the_others_key_and_frames_pass() {
    let (node, worker) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([2; 32]));
    let server = serve(&node, loopback());
    let address = server.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        let (mut send, mut receive) = connection.accept_bi().await.unwrap();
        while let Some(text) = read_frame::<String>(&mut receive, FRAME_LEN_MAX).await.unwrap() {
            write_frame(&mut send, &text.to_uppercase(), FRAME_LEN_MAX).await.unwrap();
        }
        send.finish().unwrap();
        connection.closed().await;
        peer_key(&connection)
    });
    let (_endpoint, connection) = connect(address, node.public(), Some(&worker), ALPN).await.unwrap();
    assert_eq!(peer_key(&connection), Some(node.public()));
    let (mut send, mut receive) = connection.open_bi().await.unwrap();
    for text in ["one", "two"] {
        write_frame(&mut send, text, FRAME_LEN_MAX).await.unwrap();
        let answer = read_frame::<String>(&mut receive, FRAME_LEN_MAX).await.unwrap();
        assert_eq!(answer, Some(text.to_uppercase()));
    }
    send.finish().unwrap();
    assert_eq!(read_frame::<String>(&mut receive, FRAME_LEN_MAX).await.unwrap(), None);
    connection.close(0u32.into(), b"");
    assert_eq!(serving.await.unwrap(), Some(worker.public()));
}

#[tokio::test]
async fn another_key_and_another_protocol_are_refused() {
    let (node, other) = (SecretKey::from_bytes([1; 32]), SecretKey::from_bytes([3; 32]));
    let server = serve(&node, loopback());
    let address = server.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut clients = Vec::new();
        while let Some(incoming) = server.accept().await {
            if let Ok(connection) = incoming.await {
                clients.push(peer_key(&connection));
                break;
            }
        }
        clients
    });
    assert!(connect(address, other.public(), None, ALPN).await.is_err());
    assert!(connect(address, node.public(), None, b"shoal-other/1").await.is_err());
    let (_endpoint, connection) = connect(address, node.public(), None, ALPN).await.unwrap();
    assert_eq!(serving.await.unwrap(), vec![None], "a client may be without a key");
    drop(connection);
}

#[tokio::test]
async fn a_reader_that_is_dropped_halfway_loses_nothing() {
    let node = SecretKey::from_bytes([1; 32]);
    let server = serve(&node, loopback());
    let address = server.local_addr().unwrap();
    let (resume, mut resumed) = tokio::sync::mpsc::channel::<()>(1);
    let serving = tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        let (_send, receive) = connection.accept_bi().await.unwrap();
        let mut frames = FrameReader::new(receive, FRAME_LEN_MAX);
        let mut texts = Vec::new();
        loop {
            // Each poll that does not finish the frame drops the future.
            let mut next = std::pin::pin!(frames.next::<String>());
            let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx))).await;
            match polled {
                std::task::Poll::Ready(Ok(Some(text))) => texts.push(text),
                std::task::Poll::Ready(Ok(None)) => break,
                std::task::Poll::Ready(Err(error)) => panic!("{error}"),
                std::task::Poll::Pending => {
                    let _ = resume.try_send(());
                    tokio::task::yield_now().await;
                }
            }
        }
        connection.close(0u32.into(), b"");
        texts
    });
    let (_endpoint, connection) = connect(address, node.public(), None, ALPN).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    let frames = [shoal_protocol::codec::frame("first", 99), shoal_protocol::codec::frame("second", 99)];
    for byte in frames.into_iter().flat_map(Result::unwrap) {
        send.write_all(&[byte]).await.unwrap();
        resumed.recv().await.unwrap();
    }
    send.finish().unwrap();
    assert_eq!(serving.await.unwrap(), ["first", "second"]);
}

#[tokio::test]
async fn a_long_frame_is_refused_before_it_is_read() {
    let node = SecretKey::from_bytes([1; 32]);
    let server = serve(&node, loopback());
    let address = server.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let connection = server.accept().await.unwrap().await.unwrap();
        let (_send, mut receive) = connection.accept_bi().await.unwrap();
        let read = read_frame::<String>(&mut receive, 10).await;
        connection.close(0u32.into(), b"");
        read
    });
    let (_endpoint, connection) = connect(address, node.public(), None, ALPN).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    // Only the header: a reader that waited for the body would hang.
    send.write_all(&11u32.to_be_bytes()).await.unwrap();
    assert!(matches!(serving.await.unwrap(), Err(FrameError::Codec(_))));
}

#[test]
fn a_restarted_node_says_at_once_that_old_connections_are_gone() {
    let node = SecretKey::from_bytes([1; 32]);
    // The node as after `kill -9`: with its runtime its socket is gone, and nothing has said goodbye.
    let killed = tokio::runtime::Runtime::new().unwrap();
    let first = killed.block_on(async { serve(&node, loopback()) });
    let address = first.local_addr().unwrap();
    let accepting = killed.spawn(async move {
        let connection = first.accept().await.unwrap().await.unwrap();
        std::future::pending::<()>().await;
        drop((first, connection));
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (_endpoint, connection) = runtime.block_on(connect(address, node.public(), None, ALPN)).unwrap();
    assert!(!accepting.is_finished());
    killed.shutdown_timeout(DEADLINE);
    runtime.block_on(async {
        let _second = serve(&node, address);
        // Either may fail already: the answer to anything late of the handshake is the same.
        if let Ok((mut send, _receive)) = connection.open_bi().await {
            drop(send.write_all(b"are you there? a packet longer than a reset").await);
        }
        let error = tokio::time::timeout(DEADLINE, connection.closed()).await.unwrap();
        assert!(matches!(error, quinn::ConnectionError::Reset), "{error}");
    });
}
