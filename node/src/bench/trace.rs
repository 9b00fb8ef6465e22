//! Arrivals from a file: one job a line, its arrival in milliseconds, then the length of its input in bytes if that is
//! not the usual one.
//!
//! ```text
//! # arrival in ms, input in bytes
//! 0
//! 12.5 1000
//! 12.5, 20000
//! ```
//!
//! The first line is the beginning, whatever its time, so that the clock of the machine where it was recorded may stand.

use std::io::Read as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

use super::arrivals::{ARRIVALS_MAX, Arrival, INPUT_LEN};

/// Bytes of a file that are read. Why 64 MiB: a million lines with room for comments.
const FILE_LEN_MAX: u64 = 64 * 1024 * 1024;
/// How long a trace may go on. Why a day: a benchmark that runs longer is none.
const LENGTH_MAX: Duration = Duration::from_secs(24 * 3600);
/// The longest input. Why 1 MiB: hundreds of jobs are in flight, and each has its input in memory; what large blobs
/// cost is measured by itself.
const INPUT_LEN_MAX: u32 = 1024 * 1024;

/// Reads a trace from a file.
pub(super) fn read(path: &Path) -> anyhow::Result<Vec<Arrival>> {
    let file = std::fs::File::open(path).with_context(|| format!("the trace {}", path.display()))?;
    let mut text = String::new();
    file.take(FILE_LEN_MAX + 1).read_to_string(&mut text).with_context(|| format!("the trace {}", path.display()))?;
    ensure!(
        text.len() as u64 <= FILE_LEN_MAX,
        "the trace {} is too long: at most {} MiB are read",
        path.display(),
        FILE_LEN_MAX >> 20
    );
    parse(&text).with_context(|| format!("the trace {}", path.display()))
}

fn parse(text: &str) -> anyhow::Result<Vec<Arrival>> {
    let mut arrivals: Vec<Arrival> = Vec::new();
    let mut begin_ms = None;
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.split_once('#').map_or(line, |(said, _)| said).trim();
        if line.is_empty() {
            continue;
        }
        let (at_ms, input_len) = columns(line).with_context(|| format!("line {number}"))?;
        let at = (at_ms - *begin_ms.get_or_insert(at_ms)) / 1000.0;
        let last = arrivals.last().map_or(Duration::ZERO, |arrival| arrival.at);
        let at = Duration::try_from_secs_f64(at).ok().filter(|at| *at >= last);
        let at = at.with_context(|| format!("line {number}: {at_ms} ms is before the arrival above it"))?;
        ensure!(at <= LENGTH_MAX, "line {number}: {at_ms} ms is more than a day after the first arrival");
        ensure!(arrivals.len() < ARRIVALS_MAX, "line {number}: at most {ARRIVALS_MAX} arrivals are measured");
        arrivals.push(Arrival { at, input_len });
    }
    ensure!(!arrivals.is_empty(), "there are no arrivals in it: one in each line, in milliseconds");
    Ok(arrivals)
}

fn columns(line: &str) -> anyhow::Result<(f64, u32)> {
    let mut columns = line.split(|c: char| c.is_whitespace() || c == ',').filter(|column| !column.is_empty());
    let at = columns.next().unwrap_or_default();
    let at_ms = at.parse().ok().filter(|at: &f64| at.is_finite() && *at >= 0.0);
    let Some(at_ms) = at_ms else { bail!("{at:?} is no time in milliseconds: a number from 0 on, as in 12.5") };
    let Some(len) = columns.next() else { return Ok((at_ms, INPUT_LEN)) };
    let Some(input_len) = len.parse().ok().filter(|len| *len <= INPUT_LEN_MAX) else {
        bail!("{len:?} is no length of an input: bytes, from 0 to {INPUT_LEN_MAX}")
    };
    match columns.next() {
        Some(more) => bail!("{more:?} is one column too many: an arrival in ms, then an input in bytes"),
        None => Ok((at_ms, input_len)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_an_arrival_and_may_say_how_long_the_input_is() {
        let text = "# recorded elsewhere\n\n1700000000000\n1700000000012.5 1000 # a comment\n1700000000012.5, 20000\r\n\
                    1700000001000,0";
        let expected = [(0, INPUT_LEN), (12_500, 1000), (12_500, 20_000), (1_000_000, 0)]
            .map(|(us, input_len)| Arrival { at: Duration::from_micros(us), input_len });
        assert_eq!(parse(text).unwrap(), expected);
    }

    #[test]
    fn a_bad_line_is_refused_by_its_number() {
        for (text, said) in [
            ("", "no arrivals"),
            ("# nothing\n", "no arrivals"),
            ("0\n1\nsoon\n", "line 3: \"soon\" is no time"),
            ("-1", "line 1: \"-1\" is no time"),
            ("NaN", "line 1: \"NaN\" is no time"),
            ("inf", "line 1: \"inf\" is no time"),
            ("5\n\n4", "line 3: 4 ms is before"),
            ("5\n4", "line 2: 4 ms is before"),
            ("0\n5\n4", "line 3: 4 ms is before"),
            ("0 -1", "line 1: \"-1\" is no length"),
            ("0 1048577", "line 1: \"1048577\" is no length"),
            ("0 1e3", "line 1: \"1e3\" is no length"),
            ("0 1 2", "line 1: \"2\" is one column too many"),
            ("0\n86400001", "line 2: 86400001 ms is more than a day"),
            ("0\n1e300", "line 2"),
        ] {
            let refused = format!("{:#}", parse(text).unwrap_err());
            assert!(refused.contains(said), "{text:?}: {refused}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let refused = format!("{:#}", read(Path::new("/no/such/trace")).unwrap_err());
        assert!(refused.contains("/no/such/trace"), "{refused}");
    }
}
