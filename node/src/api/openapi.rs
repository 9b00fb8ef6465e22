//! The OpenAPI 3.1 document, made from the table of operations and from the types of the protocol.
//!
//! Made once, at start. Schemas are those of `schemars`, with their definitions in `components/schemas`.

use std::collections::BTreeMap;

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use shoal_protocol::object::Class;
use shoal_protocol::{Kind, Problem};

use super::operations::{self, Content, Operation, Parameter, Request, Row, TEXT_VALUE_LEN_MAX, Values};

/// What the document says about the whole.
const ABOUT: &str = "The objects of a Shoal node: users, projects, functions, jobs, workers, blobs, key-value \
    namespaces and nodes. The token stands in the file `token` in the node's data folder. Errors are problem documents \
    (RFC 9457) whose `type` is stable. Times are milliseconds since the Unix epoch.";

/// The document.
pub(crate) fn document() -> Value {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    for operation in operations::all() {
        let described = describe(operation, &mut generator);
        paths.entry(operation.path()).or_default().insert(operation.method().as_str().to_ascii_lowercase(), described);
    }
    let problem = generator.subschema_for::<Problem>();
    let problem = json!({
        "description": "What is wrong with the request, or why the node cannot do it.",
        "content": { "application/problem+json": { "schema": problem } },
    });
    let mut schemas = named(generator.take_definitions(true));
    schemas.values_mut().for_each(gathered);
    json!({
        "openapi": "3.1.0",
        "info": { "title": "Shoal", "version": env!("CARGO_PKG_VERSION"), "description": ABOUT },
        "servers": [{ "url": "/" }],
        "tags": Class::ALL.map(|class| json!({ "name": class.text(), "description": tag(class) })),
        "security": [{ "token": [] }, {}],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "responses": { "Problem": problem },
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

/// Gives objects within the variants of an enum a schema of their own: generators of clients name types after schemas,
/// and one of them (openapi-python-client 0.29) drops an object that has no name there.
fn named(mut schemas: Map<String, Value>) -> Map<String, Value> {
    let mut found = Map::new();
    for (name, schema) in &mut schemas {
        let variants = schema.get_mut("oneOf").and_then(Value::as_array_mut);
        for variant in variants.into_iter().flatten() {
            let fields = variant.get_mut("properties").and_then(Value::as_object_mut);
            for (field, inner) in fields.into_iter().flatten() {
                if inner.get("properties").is_some() {
                    let own = format!("{name}_{field}");
                    let reference = json!({ "$ref": format!("#/components/schemas/{own}") });
                    found.insert(own, std::mem::replace(inner, reference));
                }
            }
        }
    }
    schemas.append(&mut found);
    schemas
}

/// Gathers the words of an enum, which `schemars` describes one by one, in one list: some generators of clients
/// (openapi-python-client 0.29) take only the first of them otherwise. What each word means goes into the description.
fn gathered(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(gathered),
        Value::Object(fields) => {
            fields.values_mut().for_each(gathered);
            gather_words(fields);
        }
        _ => {}
    }
}

fn gather_words(fields: &mut Map<String, Value>) {
    let Some(Value::Array(variants)) = fields.remove("oneOf") else { return };
    let (mut words, mut meanings, mut others) = (Vec::new(), Vec::new(), Vec::new());
    for variant in variants {
        match variant.get("const").and_then(Value::as_str) {
            Some(word) => {
                let meaning = variant.get("description").and_then(Value::as_str).unwrap_or_default();
                meanings.push(format!("- `{word}`: {meaning}"));
                words.push(word.to_owned());
            }
            None => others.push(variant),
        }
    }
    let meanings = meanings.join("\n");
    if others.is_empty() {
        let about = fields.get("description").and_then(Value::as_str).unwrap_or_default();
        let about = format!("{about}\n\n{meanings}");
        fields.extend([
            ("type".into(), json!("string")),
            ("enum".into(), json!(words)),
            ("description".into(), json!(about)),
        ]);
        return;
    }
    if !words.is_empty() {
        others.insert(0, json!({ "type": "string", "enum": words, "description": meanings }));
    }
    fields.insert("oneOf".into(), others.into());
}

const fn tag(class: Class) -> &'static str {
    match class {
        Class::User => "People: names, keys, nodes that may sign for them.",
        Class::Project => "Several developers who own functions together.",
        Class::Function => "Named, versioned components.",
        Class::Job => "Runs of functions.",
        Class::Worker => "Processes that run jobs.",
        Class::Blob => "Bytes, named by their BLAKE3 hash.",
        Class::Kv => "Key-value namespaces, under the ids of the users, projects and functions that own them.",
        Class::Node => "Peers.",
    }
}

fn describe(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut parameters = Vec::new();
    if let (Some(class), true) = (operation.class, operation.path().contains("{object_id}")) {
        let new = if operation.row == Row::Method("prepare") { "; `new` for one that is to be made" } else { "" };
        let description = format!("{}{new}", object_id(class));
        parameters.push(json!({
            "name": "object_id", "in": "path", "required": true, "description": description,
            "schema": { "type": "string" },
        }));
    }
    parameters.extend(operation.query.iter().map(parameter));
    parameters.extend(headers(operation).iter().map(|(name, what)| {
        json!({ "name": name, "in": "header", "required": false, "description": what, "schema": { "type": "string" } })
    }));
    let mut described = json!({
        "operationId": operation.id(),
        "summary": operation.summary,
        "responses": responses(operation, generator),
    });
    let Some(fields) = described.as_object_mut() else { return described };
    fields.insert("tags".into(), json!([operation.class.map_or("node", Class::text)]));
    if !parameters.is_empty() {
        fields.insert("parameters".into(), parameters.into());
    }
    if let Some(body) = body(operation.request, generator) {
        fields.insert("requestBody".into(), body);
    }
    described
}

const fn object_id(class: Class) -> &'static str {
    match class {
        Class::User => "The id, the name, or `me`",
        Class::Project | Class::Function | Class::Worker => "The id, or the name",
        Class::Job => "The id: 26 characters of Crockford base32",
        Class::Blob => "The BLAKE3 hash: 64 hexadecimal characters",
        Class::Kv => "The id of the user, project or function that owns the namespace, or `me`",
        Class::Node => "The public key as 64 hexadecimal characters, the name, or `self`",
    }
}

/// Headers that a row understands beyond `Authorization`.
const fn headers(operation: &Operation) -> &'static [(&'static str, &'static str)] {
    match operation.row {
        Row::Create if matches!(operation.class, Some(Class::Job)) => &[
            ("traceparent", "The place in the caller's trace (W3C Trace Context): the job carries it to its guest"),
            ("Idempotency-Key", "As `idempotency_key` of the one job in the body: the same key gives the same job"),
        ],
        Row::Set => &[("If-Match", "The ETag that the object must still have")],
        Row::Part(operations::Part::Content | operations::Part::Result) => &[
            ("Range", "One range of bytes, such as `bytes=0-99`, `bytes=100-` or `bytes=-100`"),
            ("If-Range", "The ETag for which the range was meant; with another one all bytes come"),
            ("If-None-Match", "An ETag that the caller has already"),
        ],
        _ => &[],
    }
}

fn parameter(parameter: &Parameter) -> Value {
    let schema = match parameter.values {
        Values::Text => json!({ "type": "string", "maxLength": TEXT_VALUE_LEN_MAX }),
        Values::Bool => json!({ "type": "boolean" }),
        Values::Number { min, max } => json!({ "type": "integer", "minimum": min, "maximum": max }),
        Values::One(values) => json!({ "type": "string", "enum": values }),
    };
    json!({ "name": parameter.name, "in": "query", "required": parameter.required, "description": parameter.what, "schema": schema })
}

fn body(request: Request, generator: &mut SchemaGenerator) -> Option<Value> {
    let (required, media, schema) = match request {
        Request::Nothing => return None,
        Request::OptionalJson(shape) => (false, "application/json", shape(generator).to_value()),
        Request::Json(shape) => (true, "application/json", shape(generator).to_value()),
        Request::Bytes => (true, "application/octet-stream", binary()),
    };
    Some(json!({ "required": required, "content": { media: { "schema": schema } } }))
}

fn binary() -> Value {
    json!({ "type": "string", "format": "binary" })
}

fn responses(operation: &Operation, generator: &mut SchemaGenerator) -> Value {
    let mut responses: BTreeMap<String, Value> = BTreeMap::new();
    for success in operation.successes {
        let response = responses.entry(success.status.to_string()).or_insert_with(
            || json!({ "description": success.what, "headers": answer_headers(operation.row, success.status) }),
        );
        let (media, schema) = match success.content {
            Content::Nothing => continue,
            Content::Json(shape) => ("application/json", shape(generator).to_value()),
            Content::Bytes => ("application/octet-stream", binary()),
            Content::Text(media) => (media, json!({ "type": "string" })),
        };
        if let Some(content) = response.as_object_mut() {
            let media_types = content.entry("content").or_insert_with(|| json!({}));
            if let Some(media_types) = media_types.as_object_mut() {
                media_types.insert(media.into(), json!({ "schema": schema }));
            }
        }
    }
    for kind in problems(operation) {
        let reference = json!({ "$ref": "#/components/responses/Problem" });
        responses.entry(kind.status().to_string()).or_insert(reference);
    }
    json!(responses)
}

/// Headers that an answer of success carries.
fn answer_headers(row: Row, status: u16) -> Value {
    let text = |what: &str| json!({ "description": what, "schema": { "type": "string" } });
    match (row, status) {
        (Row::Create, _) => json!({ "Location": text("Where the object stands") }),
        (Row::Get | Row::Set, _) => json!({ "ETag": text("Changes with the object; goes into `If-Match`") }),
        (Row::Part(operations::Part::Content | operations::Part::Result), 206) => {
            json!({ "ETag": text("The hash of all bytes"), "Content-Range": text("Which bytes of how many") })
        }
        (Row::Part(operations::Part::Content | operations::Part::Result), _) => {
            json!({ "ETag": text("The hash of all bytes"), "Accept-Ranges": text("`bytes`") })
        }
        _ => json!({}),
    }
}

/// The kinds of problem with which an operation may answer. One of each status is enough for the document.
fn problems(operation: &Operation) -> Vec<Kind> {
    if operation.class.is_none() {
        return vec![Kind::InvalidQuery, Kind::Forbidden, Kind::Full, Kind::Unavailable];
    }
    let mut kinds = vec![
        Kind::Malformed,
        Kind::Unauthenticated,
        Kind::Forbidden,
        Kind::Full,
        Kind::Internal,
        Kind::Unavailable,
        Kind::StorageUnavailable,
    ];
    if !operation.is_applicable() {
        kinds.push(Kind::NotApplicable);
        return kinds;
    }
    if !matches!(operation.row, Row::List) {
        kinds.push(Kind::NotFound);
    }
    if !matches!(operation.row, Row::List | Row::Get) {
        kinds.push(Kind::Conflict);
    }
    if !matches!(operation.request, Request::Nothing) {
        kinds.extend([Kind::InvalidField, Kind::TooLarge]);
    }
    if matches!(operation.row, Row::Set | Row::Method("cas")) {
        kinds.push(Kind::PreconditionFailed);
    }
    if matches!(operation.row, Row::Part(_)) {
        kinds.push(Kind::RangeNotSatisfiable);
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    /// Every `$ref` in a value.
    fn references(value: &Value, into: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                for (name, inner) in fields {
                    match inner {
                        Value::String(target) if name == "$ref" => into.push(target.clone()),
                        _ => references(inner, into),
                    }
                }
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, into)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(found.len() > 100, "only {} references", found.len());
        for target in found {
            let pointer = target.strip_prefix('#').expect("a reference into this document");
            assert!(document.pointer(pointer).is_some(), "{target}");
        }
    }

    #[test]
    fn the_words_of_an_enum_are_one_list() {
        let document = document();
        let state = &document["components"]["schemas"]["State"];
        let words = ["held", "blocked", "queued", "offered", "running"];
        assert_eq!(
            state["enum"].as_array().map(|all| all.iter().take(5).collect::<Vec<_>>()),
            Some(words.map(|w| json!(w)).iter().collect())
        );
        assert!(state["description"].as_str().is_some_and(|text| text.contains("- `held`: ")), "{state}");
        assert_eq!((&state["type"], state.get("oneOf")), (&json!("string"), None));
        // Words and an object.
        let ending = document["components"]["schemas"]["Ending"]["oneOf"].as_array().cloned().unwrap_or_default();
        assert_eq!(ending.len(), 2, "{ending:?}");
        assert_eq!(ending[0]["enum"], json!(["succeeded", "cancelled", "timed_out"]));
        assert!(ending[1]["properties"]["failed"].is_object());
    }

    #[test]
    fn the_document_has_every_operation_once() {
        let document = document();
        let mut ids = BTreeSet::new();
        for operation in operations::all() {
            let pointer = format!(
                "/paths/{}/{}",
                operation.path().replace('/', "~1"),
                operation.method().as_str().to_lowercase()
            );
            let described = document.pointer(&pointer).unwrap_or_else(|| panic!("{pointer}"));
            assert!(ids.insert(described["operationId"].as_str().unwrap().to_owned()));
            let statuses = described["responses"].as_object().unwrap();
            assert_eq!(operation.is_applicable(), statuses.keys().any(|status| status.starts_with('2')), "{pointer}");
            assert_eq!(operation.is_applicable(), !statuses.contains_key("405"), "{pointer}");
        }
        assert_eq!(ids.len(), operations::all().count());
    }

    #[test]
    fn prepare_takes_what_is_to_be_signed_and_who_signs() {
        let document = document();
        for class in ["user", "project", "function"] {
            let prepare = &document["paths"][format!("/{class}/{{object_id}}/prepare")]["post"];
            let author = prepare["parameters"].as_array().unwrap().iter().find(|one| one["name"] == "author").unwrap();
            assert_eq!((&author["in"], &author["required"]), (&json!("query"), &json!(true)), "{class}");
            // Either form is the plain body, as `set` and `create` take it: no form of it names the author again.
            let body = &prepare["requestBody"]["content"]["application/json"]["schema"]["$ref"];
            let target = body.as_str().unwrap().strip_prefix('#').unwrap();
            let forms = document.pointer(target).unwrap()["anyOf"].as_array().unwrap();
            for (form, row) in forms.iter().zip(["{object_id}", ""]) {
                let path = format!("/{class}/{row}");
                let plain = &document["paths"][path.trim_end_matches('/')]["post"]["requestBody"]["content"];
                assert_eq!(form["$ref"], plain["application/json"]["schema"]["$ref"], "{class}");
            }
            assert_eq!(forms.len(), 2);
        }
    }

    #[test]
    fn the_paths_are_those_that_callers_know() {
        let document = document();
        let mut lines = String::new();
        for (path, item) in document["paths"].as_object().unwrap() {
            let methods: Vec<_> = item.as_object().unwrap().keys().map(String::as_str).collect();
            lines.push_str(&format!("{path} {}\n", methods.join(" ")));
        }
        assert_eq!(
            lines,
            include_str!("openapi_paths.txt"),
            "callers depend on these paths: change the list knowingly"
        );
    }
}
