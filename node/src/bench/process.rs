//! Memory and processor time of the node and its worker, as the system counts them.

use std::time::{Duration, Instant};

use serde::Serialize;

use crate::stage::Stage;

/// How long an idle node is watched.
pub(super) const IDLE: Duration = Duration::from_secs(5);

/// A node that has done next to nothing for so long is at rest. Why 6 s: what it has put off for later it does within 5.
const REST: Duration = Duration::from_secs(6);
/// How often that is looked at.
const REST_STEP: Duration = Duration::from_millis(500);
/// What it may take meanwhile, in ticks of 10 ms.
const REST_TICKS: u64 = 2;
/// Beyond this it is not waited for.
const REST_MAX: Duration = Duration::from_secs(60);

/// Memory of one process, in MiB.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Resident {
    /// What it has now.
    pub(super) now_mib: f64,
    /// The most that it had since [`Watch::begin`], or since it started where the system does not let us ask for less.
    pub(super) peak_mib: f64,
}

/// Memory of both.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Memory {
    pub(super) node: Resident,
    pub(super) worker: Resident,
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { node, worker } = self;
        write!(
            f,
            "memory: node {:.1} MiB, at most {:.1}; worker {:.1} MiB, at most {:.1}",
            node.now_mib, node.peak_mib, worker.now_mib, worker.peak_mib
        )
    }
}

/// What an idle node takes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Idle {
    pub(super) seconds: f64,
    pub(super) memory: Memory,
    /// Percent of one processor.
    pub(super) node_cpu_percent: f64,
    pub(super) worker_cpu_percent: f64,
}

/// The processes of a stage.
#[derive(Debug, Clone, Copy)]
pub(super) struct Watch {
    node: Option<u32>,
    worker: Option<u32>,
}

impl Watch {
    /// The processes as they now are.
    pub(super) fn of(stage: &Stage) -> Self {
        Self { node: stage.node_pid(), worker: stage.worker_pid() }
    }

    /// Forgets the peaks until now.
    pub(super) fn begin(stage: &Stage) -> Self {
        let watch = Self::of(stage);
        for pid in [watch.node, watch.worker].into_iter().flatten() {
            // 5: the peak is what is resident now. Where that is not allowed the peak is that of the whole life.
            drop(std::fs::write(format!("/proc/{pid}/clear_refs"), "5"));
        }
        watch
    }

    /// What they have now, and the peak.
    pub(super) fn memory(&self) -> Memory {
        Memory { node: resident(self.node), worker: resident(self.worker) }
    }

    /// Watches them while nothing happens.
    pub(super) async fn idle(&self) -> Idle {
        let before = self.ticks();
        tokio::time::sleep(IDLE).await;
        let after = self.ticks();
        // A tick is 10 ms on every Linux that is supported: so many a second are so many percent.
        let percent = |before: u64, after: u64| after.saturating_sub(before) as f64 / IDLE.as_secs_f64();
        Idle {
            seconds: IDLE.as_secs_f64(),
            memory: self.memory(),
            node_cpu_percent: percent(before.0, after.0),
            worker_cpu_percent: percent(before.1, after.1),
        }
    }

    /// Waits until the node is at rest, so that what it does with what it was handed before counts for nothing that follows.
    pub(super) async fn rest(&self) {
        let begun = Instant::now();
        let mut quiet = Duration::ZERO;
        while quiet < REST && begun.elapsed() < REST_MAX {
            let before = self.ticks().0;
            tokio::time::sleep(REST_STEP).await;
            quiet = if self.ticks().0 <= before + REST_TICKS { quiet + REST_STEP } else { Duration::ZERO };
        }
    }

    fn ticks(&self) -> (u64, u64) {
        let of = |pid: Option<u32>| pid.and_then(|pid| ticks(&read(pid, "stat")?)).unwrap_or_default();
        (of(self.node), of(self.worker))
    }
}

fn read(pid: u32, file: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
}

fn resident(pid: Option<u32>) -> Resident {
    let status = pid.and_then(|pid| read(pid, "status")).unwrap_or_default();
    let mib = |name| kib(&status, name).map_or(0.0, |kib| kib as f64 / 1024.0);
    let now_mib = mib("VmRSS:");
    // The kernel updates the peak a little later than what is resident.
    Resident { now_mib, peak_mib: mib("VmHWM:").max(now_mib) }
}

fn kib(status: &str, name: &str) -> Option<u64> {
    status.lines().find_map(|line| line.strip_prefix(name))?.split_whitespace().next()?.parse().ok()
}

/// User and system time, in ticks.
fn ticks(stat: &str) -> Option<u64> {
    // The name may hold spaces; fields are counted behind its closing parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_understood() {
        let stat = "12 (a ) b) S 1 12 12 0 -1 4194304 100 0 0 0 7 5 0 0 20 0 9 0 100 200 300";
        assert_eq!(ticks(stat), Some(12));
        let status = "Name:\tshoal\nVmHWM:\t   20480 kB\nVmRSS:\t    1024 kB\n";
        assert_eq!(
            (kib(status, "VmHWM:"), kib(status, "VmRSS:"), kib(status, "VmSwap:")),
            (Some(20480), Some(1024), None)
        );
    }

    #[test]
    fn a_process_has_memory() {
        let own = resident(Some(std::process::id()));
        assert!(own.now_mib > 0.5 && own.peak_mib >= own.now_mib, "{own:?}");
        assert_eq!(resident(None), Resident { now_mib: 0.0, peak_mib: 0.0 });
    }
}
