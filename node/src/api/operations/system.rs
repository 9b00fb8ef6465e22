//! Pages of the node itself.

use super::{Content, Operation, Request, Row, Success, System, Values};
use super::{Parameter, shape};

const fn page(system: System, summary: &'static str, successes: &'static [Success]) -> Operation {
    Operation { class: None, row: Row::System(system), summary, query: &[], request: Request::Nothing, successes }
}

const REFRESH: &[Parameter] = &[Parameter {
    name: "refresh",
    what: "Load the page again after so many seconds",
    values: Values::Number { min: 1, max: 3600 },
    required: false,
}];

/// The operations.
pub(super) static OPERATIONS: &[Operation] = &[
    page(
        System::Page,
        "The node's state as a page for people",
        &[Success { status: 200, what: "The page", content: Content::Text("text/html") }],
    )
    .query(REFRESH),
    page(
        System::Health,
        "Whether the node takes requests",
        &[Success { status: 200, what: "It does", content: Content::Json(shape::<super::super::Health>) }],
    ),
    page(
        System::Metrics,
        "Counters for Prometheus",
        &[Success { status: 200, what: "In the OpenMetrics text format", content: Content::Text("text/plain") }],
    ),
    page(
        System::Document,
        "This document",
        &[Success { status: 200, what: "OpenAPI 3.1", content: Content::Json(any) }],
    ),
];

fn any(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "object" })
}
