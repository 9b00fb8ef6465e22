//! Who has to do with the job: three nodes, and a client as a process.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use shoal_client::{Client, Options};
use shoal_protocol::ObjectId;
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::function::{Grant, Needs, NewFunction, RunLimits};
use shoal_protocol::object::job::{Input, Job, State, Submit};
use shoal_testnet::Node;

use super::chain::Ended;
use crate::hop::{joined, known};
use crate::kill::free_address;

/// Computes for as long as it is told, and saves each step.
const FUNCTION: &[u8] = include_bytes!("../../../tests/guests/chain/chain.wasm");
const NAME: &str = "chain";
/// Only the executor has it.
const LABEL: (&str, &str) = ("place", "executor");
/// Computing for each step. Why so much: some 30 ms, so that ten minutes are 20,000 checkpoints.
const ROUNDS: u64 = 10_000_000;
/// Steps by which the length of one is measured.
const MEASURED_STEPS: u64 = 100;
/// How long anything may take that is to happen at once.
const PATIENCE: Duration = Duration::from_secs(60);
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// How long a node that is killed is away. Why 2 s: shorter than a lease, so that its worker delivers to it.
const AWAY: Duration = Duration::from_secs(2);
/// The job may take so many times as long as it is meant to.
const SLOWER_MAX: u32 = 4;

/// All of them.
pub(super) struct Cast {
    home: Node,
    executor: Node,
    reader: Node,
    /// Of the home's operator, and known at the reader.
    token: String,
    client: Client,
    waits: Option<Waits>,
    job: Option<ObjectId>,
}

/// A client that waits for the job. Dropped, it is gone.
struct Waits(Child);

impl Drop for Waits {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

impl Cast {
    /// Starts the nodes, and deploys the function.
    pub(super) async fn begin(shoal: &Path) -> anyhow::Result<Self> {
        // The same address in every life: others come back to the one that they know.
        let own = |node: Node, name: &str| anyhow::Ok(node.with_name(name).with_mesh(&free_address()?, false));
        let mut home = own(Node::new(shoal)?.with_arguments(&["--no-worker"]), "home")?;
        home.start().await?;
        let label = format!("{}={}", LABEL.0, LABEL.1);
        let mut executor = own(joined(shoal, &home, &["--label", &label])?, "executor")?;
        let mut reader = own(joined(shoal, &home, &["--no-worker"])?, "reader")?;
        executor.start().await?;
        reader.start().await?;
        let minted = home.shoal(&["token", "mint"]).output()?;
        ensure!(minted.status.success(), "{}", String::from_utf8_lossy(&minted.stderr).trim());
        let token = String::from_utf8(minted.stdout)?.trim().to_owned();
        // Once the reader knows the home's operator.
        known(&home, &reader).await?.close().await;
        let client = connect(&home).await?;
        let cast = Self { home, executor, reader, token, client, waits: None, job: None };
        cast.deploy().await?;
        Ok(cast)
    }

    async fn deploy(&self) -> anyhow::Result<()> {
        let component = self.client.put_bytes(FUNCTION, true, "").await?.id;
        self.client.deploy(&NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new(NAME, component) }).await?;
        let deadline = Instant::now() + PATIENCE;
        while !self.client.nodes(ListQuery::default()).await?.items.iter().any(|node| node.slots > 0) {
            ensure!(Instant::now() < deadline, "the executor is not there");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn chain(&self, steps: u64, limits: RunLimits) -> Submit {
        let needs = Needs { labels: [(LABEL.0.to_owned(), LABEL.1.to_owned())].into(), ..Needs::default() };
        let args = vec![steps.to_string(), ROUNDS.to_string()];
        Submit { function: NAME.into(), input: Input::Text(String::new()), args, needs, limits, ..Submit::default() }
    }

    /// How long a step takes here.
    pub(super) async fn step_time(&self) -> anyhow::Result<Duration> {
        let mut taken = Duration::ZERO;
        // The first compiles the function.
        for steps in [1, MEASURED_STEPS] {
            let begun = Instant::now();
            let id = self.client.submit(&self.chain(steps, RunLimits::default())).await?;
            let job = self.client.wait(id, Some(PATIENCE), true).await?;
            ensure!(job.state == State::Succeeded, "a short run is {}: {:?}", job.state.text(), job.failure);
            taken = begun.elapsed();
        }
        Ok(taken / u32::try_from(MEASURED_STEPS)?)
    }

    /// Submits the job, and lets a client wait for it.
    pub(super) async fn submit(&mut self, steps: u64, length: Duration) -> anyhow::Result<()> {
        let run_ms = u64::try_from((length * SLOWER_MAX).as_millis())?;
        let limits = RunLimits { run_ms: Some(run_ms), attempts: Some(5), ..RunLimits::default() };
        self.job = Some(self.client.submit(&self.chain(steps, limits)).await?);
        self.restart_client()
    }

    fn id(&self) -> anyhow::Result<ObjectId> {
        self.job.context("no job was submitted")
    }

    /// Waits until the job has made so many steps, and says how many.
    pub(super) async fn comes_to(&self, steps: u64) -> anyhow::Result<u64> {
        loop {
            let job = self.client.job(self.id()?, false).await?;
            ensure!(!job.state.is_settled(), "the job is {} too early: {:?}", job.state.text(), job.failure);
            let done = job.progress.map_or(0, |progress| progress.done);
            if done >= steps {
                return Ok(done);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    pub(super) async fn restart_home(&mut self) -> anyhow::Result<()> {
        self.home.kill()?;
        tokio::time::sleep(AWAY).await;
        self.home.start().await?;
        self.client = connect(&self.home).await?;
        Ok(())
    }

    /// Kills the node that executes the job and starts it again; perhaps it loses its worker.
    pub(super) async fn restart_executor(&mut self, with_worker: bool) -> anyhow::Result<()> {
        let before = self.executor.worker().context("the executor has no worker")?;
        if with_worker {
            ensure!(self.executor.kill_worker(), "the worker cannot be killed");
        }
        self.executor.kill()?;
        tokio::time::sleep(AWAY).await;
        self.executor.start().await?;
        let same = self.executor.worker() == Some(before);
        ensure!(same != with_worker, "the worker that ran the job is there: {same}");
        Ok(())
    }

    /// Kills the client that waits, if there is one, and lets a new one wait.
    pub(super) fn restart_client(&mut self) -> anyhow::Result<()> {
        drop(self.waits.take());
        let mut command = self.shoal(&["job", "wait", &self.id()?.to_string()]);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().context("starting a client")?;
        self.waits = Some(Waits(child));
        Ok(())
    }

    /// A client of the reader with the token of the home's operator.
    fn shoal(&self, arguments: &[&str]) -> Command {
        let mut command = self.reader.shoal(arguments);
        command.env("SHOAL_TOKEN", &self.token);
        command
    }

    /// Waits until the client that waits has ended, and reads at the third node what has become of the job.
    pub(super) async fn end(&mut self, length: Duration) -> anyhow::Result<(Job, Ended)> {
        let deadline = Instant::now() + length + PATIENCE;
        let waits = self.waits.as_mut().context("no client waits")?;
        let status = loop {
            match waits.0.try_wait()? {
                Some(status) => break status,
                None => ensure!(Instant::now() < deadline, "the client still waits"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        self.waits = None;
        let options = Options { token: Some(self.token.clone()), ..Options::default() };
        let client = Client::connect_with(&self.reader.gateway()?, options).await?;
        let job = client.job(self.id()?, true).await?;
        if !status.success() {
            bail!("the client ended with {status}, the job is {}: {:?}", job.state.text(), job.failure);
        }
        let result = client.result_bytes(job.id, 1024).await?;
        Ok((job, Ended::read(&result)?))
    }
}

/// A client of the node's operator, who is gone when the node is.
async fn connect(node: &Node) -> anyhow::Result<Client> {
    let options = Options { token: Some(node.token()?), reconnect_for: Duration::ZERO, ..Options::default() };
    Ok(Client::connect_with(&node.gateway()?, options).await?)
}
