//! What nodes cost that have nothing to do: processor, link, memory.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::Pid;

use super::Run;
use crate::net::Traffic;
use crate::process::{processor_time, resident_kib};
use crate::report::Line;
use crate::scenario::{Rest, Select};
use crate::world::Host;

/// What a node has used so far.
struct Used {
    node: Duration,
    worker: Duration,
    traffic: Traffic,
}

impl Used {
    fn of(host: &Host) -> anyhow::Result<Self> {
        let node = host.pid().with_context(|| format!("{} does not run", host.name()))?;
        let time = |pid: Pid| processor_time(pid).context("the system does not say what a process has used");
        let worker = host.worker_pid().map_or(Ok(Duration::ZERO), time)?;
        Ok(Self { node: time(node)?, worker, traffic: host.traffic()? })
    }
}

impl Run {
    pub(super) async fn rest(&mut self, step: &Rest) -> anyhow::Result<()> {
        let all = Select::all();
        let before: Vec<Used> = self.world.up(&all).map(Used::of).collect::<anyhow::Result<_>>()?;
        let begun = Instant::now();
        tokio::time::sleep(step.length).await;
        let seconds = begun.elapsed().as_secs_f64();
        let after: Vec<Used> = self.world.up(&all).map(Used::of).collect::<anyhow::Result<_>>()?;
        let rate = |used: fn(&Used) -> f64| -> Vec<f64> {
            before.iter().zip(&after).map(|(before, after)| (used(after) - used(before)) / seconds).collect()
        };
        let percent = |used: fn(&Used) -> f64| rate(used).into_iter().map(|share| share * 100.0);
        let memory = |pid: fn(&Host) -> Option<Pid>| -> Vec<f64> {
            self.world.up(&all).filter_map(pid).filter_map(resident_kib).map(|kib| kib as f64 / 1024.0).collect()
        };
        let lines = [
            at_most(
                Line::new("rest", "processor, node").measured(percent(|u| u.node.as_secs_f64()), "%"),
                step.cpu.map(|share| share * 100.0),
            ),
            Line::new("rest", "processor, worker").measured(percent(|u| u.worker.as_secs_f64()), "%"),
            at_most(
                Line::new("rest", "sent a second").measured(rate(|u| u.traffic.sent as f64), "B"),
                step.sent_per_second,
            ),
            Line::new("rest", "received a second").measured(rate(|u| u.traffic.received as f64), "B"),
            at_most(Line::new("rest", "memory, node").measured(memory(Host::pid), "MiB"), step.memory_mib),
            Line::new("rest", "memory, worker").measured(memory(Host::worker_pid), "MiB"),
        ];
        lines.into_iter().for_each(|line| self.tell(line));
        Ok(())
    }
}

/// With the promise that no node has more, if one is made.
fn at_most(line: Line, limit: Option<f64>) -> Line {
    let Some(limit) = limit else { return line };
    let kept = line.figures.is_some_and(|figures| figures.max <= limit);
    let promise = format!("at most {limit} {}", line.unit);
    line.promise(promise, kept)
}
