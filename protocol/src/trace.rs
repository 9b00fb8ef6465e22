//! A place in a trace, as W3C Trace Context writes it: `00-TRACE-PARENT-FLAGS`.
//!
//! It comes in with a request, stands in the job's record, and goes on to the run and its guest as it came: Shoal adds
//! no spans of its own that a tracing backend would miss.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::id::parse_text;

/// The name under which programs hand it to each other: as a header of HTTP in lower case, as an environment variable
/// in upper case.
pub const TRACEPARENT: &str = "traceparent";
/// The environment variable of a guest.
pub const TRACEPARENT_ENV: &str = "TRACEPARENT";
/// Characters of a trace id.
const TRACE_LEN: usize = 32;
/// A text that is read, in bytes. Why 256: 55 are known; a later version may add some.
const TEXT_LEN_MAX: usize = 256;

/// The id of a trace: 32 hexadecimal digits, written in lower case.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceId(pub [u8; 16]);

impl TraceId {
    fn write(self, text: &mut [u8; TRACE_LEN]) -> &str {
        // Neither can fail: the text is twice as long as the bytes, and of digits alone.
        let _ = hex::encode_to_slice(self.0, text);
        std::str::from_utf8(text).unwrap_or_default()
    }
}

/// A text is no trace id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a trace id has 32 hexadecimal characters")]
pub struct NotATraceId;

impl FromStr for TraceId {
    type Err = NotATraceId;

    fn from_str(text: &str) -> Result<Self, NotATraceId> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(text, &mut bytes).map_err(|_| NotATraceId)?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.write(&mut [0; TRACE_LEN]))
    }
}

impl fmt::Debug for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for TraceId {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.write(&mut [0; TRACE_LEN]))
    }
}

impl<'de> Deserialize<'de> for TraceId {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        parse_text(d)
    }
}

/// A trace and the span in it that caused what follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Traceparent {
    trace: TraceId,
    parent: [u8; 8],
    flags: u8,
}

/// A text is no `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "this is no traceparent: two, 32, 16 and two lower-case hexadecimal digits with '-' between them, ids not zero"
)]
pub struct NotATraceparent;

impl Traceparent {
    /// The trace.
    pub const fn trace_id(&self) -> TraceId {
        self.trace
    }

    /// What somebody sent, if it is of the form: the standard demands that any other is ignored.
    pub fn sent(text: Option<&str>) -> Option<Self> {
        text?.parse().ok()
    }
}

impl FromStr for Traceparent {
    type Err = NotATraceparent;

    fn from_str(text: &str) -> Result<Self, NotATraceparent> {
        if text.len() > TEXT_LEN_MAX || text.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(NotATraceparent);
        }
        let mut parts = text.split('-');
        let [version] = octets(parts.next())?;
        let (trace, parent, [flags]) = (octets(parts.next())?, octets(parts.next())?, octets(parts.next())?);
        // Later versions may say more behind it; the first says no more, and 255 is none.
        let ends = version != 0 || parts.next().is_none();
        if version == 255 || !ends || trace == [0; 16] || parent == [0; 8] {
            return Err(NotATraceparent);
        }
        Ok(Self { trace: TraceId(trace), parent, flags })
    }
}

fn octets<const N: usize>(text: Option<&str>) -> Result<[u8; N], NotATraceparent> {
    let mut octets = [0; N];
    hex::decode_to_slice(text.unwrap_or_default(), &mut octets).map_err(|_| NotATraceparent)?;
    Ok(octets)
}

impl fmt::Display for Traceparent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{}-{}-{:02x}", self.trace, hex::encode(self.parent), self.flags)
    }
}

impl From<Traceparent> for String {
    fn from(traceparent: Traceparent) -> Self {
        traceparent.to_string()
    }
}

impl TryFrom<String> for Traceparent {
    type Error = NotATraceparent;

    fn try_from(text: String) -> Result<Self, NotATraceparent> {
        text.parse()
    }
}

impl schemars::JsonSchema for Traceparent {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Traceparent".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A place in a trace, as W3C Trace Context writes it.",
            "pattern": "^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn it_has_one_form() {
        let read: Traceparent = GOOD.parse().expect("a traceparent");
        assert_eq!((read.to_string().as_str(), read.trace_id().to_string().as_str()), (GOOD, &GOOD[3..35]));
        // A later version is read as far as this one is known, and written as this one.
        let later = format!("42{}-more", &GOOD[2..]);
        assert_eq!(Traceparent::sent(Some(&later)), Some(read));
        assert_eq!(crate::codec::decode::<Traceparent>(&crate::codec::encode(&read)), Ok(read));
    }

    #[test]
    fn a_trace_id_is_written_as_it_was_in_lower_case() {
        let id: TraceId = GOOD[3..35].parse().unwrap();
        assert_eq!((id.to_string().as_str(), GOOD[3..35].to_uppercase().parse()), (&GOOD[3..35], Ok(id)));
        assert_eq!(crate::codec::encode(&id), crate::codec::encode(&GOOD[3..35]));
        assert_eq!(crate::codec::decode::<TraceId>(&crate::codec::encode(&id)), Ok(id));
        for bad in ["", &GOOD[3..34], &GOOD[3..36], &"g".repeat(32)] {
            assert_eq!(bad.parse::<TraceId>(), Err(NotATraceId), "{bad}");
        }
    }

    #[test]
    fn what_the_standard_forbids_is_ignored() {
        let long = format!("42{}-{}", &GOOD[2..], "x".repeat(TEXT_LEN_MAX));
        for bad in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "zz-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473é-00f067aa0ba902b7-01",
            &long,
        ] {
            assert_eq!(Traceparent::sent(Some(bad)), None, "{bad}");
        }
        assert_eq!(Traceparent::sent(None), None);
    }
}
