//! The figures: as JSON for machines, as lines and tables for people.

use std::path::Path;

use serde::Serialize;

use super::blobs::{Blobs, OfBare, Ways};
use super::jobs::Latency;
use super::peers::Peers;
use super::process::{Idle, Memory};
use super::raw::{Syncs, Wasmtime};
use super::screen::Screen;
use super::share::Share;
use super::times::{COLUMNS, Spread, ms, ratio};
use super::waiting::{Cost, Handing, Queue, Restart, Submits};
use crate::cli::{Table, size};

/// All that was measured in one run; parts that were not run are left out.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) shoal: &'static str,
    pub(super) seed: u64,
    pub(super) machine: Machine,
    pub(super) slots: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) idle: Option<Idle>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) latency: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) closed: Option<Figures>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) poisson: Option<Shape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) on_off: Option<Shape>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) trace: Option<Shape>,
    /// Results that were there, and right, after the node was killed and started again: all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) results_after_kill: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) blobs: Option<Blobs>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) share: Option<Share>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) submit: Option<Submits>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) queue: Option<Queue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) peers: Option<Peers>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<Memory>,
}

/// Where it was measured.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    processors: usize,
    memory_mib: u64,
    kernel: String,
    folder: String,
    /// Nothing is ever synced there, so that figures with syncs in them mean little.
    folder_in_memory: bool,
}

impl Machine {
    pub(super) fn this(folder: &Path, folder_in_memory: bool) -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let memory = read("/proc/meminfo");
        let kib =
            memory.lines().find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
        Self {
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            memory_mib: kib.unwrap_or(0u64) / 1024,
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            folder: folder.display().to_string(),
            folder_in_memory,
        }
    }
}

impl Report {
    pub(super) fn new(seed: u64, slots: u32, machine: Machine) -> Self {
        Self {
            shoal: env!("CARGO_PKG_VERSION"),
            seed,
            machine,
            slots,
            idle: None,
            latency: None,
            closed: None,
            poisson: None,
            on_off: None,
            trace: None,
            results_after_kill: None,
            blobs: None,
            share: None,
            submit: None,
            queue: None,
            peers: None,
            end: None,
        }
    }

    /// What stands above all parts.
    pub(super) fn show_head(&self, screen: &Screen) {
        let Machine { processors, memory_mib, kernel, folder, folder_in_memory } = &self.machine;
        screen.say(&format!("shoal {}, seed {}", self.shoal, self.seed));
        screen.say(&format!("{processors} processors, {memory_mib} MiB, Linux {kernel}"));
        screen.say(&format!("in {folder}"));
        if *folder_in_memory {
            screen.say("that is in memory, where a sync costs nothing: choose a folder on a disk with --folder");
        }
    }
}

/// Figures of jobs, with what the machine does by itself beside them, measured right before and right after.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Figures {
    pub(super) jobs: usize,
    /// Results.
    pub(super) per_second: f64,
    #[serde(flatten)]
    pub(super) latency: Latency,
    pub(super) raw_fdatasync: Syncs,
    pub(super) raw_wasmtime: Wasmtime,
    /// Of the medians: how many syncs a submit is long.
    pub(super) submit_per_fdatasync: Option<f64>,
    /// Of the medians: how many bare calls a job is long.
    pub(super) result_per_wasmtime: Option<f64>,
    /// Jobs a second for each bare call a second.
    pub(super) rate_per_wasmtime: Option<f64>,
    pub(super) memory: Memory,
}

impl Figures {
    pub(super) fn new(
        per_second: f64,
        latency: Latency,
        (raw_fdatasync, raw_wasmtime): (Syncs, Wasmtime),
        memory: Memory,
    ) -> Self {
        Self {
            jobs: latency.result.count,
            per_second,
            latency,
            raw_fdatasync,
            raw_wasmtime,
            submit_per_fdatasync: ratio(latency.submit.p50_ms, raw_fdatasync.latency.p50_ms),
            result_per_wasmtime: ratio(latency.result.p50_ms, raw_wasmtime.latency.p50_ms),
            rate_per_wasmtime: ratio(per_second, raw_wasmtime.per_second),
            memory,
        }
    }

    pub(super) fn show(&self, screen: &Screen) {
        let [p50, p90, p99, max] = COLUMNS;
        let mut table = Table::new(&["", p50, p90, p99, max, "a second"]);
        let mut row = |name: &str, spread: &Spread, rate: Option<f64>| {
            let [p50, p90, p99, max] = spread.cells();
            table.row([name.into(), p50, p90, p99, max, rate.map(|rate| format!("{rate:.0}")).unwrap_or_default()]);
        };
        row("submit to acknowledged, durable", &self.latency.submit, None);
        row("submit to result, checked", &self.latency.result, Some(self.per_second));
        let Syncs { bytes, latency, per_second } = &self.raw_fdatasync;
        row(&format!("raw: {bytes} bytes and fdatasync"), latency, Some(*per_second));
        let Wasmtime { threads, latency, per_second } = &self.raw_wasmtime;
        let threads = if *threads == 1 { "1 thread".to_owned() } else { format!("{threads} threads") };
        row(&format!("raw: bare wasmtime, {threads}"), latency, Some(*per_second));
        screen.table(&table);
        screen.say(&format!(
            "  by p50 a submit is {} syncs, a job {} bare calls long; {} of the rate of bare calls",
            times(self.submit_per_fdatasync),
            times(self.result_per_wasmtime),
            times(self.rate_per_wasmtime)
        ));
        screen.say(&format!("  {}", self.memory));
    }
}

/// Figures of jobs that arrived by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Shape {
    #[serde(flatten)]
    pub(super) figures: Figures,
    /// From the first arrival to the last.
    pub(super) arrived_per_second: f64,
    /// How long after its arrival the client began with a job.
    pub(super) begun_late: Spread,
    pub(super) in_flight_max: usize,
    /// Arrivals that found so many in flight and waited.
    pub(super) found_full: usize,
}

impl Shape {
    pub(super) fn show(&self, screen: &Screen) {
        let jobs = self.figures.jobs;
        screen.say(&format!(
            "  {jobs} jobs arrived, {:.0} a second; times count from when each was to arrive",
            self.arrived_per_second
        ));
        self.figures.show(screen);
        let Self { begun_late, in_flight_max, found_full, .. } = self;
        screen.say(&format!(
            "  {found_full} found {in_flight_max} in flight and waited; the client began late by p50 {}, p99 {}",
            ms(begun_late.p50_ms),
            ms(begun_late.p99_ms)
        ));
    }
}

impl Idle {
    pub(super) fn show(&self, screen: &Screen) {
        let mut table = Table::new(&["", "resident", "processor"]);
        for (name, resident, percent) in
            [("node", self.memory.node, self.node_cpu_percent), ("worker", self.memory.worker, self.worker_cpu_percent)]
        {
            table.row([name.into(), format!("{:.1} MiB", resident.now_mib), format!("{percent:.1} %")]);
        }
        screen.table(&table);
    }
}

impl Blobs {
    pub(super) fn show(&self, screen: &Screen) {
        let mut table = Table::new(&["seconds", "in: HTTP", "QUIC", "bare", "out: HTTP", "QUIC", "bare"]);
        let mut row = |name: String, put: Ways, read: Ways| {
            let [a, b, c] = [put.http, put.quic, put.bare].map(seconds);
            let [d, e, f] = [read.http, read.quic, read.bare].map(seconds);
            table.row([name, a, b, c, d, e, f]);
        };
        for (number, round) in (1..).zip(&self.rounds) {
            row(format!("round {number}"), round.put, round.read);
        }
        row("median".into(), self.median.put, self.median.read);
        let OfBare { http_in, http_out, quic_in, quic_out } = self.of_bare;
        let [a, b, c, d] = [http_in, quic_in, http_out, quic_out].map(times);
        table.row(["of bare".into(), a, b, String::new(), c, d, String::new()]);
        screen.table(&table);
        let rate = |seconds: f64| size((self.size_bytes as f64 / seconds.max(f64::MIN_POSITIVE)) as u64);
        screen.say(&format!(
            "  HTTP: {}/s in, {}/s out; of bare: its share of the throughput of iroh-blobs alone",
            rate(self.median.put.http),
            rate(self.median.read.http)
        ));
        screen.say(&format!(
            "  all three are synced before they count as in; iroh-blobs had answered after {} s, unsynced",
            seconds(self.median.bare_unsynced)
        ));
        screen.say(&format!(
            "  memory: node at most {:.1} MiB over HTTP, {:.1} MiB over QUIC",
            self.node_peak_http_mib, self.node_peak_quic_mib
        ));
    }
}

impl Submits {
    pub(super) fn show(&self, screen: &Screen) {
        let [p50, p90, p99, max] = COLUMNS;
        let mut table = Table::new(&["to acknowledged, durable", "in flight", p50, p90, p99, max, "a second"]);
        for (name, handing) in
            [("HTTP", self.http_one), ("QUIC", self.quic_one), ("HTTP", self.http), ("QUIC", self.quic)]
        {
            table.row(handing_cells(name, &handing));
        }
        screen.table(&table);
    }
}

impl Cost {
    pub(super) fn show(&self, screen: &Screen) {
        let [p50, p90, p99, max] = COLUMNS;
        let mut table = Table::new(&["", "in flight", p50, p90, p99, max, "a second"]);
        let Self { waiting, submit, page } = self;
        table.row(handing_cells(&format!("submit, {waiting} waiting"), submit));
        let [a, b, c, d] = page.cells();
        table.row(["page of the list".into(), "1".into(), a, b, c, d, String::new()]);
        screen.table(&table);
    }
}

impl Queue {
    pub(super) fn show(&self, screen: &Screen) {
        self.long.show(screen);
        screen.say(&format!(
            "  submits {} times as dear, p99 of a page {} times; {:.0} bytes of the node's memory for each job",
            times(self.submit_rate_ratio),
            times(self.page_p99_ratio),
            self.bytes_per_job
        ));
        for Restart { waiting, seconds } in self.restarts {
            screen.say(&format!("  killed with {waiting} waiting, it is up again after {seconds:.2} s"));
        }
    }
}

fn handing_cells(name: &str, handing: &Handing) -> [String; 7] {
    let [p50, p90, p99, max] = handing.latency.cells();
    [name.into(), handing.in_flight.to_string(), p50, p90, p99, max, format!("{:.0}", handing.per_second)]
}

fn seconds(seconds: f64) -> String {
    format!("{seconds:.3}")
}

fn times(ratio: Option<f64>) -> String {
    match ratio {
        None => "?".into(),
        Some(ratio) if ratio >= 10.0 => format!("{ratio:.0}"),
        Some(ratio) => format!("{ratio:.2}"),
    }
}
