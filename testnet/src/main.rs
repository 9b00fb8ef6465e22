//! Real node processes with faults, and a report.
//!
//! `cargo run --release -p shoal-testnet -- restart` kills one node and its worker again and again while a client
//! submits, and checks that every acknowledged job has settled once, with the right result. More scenarios come with
//! the mesh.

mod restart;

use std::path::PathBuf;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "shoal-testnet", about = "Real node processes with faults, and a report")]
struct Cli {
    /// The program; the one beside this one unless said otherwise
    #[arg(long, global = true, value_name = "FILE")]
    shoal: Option<PathBuf>,
    #[command(subcommand)]
    scenario: Scenario,
}

#[derive(Debug, Subcommand)]
enum Scenario {
    /// One node and its worker are killed while a client submits
    Restart(restart::Args),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let shoal = match cli.shoal {
        Some(shoal) => shoal,
        None => std::env::current_exe()?.with_file_name("shoal"),
    };
    anyhow::ensure!(shoal.exists(), "{} is missing: build it with `cargo build --release`", shoal.display());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    match cli.scenario {
        Scenario::Restart(args) => runtime.block_on(restart::run(&shoal, &args)),
    }
}

/// Prints a line of the report.
#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn say(text: &str) {
    println!("{text}");
}
