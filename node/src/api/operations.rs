//! What the HTTP API offers: one row for each class, path and method.
//!
//! Owns the table from which the routes are mounted, requests are checked, unknown classes and methods are answered,
//! and the OpenAPI document is made: what is not in it does not exist, and what is in it is documented.
//!
//! Invariant: every class has every row of Table 1. A row that means nothing for a class is in the table too, without
//! answers of success: the service refuses it with a sentence that says what to do instead.

mod documents;
mod objects;
mod shapes;
mod system;

use axum::http::Method;
use axum::routing::MethodFilter;
use schemars::{JsonSchema, Schema, SchemaGenerator};
use shoal_protocol::object::Class;
use shoal_protocol::{Kind, Problem};

/// A row of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Row {
    /// `GET /:class`.
    List,
    /// `POST /:class`.
    Create,
    /// `GET /:class/:object_id`.
    Get,
    /// `POST /:class/:object_id`.
    Set,
    /// `DELETE /:class/:object_id`.
    Delete,
    /// `POST /:class/:object_id/:method`.
    Method(&'static str),
    /// `GET /:class/:object_id/:part`: bytes that belong to an object. Beyond Table 1.
    Part(Part),
    /// `GET /:class/events`: changes of all objects of the class at this node. Beyond Table 1; no id reads `events`.
    Feed,
    /// `GET` of a page of the node itself. Beyond Table 1.
    System(System),
}

/// Bytes that belong to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// The bytes of a blob.
    Content,
    /// The result of a job.
    Result,
    /// The log of a job.
    Logs,
    /// Changes of a job.
    Events,
}

/// A page of the node itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum System {
    /// The page for people, at `/`.
    Page,
    /// `/healthz`.
    Health,
    /// `/metrics`.
    Metrics,
    /// `/openapi.json`.
    Document,
}

/// The schema of a type, for the document.
pub(crate) type Shape = fn(&mut SchemaGenerator) -> Schema;

/// The schema of `T`: a reference into the document's components.
pub(crate) fn shape<T: JsonSchema>(generator: &mut SchemaGenerator) -> Schema {
    generator.subschema_for::<T>()
}

/// The body that a request carries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Request {
    /// None.
    Nothing,
    /// JSON, if the caller wants to say anything.
    OptionalJson(Shape),
    /// JSON.
    Json(Shape),
    /// Raw bytes of any length.
    Bytes,
}

/// The body that an answer carries.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Content {
    /// None.
    Nothing,
    /// JSON.
    Json(Shape),
    /// Raw bytes, whole or a range of them.
    Bytes,
    /// Text of this media type.
    Text(&'static str),
}

/// An answer of success.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Success {
    /// The HTTP status.
    pub(crate) status: u16,
    /// When, and what it says.
    pub(crate) what: &'static str,
    /// The body.
    pub(crate) content: Content,
}

/// The values of a query parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values {
    /// Any text up to [`TEXT_VALUE_LEN_MAX`] bytes.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number.
    Number {
        /// The lowest.
        min: u32,
        /// The highest.
        max: u32,
    },
    /// One of these.
    One(&'static [&'static str]),
}

/// Where the changes of a class stand.
const FEED: &str = "events";

/// A query parameter's value, in bytes. Why 1,024: a cursor is an id or a key, of at most 512 bytes, encoded.
pub(crate) const TEXT_VALUE_LEN_MAX: usize = 1024;

/// A query parameter.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Parameter {
    /// The name.
    pub(crate) name: &'static str,
    /// What it does.
    pub(crate) what: &'static str,
    /// What it may be.
    pub(crate) values: Values,
    /// Whether it must be said.
    pub(crate) required: bool,
}

impl Parameter {
    /// Checks a value.
    pub(crate) fn check(&self, value: &str) -> Result<(), Problem> {
        let name = self.name;
        let refuse = |why: String| Err(Problem::new(Kind::InvalidQuery, why));
        match self.values {
            Values::Text if value.len() > TEXT_VALUE_LEN_MAX => {
                refuse(format!("{name} has {} bytes, at most {TEXT_VALUE_LEN_MAX}", value.len()))
            }
            Values::Bool if !matches!(value, "true" | "false") => {
                refuse(format!("{name} is {value:?}; it is true or false"))
            }
            Values::Number { min, max } if !value.parse().is_ok_and(|n: u32| (min..=max).contains(&n)) => {
                refuse(format!("{name} is {value:?}; it is a number from {min} to {max}"))
            }
            Values::One(values) if !values.contains(&value) => {
                refuse(format!("{name} is {value:?}; it is one of {}", values.join(", ")))
            }
            _ => Ok(()),
        }
    }
}

/// One row for one class.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Operation {
    /// The class; none for pages of the node itself.
    pub(crate) class: Option<Class>,
    /// The row.
    pub(crate) row: Row,
    /// What it does, in a line.
    pub(crate) summary: &'static str,
    /// The query parameters that it takes; others are refused.
    pub(crate) query: &'static [Parameter],
    /// The body that it takes.
    pub(crate) request: Request,
    /// How it answers when it succeeds. None: the row means nothing for this class.
    pub(crate) successes: &'static [Success],
}

impl Operation {
    const fn new(class: Class, row: Row, summary: &'static str) -> Self {
        Self { class: Some(class), row, summary, query: &[], request: Request::Nothing, successes: &[] }
    }

    const fn query(mut self, query: &'static [Parameter]) -> Self {
        self.query = query;
        self
    }

    const fn takes(mut self, request: Request) -> Self {
        self.request = request;
        self
    }

    const fn answers(mut self, successes: &'static [Success]) -> Self {
        self.successes = successes;
        self
    }

    /// The path as the router and the document write it.
    pub(crate) fn path(&self) -> String {
        let class = self.class.map_or("", Class::text);
        match self.row {
            Row::List | Row::Create => format!("/{class}"),
            Row::Get | Row::Set | Row::Delete => format!("/{class}/{{object_id}}"),
            Row::Method(method) => format!("/{class}/{{object_id}}/{method}"),
            Row::Part(part) => format!("/{class}/{{object_id}}/{}", part.text()),
            Row::Feed => format!("/{class}/{FEED}"),
            Row::System(system) => system.path().to_owned(),
        }
    }

    /// The name of the operation in the document: the verb first for rows that all classes have.
    pub(crate) fn id(&self) -> String {
        let class = self.class.map_or("", Class::text);
        match self.row {
            Row::List => format!("list_{class}"),
            Row::Create => format!("create_{class}"),
            Row::Get => format!("get_{class}"),
            Row::Set => format!("set_{class}"),
            Row::Delete => format!("delete_{class}"),
            Row::Method(method) => format!("{class}_{method}"),
            Row::Part(part) => format!("read_{class}_{}", part.text()),
            Row::Feed => format!("follow_{class}s"),
            Row::System(system) => format!("read_{}", system.text()),
        }
    }

    /// The HTTP method.
    pub(crate) const fn method(&self) -> Method {
        match self.row {
            Row::List | Row::Get | Row::Part(_) | Row::Feed | Row::System(_) => Method::GET,
            Row::Create | Row::Set | Row::Method(_) => Method::POST,
            Row::Delete => Method::DELETE,
        }
    }

    /// The HTTP method, for the router. `GET` stands for `HEAD` too.
    pub(crate) const fn filter(&self) -> MethodFilter {
        match self.row {
            Row::List | Row::Get | Row::Part(_) | Row::Feed | Row::System(_) => MethodFilter::GET,
            Row::Create | Row::Set | Row::Method(_) => MethodFilter::POST,
            Row::Delete => MethodFilter::DELETE,
        }
    }

    /// Whether the row means something for this class.
    pub(crate) const fn is_applicable(&self) -> bool {
        !self.successes.is_empty()
    }

    /// Whether a path with this class and so many segments leads here.
    fn stands_at(&self, path: &str) -> bool {
        let template = self.path();
        let mut given = path.split('/');
        // Where the changes of a whole class stand, no object does.
        let is_feed = |part: &str| self.class == Some(Class::Job) && part == FEED;
        let is_object = |part: &str| !part.is_empty() && !is_feed(part);
        let fits = template.split('/').all(|segment| {
            given.next().is_some_and(|part| part == segment || (segment == "{object_id}" && is_object(part)))
        });
        fits && given.next().is_none()
    }
}

impl Part {
    /// As it stands in a path.
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Result => "result",
            Self::Logs => "logs",
            Self::Events => "events",
        }
    }
}

impl System {
    const fn path(self) -> &'static str {
        match self {
            Self::Page => "/",
            Self::Health => "/healthz",
            Self::Metrics => "/metrics",
            Self::Document => "/openapi.json",
        }
    }

    const fn text(self) -> &'static str {
        match self {
            Self::Page => "page",
            Self::Health => "health",
            Self::Metrics => "metrics",
            Self::Document => "document",
        }
    }
}

/// Every operation.
pub(crate) fn all() -> impl Iterator<Item = &'static Operation> {
    documents::OPERATIONS.iter().chain(objects::OPERATIONS).chain(system::OPERATIONS)
}

/// The methods that the path takes, as an `Allow` header says it; empty if nothing stands at this path.
pub(crate) fn allowed(path: &str) -> String {
    let mut methods: Vec<String> = Vec::new();
    for operation in all().filter(|operation| operation.is_applicable() && operation.stands_at(path)) {
        methods.push(operation.method().to_string());
        if operation.method() == Method::GET {
            methods.push(Method::HEAD.to_string());
        }
    }
    methods.join(", ")
}

/// Why nothing stands at this path, or not for this method.
pub(crate) fn unknown(method: &Method, path: &str) -> Problem {
    if all().any(|operation| operation.stands_at(path)) {
        let allowed = allowed(path);
        let instead =
            if allowed.is_empty() { String::from("nothing can be done there") } else { format!("it takes {allowed}") };
        return Problem::new(Kind::NotApplicable, format!("{path:.200} does not take {method}; {instead}"));
    }
    let mut segments = path.trim_start_matches('/').split('/');
    let class = segments.next().unwrap_or_default();
    let rest: Vec<&str> = segments.collect();
    let Ok(class) = class.parse::<Class>() else { return unknown_class(class) };
    match rest.as_slice() {
        [_, method] if !method.is_empty() => unknown_method(class, method),
        [.., ""] => Problem::new(Kind::NotFound, format!("{path:.200}: nothing stands at a path that ends in '/'")),
        _ => {
            Problem::new(Kind::NotFound, format!("{path:.200}: a path is /{class}, /{class}/ID or /{class}/ID/METHOD"))
        }
    }
}

fn unknown_class(given: &str) -> Problem {
    let classes = Class::ALL.map(Class::text);
    let singular = given.strip_suffix('s').and_then(|text| text.parse::<Class>().ok());
    let hint = singular.map(|class| format!("; classes are singular: /{class}")).unwrap_or_default();
    let sentence = format!("{:?} is no class; the classes are {}{hint}", short(given), classes.join(", "));
    Problem::new(Kind::UnknownClass, sentence)
}

fn unknown_method(class: Class, given: &str) -> Problem {
    let mut names = Vec::new();
    for operation in all().filter(|operation| operation.class == Some(class)) {
        match operation.row {
            Row::Method(name) => names.push(format!("POST {name}")),
            Row::Part(part) => names.push(format!("GET {}", part.text())),
            _ => {}
        }
    }
    Problem::new(Kind::UnknownMethod, format!("{class} has no method {:?}; it has {}", short(given), names.join(", ")))
}

/// What of somebody's text is worth to be repeated to them.
fn short(given: &str) -> String {
    given.chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_class_has_every_row_of_table_1() {
        for class in Class::ALL {
            for row in [Row::List, Row::Create, Row::Get, Row::Set, Row::Delete] {
                let found = all().filter(|operation| operation.class == Some(class) && operation.row == row).count();
                assert_eq!(found, 1, "{class} {row:?}");
            }
            let methods =
                all().filter(|operation| operation.class == Some(class) && matches!(operation.row, Row::Method(_)));
            assert!(methods.count() > 0, "{class} has no method");
        }
    }

    #[test]
    fn no_two_operations_share_a_route_or_a_name() {
        let routes: BTreeSet<_> = all().map(|o| (o.path(), o.method().to_string())).collect();
        let ids: BTreeSet<_> = all().map(Operation::id).collect();
        assert_eq!(routes.len(), all().count());
        assert_eq!(ids.len(), all().count());
    }

    #[test]
    fn what_is_unknown_is_named_with_what_there_is() {
        let problem = unknown(&Method::GET, "/jobs");
        assert_eq!(problem.kind, Kind::UnknownClass);
        assert!(problem.detail.contains("\"jobs\" is no class") && problem.detail.contains("/job"), "{problem}");

        let problem = unknown(&Method::POST, "/job/00000000000000000000000000/stop");
        assert_eq!(problem.kind, Kind::UnknownMethod);
        assert!(problem.detail.contains("POST cancel") && problem.detail.contains("GET result"), "{problem}");

        let problem = unknown(&Method::PUT, "/job");
        assert_eq!(problem.kind, Kind::NotApplicable);
        assert!(problem.detail.contains("GET, HEAD, POST"), "{problem}");

        assert_eq!(unknown(&Method::GET, "/job/").kind, Kind::NotFound);
        assert_eq!(unknown(&Method::GET, "/job/a/b/c").kind, Kind::NotFound);
        assert_eq!(unknown(&Method::GET, "/favicon.ico").kind, Kind::UnknownClass);
    }

    #[test]
    fn allow_leaves_out_rows_that_mean_nothing() {
        assert_eq!(allowed("/job"), "GET, HEAD, POST");
        assert_eq!(allowed("/node"), "GET, HEAD");
        assert_eq!(allowed("/blob/x/content"), "GET, HEAD");
        assert_eq!(allowed("/job/x/cancel"), "POST");
        assert_eq!(allowed("/job/events"), "GET, HEAD");
        assert_eq!(allowed("/job/x/events"), "POST, GET, HEAD");
        assert_eq!(allowed("/nothing"), "");
    }

    #[test]
    fn values_of_query_parameters_are_checked() {
        let number =
            Parameter { name: "limit", what: "", values: Values::Number { min: 1, max: 1000 }, required: false };
        assert!(number.check("1000").is_ok());
        for bad in ["0", "1001", "-1", "", "ten"] {
            assert_eq!(number.check(bad).unwrap_err().kind, Kind::InvalidQuery, "{bad}");
        }
        let one = Parameter { name: "scope", what: "", values: Values::One(&["global", "local"]), required: false };
        assert!(one.check("local").is_ok());
        assert!(one.check("mesh").unwrap_err().detail.contains("global, local"));
        let text = Parameter { name: "cursor", what: "", values: Values::Text, required: false };
        assert!(text.check(&"x".repeat(TEXT_VALUE_LEN_MAX)).is_ok());
        assert!(text.check(&"x".repeat(TEXT_VALUE_LEN_MAX + 1)).is_err());
    }
}
