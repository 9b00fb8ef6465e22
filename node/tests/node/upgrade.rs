//! The program is replaced while its node and its worker run.

use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::process::Pid;
use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{State, Submit};
use shoal_testnet::Node;

use crate::local_worker::{deploy, replaced, running, sleeper};
use crate::shoal;

/// A program of its own for one node.
struct Installed {
    _folder: tempfile::TempDir,
    program: PathBuf,
}

impl Installed {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let program = folder.path().join("shoal");
        // By another process: a file that this one has open for writing could not be started.
        run(Command::new("cp").arg(shoal()).arg(&program));
        Self { _folder: folder, program }
    }

    /// Puts another build in the place of the program, as a package manager does: it has a byte more.
    fn upgrade(&self) {
        let new = self.program.with_extension("new");
        run(Command::new("sh").args(["-c", "cp \"$0\" \"$1\" && printf x >> \"$1\""]).arg(&self.program).arg(&new));
        std::fs::rename(&new, &self.program).unwrap();
    }

    /// Whether the process runs what stands there now.
    fn is_run_by(&self, pid: Pid) -> bool {
        let exe = Path::new("/proc").join(pid.as_raw_nonzero().to_string()).join("exe");
        std::fs::read_link(exe).unwrap() == self.program
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success());
}

async fn succeeds(client: &Client, submit: &Submit) -> ObjectId {
    let id = client.submit(submit).await.unwrap();
    let job = client.wait(id, None, true).await.unwrap();
    assert_eq!(job.state, State::Succeeded, "{:?}", job.failure);
    id
}

#[tokio::test]
async fn a_worker_that_is_started_after_an_upgrade_is_the_new_program() {
    let installed = Installed::new();
    let mut node = Node::new(&installed.program).unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    deploy(&client).await;
    succeeds(&client, &sleeper(0)).await;
    let former = node.worker().unwrap();
    assert!(installed.is_run_by(former));
    installed.upgrade();
    assert!(!installed.is_run_by(former) && !installed.is_run_by(node.pid().unwrap()), "the old file is gone");
    assert!(node.kill_worker());
    let worker = replaced(&node, former).await;
    assert!(installed.is_run_by(worker));
    succeeds(&client, &sleeper(0)).await;
    client.close().await;
    node.stop().await.unwrap();
}

#[tokio::test]
async fn an_upgraded_node_adopts_the_old_worker_lets_its_jobs_end_and_replaces_it() {
    let installed = Installed::new();
    let mut node = Node::new(&installed.program).unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    deploy(&client).await;
    let long = running(&client, &sleeper(6_000)).await;
    client.close().await;
    let former = node.worker().unwrap();
    node.kill().unwrap();
    installed.upgrade();
    node.start().await.unwrap();
    assert_eq!(node.worker(), Some(former), "adopted");
    assert!(installed.is_run_by(node.pid().unwrap()) && !installed.is_run_by(former));

    // There is a free slot, and yet jobs wait for the new worker, from the moment on that the old one was told.
    let client = node.client().await.unwrap();
    let next = loop {
        let next = succeeds(&client, &sleeper(0)).await;
        if client.job(long, false).await.unwrap().state.is_settled() {
            break next;
        }
    };
    let worker = replaced(&node, former).await;
    assert!(installed.is_run_by(worker));
    let long = client.job(long, true).await.unwrap();
    assert_eq!((long.state, long.epoch, long.attempts.len()), (State::Succeeded, 1, 1), "{:?}", long.attempts);
    let next = client.job(next, true).await.unwrap();
    assert_eq!(next.attempts.len(), 1);
    assert!(next.attempts[0].offered_ms >= long.attempts[0].ended_ms.unwrap(), "it was not given to the old worker");

    // The new worker stays: a restart finds nothing to replace.
    client.close().await;
    node.kill().unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    succeeds(&client, &sleeper(0)).await;
    assert_eq!(node.worker(), Some(worker));
    client.close().await;
    node.stop().await.unwrap();
}
