//! The power is cut: a node is recorded while clients ask much of it, and its folder is built as a disk would have it if
//! the power had been cut at each of many moments; a node is started there, and must have all that was acknowledged.
//!
//! Recorded is every write, name and sync, by ptrace; nothing that was not synced counts as written.

mod calls;
mod check;
mod load;
mod memory;
mod model;
mod record;
mod sys;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::stream::{self, StreamExt as _};

use self::check::{Found, Point};
use self::load::{Load, Promise};
use self::model::{Cut, Model};
use self::record::{Event, Recorded, Tape};
use crate::Node;
use crate::folder::in_memory;
use crate::random::Random;
use crate::report::{Line, Report};

/// How often the node is stopped and started while it is recorded, so that what a start does is cut as well.
const LIVES: usize = 3;
/// Nodes that are started at once on what cuts have left.
const AT_ONCE: usize = 2;
/// How long anything may take that is to happen at once; a node that is watched is slow.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// With a short journal there are snapshots to be cut in.
const ARGUMENTS: [&str; 3] = ["--no-worker", "--journal-mb", "1"];
const STEP: &str = "power";

/// How much.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// At how many moments the power is cut
    #[arg(long, default_value_t = 1000)]
    pub points: usize,
    /// How many jobs are submitted while the node is recorded; of blobs and keys there are as many together
    #[arg(long, default_value_t = 600)]
    pub jobs: usize,
    /// Chance: the same seed chooses the same of what was recorded
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Records a node, and starts nodes on what cuts would have left of its folder.
///
/// # Errors
/// When the node cannot be started or recorded.
pub async fn run(shoal: &Path, args: &Args) -> anyhow::Result<Report> {
    ensure!(args.points > 0 && args.jobs > 0, "there is nothing to see without points and jobs");
    let begun = Instant::now();
    let (root, events, promises) = record(shoal, args.jobs).await?;
    let points = points(&events, &promises, args);
    let mut lines = recorded(&events, &promises);
    let found = cut(shoal, &root, &events, &Arc::new(promises), &points).await?;
    lines.extend(verdict(&found));
    Ok(Report::new(STEP, 1, begun.elapsed(), lines, None))
}

/// A node's whole life under load, as events, and what it has promised when.
async fn record(shoal: &Path, jobs: usize) -> anyhow::Result<(PathBuf, Vec<Event>, Vec<Promise>)> {
    let tape = Arc::new(Tape::default());
    let node = Node::new(shoal)?.with_arguments(&ARGUMENTS);
    let root = node.data().canonicalize()?;
    let mut load = None;
    for life in 0..LIVES {
        let recorded = Recorded::start(node.command(), &root, &tape)?;
        up(&node, &recorded).await?;
        let load = match &mut load {
            Some(load) => load,
            none => none.insert(Load::begin(&node, &tape).await?),
        };
        load.ask(&node, jobs / LIVES).await?;
        match life + 1 < LIVES {
            true => tokio::task::spawn_blocking(|| recorded.stop()).await??,
            false => tokio::task::spawn_blocking(|| recorded.kill()).await??,
        }
        node.forget_whereabouts();
    }
    let promises = load.context("there was no load")?.promises();
    drop(node);
    Ok((root, tape.take(), promises))
}

async fn up(node: &Node, recorded: &Recorded) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !node.is_up() {
        ensure!(!recorded.has_ended(), "the node has ended: {}", node.log().lines().last().unwrap_or_default());
        ensure!(Instant::now() < deadline, "the node is not up in time");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}

/// Where the power is cut: for one half anywhere, for the other right after a promise, when least has been done since.
fn points(events: &[Event], promises: &[Promise], args: &Args) -> Vec<Point> {
    let mut random = Random::new(args.seed);
    let mut points: Vec<Point> = (0..args.points)
        .map(|number| {
            let promise = promises.get(random.below(promises.len())).filter(|_| number % 2 == 1);
            let after = promise.map_or_else(|| random.below(events.len() + 1), |promise| promise.at);
            let cut = Cut::ALL.get(number % Cut::ALL.len()).copied().unwrap_or(Cut::Strict);
            Point { after, cut, seed: random.next() }
        })
        .collect();
    points.sort_by_key(|point| point.after);
    points
}

/// Starts a node on what each of the cuts leaves.
async fn cut(
    shoal: &Path,
    root: &Path,
    events: &[Event],
    promises: &Arc<Vec<Promise>>,
    points: &[Point],
) -> anyhow::Result<Vec<Found>> {
    let mut model = Model::new(root.to_owned());
    let mut rest = events.iter();
    let mut played = 0;
    // Lazily: a folder is written when a node is about to be started in it.
    let checks = points.iter().map(|point| {
        let written = (|| {
            let events = rest.by_ref().take(point.after - played);
            for (place, event) in events.enumerate() {
                model.play(event).with_context(|| format!("event {}, {}", played + place, named(event)))?;
            }
            played = point.after;
            let node = Node::within(shoal, &in_memory())?.with_arguments(&ARGUMENTS);
            model.write(&node.data(), point.cut, &mut Random::new(point.seed))?;
            anyhow::Ok(node)
        })();
        let promises = Arc::clone(promises);
        async move { check::check(written?, *point, &promises).await }
    });
    let mut checks = stream::iter(checks).buffer_unordered(AT_ONCE);
    let mut found = Vec::with_capacity(points.len());
    while let Some(checked) = checks.next().await {
        found.push(checked?);
    }
    Ok(found)
}

fn named(event: &Event) -> String {
    match event {
        Event::Write { inode, offset, bytes } => format!("a write of {} bytes at {offset} of {inode}", bytes.len()),
        other => format!("{other:?}"),
    }
}

fn recorded(events: &[Event], promises: &[Promise]) -> Vec<Line> {
    let count = |is: fn(&Event) -> bool| events.iter().filter(|event| is(event)).count();
    let writes = count(|event| matches!(event, Event::Write { .. } | Event::Resize { .. }));
    let syncs = count(|event| matches!(event, Event::Sync { .. } | Event::SyncFolder { .. }));
    let text = format!("{}: {writes} writes, {syncs} syncs, {} names", events.len(), events.len() - writes - syncs);
    let promised = load::Counts::of(promises);
    vec![
        Line::new(STEP, "events recorded").found(text),
        Line::new(STEP, "acknowledged meanwhile").found(promised.to_string()),
    ]
}

fn verdict(found: &[Found]) -> Vec<Line> {
    let mut lines: Vec<Line> = Cut::ALL
        .into_iter()
        .map(|cut| {
            let count = found.iter().filter(|found| found.cut == cut).count();
            Line::new(STEP, format!("cuts after which {}", cut.words())).found(count.to_string())
        })
        .collect();
    let started = found.iter().filter_map(|found| found.started);
    lines.push(Line::new(STEP, "from a start to being up").times(started));
    let bad: Vec<&String> = found.iter().filter_map(|found| found.closed.as_ref()).collect();
    let closed = Line::new(STEP, "cuts after which the node does not start");
    let first = bad.first().map(|why| why.as_str()).unwrap_or_default();
    lines.push(closed.found(format!("{} {first}", bad.len())).promise("none", bad.is_empty()));
    let looked: usize = found.iter().map(|found| found.looked).sum();
    lines.push(Line::new(STEP, "promises looked at, over all cuts").found(looked.to_string()));
    let lost: Vec<&String> = found.iter().flat_map(|found| &found.lost).collect();
    let first: Vec<&str> = lost.iter().take(3).map(|lost| lost.as_str()).collect();
    let line = Line::new(STEP, "acknowledged, and lost or wrong").found(format!("{} {}", lost.len(), first.join("; ")));
    lines.push(line.promise("none", lost.is_empty()));
    lines
}
