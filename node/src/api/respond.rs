//! Answers: objects as JSON, problems as RFC 9457 documents, and the headers that belong to them.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use shoal_protocol::object::Class;
use shoal_protocol::{Kind, Problem};

use super::operations;
use super::request::{bare, lists};
use crate::service::Answer;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
const PROBLEM: HeaderValue = HeaderValue::from_static("application/problem+json");

/// The longest body in which an id is looked for. Why 4 KiB: what has just been made is short, batches are not.
const LOCATED_LEN_MAX: usize = 4096;

/// The document of a problem.
pub(super) fn problem(problem: &Problem) -> Response {
    let mut response = json(problem.status, problem);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, PROBLEM);
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    if problem.kind == Kind::Unauthenticated {
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
    }
    if let Some(ms) = problem.retry_after_ms {
        headers.insert(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000)));
    }
    response
}

/// The document of a problem with the request at this path: a 405 says what is allowed instead.
pub(super) fn problem_at(path: &str, what: &Problem) -> Response {
    let mut response = problem(what);
    if what.status == StatusCode::METHOD_NOT_ALLOWED.as_u16()
        && let Ok(allow) = HeaderValue::from_str(&operations::allowed(path))
    {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// A value as JSON.
pub(super) fn json(status: u16, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(bytes) => bytes_of(status, JSON, bytes),
        Err(why) => {
            tracing::error!(%why, "an answer has no JSON form");
            bytes_of(500, PROBLEM, b"{\"type\":\"urn:shoal:problem:internal\",\"status\":500}".to_vec())
        }
    }
}

/// Bytes that are at hand.
pub(super) fn bytes_of(status: u16, media: HeaderValue, bytes: impl Into<Body>) -> Response {
    let mut response = Response::new(bytes.into());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, media);
    response
}

/// The service's answer. `headers` are the request's.
pub(super) fn answer(class: Class, is_read: bool, headers: &HeaderMap, answer: Answer) -> Response {
    let etag = answer.etag.as_deref().map(bare);
    if let Some(etag) = etag
        && is_read
        && answer.status == 200
        && lists(headers, &header::IF_NONE_MATCH, etag)
    {
        return with_etag(empty(304), etag);
    }
    let location = location(class, answer.status, &answer.body);
    let mut response =
        if answer.body.is_empty() { empty(answer.status) } else { bytes_of(answer.status, JSON, answer.body) };
    if let Some(location) = location {
        response.headers_mut().insert(header::LOCATION, location);
    }
    match answer.etag.as_deref().map(bare) {
        Some(etag) => with_etag(response, etag),
        None => response,
    }
}

fn empty(status: u16) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// Adds a strong ETag.
pub(super) fn with_etag(mut response: Response, etag: &str) -> Response {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{etag}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}

/// Where the object stands that was made.
fn location(class: Class, status: u16, body: &[u8]) -> Option<HeaderValue> {
    #[derive(Deserialize)]
    struct Located<'a> {
        #[serde(borrow)]
        id: std::borrow::Cow<'a, str>,
    }
    if !matches!(status, 201 | 202) || body.len() > LOCATED_LEN_MAX || body.first() != Some(&b'{') {
        return None;
    }
    let located: Located<'_> = serde_json::from_slice(body).ok()?;
    HeaderValue::from_str(&format!("/{class}/{}", located.id)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_located() {
        let at = |status, body: &str| location(Class::Job, status, body.as_bytes());
        assert_eq!(at(202, "{\"id\":\"01B\"}").unwrap(), "/job/01B");
        assert_eq!(at(201, "{\"a\":[1,{}],\"id\":\"01B\"}").unwrap(), "/job/01B");
        assert_eq!(at(200, "{\"id\":\"01B\"}"), None);
        assert_eq!(at(202, "[{\"id\":\"01B\"}]"), None);
        assert_eq!(at(202, "{\"id\":\"a\\nb\"}"), None);
    }

    #[test]
    fn a_problem_says_what_to_do_next() {
        let response = problem(&Problem::new(Kind::Unauthenticated, "why"));
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()[header::CONTENT_TYPE], "application/problem+json");
        assert_eq!(response.headers()[header::WWW_AUTHENTICATE], "Bearer");
        let response = problem(&Problem::new(Kind::Full, "why").retry_after(1001));
        assert_eq!(
            (response.status().as_u16(), &response.headers()[header::RETRY_AFTER]),
            (429, &HeaderValue::from(2))
        );
        let response = problem_at("/node", &Problem::new(Kind::NotApplicable, "why"));
        assert_eq!(
            (response.status().as_u16(), &response.headers()[header::ALLOW]),
            (405, &HeaderValue::from_static("GET, HEAD"))
        );
    }

    #[test]
    fn an_object_that_the_caller_has_is_not_sent_again() {
        let made = || Answer { status: 200, etag: Some("a1".into()), body: b"{}".to_vec() };
        let mut headers = HeaderMap::new();
        let response = answer(Class::User, true, &headers, made());
        assert_eq!(
            (response.status().as_u16(), &response.headers()[header::ETAG]),
            (200, &HeaderValue::from_static("\"a1\""))
        );
        headers.insert(header::IF_NONE_MATCH, HeaderValue::from_static("\"a1\""));
        assert_eq!(answer(Class::User, true, &headers, made()).status(), 304);
        assert_eq!(answer(Class::User, false, &headers, made()).status(), 200);
    }
}
