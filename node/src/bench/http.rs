//! Blobs over HTTP, as curl would send and read them; jobs on a connection that is kept.

use std::io;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::{Method, Request, Response, StatusCode, header};
use hyper_util::rt::TokioIo;
use shoal_protocol::BlobId;
use shoal_protocol::wire::client::BlobStored;
use tokio_util::io::ReaderStream;

/// Bytes of the file that are read at a time: as much as is read for iroh-blobs.
const CHUNK_LEN: usize = 256 * 1024;
/// An answer that is no blob, in bytes.
const ANSWER_LEN_MAX: usize = 64 * 1024;

type Body = UnsyncBoxBody<Bytes, io::Error>;

/// The HTTP API of a node.
pub(super) struct Http {
    /// `host:port`.
    host: String,
    token: String,
}

impl Http {
    /// The API at this URL.
    pub(super) fn new(url: &str, token: &str) -> anyhow::Result<Self> {
        let host = url.strip_prefix("http://").with_context(|| format!("{url} is no address of the API"))?;
        Ok(Self { host: host.trim_end_matches('/').to_owned(), token: token.to_owned() })
    }

    /// Sends a file, in constant memory.
    pub(super) async fn put(&self, path: &Path) -> anyhow::Result<BlobStored> {
        let file = tokio::fs::File::open(path).await?;
        let len = file.metadata().await?.len();
        let body = StreamBody::new(ReaderStream::with_capacity(file, CHUNK_LEN).map_ok(Frame::data)).boxed_unsync();
        let request = self.request(Method::POST, "/blob").header(header::CONTENT_LENGTH, len).body(body)?;
        let answer = self.send(request, StatusCode::CREATED).await?;
        Ok(serde_json::from_slice(&whole(answer).await?)?)
    }

    /// Reads a blob to its end, in constant memory, and gives the hash of what came.
    pub(super) async fn read(&self, id: BlobId) -> anyhow::Result<BlobStored> {
        let empty = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = self.request(Method::GET, &format!("/blob/{id}/content")).body(empty)?;
        let mut body = self.send(request, StatusCode::OK).await?.into_body();
        let (mut hasher, mut size) = (blake3::Hasher::new(), 0);
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                hasher.update(&bytes);
                size += bytes.len() as u64;
            }
        }
        Ok(BlobStored { id: BlobId(*hasher.finalize().as_bytes()), size })
    }

    /// A connection that is kept.
    pub(super) async fn session(&self) -> anyhow::Result<Session> {
        Ok(Session { sender: self.connect().await?, host: self.host.clone(), token: self.token.clone() })
    }

    async fn connect(&self) -> anyhow::Result<http1::SendRequest<Body>> {
        let stream = tokio::net::TcpStream::connect(&self.host).await.context("connecting to the HTTP API")?;
        stream.set_nodelay(true)?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        // It ends with its last answer.
        tokio::spawn(connection);
        Ok(sender)
    }

    fn request(&self, method: Method, path: &str) -> hyper::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
    }

    /// Sends a request on a connection of its own.
    async fn send(&self, request: Request<Body>, expected: StatusCode) -> anyhow::Result<Response<Incoming>> {
        let answer = self.connect().await?.send_request(request).await?;
        refused_unless(answer, expected).await
    }
}

/// A connection with one request at a time.
pub(super) struct Session {
    sender: http1::SendRequest<Body>,
    host: String,
    token: String,
}

impl Session {
    /// Hands over the job of this JSON.
    pub(super) async fn submit(&mut self, job: Vec<u8>) -> anyhow::Result<()> {
        let body = Full::new(Bytes::from(job)).map_err(|never| match never {}).boxed_unsync();
        let request = Request::post("/job")
            .header(header::HOST, &self.host)
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .header(header::CONTENT_TYPE, "application/json")
            .body(body)?;
        self.sender.ready().await?;
        let answer = self.sender.send_request(request).await?;
        whole(refused_unless(answer, StatusCode::ACCEPTED).await?).await?;
        Ok(())
    }
}

async fn refused_unless(answer: Response<Incoming>, expected: StatusCode) -> anyhow::Result<Response<Incoming>> {
    let status = answer.status();
    if status != expected {
        bail!("the HTTP API answers {status}: {}", String::from_utf8_lossy(&whole(answer).await?));
    }
    Ok(answer)
}

async fn whole(answer: Response<Incoming>) -> anyhow::Result<Bytes> {
    let mut body = answer.into_body();
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame?.into_data() {
            ensure!(bytes.len() + data.len() <= ANSWER_LEN_MAX, "an answer of more than {ANSWER_LEN_MAX} bytes");
            bytes.extend_from_slice(&data);
        }
    }
    Ok(bytes.into())
}
