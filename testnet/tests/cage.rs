//! A run that is killed leaves nothing: no process, no network, and no folder once the next one has begun.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use shoal_testnet::cage;

const PATIENCE: Duration = Duration::from_secs(20);

fn testnet(temporary: &Path) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_shoal-testnet"));
    command.arg("networks").env("TMPDIR", temporary).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.spawn().unwrap()
}

/// Processes that were started inside for a folder in here.
fn insiders(temporary: &Path) -> Vec<PathBuf> {
    let wanted = format!("SHOAL_TESTNET_CAGE={}/", temporary.display());
    let inside = |process: &PathBuf| {
        let environment = std::fs::read(process.join("environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable.starts_with(wanted.as_bytes()))
    };
    std::fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path()).filter(inside).collect()
}

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_true() {
        assert!(Instant::now() < deadline, "{what}");
        std::thread::yield_now();
    }
}

fn folders(temporary: &Path) -> usize {
    std::fs::read_dir(temporary).unwrap().count()
}

#[test]
fn a_killed_run_leaves_no_process_and_the_next_one_removes_its_folder() {
    let temporary = tempfile::tempdir().unwrap();
    let mut run = testnet(temporary.path());
    if cage::obstacle().is_some() {
        let output = run.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains("networks need namespaces"), "{said}");
        return;
    }
    wait_until("nobody is inside", || insiders(temporary.path()).len() > 1);
    run.kill().unwrap();
    run.wait().unwrap();
    wait_until("somebody is still inside", || insiders(temporary.path()).is_empty());
    assert_eq!(folders(temporary.path()), 1, "the folder of a killed run stays until the next one");
    let mut next = testnet(temporary.path());
    wait_until("nobody is inside", || insiders(temporary.path()).len() > 1);
    assert_eq!(folders(temporary.path()), 1, "the next run has removed it");
    let pid = rustix::process::Pid::from_child(&next);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    assert_eq!(next.wait().unwrap().code(), Some(i32::from(cage::INTERRUPTED)));
    assert_eq!((folders(temporary.path()), insiders(temporary.path()).len()), (0, 0), "an interrupted run cleans up");
}
