//! When a job may run, in which order, and after which failures it is tried again, as flags.

use std::str::FromStr;
use std::time::{SystemTime, UNIX_EPOCH};

use shoal_protocol::object::job::{Array, Notify, NotifyOn, OnDisconnect, Retry, RetryOn};

use crate::config::Length;

/// When a job may run, in which order, and after which failures it is tried again.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct TermFlags {
    /// Do not run the job until `shoal job release`
    #[arg(long)]
    pub(crate) hold: bool,
    /// Do not run the job before this time, such as 2026-11-30T06:00:00Z, or before a while has passed, such as 10m
    #[arg(long, value_name = "TIME")]
    not_before: Option<Moment>,
    /// The job's place among those that wait, from -100 to 100: each step is worth a minute of waiting. Above 0 is for
    /// operators of the node
    #[arg(long, value_name = "N", allow_hyphen_values = true, default_value_t = 0)]
    pub(crate) priority: i8,
    /// Submit an array: one job for each index of FIRST-LAST, at most N of them at once. Each is told its own in
    /// SHOAL_ARRAY_INDEX; 0-99, 0-99%4, or 0-99:5 for every fifth
    #[arg(long, value_name = "FIRST-LAST[:STEP][%N]")]
    pub(crate) array: Option<Array>,
    /// A failure of its own after which the job is tried again: guest, trap, out_of_memory, blob_unavailable or
    /// timed_out; may be repeated
    #[arg(long, value_name = "FAILURE", value_parser = parse_failure)]
    retry_on: Vec<RetryOn>,
    /// The first pause before the job is tried again, doubled each time; 100ms unless said otherwise
    #[arg(long, value_name = "LENGTH")]
    retry_pause: Option<Length>,
    /// The longest of these pauses; 10s unless said otherwise
    #[arg(long, value_name = "LENGTH")]
    retry_pause_max: Option<Length>,
    /// What becomes of the job when the worker or node that runs it is out of reach: wait for it, or a length after which
    /// it is run again. Unless said otherwise it is run again once the lease of 15s has ended
    #[arg(long, value_name = "wait|LENGTH", value_parser = parse_on_disconnect)]
    pub(crate) on_disconnect: Option<OnDisconnect>,
    /// Do not run the job if you have submitted an equal one in this way that has succeeded or is under way at the node: its
    /// result is this one's. Not for arrays, nor for functions that may use KV
    #[arg(long, conflicts_with = "array")]
    pub(crate) memo: bool,
    /// Call this URL when the job has ended, an array once as a whole: a POST with the job as JSON, signed by the node;
    /// again for a day until it is answered with 2xx
    #[arg(long, value_name = "URL")]
    notify: Option<String>,
    /// Call it only at this end: job.succeeded, job.failed, job.cancelled, job.timed_out or job.expired; may be repeated
    #[arg(long, value_name = "EVENT", value_parser = parse_event, requires = "notify")]
    notify_on: Vec<NotifyOn>,
}

impl TermFlags {
    /// The time before which the job does not run, in milliseconds since the Unix epoch.
    pub(crate) fn not_before_ms(&self) -> Option<u64> {
        self.not_before.map(|moment| moment.millis(SystemTime::now()))
    }

    /// Whom the node calls when the job has ended.
    pub(crate) fn notify(&self) -> Option<Notify> {
        let events = self.notify_on.iter().copied().collect();
        self.notify.clone().map(|url| Notify { url, events })
    }

    /// What is done after a failure; none: the usual.
    pub(crate) fn retry(&self) -> Option<Retry> {
        let retry = Retry {
            on: self.retry_on.iter().copied().collect(),
            pause_ms: self.retry_pause.map(Length::millis),
            pause_max_ms: self.retry_pause_max.map(Length::millis),
        };
        (retry != Retry::default()).then_some(retry)
    }
}

fn parse_event(text: &str) -> Result<NotifyOn, String> {
    let known = || NotifyOn::ALL.map(NotifyOn::text).join(", ");
    NotifyOn::ALL.into_iter().find(|event| event.text() == text).ok_or_else(|| format!("there is {}", known()))
}

fn parse_on_disconnect(text: &str) -> Result<OnDisconnect, String> {
    if text == "wait" {
        return Ok(OnDisconnect::Wait);
    }
    let length: Length = text.parse().map_err(|error| format!("{error}; or wait, for ever"))?;
    Ok(OnDisconnect::ReplaceAfterMs(length.millis()))
}

fn parse_failure(text: &str) -> Result<RetryOn, String> {
    let known = || RetryOn::ALL.map(RetryOn::text).join(", ");
    RetryOn::ALL.into_iter().find(|failure| failure.text() == text).ok_or_else(|| format!("there is {}", known()))
}

/// A time that somebody names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// So long from now.
    In(Length),
    /// In milliseconds since the Unix epoch.
    At(u64),
}

impl Moment {
    /// In milliseconds since the Unix epoch.
    fn millis(self, now: SystemTime) -> u64 {
        match self {
            Self::At(ms) => ms,
            Self::In(length) => {
                let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX).saturating_add(length.millis())
            }
        }
    }
}

impl FromStr for Moment {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no time; it is one such as 2026-11-30T06:00:00Z, or a while such as 10m");
        match text.parse() {
            Ok(length) => Ok(Self::In(length)),
            Err(_) => timestamp(text).map(Self::At).ok_or_else(wrong),
        }
    }
}

/// The milliseconds since the Unix epoch of a timestamp as of RFC 3339, to the second: `2026-11-30T06:00:00Z`, or with
/// `+01:00` in the place of `Z`.
fn timestamp(text: &str) -> Option<u64> {
    let (date, rest) = text.split_once(['T', 't', ' '])?;
    let (clock, offset_minutes) = match rest.strip_suffix(['Z', 'z']) {
        Some(clock) => (clock, 0),
        None => {
            let (clock, offset) = rest.split_at_checked(rest.rfind(['+', '-'])?)?;
            let [hours, minutes] = numbers(offset.get(1..)?, ':')?;
            let minutes = (hours <= 23 && minutes <= 59).then_some(hours * 60 + minutes)?;
            (clock, if offset.starts_with('-') { -minutes } else { minutes })
        }
    };
    let [year, month, day] = numbers(date, '-')?;
    let [hour, minute, second] = numbers(clock, ':')?;
    let real = (1970..=9999).contains(&year) && (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day);
    if !real || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let seconds = ((days_since_epoch(year, month, day) * 24 + hour) * 60 + minute - offset_minutes) * 60 + second;
    u64::try_from(seconds).ok()?.checked_mul(1000)
}

/// So many numbers without a sign, with this between them.
fn numbers<const N: usize>(text: &str, between: char) -> Option<[i64; N]> {
    let digits = |part: &str| {
        let all = !part.is_empty() && part.len() <= 4 && part.bytes().all(|byte| byte.is_ascii_digit());
        if all { part.parse().ok() } else { None }
    };
    let numbers: Option<Vec<i64>> = text.split(between).map(digits).collect();
    numbers?.try_into().ok()
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a day of the Gregorian calendar, by years that begin in March, so that the leap day is the last.
fn days_since_epoch(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_timestamp_is_a_time() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("2000-02-29T23:59:59Z", 951_868_799),
            ("2026-11-30T06:00:00Z", 1_796_018_400),
            ("2026-11-30T07:00:00+01:00", 1_796_018_400),
            ("2026-11-30 01:30:00-04:30", 1_796_018_400),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
        ] {
            assert_eq!(text.parse(), Ok(Moment::At(seconds * 1000)), "{text}");
        }
    }

    #[test]
    fn a_while_is_counted_from_now() {
        let now = UNIX_EPOCH + Duration::from_secs(1_000);
        assert_eq!("10m".parse::<Moment>().expect("a while").millis(now), 1_600_000);
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [
            "",
            "tomorrow",
            "10",
            "2026-11-30",
            "2026-02-29T00:00:00Z",
            "2026-13-01T00:00:00Z",
            "2026-11-30T24:00:00Z",
            "2026-11-30T06:00:00",
            "2026-11-30T06:00:00+1",
            "-026-11-30T06:00:00Z",
            "1969-12-31T23:59:59Z",
            "2026-11-30T06:00:00é",
        ] {
            assert!(bad.parse::<Moment>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_is_not_said_is_not_sent() {
        assert_eq!(TermFlags::default().retry(), None);
        let flags = TermFlags { retry_on: vec![RetryOn::Guest], ..TermFlags::default() };
        assert_eq!(flags.retry().map(|retry| retry.on), Some([RetryOn::Guest].into()));
        assert!(parse_failure("timed_out").is_ok() && parse_failure("bad luck").is_err());
        assert_eq!(parse_on_disconnect("wait"), Ok(OnDisconnect::Wait));
        assert_eq!(parse_on_disconnect("30s"), Ok(OnDisconnect::ReplaceAfterMs(30_000)));
        assert!(parse_on_disconnect("never").is_err_and(|error| error.contains("wait")));
    }
}
