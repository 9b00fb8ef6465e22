//! One worker process: a child of ours, or one that a former node left behind.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use tokio::process::{Child, Command};

/// A worker's log is begun anew when it is longer than this, in bytes. Why 8 MiB: weeks of a healthy worker.
const LOG_LEN_MAX: u64 = 8 * 1024 * 1024;
/// How often the lock of an adopted worker is tried. Why 200 ms: a dead worker is soon replaced, and a try costs some
/// microseconds. Why not a wait on its process handle: registering one with tokio takes `unsafe`, and the system frees
/// the lock at the same instant.
const LOCK_TRIED_EVERY: Duration = Duration::from_millis(200);

/// How a process ended.
#[derive(Debug)]
pub(super) enum Ended {
    /// A child of ours, reaped.
    Own(ExitStatus),
    /// Another's: how is not known.
    Adopted,
}

/// A worker process.
#[derive(Debug)]
pub(super) enum Process {
    /// A child of ours.
    Own(Child),
    /// A former node's child.
    Adopted {
        /// Its handle: refers to this process for ever, also when its number is given to another. None where the lock
        /// does not say whose it is.
        handle: Option<(u32, OwnedFd)>,
        /// The lock that it holds as long as it lives.
        lock: PathBuf,
    },
}

impl Process {
    /// The process that holds the lock; none if nobody does.
    pub(super) fn adopt(lock: &Path) -> io::Result<Option<Self>> {
        if !is_held(lock)? {
            return Ok(None);
        }
        let handle = owner(lock).and_then(open);
        // The process that the lock names is the one behind the handle only if it still held the lock after the handle
        // was opened.
        if !is_held(lock)? {
            return Ok(None);
        }
        Ok(Some(Self::Adopted { handle, lock: lock.into() }))
    }

    /// Starts a child. It makes a session of its own, see [`super::own_session`]: not in a process group of its own from
    /// here, whose leader may not. What it prints goes into the log.
    pub(super) fn spawn(program: &Path, args: &[OsString], log: &Path) -> io::Result<Self> {
        let too_long = std::fs::metadata(log).is_ok_and(|metadata| metadata.len() > LOG_LEN_MAX);
        let out = OpenOptions::new().create(true).append(true).mode(0o600).open(log)?;
        if too_long {
            out.set_len(0)?;
        }
        let errors = out.try_clone()?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(out).stderr(errors).kill_on_drop(false);
        Ok(Self::Own(command.spawn()?))
    }

    /// Its number; none where it is not known, or was reaped.
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Own(child) => child.id(),
            Self::Adopted { handle, .. } => handle.as_ref().map(|(pid, _)| *pid),
        }
    }

    /// Whether a former node started it.
    pub(super) fn is_adopted(&self) -> bool {
        matches!(self, Self::Adopted { .. })
    }

    /// Completes when it is dead. May be dropped and called again.
    pub(super) async fn ended(&mut self) -> Ended {
        match self {
            Self::Own(child) => match child.wait().await {
                Ok(status) => Ended::Own(status),
                // Somebody else has reaped it, which nobody does: it is gone either way.
                Err(_) => Ended::Adopted,
            },
            Self::Adopted { lock, .. } => {
                while is_held(lock).unwrap_or(true) {
                    tokio::time::sleep(LOCK_TRIED_EVERY).await;
                }
                Ended::Adopted
            }
        }
    }

    /// Signals it; `false` where it cannot be.
    pub(super) fn signal(&self, signal: Signal) -> bool {
        match self {
            // Not reaped, or it would have no number: the number is its own.
            Self::Own(child) => child.id().and_then(to_pid).is_some_and(|pid| kill_process(pid, signal).is_ok()),
            Self::Adopted { handle, .. } => {
                handle.as_ref().is_some_and(|(_, handle)| pidfd_send_signal(handle, signal).is_ok())
            }
        }
    }
}

/// Whether somebody holds the lock.
fn is_held(lock: &Path) -> io::Result<bool> {
    let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(lock)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        // Ours now; given back with the file.
        Ok(()) => Ok(false),
        Err(rustix::io::Errno::WOULDBLOCK) => Ok(true),
        Err(error) => Err(error.into()),
    }
}

/// The process number that the holder of the lock wrote into it.
fn owner(lock: &Path) -> Option<u32> {
    let mut text = String::new();
    File::open(lock).ok()?.take(32).read_to_string(&mut text).ok()?;
    text.split_whitespace().next()?.parse().ok()
}

fn open(pid: u32) -> Option<(u32, OwnedFd)> {
    Some((pid, pidfd_open(to_pid(pid)?, PidfdFlags::empty()).ok()?))
}

fn to_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}
