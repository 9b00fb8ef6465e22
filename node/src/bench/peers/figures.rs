//! What is found out of Shoal and its peers: rounds, their medians, and what stands under the table.

use serde::Serialize;

use crate::bench::raw::Syncs;
use crate::bench::screen::Screen;
use crate::bench::times::{median, ms, ratio};
use crate::cli::Table;

/// Shoal and its peers, measured in turn.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(in crate::bench) struct Peers {
    rounds: u32,
    /// Shoal first.
    systems: Vec<System>,
    /// Peers that were not measured.
    missing: Vec<Missing>,
    /// What a synced append costs on the disk on which all of them worked.
    raw_fdatasync: Syncs,
}

/// One of those that are measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct System {
    pub(super) name: &'static str,
    pub(super) version: String,
    /// What an acknowledgement of a submission means.
    pub(super) acknowledged: &'static str,
    pub(super) rounds: Vec<Round>,
}

/// One round of one of them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Round {
    /// Jobs that were handed over for each of the next two.
    pub(super) jobs: u32,
    /// By one client that waited for each acknowledgement.
    pub(super) submits_per_second: f64,
    /// From the first submission until the last job had ended.
    pub(super) jobs_per_second: f64,
    /// From a submission to what the job has done, one at a time: the median.
    pub(super) result_p50_ms: f64,
    /// None: what is in memory only is not asked for after a kill.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) kill: Option<Kill>,
}

/// What was there after the process that had acknowledged jobs was killed at once and started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) struct Kill {
    pub(super) acknowledged: u32,
    pub(super) lost: u32,
}

/// A peer that was not measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Missing {
    name: &'static str,
    why: String,
    /// How it is installed.
    install: &'static str,
}

impl Missing {
    pub(super) fn new(name: &'static str, install: &'static str, why: &anyhow::Error) -> Self {
        Self { name, install, why: format!("{why:#}") }
    }
}

impl System {
    /// Takes in a round, and shows it.
    pub(super) fn add(&mut self, round: Round, screen: &Screen) {
        self.rounds.push(round);
        screen.say(&format!("  round {}, {}", self.rounds.len(), self.line(&round)));
    }

    fn line(&self, round: &Round) -> String {
        let Round { submits_per_second, jobs_per_second, result_p50_ms, kill, .. } = round;
        let lost = kill.map_or(String::new(), |Kill { acknowledged, lost }| format!(", {lost} of {acknowledged} lost"));
        format!(
            "{}: {submits_per_second:.0} submits/s, {jobs_per_second:.0} jobs/s, {}{lost}",
            self.name,
            ms(*result_p50_ms)
        )
    }

    fn median(&self, of: impl Fn(&Round) -> f64) -> f64 {
        median(self.rounds.iter().map(of))
    }

    /// Jobs that were gone after kills: the least and the most of a round, and how many were acknowledged in each.
    fn lost(&self) -> Option<(u32, u32, u32)> {
        let kills = || self.rounds.iter().filter_map(|round| round.kill);
        let least = kills().map(|kill| kill.lost).min()?;
        Some((least, kills().map(|kill| kill.lost).max()?, kills().map(|kill| kill.acknowledged).max()?))
    }
}

impl Peers {
    pub(super) fn new(rounds: u32, systems: Vec<System>, missing: Vec<Missing>, raw_fdatasync: Syncs) -> Self {
        Self { rounds, systems, missing, raw_fdatasync }
    }

    pub(super) fn show(&self, screen: &Screen) {
        let mut table = Table::new(&["", "submits/s", "jobs/s", "submit to result", "lost by kill -9", "Shoal runs"]);
        let rate = |system: &System| system.median(|round| round.jobs_per_second);
        let own = self.systems.first();
        for system in &self.systems {
            let lost = match system.lost() {
                None => "not asked: in memory".to_owned(),
                Some((least, most, of)) if least == most => format!("{most} of {of}"),
                Some((least, most, of)) => format!("{least} to {most} of {of}"),
            };
            table.row([
                format!("{} {}", system.name, system.version),
                format!("{:.0}", system.median(|round| round.submits_per_second)),
                format!("{:.0}", rate(system)),
                ms(system.median(|round| round.result_p50_ms)),
                lost,
                own.filter(|own| own.name != system.name)
                    .and_then(|own| ratio(rate(own), rate(system)))
                    .map_or_else(String::new, |times| format!("{times:.1} times as many")),
            ]);
        }
        screen.title(&format!("medians; rounds: {}", self.rounds));
        screen.table(&table);
        for system in &self.systems {
            screen.say(&format!("  acknowledged by {}: {}", system.name, system.acknowledged));
        }
        screen.say(&format!(
            "  this disk: {} bytes and fdatasync take p50 {}",
            self.raw_fdatasync.bytes,
            ms(self.raw_fdatasync.latency.p50_ms)
        ));
        for Missing { name, why, install } in &self.missing {
            screen.say(&format!("  not measured, {name}: {why}"));
            screen.say(&format!("    install it with: {install}"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(rate: f64, lost: Option<u32>) -> Round {
        let kill = lost.map(|lost| Kill { acknowledged: 100, lost });
        Round { jobs: 10, submits_per_second: rate, jobs_per_second: rate / 2.0, result_p50_ms: 1.0, kill }
    }

    #[test]
    fn medians_and_losses_are_of_all_rounds() {
        let rounds = vec![round(30.0, Some(7)), round(10.0, Some(90)), round(20.0, Some(16))];
        let system = System { name: "a", version: "1".into(), acknowledged: "", rounds };
        assert_eq!(system.median(|round| round.submits_per_second), 20.0);
        assert_eq!(system.lost(), Some((7, 90, 100)));
        let memory = System { rounds: vec![round(1.0, None)], ..system };
        assert_eq!(memory.lost(), None);
    }
}
