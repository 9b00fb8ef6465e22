//! What the system says about this process: memory, processor time, open files. Read whenever the metrics are asked for.
//!
//! From `/proc`, by the names that Prometheus' own client libraries use. Where there is no `/proc`, these metrics are absent.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

/// The unit of times in `/proc/self/stat`. Why a constant: the kernel reports 100 to every process on all platforms
/// that we support, whatever its own tick is.
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads `/proc/self`.
#[derive(Debug)]
pub(super) struct Process;

impl Collector for Process {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        if let Some(bytes) = resident_bytes() {
            let gauge = ConstGauge::new(bytes);
            let help = "Resident memory.";
            gauge.encode(encoder.encode_descriptor(
                "process_resident_memory",
                help,
                Some(&Unit::Bytes),
                gauge.metric_type(),
            )?)?;
        }
        if let Some(seconds) = cpu_seconds() {
            let counter = ConstCounter::new(seconds);
            let help = "Processor time, of the user and the system.";
            let kind = counter.metric_type();
            counter.encode(encoder.encode_descriptor("process_cpu", help, Some(&Unit::Seconds), kind)?)?;
        }
        if let Some(count) = open_files() {
            let gauge = ConstGauge::new(count);
            let kind = gauge.metric_type();
            gauge.encode(encoder.encode_descriptor("process_open_fds", "Open file descriptors.", None, kind)?)?;
        }
        Ok(())
    }
}

/// Resident memory of this process, in bytes.
pub(crate) fn resident_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kib.checked_mul(1024)
}

/// Processor time of this process, in seconds.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is the program's name in parentheses and may hold anything: count behind the last of them.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    let user: u32 = fields.nth(11)?.parse().ok()?;
    let system: u32 = fields.next()?.parse().ok()?;
    Some((f64::from(user) + f64::from(system)) / TICKS_PER_SECOND)
}

/// Open file descriptors of this process, without the one that counts them.
fn open_files() -> Option<u64> {
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    Some((entries.count() as u64).saturating_sub(1))
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn linux_tells_memory_time_and_files() {
        // Without `black_box` the optimiser leaves the memory out.
        let memory = std::hint::black_box(vec![7u8; 32 << 20]);
        assert!(resident_bytes().unwrap() > 32 << 20, "{} bytes are in use", memory.len());
        drop(std::hint::black_box(memory));
        let spent = cpu_seconds().unwrap();
        let started = std::time::Instant::now();
        let mut rounds = 0u64;
        while cpu_seconds().unwrap() < spent + 0.03 {
            rounds = rounds.wrapping_add(1);
            assert!(started.elapsed().as_secs() < 20, "{rounds} rounds cost no time");
        }
        let before = open_files().unwrap();
        let file = std::fs::File::open("/proc/self/stat").unwrap();
        // Other tests open and close files at the same time, so only that there are some can be said for sure.
        assert!(before >= 3 && open_files().is_some(), "{file:?}");
    }
}
