//! What went wrong, said the same way over HTTP (RFC 9457), QUIC, the worker protocol and the command line.

use serde::{Deserialize, Serialize};

/// The stable kinds of problem. The text form is the last part of the problem's `type`.
macro_rules! kinds {
    ($( $(#[$doc:meta])* $kind:ident = $text:literal, $status:literal, $title:literal; )*) => {
        /// A kind of problem. Callers match on it; sentences may change, kinds do not.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
        pub enum Kind { $( $(#[$doc])* #[serde(rename = $text)] $kind, )* }

        impl Kind {
            /// Every kind, for documentation and tests.
            pub const ALL: &[Self] = &[$(Self::$kind),*];

            /// The stable text.
            pub const fn text(self) -> &'static str { match self { $(Self::$kind => $text),* } }

            /// The HTTP status.
            pub const fn status(self) -> u16 { match self { $(Self::$kind => $status),* } }

            /// What is wrong, in general.
            pub const fn title(self) -> &'static str { match self { $(Self::$kind => $title),* } }
        }
    };
}

kinds! {
    /// The body or frame is not JSON or CBOR.
    Malformed = "malformed", 400, "The message cannot be read";
    /// A field has a value that is not allowed.
    InvalidField = "invalid-field", 422, "A field has a value that is not allowed";
    /// A text is no id.
    InvalidId = "invalid-id", 400, "This is not an id";
    /// A query parameter is unknown or has a value that is not allowed.
    InvalidQuery = "invalid-query", 400, "A query parameter is not allowed";
    /// No token, or one that does not count.
    Unauthenticated = "unauthenticated", 401, "A valid token is needed";
    /// The token counts, the right is missing.
    Forbidden = "forbidden", 403, "This is not allowed to you";
    /// The class is none of Shoal's.
    UnknownClass = "unknown-class", 404, "There is no such class";
    /// No object of this id is known here.
    NotFound = "not-found", 404, "There is no such object";
    /// The class has no such method.
    UnknownMethod = "unknown-method", 404, "The class has no such method";
    /// The row of the API exists, but means nothing for this class.
    NotApplicable = "not-applicable", 405, "This cannot be done to objects of this class";
    /// A name is taken, or the object is in a state in which this cannot be done.
    Conflict = "conflict", 409, "The object's state does not allow this";
    /// `If-Match` or `cas` found another value.
    PreconditionFailed = "precondition-failed", 412, "The object has changed since it was read";
    /// A body, frame, value or blob is above its limit.
    TooLarge = "too-large", 413, "This is larger than the limit";
    /// A range lies outside of the blob.
    RangeNotSatisfiable = "range-not-satisfiable", 416, "The range lies outside of the blob";
    /// The body ended before its length.
    Incomplete = "incomplete", 400, "The body ended too early";
    /// The bytes do not have the hash that they were announced with.
    HashMismatch = "hash-mismatch", 422, "The bytes do not match their hash";
    /// The bytes are no WebAssembly, or not of a supported form.
    InvalidComponent = "invalid-component", 422, "This is not a component that can be run";
    /// The component imports what it was not granted or what no worker offers.
    ImportNotGranted = "import-not-granted", 422, "The component needs something that it was not granted";
    /// A blob that a request refers to is nowhere to be found.
    BlobUnavailable = "blob-unavailable", 404, "No node has this blob";
    /// A change is not signed by who it says, or breaks its chain, schema or rights.
    ChangeRefused = "change-refused", 422, "The change does not count";
    /// A change was to be prepared that would change nothing.
    NothingToChange = "nothing-to-change", 409, "Everything is as it was asked for already";
    /// A queue or quota is full.
    Full = "full", 429, "Too much is waiting already";
    /// A project, or a user, has as much as they may at this node.
    OverQuota = "over-quota", 429, "A quota is used up";
    /// The disk is full or failing; nothing was accepted.
    StorageUnavailable = "storage-unavailable", 507, "The node cannot store anything at the moment";
    /// The node is stopping or starting.
    Unavailable = "unavailable", 503, "The node does not take requests at the moment";
    /// The node leaves the mesh; `detail` names the node to which all that it has goes.
    Draining = "draining", 503, "The node hands over all that it has, and leaves";
    /// Our own fault.
    Internal = "internal", 500, "The node failed at this; the fault is its own";
}

/// The start of every problem's `type`.
pub const TYPE_PREFIX: &str = "urn:shoal:problem:";

/// A problem document. `detail` names what is wrong with this very request and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema, thiserror::Error)]
#[error("{detail}")]
pub struct Problem {
    /// `urn:shoal:problem:` and the kind.
    #[serde(rename = "type", with = "type_uri")]
    #[schemars(with = "String")]
    pub kind: Kind,
    /// What is wrong, in general.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request, and what would be right.
    pub detail: String,
    /// When to try again, in milliseconds, where trying again helps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_after_ms: Option<u64>,
}

impl Problem {
    /// A problem of this kind; `detail` is a sentence for the person who sent the request.
    pub fn new(kind: Kind, detail: impl Into<String>) -> Self {
        Self { kind, title: kind.title().into(), status: kind.status(), detail: detail.into(), retry_after_ms: None }
    }

    /// The same, and when it may be worth to try again.
    #[must_use]
    pub fn retry_after(mut self, ms: u64) -> Self {
        self.retry_after_ms = Some(ms);
        self
    }

    /// The `type` of the problem document.
    pub fn type_uri(&self) -> String {
        format!("{TYPE_PREFIX}{}", self.kind.text())
    }
}

mod type_uri {
    use super::{Kind, TYPE_PREFIX};
    use serde::{Deserialize as _, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(kind: &Kind, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(&format_args!("{TYPE_PREFIX}{}", kind.text()))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Kind, D::Error> {
        let uri = <std::borrow::Cow<'de, str>>::deserialize(d)?;
        let text = uri.strip_prefix(TYPE_PREFIX).unwrap_or(&uri);
        let known = Kind::ALL.iter().copied().find(|kind| kind.text() == text);
        known.ok_or_else(|| serde::de::Error::custom(format!("unknown problem type {uri:?}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_reads_back_from_json_and_cbor() {
        for &kind in Kind::ALL {
            let problem = Problem::new(kind, "why").retry_after(5);
            let json = serde_json::to_string(&problem).expect("json");
            assert!(json.contains(&format!("\"type\":\"urn:shoal:problem:{}\"", kind.text())));
            assert_eq!(serde_json::from_str::<Problem>(&json).expect("json"), problem);
            assert_eq!(crate::codec::decode::<Problem>(&crate::codec::encode(&problem)), Ok(problem));
        }
    }
}
