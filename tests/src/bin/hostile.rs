//! Hostile inputs in number: `cargo run --release -p shoal-tests --bin hostile -- --inputs 1000000 --seed 7 changes`.
//!
//! Without a target all are fed. Prints a line for each, and fails if an input panics, takes 100 ms, lets something grow
//! beyond its bound, or if fewer than half come past the first check. `--at N` feeds input N again, with those that its
//! round has had before it.

use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, bail};
use shoal_tests::hostile::{ALL, Named, Plan, SLOW, run};

/// Inputs of each target unless the caller says otherwise.
const INPUTS: u64 = 100_000;

struct Arguments {
    plan: Plan,
    targets: Vec<Named>,
}

fn main() -> anyhow::Result<ExitCode> {
    let Arguments { plan, targets } = arguments(std::env::args().skip(1))?;
    // A panic is told of with its input; its trace says nothing more.
    std::panic::set_hook(Box::new(|_| {}));
    println!(
        "{:<9} {:>9} {:>8} {:>7} {:>9} {:>11}  slowest input",
        "target", "inputs", "passed", "failed", "per s", "slowest"
    );
    let mut sound = true;
    for target in targets {
        let begun = Instant::now();
        let report = run(target, plan);
        let (slowest, took) = report.slowest;
        println!(
            "{:<9} {:>9} {:>6.1} % {:>7} {:>9.0} {:>8.2} ms  {}",
            target.name,
            report.inputs,
            100.0 * report.passed as f64 / report.inputs.max(1) as f64,
            report.failed,
            report.inputs as f64 / begun.elapsed().as_secs_f64(),
            took.as_secs_f64() * 1e3,
            replay(plan.seed, slowest, target),
        );
        for (input, why) in &report.failures {
            println!("  {why}\n    {}", replay(plan.seed, *input, target));
        }
        let slow = (took >= SLOW).then(|| format!("input {slowest} takes {} ms or more", SLOW.as_millis()));
        if let Some(why) = report.complaint().or(slow) {
            println!("  NOT GOOD: {why}");
            sound = false;
        }
    }
    Ok(if sound { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn replay(seed: u64, input: u64, target: Named) -> String {
    format!("hostile --seed {seed} --at {input} {}", target.name)
}

fn arguments(mut given: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let mut plan = Plan { seed: 7, from: 0, inputs: INPUTS };
    let mut targets = Vec::new();
    while let Some(word) = given.next() {
        let mut number =
            || given.next().with_context(|| format!("{word} needs a number"))?.parse::<u64>().context("a number");
        match word.as_str() {
            "--inputs" => plan.inputs = number()?,
            "--seed" => plan.seed = number()?,
            "--at" => (plan.from, plan.inputs) = (number()?, 1),
            name => match ALL.iter().find(|target| target.name == name) {
                Some(target) => targets.push(*target),
                None => {
                    let names: Vec<&str> = ALL.iter().map(|target| target.name).collect();
                    bail!("{name:?} is no target: there are {}", names.join(", "));
                }
            },
        }
    }
    if targets.is_empty() {
        targets.extend_from_slice(ALL);
    }
    Ok(Arguments { plan, targets })
}
