//! The arguments of `shoal bench`: what is measured, and how much of it.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

/// Arrivals in a second that can be asked for. Why 100,000: far beyond what a node does, and a clock can still tell them
/// apart.
const RATE_MAX: f64 = 100_000.0;
/// How long a burst or a pause may be, in milliseconds.
const BURST_MS_MAX: u64 = 600_000;
/// The smallest blob that says something of throughput, in bytes.
const BLOB_LEN_MIN: u64 = 1024;
/// The largest, in bytes: 1 TiB.
const BLOB_LEN_MAX: u64 = 1 << 40;

/// After the arguments in `shoal bench --help`.
const SHAPES: &str = "\
Load shapes:
  closed   as many jobs in flight as --in-flight says: each that ends starts the next
  poisson  jobs arrive by chance, --rate a second on average
  on-off   the same, but only during bursts (--on-off)
  trace    jobs arrive when a file says: a line is the arrival in ms, then the input's bytes if it is not 32;
           the first line is the beginning, lines of # are comments
Latency of the last three counts from the moment when a job was to arrive, not from when the client got
round to it: a node that stalls is not excused from the jobs that had to wait for it. At most 512 jobs are
in flight; those that find all places taken wait, and are counted.

Every result is compared with what it must be, and once more after the node was killed with SIGKILL.

Peers: --peers looks for slurmctld, slurmd, sbatch and munged (Debian: apt-get install slurm-wlm munge), and for a
python3 on the path that has HyperQueue (pip install hyperqueue). It starts them in a folder of its own, on loopback,
and stops them. Who is not installed is left out, and named.";

/// How the benchmark is run.
#[derive(Debug, clap::Args)]
#[command(after_help = SHAPES)]
pub(crate) struct BenchArgs {
    /// Run only these parts, separated by commas
    #[arg(long, value_name = "PART", value_enum, value_delimiter = ',')]
    pub(crate) only: Vec<Part>,
    /// Measure Slurm and HyperQueue instead, as far as they are installed, in turn with Shoal
    #[arg(long, conflicts_with_all = ["only", "trace"])]
    pub(crate) peers: bool,
    /// How often each of them is measured
    #[arg(long, value_name = "N", requires = "peers", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) peer_rounds: u32,
    /// Jobs of the closed loop
    #[arg(long, value_name = "N", default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub(crate) jobs: u32,
    /// Jobs of the closed loop that are under way at once
    #[arg(long, value_name = "N", default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) in_flight: u32,
    /// Runs at once of the node's worker, and threads of bare wasmtime
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=i64::from(shoal_worker::SLOTS_MAX)))]
    pub(crate) slots: u32,
    /// Jobs a second of Poisson, and within bursts; else half of what the closed loop reached, and all of it within bursts
    #[arg(long, value_name = "JOBS", value_parser = rate)]
    pub(crate) rate: Option<f64>,
    /// Length of bursts and of the pauses between them, in milliseconds
    #[arg(long, value_name = "ON,OFF", default_value = "500,500", value_parser = on_off)]
    pub(crate) on_off: OnOff,
    /// How long Poisson and on-off last, and each time of the projects that compete, in seconds
    #[arg(long, value_name = "S", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=3600))]
    pub(crate) seconds: u32,
    /// Also let jobs arrive as this file says
    #[arg(long, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
    /// Length of the blobs: bytes, or with a unit as in 256MiB
    #[arg(long, value_name = "SIZE", default_value = "1GiB", value_parser = blob_size)]
    pub(crate) blob_size: u64,
    /// How often each way of a blob is measured, in turn with the others
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub(crate) blob_rounds: u32,
    /// Jobs that are handed over by each way, and wait
    #[arg(long, value_name = "N", default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(100..=1_000_000))]
    pub(crate) submits: u32,
    /// Jobs of the long queue
    #[arg(long, value_name = "N", default_value_t = 200_000, value_parser = clap::value_parser!(u32).range(2_000..=10_000_000))]
    pub(crate) queued: u32,
    /// Where chance starts: the same seed gives the same inputs and arrivals
    #[arg(long, value_name = "N")]
    pub(crate) seed: Option<u64>,
    /// Work below this folder, which says which disk is measured; else the system's folder for temporary files
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
    /// Also write all figures into this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) report: Option<PathBuf>,
    /// `--json` of every command: figures on standard output as JSON, the text on standard error.
    #[arg(skip)]
    pub(crate) json: bool,
}

/// A part of the benchmark.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Part {
    /// Memory and processor time of a node with nothing to do
    Idle,
    /// Jobs one after the other
    Latency,
    /// Jobs in a closed loop
    Closed,
    /// Jobs that arrive by chance
    Poisson,
    /// Jobs that arrive in bursts
    OnOff,
    /// Jobs that arrive as a file says
    Trace,
    /// All parts with jobs
    Jobs,
    /// Blobs in and out
    Blobs,
    /// Two projects of weights 1 and 3 with ten times as much work as the worker can do
    Share,
    /// Jobs handed over that wait, over HTTP and QUIC
    Submit,
    /// A queue of --queued jobs: memory, submits, pages of the list, restarts
    Queue,
}

impl BenchArgs {
    /// Whether this part is to be run.
    pub(crate) fn wants(&self, part: Part) -> bool {
        let jobs = !matches!(part, Part::Idle | Part::Blobs | Part::Share | Part::Submit | Part::Queue);
        let named = self.only.is_empty() || self.only.contains(&part) || (jobs && self.only.contains(&Part::Jobs));
        // Without a file there is no trace; that somebody asked for one by name is an error elsewhere.
        named && (part != Part::Trace || self.trace.is_some())
    }
}

/// Bursts and the pauses between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OnOff {
    /// How long jobs arrive.
    pub(crate) on: Duration,
    /// How long none does.
    pub(crate) off: Duration,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && rate <= RATE_MAX => Ok(rate),
        _ => Err(format!("jobs a second, more than 0 and at most {RATE_MAX}")),
    }
}

fn on_off(text: &str) -> Result<OnOff, String> {
    let ms = |text: &str| text.trim().parse().ok().filter(|ms| (1..=BURST_MS_MAX).contains(ms));
    let parts = text.split_once(',').and_then(|(on, off)| Some((ms(on)?, ms(off)?)));
    let (on, off) = parts.ok_or_else(|| {
        format!("two lengths in milliseconds from 1 to {BURST_MS_MAX} with a comma between them, as in 500,500")
    })?;
    Ok(OnOff { on: Duration::from_millis(on), off: Duration::from_millis(off) })
}

/// A length in bytes, with a unit or without.
pub(super) fn bytes(text: &str) -> Option<u64> {
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text.get(digits.len()..).unwrap_or_default().trim();
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => Some(0),
        "k" | "kib" => Some(10),
        "m" | "mib" => Some(20),
        "g" | "gib" => Some(30),
        "t" | "tib" => Some(40),
        _ => None,
    };
    let number = digits.parse::<u64>().ok();
    number.zip(shift).and_then(|(number, shift)| number.checked_mul(1 << shift))
}

fn blob_size(text: &str) -> Result<u64, String> {
    bytes(text)
        .filter(|len| (BLOB_LEN_MIN..=BLOB_LEN_MAX).contains(len))
        .ok_or_else(|| "a length from 1KiB to 1TiB: bytes, or a number with KiB, MiB, GiB or TiB behind it".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_bytes_or_have_a_unit() {
        for (text, len) in [
            ("1024", 1024),
            ("256MiB", 256 << 20),
            ("1GiB", 1 << 30),
            ("2g", 2 << 30),
            ("64 KiB", 65536),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(blob_size(text), Ok(len), "{text}");
        }
        for text in ["", "MiB", "1MB", "-1", "1.5GiB", "12", "2TiB", "99999999999999999999", "18014398509481985KiB"] {
            assert!(blob_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn rates_and_bursts_are_bounded() {
        assert_eq!(rate("0.5"), Ok(0.5));
        for text in ["0", "-1", "NaN", "inf", "1e9", "many"] {
            assert!(rate(text).is_err(), "{text}");
        }
        let expected = OnOff { on: Duration::from_millis(20), off: Duration::from_millis(80) };
        assert_eq!(on_off("20,80"), Ok(expected));
        for text in ["20", "20,", "0,5", "5,0", "20,80,90", "1,999999999"] {
            assert!(on_off(text).is_err(), "{text}");
        }
    }
}
