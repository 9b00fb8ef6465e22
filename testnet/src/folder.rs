//! The folder of a run: all data folders and logs of its nodes. Locked while the run lasts, so that a later run finds and
//! removes what a killed one left.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use rustix::fs::{FlockOperation, flock};
use rustix::process::{Pid, Signal, kill_process};

/// The start of every folder's name.
const PREFIX: &str = "shoal-testnet-";
/// The file in it that is locked.
const LOCK: &str = "lock";

/// Where folders are that are written and read often, and that may be gone at any time: in memory, if there is such a place.
pub(crate) fn in_memory() -> PathBuf {
    let memory = PathBuf::from("/dev/shm");
    if memory.is_dir() { memory } else { std::env::temp_dir() }
}

/// A run's folder. Dropped, it is gone unless it is to be kept.
#[derive(Debug)]
pub struct Folder {
    folder: tempfile::TempDir,
    _lock: File,
}

impl Folder {
    /// A new one for temporary files. Removes first what killed runs left there: folders, and the processes that live in
    /// them.
    ///
    /// # Errors
    /// When no folder can be made.
    pub fn new(parent: &Path) -> anyhow::Result<Self> {
        remove_stale(parent);
        let folder = tempfile::Builder::new().prefix(PREFIX).tempdir_in(parent)?;
        // Under its name only once it is locked: another run that starts now takes no part of ours for a dead one's.
        let unnamed = folder.path().join("unlocked");
        let lock = File::create(&unnamed)?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).context("locking the folder of the run")?;
        std::fs::rename(unnamed, folder.path().join(LOCK))?;
        Ok(Self { folder, _lock: lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Leaves it where it is, for someone to look at.
    pub fn keep(mut self) -> PathBuf {
        drop(std::fs::remove_file(self.path().join(LOCK)));
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }
}

fn remove_stale(parent: &Path) {
    for entry in std::fs::read_dir(parent).into_iter().flatten().flatten() {
        let folder = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        // Whoever has the lock lives. A folder without one was left to be looked at.
        let Ok(lock) = File::open(folder.join(LOCK)) else { continue };
        if flock(&lock, FlockOperation::NonBlockingLockExclusive).is_ok() {
            kill_those_in(&folder);
            drop(std::fs::remove_dir_all(&folder));
        }
    }
}

/// Kills nodes and workers whose data folder is in there: they say so in their environment.
fn kill_those_in(folder: &Path) {
    let wanted = format!("SHOAL_DATA={}/", folder.display());
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw) else {
            continue;
        };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(wanted.as_bytes())) {
            // One that has ended meanwhile is no fault.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt as _;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_killed_run_left_is_removed_with_its_processes_and_what_runs_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let living = Folder::new(parent.path()).unwrap();
        let dead = parent.path().join(format!("{PREFIX}dead"));
        std::fs::create_dir(&dead).unwrap();
        File::create(dead.join(LOCK)).unwrap();
        let sleep =
            |folder: &Path| Command::new("sleep").arg("600").env("SHOAL_DATA", folder.join("node")).spawn().unwrap();
        let (mut in_dead, mut in_living) = (sleep(&dead), sleep(living.path()));
        let next = Folder::new(parent.path()).unwrap();
        assert_eq!(in_dead.wait().unwrap().signal(), Some(9));
        assert!(!dead.exists() && living.path().exists() && next.path().exists());
        assert_eq!(in_living.try_wait().unwrap(), None, "a run that goes on loses nothing");
        in_living.kill().unwrap();
        in_living.wait().unwrap();
    }

    #[test]
    fn a_folder_that_is_kept_stays_and_is_no_longer_taken_for_a_run() {
        let parent = tempfile::tempdir().unwrap();
        let kept = Folder::new(parent.path()).unwrap().keep();
        let next = Folder::new(parent.path()).unwrap();
        assert!(kept.exists() && next.path().exists());
    }
}
