//! A node's disks fill up and are freed again, while clients submit: what it cannot take it refuses in clear words, what it
//! has taken it keeps, and it goes on by itself.
//!
//! The data folder, with journal and tables, is one disk, the blobs are on another one: each is filled as often. At last the
//! node is killed and started again: what was acknowledged is what the disk has.

mod load;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use self::load::{Load, Outcome, Refusals};
use crate::Node;
use crate::report::{Line, Report};

/// The disk of the data folder, in MiB: the journal is shortened at 256 MiB, and of the tables there are two while they grow.
const DATA_MIB: u32 = 768;
/// The disk of the blobs, in MiB.
const BLOBS_MIB: u32 = 512;
/// The folder of the blobs in the data folder.
const BLOBS: &str = "blobs";
/// A disk stays full for so long after the first request was refused. Why: what runs meanwhile meets it, too.
const FULL_FOR: Duration = Duration::from_millis(400);
/// The pause between two looks, and between two fillings of what has become free.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long anything may take that is to happen at once.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long after it was freed a node may go on refusing. Why 5 s: it tries its disk again each second, on a machine that
/// does other things as well.
const RECOVERY_MAX: Duration = Duration::from_secs(5);
const STEP: &str = "full";

/// How often.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How often each disk is filled
    #[arg(long, default_value_t = 20)]
    pub times: usize,
    /// Clients that submit all the time
    #[arg(long, default_value_t = 4)]
    pub clients: usize,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// One of the disks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Volume {
    Journal,
    Blobs,
}

impl Volume {
    const ALL: [Self; 2] = [Self::Journal, Self::Blobs];

    fn folder(self) -> &'static str {
        match self {
            Self::Journal => "",
            Self::Blobs => BLOBS,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Journal => "the journal's disk",
            Self::Blobs => "the blobs' disk",
        }
    }
}

/// What was seen of one disk.
#[derive(Debug, Default)]
struct Seen {
    /// From the moment when it was freed until every kind of request was taken again.
    recovered: Vec<Duration>,
    refused: u64,
}

/// Fills and frees the disks of a node while clients submit.
///
/// # Errors
/// When the node cannot be started, this machine allows no disks of a node's own, or something takes far too long.
pub async fn run(shoal: &Path, args: &Args) -> anyhow::Result<Report> {
    ensure!(args.times > 0 && args.clients > 0, "there is nothing to see without fillings and clients");
    let begun = Instant::now();
    let mut node = Node::new(shoal)?.with_disks(DATA_MIB, &[(BLOBS, BLOBS_MIB)])?;
    node.start().await?;
    let (pid, load) = (node.pid(), Load::begin(&node, args.clients).await?);
    let mut seen = [Seen::default(), Seen::default()];
    for _ in 0..args.times {
        for (volume, seen) in Volume::ALL.into_iter().zip(&mut seen) {
            filled(&node, volume, &load, seen).await.with_context(|| format!("filling {}", volume.words()))?;
        }
    }
    ensure!(node.pid() == pid && !node.has_ended()?, "the node has ended");
    load.stop().await;
    node.kill()?;
    node.start().await?;
    let outcome = load.check(&node).await?;
    node.stop().await?;
    let lines = lines(&seen, &outcome);
    Ok(Report::new(STEP, 1, begun.elapsed(), lines, None))
}

/// Fills a disk, waits until that is felt, and frees it.
async fn filled(node: &Node, volume: Volume, load: &Load, seen: &mut Seen) -> anyhow::Result<()> {
    let disk = node.disk().context("the node has no disk of its own")?;
    let before = load.refusals();
    let deadline = Instant::now() + PATIENCE;
    let mut felt = None;
    while felt.is_none_or(|felt: Instant| felt.elapsed() < FULL_FOR) {
        ensure!(Instant::now() < deadline, "no request is refused");
        disk.fill_part(volume.folder())?;
        tokio::time::sleep(LOOK_EVERY).await;
        if felt.is_none() && load.refusals().of(volume) > before.of(volume) {
            felt = Some(Instant::now());
        }
    }
    disk.free_part(volume.folder())?;
    let freed = Instant::now();
    load.all_taken_since(freed, freed + PATIENCE).await?;
    seen.recovered.push(freed.elapsed());
    seen.refused += load.refusals().all() - before.all();
    Ok(())
}

impl Refusals {
    /// Those by which a full disk shows: without the journal nothing is taken, without the blobs no blob.
    fn of(&self, volume: Volume) -> u64 {
        match volume {
            Volume::Journal => self.jobs,
            Volume::Blobs => self.blobs,
        }
    }
}

fn lines(seen: &[Seen; 2], outcome: &Outcome) -> Vec<Line> {
    let mut lines = Vec::new();
    for (volume, seen) in Volume::ALL.into_iter().zip(seen) {
        let times = Line::new(STEP, format!("{}: filled and freed", volume.words()));
        lines.push(times.found(format!("{} times, {} requests refused meanwhile", seen.recovered.len(), seen.refused)));
        let back = Line::new(STEP, format!("{}: freed, until all is taken", volume.words()));
        lines.push(back.times(seen.recovered.iter().copied()).within(Some(RECOVERY_MAX)));
    }
    let Outcome { jobs, blobs, keys, unclear, lost, failed, attempts, counts, add_up } = outcome;
    let taken = Line::new(STEP, "acknowledged");
    lines.push(taken.found(format!("{jobs} jobs, {blobs} blobs, {keys} keys")));
    let none = |what: &str, wrong: &load::Wrong| {
        let line = Line::new(STEP, what.to_owned());
        line.found(format!("{} {}", wrong.count, wrong.first.join("; "))).promise("none", wrong.count == 0)
    };
    lines.push(none("refused for another reason than the disk", unclear));
    lines.push(none("acknowledged, and lost or wrong", lost));
    lines.push(none("jobs that have failed", failed));
    let again = attempts.saturating_sub(*jobs as u64);
    lines.push(Line::new(STEP, "runs beyond the first of a job").found(again.to_string()));
    let settled = Line::new(STEP, "each settled once, by the count of the node").found(counts.clone());
    lines.push(settled.promise("accepted = waiting + running + settled + swept", *add_up));
    lines
}
