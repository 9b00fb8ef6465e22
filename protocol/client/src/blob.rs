//! Blobs: put, get, list, keep.

use std::path::Path;
use std::sync::Arc;

use bytes::BytesMut;
use quinn::{RecvStream, SendStream};
use shoal_protocol::BlobId;
use shoal_protocol::limits::{BLOB_CHUNK_LEN_MAX, CLIENT_FRAME_LEN_MAX};
use shoal_protocol::object::blob::{Blob, BlobPatch};
use shoal_protocol::object::{Class, ListQuery, Page};
use shoal_protocol::wire::client::{BlobStored, Opening, Reply};
use shoal_transport::{FrameError, read_frame};
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::transfer::{Download, Source};
use crate::{Client, Error};

/// Times that a file is sent anew after a cut. Why 3: each is the whole file.
const PUT_TRIES_MAX: u32 = 3;

/// What is said about a blob that is put.
#[derive(Debug, Clone, Default)]
pub struct Upload {
    /// The length, where it is known: the node then refuses fewer or more bytes.
    pub size: Option<u64>,
    /// Keep it although nothing refers to it.
    pub keep: bool,
    /// A name for people.
    pub name: String,
}

impl Client {
    /// Stores what the reader gives, up to its end, in constant memory. Returns once it is durable; the hash that the
    /// node found is checked against what was sent. `progress` is told the bytes sent so far.
    ///
    /// If the future is dropped halfway nothing is stored.
    ///
    /// # Errors
    /// The node's problem; [`Error::Interrupted`] if the connection was lost (a reader cannot be read again, see
    /// [`Client::put_file`]); [`Error::Source`] if the reader fails.
    pub async fn put_blob(
        &self,
        reader: impl AsyncRead + Unpin + Send,
        upload: Upload,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<BlobStored, Error> {
        let opening = Opening::PutBlob { size: upload.size, keep: upload.keep, name: upload.name };
        let link = self.link().await?;
        let (send, mut receive) = link.open_stream(&opening).await.map_err(cut)?;
        let mut send = Abort(Some(send));
        let mut answer = std::pin::pin!(stored(&mut receive));
        let (expected, stored) = tokio::select! {
            biased;
            sent = send_all(reader, &mut send, progress) => match sent {
                Ok(id) => (id, answer.await?),
                // The node stops reading when it refuses, and says why.
                Err(Error::Interrupted(reason)) => return Err(answer.await.err().unwrap_or(Error::Interrupted(reason))),
                Err(error) => return Err(error),
            },
            early = &mut answer => {
                let stored = early?;
                return Err(Error::Protocol(format!("{} was stored before it was sent", stored.id)));
            }
        };
        if stored.id == expected { Ok(stored) } else { Err(Error::HashMismatch { expected, got: stored.id }) }
    }

    /// Stores these bytes as a blob.
    pub async fn put_bytes(&self, bytes: &[u8], keep: bool, name: &str) -> Result<BlobStored, Error> {
        let upload = Upload { size: Some(bytes.len() as u64), keep, name: name.to_owned() };
        self.put_blob(bytes, upload, &mut |_| {}).await
    }

    /// Stores a file as a blob, in constant memory. After a cut it is sent again, at most twice. `progress` is told the
    /// bytes sent so far and the file's length.
    pub async fn put_file(
        &self,
        path: &Path,
        keep: bool,
        name: &str,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<BlobStored, Error> {
        let failed = |e| Error::file(path, e);
        let mut tries = 1;
        loop {
            let file = tokio::fs::File::open(path).await.map_err(failed)?;
            let size = file.metadata().await.map_err(failed)?.len();
            let upload = Upload { size: Some(size), keep, name: name.to_owned() };
            match self.put_blob(file, upload, &mut |sent| progress(sent, size)).await {
                Err(error) if error.is_cut() && tries < PUT_TRIES_MAX => tries += 1,
                Err(Error::Source(source)) => return Err(Error::File { path: path.to_path_buf(), source }),
                done => return done,
            }
        }
    }

    /// Reads a blob from `offset` on, `len` bytes or to its end.
    pub async fn get_blob(&self, id: BlobId, offset: u64, len: Option<u64>) -> Result<Download, Error> {
        self.download(Source::Blob(id), offset, len).await
    }

    /// Reads a blob into a file that stands there only once it is whole and verified. After a cut it goes on where it
    /// was, also in another process: until it is whole, the bytes are in a file `.NAME.HASH.part` beside it. `progress`
    /// is told the bytes that are here and the length.
    pub async fn get_blob_to_file(
        &self,
        id: BlobId,
        path: &Path,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<BlobStored, Error> {
        self.download_file(Source::Blob(id), path, progress).await
    }

    /// What the node knows about a blob.
    pub async fn blob(&self, id: BlobId) -> Result<Blob, Error> {
        self.get(Class::Blob, id).await
    }

    /// Blobs at the node.
    pub async fn blobs(&self, query: ListQuery) -> Result<Page<Blob>, Error> {
        self.list(Class::Blob, query).await
    }

    /// Changes what is said about a blob.
    pub async fn set_blob(&self, id: BlobId, patch: &BlobPatch) -> Result<Blob, Error> {
        self.set(Class::Blob, id, None, patch).await
    }

    /// Lets a blob go: the node drops it once nothing refers to it.
    pub async fn delete_blob(&self, id: BlobId) -> Result<(), Error> {
        self.delete(Class::Blob, id).await
    }
}

/// Sends until the reader ends, and returns the hash of what was sent.
async fn send_all(
    mut reader: impl AsyncRead + Unpin + Send,
    send: &mut Abort,
    progress: &mut (dyn FnMut(u64) + Send),
) -> Result<BlobId, Error> {
    let mut hasher = blake3::Hasher::new();
    let mut sent = 0;
    loop {
        let mut chunk = BytesMut::with_capacity(4 * BLOB_CHUNK_LEN_MAX);
        // Full chunks are fewer turns through the sender, and readers such as pipes give little at a time.
        while chunk.len() < chunk.capacity() {
            if reader.read_buf(&mut chunk).await.map_err(|e| Error::Source(Arc::new(e)))? == 0 {
                break;
            }
        }
        if chunk.is_empty() {
            send.finish()?;
            return Ok(BlobId(*hasher.finalize().as_bytes()));
        }
        hasher.update(&chunk);
        sent += chunk.len() as u64;
        send.stream()?.write_chunk(chunk.freeze()).await.map_err(|e| Error::Interrupted(e.to_string()))?;
        progress(sent);
    }
}

async fn stored(receive: &mut RecvStream) -> Result<BlobStored, Error> {
    match read_frame::<Reply<BlobStored>>(receive, CLIENT_FRAME_LEN_MAX).await {
        Ok(Some(reply)) => Ok(reply?),
        Ok(None) => Err(Error::Interrupted("the node ended the stream without an answer".into())),
        Err(error) => Err(cut(error)),
    }
}

fn cut(error: FrameError) -> Error {
    match error {
        FrameError::Codec(error) => Error::unexpected("its answer", &error),
        error => Error::Interrupted(error.to_string()),
    }
}

/// A stream that is reset unless it was finished on purpose: quinn finishes a stream that is dropped, and the node
/// would take half a blob for a whole one.
struct Abort(Option<SendStream>);

impl Abort {
    fn stream(&mut self) -> Result<&mut SendStream, Error> {
        self.0.as_mut().ok_or_else(|| Error::Interrupted("the stream has ended".into()))
    }

    fn finish(&mut self) -> Result<(), Error> {
        let finished = self.stream()?.finish().map_err(|e| Error::Interrupted(e.to_string()));
        self.0 = None;
        finished
    }
}

impl Drop for Abort {
    fn drop(&mut self) {
        if let Some(stream) = &mut self.0 {
            // It fails only when the stream has ended already.
            let _ = stream.reset(0u32.into());
        }
    }
}
