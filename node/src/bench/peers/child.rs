//! Programs of others as child processes: found on the path, bounded in time, and gone with whoever started them.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

/// Where programs are beside the path: daemons, for those who are not root.
const MORE: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];
/// How long a program that does one thing may take.
const RUN_MAX: Duration = Duration::from_secs(60);
/// How long a daemon may take to stop when it is asked to.
const STOP_MAX: Duration = Duration::from_secs(10);
/// How long the system may take to end a process that was killed.
const END_MAX: Duration = Duration::from_secs(2);
const LOOK_EVERY: Duration = Duration::from_millis(5);

/// Where this program is; none: it is not installed.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(MORE.iter().map(PathBuf::from));
    folders.map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// Runs a program to its end and gives what it printed.
pub(super) async fn run(command: &mut Command) -> anyhow::Result<String> {
    let name = name(command);
    let running = command.stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(RUN_MAX, running).await.with_context(|| format!("{name} does not end"))?;
    let output = output.with_context(|| format!("starting {name}"))?;
    ensure!(
        output.status.success(),
        "{name} ended with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn name(command: &Command) -> String {
    Path::new(command.as_std().get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A process that runs until it is stopped. Dropped it is killed, and waited for.
pub(super) struct Daemon {
    name: String,
    child: Child,
}

impl Daemon {
    /// Starts it; what it says goes to this file. In a process group of its own: a Ctrl-C of the terminal is not for it.
    pub(super) fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let name = name(command);
        let log = std::fs::File::create(log).context("making a log")?;
        let child = command.stderr(log).process_group(0).kill_on_drop(true).spawn();
        let child = child.with_context(|| format!("starting {name}"))?;
        Ok(Self { name, child })
    }

    /// Its process, for what it reads and writes.
    pub(super) fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Fails if it has ended by itself, with the last line of this log.
    pub(super) fn check(&mut self, log: &Path) -> anyhow::Result<()> {
        let Some(status) = self.child.try_wait()? else { return Ok(()) };
        let text = std::fs::read_to_string(log).unwrap_or_default();
        let said = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it said nothing");
        anyhow::bail!("{} ended with {status}: {said}", self.name)
    }

    /// Kills it with SIGKILL.
    pub(super) async fn kill(mut self) -> anyhow::Result<()> {
        self.child.kill().await.with_context(|| format!("killing {}", self.name))
    }

    /// Asks it to stop, and kills it when it does not.
    pub(super) async fn stop(mut self) {
        if let Some(pid) = self.child.id() {
            signal(pid, Signal::TERM);
        }
        // What does not end in time is killed when it is dropped.
        drop(tokio::time::timeout(STOP_MAX, self.child.wait()).await);
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        drop(self.child.start_kill());
        let deadline = Instant::now() + END_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(LOOK_EVERY);
        }
    }
}

/// Kills every process that was started with this variable: what a daemon has started and left behind.
pub(super) fn kill_those_with(variable: &str, value: &OsStr) {
    let mut wanted = format!("{variable}=").into_bytes();
    wanted.extend_from_slice(value.as_encoded_bytes());
    for process in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = process.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let environment = std::fs::read(process.path().join("environ")).unwrap_or_default();
        if pid != std::process::id() && environment.split(|byte| *byte == 0).any(|entry| entry == wanted) {
            signal(pid, Signal::KILL);
        }
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw) {
        // It may have ended by itself.
        let _ = kill_process(pid, signal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_there(pid: u32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn programs_are_found_on_the_path() {
        assert!(find("sh").is_some_and(|file| file.ends_with("sh")));
        assert_eq!(find("no-such-program-anywhere"), None);
    }

    #[tokio::test]
    async fn a_program_gives_what_it_printed_or_why_it_failed() {
        assert_eq!(run(Command::new("sh").args(["-c", "echo here"])).await.unwrap(), "here");
        let failed = run(Command::new("sh").args(["-c", "echo no >&2; exit 3"])).await.unwrap_err().to_string();
        assert!(failed.contains("sh ended with exit status: 3: no"), "{failed}");
    }

    #[tokio::test]
    async fn a_daemon_is_gone_when_it_is_dropped_and_with_it_what_it_has_left_behind() {
        let folder = tempfile::tempdir().unwrap();
        let (log, mark) = (folder.path().join("log"), folder.path().join("mark"));
        let start = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]).env("SHOAL_BENCH_TEST", folder.path()).stdout(Stdio::null());
            Daemon::start(&mut command, &log).unwrap()
        };
        let mut daemon = start("exec sleep 600");
        let pid = daemon.child().id().unwrap();
        assert!(daemon.check(&log).is_ok() && is_there(pid));
        drop(daemon);
        assert!(!is_there(pid), "it was waited for");

        let script = format!("sleep 600 & echo $! > {}; mv {0} {0}.done", mark.display());
        let mut parent = start(&script);
        parent.child().wait().await.unwrap();
        let left: u32 = std::fs::read_to_string(mark.with_extension("done")).unwrap().trim().parse().unwrap();
        assert!(is_there(left));
        kill_those_with("SHOAL_BENCH_TEST", folder.path().as_os_str());
        // Nobody here is its parent any more: whoever is has yet to notice.
        let state = std::fs::read_to_string(format!("/proc/{left}/stat")).unwrap_or_default();
        assert!(state.is_empty() || !state.contains(") S "), "{state}");
    }
}
