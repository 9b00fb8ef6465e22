//! How long a job takes that is submitted at one node, run at another and read at the first or at a third, beside one
//! node alone.
//!
//! All on this machine. Jobs of each way follow each other in turn, one at a time, so that all have the same machine. Each
//! is timed from the submission until its result is in the reader's hands, and is checked. One node alone has each job on
//! one disk, and so have those that it is compared with; what a second disk costs is shown beside them.

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
    /// The median over two or three nodes is at most so many times that of one
    #[arg(long, default_value_t = 2.0)]
    ratio: f64,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<std::path::PathBuf>,
}

/// Where a kind of job goes in and comes out, and on how many disks it is meanwhile.
struct Way {
    name: &'static str,
    submit: Client,
    read: Client,
    needs: Needs,
    durability: u8,
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
    let at = async |name, submit: &Node, read: &Node, needs: &Needs, durability| -> anyhow::Result<Way> {
        let (submit, read) = (known(submit, submit).await?, known(submit, read).await?);
        Ok(Way { name, submit, read, needs: needs.clone(), durability })
    };
    let ways = [
        at("at one node", &alone, &alone, &Needs::default(), 1).await?,
        at("run at a second node", &home, &home, &needs, 1).await?,
        at("run at a second, read at a third", &home, &reader, &needs, 1).await?,
        at("run at a second; on two disks", &home, &home, &needs, 2).await?,
        at("run at a second, read at a third; on two disks", &home, &reader, &needs, 2).await?,
    ];
    for way in &ways {
        way.deploy().await?;
    }
    let mut times = vec![Vec::with_capacity(args.jobs); ways.len()];
    for number in 0..args.jobs + WARM_UP {
        for (way, times) in ways.iter().zip(&mut times) {
            let took = way.job(number).await?;
            if number >= WARM_UP {
                times.push(took);
            }
        }
    }
    Ok(Report::new("hop", 4, begun.elapsed(), lines(&ways, times, args.ratio), None))
}

/// A line for each way; those on one disk are at most so many times as long as the first.
fn lines(ways: &[Way], times: Vec<Vec<Duration>>, limit: f64) -> Vec<Line> {
    let median = |line: &Line| line.figures.map_or(0.0, |figures| figures.median);
    let all: Vec<Line> = ways.iter().zip(times).map(|(way, times)| Line::new("hop", way.name).times(times)).collect();
    let alone = all.first().map_or(0.0, median);
    let ratios = ways.iter().zip(&all).skip(1).map(|(way, line)| {
        let ratio = median(line) / alone;
        let said = Line::new("hop", format!("median of that {}, beside one node", way.name))
            .found(format!("{ratio:.2} times"));
        match way.durability {
            1 => said.promise(format!("at most {limit}"), ratio <= limit),
            _ => said,
        }
    });
    let ratios: Vec<Line> = ratios.collect();
    all.into_iter().chain(ratios).collect()
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
        let submit = Submit {
            function: NAME.into(),
            input: Input::Text(text),
            needs: self.needs.clone(),
            durability: Some(self.durability),
            ..Submit::default()
        };
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
