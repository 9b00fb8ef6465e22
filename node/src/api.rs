//! The HTTP API: the objects of Table 1, their bytes, and a few pages of the node itself.
//!
//! Owns everything that is HTTP: connections, routes, headers, ranges, the OpenAPI document, the page at `/`. It
//! authenticates a request, checks its form, and calls the [`Service`], which decides. [`operations`] is the one table
//! of what there is. Nothing of HTTP goes further in than this module.
//!
//! Invariant: every answer that is not a success is a problem document (RFC 9457). What is no HTTP at all gets the
//! answer of the HTTP library, without a body, and its connection is closed.
//! Invariant: everything that a request carries is bounded, in length and in the time that it may take.

mod connection;
mod events;
mod host;
mod logs;
mod openapi;
mod operations;
mod page;
mod range;
mod request;
mod respond;
mod transfer;

use std::future::Future;
use std::io;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, Method, header};
use axum::response::Response;
use axum::routing::on;
use bytes::Bytes;
use hyper::service::Service as _;
use hyper_util::service::TowerToHyperService;
use serde::Serialize;
use shoal_protocol::object::{Class, ListQuery};
use shoal_protocol::wire::client::Call;
use shoal_protocol::{Kind, Problem};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::Instrument as _;

use crate::metrics::Metrics;
use crate::service::{self, Caller, Service};
use host::Hosts;
use operations::{Operation, Part, Row, System};

/// Serves the API on `listener` until `stop`, then lets requests under way finish within a few seconds.
///
/// # Errors
/// None of a single connection; what makes serving itself impossible.
pub(crate) async fn serve(listener: TcpListener, service: Service, stop: impl Future<Output = ()>) -> io::Result<()> {
    let node = service.node().await;
    let urls = node.addresses.iter().map(String::as_str).chain(node.http.as_deref());
    let edge = Edge::new(service, Hosts::of_urls(urls));
    connection::serve(listener, Arc::new(edge), stop).await
}

/// The answer of `/healthz`.
#[derive(Debug, Serialize, schemars::JsonSchema)]
struct Health {
    /// `ok`.
    status: &'static str,
}

/// What all requests share.
struct Api {
    service: Service,
    /// The OpenAPI document.
    document: Bytes,
    /// KiB that bodies in memory may still take.
    bodies: Semaphore,
}

/// From a request to its answer.
struct Edge {
    api: Arc<Api>,
    hosts: Hosts,
    router: TowerToHyperService<Router>,
}

impl Edge {
    fn new(service: Service, hosts: Hosts) -> Self {
        let document = openapi::document().to_string().into();
        let api = Arc::new(Api { service, document, bodies: Semaphore::new(request::BODIES_KIB_MAX) });
        let router = TowerToHyperService::new(router().with_state(Arc::clone(&api)));
        Self { api, hosts, router }
    }

    fn metrics(&self) -> &Metrics {
        self.api.service.metrics()
    }

    /// Answers a request. Dropped halfway, it leaves nothing behind that was not acknowledged.
    async fn handle(&self, request: Request) -> Response {
        let started = Instant::now();
        let class = class_label(request.uri().path());
        let trace = request::traceparent(request.headers()).map(|traceparent| traceparent.trace_id().to_string());
        let span =
            tracing::debug_span!("http", method = %request.method(), class, trace, status = tracing::field::Empty);
        let admitted = self.hosts.check(request.method(), request.uri(), request.version(), request.headers());
        let mut response = match admitted {
            Err(problem) => respond::problem(&problem),
            Ok(()) => match self.router.call(request).instrument(span.clone()).await {
                Ok(response) => response,
                Err(never) => match never {},
            },
        };
        response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        let status = response.status().as_u16();
        span.record("status", status);
        span.in_scope(|| tracing::debug!(status, elapsed_us = started.elapsed().as_micros(), "answered"));
        self.metrics().http(class, status, started.elapsed());
        response
    }
}

/// The class that a path is counted under: a closed set, whatever is asked for.
fn class_label(path: &str) -> &'static str {
    let first = path.split('/').nth(1).unwrap_or_default();
    first.parse::<Class>().map_or("other", Class::text)
}

/// The routes: those of the table, and problems for everything else.
fn router() -> Router<Arc<Api>> {
    let mut router = Router::new();
    for operation in operations::all() {
        let handler = move |State(api): State<Arc<Api>>, request: Request| async move {
            let path = request.uri().path().to_owned();
            run(&api, operation, request).await.unwrap_or_else(|problem| respond::problem_at(&path, &problem))
        };
        router = router.route(&operation.path(), on(operation.filter(), handler));
    }
    router.fallback(unknown).method_not_allowed_fallback(unknown)
}

async fn unknown(method: Method, uri: axum::http::Uri) -> Response {
    respond::problem_at(uri.path(), &operations::unknown(&method, uri.path()))
}

/// Runs one operation.
async fn run(api: &Api, operation: &'static Operation, request: Request) -> Result<Response, Problem> {
    let query = request::query(operation, request.uri())?;
    let Some(class) = operation.class else {
        return system(api, operation.row, &query).await;
    };
    let object = match operation.row {
        Row::List | Row::Create | Row::Feed => String::new(),
        _ => request::object(class, request.uri())?,
    };
    let (parts, body) = request.into_parts();
    let caller = api.service.authenticate(request::token(&parts.headers)?)?;
    let caller = Caller {
        traceparent: request::traceparent(&parts.headers),
        idempotency_key: request::idempotency_key(&parts.headers)?,
        ..caller
    };
    match operation.row {
        Row::Create if class == Class::Blob => transfer::put(&api.service, &caller, query, &parts.headers, body).await,
        Row::Feed => events::send(&api.service, &caller, None, &query, &parts.headers).await,
        Row::Part(part) => {
            let known = |_| Problem::new(Kind::InvalidId, format!("{class} {object:?}: this is not an id"));
            match part {
                Part::Content => {
                    let source = transfer::Source::Blob(object.parse().map_err(known)?);
                    transfer::send(&api.service, &caller, source, &parts).await
                }
                Part::Result => {
                    let source = transfer::Source::Result(object.parse().map_err(known)?);
                    transfer::send(&api.service, &caller, source, &parts).await
                }
                Part::Events => {
                    let job = object.parse().map_err(known)?;
                    events::send(&api.service, &caller, Some(job), &query, &parts.headers).await
                }
                Part::Logs => {
                    let job = object.parse().map_err(known)?;
                    logs::send(&api.service, &caller, job, &query, &parts.headers).await
                }
            }
        }
        _ => {
            let call = call(class, operation.row, object, query, &parts.headers)?;
            let read = request::read(operation, &parts.headers, body, &api.bodies).await?;
            let body = service::Body { format: service::Format::Json, bytes: read.bytes.clone() };
            let answer = api.service.call(&caller, call, body).await?;
            Ok(respond::answer(class, operation.row == Row::Get, &parts.headers, answer))
        }
    }
}

/// The call that the service knows a row as.
fn call(
    class: Class,
    row: Row,
    object: String,
    query: ListQuery,
    headers: &axum::http::HeaderMap,
) -> Result<Call, Problem> {
    Ok(match row {
        Row::List => Call::List { class, query },
        Row::Create => Call::Create { class },
        Row::Get => Call::Get { class, object },
        Row::Set => Call::Set { class, object, if_match: request::if_match(headers)? },
        Row::Delete => Call::Delete { class, object },
        Row::Method(method) => Call::Method { class, object, method: method.to_owned(), query },
        Row::Feed | Row::Part(_) | Row::System(_) => {
            return Err(Problem::new(Kind::Internal, "this row is no call to the service"));
        }
    })
}

/// The pages of the node itself. All of them are for everybody.
async fn system(api: &Api, row: Row, query: &ListQuery) -> Result<Response, Problem> {
    let Row::System(page) = row else {
        return Err(Problem::new(Kind::Internal, "this row is no page"));
    };
    Ok(match page {
        System::Page => {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            let now_ms = u64::try_from(now.as_millis()).unwrap_or(u64::MAX);
            let refresh_s = query.filters.get("refresh").and_then(|seconds| seconds.parse().ok());
            page::page(&api.service.node().await, now_ms, refresh_s)
        }
        System::Health => {
            api.service.health()?;
            respond::json(200, &Health { status: "ok" })
        }
        System::Metrics => {
            api.service.measure().await;
            let media = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            respond::bytes_of(200, media, Body::from(api.service.metrics().text()))
        }
        System::Document => {
            respond::bytes_of(200, HeaderValue::from_static("application/json"), Body::from(api.document.clone()))
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_can_be_mounted() {
        // The router panics on a path that it cannot take, or on two that overlap.
        let _router = router();
    }

    #[test]
    fn paths_are_counted_under_a_closed_set() {
        for (path, class) in [("/job", "job"), ("/job/x/y", "job"), ("/", "other"), ("/jobs", "other"), ("", "other")] {
            assert_eq!(class_label(path), class, "{path}");
        }
    }
}
