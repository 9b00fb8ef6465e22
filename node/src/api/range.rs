//! Ranges of bytes (RFC 9110, section 14): one range of a representation, or all of it.
//!
//! Several ranges in one request are answered with all bytes, as the RFC allows: no client of ours needs them, and
//! many small ones cost the node more than the caller. What is no range at all is ignored, as the RFC demands.

use std::ops::Range;

/// What a caller asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// From this byte up to and with that one, or up to the end.
    From(u64, Option<u64>),
    /// The last so many bytes.
    Last(u64),
}

/// The bytes that a range means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// Some, at least one: status 206.
    Part(Range<u64>),
    /// The range lies outside: status 416.
    Outside,
}

/// Reads a `Range` header.
pub(crate) fn parse(header: &str) -> Option<Wanted> {
    let (unit, set) = header.split_once('=')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") || set.contains(',') {
        return None;
    }
    let (first, last) = set.trim().split_once('-')?;
    match (first, last) {
        ("", "") => None,
        ("", last) => number(last).map(Wanted::Last),
        (first, "") => Some(Wanted::From(number(first)?, None)),
        (first, last) => {
            let (first, last) = (number(first)?, number(last)?);
            (first <= last).then_some(Wanted::From(first, Some(last)))
        }
    }
}

/// Digits only: `str::parse` also takes a sign. A number that is too large for 64 bits is the largest of them.
fn number(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| text.parse().unwrap_or(u64::MAX))
}

impl Wanted {
    /// The bytes of a representation of this length.
    pub(crate) fn of(self, size: u64) -> Chosen {
        match self {
            Self::From(first, _) if first >= size => Chosen::Outside,
            Self::From(first, last) => {
                let end = last.map_or(size, |last| last.saturating_add(1).min(size));
                Chosen::Part(first..end)
            }
            Self::Last(0) => Chosen::Outside,
            Self::Last(_) if size == 0 => Chosen::Outside,
            Self::Last(count) => Chosen::Part(size.saturating_sub(count)..size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_of_bytes_is_read() {
        assert_eq!(parse("bytes=0-99"), Some(Wanted::From(0, Some(99))));
        assert_eq!(parse("bytes=100-"), Some(Wanted::From(100, None)));
        assert_eq!(parse("Bytes=-5"), Some(Wanted::Last(5)));
        assert_eq!(parse("bytes=0-99999999999999999999999"), Some(Wanted::From(0, Some(u64::MAX))));
    }

    #[test]
    fn what_is_none_is_ignored() {
        for text in [
            "",
            "bytes",
            "bytes=",
            "bytes=-",
            "bytes=5-4",
            "bytes=+1-2",
            "bytes=a-b",
            "lines=1-2",
            "bytes=0-1,3-4",
            "bytes=--1",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn a_range_is_cut_at_the_end_and_refused_beyond_it() {
        assert_eq!(Wanted::From(0, Some(99)).of(10), Chosen::Part(0..10));
        assert_eq!(Wanted::From(3, Some(4)).of(10), Chosen::Part(3..5));
        assert_eq!(Wanted::From(9, None).of(10), Chosen::Part(9..10));
        assert_eq!(Wanted::From(10, None).of(10), Chosen::Outside);
        assert_eq!(Wanted::From(0, Some(u64::MAX)).of(10), Chosen::Part(0..10));
        assert_eq!(Wanted::Last(3).of(10), Chosen::Part(7..10));
        assert_eq!(Wanted::Last(30).of(10), Chosen::Part(0..10));
        assert_eq!(Wanted::Last(0).of(10), Chosen::Outside);
        assert_eq!(Wanted::From(0, None).of(0), Chosen::Outside);
        assert_eq!(Wanted::Last(1).of(0), Chosen::Outside);
    }
}
