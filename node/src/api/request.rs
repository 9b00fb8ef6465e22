//! What a request says: object, query, token, preconditions, body. Bounded before it is read, checked before it is used.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::extract::Query;
use axum::http::{HeaderMap, HeaderName, Uri, header};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use shoal_protocol::limits::HTTP_BODY_LEN_MAX;
use shoal_protocol::object::{Class, ListQuery};
use shoal_protocol::trace::TRACEPARENT;
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem, Traceparent, name};
use tokio::sync::{Semaphore, SemaphorePermit};

use super::operations::{Operation, Parameter, Request, Values};

/// The header of the draft `draft-ietf-httpapi-idempotency-key-header`.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");

/// How long the body of an object may take to arrive. Why 30 s: 1 MiB at 35 KiB/s; slower ones are upload attacks or
/// belong into a blob.
const BODY_MS_MAX: u64 = 30_000;

/// How long a blob's next bytes may take to arrive. Why 60 s: a mobile link that comes back within a minute goes on.
pub(super) const BLOB_IDLE_MS_MAX: u64 = 60_000;

/// Memory for the bodies of all requests that are under way, in KiB. Why 64 MiB: 64 of the longest, thousands of usual
/// ones, and a node stays small.
pub(super) const BODIES_KIB_MAX: usize = 64 * 1024;

/// How long a request may wait for that memory. Why 5 s: whoever has it needs milliseconds, unless they are stuck.
const BODIES_WAIT_MS_MAX: u64 = 5_000;

/// The object that the path names, as the service takes it: an id in its one form, or a name.
pub(super) fn object(class: Class, uri: &Uri) -> Result<String, Problem> {
    let segment = uri.path().split('/').nth(2).unwrap_or_default();
    let text = decode(segment)
        .ok_or_else(|| Problem::new(Kind::InvalidId, format!("{class}: the path is not percent-encoded UTF-8")))?;
    let id = match class {
        Class::Blob => text.parse::<BlobId>().map(|id| id.to_string()),
        Class::Node => text.parse::<NodeId>().map(|id| id.to_string()),
        _ => text.parse::<ObjectId>().map(|id| id.to_string()),
    };
    let by_name = match class {
        Class::User | Class::Project | Class::Function | Class::Worker | Class::Node => {
            name::check("it", &text).is_ok()
        }
        Class::Kv => text == "me",
        Class::Job | Class::Blob => false,
    };
    match id {
        // Names win where a text could be both: the service looks for an id first, in any form.
        _ if by_name => Ok(text),
        Ok(id) => Ok(id),
        Err(why) => {
            let shown: String = text.chars().take(80).collect();
            let or_name = match class {
                Class::Job | Class::Blob => "",
                Class::Kv => "; `me` is the caller's own namespace",
                _ => ", nor is it a name (a-z, 0-9, '-', '_', '.')",
            };
            Err(Problem::new(Kind::InvalidId, format!("{class} {shown:?} is no id: {why}{or_name}")))
        }
    }
}

/// Undoes percent-encoding.
fn decode(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' {
            let high = char::from(rest.next()?).to_digit(16)?;
            let low = char::from(rest.next()?).to_digit(16)?;
            bytes.push(u8::try_from(high * 16 + low).ok()?);
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok()
}

/// The query of a request, each parameter known to the operation, at most once, and checked.
pub(super) fn query(operation: &Operation, uri: &Uri) -> Result<ListQuery, Problem> {
    let mut parsed = ListQuery::default();
    let Query(pairs) = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|rejection| Problem::new(Kind::InvalidQuery, rejection.to_string()))?;
    for (name, value) in pairs {
        let Some(parameter) = operation.query.iter().find(|known| known.name == name) else {
            return Err(unknown_parameter(operation.query, &name));
        };
        parameter.check(&value)?;
        let twice = match (parameter.name, parameter.values) {
            ("limit", Values::Number { .. }) => parsed.limit.replace(value.parse().unwrap_or_default()).is_some(),
            ("cursor", _) => parsed.cursor.replace(value).is_some(),
            _ => parsed.filters.insert(name, value).is_some(),
        };
        if twice {
            return Err(Problem::new(Kind::InvalidQuery, format!("{} stands in the query twice", parameter.name)));
        }
    }
    // A list's own parameters are never required: all others are among the filters.
    match operation.query.iter().find(|known| known.required && !parsed.filters.contains_key(known.name)) {
        Some(missing) => {
            let sentence = format!("{} is missing in the query: {}", missing.name, missing.what);
            Err(Problem::new(Kind::InvalidQuery, sentence))
        }
        None => Ok(parsed),
    }
}

fn unknown_parameter(known: &[Parameter], given: &str) -> Problem {
    let shown: String = given.chars().take(64).collect();
    let names: Vec<_> = known.iter().map(|parameter| parameter.name).collect();
    let sentence = if names.is_empty() {
        format!("{shown:?} is unknown: this takes no query parameters")
    } else {
        format!("{shown:?} is unknown; this takes {}", names.join(", "))
    };
    Problem::new(Kind::InvalidQuery, sentence)
}

/// The token, if the request carries one.
pub(super) fn token(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return Ok(None) };
    let text = value.to_str().unwrap_or_default();
    match text.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.trim().is_empty() => {
            Ok(Some(token.trim()))
        }
        _ => Err(Problem::new(Kind::Unauthenticated, "Authorization is not of the form `Bearer TOKEN`")),
    }
}

/// The one ETag of `If-Match`, without its quotes; none for `*`, which every object that exists fulfils.
pub(super) fn if_match(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let Some(value) = headers.get(header::IF_MATCH) else { return Ok(None) };
    match value.to_str().map(str::trim) {
        Ok("*") => Ok(None),
        Ok(text) if !text.contains(',') && !text.is_empty() => Ok(Some(bare(text).to_owned())),
        _ => Err(Problem::new(Kind::Malformed, "If-Match takes one ETag, or *")),
    }
}

/// An ETag without its quotes.
pub(super) fn bare(etag: &str) -> &str {
    let etag = etag.trim();
    etag.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or(etag)
}

/// Whether a header that lists ETags has this one. `W/` is passed over: what is equal by bytes is equal.
pub(super) fn lists(headers: &HeaderMap, name: &HeaderName, etag: &str) -> bool {
    let text = headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(',').map(str::trim).any(|one| one == "*" || bare(one.strip_prefix("W/").unwrap_or(one)) == etag)
}

/// The place in the caller's trace; a header that is not of its form is ignored, as that standard demands.
pub(super) fn traceparent(headers: &HeaderMap) -> Option<Traceparent> {
    Traceparent::sent(headers.get(TRACEPARENT)?.to_str().ok())
}

/// The key under which a job is submitted, if the request says one.
pub(super) fn idempotency_key(headers: &HeaderMap) -> Result<Option<Arc<str>>, Problem> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let unreadable = || Problem::new(Kind::InvalidField, "Idempotency-Key: only printable ASCII can be read");
    value.to_str().map(|key| Some(key.into())).map_err(|_| unreadable())
}

/// The media type of the body, lower case, without its parameters.
pub(super) fn media_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(header::CONTENT_TYPE)?.to_str().unwrap_or("unreadable");
    Some(text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
}

/// A body in memory, and its share of the memory that all bodies have together.
pub(super) struct Read<'a> {
    /// All of it.
    pub(super) bytes: Bytes,
    _share: Option<SemaphorePermit<'a>>,
}

/// Reads the JSON body that the operation takes: its form is left to the service, which knows the type.
///
/// Safe to drop halfway: the share goes back.
pub(super) async fn read<'a>(
    operation: &Operation,
    headers: &HeaderMap,
    body: Body,
    bodies: &'a Semaphore,
) -> Result<Read<'a>, Problem> {
    let len = body.size_hint().exact();
    if len == Some(0) {
        return Ok(Read { bytes: Bytes::new(), _share: None });
    }
    if len.is_some_and(|len| len > HTTP_BODY_LEN_MAX as u64) {
        return Err(too_large());
    }
    check_media_type(headers)?;
    // A body of unknown length may become as long as they get.
    let kib = u32::try_from(len.unwrap_or(HTTP_BODY_LEN_MAX as u64).div_ceil(1024)).unwrap_or(u32::MAX);
    let share = tokio::time::timeout(Duration::from_millis(BODIES_WAIT_MS_MAX), bodies.acquire_many(kib)).await;
    let Ok(Ok(share)) = share else {
        return Err(Problem::new(Kind::Full, "too many requests have long bodies at the moment").retry_after(1000));
    };
    let bytes = tokio::time::timeout(Duration::from_millis(BODY_MS_MAX), collect(body))
        .await
        .unwrap_or_else(|_| Err(late(BODY_MS_MAX)))?;
    if matches!(operation.request, Request::Nothing) && !is_empty_json(&bytes) {
        return Err(Problem::new(Kind::Malformed, "this takes no body"));
    }
    Ok(Read { bytes, _share: Some(share) })
}

fn check_media_type(headers: &HeaderMap) -> Result<(), Problem> {
    match media_type(headers).as_deref() {
        None | Some("application/json" | "application/merge-patch+json") => Ok(()),
        Some(other) => {
            let shown: String = other.chars().take(80).collect();
            let sentence =
                format!("the body is said to be {shown:?}; this takes JSON: send `content-type: application/json`");
            Err(Problem::new(Kind::Malformed, sentence))
        }
    }
}

/// Clients that always send an object send an empty one where there is nothing to say.
fn is_empty_json(bytes: &[u8]) -> bool {
    let mut rest = bytes.iter().filter(|byte| !byte.is_ascii_whitespace());
    matches!((rest.next(), rest.next(), rest.next()), (None, _, _) | (Some(b'{'), Some(b'}'), None))
}

async fn collect(mut body: Body) -> Result<Bytes, Problem> {
    let mut whole = BytesMut::new();
    let mut first: Option<Bytes> = None;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|_| cut_off())?.into_data() else { continue };
        let len = whole.len() + first.as_ref().map_or(0, Bytes::len) + data.len();
        if len > HTTP_BODY_LEN_MAX {
            return Err(too_large());
        }
        // A body of one piece, as nearly all are, is not copied.
        match (first.take(), whole.is_empty()) {
            (None, true) => first = Some(data),
            (before, _) => {
                whole.extend_from_slice(&before.unwrap_or_default());
                whole.extend_from_slice(&data);
            }
        }
    }
    Ok(first.unwrap_or_else(|| whole.freeze()))
}

fn too_large() -> Problem {
    let sentence =
        format!("the body of an object has at most {HTTP_BODY_LEN_MAX} bytes; longer data is a blob: POST /blob");
    Problem::new(Kind::TooLarge, sentence)
}

/// The body ended before its length.
pub(super) fn cut_off() -> Problem {
    Problem::new(Kind::Incomplete, "the body ended before its announced length; nothing of it was kept")
}

/// The body did not come on.
pub(super) fn late(ms: u64) -> Problem {
    Problem::new(Kind::Incomplete, format!("the body did not come within {} s; nothing of it was kept", ms / 1000))
}

#[cfg(test)]
mod tests {
    use super::super::operations::{Row, all};
    use super::*;
    use axum::http::HeaderValue;

    fn operation(class: Class, row: Row) -> &'static Operation {
        all().find(|operation| operation.class == Some(class) && operation.row == row).unwrap()
    }

    #[test]
    fn ids_are_checked_by_class() {
        let hash = "00".repeat(32);
        let id = "01BX5ZZKBKACTAV9WEVGEMMVRZ";
        for (class, good) in [
            (Class::Job, id),
            (Class::Worker, id),
            (Class::Kv, id),
            (Class::Blob, &hash),
            (Class::Node, &hash),
            (Class::User, id),
            (Class::User, "ada"),
            (Class::Kv, "me"),
            (Class::Node, "self"),
            (Class::Function, "face-detect"),
        ] {
            let uri: Uri = format!("/{class}/{good}").parse().unwrap();
            assert_eq!(object(class, &uri).as_deref(), Ok(good), "{class}");
        }
        for (class, bad, why) in [
            (Class::Job, "abc", "26 characters"),
            (Class::Job, "01BX5ZZKBKACTAV9WEVGEMMVRU", "'U'"),
            (Class::Worker, "81BX5ZZKBKACTAV9WEVGEMMVRZ", "from 0 to 7"),
            (Class::Blob, "xyz", "64 hexadecimal"),
            (Class::Node, "A", "64 hexadecimal"),
            (Class::Kv, "ada", "26 characters"),
            (Class::User, "Ada%20L", "nor is it a name"),
            (Class::Job, "%ff", "UTF-8"),
            (Class::Job, "%4", "UTF-8"),
        ] {
            let uri: Uri = format!("/{class}/{bad}").parse().unwrap();
            let problem = object(class, &uri).unwrap_err();
            assert_eq!(problem.kind, Kind::InvalidId, "{bad}");
            assert!(problem.detail.contains(why) && problem.detail.contains(class.text()), "{problem}");
        }
    }

    #[test]
    fn an_id_has_one_form() {
        let uri = Uri::from_static("/job/0ibx5zzkbkactav9wevgemmvrz");
        assert_eq!(object(Class::Job, &uri).as_deref(), Ok("01BX5ZZKBKACTAV9WEVGEMMVRZ"));
    }

    #[test]
    fn a_query_is_known_and_single() {
        let list = operation(Class::Job, Row::List);
        let parsed = query(list, &Uri::from_static("/job?limit=7&state=timed_out&cursor=a%2Fb")).unwrap();
        assert_eq!((parsed.limit, parsed.cursor.as_deref()), (Some(7), Some("a/b")));
        assert_eq!(parsed.filters["state"], "timed_out");
        for bad in ["limit=0", "limit=7&limit=7", "states=queued", "state=gone", "cursor=a&cursor=a"] {
            let uri: Uri = format!("/job?{bad}").parse().unwrap();
            assert_eq!(query(list, &uri).unwrap_err().kind, Kind::InvalidQuery, "{bad}");
        }
        let prepare = operation(Class::Function, Row::Method("prepare"));
        for missing in ["/function/new/prepare", "/function/new/prepare?"] {
            let problem = query(prepare, &missing.parse().unwrap()).unwrap_err();
            assert!(problem.kind == Kind::InvalidQuery && problem.detail.contains("author is missing"), "{problem}");
        }
        assert!(query(prepare, &Uri::from_static("/function/new/prepare?author=ab")).is_ok());
        let get = operation(Class::Job, Row::Get);
        assert!(query(get, &Uri::from_static("/job/x?")).is_ok());
        assert!(query(get, &Uri::from_static("/job/x?y=1")).unwrap_err().detail.contains("takes no query"));
    }

    #[test]
    fn a_token_is_a_bearer_token() {
        let with = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            headers
        };
        assert_eq!(token(&HeaderMap::new()), Ok(None));
        assert_eq!(token(&with("Bearer abc")), Ok(Some("abc")));
        assert_eq!(token(&with("bearer  abc ")), Ok(Some("abc")));
        for bad in ["Basic abc", "Bearer", "Bearer ", "abc"] {
            assert_eq!(token(&with(bad)).unwrap_err().kind, Kind::Unauthenticated, "{bad}");
        }
    }

    #[test]
    fn etags_are_compared_without_quotes() {
        let mut headers = HeaderMap::new();
        assert_eq!(if_match(&headers), Ok(None));
        headers.insert(header::IF_MATCH, HeaderValue::from_static("\"a1\""));
        assert_eq!(if_match(&headers), Ok(Some("a1".into())));
        headers.insert(header::IF_MATCH, HeaderValue::from_static("*"));
        assert_eq!(if_match(&headers), Ok(None));
        headers.insert(header::IF_MATCH, HeaderValue::from_static("\"a\", \"b\""));
        assert!(if_match(&headers).is_err());
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("W/\"a\", \"b\""));
        assert!(lists(&headers, &header::IF_NONE_MATCH, "a") && lists(&headers, &header::IF_NONE_MATCH, "b"));
        assert!(!lists(&headers, &header::IF_NONE_MATCH, "c"));
    }

    async fn read_all(op: &Operation, body: Body, media: Option<&'static str>) -> Result<Bytes, Problem> {
        let mut headers = HeaderMap::new();
        if let Some(media) = media {
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
        }
        let bodies = Semaphore::new(BODIES_KIB_MAX);
        let read = read(op, &headers, body, &bodies).await?;
        Ok(read.bytes)
    }

    fn chunks(count: usize, len: usize) -> Body {
        let chunk = Bytes::from(vec![b'x'; len]);
        Body::from_stream(futures_util::stream::iter((0..count).map(move |_| Ok::<_, std::io::Error>(chunk.clone()))))
    }

    #[tokio::test]
    async fn a_body_is_bounded_whatever_it_announces() {
        let create = operation(Class::Job, Row::Create);
        let json = Some("application/json; charset=utf-8");
        assert_eq!(read_all(create, chunks(3, 5), json).await.unwrap(), vec![b'x'; 15]);
        assert_eq!(read_all(create, chunks(1, HTTP_BODY_LEN_MAX), json).await.unwrap().len(), HTTP_BODY_LEN_MAX);
        let problem = read_all(create, chunks(2, HTTP_BODY_LEN_MAX / 2 + 1), json).await.unwrap_err();
        assert_eq!(problem.kind, Kind::TooLarge);
        let announced = Body::from(vec![b'x'; HTTP_BODY_LEN_MAX + 1]);
        assert_eq!(read_all(create, announced, json).await.unwrap_err().kind, Kind::TooLarge);
    }

    #[tokio::test]
    async fn a_body_is_json_and_where_it_is_wanted() {
        let create = operation(Class::Job, Row::Create);
        assert!(read_all(create, Body::from("{}"), None).await.is_ok());
        let problem = read_all(create, Body::from("a=b"), Some("application/x-www-form-urlencoded")).await.unwrap_err();
        assert_eq!(problem.kind, Kind::Malformed);
        assert!(problem.detail.contains("content-type: application/json"), "{problem}");
        let cancel = operation(Class::Job, Row::Method("cancel"));
        assert!(read_all(cancel, Body::from(" { }\n"), None).await.is_ok());
        assert_eq!(read_all(cancel, Body::from("{\"a\":1}"), None).await.unwrap_err().kind, Kind::Malformed);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_incomplete() {
        let create = operation(Class::Job, Row::Create);
        let pieces = vec![Ok(Bytes::from_static(b"{")), Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof))];
        let body = Body::from_stream(futures_util::stream::iter(pieces));
        assert_eq!(read_all(create, body, None).await.unwrap_err().kind, Kind::Incomplete);
    }
}
