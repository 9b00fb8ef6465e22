//! HyperQueue on one node: its own cluster of a server and a worker, driven in its own language by `hyperqueue.py`, which is
//! told over its standard input what to measure.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{ChildStdin, ChildStdout, Command};

use super::child::{Daemon, find, run};
use super::figures::{Round, System};
use crate::bench::times::median;

pub(super) const NAME: &str = "HyperQueue";
pub(super) const INSTALL: &str = "pip install hyperqueue, for the python3 that comes first on the path";

/// What drives it.
const DRIVER: &str = include_str!("hyperqueue.py");
/// Jobs of a round that are handed over one after the other.
const JOBS: u32 = 1_000;
/// Jobs of a round each of which is waited for before the next.
const SINGLE: u32 = 50;
/// How long one answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(120);
/// The longest answer, in bytes.
const ANSWER_LEN_MAX: u64 = 64 * 1024;

/// HyperQueue, running.
pub(super) struct HyperQueue {
    daemon: Daemon,
    to: ChildStdin,
    from: BufReader<ChildStdout>,
    log: std::path::PathBuf,
    version: String,
}

/// Jobs that were handed over one after the other, in seconds.
#[derive(Debug, Deserialize)]
struct Rate {
    submitted: f64,
    ended: f64,
}

impl HyperQueue {
    /// Starts it in this folder, with so many processors for jobs.
    pub(super) async fn start(folder: &Path, slots: u32) -> anyhow::Result<Self> {
        let python = find("python3").context("python3 is not installed")?;
        // Asked first, so that who is not there is told from who does not start.
        if run(Command::new(&python).args(["-c", "import hyperqueue"])).await.is_err() {
            bail!("{} has no module hyperqueue", python.display());
        }
        std::fs::create_dir(folder).with_context(|| format!("making {}", folder.display()))?;
        let log = folder.join("log");
        let mut command = Command::new(python);
        command.args(["-c", DRIVER, &slots.to_string()]).current_dir(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut daemon = Daemon::start(&mut command, &log)?;
        let child = daemon.child();
        let (to, from) = child.stdin.take().zip(child.stdout.take()).context("it has no input or output")?;
        let mut started = Self { daemon, to, from: BufReader::new(from), log, version: String::new() };
        started.version = started.answer().await.context("starting it")?;
        Ok(started)
    }

    pub(super) fn system(&self) -> System {
        System {
            name: NAME,
            version: self.version.clone(),
            acknowledged: "the job is in its server's memory, and written down nowhere here",
            rounds: Vec::new(),
        }
    }

    pub(super) async fn round(&mut self, number: u32) -> anyhow::Result<Round> {
        let Rate { submitted, ended } = self.ask(&format!("rate {JOBS}")).await?;
        let results: Vec<f64> = self.ask(&format!("single {SINGLE} effect-{number}")).await?;
        Ok(Round {
            jobs: JOBS,
            submits_per_second: f64::from(JOBS) / submitted,
            jobs_per_second: f64::from(JOBS) / ended,
            result_p50_ms: median(results) * 1_000.0,
            kill: None,
        })
    }

    async fn ask<T: DeserializeOwned>(&mut self, words: &str) -> anyhow::Result<T> {
        self.to.write_all(format!("{words}\n").as_bytes()).await?;
        self.answer().await
    }

    /// The next line that it says, as JSON.
    async fn answer<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        let mut line = String::new();
        let mut from = (&mut self.from).take(ANSWER_LEN_MAX);
        tokio::time::timeout(ANSWER_MAX, from.read_line(&mut line)).await.context("it does not answer")??;
        if line.is_empty() {
            self.daemon.check(&self.log)?;
            bail!("it has ended");
        }
        serde_json::from_str(&line).with_context(|| format!("it says {}", line.trim()))
    }
}
