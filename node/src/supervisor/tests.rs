//! The supervisor with processes that stand in for a worker.

use std::fs::{self, File};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{FlockOperation, flock};
use shoal_protocol::{NodeId, WorkerId};

use super::*;

const WORKER: WorkerId = WorkerId::MAX;

struct Setting {
    folder: tempfile::TempDir,
    local: LocalWorker,
    deaths: Arc<AtomicUsize>,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, local: LocalWorker::default(), deaths: Arc::default() }
    }

    /// A supervisor whose worker is this shell script; `$0` is the data folder.
    fn start(&self, script: &str) -> Supervisor {
        let data = self.folder.path().to_path_buf();
        let settings = Settings {
            args: vec!["-c".into(), script.into(), data.clone().into()],
            data,
            program: "/bin/sh".into(),
            address: NodeAddr { node: NodeId([1; 32]), host: "127.0.0.1".into(), port: 7 },
        };
        let deaths = Arc::clone(&self.deaths);
        Supervisor::start_with(settings, self.local.clone(), move |input| {
            assert!(matches!(input, Input::WorkerDetached { worker: WORKER, dead: true, .. }));
            deaths.fetch_add(1, Ordering::SeqCst);
            async {}
        })
        .expect("a supervisor")
    }

    fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.folder.path().join("pids")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    async fn until(&self, what: &str, condition: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + Duration::from_secs(20);
        while !condition(self) {
            assert!(Instant::now() < deadline, "{what} did not happen");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// Writes its number down and stays.
const STAYS: &str = "echo $$ >> \"$0/pids\"; exec sleep 600";

fn kill(pid: i32) {
    let pid = rustix::process::Pid::from_raw(pid).expect("a number");
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).expect("killed");
}

fn is_alive(pid: i32) -> bool {
    rustix::process::Pid::from_raw(pid).is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
}

#[tokio::test]
async fn a_worker_that_dies_is_reported_dead_and_started_again() {
    let setting = Setting::new();
    let supervisor = setting.start(STAYS);
    setting.until("the first start", |s| s.pids().len() == 1).await;
    let address = fs::read_to_string(setting.folder.path().join("worker/address")).expect("an address");
    assert_eq!(address, format!("quic://{}@127.0.0.1:7\n", "01".repeat(32)));
    let _says = setting.local.attach_for_test(WORKER, 1);
    kill(setting.pids()[0]);
    setting.until("the report", |s| s.deaths.load(Ordering::SeqCst) == 1).await;
    assert!(!setting.local.is_attached());
    setting.until("the second start", |s| s.pids().len() == 2).await;
    supervisor.stop().await;
    assert!(setting.pids().into_iter().all(|pid| !is_alive(pid)), "reaped");
}

#[tokio::test]
async fn a_worker_is_asked_before_it_is_signalled() {
    let setting = Setting::new();
    // Leaves at the word, and would not at the signal.
    let script = "trap '' TERM; echo $$ >> \"$0/pids\"; until [ -e \"$0/word\" ]; do sleep 0.01; done";
    let supervisor = setting.start(script);
    setting.until("the start", |s| s.pids().len() == 1).await;
    let mut says = setting.local.attach_for_test(WORKER, 1);
    let word = setting.folder.path().join("word");
    let listener = tokio::spawn(async move {
        assert_eq!(says.recv().await, Some(ToWorker::Stop { now: false }));
        fs::write(word, "").expect("written");
    });
    supervisor.stop().await;
    listener.await.expect("it was asked");
    assert!(!is_alive(setting.pids()[0]));
}

#[tokio::test]
async fn a_worker_that_hears_no_word_is_ended_by_force() {
    let setting = Setting::new();
    let supervisor = setting.start("trap '' TERM; echo $$ >> \"$0/pids\"; while :; do sleep 0.05; done");
    setting.until("the start", |s| s.pids().len() == 1).await;
    supervisor.stop().await;
    assert!(!is_alive(setting.pids()[0]));
}

#[tokio::test]
async fn a_worker_that_lives_is_adopted_and_replaced_only_when_it_is_dead() {
    let setting = Setting::new();
    let folder = setting.folder.path().join("worker");
    fs::create_dir(&folder).expect("a folder");
    // The worker of a former node: it holds the lock and has written its number into it.
    let mut former = std::process::Command::new("sleep").arg("600").spawn().expect("a process");
    fs::write(folder.join("lock"), former.id().to_string()).expect("written");
    let lock = File::open(folder.join("lock")).expect("a lock");
    flock(&lock, FlockOperation::LockExclusive).expect("locked");
    let adopted = Process::adopt(&folder.join("lock")).expect("looked at").expect("held");
    assert_eq!(adopted.pid(), Some(former.id()));

    let supervisor = setting.start(STAYS);
    let _says = setting.local.attach_for_test(WORKER, 1);
    // Time enough for a supervisor that does not see the lock to start another.
    tokio::task::yield_now().await;
    assert!(setting.pids().is_empty());
    former.kill().expect("killed");
    former.wait().expect("reaped");
    drop(lock);
    setting.until("the report", |s| s.deaths.load(Ordering::SeqCst) == 1).await;
    setting.until("the next start", |s| s.pids().len() == 1).await;
    supervisor.stop().await;
}

#[tokio::test]
async fn an_adopted_worker_whose_number_is_not_known_is_watched_but_not_signalled() {
    let setting = Setting::new();
    let path = setting.folder.path().join("lock");
    assert!(Process::adopt(&path).expect("looked at").is_none());
    let lock = File::open(&path).expect("a lock");
    flock(&lock, FlockOperation::LockExclusive).expect("locked");
    let mut adopted = Process::adopt(&path).expect("looked at").expect("held");
    assert_eq!((adopted.pid(), adopted.signal(rustix::process::Signal::TERM)), (None, false));
    assert!(timeout(Duration::from_millis(50), adopted.ended()).await.is_err());
    drop(lock);
    timeout(Duration::from_secs(10), adopted.ended()).await.expect("seen");
}

#[tokio::test]
async fn a_program_that_is_missing_is_tried_again_and_stopping_does_not_wait_for_it() {
    let setting = Setting::new();
    let settings = Settings {
        data: setting.folder.path().into(),
        program: "/nonexistent/shoal".into(),
        args: vec![],
        address: NodeAddr { node: NodeId([1; 32]), host: "127.0.0.1".into(), port: 7 },
    };
    let supervisor = Supervisor::start_with(settings, setting.local.clone(), |_| async {}).expect("a supervisor");
    timeout(Duration::from_secs(5), supervisor.stop()).await.expect("stopped");
}
