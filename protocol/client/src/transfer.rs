//! Bytes from the node: as they come, verified when they are whole, and into files that take up where they were cut.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use shoal_protocol::limits::{BLOB_CHUNK_LEN_MAX, CLIENT_FRAME_LEN_MAX};
use shoal_protocol::wire::client::{BlobOpened, BlobStored, Opening, Reply};
use shoal_protocol::{BlobId, ObjectId};
use shoal_transport::{FrameError, read_frame};
use tokio::fs::File;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncSeekExt as _, AsyncWriteExt as _, BufWriter, ReadBuf};

use crate::client::TRIES_MAX;
use crate::link::Link;
use crate::{Client, Error};

/// The pause before a transfer is begun again on another connection.
const BROKEN_PAUSE: Duration = Duration::from_millis(5);

/// Bytes that are read at once. Why 256 KiB: what a fast connection brings between two turns.
const BUFFER_LEN: usize = 4 * BLOB_CHUNK_LEN_MAX;
/// Bytes that are written into a file at once. Why 1 MiB: each write is a turn of another thread.
const WRITE_LEN: usize = 1024 * 1024;

/// What is read.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// A blob.
    Blob(BlobId),
    /// A job's result.
    Result(ObjectId),
}

/// Bytes of a blob or a result, as they come from the node: read with [`Download::chunk`] or as [`AsyncRead`].
///
/// If it starts with the first byte and goes to the end, the bytes are verified against the hash: the last read fails
/// when they do not match. A part of a blob cannot be verified.
pub struct Download {
    client: Client,
    source: Source,
    opened: BlobOpened,
    position: u64,
    end: u64,
    hasher: Option<Box<blake3::Hasher>>,
    /// Cuts since the last byte came.
    cuts: u32,
    buffer: BytesMut,
    stream: Stream,
}

/// The stream of a transfer, and what must live as long.
struct Stream {
    receive: RecvStream,
    /// The node takes the end of this side for the client's going away.
    _send: SendStream,
    _link: Arc<Link>,
}

impl Download {
    /// The hash of the whole.
    pub fn id(&self) -> BlobId {
        self.opened.id
    }

    /// The length of the whole, in bytes.
    pub fn size(&self) -> u64 {
        self.opened.size
    }

    /// How many bytes are still to come.
    pub fn left(&self) -> u64 {
        self.end.saturating_sub(self.position)
    }

    /// The next bytes, at most 256 KiB; none at the end. After a cut it goes on where it was. May be dropped halfway
    /// without loss.
    ///
    /// # Errors
    /// [`Error::Interrupted`] or [`Error::Unreachable`] if the node does not come back, [`Error::HashMismatch`] at the
    /// end if the bytes are not those that the node announced.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        loop {
            // Into a buffer, not packet by packet: a packet at a time would be a call of the system at a time.
            if self.buffer.capacity() < BLOB_CHUNK_LEN_MAX {
                self.buffer = BytesMut::with_capacity(BUFFER_LEN);
            }
            match self.stream.receive.read_buf(&mut self.buffer).await {
                Ok(0) => return self.finish().map(|()| None),
                Ok(_) => {
                    let bytes = self.buffer.split().freeze();
                    self.count(&bytes)?;
                    return Ok(Some(bytes));
                }
                // Nothing is missing but the word that nothing is missing.
                Err(_) if self.left() == 0 => return self.finish().map(|()| None),
                Err(error) => self.reopen(error.to_string()).await?,
            }
        }
    }

    /// All of it, if it is not longer than `len_max` bytes.
    ///
    /// # Errors
    /// As of [`Download::chunk`], and [`Error::TooLarge`].
    pub async fn into_vec(mut self, len_max: usize) -> Result<Vec<u8>, Error> {
        let len = usize::try_from(self.left()).unwrap_or(usize::MAX);
        if len > len_max {
            return Err(Error::TooLarge { len, max: len_max });
        }
        let mut bytes = Vec::with_capacity(len);
        while let Some(chunk) = self.chunk().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    async fn reopen(&mut self, cut: String) -> Result<(), Error> {
        self.cuts += 1;
        if self.cuts >= TRIES_MAX {
            return Err(Error::Interrupted(cut));
        }
        let (opened, stream) = self.client.open_download(self.source, self.position, Some(self.left())).await?;
        if opened != self.opened {
            return Err(Error::HashMismatch { expected: self.opened.id, got: opened.id });
        }
        self.stream = stream;
        Ok(())
    }

    fn count(&mut self, bytes: &[u8]) -> Result<(), Error> {
        self.cuts = 0;
        self.position += bytes.len() as u64;
        if self.position > self.end {
            return Err(Error::Protocol("more bytes than it announced".into()));
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(bytes);
        }
        Ok(())
    }

    fn finish(&mut self) -> Result<(), Error> {
        if self.left() > 0 {
            return Err(Error::Interrupted(format!("{} bytes are missing", self.left())));
        }
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        verify(self.opened.id, &hasher)
    }
}

/// As [`Download::chunk`], but a cut is an error of kind `UnexpectedEof`.
impl AsyncRead for Download {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(Pin::new(&mut this.stream.receive).poll_read(cx, buf))
            .map_err(|error| std::io::Error::new(std::io::ErrorKind::UnexpectedEof, error))?;
        let new = buf.filled().get(before..).unwrap_or_default();
        let counted = if new.is_empty() && buf.remaining() > 0 { this.finish() } else { this.count(new) };
        Poll::Ready(counted.map_err(|error| {
            let cut = error.is_cut();
            let kind = if cut { std::io::ErrorKind::UnexpectedEof } else { std::io::ErrorKind::InvalidData };
            std::io::Error::new(kind, error)
        }))
    }
}

fn verify(expected: BlobId, hasher: &blake3::Hasher) -> Result<(), Error> {
    let got = BlobId(*hasher.finalize().as_bytes());
    if got == expected { Ok(()) } else { Err(Error::HashMismatch { expected, got }) }
}

impl Client {
    /// Opens a stream for a transfer and reads the node's first answer to it.
    pub(crate) async fn open_answered<T: serde::de::DeserializeOwned>(
        &self,
        opening: &Opening,
    ) -> Result<(T, Arc<Link>, SendStream, RecvStream), Error> {
        let mut cut = String::new();
        for _ in 0..TRIES_MAX {
            let link = self.link().await?;
            let (send, mut receive) = match link.open_stream(opening).await {
                Ok(streams) => streams,
                Err(error) => {
                    cut = error.to_string();
                    // The connection is lost, which it may not know itself for a moment.
                    tokio::time::sleep(BROKEN_PAUSE).await;
                    continue;
                }
            };
            match read_frame::<Reply<T>>(&mut receive, CLIENT_FRAME_LEN_MAX).await {
                Ok(Some(Ok(answer))) => return Ok((answer, link, send, receive)),
                Ok(Some(Err(problem))) => return Err(problem.into()),
                Ok(None) => cut = "the node ended the stream without an answer".into(),
                Err(FrameError::Codec(error)) => return Err(Error::unexpected("its answer", &error)),
                Err(error) => cut = error.to_string(),
            }
        }
        Err(Error::Interrupted(cut))
    }

    pub(crate) async fn download(&self, source: Source, offset: u64, len: Option<u64>) -> Result<Download, Error> {
        let (opened, stream) = self.open_download(source, offset, len).await?;
        if let Source::Blob(id) = source
            && id != opened.id
        {
            return Err(Error::HashMismatch { expected: id, got: opened.id });
        }
        let rest = opened.size.saturating_sub(offset);
        let end = offset + len.map_or(rest, |len| len.min(rest));
        let hasher = (offset == 0 && end == opened.size).then(Box::default);
        Ok(Download {
            client: self.clone(),
            source,
            opened,
            position: offset,
            end,
            hasher,
            cuts: 0,
            buffer: BytesMut::new(),
            stream,
        })
    }

    async fn open_download(
        &self,
        source: Source,
        offset: u64,
        len: Option<u64>,
    ) -> Result<(BlobOpened, Stream), Error> {
        let opening = match source {
            Source::Blob(id) => Opening::GetBlob { id, offset, len },
            Source::Result(job) => Opening::GetResult { job, offset },
        };
        let (opened, link, send, receive) = self.open_answered::<BlobOpened>(&opening).await?;
        Ok((opened, Stream { receive, _send: send, _link: link }))
    }

    /// Reads all of it into a file that stands there only once it is whole and verified.
    pub(crate) async fn download_file(
        &self,
        source: Source,
        path: &Path,
        progress: &mut (dyn FnMut(u64, u64) + Send),
    ) -> Result<BlobStored, Error> {
        let mut download = self.download(source, 0, None).await?;
        let (id, size) = (download.id(), download.size());
        let part_path = part_path(path, id);
        let mut part = Part::open(&part_path, size).await?;
        progress(part.len, size);
        let filled = async {
            if part.len > 0 && part.len < size {
                // What is here already is not fetched again.
                download = self.download(source, part.len, None).await?;
            }
            if part.len < size || size == 0 {
                part.fill(download, progress).await?;
            }
            verify(id, &part.hasher)
        };
        if let Err(error) = filled.await {
            return Err(discard(&part_path, error).await);
        }
        part.file.get_ref().sync_all().await.map_err(|e| Error::file(&part_path, e))?;
        tokio::fs::rename(&part_path, path).await.map_err(|e| Error::file(path, e))?;
        Ok(BlobStored { id, size })
    }
}

/// Bytes that turned out to be wrong are not taken up again. A local fault keeps them: they may still be good.
async fn discard(part_path: &Path, error: Error) -> Error {
    if matches!(error, Error::HashMismatch { .. } | Error::Protocol(_)) {
        // If it cannot be removed either, the next attempt finds the mismatch again.
        let _ = tokio::fs::remove_file(part_path).await;
    }
    error
}

/// Beside the file that it becomes, named by the hash: what another attempt at the same bytes has left is taken up.
fn part_path(path: &Path, id: BlobId) -> PathBuf {
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    path.with_file_name(format!(".{name}.{}.part", id.short()))
}

/// The part of a file that is already here, and its hash so far.
struct Part {
    file: BufWriter<File>,
    path: PathBuf,
    len: u64,
    hasher: blake3::Hasher,
}

impl Part {
    async fn open(path: &Path, size: u64) -> Result<Self, Error> {
        let failed = |e| Error::file(path, e);
        let mut options = File::options();
        let mut file = options.read(true).write(true).create(true).truncate(false).open(path).await.map_err(failed)?;
        if file.metadata().await.map_err(failed)?.len() > size {
            file.set_len(0).await.map_err(failed)?;
        }
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; BUFFER_LEN];
        let mut len = 0;
        loop {
            let read = file.read(&mut buffer).await.map_err(failed)?;
            if read == 0 {
                break;
            }
            hasher.update(buffer.get(..read).unwrap_or_default());
            len += read as u64;
        }
        file.seek(std::io::SeekFrom::Start(len)).await.map_err(failed)?;
        let file = BufWriter::with_capacity(WRITE_LEN, file);
        Ok(Self { file, path: path.to_path_buf(), len, hasher })
    }

    async fn fill(&mut self, mut stream: Download, progress: &mut (dyn FnMut(u64, u64) + Send)) -> Result<(), Error> {
        let size = stream.size();
        let filled = loop {
            match stream.chunk().await {
                Ok(Some(bytes)) => {
                    self.file.write_all(&bytes).await.map_err(|e| Error::file(&self.path, e))?;
                    self.hasher.update(&bytes);
                    self.len += bytes.len() as u64;
                    progress(self.len, size);
                }
                Ok(None) => break Ok(()),
                Err(error) => break Err(error),
            }
        };
        // Also after a cut: what has come is what the next attempt takes up.
        self.file.flush().await.map_err(|e| Error::file(&self.path, e))?;
        filled
    }
}
