//! Places in the log of a job, so that who follows it can come back to where they were, also at another run.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Octets;

/// A place in a job's log. Each run writes a log of its own, from the start: the place names it.
///
/// Text form: `EPOCH-OFFSET`, such as `2-1024`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct LogPlace {
    /// The epoch of the run; 0: before the first one.
    pub epoch: u64,
    /// Bytes of its log that come before.
    pub offset: u64,
}

impl fmt::Display for LogPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.offset)
    }
}

impl FromStr for LogPlace {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let place = text
            .split_once('-')
            .and_then(|(epoch, offset)| Some(Self { epoch: epoch.parse().ok()?, offset: offset.parse().ok()? }));
        place.ok_or("a place in a log is EPOCH-OFFSET, such as 2-1024")
    }
}

/// A part of a log that comes in frames.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogPart {
    /// Bytes of a run's log.
    Written {
        /// Where the first of them stands.
        at: LogPlace,
        /// At most 64 KiB.
        bytes: Octets,
    },
    /// That was all: the job has ended, or its log was not to be followed. A stream that ends without it was cut.
    Ended,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_one_text() {
        let place = LogPlace { epoch: 2, offset: 1024 };
        assert_eq!((place.to_string().as_str(), "2-1024".parse()), ("2-1024", Ok(place)));
        for bad in ["", "7", "2-", "-3", "2-x", "2--1"] {
            assert!(bad.parse::<LogPlace>().is_err(), "{bad}");
        }
    }
}
