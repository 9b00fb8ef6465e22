//! Changes of jobs over HTTP, as server-sent events.
//!
//! An event without a name is a change; `missed` says that there were more, `end` that the job has ended, `error` has a
//! problem. Its id is for `Last-Event-ID`, which browsers send by themselves, or for the parameter `after`.

use axum::body::Body;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::Response;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use serde_json::json;
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::job::{EventId, Subscription, Told};
use shoal_protocol::{Kind, ObjectId, Problem};

use super::respond;
use crate::service::{Caller, EventStream, Service};

/// How long a browser waits before it comes back, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Subscribes to a job, or to those of the node.
pub(super) async fn send(
    service: &Service,
    caller: &Caller,
    job: Option<ObjectId>,
    query: &ListQuery,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let filter = |name: &str| query.filters.get(name).cloned();
    let wanted = Subscription {
        job,
        function: filter("function"),
        project: filter("project"),
        after: after(headers, query.filters.get("after").map(String::as_str))?,
    };
    let events = service.subscribe(caller, wanted).await?;
    let body = body(events, job.is_some());
    let mut response = respond::bytes_of(200, HeaderValue::from_static("text/event-stream"), body);
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

/// Where the client was. What a browser says by itself counts: it is newer than the address that it was given.
fn after(headers: &HeaderMap, parameter: Option<&str>) -> Result<Option<EventId>, Problem> {
    let header = headers.get("last-event-id").map(|value| value.to_str().unwrap_or_default());
    let Some(text) = header.filter(|text| !text.is_empty()).or(parameter) else { return Ok(None) };
    text.parse().map(Some).map_err(|why| Problem::new(Kind::InvalidQuery, format!("after, Last-Event-ID: {why}")))
}

/// The events as text; of one job with its end, so that a browser knows that it need not come back.
fn body(events: EventStream, of_one_job: bool) -> Body {
    let begin = stream::once(async { format!("retry: {RETRY_MS}\n\n") });
    let told = events.map(move |told| match told {
        Ok(told) => text(&told, of_one_job),
        Err(problem) => format!("event: error\ndata: {}\n\n", json!(problem)),
    });
    let texts = begin.chain(told);
    Body::from_stream(texts.map(|text| Ok::<_, std::convert::Infallible>(Bytes::from(text))))
}

fn text(told: &Told, of_one_job: bool) -> String {
    match told {
        Told::Changed { id, event } if of_one_job && event.state.is_settled() => {
            format!("id: {id}\ndata: {}\n\nevent: end\ndata: {{}}\n\n", json!(event))
        }
        Told::Changed { id, event } => format!("id: {id}\ndata: {}\n\n", json!(event)),
        Told::Missed { id, changes } => format!("id: {id}\nevent: missed\ndata: {}\n\n", json!({ "changes": changes })),
        // An id alone is no event, and yet what a browser comes back with.
        Told::Alive { id: Some(id) } => format!("id: {id}\n: the node is there\n\n"),
        Told::Alive { id: None } => ": the node is there\n\n".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;
    use shoal_protocol::object::job::{Event, State};

    fn changed(number: u64, state: State) -> Told {
        let id = ObjectId::from_parts(1, 0, [0; 8]);
        let event = Event {
            job: id,
            state,
            epoch: 1,
            at_ms: 5,
            function: id,
            project: None,
            owner: id,
            worker: None,
            node: None,
            failure: None,
        };
        Told::Changed { id: EventId { start_ms: 7, number }, event }
    }

    async fn sent(told: Vec<Result<Told, Problem>>, of_one_job: bool) -> String {
        let body = body(Box::pin(stream::iter(told)), of_one_job).collect().await.unwrap();
        String::from_utf8(body.to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn each_change_is_an_event_with_an_id_and_what_was_missed_is_said() {
        let missed = Told::Missed { id: EventId { start_ms: 7, number: 3 }, changes: Some(2) };
        let told = || {
            vec![
                Ok(missed.clone()),
                Ok(changed(4, State::Succeeded)),
                Ok(Told::Alive { id: Some(EventId { start_ms: 7, number: 9 }) }),
            ]
        };
        let text = sent(told(), false).await;
        assert!(text.starts_with("retry: 1000\n\nid: 7-3\nevent: missed\ndata: {\"changes\":2}\n\n"), "{text}");
        assert!(text.contains("id: 7-4\ndata: {") && text.contains("\"state\":\"succeeded\""), "{text}");
        assert!(text.ends_with("\n\nid: 7-9\n: the node is there\n\n") && !text.contains("event: end"), "{text}");
        assert!(sent(told(), true).await.contains("event: end"));
        let broken = sent(vec![Err(Problem::new(Kind::Unavailable, "its home is away"))], true).await;
        assert!(broken.contains("event: error\ndata: {") && broken.contains("its home is away"), "{broken}");
    }

    #[test]
    fn where_the_client_was_is_read_from_the_header_first() {
        let mut headers = HeaderMap::new();
        assert_eq!(after(&headers, None), Ok(None));
        assert_eq!(after(&headers, Some("7-1")), Ok(Some(EventId { start_ms: 7, number: 1 })));
        headers.insert("last-event-id", HeaderValue::from_static("7-9"));
        assert_eq!(after(&headers, Some("7-1")), Ok(Some(EventId { start_ms: 7, number: 9 })));
        headers.insert("last-event-id", HeaderValue::from_static("nine"));
        assert_eq!(after(&headers, None).unwrap_err().kind, Kind::InvalidQuery);
    }
}
