//! Blobs between nodes: who is asked for one, and who gets one.
//!
//! What replicated state refers to, code and values of the global KV, is for every node of the mesh, as that state itself
//! is. What only a job refers to is for the nodes that take part in it: its home, where its current run is, and who keeps it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Instant;

use prometheus_client::metrics::counter::Counter;
use shoal_blobs::exchange::direct::{DirectStream, Gate};
use shoal_blobs::exchange::{Provider, ServeError, ServeOptions, Served};
use shoal_kernel::{Command, Principal, Reply};
use shoal_mesh::{Lane, Stream};
use shoal_protocol::object::kv::Scope;
use shoal_protocol::wire::names::blob_key;
use shoal_protocol::{BlobId, NodeId, Problem};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::either::Either;

use super::Peers;
use super::places::{Place, Places};
use super::serve::{Parts, TOO_MANY_STREAMS};
use crate::metrics::{BlobPath, Direction};
use crate::runtime::{
    CHECKPOINT_PLACE, REFERENCE_PLACE, Referrer, ReferrerKind, read_charge, read_custodians, read_guest_end, read_job,
    reference_key, reference_prefix,
};
use crate::store::Table;

/// Keys that are looked at to find one of the global KV. Why 256: a blob that more local keys than that name is rare, and
/// is then asked for elsewhere.
const KEYS_READ_MAX: usize = 256;
/// A blob that is known to be shorter goes over a stream of the mesh, unless a direct connection stands. Why 1 MiB: a new
/// direct connection costs three round trips (a stream to ask, the question, the handshake) and the signatures of both
/// ends, and from that length on holders are told of in the DHT. Where exactly the two ways cost the same is not measured.
const DIRECT_LEN_MIN: u64 = 1024 * 1024;

impl Peers {
    /// A node as a provider of a blob of at most `len_max` bytes: by the direct path where there is one, else by a stream
    /// of the mesh, which may be relayed. Every second attempt takes the mesh, in case that the direct path is what failed.
    pub(crate) fn provider(&self, node: NodeId, len_max: u64) -> Provider {
        let (peers, attempts) = (self.clone(), Arc::new(AtomicU32::new(0)));
        Provider::new(node, move || {
            let (peers, attempt) = (peers.clone(), attempts.fetch_add(1, Ordering::Relaxed));
            async move { peers.open_for_blob(node, len_max, attempt.is_multiple_of(2)).await }
        })
    }

    async fn open_for_blob(&self, node: NodeId, len_max: u64, may_be_direct: bool) -> io::Result<FromPeer> {
        let mesh = self.mesh();
        mesh.connect(node).await.map_err(io::Error::other)?;
        if !self.rates().own_streams.pace(node).await {
            return Err(io::Error::other("too much is asked of that node at the moment"));
        }
        let (path, stream) = match self.worth_it(node, len_max, may_be_direct).await {
            Some(stream) => (BlobPath::Direct, Either::Left(stream)),
            None => (BlobPath::Mesh, Either::Right(mesh.open(node, Lane::Blob).await.map_err(io::Error::other)?)),
        };
        Ok(FromPeer { stream, received: self.0.metrics.blob_moved(path, Direction::Received) })
    }

    async fn worth_it(&self, node: NodeId, len_max: u64, may_be_direct: bool) -> Option<DirectStream> {
        let is_worth_it = may_be_direct && (len_max >= DIRECT_LEN_MIN || self.is_directly_connected(node));
        if is_worth_it { self.open_directly(node).await } else { None }
    }

    /// Nodes that say in the DHT that they have a blob, as they are found.
    pub(crate) fn holders(&self, blob: BlobId) -> tokio::sync::mpsc::Receiver<NodeId> {
        self.mesh().find(blob_key(blob))
    }
}

/// A stream from a provider. Counts what comes.
struct FromPeer {
    stream: Either<DirectStream, Stream>,
    received: Counter,
}

impl AsyncRead for FromPeer {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, into);
        self.received.inc_by(into.filled().len().saturating_sub(before) as u64);
        polled
    }
}

impl AsyncWrite for FromPeer {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Serves one stream of a peer over the mesh.
pub(super) async fn serve(peers: &Peers, parts: &Parts, from: NodeId, stream: Stream) {
    let allowed = |blob| async move { may_have(parts, from, blob).await.unwrap_or(false) };
    let result = parts.blobs.serve(stream, allowed, &ServeOptions::default()).await;
    served(peers, from, BlobPath::Mesh, &result);
}

/// Serves peers by direct paths, with the same places.
pub(super) async fn serve_direct(peers: Peers, parts: Parts, places: Places) {
    let blobs = parts.blobs.clone();
    let door = Door { peers: peers.clone(), parts, places };
    peers.serve_directly(blobs, door).await;
}

/// How a stream was served, whichever way it came.
pub(super) fn served(peers: &Peers, from: NodeId, path: BlobPath, result: &Result<Served, ServeError>) {
    match result {
        Ok(Served::Sent { bytes, .. }) => drop(peers.0.metrics.blob_moved(path, Direction::Sent).inc_by(*bytes)),
        Ok(Served::Withheld { .. }) => {}
        Err(error) => {
            tracing::debug!(peer = %from.short(), %error, "a blob was not served to its end");
            if matches!(error, ServeError::Misbehaved(_)) {
                peers.mesh().block(from, "it breaks the protocol of blobs");
            }
        }
    }
}

/// Who gets what by the direct path: the same as over the mesh.
struct Door {
    peers: Peers,
    parts: Parts,
    places: Places,
}

impl Gate for Door {
    type Place = Place;

    /// Those that the mesh has a connection with: it keeps out whom it has blocked.
    fn admits(&self, node: NodeId) -> bool {
        self.peers.mesh().peer(&node).is_some_and(|peer| peer.connected)
    }

    fn place(&self, node: NodeId) -> Option<Place> {
        if !self.peers.rates().streams.spend(node, 1, Instant::now()) {
            self.peers.mesh().block(node, TOO_MANY_STREAMS);
            return None;
        }
        self.places.take(node)
    }

    async fn allows(&self, node: NodeId, blob: BlobId) -> bool {
        self.admits(node) && may_have(&self.parts, node, blob).await.unwrap_or(false)
    }

    fn served(&self, node: NodeId, result: &Result<Served, ServeError>) {
        served(&self.peers, node, BlobPath::Direct, result);
    }
}

async fn may_have(parts: &Parts, from: NodeId, blob: BlobId) -> Result<bool, Problem> {
    if parts.service.hands_over_to(from) {
        return Ok(true);
    }
    let store = parts.service.store();
    // What global KV has stands under its scope; what is local stays here.
    let functions = reference_prefix(blob, ReferrerKind::Function);
    if !store.scan_prefix(Table::References, &functions, None, 1)?.is_empty() {
        return Ok(true);
    }
    let keys = store.scan_prefix(Table::References, &reference_prefix(blob, ReferrerKind::Kv), None, KEYS_READ_MAX)?;
    if keys.iter().any(|(key, _)| key.get(REFERENCE_PLACE) == Some(&(Scope::Global as u8))) {
        return Ok(true);
    }
    if is_kept_by(parts, from, blob)? {
        return Ok(true);
    }
    let is_referred = |kind| {
        let rows = store.scan_prefix(Table::References, &reference_prefix(blob, kind), None, 1);
        rows.map(|rows| !rows.is_empty())
    };
    if !is_referred(ReferrerKind::Job)? && !is_referred(ReferrerKind::Guest)? {
        return Ok(false);
    }
    let nobody = Principal { user: None, operator: true };
    let Reply::Runs { placed, guests, .. } = parts.runtime.request(nobody, Command::RunsWith(from)).await? else {
        return Ok(false);
    };
    for job in placed {
        for place in [&[], CHECKPOINT_PLACE] {
            if store.get(Table::References, &reference_key(blob, Referrer::Job(job), place))?.is_some() {
                return Ok(true);
            }
        }
    }
    for job in guests {
        let refers = |place| store.get(Table::References, &reference_key(blob, Referrer::Guest(job), place));
        // Of its own jobs a home gets what was made here, and not what it says that it put in.
        if refers(CHECKPOINT_PLACE)?.is_some() {
            return Ok(true);
        }
        // An ending is long: it is read only where it may be the one.
        if refers(&[])?.is_none() {
            continue;
        }
        let made = read_guest_end(store, job)?;
        if made.is_some_and(|end| [end.outcome.output.blob(), end.outcome.log.blob()].contains(&Some(blob))) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a job of this home refers to the blob and is kept by that node.
fn is_kept_by(parts: &Parts, node: NodeId, blob: BlobId) -> Result<bool, Problem> {
    let store = parts.service.store();
    let jobs = store.scan_prefix(Table::References, &reference_prefix(blob, ReferrerKind::Job), None, KEYS_READ_MAX)?;
    for (key, _) in jobs {
        let Some(Referrer::Job(job)) = Referrer::of_key(&key) else { continue };
        let Some(custody) = read_job(store, job)?.and_then(|(accepted, _)| accepted.custody) else { continue };
        // Of one that was taken over its home is a member as well.
        let home = read_charge(store, job)?.map_or(parts.service.node_id(), |kept| kept.home);
        let set = read_custodians(store, home, custody.set)?;
        if set.is_some_and(|set| set.members.contains(&node)) {
            return Ok(true);
        }
    }
    Ok(false)
}
