//! Real node processes with faults, and a report.
//!
//! `cargo run --release -p shoal-testnet -- lan` starts nodes in network namespaces of their own, makes the steps of
//! `testnet/scenarios/lan.toml`, and says which promises were kept; `run FILE` does so with a scenario of one's own.
//! `blobs` moves a large blob between two nodes, in turn with iroh-blobs alone; `hop` times jobs over three nodes beside
//! one; `kill` kills nodes and workers again and again while clients submit; `long` restarts all who have to do with one
//! long job; `full` fills a node's disks, `power` cuts its power, `flips` flips bits of what it
//! has left. The exit code is 1 when a promise is broken.

mod blobs;
mod hop;
mod kill;
mod long;
mod replicas;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, bail, ensure};
use clap::{Parser, Subcommand};
use shoal_testnet::folder::Folder;
use shoal_testnet::report::Report;
use shoal_testnet::run::BUILT_IN;
use shoal_testnet::scenario::{Kind, Scenario};
use shoal_testnet::{cage, flips, full, measure, power, run};

#[derive(Debug, Parser)]
#[command(name = "shoal-testnet", about = "Real node processes with faults, and a report")]
struct Cli {
    /// The program; the one beside this one unless said otherwise
    #[arg(long, global = true, value_name = "FILE")]
    shoal: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Nodes on one LAN find each other, share functions and run each other's jobs
    Lan(Args),
    /// Regions with delay, loss and bandwidth between them
    Wan(Args),
    /// Many nodes, each of which knows few
    Dht(Args),
    /// A mesh that is cut in two and healed
    Cut(Args),
    /// Nodes come and go under load
    Churn(Args),
    /// Two sites behind routers that masquerade, and a public node
    Nat(Args),
    /// How fast one change is at all nodes, beside gossipsub alone
    Spread(Args),
    /// What a node costs that has nothing to do
    Idle(Args),
    /// A scenario of one's own
    Run {
        /// The scenario, as those in testnet/scenarios
        file: PathBuf,
        #[command(flatten)]
        args: Args,
    },
    /// Nodes and workers are killed, at chosen points, while clients submit
    Kill(kill::Args),
    /// One long job, while its home, its executor, its client and at last its worker are killed
    Long(long::Args),
    /// A node's disks fill up and are freed, while clients submit
    Full(full::Args),
    /// What a node has after its power was cut, at many moments
    Power(power::Args),
    /// Bits flip in what a node has left on its disk
    Flips(flips::Args),
    /// Many functions come to an empty node, beside what verifying and building them takes alone
    Replicas(replicas::Args),
    /// A job that is submitted, run and read at three nodes, beside one node alone
    Hop(hop::Args),
    /// A large blob goes from node to node, in turn with two processes of iroh-blobs alone
    Blobs(blobs::Args),
    /// How fast the networks are that scenarios are made of
    Networks,
}

#[derive(Debug, clap::Args)]
struct Args {
    /// So many nodes instead of those that the scenario has
    #[arg(long, value_name = "N")]
    nodes: Option<usize>,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Leave the data folders and logs of the nodes where they are
    #[arg(long)]
    keep: bool,
}

/// What is run.
struct Wanted {
    name: String,
    scenario: Scenario,
    args: Args,
}

fn main() -> ExitCode {
    match command() {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn command() -> anyhow::Result<ExitCode> {
    let cli = Cli::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let wanted = match cli.command {
        Command::Kill(args) => {
            let report = runtime.block_on(kill::run(&program(cli.shoal)?, &args))?;
            return publish(&report, args.json.as_deref());
        }
        Command::Long(args) => {
            let report = runtime.block_on(long::run(&program(cli.shoal)?, &args))?;
            return publish(&report, args.json.as_deref());
        }
        Command::Full(args) => {
            let report = runtime.block_on(full::run(&program(cli.shoal)?, &args))?;
            return publish(&report, args.json.as_deref());
        }
        Command::Power(args) => {
            let report = runtime.block_on(power::run(&program(cli.shoal)?, &args))?;
            return publish(&report, args.json.as_deref());
        }
        Command::Flips(args) => {
            let report = runtime.block_on(flips::run(&program(cli.shoal)?, &args))?;
            return publish(&report, args.json.as_deref());
        }
        Command::Replicas(args) => {
            runtime.block_on(replicas::run(&program(cli.shoal)?, &args))?;
            return Ok(ExitCode::SUCCESS);
        }
        Command::Blobs(args) => {
            let report = runtime.block_on(blobs::run(&program(cli.shoal)?, &args))?;
            return publish(&report, args.json.as_deref());
        }
        Command::Hop(args) => {
            let report = runtime.block_on(hop::run(&program(cli.shoal)?, &args))?;
            return publish(&report, args.json.as_deref());
        }
        Command::Networks => return runtime.block_on(networks()),
        Command::Lan(args) => Wanted::built_in("lan", args)?,
        Command::Wan(args) => Wanted::built_in("wan", args)?,
        Command::Dht(args) => Wanted::built_in("dht", args)?,
        Command::Cut(args) => Wanted::built_in("cut", args)?,
        Command::Churn(args) => Wanted::built_in("churn", args)?,
        Command::Nat(args) => Wanted::built_in("nat", args)?,
        Command::Spread(args) => Wanted::built_in("spread", args)?,
        Command::Idle(args) => Wanted::built_in("idle", args)?,
        Command::Run { file, args } => Wanted::new(file.display().to_string(), Scenario::read(&file)?, args)?,
    };
    runtime.block_on(scenario(wanted, &program(cli.shoal)?))
}

impl Wanted {
    fn built_in(name: &str, args: Args) -> anyhow::Result<Self> {
        let (_, text) = BUILT_IN.iter().find(|(known, _)| *known == name).context("no such scenario")?;
        Self::new(name.to_owned(), Scenario::parse(text)?, args)
    }

    fn new(name: String, scenario: Scenario, args: Args) -> anyhow::Result<Self> {
        let scenario = match args.nodes {
            Some(nodes) => scenario.with_nodes(nodes)?,
            None => scenario,
        };
        Ok(Self { name, scenario, args })
    }
}

fn program(named: Option<PathBuf>) -> anyhow::Result<PathBuf> {
    let shoal = match named {
        Some(shoal) => shoal,
        None => std::env::current_exe()?.with_file_name("shoal"),
    };
    ensure!(shoal.exists(), "{} is missing: build it with `cargo build --release`", shoal.display());
    Ok(shoal.canonicalize()?)
}

/// Inside a cage it runs the scenario; outside it makes one, or runs the scenario on this host if that will do.
async fn scenario(wanted: Wanted, shoal: &Path) -> anyhow::Result<ExitCode> {
    if cage::is_inside() {
        let folder = cage::settle_in()?;
        return make(&wanted, shoal, &folder, false).await;
    }
    let obstacle = cage::obstacle();
    if let Some(obstacle) = &obstacle {
        let needs_network = wanted.scenario.network.kind != Kind::Host;
        if needs_network && !wanted.scenario.network.host_will_do {
            bail!("{} needs network namespaces, and this machine gives none: {obstacle}", wanted.name);
        }
        say(&format!("all nodes on this host, found by address: it gives no network namespaces: {obstacle}"));
    } else if !wanted.scenario.network.sites.is_empty() && !cage::missing(&["nft"]).is_empty() {
        bail!("{} needs the program nft (Debian: apt install nftables)", wanted.name);
    }
    let folder = Folder::new(&std::env::temp_dir())?;
    let code = match obstacle {
        None => ExitCode::from(cage::run_inside(folder.path()).await?),
        Some(_) => tokio::select! {
            code = make(&wanted, shoal, folder.path(), true) => code?,
            _ = tokio::signal::ctrl_c() => ExitCode::from(cage::INTERRUPTED),
        },
    };
    if wanted.args.keep {
        say(&format!("data folders and logs: {}", folder.keep().display()));
    }
    Ok(code)
}

async fn make(wanted: &Wanted, shoal: &Path, folder: &Path, on_host: bool) -> anyhow::Result<ExitCode> {
    say(&wanted.scenario.title);
    let report = run::run(&wanted.name, &wanted.scenario, shoal, folder, on_host).await?;
    publish(&report, wanted.args.json.as_deref())
}

/// Shows a report, and writes it to a file if one is wanted.
fn publish(report: &Report, json: Option<&Path>) -> anyhow::Result<ExitCode> {
    say(&report.to_string());
    if let Some(file) = json {
        let text = serde_json::to_string_pretty(report)?;
        std::fs::write(file, text).with_context(|| format!("writing {}", file.display()))?;
    }
    Ok(if report.kept { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn networks() -> anyhow::Result<ExitCode> {
    if cage::is_inside() {
        cage::settle_in()?;
        let mut lines = measure::networks().await?;
        if cage::missing(&["nft"]).is_empty() {
            lines.extend(measure::sites().await?);
        }
        lines.iter().for_each(|line| say(&line.to_string()));
        return Ok(if lines.iter().all(|line| line.kept) { ExitCode::SUCCESS } else { ExitCode::FAILURE });
    }
    if let Some(obstacle) = cage::obstacle() {
        bail!("networks need namespaces, and this machine gives none: {obstacle}");
    }
    let folder = Folder::new(&std::env::temp_dir())?;
    Ok(ExitCode::from(cage::run_inside(folder.path()).await?))
}

/// Prints why there is no report.
#[expect(clippy::print_stderr, reason = "where a command-line program says what went wrong")]
fn complain(text: &str) {
    eprintln!("error: {text}");
}

/// Prints a line of the report.
#[expect(clippy::print_stdout, reason = "the report is what this program is for")]
fn say(text: &str) {
    println!("{text}");
}
