//! Nodes and workers are killed while clients submit: no job that was acknowledged is lost, and each settles once.
//!
//! A node ends by itself, as if killed, at a point that it was given at its start (`SHOAL_CRASH`): that is how a kill falls
//! between the moment when a job is durable and the one when its client hears of it. Workers are killed from outside.
//!
//! With `--wipe` jobs are on two disks before they are acknowledged, and after the kills a home is killed together with its disk,
//! under load, as often as was said: what it had acknowledged is found and ends at the other nodes.

mod load;
mod torment;
mod wipe;

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::future::try_join_all;
use shoal_testnet::Node;
use shoal_testnet::report::{Line, Report};

use load::{Load, Outcome};
use torment::{Point, Torment};

/// How much is killed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often nodes are killed, at each of five points as often; for five kills of a node there is one of a worker
    #[arg(long, default_value_t = 100)]
    kills: usize,
    /// Clients that submit all the time
    #[arg(long, default_value_t = 8)]
    clients: usize,
    /// Nodes, each with a worker
    #[arg(long, default_value_t = 2)]
    nodes: usize,
    /// Chance: the same seed chooses the same points
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Keep each job on two disks, and delete those of homes as well, so often: needs three nodes
    #[arg(long, value_name = "TIMES", num_args = 0..=1, default_missing_value = "3")]
    wipe: Option<usize>,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<std::path::PathBuf>,
}

pub(crate) async fn run(shoal: &Path, args: &Args) -> anyhow::Result<Report> {
    ensure!(args.nodes > 0 && args.clients > 0, "there is nothing without nodes and clients");
    ensure!(args.wipe.is_none() || args.nodes > 2, "--wipe needs three nodes: --nodes 3");
    let begun = Instant::now();
    let mut nodes = started(shoal, args.nodes, args.wipe.is_some()).await?;
    let load = Load::begin(&mut nodes, args.clients, args.wipe.map(|_| 2)).await?;
    let killing = nodes.iter_mut().enumerate().map(|(place, node)| {
        let torment = Torment::new(place, args.nodes, args.kills, args.seed);
        torment.run(node, load.home(place))
    });
    let killed = try_join_all(killing).await?;
    let wiped = wipe::wipe(&mut nodes, &load, args.wipe.unwrap_or_default(), args.seed).await?;
    load.stop_submitting().await;
    // Once more, all at once: what was acknowledged is durable, wherever it stands.
    for (place, node) in nodes.iter_mut().enumerate() {
        load.home(place).gone();
        node.crash_at(None);
        node.kill()?;
    }
    for (place, node) in nodes.iter_mut().enumerate() {
        node.start().await?;
        load.home(place).is_back(node).await?;
    }
    let outcome = load.check().await?;
    let found = wiped.lines();
    let mut lines = lines(&killed, &wiped.outcome.and(outcome));
    lines.extend(found);
    Ok(Report::new("kill", args.nodes, begun.elapsed(), lines, None))
}

async fn started(shoal: &Path, count: usize, takes_over: bool) -> anyhow::Result<Vec<Node>> {
    // The same port in every life: others come back to the address that they know, also to that of one with another key.
    let addresses: Vec<String> = (0..count).map(|_| free_address()).collect::<anyhow::Result<_>>()?;
    let mut nodes: Vec<Node> = Vec::with_capacity(count);
    for (place, own) in addresses.iter().enumerate() {
        let mut node = Node::new(shoal)?.with_name(&format!("n{place}")).with_mesh(own, false);
        if takes_over {
            node = node.with_arguments(&["--takeover-after", wipe::TAKEOVER_AFTER]);
        }
        for other in addresses.iter().filter(|other| *other != own) {
            node = node.with_arguments(&["--join", other]);
        }
        node.start().await?;
        nodes.push(node);
    }
    Ok(nodes)
}

/// An address of the loopback at which nobody listens at the moment.
pub(crate) fn free_address() -> anyhow::Result<String> {
    let socket = UdpSocket::bind("127.0.0.1:0").context("there is no free port")?;
    Ok(socket.local_addr()?.to_string())
}

fn lines(killed: &[torment::Killed], outcome: &Outcome) -> Vec<Line> {
    let mut lines: Vec<Line> = Point::ALL
        .into_iter()
        .map(|point| {
            let count: usize = killed.iter().map(|killed| killed.nodes.iter().filter(|at| **at == point).count()).sum();
            Line::new("kill", format!("nodes killed {}", point.words())).found(count.to_string())
        })
        .collect();
    let workers: usize = killed.iter().map(|killed| killed.workers).sum();
    lines.push(Line::new("kill", "workers killed").found(workers.to_string()));
    let back = killed.iter().flat_map(|killed| killed.back.iter().copied());
    lines.push(Line::new("kill", "from a node's start until it answers").times(back));
    let Outcome { acknowledged, unknown, wrong, old, attempts, counts, .. } = outcome;
    let submits = Line::new("kill", "submits that were acknowledged");
    lines.push(submits.times(outcome.times.iter().copied()).found(format!("{unknown} without an answer")));
    let lost = Line::new("kill", "acknowledged, and lost or with a wrong result");
    lines.push(lost.found(format!("{} {}", wrong.count, wrong.first.join("; "))).promise("none", wrong.count == 0));
    let old_ones = Line::new("kill", "results of a run that had been given up").found(old.to_string());
    lines.push(old_ones.promise("none", *old == 0));
    let again = attempts.saturating_sub(*acknowledged as u64);
    lines.push(Line::new("kill", "runs beyond the first of a job").found(again.to_string()));
    let settled = Line::new("kill", "each settled once, by the counts of the homes").found(counts.text.clone());
    lines.push(settled.promise("accepted = waiting + running + settled + swept", counts.add_up));
    lines
}

/// How long anything may take that is to happen at once on a machine that is not overloaded.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two looks at whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(5);
