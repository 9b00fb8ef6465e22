//! Connections of the direct path that this end has made.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, Weak};
use std::task::{Context, Poll};

use iroh::endpoint::{Connection, RecvStream, SendStream};
use iroh::{Endpoint, EndpointAddr, PublicKey};
use shoal_protocol::NodeId;
use tokio::io::{AsyncRead, AsyncWrite, Join, ReadBuf, join};
use tokio::time::timeout;
use tracing::Instrument;

use super::{DONE, IDLE};
use crate::store::held::locked;

/// Connections to others, one for each node.
pub(super) struct Links {
    endpoint: Endpoint,
    protocol: Vec<u8>,
    open: Mutex<HashMap<NodeId, Arc<Link>>>,
}

/// A connection that is closed when nobody uses it any more.
#[derive(Debug)]
struct Link(Connection);

impl Drop for Link {
    fn drop(&mut self) {
        self.0.close(DONE, b"done");
    }
}

impl Links {
    pub(super) fn new(endpoint: Endpoint, protocol: Vec<u8>) -> Arc<Self> {
        Arc::new(Self { endpoint, protocol, open: Mutex::default() })
    }

    pub(super) fn is_open(&self, node: NodeId) -> bool {
        self.get(node).is_some()
    }

    pub(super) async fn open(&self, node: NodeId) -> io::Result<DirectStream> {
        let link = self.get(node).ok_or(io::ErrorKind::NotConnected)?;
        let (writer, reader) = link.0.open_bi().await.map_err(io::Error::from)?;
        Ok(DirectStream { both: join(reader, writer), _link: link })
    }

    fn get(&self, node: NodeId) -> Option<Arc<Link>> {
        locked(&self.open).get(&node).filter(|link| link.0.close_reason().is_none()).cloned()
    }

    pub(super) async fn connect(self: &Arc<Self>, node: NodeId, addresses: &[SocketAddr]) -> io::Result<()> {
        let id = PublicKey::from_bytes(&node.0).map_err(io::Error::other)?;
        let peer = addresses.iter().fold(EndpointAddr::new(id), |peer, &address| peer.with_ip_addr(address));
        let connection = self.endpoint.connect(peer, &self.protocol).await.map_err(io::Error::other)?;
        locked(&self.open).insert(node, Arc::new(Link(connection.clone())));
        tokio::spawn(close_when_idle(Arc::downgrade(self), node, connection).in_current_span());
        Ok(())
    }

    /// Forgets a connection that is closed, or that no stream is using. Returns whether it did.
    fn forget_idle(&self, node: NodeId, connection: &Connection) -> bool {
        let mut open = locked(&self.open);
        let Some(link) = open.get(&node).filter(|link| link.0.stable_id() == connection.stable_id()) else {
            // Another has taken its place.
            return true;
        };
        let idle = Arc::strong_count(link) == 1 || link.0.close_reason().is_some();
        if idle {
            open.remove(&node);
        }
        idle
    }
}

/// Looks after a connection as long as it is among the open ones.
async fn close_when_idle(links: Weak<Links>, node: NodeId, connection: Connection) {
    loop {
        let closed = timeout(IDLE, connection.closed()).await.is_ok();
        let Some(links) = links.upgrade() else { return };
        if links.forget_idle(node, &connection) || closed {
            return;
        }
    }
}

/// A stream to another node. It keeps its connection open.
#[derive(Debug)]
pub struct DirectStream {
    both: Join<RecvStream, SendStream>,
    _link: Arc<Link>,
}

impl AsyncRead for DirectStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.both).poll_read(cx, into)
    }
}

impl AsyncWrite for DirectStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.both).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.both).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.both).poll_shutdown(cx)
    }
}
