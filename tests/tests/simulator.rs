//! Many seeds of the simulator, and the mutations that it must find.
//!
//! `SHOAL_SEEDS=0..1000` chooses other seeds, `SHOAL_SEED=7` runs one and prints everything that happens in it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use shoal_kernel::faults::{Faults, Sound};
use shoal_tests::sim::world::FAULTS_MS;
use shoal_tests::sim::{Coverage, Report, Violation, mutations, run};

/// Seeds in a normal run of the tests.
const SEEDS: Range<u64> = 0..100;
/// Jobs that each seed must have had acknowledged.
const JOBS_MIN: u64 = 200;
/// Kinds of fault that each seed must have had.
const FAULT_KINDS_MIN: usize = 3;

/// The one seed that somebody wants to see in full.
fn chosen() -> Option<u64> {
    let text = std::env::var("SHOAL_SEED").ok()?;
    Some(text.parse().expect("SHOAL_SEED is a number"))
}

fn seeds() -> Range<u64> {
    if let Some(seed) = chosen() {
        return seed..seed + 1;
    }
    let Ok(text) = std::env::var("SHOAL_SEEDS") else { return SEEDS };
    let parts = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parts.expect("SHOAL_SEEDS has the form 0..100")
}

fn replay(seed: u64) -> String {
    format!("SHOAL_SEED={seed} cargo test --release -p shoal-tests --test simulator -- --nocapture every_promise")
}

/// Runs the seeds on all processors; the results in the order of the seeds.
fn run_all<F: Faults>(seeds: Range<u64>) -> Vec<(u64, Result<Report, Violation>)> {
    let next = AtomicU64::new(seeds.start);
    let results = Mutex::new(Vec::new());
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..processors {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    let result = run::<F>(seed, chosen().is_some());
                    results.lock().unwrap().push((seed, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(seed, _)| *seed);
    results
}

#[test]
fn every_promise_holds_whatever_happens() {
    let mut coverage = Coverage::default();
    let mut failed = Vec::new();
    let seeds = seeds();
    for (seed, result) in run_all::<Sound>(seeds.clone()) {
        match result {
            Ok(report) => {
                assert!(report.acknowledged >= JOBS_MIN, "seed {seed}: only {} jobs", report.acknowledged);
                assert!(report.elapsed_ms >= FAULTS_MS, "seed {seed}: only {} ms", report.elapsed_ms);
                assert!(report.fault_kinds >= FAULT_KINDS_MIN, "seed {seed}: {} kinds", report.fault_kinds);
                coverage.add("jobs acknowledged", report.acknowledged);
                coverage.merge(&report.coverage);
            }
            Err(violation) => failed.push(format!("seed {seed} {violation}\n    {}", replay(seed))),
        }
    }
    println!("exercised by the seeds {seeds:?}:\n{coverage}");
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
    // A single seed of somebody's choice need not meet everything.
    if seeds.end - seeds.start >= SEEDS.end - SEEDS.start {
        assert_eq!(coverage.missing(), [] as [&str; 0], "never exercised");
    }
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let traces: Vec<String> = (0..4).map(|seed| run::<Sound>(seed, false).unwrap().trace).collect();
    for (seed, trace) in traces.iter().enumerate() {
        assert_eq!(run::<Sound>(seed as u64, false).unwrap().trace, *trace);
    }
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]), "another seed is another world");
}

/// The first violation that the normal seeds find in a kernel with a bug.
fn found<F: Faults>() -> (u64, Violation) {
    for seed in SEEDS {
        if let Err(violation) = run::<F>(seed, false) {
            println!("{} is found by seed {seed} {violation}", std::any::type_name::<F>());
            return (seed, violation);
        }
    }
    panic!("{} is not found", std::any::type_name::<F>());
}

#[test]
fn an_unwritten_epoch_is_found() {
    assert_eq!(found::<mutations::EpochUnwritten>().1.rule, "an epoch is written before it starts");
}

#[test]
fn a_late_result_that_counts_is_found() {
    assert_eq!(found::<mutations::LateResultCounts>().1.rule, "a late result never counts");
}

#[test]
fn an_acknowledgement_before_the_journal_is_found() {
    assert_eq!(found::<mutations::AcknowledgedFirst>().1.rule, "written, then acknowledged");
}

#[test]
fn a_lost_run_that_nobody_repeats_is_found() {
    assert_eq!(found::<mutations::LostRunStays>().1.rule, "a silent worker keeps its runs for one lease");
}

#[test]
fn a_job_forgotten_by_a_restart_is_found() {
    assert_eq!(found::<mutations::OfferedForgotten>().1.rule, "accepted = waiting + running + settled + swept");
}

#[test]
fn a_job_that_settles_twice_is_found() {
    let rule = found::<mutations::SettledStays>().1.rule;
    assert!(["a job settles once", "accepted = waiting + running + settled + swept"].contains(&rule), "{rule}");
}

#[test]
fn a_cancellation_that_is_not_journaled_is_found() {
    let rule = found::<mutations::CancelUnwritten>().1.rule;
    assert_eq!(rule, "a cancellation is durable before it is answered");
}
