//! One node as a process. Dropped, it leaves neither node nor worker behind.

use std::ffi::{OsStr, OsString};
use std::fs::{File, TryLockError};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use shoal_client::{Client, NodeAddr};

use crate::disk::Disk;

/// How long a node may take to be up, or to stop.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between two looks at whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// The unit of processor time in `/proc`, in milliseconds: the same on all processors that Shoal supports.
const TICK_MS: u64 = 10;

/// A node in a folder of its own, with ports of its own.
#[derive(Debug)]
pub struct Node {
    shoal: PathBuf,
    folder: tempfile::TempDir,
    launcher: Vec<OsString>,
    arguments: Vec<OsString>,
    name: String,
    slots: u32,
    mesh: String,
    mdns: bool,
    log: Option<String>,
    crash: Option<String>,
    child: Option<Child>,
    disk: Option<Disk>,
}

impl Node {
    /// A node that is not started yet; `shoal` is the program.
    ///
    /// # Errors
    /// When no folder can be made for it.
    pub fn new(shoal: &Path) -> anyhow::Result<Self> {
        Self::within(shoal, &std::env::temp_dir())
    }

    /// The same, with its folder in this one.
    ///
    /// # Errors
    /// When no folder can be made for it.
    pub fn within(shoal: &Path, parent: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            shoal: shoal.to_owned(),
            folder: tempfile::tempdir_in(parent)?,
            launcher: Vec::new(),
            arguments: Vec::new(),
            name: "testnet".into(),
            slots: 2,
            mesh: "127.0.0.1:0".into(),
            mdns: false,
            log: None,
            crash: None,
            child: None,
            disk: None,
        })
    }

    /// With this name instead of `testnet`.
    #[must_use]
    pub fn with_name(mut self, name: &str) -> Self {
        name.clone_into(&mut self.name);
        self
    }

    /// Where other nodes connect, and whether it looks for them on the LAN; else any port of the loopback, and not.
    #[must_use]
    pub fn with_mesh(mut self, address: &str, mdns: bool) -> Self {
        address.clone_into(&mut self.mesh);
        self.mdns = mdns;
        self
    }

    /// With a worker that makes so many runs at once instead of 2.
    #[must_use]
    pub fn with_slots(mut self, slots: u32) -> Self {
        self.slots = slots;
        self
    }

    /// With a log of these lines, as `SHOAL_LOG` says it.
    #[must_use]
    pub fn with_log(mut self, filter: &str) -> Self {
        self.log = Some(filter.to_owned());
        self
    }

    /// Adds arguments of `shoal up`.
    #[must_use]
    pub fn with_arguments<A: AsRef<OsStr>>(mut self, arguments: &[A]) -> Self {
        self.arguments.extend(arguments.iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// The same for a node that is already made; they count at its next start.
    pub(crate) fn add_arguments(&mut self, arguments: &[String]) {
        self.arguments.extend(arguments.iter().map(OsString::from));
    }

    /// From its next start on it ends by itself at this point, as if killed: `settle:3` the third time that it settles a run.
    /// None: it does not.
    pub fn crash_at(&mut self, point: Option<String>) {
        self.crash = point;
    }

    /// Starts the node by another program, which must replace itself by what its last arguments say (as `env` does).
    #[must_use]
    pub fn with_launcher<A: AsRef<OsStr>>(mut self, launcher: &[A]) -> Self {
        self.launcher.extend(launcher.iter().map(|word| word.as_ref().to_owned()));
        self
    }

    /// Puts the data folder on a small disk of its own, of so many MiB. Replaces the launcher.
    ///
    /// # Errors
    /// When this machine does not allow it.
    pub fn with_disk(self, mib: u32) -> anyhow::Result<Self> {
        self.with_disks(mib, &[])
    }

    /// The same, with disks of their own for folders in it.
    ///
    /// # Errors
    /// When this machine does not allow it.
    pub fn with_disks(mut self, mib: u32, parts: &[(&str, u32)]) -> anyhow::Result<Self> {
        let disk = Disk::with_parts(self.folder.path(), mib, parts)?;
        self.launcher = disk.launcher();
        self.disk = Some(disk);
        Ok(self)
    }

    /// The small disk, if it has one.
    pub fn disk(&self) -> Option<&Disk> {
        self.disk.as_ref()
    }

    /// The program.
    pub fn program(&self) -> &Path {
        &self.shoal
    }

    /// The data folder, as it is seen from here.
    pub fn data(&self) -> PathBuf {
        self.disk.as_ref().map_or_else(|| self.folder.path().to_owned(), Disk::seen)
    }

    /// Its own folder; with a small disk, the one below it.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    fn file(&self, name: &str) -> PathBuf {
        self.data().join(name)
    }

    /// A file of ours, never on the small disk.
    fn own_file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// `shoal` with these arguments and this node's data folder, so that it is a client of this node, or a second node in
    /// the same folder. Nothing of the caller's own configuration is seen.
    pub fn shoal(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.shoal);
        command.args(arguments);
        self.surround(&mut command, &self.data());
        command
    }

    fn surround(&self, command: &mut Command, data: &Path) {
        command
            .env("SHOAL_DATA", data)
            .env("XDG_CONFIG_HOME", self.own_file("client"))
            .env_remove("SHOAL_NODE")
            .env_remove("SHOAL_TOKEN")
            .stdin(Stdio::null());
    }

    /// How it is started: for one who starts it in a way of their own.
    pub(crate) fn command(&self) -> Command {
        let mut command = self.up();
        command.stdout(Stdio::null()).stderr(Stdio::null());
        command
    }

    /// Whether it has said where it is.
    pub(crate) fn is_up(&self) -> bool {
        self.file("node.json").exists()
    }

    /// Forgets what it has said: a killed node leaves its file behind.
    pub(crate) fn forget_whereabouts(&self) {
        drop(std::fs::remove_file(self.file("node.json")));
    }

    fn up(&self) -> Command {
        let mut words = self.launcher.clone();
        words.push(self.shoal.clone().into_os_string());
        let mut words = words.into_iter();
        let mut command = Command::new(words.next().unwrap_or_default());
        command
            .args(words)
            .args(["up", "--gateway", "127.0.0.1:0", "--http", "127.0.0.1:0", "--mesh", &self.mesh])
            .args((!self.mdns).then_some("--no-mdns"))
            .args(["--name", &self.name, "--slots", &self.slots.to_string()])
            .args(&self.arguments)
            .envs(self.log.iter().map(|filter| ("SHOAL_LOG", filter)))
            .envs(self.crash.iter().map(|point| ("SHOAL_CRASH", point)));
        self.surround(&mut command, self.folder.path());
        command
    }

    /// Starts the node and returns when it is up.
    ///
    /// # Errors
    /// When it ends, with the last line that it said, or is not up within a minute.
    pub async fn start(&mut self) -> anyhow::Result<()> {
        self.forget_whereabouts();
        let log = std::fs::File::options().create(true).append(true).open(self.own_file("node.log"))?;
        let child = self
            .up()
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.shoal.display()))?;
        self.child = Some(child);
        tokio::time::timeout(PATIENCE, async {
            while !self.is_up() {
                if let Some(status) = self.child.as_mut().and_then(|child| child.try_wait().transpose()) {
                    bail!("the node ended with {}: {}", status?, self.log().lines().last().unwrap_or_default());
                }
                tokio::time::sleep(LOOK_EVERY).await;
            }
            Ok(())
        })
        .await
        .context("the node is not up in time")?
    }

    /// What the node has said so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.own_file("node.log")).unwrap_or_default()
    }

    /// What the node says of itself in its file: ids, addresses.
    fn said(&self, key: &str) -> anyhow::Result<String> {
        let node: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(self.file("node.json"))?)?;
        let value = node.get(key).and_then(serde_json::Value::as_str);
        Ok(value.with_context(|| format!("the node says no {key}"))?.to_owned())
    }

    /// The address of the gateway.
    ///
    /// # Errors
    /// When the node is not up.
    pub fn gateway(&self) -> anyhow::Result<NodeAddr> {
        Ok(self.said("gateway")?.parse()?)
    }

    /// The address of the HTTP API, as `host:port`.
    ///
    /// # Errors
    /// When the node is not up.
    pub fn http(&self) -> anyhow::Result<String> {
        let url = self.said("http")?;
        Ok(url.trim_start_matches("http://").trim_end_matches('/').to_owned())
    }

    /// Where other nodes reach it, `NODEID@IP:PORT`.
    ///
    /// # Errors
    /// When the node is not up.
    pub fn mesh_address(&self) -> anyhow::Result<String> {
        let node: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(self.file("node.json"))?)?;
        let first = node.get("mesh").and_then(|mesh| mesh.get(0)).and_then(serde_json::Value::as_str);
        Ok(first.context("the node says no address for other nodes")?.to_owned())
    }

    /// The operator's token.
    ///
    /// # Errors
    /// When the node was never up.
    pub fn token(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.file("token"))?.trim().to_owned())
    }

    /// A client with the operator's token.
    ///
    /// # Errors
    /// When the node cannot be reached.
    pub async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.gateway()?, Some(self.token()?)).await?)
    }

    /// A page of its HTTP API.
    ///
    /// # Errors
    /// When it does not answer, or not with 200.
    pub async fn page(&self, path: &str) -> anyhow::Result<String> {
        crate::http::get(&self.http()?, path, &self.token()?).await
    }

    /// The node's process.
    pub fn pid(&self) -> Option<Pid> {
        Pid::from_raw(i32::try_from(self.child.as_ref()?.id()).ok()?)
    }

    /// Whether the node's process has ended by itself; if so, nothing is left of it.
    ///
    /// # Errors
    /// When that cannot be seen.
    pub fn has_ended(&mut self) -> anyhow::Result<bool> {
        let Some(child) = self.child.as_mut() else { return Ok(true) };
        let ended = child.try_wait()?.is_some();
        if ended {
            self.child = None;
        }
        Ok(ended)
    }

    /// Kills the node's process with SIGKILL. Its worker lives on.
    ///
    /// # Errors
    /// When no node runs.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("no node runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// The worker's process, if one holds the lock and lives. The number in a lock that nobody holds may be that of any
    /// process by now.
    pub fn worker(&self) -> Option<Pid> {
        let mut lock = File::open(self.file("worker").join("lock")).ok()?;
        if !matches!(lock.try_lock_shared(), Err(TryLockError::WouldBlock)) {
            return None;
        }
        let mut text = String::new();
        lock.read_to_string(&mut text).ok()?;
        let pid = Pid::from_raw(text.trim().parse().ok()?)?;
        test_kill_process(pid).is_ok().then_some(pid)
    }

    /// Kills the worker's process with SIGKILL.
    pub fn kill_worker(&self) -> bool {
        self.worker().is_some_and(|pid| kill_process(pid, Signal::KILL).is_ok())
    }

    /// Stops the node in order.
    ///
    /// # Errors
    /// When it ends with a failure, or does not end within a minute.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let pid = self.pid().context("no node runs")?;
        kill_process(pid, Signal::TERM)?;
        let mut child = self.child.take().context("no node runs")?;
        let stopped = tokio::time::timeout(PATIENCE, async {
            loop {
                match child.try_wait()? {
                    Some(status) if status.success() => return Ok(()),
                    Some(status) => bail!("the node ended with {status}"),
                    None => tokio::time::sleep(LOOK_EVERY).await,
                }
            }
        });
        let stopped = stopped.await.context("the node does not stop in time");
        if stopped.is_err() {
            drop(child.kill());
            drop(child.wait());
        }
        stopped?
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

/// Memory of a process that is resident, in KiB.
pub fn resident_kib(pid: Pid) -> Option<u64> {
    status_kib(pid, "VmRSS:")
}

/// The most that it had resident since it began, or since [`forget_peak`], in KiB.
pub fn peak_kib(pid: Pid) -> Option<u64> {
    status_kib(pid, "VmHWM:")
}

/// Lets the peak of a process begin anew. Where the system refuses it, the peak stays that of its whole life.
pub fn forget_peak(pid: Pid) {
    drop(std::fs::write(format!("/proc/{}/clear_refs", pid.as_raw_nonzero()), "5"));
}

fn status_kib(pid: Pid, field: &str) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_nonzero())).ok()?;
    status.lines().find_map(|line| line.strip_prefix(field))?.split_whitespace().next()?.parse().ok()
}

/// What a process has used of the processors since it began, in its own and in the system's code.
pub(crate) fn processor_time(pid: Pid) -> Option<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // After the name, which may hold anything but stands in parentheses, the 12th and 13th word.
    let (_, words) = stat.rsplit_once(')')?;
    let mut ticks = words.split_whitespace().skip(11).map(str::parse::<u64>);
    let ticks = ticks.next()?.ok()? + ticks.next()?.ok()?;
    Some(Duration::from_millis(ticks * TICK_MS))
}
