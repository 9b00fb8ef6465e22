//! A job's log over HTTP: as plain text, or as server-sent events that follow it to its end.
//!
//! An event holds one or more lines; its id is the place in the log behind it, `EPOCH-OFFSET`, so that a client that comes
//! back with `Last-Event-ID` gets what it has not had. A job that is run again writes its log anew: an event `run` says so.
//! The last event is `end`, or `error` with a problem.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::job::LogPlace;
use shoal_protocol::{Kind, ObjectId, Problem};

use super::respond;
use crate::service::{Caller, LogPiece, LogStream, Service, raw};

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
    let is_events = wants_events || (follows && !accept.contains("text/plain"));
    let seen = headers.get("last-event-id").filter(|_| is_events);
    let place = seen.and_then(|value| value.to_str().ok()?.parse().ok()).unwrap_or_default();
    let log = service.open_log(caller, job, place, follows).await?;
    let (media, body) = match is_events {
        true => ("text/event-stream", events(log, place)),
        false => ("text/plain; charset=utf-8", Body::from_stream(raw(log))),
    };
    let mut response = respond::bytes_of(200, HeaderValue::from_static(media), body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// The log behind a place, as server-sent events.
fn events(log: LogStream, place: LogPlace) -> Body {
    let state = Some((log, Lines { place, held: Vec::new() }));
    Body::from_stream(stream::unfold(state, |state| async move {
        let (mut log, mut lines) = state?;
        let next = tokio::time::timeout(Duration::from_millis(SILENCE_MS_MAX), log.next()).await;
        let (event, goes_on) = match next {
            Err(_) => (String::from(": the job goes on\n\n"), true),
            Ok(Some(Ok(piece))) => (lines.event(&piece), true),
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

/// Makes events of pieces that may end anywhere.
struct Lines {
    /// Where the next byte stands.
    place: LogPlace,
    /// The end of the last piece, if it may be half a character or half a line end.
    held: Vec<u8>,
}

impl Lines {
    /// The events of the next piece; empty if nothing can be said yet.
    fn event(&mut self, piece: &LogPiece) -> String {
        let mut events = self.run(piece.at);
        self.place = piece.end();
        self.held.extend_from_slice(&piece.bytes);
        let bytes = std::mem::take(&mut self.held);
        let (now, later) = bytes.split_at(bytes.len() - unfinished(&bytes));
        self.held = later.to_vec();
        events.push_str(&self.written(now));
        events
    }

    /// What is to be said where a piece is of another run than the one before.
    fn run(&mut self, at: LogPlace) -> String {
        if self.place.epoch == at.epoch {
            return String::new();
        }
        let rest = std::mem::take(&mut self.held);
        let mut events = self.written(&rest);
        if self.place.epoch > 0 {
            events.push_str(&format!("event: run\ndata: {{\"epoch\":{}}}\n\n", at.epoch));
        }
        events
    }

    /// The events when the log has ended.
    fn end(&mut self) -> String {
        let rest = std::mem::take(&mut self.held);
        let mut events = self.written(&rest);
        events.push_str(&format!("event: end\ndata: {{\"bytes\":{}}}\n\n", self.place.offset));
        events
    }

    fn written(&self, bytes: &[u8]) -> String {
        if bytes.is_empty() {
            return String::new();
        }
        let text = String::from_utf8_lossy(bytes);
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        let held = self.held.len() as u64;
        let place = LogPlace { offset: self.place.offset.saturating_sub(held), ..self.place };
        let mut event = format!("id: {place}\n");
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

    /// The events of pieces that follow each other, behind a place.
    async fn sent(chunks: &[&[u8]], place: LogPlace) -> String {
        let mut at = place;
        let pieces = chunks.iter().map(|chunk| {
            let piece = LogPiece { at, bytes: Bytes::copy_from_slice(chunk) };
            at = piece.end();
            piece
        });
        events_of(pieces.collect(), place).await
    }

    async fn events_of(pieces: Vec<LogPiece>, place: LogPlace) -> String {
        let body = events(Box::pin(stream::iter(pieces.into_iter().map(Ok))), place);
        String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    const START: LogPlace = LogPlace { epoch: 1, offset: 0 };

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
                let events = sent(&chunks, START).await;
                assert_eq!(received(&events), expected, "cut at {first} and {second}");
                assert!(events.ends_with(&format!("event: end\ndata: {{\"bytes\":{}}}\n\n", log.len())));
            }
        }
    }

    #[tokio::test]
    async fn an_event_says_where_it_ends_and_another_run_is_told() {
        let events = sent(&[b"one\n", b"two\n"], LogPlace { epoch: 3, offset: 100 }).await;
        assert!(events.contains("id: 3-104\n") && events.contains("id: 3-108\n"), "{events}");
        let piece = |epoch, bytes: &'static [u8]| LogPiece {
            at: LogPlace { epoch, offset: 0 },
            bytes: Bytes::from_static(bytes),
        };
        let events = events_of(vec![piece(1, b"half\r"), piece(2, b"all\n")], LogPlace::default()).await;
        assert_eq!(received(&events), "half\nall\n");
        let told = events.find("event: run\ndata: {\"epoch\":2}").unwrap();
        assert!(events.find("id: 1-5\n").unwrap() < told && told < events.find("id: 2-4\n").unwrap(), "{events}");
    }

    #[tokio::test]
    async fn what_is_no_text_is_shown_as_such_and_ends() {
        assert_eq!(received(&sent(&[b"a\xff\xfeb", b"\xf0\x9f"], START).await), "a\u{fffd}\u{fffd}b\u{fffd}");
    }

    #[tokio::test]
    async fn a_log_that_fails_says_so() {
        let one = LogPiece { at: START, bytes: Bytes::from_static(b"one\n") };
        let body = events(Box::pin(stream::iter(vec![Ok(one), Err(std::io::Error::other("gone"))])), START);
        let events = String::from_utf8(body.collect().await.unwrap().to_bytes().to_vec()).unwrap();
        assert!(events.contains("event: error\ndata: {") && events.contains("gone"), "{events}");
        assert!(!events.contains("event: end"));
    }
}
