//! Numbers as people write them: `25ms`, `5s`, `10m`, `100mbit`, `0.01` or `1%`.

use std::time::Duration;

use serde::{Deserialize as _, Deserializer, de::Error as _};

/// Units of time, the longest names first, in microseconds.
const TIMES: [(&str, f64); 5] = [("us", 1.0), ("ms", 1e3), ("s", 1e6), ("m", 60e6), ("h", 3600e6)];
/// Units of length, the longest names first, in bytes.
const SIZES: [(&str, f64); 4] = [("KiB", 1024.0), ("MiB", 1048576.0), ("GiB", 1073741824.0), ("B", 1.0)];
/// Units of bandwidth, in bits per second.
const RATES: [(&str, f64); 4] = [("gbit", 1e9), ("mbit", 1e6), ("kbit", 1e3), ("bit", 1.0)];

/// A length of time with its unit.
///
/// # Errors
/// What it would have to look like.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let micros =
        parse(text, &TIMES).ok_or_else(|| format!("{text:?} is no length of time: such as 25ms, 5s or 10m"))?;
    Duration::try_from_secs_f64(micros / 1e6).map_err(|error| format!("{text:?}: {error}"))
}

/// A length in bytes with its unit.
///
/// # Errors
/// What it would have to look like.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let bytes = parse(text, &SIZES).ok_or_else(|| format!("{text:?} is no length: such as 64MiB or 1GiB"))?;
    Ok(bytes as u64)
}

fn parse(text: &str, units: &[(&str, f64)]) -> Option<f64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, unit) = text.split_at(end);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim())?;
    Some(number.parse::<f64>().ok()? * factor)
}

/// For serde: a length of time.
pub(crate) fn duration<'de, D: Deserializer<'de>>(from: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(from)?).map_err(D::Error::custom)
}

/// For serde: a length of time that may be absent.
pub(crate) fn duration_maybe<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Duration>, D::Error> {
    duration(from).map(Some)
}

/// For serde: a bandwidth, in bits per second.
pub(crate) fn rate<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
    let text = String::deserialize(from)?;
    let wrong = || D::Error::custom(format!("{text:?} is no bandwidth: such as 100mbit or 1gbit"));
    parse(&text, &RATES).map(|bits| bits as u64).filter(|bits| *bits > 0).ok_or_else(wrong)
}

/// For serde: a share, 0 to 1.
pub(crate) fn share<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
    let share = f64::deserialize(from)?;
    let wrong = || D::Error::custom(format!("{share} is no share: it goes from 0 to 1"));
    (0.0..=1.0).contains(&share).then_some(share).ok_or_else(wrong)
}

/// For serde: a share that may be absent.
pub(crate) fn share_maybe<'de, D: Deserializer<'de>>(from: D) -> Result<Option<f64>, D::Error> {
    share(from).map(Some)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_units() {
        for (text, wanted) in [
            ("25ms", Some(25_000)),
            ("1.5s", Some(1_500_000)),
            ("2 m", Some(120_000_000)),
            ("5", None),
            ("s", None),
            ("5 days", None),
            ("1..5s", None),
        ] {
            assert_eq!(parse_duration(text).ok(), wanted.map(Duration::from_micros), "{text}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (text, wanted) in
            [("1GiB", Some(1 << 30)), ("1.5 KiB", Some(1536)), ("7B", Some(7)), ("7", None), ("1GB", None)]
        {
            assert_eq!(parse_size(text).ok(), wanted, "{text}");
        }
    }

    #[test]
    fn bandwidths_have_units() {
        for (text, wanted) in [("100mbit", Some(1e8)), ("64 kbit", Some(64e3)), ("100", None), ("fast", None)] {
            assert_eq!(parse(text, &RATES), wanted, "{text}");
        }
    }
}
