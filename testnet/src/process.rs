//! One node as a process. Dropped, it leaves neither node nor worker behind.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use shoal_client::{Client, NodeAddr};

/// How long a node may take to be up, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two looks at whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// A node in a folder of its own.
pub(crate) struct Node {
    shoal: PathBuf,
    folder: tempfile::TempDir,
    child: Option<Child>,
}

impl Node {
    pub(crate) fn new(shoal: &Path) -> anyhow::Result<Self> {
        Ok(Self { shoal: shoal.to_owned(), folder: tempfile::tempdir()?, child: None })
    }

    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts the node and returns when it is up.
    pub(crate) async fn start(&mut self) -> anyhow::Result<()> {
        // A killed node leaves its file behind.
        drop(std::fs::remove_file(self.file("node.json")));
        let log = std::fs::File::options().create(true).append(true).open(self.file("node.log"))?;
        let child = Command::new(&self.shoal)
            .args(["up", "--gateway", "127.0.0.1:0", "--http", "127.0.0.1:0", "--slots", "2", "--name", "testnet"])
            .env("SHOAL_DATA", self.folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.shoal.display()))?;
        self.child = Some(child);
        tokio::time::timeout(PATIENCE, async {
            while !self.file("node.json").exists() {
                if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().transpose()) {
                    let log = std::fs::read_to_string(self.file("node.log")).unwrap_or_default();
                    bail!("the node ended with {}: {}", status?, log.lines().last().unwrap_or_default());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        })
        .await
        .context("the node is not up in time")?
    }

    /// A client with the operator's token.
    pub(crate) async fn client(&self) -> anyhow::Result<Client> {
        let node: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(self.file("node.json"))?)?;
        let address = node.get("gateway").and_then(serde_json::Value::as_str).context("the node says no address")?;
        let address: NodeAddr = address.parse()?;
        let token = std::fs::read_to_string(self.file("token"))?;
        Ok(Client::connect(&address, Some(token.trim().to_owned())).await?)
    }

    /// Kills the node's process with SIGKILL. Its worker lives on.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("no node runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The worker's process, if one holds the lock and lives.
    pub(crate) fn worker(&self) -> Option<Pid> {
        let text = std::fs::read_to_string(self.folder.path().join("worker").join("lock")).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok()?)?;
        test_kill_process(pid).is_ok().then_some(pid)
    }

    /// Kills the worker's process with SIGKILL.
    pub(crate) fn kill_worker(&self) -> bool {
        self.worker().is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }

    /// Stops the node in order.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("no node runs")?;
        if let Some(pid) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM)?;
        }
        tokio::time::timeout(PATIENCE, async {
            loop {
                match child.try_wait()? {
                    Some(status) if status.success() => return Ok(()),
                    Some(status) => bail!("the node ended with {status}"),
                    None => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        })
        .await
        .context("the node does not stop in time")?
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if self.child.is_some() {
            drop(self.kill());
        }
        self.kill_worker();
    }
}
