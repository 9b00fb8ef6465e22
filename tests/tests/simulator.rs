//! Many seeds of the simulator, of a node that is alone and of a mesh, and the mutations that it must find.
//!
//! `SHOAL_SEEDS=0..1000` chooses other seeds, `SHOAL_SEED=7` runs one and prints everything that happens in it,
//! `SHOAL_NODES=9` makes the meshes of that size.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use shoal_crdt::faults::Fault as ReplicaFault;
use shoal_kernel::faults::Fault;
use shoal_protocol::object::job::State;
use shoal_tests::sim::coverage::{REQUIRED, REQUIRED_OF_A_MESH};
use shoal_tests::sim::mutations::{Mutated, Mutation, Sound, with};
use shoal_tests::sim::worker::DAY_MS;
use shoal_tests::sim::world::FAULTS_MS;
use shoal_tests::sim::{Coverage, Long, Report, Violation, run, run_arrays, run_long, run_mesh, run_shares};

/// Seeds of a node that is alone in a normal run of the tests.
const SEEDS: Range<u64> = 0..100;
/// Seeds of a mesh in a normal run of the tests.
const MESH_SEEDS: Range<u64> = 0..200;
/// Seeds of a mesh whose clients submit arrays above all.
const ARRAYS_SEEDS: Range<u64> = 0..10;
/// Jobs that each seed must have had acknowledged.
const JOBS_MIN: u64 = 200;
/// Kinds of fault that each seed must have had.
const FAULT_KINDS_MIN: usize = 3;

/// Seeds of the job of eight hours: one of them in a mesh whose nodes keep jobs of each other.
const LONG_SEEDS: Range<u64> = 0..2;
/// Seeds of the two projects that compete.
const SHARES_SEEDS: Range<u64> = 0..10;
/// How much longer than eight hours it may take.
const LONG_MORE_MS: u64 = 600_000;

/// Nodes of a mesh in a normal run.
const NODES: usize = 5;
/// Nodes of the one large mesh.
const NODES_MANY: usize = 200;

/// What nodes that reach each other must come to.
const SAME_CHANGES: &str = "nodes that reach each other hold the same changes";
/// What must follow from it.
const SAME_DOCUMENTS: &str = "the same changes make the same documents";

/// How many nodes a mesh has.
fn nodes() -> usize {
    std::env::var("SHOAL_NODES").map_or(NODES, |text| text.parse().expect("SHOAL_NODES is a number"))
}

/// The one seed that somebody wants to see in full.
fn chosen() -> Option<u64> {
    let text = std::env::var("SHOAL_SEED").ok()?;
    Some(text.parse().expect("SHOAL_SEED is a number"))
}

/// The seeds that somebody wants to see, or these.
fn seeds_or(usual: Range<u64>) -> Range<u64> {
    if let Some(seed) = chosen() {
        return seed..seed + 1;
    }
    let Ok(text) = std::env::var("SHOAL_SEEDS") else { return usual };
    let parts = text.split_once("..").and_then(|(from, to)| Some(from.parse().ok()?..to.parse().ok()?));
    parts.expect("SHOAL_SEEDS has the form 0..100")
}

fn replay(seed: u64, test: &str) -> String {
    format!("SHOAL_SEED={seed} cargo test --release -p shoal-tests --test simulator -- --nocapture {test}")
}

type Outcome = Result<Report, Violation>;

/// Runs the seeds on all processors; the results in the order of the seeds.
fn run_all<T: Send>(seeds: Range<u64>, run: impl Fn(u64, bool) -> T + Sync) -> Vec<(u64, T)> {
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
                    let result = run(seed, chosen().is_some());
                    results.lock().unwrap().push((seed, result));
                }
            });
        }
    });
    let mut results = results.into_inner().unwrap();
    results.sort_by_key(|(seed, _)| *seed);
    results
}

/// Jobs, time and faults without which a seed shows nothing.
fn has_shown_enough(seed: u64, report: &Report) {
    assert!(report.acknowledged >= JOBS_MIN, "seed {seed}: only {} jobs", report.acknowledged);
    assert!(report.elapsed_ms >= FAULTS_MS, "seed {seed}: only {} ms", report.elapsed_ms);
    assert!(report.fault_kinds >= FAULT_KINDS_MIN, "seed {seed}: {} kinds", report.fault_kinds);
}

#[test]
fn every_promise_holds_whatever_happens() {
    let mut coverage = Coverage::default();
    let mut failed = Vec::new();
    let seeds = seeds_or(SEEDS);
    for (seed, result) in run_all(seeds.clone(), run::<Sound>) {
        match result {
            Ok(report) => {
                has_shown_enough(seed, &report);
                coverage.add("jobs acknowledged", report.acknowledged);
                coverage.merge(&report.coverage);
            }
            Err(violation) => failed.push(format!("seed {seed} {violation}\n    {}", replay(seed, "every_promise"))),
        }
    }
    println!("exercised by the seeds {seeds:?}:\n{coverage}");
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
    // A single seed of somebody's choice need not meet everything.
    if seeds.end - seeds.start >= SEEDS.end - SEEDS.start {
        assert_eq!(coverage.missing(REQUIRED), [] as [&str; 0], "never exercised");
    }
}

#[test]
fn a_mesh_keeps_every_promise() {
    let mut coverage = Coverage::default();
    let mut failed = Vec::new();
    let seeds = seeds_or(MESH_SEEDS);
    for (seed, result) in run_all(seeds.clone(), |seed, print| run_mesh::<Sound>(nodes(), seed, print)) {
        match result {
            Ok(report) => {
                if nodes() <= NODES {
                    has_shown_enough(seed, &report);
                }
                coverage.add("jobs acknowledged", report.acknowledged);
                coverage.merge(&report.coverage);
            }
            Err(violation) => {
                let replay = format!("SHOAL_NODES={} {}", nodes(), replay(seed, "a_mesh_keeps"));
                failed.push(format!("seed {seed} {violation}\n    {replay}"));
            }
        }
    }
    println!("exercised by the seeds {seeds:?} of {} nodes:\n{coverage}", nodes());
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
    if seeds.end - seeds.start >= MESH_SEEDS.end - MESH_SEEDS.start {
        assert_eq!(coverage.missing(REQUIRED_OF_A_MESH), [] as [&str; 0], "never exercised");
    }
}

#[test]
fn arrays_change_hands_and_keep_every_promise() {
    let mut coverage = Coverage::default();
    let mut failed = Vec::new();
    for (seed, result) in run_all(seeds_or(ARRAYS_SEEDS), |seed, print| run_arrays::<Sound>(nodes(), seed, print)) {
        match result {
            Ok(report) => coverage.merge(&report.coverage),
            Err(violation) => {
                failed.push(format!("seed {seed} {violation}\n    {}", replay(seed, "arrays_change_hands")))
            }
        }
    }
    println!("{coverage}");
    assert!(failed.is_empty(), "{} seeds failed:\n{}", failed.len(), failed.join("\n"));
    for what in ["arrays taken over", "arrays given to regents", "elements of which regents told"] {
        assert!(chosen().is_some() || coverage.count(what) > 0, "{what}");
    }
}

#[test]
fn a_large_mesh_keeps_every_promise() {
    let report =
        run_mesh::<Sound>(NODES_MANY, chosen().unwrap_or(1), false).unwrap_or_else(|broken| panic!("{broken}"));
    println!("{NODES_MANY} nodes, {} jobs:\n{}", report.acknowledged, report.coverage);
    assert!(report.acknowledged >= NODES_MANY as u64 && report.coverage.count("runs at peers succeeded") > 0);
    assert!(report.coverage.count("agreements checked") > 0 && report.coverage.count("changes by reconciliation") > 0);
}

#[test]
fn a_job_of_eight_hours_survives_the_restart_of_home_executor_and_client() {
    for (seed, result) in run_all(seeds_or(LONG_SEEDS), run_long::<Sound>) {
        let Long { report, state, attempts, seen_ms, lives } =
            result.unwrap_or_else(|broken| panic!("seed {seed} {broken}\n    {}", replay(seed, "a_job_of_eight")));
        assert_eq!((state, attempts), (State::Succeeded, 2), "seed {seed}: run once more, after the kill at the end");
        // What was done before the kill is not done again: that would take another seven and a half hours.
        assert!(
            (DAY_MS..DAY_MS + LONG_MORE_MS).contains(&seen_ms),
            "seed {seed}: the client has seen it after {seen_ms} ms"
        );
        assert_eq!(lives.iter().sum::<u64>(), 3 + 3, "seed {seed}: {lives:?}");
        assert!(report.coverage.count("checkpoint restored") > 0, "seed {seed}");
    }
}

#[test]
fn projects_come_to_their_shares_whatever_was_before() {
    let mut windows = (u64::MAX, 0);
    for (seed, result) in run_all(seeds_or(SHARES_SEEDS), |seed, _| run_shares::<Sound>(seed)) {
        let had = result.unwrap_or_else(|broken| panic!("seed {seed} {broken}"));
        windows = (windows.0.min(had.windows_permille.0), windows.1.max(had.windows_permille.1));
        assert_eq!(run_shares::<Sound>(seed).unwrap(), had, "seed {seed}: the same once more");
    }
    println!("of 250 that are due the first had {} to {} in each window", windows.0, windows.1);
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    let traces: Vec<String> = (0..4).map(|seed| run::<Sound>(seed, false).unwrap().trace).collect();
    for (seed, trace) in traces.iter().enumerate() {
        assert_eq!(run::<Sound>(seed as u64, false).unwrap().trace, *trace);
    }
    assert!(traces.windows(2).all(|pair| pair[0] != pair[1]), "another seed is another world");
    let mesh = |seed| run_mesh::<Sound>(3, seed, false).unwrap().trace;
    assert_eq!(mesh(1), mesh(1));
    assert_ne!(mesh(1), mesh(2));
}

/// The first violation that the normal seeds find in a kernel with a bug.
fn found(fault: Fault) -> (u64, Violation) {
    found_by(fault.into(), run::<Mutated>)
}

/// The same in a mesh.
fn found_in_a_mesh(mutation: impl Into<Mutation>) -> (u64, Violation) {
    found_by(mutation.into(), |seed, print| run_mesh::<Mutated>(NODES, seed, print))
}

/// The same where arrays change hands.
fn found_in_arrays(fault: Fault) -> String {
    let (_, violation) = found_by(fault.into(), |seed, print| run_arrays::<Mutated>(NODES, seed, print));
    violation.rule.to_owned()
}

fn found_by(mutation: Mutation, run: impl Fn(u64, bool) -> Outcome) -> (u64, Violation) {
    for seed in seeds_or(SEEDS) {
        if let Err(violation) = with(mutation, || run(seed, chosen().is_some())) {
            println!("{mutation:?} is found by seed {seed} {violation}");
            return (seed, violation);
        }
    }
    panic!("{mutation:?} is not found");
}

#[test]
fn an_unwritten_epoch_is_found() {
    assert_eq!(found(Fault::EpochUnwritten).1.rule, "an epoch is written before it starts");
}

#[test]
fn a_late_result_that_counts_is_found() {
    let rule = found(Fault::LateResultCounts).1.rule;
    // A late failure that is tried again leaves a run in the books that the kernel no longer holds.
    assert!(["a late result never counts", "accepted = waiting + running + settled + swept"].contains(&rule), "{rule}");
}

#[test]
fn an_acknowledgement_before_the_journal_is_found() {
    assert_eq!(found(Fault::AcknowledgedFirst).1.rule, "written, then acknowledged");
}

#[test]
fn a_lost_run_that_nobody_repeats_is_found() {
    assert_eq!(found(Fault::LostRunStays).1.rule, "a silent worker keeps its runs for one lease");
}

#[test]
fn a_job_forgotten_by_a_restart_is_found() {
    assert_eq!(found(Fault::OfferedForgotten).1.rule, "accepted = waiting + running + settled + swept");
}

#[test]
fn a_job_that_settles_twice_is_found() {
    let rule = found(Fault::SettledStays).1.rule;
    assert!(["a job settles once", "accepted = waiting + running + settled + swept"].contains(&rule), "{rule}");
}

#[test]
fn a_cancellation_that_is_not_journaled_is_found() {
    let rule = found(Fault::CancelUnwritten).1.rule;
    assert_eq!(rule, "a cancellation is durable before it is answered");
}

#[test]
fn a_hold_that_is_not_journaled_is_found() {
    assert_eq!(found(Fault::HoldUnwritten).1.rule, "what is told of a job is written");
}

#[test]
fn an_element_that_its_array_does_not_count_is_found() {
    let rule = found(Fault::ElementUncounted).1.rule;
    assert!(
        [
            "after the last fault everything settles",
            "an array ends with its last element",
            "accepted = waiting + running + settled + swept",
            "what is told of a job is written"
        ]
        .contains(&rule),
        "{rule}"
    );
}

#[test]
fn a_time_that_a_restart_forgets_is_found() {
    assert_eq!(found(Fault::TimeForgotten).1.rule, "nothing runs before its time");
}

#[test]
fn a_job_that_waits_for_its_worker_until_a_restart_is_found() {
    let rule = found(Fault::DisconnectForgotten).1.rule;
    assert_eq!(rule, "a job that waits for its worker is not run elsewhere");
}

#[test]
fn a_result_that_a_restart_forgets_is_found() {
    assert_eq!(found(Fault::MemosForgotten).1.rule, "what has been done is not done again");
}

#[test]
fn a_call_that_a_restart_forgets_is_found() {
    assert_eq!(found(Fault::CallsForgotten).1.rule, "who is to hear of an end hears of it");
}

#[test]
fn limits_that_a_restart_forgets_are_found() {
    let rule = found(Fault::LimitsForgotten).1.rule;
    assert!(rule == "nothing takes longer in all than it may" || rule == "nothing waits longer than it may", "{rule}");
}

#[test]
fn a_dependency_that_a_restart_forgets_is_found() {
    let rule = found(Fault::BlockForgotten).1.rule;
    let rules = ["nothing runs before the jobs that it waits for", "what is told of a job is written"];
    assert!(rules.contains(&rule), "{rule}");
}

#[test]
fn a_job_that_runs_after_the_wrong_end_of_another_is_found() {
    assert_eq!(found(Fault::AnyEndWillDo).1.rule, "nothing runs before the jobs that it waits for");
}

#[test]
fn an_end_that_dependents_are_not_told_of_is_found() {
    assert_eq!(found(Fault::DependentsUntold).1.rule, "after the last fault everything settles");
}

#[test]
fn an_end_that_subscribers_do_not_hear_of_is_found() {
    assert_eq!(found(Fault::EndUntold).1.rule, "every change of state is told");
}

#[test]
fn a_refusal_that_leaves_no_trace_is_found() {
    assert_eq!(found(Fault::RefusalForgotten).1.rule, "every hand-over is a run or a refusal");
}

#[test]
fn a_checkpoint_of_a_run_that_counts_no_more_is_found() {
    let rule = found(Fault::CheckpointUnfenced).1.rule;
    let rules = ["only the current run saves", "a checkpoint gives way to a later one only"];
    assert!(rules.contains(&rule), "{rule}");
}

#[test]
fn a_checkpoint_that_is_not_journaled_is_found() {
    let rule = found(Fault::CheckpointUnwritten).1.rule;
    let rules = ["a checkpoint is durable before it is acknowledged", "a run begins with what was saved last"];
    assert!(rules.contains(&rule), "{rule}");
}

#[test]
fn a_checkpoint_that_a_restart_forgets_is_found() {
    assert_eq!(found(Fault::CheckpointForgotten).1.rule, "a run begins with what was saved last");
}

#[test]
fn a_key_that_a_restart_forgets_is_found() {
    assert_eq!(found(Fault::KeysForgotten).1.rule, "a key is that of one job");
}

#[test]
fn settled_jobs_that_a_restart_does_not_count_are_found() {
    assert_eq!(found(Fault::SettledUncounted).1.rule, "no more settled jobs are kept than may be");
}

#[test]
fn an_element_that_is_kept_without_its_array_is_found() {
    assert_eq!(found(Fault::ElementRetained).1.rule, "an element goes with its array");
}

#[test]
fn use_that_a_restart_forgets_is_found() {
    let rule = "a restart does not forget what was used";
    assert_eq!(found(Fault::UseForgotten).1.rule, rule);
    let broken = with(Fault::UseForgotten.into(), || run_shares::<Mutated>(0));
    assert_eq!(broken.unwrap_err().rule, rule);
}

#[test]
fn a_quota_that_is_not_held_to_is_found() {
    assert_eq!(found(Fault::QuotaIgnored).1.rule, "no more runs of a project are under way than may be");
}

#[test]
fn a_weight_that_is_not_looked_at_is_found() {
    let broken = with(Fault::WeightIgnored.into(), || run_shares::<Mutated>(0));
    assert_eq!(broken.unwrap_err().rule, "shares come to weights");
}

#[test]
fn a_run_of_another_home_that_is_not_journaled_is_found() {
    let rule = found_in_a_mesh(Fault::GuestUnwritten).1.rule;
    assert_eq!(rule, "a guest is written before its home hears of it");
}

#[test]
fn a_run_that_gives_way_to_an_older_one_is_found() {
    assert_eq!(found_in_a_mesh(Fault::GuestEpochUnchecked).1.rule, "a run gives way to a newer epoch only");
}

#[test]
fn an_ending_that_is_forgotten_before_its_home_has_it_is_found() {
    assert_eq!(found_in_a_mesh(Fault::GuestForgotten).1.rule, "an ending is kept until its home has it");
}

#[test]
fn a_job_that_is_acknowledged_before_custodians_have_it_is_found() {
    let rule = found_in_a_mesh(Fault::KeepingNotAwaited).1.rule;
    assert_eq!(rule, "a job is on as many disks as it says when it is acknowledged");
}

#[test]
fn a_job_that_is_said_to_be_kept_and_is_not_journaled_is_found() {
    let rule = found_in_a_mesh(Fault::ChargeUnwritten).1.rule;
    assert_eq!(rule, "a job is written before its home hears that it is kept");
}

#[test]
fn a_record_that_gives_way_to_an_older_one_is_found() {
    let rule = found_in_a_mesh(Fault::ChargeRevisionUnchecked).1.rule;
    assert_eq!(rule, "what is kept never gives way to what is older");
}

#[test]
fn what_is_kept_of_a_job_without_the_job_is_found() {
    let rule = found_in_a_mesh(Fault::ChargeUnfounded).1.rule;
    assert_eq!(rule, "what is new of a job is kept with the job, or its array");
}

#[test]
fn a_custodian_that_is_not_asked_what_it_has_missed_is_found() {
    let rule = found_in_a_mesh(Fault::CustodianNotCompared).1.rule;
    assert!(
        ["custodians come to hold what the home holds", "a regent of three has a majority"].contains(&rule),
        "{rule}"
    );
}

#[test]
fn a_vote_for_everybody_who_asks_is_found() {
    assert_eq!(found_in_a_mesh(Fault::VotedTwice).1.rule, "the journal makes sense");
}

#[test]
fn a_vote_that_is_not_journaled_is_found() {
    let rule = found_in_a_mesh(Fault::VoteUnwritten).1.rule;
    let rules = [
        "after the last fault everything settles",
        // Who has forgotten that it is regent tells nobody how a job ended, also where it still keeps that.
        "custodians come to hold what the home holds",
        "a home and its regent come to say the same",
    ];
    assert!(rules.contains(&rule), "{rule}");
}

#[test]
fn a_regent_that_goes_on_in_the_epochs_of_the_home_is_found() {
    let rule = found_in_a_mesh(Fault::TermUnused).1.rule;
    let rules = [
        "a run is taken from its job's home",
        "who is to hear of an end hears of it",
        // What the regent says is no newer than what the home has, which goes on as if nobody had taken the job over.
        "a home and its regent come to say the same",
        // What the home's run has saved is taken over with it, as if this one had.
        "only the current run saves",
    ];
    assert!(rules.contains(&rule), "{rule}");
}

#[test]
fn a_home_that_does_not_yield_to_its_regent_is_found() {
    let rule = found_in_a_mesh(Fault::NotYielded).1.rule;
    let rules = [
        "an epoch is durable before anybody hears of it",
        "custodians come to hold what the home holds",
        "what runs once has started once",
    ];
    assert!(rules.contains(&rule), "{rule}");
}

#[test]
fn an_array_that_its_home_goes_on_with_is_found() {
    assert_eq!(found_in_arrays(Fault::ElementsNotWithdrawn), "accepted = waiting + running + settled + swept");
}

#[test]
fn a_run_without_the_word_of_a_majority_is_found() {
    let rule = found_in_a_mesh(Fault::GrantNotAwaited).1.rule;
    let rules = [
        "what runs once has started once",
        "what runs once is ended by who has the word of a majority",
        "what runs once settles once",
        // A regent takes a job over whose run has ended there, which it would leave to the home, and may not end it yet: nobody hears
        // that it waits.
        "every change of state is told",
    ];
    assert!(rules.contains(&rule), "{rule}");
}

#[test]
fn a_word_that_is_not_journaled_is_found() {
    assert_eq!(found_in_a_mesh(Fault::GrantUnwritten).1.rule, "a word is durable before anybody hears it");
}

#[test]
fn a_lost_run_that_is_repeated_although_it_may_not_is_found() {
    assert_eq!(found_in_a_mesh(Fault::LostRunRepeated).1.rule, "a run that may have done something is not repeated");
}

#[test]
fn a_change_without_those_that_it_follows_is_found() {
    assert_eq!(found_in_a_mesh(ReplicaFault::DepsSkipped).1.rule, SAME_DOCUMENTS);
}

#[test]
fn a_change_that_counts_by_the_order_of_arrival_is_found() {
    assert_eq!(found_in_a_mesh(ReplicaFault::FirstOfEquals).1.rule, SAME_DOCUMENTS);
}

#[test]
fn a_change_that_counts_though_another_took_its_place_is_found() {
    assert_eq!(found_in_a_mesh(ReplicaFault::LoserStays).1.rule, SAME_DOCUMENTS);
}

#[test]
fn a_right_that_is_judged_on_arrival_is_found() {
    assert_eq!(found_in_a_mesh(ReplicaFault::JudgedOnArrival).1.rule, SAME_DOCUMENTS);
}

#[test]
fn a_lost_batch_of_a_reconciliation_is_found() {
    assert_eq!(found_in_a_mesh(ReplicaFault::BatchLost).1.rule, SAME_CHANGES);
}

#[test]
fn a_reconciliation_that_sends_nothing_is_found() {
    assert_eq!(found_in_a_mesh(ReplicaFault::LacksForgotten).1.rule, SAME_CHANGES);
}

#[test]
fn a_change_that_is_acknowledged_before_it_is_durable_is_found() {
    let rule = found_in_a_mesh(Mutation::ChangeAcknowledgedFirst).1.rule;
    assert_eq!(rule, "a change is durable before it is acknowledged");
}
