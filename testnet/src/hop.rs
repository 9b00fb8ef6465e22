//! How long a job takes that is submitted at one node, run at another and read at a third, beside one node alone.
//!
//! All on this machine. A job of the three and a job of the one follow each other in turn, one at a time, so that both
//! have the same machine. Each is timed from the submission until its result is in the reader's hands, and is checked.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use shoal_client::Client;
use shoal_protocol::BlobId;
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::function::{Grant, Needs, NewFunction};
use shoal_protocol::object::job::{Input, State, Submit};
use shoal_testnet::Node;
use shoal_testnet::report::{Line, Report};

/// BLAKE3 of its input.
const FUNCTION: &[u8] = include_bytes!("../../node/functions/digest/digest.wasm");
const NAME: &str = "digest";
/// The only worker of the three has it.
const LABEL: &str = "place=executor";
/// Jobs before those that are timed: code is compiled, connections stand.
const WARM_UP: usize = 20;
/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// How much is done.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Jobs of each kind
    #[arg(long, default_value_t = 1000)]
    jobs: usize,
    /// The median over three nodes is at most so many times that of one
    #[arg(long, default_value_t = 2.0)]
    ratio: f64,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<std::path::PathBuf>,
}

/// Where a kind of job goes in and comes out.
struct Way {
    submit: Client,
    read: Client,
    needs: Needs,
}

pub(crate) async fn run(shoal: &Path, args: &Args) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let mut home = Node::new(shoal)?.with_arguments(&["--no-worker"]);
    home.start().await?;
    let mut executor = joined(shoal, &home, &["--label", LABEL])?;
    let mut reader = joined(shoal, &home, &["--no-worker"])?;
    let mut alone = Node::new(shoal)?;
    for node in [&mut executor, &mut reader, &mut alone] {
        node.start().await?;
    }
    let (key, value) = LABEL.split_once('=').context("no label")?;
    let needs = Needs { labels: [(key.to_owned(), value.to_owned())].into(), ..Needs::default() };
    let three = Way { submit: known(&home, &home).await?, read: known(&home, &reader).await?, needs };
    let one = Way { submit: known(&alone, &alone).await?, read: known(&alone, &alone).await?, needs: Needs::default() };
    for way in [&three, &one] {
        way.deploy().await?;
    }
    let (mut over_three, mut at_one) = (Vec::new(), Vec::new());
    for number in 0..args.jobs + WARM_UP {
        let times = (three.job(number).await?, one.job(number).await?);
        if number >= WARM_UP {
            over_three.push(times.0);
            at_one.push(times.1);
        }
    }
    let lines = lines(over_three, at_one, args.ratio);
    Ok(Report::new("hop", 4, begun.elapsed(), lines, None))
}

fn lines(over_three: Vec<Duration>, at_one: Vec<Duration>, limit: f64) -> Vec<Line> {
    let three = Line::new("hop", "submitted, run and read at three nodes").times(over_three);
    let one = Line::new("hop", "the same at one").times(at_one);
    let median = |line: &Line| line.figures.map_or(0.0, |figures| figures.median);
    let ratio = median(&three) / median(&one);
    let last = Line::new("hop", "ratio of the medians").found(format!("{ratio:.2}"));
    vec![three, one, last.promise(format!("at most {limit}"), ratio <= limit)]
}

pub(crate) fn joined(shoal: &Path, first: &Node, arguments: &[&str]) -> anyhow::Result<Node> {
    Ok(Node::new(shoal)?.with_arguments(arguments).with_arguments(&["--join", &first.mesh_address()?]))
}

/// A client at a node with a token of the first one's operator, which counts once the node knows that user.
pub(crate) async fn known(first: &Node, at: &Node) -> anyhow::Result<Client> {
    let minted = first.shoal(&["token", "mint"]).output()?;
    ensure!(minted.status.success(), "{}", String::from_utf8_lossy(&minted.stderr).trim());
    let token = String::from_utf8(minted.stdout)?.trim().to_owned();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match Client::connect(&at.gateway()?, Some(token.clone())).await {
            Ok(client) => return Ok(client),
            Err(error) if Instant::now() >= deadline => return Err(error.into()),
            Err(_) => tokio::time::sleep(LOOK_EVERY).await,
        }
    }
}

impl Way {
    /// Deploys the function, and waits until it is known where jobs go in, and somebody is there who can run them.
    async fn deploy(&self) -> anyhow::Result<()> {
        let component = self.submit.put_bytes(FUNCTION, true, "").await?.id;
        let function = NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new(NAME, component) };
        self.submit.deploy(&function).await?;
        let deadline = Instant::now() + PATIENCE;
        while !self.has_slots().await? {
            ensure!(Instant::now() < deadline, "no node with a worker is there");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    async fn has_slots(&self) -> anyhow::Result<bool> {
        Ok(self.submit.nodes(ListQuery::default()).await?.items.iter().any(|node| node.slots > 0))
    }

    /// One job with an input of its own.
    async fn job(&self, number: usize) -> anyhow::Result<Duration> {
        let text = format!("input {number}");
        let expected = BlobId::of(text.as_bytes());
        let submit =
            Submit { function: NAME.into(), input: Input::Text(text), needs: self.needs.clone(), ..Submit::default() };
        let begun = Instant::now();
        let id = self.submit.submit(&submit).await?;
        let job = self.read.wait(id, Some(PATIENCE), true).await?;
        let took = begun.elapsed();
        if job.state != State::Succeeded {
            bail!("job {id} is {}: {:?} {:?}", job.state.text(), job.reason, job.failure);
        }
        let result = job.output.and_then(|output| output.inline).context("the result is not in the job's record")?;
        ensure!(result.0.as_ref() == expected.as_bytes(), "job {id} has another result than its input asks for");
        Ok(took)
    }
}
