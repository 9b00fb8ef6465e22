//! Bytes over HTTP: blobs in, blobs and results out, whole or in ranges, in constant memory.

use std::io;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use http_body_util::BodyExt as _;
use shoal_protocol::object::ListQuery;
use shoal_protocol::{BlobId, Kind, ObjectId, Problem};

use super::range::{self, Chosen};
use super::request::{BLOB_IDLE_MS_MAX, cut_off, late, lists, media_type};
use super::respond;
use crate::service::{ByteStream, Caller, Opened, Service, Upload};

/// The hash of the whole, whatever part of it is sent.
const BLOB_HEADER: &str = "shoal-blob";

/// Stores the body as a blob.
pub(super) async fn put(
    service: &Service,
    caller: &Caller,
    query: ListQuery,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response, Problem> {
    if media_type(headers).is_some_and(|media| media.starts_with("multipart/")) {
        let sentence = "a blob is the bytes themselves, not a form: curl --data-binary @FILE, or -T FILE -X POST";
        return Err(Problem::new(Kind::Malformed, sentence));
    }
    let upload = Upload {
        size: body.size_hint().exact(),
        keep: query.filters.get("keep").is_some_and(|keep| keep == "true"),
        name: query.filters.get("name").cloned().unwrap_or_default(),
    };
    let broken = Arc::new(OnceLock::new());
    let bytes = patient(body, Duration::from_millis(BLOB_IDLE_MS_MAX), Arc::clone(&broken));
    let stored = service.put_blob(caller, upload, Box::pin(bytes)).await;
    // The service sees only that its source failed; why is known here.
    let stored = match broken.get() {
        Some(problem) => return Err(Problem::clone(problem)),
        None => stored?,
    };
    let mut response = respond::json(StatusCode::CREATED.as_u16(), &stored);
    if let Ok(location) = HeaderValue::from_str(&format!("/blob/{}", stored.id)) {
        response.headers_mut().insert(header::LOCATION, location);
    }
    Ok(response)
}

/// The body as a stream that fails when the next bytes do not come in time, and says why in `broken`.
fn patient(body: Body, idle: Duration, broken: Arc<OnceLock<Problem>>) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold(Some(body), move |body| {
        let broken = Arc::clone(&broken);
        async move {
            let mut body = body?;
            loop {
                let (problem, kind) = match tokio::time::timeout(idle, body.frame()).await {
                    Ok(None) => return None,
                    Ok(Some(Ok(frame))) => match frame.into_data() {
                        Ok(data) => return Some((Ok(data), Some(body))),
                        // Trailers mean nothing here.
                        Err(_) => continue,
                    },
                    Ok(Some(Err(_))) => (cut_off(), io::ErrorKind::UnexpectedEof),
                    Err(_) => (late(u64::try_from(idle.as_millis()).unwrap_or(u64::MAX)), io::ErrorKind::TimedOut),
                };
                let sentence = problem.detail.clone();
                // Only the first failure is said, and the stream ends with it.
                broken.get_or_init(|| problem);
                return Some((Err(io::Error::new(kind, sentence)), None));
            }
        }
    })
}

/// Bytes that can be read.
#[derive(Debug, Clone, Copy)]
pub(super) enum Source {
    /// A blob's.
    Blob(BlobId),
    /// A job's result.
    Result(ObjectId),
}

impl Source {
    async fn open(self, service: &Service, caller: &Caller, offset: u64, len: Option<u64>) -> Result<Opened, Problem> {
        match self {
            Self::Blob(id) => service.open_blob(caller, id, offset, len).await,
            Self::Result(job) => {
                let mut opened = service.open_result(caller, job, offset).await?;
                if let Some(len) = len {
                    opened.range.end = opened.range.end.min(opened.range.start.saturating_add(len));
                    opened.bytes = Box::pin(first(opened.bytes, len));
                }
                Ok(opened)
            }
        }
    }
}

/// The first `len` bytes of a stream.
fn first(bytes: ByteStream, len: u64) -> impl Stream<Item = io::Result<Bytes>> + Send {
    stream::unfold((bytes, len), |(mut bytes, left)| async move {
        if left == 0 {
            return None;
        }
        let mut chunk = match bytes.next().await? {
            Ok(chunk) => chunk,
            Err(why) => return Some((Err(why), (bytes, 0))),
        };
        chunk.truncate(usize::try_from(left).unwrap_or(usize::MAX));
        let left = left.saturating_sub(chunk.len() as u64);
        Some((Ok(chunk), (bytes, left)))
    })
}

/// Sends bytes: all of them, or the range that the headers ask for.
pub(super) async fn send(
    service: &Service,
    caller: &Caller,
    source: Source,
    request: &Parts,
) -> Result<Response, Problem> {
    let headers = &request.headers;
    // A range means something for GET only.
    let asked = headers.get(header::RANGE).filter(|_| request.method == Method::GET);
    let wanted = asked.and_then(|value| range::parse(value.to_str().ok()?));
    let Some(wanted) = wanted else {
        let opened = source.open(service, caller, 0, None).await?;
        return Ok(whole(opened, headers));
    };
    // What `bytes=-5` means is known only with the length: open nothing of it first.
    let known = source.open(service, caller, 0, Some(0)).await?;
    let etag = known.id.to_string();
    let is_meant = !headers.contains_key(header::IF_RANGE) || lists(headers, &header::IF_RANGE, &etag);
    match wanted.of(known.size) {
        Chosen::Part(range) if is_meant => {
            let opened = source.open(service, caller, range.start, Some(range.end - range.start)).await?;
            Ok(part(opened))
        }
        Chosen::Outside if is_meant => {
            let sentence = format!("there are {} bytes; the range begins behind them", known.size);
            let mut response = respond::problem(&Problem::new(Kind::RangeNotSatisfiable, sentence));
            insert(&mut response, header::CONTENT_RANGE, &format!("bytes */{}", known.size));
            Ok(response)
        }
        _ => Ok(whole(source.open(service, caller, 0, None).await?, headers)),
    }
}

fn whole(opened: Opened, headers: &HeaderMap) -> Response {
    if lists(headers, &header::IF_NONE_MATCH, &opened.id.to_string()) {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        return respond::with_etag(response, &opened.id.to_string());
    }
    stream_of(StatusCode::OK, opened)
}

fn part(opened: Opened) -> Response {
    let last = opened.range.end.saturating_sub(1);
    let content_range = format!("bytes {}-{last}/{}", opened.range.start, opened.size);
    let mut response = stream_of(StatusCode::PARTIAL_CONTENT, opened);
    insert(&mut response, header::CONTENT_RANGE, &content_range);
    response
}

fn stream_of(status: StatusCode, opened: Opened) -> Response {
    let len = opened.range.end.saturating_sub(opened.range.start);
    let id = opened.id.to_string();
    let media = HeaderValue::from_static("application/octet-stream");
    let mut response = respond::bytes_of(status.as_u16(), media, Body::from_stream(opened.bytes));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(len));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    // Whoever asks again must still be allowed to: the answer is kept, but not used without asking.
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Ok(id) = HeaderValue::from_str(&id) {
        headers.insert(BLOB_HEADER, id);
    }
    respond::with_etag(response, &id)
}

fn insert(response: &mut Response, name: header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        response.headers_mut().insert(name, value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn all(bytes: impl Stream<Item = io::Result<Bytes>>) -> (Vec<u8>, Option<io::ErrorKind>) {
        let mut bytes = std::pin::pin!(bytes);
        let mut read = Vec::new();
        while let Some(chunk) = bytes.next().await {
            match chunk {
                Ok(chunk) => read.extend_from_slice(&chunk),
                Err(why) => return (read, Some(why.kind())),
            }
        }
        (read, None)
    }

    fn of(chunks: &[&'static str]) -> ByteStream {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::from_static(chunk.as_bytes()))).collect();
        Box::pin(stream::iter(chunks))
    }

    #[tokio::test]
    async fn the_first_bytes_end_within_a_chunk() {
        for len in 0..9u64 {
            let expected = b"abcdefg".iter().copied().take(usize::try_from(len).unwrap()).collect();
            assert_eq!(all(first(of(&["abc", "", "de", "fg"]), len)).await, (expected, None), "{len}");
        }
    }

    #[tokio::test]
    async fn a_body_that_stands_still_or_breaks_is_said_to() {
        let broken = Arc::new(OnceLock::new());
        let endless = stream::iter([Ok::<_, io::Error>(Bytes::from_static(b"ab"))]).chain(stream::pending());
        let body = patient(Body::from_stream(endless), Duration::from_millis(10), Arc::clone(&broken));
        assert_eq!(all(body).await, (b"ab".to_vec(), Some(io::ErrorKind::TimedOut)));
        assert_eq!(broken.get().map(|problem| problem.kind), Some(Kind::Incomplete));

        let broken = Arc::new(OnceLock::new());
        let pieces = [Ok(Bytes::from_static(b"ab")), Err(io::Error::from(io::ErrorKind::ConnectionReset))];
        let body = patient(Body::from_stream(stream::iter(pieces)), Duration::from_secs(10), Arc::clone(&broken));
        assert_eq!(all(body).await, (b"ab".to_vec(), Some(io::ErrorKind::UnexpectedEof)));
        assert!(broken.get().is_some_and(|problem| problem.detail.contains("announced")));
    }

    #[tokio::test]
    async fn a_whole_body_breaks_nothing() {
        let broken = Arc::new(OnceLock::new());
        let body = patient(Body::from("abc"), Duration::from_secs(10), Arc::clone(&broken));
        assert_eq!(all(body).await, (b"abc".to_vec(), None));
        assert_eq!(broken.get(), None);
    }
}
