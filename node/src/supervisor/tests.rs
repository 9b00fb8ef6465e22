//! The supervisor with processes that stand in for a worker.

use std::fs::{self, File};
use std::sync::{Arc, Mutex};

use rustix::fs::{FlockOperation, flock};
use shoal_protocol::{NodeId, WorkerId};

use super::*;

const WORKER: WorkerId = WorkerId::MAX;

struct Setting {
    folder: tempfile::TempDir,
    local: LocalWorker,
    /// The connections of the workers that were reported dead.
    deaths: Arc<Mutex<Vec<u64>>>,
    replace: watch::Sender<()>,
    attach_max: Duration,
}

impl Setting {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let (replace, _) = watch::channel(());
        Self { folder, local: LocalWorker::default(), deaths: Arc::default(), replace, attach_max: ATTACH_MAX }
    }

    fn settings(&self, program: &str, args: Vec<OsString>) -> Settings {
        Settings {
            data: self.folder.path().into(),
            program: program.into(),
            args,
            address: NodeAddr { node: NodeId([1; 32]), host: "127.0.0.1".into(), port: 7 },
            worker: WORKER,
            attach_max: self.attach_max,
            replace: self.replace.subscribe(),
        }
    }

    /// A supervisor whose worker is this shell script; `$0` is the data folder.
    fn start(&self, script: &str) -> Supervisor {
        let settings = self.settings("/bin/sh", vec!["-c".into(), script.into(), self.folder.path().into()]);
        let deaths = Arc::clone(&self.deaths);
        Supervisor::start_with(settings, self.local.clone(), move |input| {
            let Input::WorkerDetached { worker: WORKER, connection, dead: true } = input else { panic!("{input:?}") };
            deaths.lock().expect("whole").push(connection);
            async {}
        })
        .expect("a supervisor")
    }

    fn died(&self, connection: u64) -> bool {
        self.deaths.lock().expect("whole").contains(&connection)
    }

    fn pids(&self) -> Vec<i32> {
        let text = fs::read_to_string(self.folder.path().join("pids")).unwrap_or_default();
        text.lines().filter_map(|line| line.parse().ok()).collect()
    }

    async fn until(&self, what: &str, mut condition: impl FnMut(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !condition(self) {
            assert!(Instant::now() < deadline, "{what} did not happen");
            sleep(Duration::from_millis(5)).await;
        }
    }
}

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(20);
/// Writes its number down and stays.
const STAYS: &str = "echo $$ >> \"$0/pids\"; exec sleep 600";

/// The worker of a former node: it holds the lock and has written its number into it.
struct Former {
    process: std::process::Child,
    lock: Option<File>,
}

impl Former {
    fn start(folder: &Path, program: &str, args: &[&str]) -> Self {
        fs::create_dir_all(folder).expect("a folder");
        let process = std::process::Command::new(program).args(args).spawn().expect("a process");
        fs::write(folder.join("lock"), process.id().to_string()).expect("written");
        let lock = File::open(folder.join("lock")).expect("a lock");
        flock(&lock, FlockOperation::LockExclusive).expect("locked");
        Self { process, lock: Some(lock) }
    }

    /// Whether it lives. As the system does, gives its lock back when it does not.
    fn lives(&mut self) -> bool {
        let lives = self.process.try_wait().expect("looked at").is_none();
        if !lives {
            self.lock = None;
        }
        lives
    }

    fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("reaped");
        self.lock = None;
    }
}

impl Drop for Former {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

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
    setting.until("the report", |s| s.died(1)).await;
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
    let mut former = Former::start(&folder, "/bin/sleep", &["600"]);
    let adopted = Process::adopt(&folder.join("lock")).expect("looked at").expect("held");
    assert_eq!(adopted.pid(), Some(former.process.id()));

    let supervisor = setting.start(STAYS);
    let _says = setting.local.attach_for_test(WORKER, 1);
    // Time enough for a supervisor that does not see the lock to start another.
    tokio::task::yield_now().await;
    assert!(setting.pids().is_empty() && !setting.died(1) && !setting.died(NO_CONNECTION));
    former.kill();
    setting.until("the report", |s| s.died(1)).await;
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
    let settings = setting.settings("/nonexistent/shoal", vec![]);
    let supervisor = Supervisor::start_with(settings, setting.local.clone(), |_| async {}).expect("a supervisor");
    timeout(Duration::from_secs(5), supervisor.stop()).await.expect("stopped");
}

#[tokio::test]
async fn a_worker_that_died_while_no_node_was_there_is_reported_dead() {
    let setting = Setting::new();
    let supervisor = setting.start(STAYS);
    setting.until("the report", |s| s.died(NO_CONNECTION)).await;
    supervisor.stop().await;
}

#[tokio::test]
async fn an_adopted_worker_that_dies_before_it_attaches_is_reported_dead() {
    let setting = Setting::new();
    let folder = setting.folder.path().join("worker");
    let mut former = Former::start(&folder, "/bin/sleep", &["600"]);
    // No other worker can be started: the report is of the one that died.
    fs::create_dir(folder.join("worker.log")).expect("a folder in the log's place");
    let supervisor = setting.start(STAYS);
    tokio::task::yield_now().await;
    assert!(!setting.died(NO_CONNECTION), "it lives");
    former.kill();
    setting.until("the report", |s| s.died(NO_CONNECTION)).await;
    assert!(setting.pids().is_empty());
    supervisor.stop().await;
}

#[tokio::test]
async fn an_adopted_worker_of_another_program_is_asked_to_leave_whenever_it_attaches() {
    let setting = Setting::new();
    let folder = setting.folder.path().join("worker");
    let mut former = Former::start(&folder, "/bin/sleep", &["600"]);
    let supervisor = setting.start(STAYS);
    for connection in [1, 2] {
        let mut says = setting.local.attach_for_test(WORKER, connection);
        assert_eq!(timeout(PATIENCE, says.recv()).await.expect("told"), Some(ToWorker::Stop { now: false }));
    }
    assert!(is_alive(former.process.id().cast_signed()), "it may end what it runs");
    former.kill();
    setting.until("the next start", |s| s.pids().len() == 1).await;
    // The new one is ours: it is not asked.
    let mut says = setting.local.attach_for_test(WORKER, 3);
    setting.replace.send_replace(());
    assert_eq!(timeout(PATIENCE, says.recv()).await.expect("told"), Some(ToWorker::Stop { now: false }));
    assert!(says.try_recv().is_err(), "asked once");
    supervisor.stop().await;
}

#[tokio::test]
async fn an_adopted_worker_of_the_same_program_stays() {
    let setting = Setting::new();
    let folder = setting.folder.path().join("worker");
    let mut former = Former::start(&folder, "/bin/sleep", &["600"]);
    let settings = setting.settings("/bin/sleep", vec!["600".into()]);
    let supervisor = Supervisor::start_with(settings, setting.local.clone(), |_| async {}).expect("a supervisor");
    let mut says = setting.local.attach_for_test(WORKER, 1);
    assert!(timeout(Duration::from_millis(300), says.recv()).await.is_err(), "nobody has asked");
    setting.replace.send_replace(());
    assert_eq!(timeout(PATIENCE, says.recv()).await.expect("told"), Some(ToWorker::Stop { now: false }));
    former.kill();
    supervisor.stop().await;
}

#[tokio::test]
async fn an_adopted_worker_that_does_not_attach_is_ended_and_replaced() {
    let setting = Setting { attach_max: Duration::from_millis(50), ..Setting::new() };
    let folder = setting.folder.path().join("worker");
    let mut former = Former::start(&folder, "/bin/sleep", &["600"]);
    let supervisor = setting.start(STAYS);
    setting.until("the signal", |_| !former.lives()).await;
    setting.until("the next start", |s| s.pids().len() == 1).await;
    assert!(setting.died(NO_CONNECTION));
    supervisor.stop().await;
}
