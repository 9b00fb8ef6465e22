//! What a run asks of its node: blobs as streams of the connection, and calls through the session.
//!
//! A run outlives its connection. Whatever is asked while there is none waits for the next one; how long is bounded by
//! whoever asks (the run's deadline, or a grace after it). What was under way when a connection broke is done again
//! where that is safe: reading goes on at the same offset, writing begins anew while all that was written is still
//! here. A node whose disk takes nothing is asked again in the same way: a full disk is no failure of a guest.

mod trouble;

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use quinn::{Connection, RecvStream, SendStream, VarInt};
use serde::de::DeserializeOwned;
use shoal_protocol::limits::{BLOB_CHUNK_LEN_MAX, INLINE_LEN_MAX, WORKER_FRAME_LEN_MAX};
use shoal_protocol::object::job::Payload;
use shoal_protocol::wire::client::{BlobOpened, BlobStored, Reply};
use shoal_protocol::wire::worker::{Answer, Ask, BlobRequest, Run};
use shoal_protocol::{BlobId, Problem};
use shoal_transport::{FrameError, read_frame, write_frame};
use tokio::sync::{mpsc, oneshot, watch};

use trouble::{Trouble, is_storage};

/// Bytes of a new blob that are kept until it is stored, so that it can be written again after a lost connection. Why
/// 1 MiB: most results, and a guest may have several open; longer ones fail the run, which is then tried again.
const REPLAY_LEN_MAX: usize = 1024 * 1024;
/// How often a stream that breaks on a living connection is tried. Why 3: the node may have had a moment of trouble.
const STREAM_ATTEMPTS_MAX: u32 = 3;
/// The stream's error code that tells the node to forget what was written so far.
const ABANDONED: VarInt = VarInt::from_u32(1);

/// Why the node did not do what a run asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// The node says why.
    #[error("{0}")]
    Refused(Problem),
    /// The connection was lost, and doing it again is not safe or not possible.
    #[error("the connection to the node was lost meanwhile")]
    Lost,
    /// The node sent something that is none of the protocol, or bytes of another hash.
    #[error("the node's answer is wrong: {0}")]
    Wrong(String),
}

/// A call that the session passes on.
#[derive(Debug)]
pub(crate) struct Call {
    /// On whose behalf.
    pub(crate) run: Run,
    /// What.
    pub(crate) ask: Ask,
    /// Where the answer goes.
    pub(crate) reply: oneshot::Sender<Result<Answer, Error>>,
}

/// One run's way to its node.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    run: Run,
    link: watch::Receiver<Option<Connection>>,
    calls: mpsc::Sender<Call>,
    trouble: Arc<Trouble>,
}

impl Node {
    /// The way of this run. `link` holds the connection while the worker is attached.
    pub(crate) fn new(run: Run, link: watch::Receiver<Option<Connection>>, calls: mpsc::Sender<Call>) -> Self {
        Self { run, link, calls, trouble: Arc::default() }
    }

    /// What the node's disk has cost this run, if it has cost it something.
    pub(crate) fn trouble(&self) -> Option<String> {
        self.trouble.cost()
    }

    /// Asks and waits for the answer, for as long as the node cannot store anything.
    pub(crate) async fn ask(&self, ask: Ask) -> Result<Answer, Error> {
        loop {
            let (reply, answer) = oneshot::channel();
            let call = Call { run: self.run, ask: ask.clone(), reply };
            self.calls.send(call).await.map_err(|_| Error::Lost)?;
            match answer.await.map_err(|_| Error::Lost)? {
                // Nothing of it was done, so that even what must not be done twice may be asked again.
                Err(Error::Refused(problem)) if is_storage(&problem) => self.trouble.pass(&problem).await,
                answer => return answer,
            }
        }
    }

    /// Opens a blob for reading from `offset` on.
    pub(crate) async fn read(&self, id: BlobId, offset: u64) -> Result<Reader, Error> {
        let mut broken = 0;
        let (stream, size) = self.get(id, offset, None, &mut broken).await?;
        Ok(Reader { node: self.clone(), id, size, position: offset, stream: Some(stream), broken })
    }

    /// The length of a blob, in bytes.
    pub(crate) async fn size(&self, id: BlobId) -> Result<u64, Error> {
        let (_, size) = self.get(id, 0, Some(0), &mut 0).await?;
        Ok(size)
    }

    /// A whole blob of at most `max` bytes, verified.
    pub(crate) async fn fetch(&self, id: BlobId, max: u64) -> Result<Bytes, Error> {
        let mut reader = self.read(id, 0).await?;
        if reader.size > max {
            return Err(Error::Wrong(format!("the blob has {} bytes, at most {max} are taken", reader.size)));
        }
        let mut bytes = BytesMut::new();
        while let Some(chunk) = reader.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        if BlobId::of(&bytes) == id { Ok(bytes.freeze()) } else { Err(mismatch(id)) }
    }

    /// Begins a new blob.
    pub(crate) fn write(&self) -> Writer {
        Writer { node: self.clone(), stream: None, kept: Some(Vec::new()), hasher: blake3::Hasher::new() }
    }

    /// Bytes as a payload: inline if they are short, else as a blob that the node has stored.
    pub(crate) async fn keep(&self, bytes: Vec<u8>) -> Result<Payload, Error> {
        if bytes.len() <= INLINE_LEN_MAX {
            return Ok(Payload::Inline(bytes.into()));
        }
        let mut writer = self.write();
        for chunk in bytes.chunks(BLOB_CHUNK_LEN_MAX) {
            writer.write(chunk).await?;
        }
        let stored = writer.finish().await?;
        Ok(Payload::Blob { id: stored.id, size: stored.size })
    }

    /// A stream with the bytes of a blob from `offset` on, and the length of the whole.
    async fn get(
        &self,
        id: BlobId,
        offset: u64,
        len: Option<u64>,
        broken: &mut u32,
    ) -> Result<((Connection, RecvStream), u64), Error> {
        let request = BlobRequest::Get { run: self.run, id, offset, len };
        loop {
            let (connection, mut send, mut receive) = self.open(&request).await?;
            let _ = send.finish();
            match reply::<BlobOpened>(&mut receive).await {
                Ok(Ok(opened)) if opened.id == id => return Ok(((connection, receive), opened.size)),
                Ok(Ok(opened)) => return Err(Error::Wrong(format!("asked for {id}, given {}", opened.id))),
                Ok(Err(problem)) if is_storage(&problem) => self.trouble.pass(&problem).await,
                Ok(Err(problem)) => return Err(Error::Refused(problem)),
                Err(_) if may_try_again(&connection, broken) => {}
                Err(error) => return Err(Error::Wrong(error.to_string())),
            }
        }
    }

    /// A connection that is not known to be dead. Waits for one.
    async fn connection(&self) -> Result<Connection, Error> {
        let mut link = self.link.clone();
        let alive = |held: &Option<Connection>| held.as_ref().is_some_and(|held| held.close_reason().is_none());
        let connection = link.wait_for(alive).await.map_err(|_| Error::Lost)?;
        connection.clone().ok_or(Error::Lost)
    }

    /// Opens a stream with a request, on the present connection or the next.
    async fn open(&self, request: &BlobRequest) -> Result<(Connection, SendStream, RecvStream), Error> {
        loop {
            let connection = self.connection().await?;
            let Ok((mut send, receive)) = connection.open_bi().await else { continue };
            match write_frame(&mut send, request, WORKER_FRAME_LEN_MAX).await {
                Ok(()) => return Ok((connection, send, receive)),
                Err(FrameError::Codec(error)) => return Err(Error::Wrong(error.to_string())),
                Err(_) => continue,
            }
        }
    }
}

pub(crate) fn mismatch(id: BlobId) -> Error {
    Error::Wrong(format!("the bytes do not have the hash {id}"))
}

async fn reply<T: DeserializeOwned>(receive: &mut RecvStream) -> Result<Reply<T>, FrameError> {
    read_frame(receive, WORKER_FRAME_LEN_MAX).await?.ok_or(FrameError::Truncated)
}

/// What a broken stream means: the connection is gone and the next one is waited for, or the stream alone broke.
fn may_try_again(connection: &Connection, broken: &mut u32) -> bool {
    if connection.close_reason().is_none() {
        *broken += 1;
    }
    *broken < STREAM_ATTEMPTS_MAX
}

/// A blob that is read from its position on.
pub(crate) struct Reader {
    node: Node,
    id: BlobId,
    size: u64,
    position: u64,
    stream: Option<(Connection, RecvStream)>,
    broken: u32,
}

impl Reader {
    /// Length of the whole blob, in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Which blob.
    pub(crate) fn id(&self) -> BlobId {
        self.id
    }

    /// The next bytes, at most [`BLOB_CHUNK_LEN_MAX`]; none at the end. May be dropped at any time: the position moves
    /// only with bytes that were given out.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        while self.position < self.size {
            let Some((connection, receive)) = &mut self.stream else {
                let (stream, _) = self.node.get(self.id, self.position, None, &mut self.broken).await?;
                self.stream = Some(stream);
                continue;
            };
            match receive.read_chunk(BLOB_CHUNK_LEN_MAX, true).await {
                Ok(Some(chunk)) => {
                    self.position += chunk.bytes.len() as u64;
                    return Ok(Some(chunk.bytes));
                }
                Ok(None) | Err(_) if may_try_again(connection, &mut self.broken) => self.stream = None,
                Ok(None) => return Err(Error::Wrong(format!("blob {} ended at {}", self.id, self.position))),
                Err(error) => return Err(Error::Wrong(format!("blob {} at {}: {error}", self.id, self.position))),
            }
        }
        Ok(None)
    }

    /// Moves the position; what was already on its way is thrown away.
    pub(crate) fn seek(&mut self, position: u64) {
        if position != self.position {
            self.stream = None;
            self.position = position;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if let Some((_, receive)) = &mut self.stream {
            let _ = receive.stop(ABANDONED);
        }
    }
}

/// A new blob. Dropped before [`Writer::finish`] it leaves nothing at the node.
pub(crate) struct Writer {
    node: Node,
    stream: Option<(Connection, SendStream, RecvStream)>,
    /// All that was written, while it is short enough to be written again.
    kept: Option<Vec<u8>>,
    hasher: blake3::Hasher,
}

impl Writer {
    /// Appends. Waits while the node is slower. Not to be dropped halfway, unless the writer is dropped too.
    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.hasher.update(bytes);
        let fresh = self.stream.is_none();
        match &mut self.kept {
            Some(kept) if kept.len() + bytes.len() <= REPLAY_LEN_MAX => kept.extend_from_slice(bytes),
            kept => {
                if fresh {
                    // Nothing was sent of what is kept: it goes first, and then these bytes as they are.
                    let earlier = kept.take().unwrap_or_default();
                    self.open().await?;
                    self.send(&earlier).await?;
                } else {
                    *kept = None;
                }
                return self.send(bytes).await;
            }
        }
        if fresh { self.replay().await } else { self.send_or_replay(bytes).await }
    }

    /// Ends the blob, and gives its id and length once it is durable.
    pub(crate) async fn finish(mut self) -> Result<BlobStored, Error> {
        let mut broken = 0;
        loop {
            if self.stream.is_none() {
                self.replay().await?;
            }
            let Some((connection, send, receive)) = &mut self.stream else { return Err(Error::Lost) };
            let _ = send.finish();
            match reply::<BlobStored>(receive).await {
                Ok(Ok(stored)) if stored.id == BlobId(*self.hasher.finalize().as_bytes()) => {
                    self.stream = None;
                    return Ok(stored);
                }
                Ok(Ok(stored)) => return Err(mismatch(stored.id)),
                Ok(Err(problem)) if is_storage(&problem) && self.kept.is_some() => {
                    self.stream = None;
                    self.node.trouble.pass(&problem).await;
                }
                Ok(Err(problem)) => return Err(self.node.trouble.note(problem)),
                Err(_) if may_try_again(connection, &mut broken) => self.stream = None,
                Err(error) => return Err(Error::Wrong(error.to_string())),
            }
        }
    }

    async fn open(&mut self) -> Result<(), Error> {
        self.stream = Some(self.node.open(&BlobRequest::Put { run: self.node.run }).await?);
        Ok(())
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let Some((_, send, _)) = &mut self.stream else { return Err(Error::Lost) };
        match send.write_all(bytes).await {
            Ok(()) => Ok(()),
            // The node does not read on: it has said why.
            Err(quinn::WriteError::Stopped(_)) => Err(self.refusal().await),
            Err(_) => Err(Error::Lost),
        }
    }

    async fn send_or_replay(&mut self, bytes: &[u8]) -> Result<(), Error> {
        match self.send(bytes).await {
            Err(Error::Lost) => self.replay().await,
            Err(Error::Refused(problem)) if is_storage(&problem) => {
                self.node.trouble.pass(&problem).await;
                self.replay().await
            }
            other => other,
        }
    }

    /// Writes all that was kept on a new stream, until it is through.
    async fn replay(&mut self) -> Result<(), Error> {
        loop {
            let kept = self.kept.clone().ok_or(Error::Lost)?;
            self.open().await?;
            match self.send(&kept).await {
                Err(Error::Lost) => {}
                Err(Error::Refused(problem)) if is_storage(&problem) => self.node.trouble.pass(&problem).await,
                other => return other,
            }
        }
    }

    async fn refusal(&mut self) -> Error {
        let Some((_, _, receive)) = &mut self.stream else { return Error::Lost };
        match reply::<BlobStored>(receive).await {
            Ok(Err(problem)) if self.kept.is_some() => Error::Refused(problem),
            Ok(Err(problem)) => self.node.trouble.note(problem),
            _ => Error::Wrong("it took no more bytes and did not say why".into()),
        }
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        if let Some((_, send, _)) = &mut self.stream {
            // Without this a dropped stream would end properly, and half a blob would be stored.
            let _ = send.reset(ABANDONED);
        }
    }
}
