//! How fast documents come to an empty node, beside the time that it takes to verify and build them alone.
//!
//! One node gets many functions. An empty node joins it, then a third: each is timed until it has all changes. What
//! verifying the signatures and building the documents takes by itself is the start of the same node with its folder
//! full, less that of an empty one: a start reads the same changes from the disk and does nothing else with them.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _};
use shoal_protocol::object::function::{Grant, NewFunction};
use shoal_testnet::Node;

use crate::say;

/// The code of all the functions.
const FUNCTION: &[u8] = include_bytes!("../../node/functions/digest/digest.wasm");
/// Functions that are deployed at once.
const IN_FLIGHT: usize = 32;
/// How long a node may take to have everything.
const PATIENCE: Duration = Duration::from_secs(300);
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// The metric that counts changes.
const METRIC: &str = "shoal_replica_changes ";

/// How much there is.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Functions
    #[arg(long, default_value_t = 10_000)]
    functions: usize,
}

pub(crate) async fn run(shoal: &Path, args: &Args) -> anyhow::Result<()> {
    let mut first = node(shoal, None)?;
    let empty = timed_start(&mut first).await?;
    let begun = Instant::now();
    deploy(&first, args.functions).await?;
    let deployed = changes(&first).await?;
    ensure!(deployed > args.functions as u64, "{deployed} changes of {} functions", args.functions);
    say(&format!("deployed one by one      {} functions in {:.1} s", args.functions, begun.elapsed().as_secs_f64()));

    let address = first.mesh_address()?;
    let mut others = Vec::new();
    for place in ["second", "third"] {
        let mut other = node(shoal, Some(&address))?;
        let begun = Instant::now();
        other.start().await?;
        let took = all_here(&other, deployed, begun).await?;
        say(&format!("{place:<6} node has all     {:.2} s", took.as_secs_f64()));
        others.push((other, took));
    }
    let (mut last, took) = others.pop().context("no node")?;
    last.stop().await?;
    let full = timed_start(&mut last).await?;
    let alone = full.saturating_sub(empty);
    say(&format!(
        "verify and build alone   {:.2} s (start with all of it {:.2}, empty {:.2})",
        alone.as_secs_f64(),
        full.as_secs_f64(),
        empty.as_secs_f64()
    ));
    say(&format!("ratio                    {:.2}", took.as_secs_f64() / alone.as_secs_f64()));
    let counts = [changes(&first).await?, changes(&last).await?];
    ensure!(counts.iter().all(|count| *count >= deployed), "changes are missing: {counts:?} of {deployed}");
    say("missing                  0");
    Ok(())
}

fn node(shoal: &Path, join: Option<&str>) -> anyhow::Result<Node> {
    let node = Node::new(shoal)?.with_arguments(&["--no-worker"]);
    Ok(match join {
        Some(address) => node.with_arguments(&["--join", address]),
        None => node,
    })
}

async fn timed_start(node: &mut Node) -> anyhow::Result<Duration> {
    let begun = Instant::now();
    node.start().await?;
    Ok(begun.elapsed())
}

async fn deploy(node: &Node, count: usize) -> anyhow::Result<()> {
    let client = node.client().await?;
    let component = client.put_bytes(FUNCTION, true, "").await?.id;
    let functions = (0..count).map(|n| {
        let client = &client;
        let new = NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new(format!("f{n}"), component) };
        async move { client.deploy(&new).await.map(drop) }
    });
    futures_util::stream::iter(functions).buffer_unordered(IN_FLIGHT).try_collect::<()>().await?;
    client.close().await;
    Ok(())
}

async fn all_here(node: &Node, wanted: u64, begun: Instant) -> anyhow::Result<Duration> {
    while changes(node).await? < wanted {
        if begun.elapsed() > PATIENCE {
            bail!("it has {} of {wanted} changes after {} s", changes(node).await?, PATIENCE.as_secs());
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(begun.elapsed())
}

async fn changes(node: &Node) -> anyhow::Result<u64> {
    let page = node.page("/metrics").await?;
    let line = page.lines().find_map(|line| line.strip_prefix(METRIC)).context("the metric is missing")?;
    Ok(line.trim().parse()?)
}
