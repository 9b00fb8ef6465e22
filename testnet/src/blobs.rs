//! How fast a blob goes from node to node, beside two processes of iroh-blobs alone, in turn.
//!
//! A blob is put at one node and is the input of a job that only the other node can run. Timed is from the submit until
//! the other node has it, verified and durable; iroh-blobs alone is timed from the connection until its files and its
//! database are synced. Each round has content of its own. Then the job runs, and its result is compared.

mod bare;
mod content;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use shoal_client::Client;
use shoal_protocol::BlobId;
use shoal_protocol::object::function::{Grant, Needs, NewFunction};
use shoal_protocol::object::job::{Input, State, Submit};
use shoal_testnet::folder::Folder;
use shoal_testnet::report::{Line, Report};
use shoal_testnet::units::parse_size;
use shoal_testnet::{Node, forget_peak, peak_kib};

use content::Content;

/// Returns the BLAKE3 of its input.
const FUNCTION: &[u8] = include_bytes!("../../node/functions/digest/digest.wasm");
/// The label of the node that runs jobs.
const PLACE: (&str, &str) = ("place", "there");
/// How long a blob or a job may take.
const PATIENCE: Duration = Duration::from_secs(600);
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// The metric that counts what has been fetched and is durable.
const FETCHED: &str = "shoal_blob_fetched_bytes_total ";
/// How much of the speed of iroh-blobs alone there has to be.
const RATIO_MIN: f64 = 0.5;
/// What a node may have resident at most, in MiB.
const MEMORY_MAX: f64 = 150.0;

/// How much is moved.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The length of the blob, such as 64MiB or 1GiB
    #[arg(long, default_value = "1GiB", value_parser = parse_size)]
    size: u64,
    /// Rounds of each
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Let nodes move blobs over streams of the mesh only
    #[arg(long)]
    no_direct: bool,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<PathBuf>,
}

/// What was measured in all rounds.
#[derive(Default)]
struct Measured {
    /// Nodes, bare and synced, bare and not synced: MiB in a second.
    nodes: Vec<f64>,
    bare: Vec<f64>,
    bare_unsynced: Vec<f64>,
    /// The most that a node had resident, in MiB.
    here: Vec<f64>,
    there: Vec<f64>,
}

pub(crate) async fn run(shoal: &Path, args: &Args) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let folder = Folder::new(&std::env::temp_dir())?;
    let content = Content::make(folder.path(), args.size)?;
    let pair = Pair::start(shoal, folder.path(), args.no_direct).await?;
    let mut measured = Measured::default();
    let rate = |took: f64| args.size as f64 / f64::from(1 << 20) / took.max(f64::MIN_POSITIVE);
    for round in 1..=args.rounds {
        content.change(round)?;
        let id = pair.put(&content).await?;
        let bare = bare::transfer(shoal, folder.path(), content.path(), id).await?;
        measured.bare.push(rate(bare.durable_s));
        measured.bare_unsynced.push(rate(bare.answered_s));
        let took = pair.transfer(&content, id, &mut measured).await.with_context(|| format!("round {round}"))?;
        measured.nodes.push(rate(took.as_secs_f64()));
    }
    let lines = measured.lines();
    pair.stop().await?;
    Ok(Report::new("blobs", 2, begun.elapsed(), lines, None))
}

impl Measured {
    fn lines(&self) -> Vec<Line> {
        let line = |what: &str, figures: &[f64], unit| Line::new("blobs", what).measured(figures.iter().copied(), unit);
        let nodes = line("node to node, verified and durable", &self.nodes, "MiB/s");
        let bare = line("iroh-blobs alone, the same", &self.bare, "MiB/s");
        let unsynced = line("iroh-blobs alone, not synced", &self.bare_unsynced, "MiB/s");
        let median = |line: &Line| line.figures.map_or(0.0, |figures| figures.median);
        let ratio = median(&nodes) / median(&bare).max(f64::MIN_POSITIVE);
        let ratio = Line::new("blobs", "ratio of the medians")
            .found(format!("{ratio:.2}"))
            .promise(format!("at least {RATIO_MIN}"), ratio >= RATIO_MIN);
        let memory = |what: &str, figures: &[f64]| {
            let kept = figures.iter().all(|mib| *mib < MEMORY_MAX);
            line(what, figures, "MiB").promise(format!("less than {MEMORY_MAX}"), kept)
        };
        let here = memory("memory of the node that serves", &self.here);
        let there = memory("memory of the node that fetches", &self.there);
        vec![nodes, bare, unsynced, ratio, here, there]
    }
}

/// Two nodes: one where blobs are put, one that runs jobs.
struct Pair {
    here: Node,
    there: Node,
    client: Client,
}

impl Pair {
    async fn start(shoal: &Path, folder: &Path, no_direct: bool) -> anyhow::Result<Self> {
        let direct = if no_direct { ["--direct", "off"].as_slice() } else { &[] };
        let mut here =
            Node::within(shoal, folder)?.with_name("here").with_arguments(direct).with_arguments(&["--no-worker"]);
        here.start().await?;
        let label = format!("{}={}", PLACE.0, PLACE.1);
        let join = here.mesh_address()?;
        let mut there = Node::within(shoal, folder)?
            .with_name("there")
            .with_arguments(direct)
            .with_arguments(&["--label", &label, "--join", &join]);
        there.start().await?;
        let client = here.client().await?;
        let component = client.put_bytes(FUNCTION, true, "digest").await?.id;
        client.deploy(&NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new("digest", component) }).await?;
        let pair = Self { here, there, client };
        // Sessions stand and the code is compiled before anything is timed.
        pair.settle(Input::Bytes(b"warm".as_slice().into()), BlobId::of(b"warm")).await?;
        Ok(pair)
    }

    async fn put(&self, content: &Content) -> anyhow::Result<BlobId> {
        Ok(self.client.put_file(content.path(), false, "", &mut |_, _| {}).await?.id)
    }

    /// Moves the content from one to the other. Returns how long that took.
    async fn transfer(&self, content: &Content, id: BlobId, measured: &mut Measured) -> anyhow::Result<Duration> {
        let [here, there] = [&self.here, &self.there].map(|node| node.pid().context("a node does not run"));
        let (here, there) = (here?, there?);
        let before = self.fetched().await?;
        forget_peak(here);
        forget_peak(there);
        let begun = Instant::now();
        let fetched = async {
            while self.fetched().await? < before + content.len() {
                ensure!(begun.elapsed() < PATIENCE, "the blob did not come within {} s", PATIENCE.as_secs());
                tokio::time::sleep(LOOK_EVERY).await;
            }
            anyhow::Ok(begun.elapsed())
        };
        let (settled, fetched) = tokio::join!(self.settle(Input::Blob(id), id), fetched);
        settled?;
        let mib = |pid| peak_kib(pid).map_or(f64::INFINITY, |kib| kib as f64 / 1024.0);
        measured.here.push(mib(here));
        measured.there.push(mib(there));
        fetched
    }

    /// Runs the function at the other node.
    async fn settle(&self, input: Input, hash: BlobId) -> anyhow::Result<()> {
        let needs = Needs { labels: [(PLACE.0.to_owned(), PLACE.1.to_owned())].into(), ..Needs::default() };
        let submit = Submit { function: "digest".into(), input, needs, ..Submit::default() };
        let id = self.client.submit(&submit).await?;
        let begun = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(begun.elapsed());
            ensure!(!left.is_zero(), "job {id} has not settled within {} s", PATIENCE.as_secs());
            let job = self.client.wait(id, Some(left), true).await?;
            match job.state {
                State::Succeeded => {
                    let right = BlobId::of(hash.as_bytes());
                    ensure!(job.output.is_some_and(|output| output.id == right), "job {id} has a wrong result");
                    return Ok(());
                }
                state if state.is_settled() => bail!("job {id} is {}: {:?}", state.text(), job.failure),
                _ => {}
            }
        }
    }

    /// Bytes that the other node has fetched.
    async fn fetched(&self) -> anyhow::Result<u64> {
        let page = self.there.page("/metrics").await?;
        let line = page.lines().find_map(|line| line.strip_prefix(FETCHED)).context("the metric is missing")?;
        Ok(line.trim().parse()?)
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        self.client.close().await;
        self.there.stop().await?;
        self.here.stop().await
    }
}
