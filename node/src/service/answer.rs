//! Bodies and answers, in the format of the edge that they come through.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_protocol::limits::{PAGE_LEN_DEFAULT, PAGE_LEN_MAX};
use shoal_protocol::object::{ListQuery, Page};
use shoal_protocol::{Kind, ObjectId, Problem, codec};

/// How an edge writes bodies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// The HTTP API.
    Json,
    /// The QUIC protocol.
    Cbor,
}

/// The body of a request.
#[derive(Debug, Clone)]
pub(crate) struct Body {
    /// How it is written, and how the answer shall be.
    pub(crate) format: Format,
    /// The bytes; none: no body.
    pub(crate) bytes: Bytes,
}

impl Body {
    /// A body of this node's own, for another one.
    pub(super) fn new<T: Serialize>(format: Format, value: &T) -> Result<Self, Problem> {
        Ok(Self { format, bytes: Answer::new(200, format, value)?.body.into() })
    }

    /// Reads the body.
    pub(super) fn read<T: DeserializeOwned>(&self) -> Result<T, Problem> {
        match self.format {
            Format::Json => serde_json::from_slice(&self.bytes).map_err(|error| {
                let kind = if error.is_data() { Kind::InvalidField } else { Kind::Malformed };
                Problem::new(kind, format!("the body: {error}"))
            }),
            Format::Cbor => {
                codec::decode(&self.bytes).map_err(|error| Problem::new(Kind::Malformed, format!("the body: {error}")))
            }
        }
    }

    /// Reads the body; none is the default.
    pub(super) fn read_or_default<T: DeserializeOwned + Default>(&self) -> Result<T, Problem> {
        if self.bytes.is_empty() { Ok(T::default()) } else { self.read() }
    }

    /// Applies the body as a merge patch (RFC 7396) to `current`, whose fields are those that can be set.
    pub(super) fn patch<T: Serialize + DeserializeOwned>(&self, current: &T) -> Result<T, Problem> {
        let patch: serde_json::Value = self.read()?;
        if !patch.is_object() {
            return Err(Problem::new(Kind::InvalidField, "the body is an object with the fields to be set"));
        }
        let mut value = serde_json::to_value(current).map_err(|e| Problem::new(Kind::Internal, e.to_string()))?;
        merge(&mut value, patch);
        serde_json::from_value(value).map_err(|error| Problem::new(Kind::InvalidField, format!("the body: {error}")))
    }
}

/// RFC 7396. The depth is that of a parsed document, which the parser bounds.
fn merge(target: &mut serde_json::Value, patch: serde_json::Value) {
    let serde_json::Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = serde_json::Value::Object(serde_json::Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (name, value) in patch {
        if value.is_null() {
            fields.remove(&name);
        } else {
            merge(fields.entry(name).or_insert(serde_json::Value::Null), value);
        }
    }
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    /// The HTTP status.
    pub(crate) status: u16,
    /// Names this state of the object.
    pub(crate) etag: Option<String>,
    /// In the format of the request.
    pub(crate) body: Vec<u8>,
}

impl Answer {
    /// An object or a list.
    pub(super) fn new<T: Serialize>(status: u16, format: Format, value: &T) -> Result<Self, Problem> {
        let body = match format {
            Format::Cbor => codec::encode(value),
            Format::Json => serde_json::to_vec(value).map_err(|e| Problem::new(Kind::Internal, e.to_string()))?,
        };
        Ok(Self { status, etag: None, body })
    }

    /// An object with its ETag.
    pub(super) fn object<T: Serialize>(status: u16, format: Format, value: &T) -> Result<Self, Problem> {
        let mut answer = Self::new(status, format, value)?;
        let hash = blake3::hash(&codec::encode(value));
        answer.etag = Some(hex::encode(hash.as_bytes().get(..8).unwrap_or_default()));
        Ok(answer)
    }

    /// It is done, there is nothing to say.
    pub(super) const fn done() -> Self {
        Self { status: 204, etag: None, body: Vec::new() }
    }
}

/// A checked request for a page.
#[derive(Debug)]
pub(super) struct PageRequest {
    pub(super) limit: usize,
    pub(super) cursor: Option<String>,
    filters: BTreeMap<String, String>,
}

impl PageRequest {
    pub(super) fn new(query: &ListQuery) -> Result<Self, Problem> {
        let limit = query.limit.unwrap_or(PAGE_LEN_DEFAULT);
        if !(1..=PAGE_LEN_MAX).contains(&limit) {
            return Err(Problem::new(
                Kind::InvalidQuery,
                format!("limit is {limit}; it goes from 1 to {PAGE_LEN_MAX}"),
            ));
        }
        Ok(Self { limit: limit as usize, cursor: query.cursor.clone(), filters: query.filters.clone() })
    }

    /// Refuses filters that the class does not have.
    pub(super) fn only(&self, known: &[&str]) -> Result<(), Problem> {
        match self.filters.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                let known = ["limit", "cursor"].iter().chain(known).copied().collect::<Vec<_>>().join(", ");
                Err(Problem::new(
                    Kind::InvalidQuery,
                    format!("{name:?} is no parameter of this list; it takes {known}"),
                ))
            }
        }
    }

    pub(super) fn filter(&self, name: &str) -> Option<&str> {
        self.filters.get(name).map(String::as_str)
    }

    /// The cursor as an id.
    pub(super) fn after(&self) -> Result<Option<ObjectId>, Problem> {
        let after = self.cursor.as_deref().map(str::parse).transpose();
        after.map_err(|error| {
            Problem::new(Kind::InvalidQuery, format!("cursor: {error}; use `next` of the page before"))
        })
    }

    /// A page of the entries, each with its cursor; one more than fits says that there is a next page.
    pub(super) fn page<T>(&self, entries: impl Iterator<Item = (String, T)>) -> Page<T> {
        let mut items = Vec::new();
        let mut last = None;
        for (cursor, entry) in entries {
            if items.len() == self.limit {
                return Page { items, next: last, unanswered: Vec::new() };
            }
            last = Some(cursor);
            items.push(entry);
        }
        Page { items, next: None, unanswered: Vec::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn merge_patch_as_in_the_rfc() {
        let cases = [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": "b", "b": "c"}), json!({"a": null}), json!({"b": "c"})),
            (json!({"a": {"b": "c"}}), json!({"a": {"b": "d", "c": null}}), json!({"a": {"b": "d"}})),
            (json!({"a": [1]}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"e": null}), json!({"a": 1}), json!({"e": null, "a": 1})),
        ];
        for (mut target, patch, expected) in cases {
            merge(&mut target, patch);
            assert_eq!(target, expected);
        }
    }
}
