//! A node of its own and its clients, as processes: what the demo and the benchmark play on. Several make a mesh.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail};

/// How long the node may take to be up.
const START_MAX: Duration = Duration::from_secs(30);
/// How long the node may take to stop.
const STOP_MAX: Duration = Duration::from_secs(40);
/// The pause between two looks at whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Says something to whoever watches.
#[expect(clippy::print_stdout, reason = "the demo is there to be watched")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}

/// Where a stage's node listens: on loopback, at any free ports. Its mesh is what it is told to join.
const LOOPBACK: [&str; 7] = ["--gateway", "127.0.0.1:0", "--http", "127.0.0.1:0", "--mesh", "127.0.0.1:0", "--no-mdns"];

/// The processes, and the folder that they share. Dropped early it leaves no process behind.
pub(crate) struct Stage {
    program: PathBuf,
    data: PathBuf,
    node: Option<Child>,
    /// What clients show; none: the node's own token.
    token: Option<String>,
}

impl Stage {
    /// A stage in a folder of this name below `out`.
    pub(crate) fn new(out: &Path, name: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("finding this program")?;
        Ok(Self { program, data: out.join(name), node: None, token: None })
    }

    /// From now on clients show this token.
    pub(crate) fn show_token(&mut self, token: &str) {
        self.token = Some(token.to_owned());
    }

    /// This program with this stage's node and a configuration of its own.
    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(&self.program);
        command
            .args(arguments)
            .env("SHOAL_DATA", &self.data)
            .env("XDG_CONFIG_HOME", self.data.join("client"))
            .env_remove("SHOAL_NODE")
            .env_remove("SHOAL_TOKEN")
            .stdin(Stdio::null());
        if let Some(token) = &self.token {
            command.env("SHOAL_TOKEN", token);
        }
        command
    }

    /// Starts the node and returns when it is up.
    pub(crate) fn start_node(&mut self, arguments: &[&str]) -> anyhow::Result<()> {
        std::fs::create_dir_all(&self.data)?;
        let log = std::fs::File::create(self.data.join("node.log")).context("making the node's log")?;
        let node = self
            .command(arguments)
            .args(LOOPBACK)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .context("starting the node")?;
        let node = self.node.insert(node);
        let deadline = Instant::now() + START_MAX;
        while !self.data.join(crate::node::NODE_FILE).exists() {
            if let Some(status) = node.try_wait()? {
                let log = std::fs::read_to_string(self.data.join("node.log")).unwrap_or_default();
                bail!("the node ended with {status}: {}", log.lines().last().unwrap_or("it said nothing"));
            }
            if Instant::now() > deadline {
                bail!("the node is not up after {} s", START_MAX.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
        Ok(())
    }

    /// Where other nodes reach the node.
    pub(crate) fn mesh_address(&self) -> anyhow::Result<String> {
        #[derive(serde::Deserialize)]
        struct Whereabouts {
            mesh: Vec<String>,
        }
        let text = std::fs::read_to_string(self.data.join(crate::node::NODE_FILE))?;
        let whereabouts: Whereabouts = serde_json::from_str(&text)?;
        whereabouts.mesh.into_iter().next().ok_or_else(|| anyhow!("the node says no address for other nodes"))
    }

    /// Runs a client again and again, unseen, until it prints what is waited for.
    pub(crate) fn until(&self, arguments: &[&str], is_there: impl Fn(&str) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_MAX;
        loop {
            let output = self.command(arguments).output().context("starting a client")?;
            if output.status.success() && is_there(&String::from_utf8_lossy(&output.stdout)) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let words = arguments.join(" ");
                bail!("`shoal {words}` does not show it after {} s", START_MAX.as_secs());
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    /// The node's data folder.
    pub(crate) fn data(&self) -> &Path {
        &self.data
    }

    /// The node's process id.
    pub(crate) fn node_pid(&self) -> Option<u32> {
        self.node.as_ref().map(Child::id)
    }

    /// The process id of the node's worker, which outlives a node that is killed.
    pub(crate) fn worker_pid(&self) -> Option<u32> {
        let pid = std::fs::read_to_string(self.data.join("worker").join("lock")).ok()?.trim().parse().ok()?;
        // A number that was given to another process since is not taken for the worker's: its words name this folder.
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        words.split(|byte| *byte == 0).any(|word| word == self.data.as_os_str().as_encoded_bytes()).then_some(pid)
    }

    /// Kills the node, as a power cut of its process would. Its worker lives on.
    pub(crate) fn kill_node(&mut self) {
        if let Some(mut node) = self.node.take() {
            kill(&mut node);
        }
        // A killed node leaves its file behind; the next start is waited for by it.
        drop(std::fs::remove_file(self.data.join(crate::node::NODE_FILE)));
    }

    /// Runs a client to its end and shows what it prints.
    pub(crate) fn shoal(&self, arguments: &[&str]) -> anyhow::Result<String> {
        say(&format!("  $ shoal {}", arguments.iter().map(|word| plain(word)).collect::<Vec<_>>().join(" ")));
        let printed = self.shoal_quietly(arguments)?;
        for line in printed.lines().take(3) {
            say(&format!("  {line}"));
        }
        Ok(printed)
    }

    /// Runs a client to its end.
    pub(crate) fn shoal_quietly(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.command(arguments).output().context("starting a client")?;
        let printed = String::from_utf8_lossy(&output.stdout).into_owned();
        if !output.status.success() {
            bail!("it ended with {}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(printed)
    }

    /// Stops the node as a service manager would.
    pub(crate) fn stop_node(&mut self) -> anyhow::Result<()> {
        let mut node = self.node.take().ok_or_else(|| anyhow!("no node was started"))?;
        let deadline = Instant::now() + STOP_MAX;
        signal(node.id(), rustix::process::Signal::TERM);
        loop {
            match node.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => bail!("the node ended with {status}"),
                None if Instant::now() > deadline => {
                    kill(&mut node);
                    bail!("the node did not stop within {} s and was killed", STOP_MAX.as_secs());
                }
                None => std::thread::sleep(LOOK_EVERY),
            }
        }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if self.node.is_some() {
            // An error is on its way already; this only cleans up after it.
            drop(self.stop_node());
        }
        // The worker of a node that was killed and did not come back.
        if let Some(pid) = self.worker_pid() {
            signal(pid, rustix::process::Signal::KILL);
        }
    }
}

fn signal(pid: u32, signal: rustix::process::Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) {
        // It may have ended by itself.
        let _ = rustix::process::kill_process(pid, signal);
    }
}

fn kill(child: &mut Child) {
    drop(child.kill());
    drop(child.wait());
}

/// A path is shown by its last part.
fn plain(word: &str) -> String {
    match Path::new(word).file_name().and_then(|name| name.to_str()) {
        Some(name) if word.starts_with('/') => name.to_owned(),
        _ => word.to_owned(),
    }
}
