//! A job's log over HTTP: as plain text, or as server-sent events that follow it to its end.
//!
//! An event holds one or more lines; its id is the number of bytes of the log up to its end, so that a client that
//! comes back with `Last-Event-ID` gets what it has not had. The last event is `end`, or `error` with a problem.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use shoal_protocol::object::ListQuery;
use shoal_protocol::{Kind, ObjectId, Problem};

use super::respond;
use crate::service::{ByteStream, Caller, Service};

/// How long a followed log may be silent before a comment is sent. Why 15 s: proxies cut connections that are silent for
/// 30 s or more, and a client that is gone shows only when something is written.
const SILENCE_MS_MAX: u64 = 15_000;

/// The most of an unfinished character or line end that is held back, in bytes: no UTF-8 sequence is longer.
const HELD_LEN_MAX: usize = 4;

/// Sends a job's log.
pub(super) async fn send(
    service: &Service,
    caller: &Caller,
    job: ObjectId,
    query: &ListQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let wants_events = accept.contains("text/event-stream");
    let follow = query.filters.get("follow").map(|follow| follow == "true");
    let follows = follow.unwrap_or(wants_events);
    let log = service.open_log(caller, job, follows).await?;
    let is_events = wants_events || (follows && !accept.contains("text/plain"));
    let (media, body) = if is_events {
        let seen = headers.get("last-event-id").and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or(0);
        ("text/event-stream", events(log, seen))
    } else {
        ("text/plain; charset=utf-8", Body::from_stream(log))
    };
    let mut response = respond::bytes_of(200, HeaderValue::from_static(media), body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The log as server-sent events, without its first `seen` bytes.
fn events(log: ByteStream, seen: u64) -> Body {
    let state = Some((log, Lines { passed: 0, seen, held: Vec::new() }));
    Body::from_stream(stream::unfold(state, |state| async move {
        let (mut log, mut lines) = state?;
        let next = tokio::time::timeout(Duration::from_millis(SILENCE_MS_MAX), log.next()).await;
        let (event, goes_on) = match next {
            Err(_) => (String::from(": the job goes on\n\n"), true),
            Ok(Some(Ok(chunk))) => (lines.event(&chunk), true),
            Ok(Some(Err(why))) => (failed(&why), false),
            Ok(None) => (lines.end(), false),
        };
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(event)), goes_on.then_some((log, lines))))
    }))
}

fn failed(why: &std::io::Error) -> String {
    let problem = Problem::new(Kind::Internal, format!("the log cannot be read further: {why}"));
    format!("event: error\ndata: {}\n\n", serde_json::to_string(&problem).unwrap_or_default())
}

/// Makes events of chunks that may end anywhere.
struct Lines {
    /// Bytes of the log that have come.
    passed: u64,
    /// Bytes that the client has.
    seen: u64,
    /// The end of the last chunk, if it may be half a character or half a line end.
    held: Vec<u8>,
}

impl Lines {
    /// The event of the next chunk; empty if nothing can be said yet.
    fn event(&mut self, chunk: &[u8]) -> String {
        let skipped = usize::try_from(self.seen.saturating_sub(self.passed)).unwrap_or(usize::MAX).min(chunk.len());
        self.passed = self.passed.saturating_add(chunk.len() as u64);
        self.held.extend_from_slice(chunk.get(skipped..).unwrap_or_default());
        let bytes = std::mem::take(&mut self.held);
        let (now, later) = bytes.split_at(bytes.len() - unfinished(&bytes));
        self.held = later.to_vec();
        self.written(now)
    }

    /// The events when the log has ended.
    fn end(&mut self) -> String {
        let rest = std::mem::take(&mut self.held);
        let mut events = self.written(&rest);
        events.push_str(&format!("event: end\ndata: {{\"bytes\":{}}}\n\n", self.passed));
        events
    }

    fn written(&self, bytes: &[u8]) -> String {
        if bytes.is_empty() {
            return String::new();
        }
        let text = String::from_utf8_lossy(bytes);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let mut event = format!("id: {}\n", self.passed.saturating_sub(self.held.len() as u64));
        for line in text.split('\n') {
            event.push_str("data: ");
            event.push_str(line);
            event.push('\n');
        }
        event.push('\n');
        event
    }
}

/// How many bytes at the end may become something else with the next chunk: the start of a character, or `\r`.
fn unfinished(bytes: &[u8]) -> usize {
    if bytes.last() == Some(&b'\r') {
        return 1;
    }
    let tail = bytes.get(bytes.len().saturating_sub(HELD_LEN_MAX)..).unwrap_or_default();
    let Some(start) = tail.iter().rposition(|&byte| byte & 0b1100_0000 != 0b1000_0000) else { return 0 };
    let tail = tail.get(start..).unwrap_or_default();
    let len = match tail.first() {
        Some(0b1100_0000..=0b1101_1111) => 2,
        Some(0b1110_0000..=0b1110_1111) => 3,
        Some(0b1111_0000..=0b1111_0111) => 4,
        _ => 1,
    };
    if tail.len() < len { tail.len() } else { 0 }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    async fn sent(chunks: &[&[u8]], seen: u64) -> String {
        let chunks: Vec<_> = chunks.iter().map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
        let body = events(Box::pin(stream::iter(chunks)), seen);
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    /// What a client makes of events, by the rules of the HTML standard.
    fn received(events: &str) -> String {
        let mut text = String::new();
        for event in events.split("\n\n").filter(|event| event.starts_with("id:")) {
            let lines: Vec<_> = event.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
            text.push_str(&lines.join("\n"));
        }
        text
    }

    #[tokio::test]
    async fn a_log_is_the_same_whatever_its_chunks_are() {
        let log = "one\ntwo\r\nthrée 🐟\rfour\n\nfive".as_bytes();
        let expected = "one\ntwo\nthrée 🐟\nfour\n\nfive";
        for first in 0..log.len() {
            for second in first..log.len() {
                let chunks = [&log[..first], &log[first..second], &log[second..]];
                let events = sent(&chunks, 0).await;
                assert_eq!(received(&events), expected, "cut at {first} and {second}");
                assert!(events.ends_with(&format!("event: end\ndata: {{\"bytes\":{}}}\n\n", log.len())));
            }
        }
    }

    #[tokio::test]
    async fn a_client_that_comes_back_gets_the_rest() {
        let log: [&[u8]; 3] = [b"one\n", b"two\n", b"three\n"];
        assert!(sent(&log, 0).await.contains("id: 8\n"));
        assert_eq!(received(&sent(&log, 8).await), "three\n");
        assert_eq!(received(&sent(&log, 6).await), "o\nthree\n");
        assert_eq!(received(&sent(&log, 99).await), "");
    }

    #[tokio::test]
    async fn what_is_no_text_is_shown_as_such_and_ends() {
        assert_eq!(received(&sent(&[b"a\xff\xfeb", b"\xf0\x9f"], 0).await), "a\u{fffd}\u{fffd}b\u{fffd}");
    }

    #[tokio::test]
    async fn a_log_that_fails_says_so() {
        let chunks = vec![Ok(Bytes::from_static(b"one\n")), Err(std::io::Error::other("gone"))];
        let body = events(Box::pin(stream::iter(chunks)), 0);
        let events = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert!(events.contains("event: error\ndata: {") && events.contains("gone"), "{events}");
        assert!(!events.contains("event: end"));
    }
}
