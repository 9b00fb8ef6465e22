//! Bits flip on a disk: one bit of a file that a node has left, at a place that is in use, and what is read is then what
//! was written, or found to be damaged.
//!
//! For each flip `shoal check --mend --list` opens the data as a start does, and lists every row and every blob; for some
//! a whole node is started, and shows and runs jobs. What is not whole any more has to be said by either.

mod data;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::stream::{self, StreamExt as _};
use serde::Deserialize;

use self::data::{Data, Shown};
use crate::Node;
use crate::folder::in_memory;
use crate::random::Random;
use crate::report::{Line, Report};

/// Flips that are looked at at once.
const AT_ONCE: usize = 2;
/// For one in so many flips a whole node is started as well.
const NODE_EVERY: usize = 100;
/// Names of files that are no node's data, or are made anew at each start.
const NOT_LIVE: [&str; 5] = ["lock", "node.log", "node.json", "address", "worker.log"];
/// How long one look may take.
const PATIENCE: Duration = Duration::from_secs(60);
const NAMED_MAX: usize = 3;
const STEP: &str = "flips";

/// How much.
#[derive(Debug, Clone, clap::Args)]
pub struct Args {
    /// How many bits are flipped, one at a time
    #[arg(long, default_value_t = 10_000)]
    pub flips: usize,
    /// How many jobs the node has had
    #[arg(long, default_value_t = 200)]
    pub jobs: usize,
    /// Chance: the same seed chooses the same files and places
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Data that a node has left, and what there is of it.
struct Left {
    folder: PathBuf,
    list: List,
    /// The files that hold something, with their lengths.
    files: Vec<(PathBuf, u64)>,
}

/// A bit, and where it is.
#[derive(Debug, Clone)]
struct Flip {
    /// Which of the data: 0, of a node that was killed, or 1, of one that was stopped in order.
    left: usize,
    file: PathBuf,
    byte: u64,
    bit: u8,
    number: usize,
}

/// What `shoal check --mend --list --json` says.
#[derive(Debug, Clone, Deserialize)]
struct Said {
    parts: Vec<Part>,
    #[serde(default)]
    list: List,
}

#[derive(Debug, Clone, Deserialize)]
struct Part {
    damage: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
struct List {
    rows: BTreeMap<String, u32>,
    blobs: BTreeMap<String, bool>,
    ids: Vec<String>,
}

/// What became of a flip.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// Nothing is different, and nothing was found.
    Unchanged,
    /// It was found, and all is as it was.
    Mended,
    /// It was found, and something is gone.
    Lost,
    /// Something is different, and nobody says so; or it does not open.
    Wrong(String),
}

/// Flips bits of what a node has left, one at a time.
///
/// # Errors
/// When the node cannot be started, or the data not be copied.
pub async fn run(shoal: &Path, args: &Args) -> anyhow::Result<Report> {
    ensure!(args.flips > 0 && args.jobs > 0, "there is nothing to see without flips and jobs");
    let begun = Instant::now();
    let data = Data::make(shoal, args.jobs).await?;
    let lefts = [left(shoal, data.killed()).await?, left(shoal, data.stopped()).await?];
    let flips = chosen(&lefts, args);
    let (data, lefts) = (&data, &lefts);
    let fates = flips.iter().map(|flip| async move { anyhow::Ok((flip, fate(shoal, data, lefts, flip).await?)) });
    let mut fates = stream::iter(fates).buffer_unordered(AT_ONCE);
    let mut seen = Seen::default();
    while let Some(fate) = fates.next().await {
        let (flip, (fate, node)) = fate?;
        seen.add(flip, fate, node);
    }
    let [killed, _] = &lefts;
    let (rows, blobs) = (killed.list.rows.len(), killed.list.blobs.len());
    let rows = format!("{rows} rows, {blobs} blobs in {} files", killed.files.len());
    let mut lines = vec![Line::new(STEP, "the data of a node").found(rows)];
    lines.extend(seen.lines());
    Ok(Report::new(STEP, 1, begun.elapsed(), lines, None))
}

async fn left(shoal: &Path, folder: &Path) -> anyhow::Result<Left> {
    let files = live_files(folder)?;
    // In a copy: to look is to open.
    let opened = tempfile::tempdir_in(in_memory())?;
    copy(folder, opened.path())?;
    let said = look(shoal, opened.path()).await?;
    let said = said.map_err(|why| anyhow::anyhow!("data that is not harmed does not open: {why}"))?;
    ensure!(said.parts.iter().all(|part| part.damage.is_empty()), "data that is not harmed is damaged: {said:?}");
    Ok(Left { folder: folder.to_owned(), list: said.list, files })
}

/// The files that hold something, with their lengths.
fn live_files(folder: &Path) -> anyhow::Result<Vec<(PathBuf, u64)>> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(&next)? {
            let (path, kind) = entry.map(|entry| (entry.path(), entry.file_type()))?;
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            match kind? {
                kind if kind.is_dir() && name != "client" => folders.push(path),
                kind if kind.is_file() && !NOT_LIVE.contains(&name) => {
                    let len = fs::metadata(&path)?.len();
                    if len > 0 {
                        found.push((path.strip_prefix(folder)?.to_owned(), len));
                    }
                }
                _ => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

/// Half of the flips by the length of files, half by files, so that short ones are met as well.
fn chosen(lefts: &[Left; 2], args: &Args) -> Vec<Flip> {
    let mut random = Random::new(args.seed);
    let mut flips = Vec::with_capacity(args.flips);
    for number in 0..args.flips {
        // Whole nodes are asked for what was there when one was killed.
        let left = if starts_node(number) { 0 } else { number / 2 % lefts.len() };
        let Some(Left { files, .. }) = lefts.get(left) else { continue };
        let total: u64 = files.iter().map(|(_, len)| len).sum();
        let mut place = random.below(usize::try_from(total).unwrap_or(usize::MAX)) as u64;
        let by_length = files.iter().find(|(_, len)| {
            let is_here = place < *len;
            place = if is_here { place } else { place - len };
            is_here
        });
        let by_file = files.get(random.below(files.len()));
        if let Some((file, len)) = if number % 2 == 0 { by_length } else { by_file } {
            let byte = random.below(usize::try_from(*len).unwrap_or(usize::MAX)) as u64;
            flips.push(Flip { left, file: file.clone(), byte, bit: random.below(8) as u8, number });
        }
    }
    flips
}

/// Whether a whole node is started after this flip.
fn starts_node(number: usize) -> bool {
    number % NODE_EVERY == NODE_EVERY - 1
}

/// Flips it in a copy of the data, and looks what is there; whether a node was started.
async fn fate(shoal: &Path, data: &Data, lefts: &[Left; 2], flip: &Flip) -> anyhow::Result<(Fate, bool)> {
    let Left { folder, list, .. } = lefts.get(flip.left).context("there is no such data")?;
    let mut node = Node::within(shoal, &in_memory())?;
    copy(folder, &node.data())?;
    let byte = flip.byte;
    let file = fs::File::options().read(true).write(true).open(node.data().join(&flip.file))?;
    let mut held = [0];
    file.read_exact_at(&mut held, byte)?;
    file.write_all_at(&held.map(|held| held ^ (1 << flip.bit)), byte)?;
    drop(file);
    if starts_node(flip.number) {
        return Ok((started(&mut node, data).await, true));
    }
    let fate = match look(shoal, &node.data()).await? {
        Ok(said) => judged(&said, list),
        Err(why) => Fate::Wrong(why),
    };
    Ok((fate, false))
}

/// What `shoal check` says after mending.
async fn look(shoal: &Path, folder: &Path) -> anyhow::Result<Result<Said, String>> {
    let mut command = tokio::process::Command::new(shoal);
    command.args(["check", "--mend", "--list", "--json", "--data"]).arg(folder);
    command.env("SHOAL_LOG", "error").stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(PATIENCE, command.output()).await.context("it does not end")??;
    let said = serde_json::from_slice(&output.stdout);
    Ok(said.map_err(|_| String::from_utf8_lossy(&output.stderr).lines().last().unwrap_or_default().to_owned()))
}

fn judged(said: &Said, base: &List) -> Fate {
    let found = said.parts.iter().any(|part| !part.damage.is_empty());
    let List { rows, blobs, ids } = &said.list;
    if *ids != base.ids {
        return Fate::Wrong("the node is another one".into());
    }
    // A blob that is not whole is found when it is read; one that is gone is not there to be read.
    let blobs_left = base.blobs.keys().all(|id| blobs.get(id) == Some(&true));
    let others = rows.iter().filter(|(row, sum)| base.rows.get(*row).is_some_and(|known| known != *sum)).count();
    let gone = base.rows.keys().filter(|row| !rows.contains_key(*row)).count();
    let more = rows.keys().filter(|row| !base.rows.contains_key(*row)).count();
    match (others + gone + more, found) {
        (0, false) if blobs_left => Fate::Unchanged,
        (0, true) if blobs_left => Fate::Mended,
        (0, _) => Fate::Lost,
        (_, true) => Fate::Lost,
        (_, false) => Fate::Wrong(format!("{others} rows are others, {gone} are gone, {more} are new, unseen")),
    }
}

/// Starts a node, which must show what it has and run a new job.
async fn started(node: &mut Node, data: &Data) -> Fate {
    let seen = async {
        node.start().await?;
        let shown = data.seen(node).await?;
        node.kill()?;
        anyhow::Ok(shown)
    };
    match seen.await {
        Ok(Shown { wrong: Some(wrong), .. }) => Fate::Wrong(format!("a node shows {wrong}")),
        Ok(Shown { gone: 0, .. }) => Fate::Unchanged,
        Ok(_) => Fate::Lost,
        Err(error) => Fate::Wrong(format!("a node does not serve: {error:#}")),
    }
}

fn copy(from: &Path, to: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            fs::create_dir_all(&target)?;
            copy(&entry.path(), &target)?;
        } else if entry.file_type()?.is_file() {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// What became of all flips, by kinds of files.
#[derive(Default)]
struct Seen {
    kinds: BTreeMap<&'static str, [usize; 4]>,
    nodes: usize,
    wrong: Vec<String>,
}

impl Seen {
    fn add(&mut self, flip: &Flip, fate: Fate, node: bool) {
        let counts = self.kinds.entry(kind(&flip.file)).or_default();
        let place = match &fate {
            Fate::Unchanged => 0,
            Fate::Mended => 1,
            Fate::Lost => 2,
            Fate::Wrong(_) => 3,
        };
        if let Some(count) = counts.get_mut(place) {
            *count += 1;
        }
        self.nodes += usize::from(node);
        if let Fate::Wrong(why) = fate {
            let Flip { file, byte, bit, number, .. } = flip;
            self.wrong.push(format!("flip {number}, bit {bit} of byte {byte} of {}: {why}", file.display()));
        }
    }

    fn lines(&self) -> Vec<Line> {
        let mut lines: Vec<Line> = self
            .kinds
            .iter()
            .map(|(kind, [unchanged, mended, lost, wrong])| {
                let text = format!(
                    "{unchanged} without a difference, {mended} found and mended, {lost} found and lost, {wrong} wrong"
                );
                Line::new(STEP, format!("bits of {kind}")).found(text)
            })
            .collect();
        lines.push(Line::new(STEP, "whole nodes started among them").found(self.nodes.to_string()));
        let first: Vec<&str> = self.wrong.iter().take(NAMED_MAX).map(String::as_str).collect();
        let line = Line::new(STEP, "wrong and unseen, or not served");
        lines.push(
            line.found(format!("{} {}", self.wrong.len(), first.join("; "))).promise("none", self.wrong.is_empty()),
        );
        lines
    }
}

/// What a file is for.
fn kind(file: &Path) -> &'static str {
    let extension = file.extension().and_then(|extension| extension.to_str()).unwrap_or_default();
    match (file.components().count(), extension) {
        (_, "journal") => "the journal",
        (_, "snapshot") => "the snapshot",
        (_, "redb") => "the tables",
        (_, "db") => "the database of blobs",
        (_, "data" | "obao4") => "blobs",
        (_, "cwasm") => "compiled code",
        _ => "keys and settings",
    }
}
