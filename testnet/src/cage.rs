//! A run inside namespaces of its own, so that nothing of it can stay behind.
//!
//! The program starts itself again as the child of the first process of a new process namespace, with a network and
//! mounts of its own. The kernel ends every process in it when that first process ends, and takes networks and mounts
//! with them. The outer process holds the writing end of the inner one's standard input: when it ends, whichever way,
//! the inner one reads the end of it and leaves. What is left for us to clean up is one folder with a lock in it.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::process::{Child, ChildStdin, Command};
use tokio::signal::unix::{SignalKind, signal};

pub use crate::net::missing;

/// Set inside.
const INSIDE: &str = "SHOAL_TESTNET_CAGE";
/// `ip netns` keeps names in /run. The shell stays, as the first process: it collects what others leave.
const FIRST: &str = r#"mount -t tmpfs tmpfs /run && ip link set lo up && "$@"; exit $?"#;
/// What a cage is made with.
const TOOLS: [&str; 5] = ["unshare", "nsenter", "mount", "ip", "sh"];
/// How long the inside may take to leave when it is told to.
const LEAVE_MAX: Duration = Duration::from_secs(5);
/// The exit code after an interruption, as shells have it.
pub const INTERRUPTED: u8 = 130;

/// Whether this process is inside.
pub fn is_inside() -> bool {
    std::env::var_os(INSIDE).is_some()
}

/// Why this machine does not let this user make a cage; `None` if it does.
pub fn obstacle() -> Option<String> {
    let missing = missing(&TOOLS);
    if !missing.is_empty() {
        return Some(format!("missing: {} (Debian: apt install iproute2 util-linux)", missing.join(", ")));
    }
    let tried = std::process::Command::new("unshare").args(flags()).args(["sh", "-c", FIRST, "sh", "true"]).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(format!(
            "{}; run it as root, or let users make namespaces",
            String::from_utf8_lossy(&output.stderr).trim()
        )),
        Err(error) => Some(format!("unshare: {error}")),
    }
}

fn flags() -> Vec<&'static str> {
    let mut flags = vec!["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"];
    if !rustix::process::geteuid().is_root() {
        flags.extend(["--user", "--map-root-user"]);
    }
    flags
}

/// Starts this program again inside, with the same arguments and the folder of the run, and waits for its end. An
/// interruption ends the inside first. Its exit code.
///
/// # Errors
/// When it cannot be started.
pub async fn run_inside(folder: &Path) -> anyhow::Result<u8> {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let mut child = Command::new("unshare")
        .args(flags())
        .args(["sh", "-c", FIRST, "sh"])
        .arg(std::env::current_exe()?)
        .args(arguments)
        .env(INSIDE, folder)
        .stdin(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .context("starting unshare")?;
    // Taken out, as waiting would close it.
    let lifeline = child.stdin.take();
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    tokio::select! {
        status = child.wait() => Ok(code(status?)),
        _ = interrupt.recv() => leave(child, lifeline).await,
        _ = terminate.recv() => leave(child, lifeline).await,
    }
}

async fn leave(mut child: Child, lifeline: Option<ChildStdin>) -> anyhow::Result<u8> {
    drop(lifeline);
    if tokio::time::timeout(LEAVE_MAX, child.wait()).await.is_err() {
        child.kill().await?;
    }
    Ok(INTERRUPTED)
}

fn code(status: ExitStatus) -> u8 {
    status.code().and_then(|code| u8::try_from(code).ok()).unwrap_or(1)
}

/// Inside: the folder of the run. From now on this process leaves as soon as the outer one is gone.
///
/// # Errors
/// Outside.
pub fn settle_in() -> anyhow::Result<std::path::PathBuf> {
    let Some(folder) = std::env::var_os(INSIDE) else { bail!("this process is not inside a cage") };
    std::thread::Builder::new().name("lifeline".into()).spawn(|| {
        // It ends when the outer process has; nothing is ever written to it.
        drop(std::io::stdin().read_to_end(&mut Vec::new()));
        std::process::exit(i32::from(INTERRUPTED));
    })?;
    Ok(folder.into())
}
