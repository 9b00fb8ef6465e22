//! The gateway over real sockets, with another node behind it: what hostile and ordinary peers see.

mod clients;
mod stub;
mod workers;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use shoal_protocol::codec;
use shoal_protocol::key::SecretKey;
use tokio_util::sync::CancellationToken;

use super::*;
use stub::Stub;

/// How long anything may take in a test.
const SOON: Duration = Duration::from_secs(20);

/// A gateway that runs, and the folder of its node.
struct Running {
    address: NodeAddr,
    identity: Arc<Identity>,
    local: LocalWorker,
    stub: Stub,
    stop: CancellationToken,
    served: tokio::task::JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl Running {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let identity = Arc::new(Identity::open(folder.path()).expect("an identity"));
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let gateway = Gateway::bind(&[any], Arc::clone(&identity)).expect("bound");
        let (address, local, stub) = (gateway.node_addr(), gateway.local_worker(), Stub::default());
        let stop = CancellationToken::new();
        let served = tokio::spawn(gateway.serve_with(stub.clone(), stop.clone()));
        Self { address, identity, local, stub, stop, served, folder }
    }

    async fn connect(&self, alpn: &[u8], key: Option<&SecretKey>) -> Connection {
        let to: SocketAddr = (Ipv4Addr::LOCALHOST, self.address.port).into();
        let mut endpoint = shoal_transport::client_endpoint(to).expect("an endpoint");
        endpoint.set_default_client_config(
            shoal_transport::client_config(self.address.node, key, alpn).expect("a configuration"),
        );
        let name = shoal_transport::endpoint::SERVER_NAME;
        within(endpoint.connect(to, name).expect("connecting")).await.expect("connected")
    }

    async fn stop(self) {
        self.stop.cancel();
        within(self.served).await.expect("ended in order");
    }
}

async fn within<F: Future>(future: F) -> F::Output {
    timeout(SOON, future).await.expect("in time")
}

/// Frames on a stream, as a peer that has no manners sends them.
async fn send_raw(stream: &mut SendStream, bytes: &[u8]) {
    within(stream.write_all(bytes)).await.expect("written");
}

async fn send<T: serde::Serialize>(stream: &mut SendStream, message: &T) {
    send_raw(stream, &codec::frame(message, usize::MAX).expect("a frame")).await;
}

async fn receive<T: serde::de::DeserializeOwned>(stream: &mut RecvStream) -> Option<T> {
    within(shoal_transport::read_frame(stream, 2 * 1024 * 1024)).await.expect("a frame")
}

/// The code and the sentence with which the gateway closed the connection.
async fn closed(connection: &Connection) -> (u32, String) {
    match within(connection.closed()).await {
        ConnectionError::ApplicationClosed(close) => {
            let code = u32::try_from(close.error_code.into_inner()).expect("a small code");
            (code, String::from_utf8(close.reason.to_vec()).expect("text"))
        }
        other => panic!("closed by {other}"),
    }
}

#[tokio::test]
async fn a_port_that_is_taken_is_passed_over_or_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let identity = Arc::new(Identity::open(folder.path()).expect("an identity"));
    let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
    let first = Gateway::bind(&[any], Arc::clone(&identity)).expect("bound");
    let taken = first.local_addr();
    let second = Gateway::bind(&[taken, any], Arc::clone(&identity)).expect("another port");
    assert_ne!(second.local_addr().port(), taken.port());
    let error = Gateway::bind(&[taken], identity).err().expect("taken").to_string();
    assert!(error.contains(&taken.to_string()), "{error}");
}
