//! The two directions of a stream, as iroh-blobs wants them.

use std::io;

use bytes::{Bytes, BytesMut};
use iroh::endpoint::VarInt;
use iroh_blobs::util::{RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

/// Read from the network at a time. Why 64 KiB: four groups with their hashes; more gave no more speed.
const READ_LEN: usize = 64 * 1024;

/// The direction to the provider: a request, then its end.
pub(super) struct Asking<W>(pub(super) W);

impl<W: AsyncWrite + Send + Unpin> SendStream for Asking<W> {
    async fn send_bytes(&mut self, bytes: Bytes) -> io::Result<()> {
        self.0.write_all(&bytes).await
    }

    async fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.0.write_all(bytes).await
    }

    /// Called once, after the request. iroh-blobs ends the direction by dropping this; a stream of somebody else's may
    /// want to be told.
    async fn sync(&mut self) -> io::Result<()> {
        self.0.shutdown().await
    }

    fn reset(&mut self, _code: VarInt) -> io::Result<()> {
        Ok(())
    }

    async fn stopped(&mut self) -> io::Result<Option<VarInt>> {
        Ok(None)
    }

    fn id(&self) -> u64 {
        0
    }
}

/// The direction from the provider.
pub(super) struct Answer<R>(BufReader<R>);

impl<R: AsyncRead> Answer<R> {
    pub(super) fn new(reader: R) -> Self {
        Self(BufReader::with_capacity(READ_LEN, reader))
    }
}

impl<R: AsyncRead + Send + Unpin> RecvStream for Answer<R> {
    async fn recv_bytes(&mut self, len: usize) -> io::Result<Bytes> {
        self.up_to(len).await
    }

    async fn recv_bytes_exact(&mut self, len: usize) -> io::Result<Bytes> {
        let bytes = self.up_to(len).await?;
        if bytes.len() < len { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(bytes) }
    }

    async fn recv_exact(&mut self, target: &mut [u8]) -> io::Result<()> {
        self.0.read_exact(target).await?;
        Ok(())
    }

    fn stop(&mut self, _code: VarInt) -> io::Result<()> {
        Ok(())
    }

    fn id(&self) -> u64 {
        0
    }
}

impl<R: AsyncRead + Send + Unpin> Answer<R> {
    /// `len` bytes, or what there is until the end. iroh-blobs asks for at most a group, 16 KiB.
    async fn up_to(&mut self, len: usize) -> io::Result<Bytes> {
        let mut bytes = BytesMut::with_capacity(len);
        let mut rest = (&mut self.0).take(len as u64);
        // Not until it reads 0: to ask for that, a full buffer would grow.
        while bytes.len() < len && rest.read_buf(&mut bytes).await? > 0 {}
        Ok(bytes.freeze())
    }
}
