//! Starts, adopts, restarts and stops the node's own worker process.
//!
//! Owns the folder `worker` in the data folder: the key that the local worker shows, the address file by which it finds its
//! node again, and its log. The lock in that folder is the worker's. The node starts the supervisor when its gateway listens, and stops it
//! before the gateway, since a worker is asked to leave over its connection.
//!
//! A worker that runs another program than a new one would (the node was upgraded), or that was started with other
//! settings, is adopted all the same, and then replaced: it takes no new runs, ends those that it has, and leaves.
//!
//! What always holds: as long as somebody holds the lock, a worker lives and no second one is started; the kernel is told
//! of a death only when the process is known to be dead, and then always; a child of ours is always reaped; a worker
//! survives the death of its node, and the next node adopts it; a worker that is replaced loses no run.

mod process;
pub(crate) mod program;

use std::ffi::OsString;
use std::future::Future;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use shoal_kernel::Input;
use shoal_protocol::WorkerId;
use shoal_protocol::wire::worker::ToWorker;
use shoal_transport::NodeAddr;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use crate::gateway::LocalWorker;
use crate::identity::files;
use crate::runtime::Runtime;
use process::Process;

/// The pause before a worker that died is started again; doubled each time, up to the maximum.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// Why 5 s: a worker that cannot start costs next to nothing, and one that can again is soon there.
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A worker that lived this long was well: the next pause is short again.
const WELL_AFTER: Duration = Duration::from_secs(10);
/// How long runs may go on once the node stops.
const LEAVE_MAX: Duration = Duration::from_secs(10);
/// How long a worker that was told to stop at once may take, and again after each stronger word.
const STOP_MAX: Duration = Duration::from_secs(3);
/// How long an adopted worker may take to attach. Why 30 s: its leases have ended by then, so that nothing it has counts any
/// more; and a worker that does not speak to its node, maybe since it knows another protocol, is of no use to it.
pub(crate) const ATTACH_MAX: Duration = Duration::from_secs(30);
/// The connection of a worker that has never attached to this node: none has this number.
const NO_CONNECTION: u64 = 0;

/// Which process, where, and for which node.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// The node's data folder.
    pub(crate) data: PathBuf,
    /// The program: this one.
    pub(crate) program: PathBuf,
    /// Its arguments.
    pub(crate) args: Vec<OsString>,
    /// Where the worker finds its node.
    pub(crate) address: NodeAddr,
    /// The id that the worker has at its node.
    pub(crate) worker: WorkerId,
    /// How long a worker that is adopted may take to attach: [`ATTACH_MAX`].
    pub(crate) attach_max: Duration,
    /// Changes when somebody wants a fresh worker in the place of the one that runs.
    pub(crate) replace: watch::Receiver<()>,
}

/// The files of the local worker.
#[derive(Debug, Clone)]
struct Folder {
    lock: PathBuf,
    key: PathBuf,
    address: PathBuf,
    log: PathBuf,
}

impl Folder {
    fn of(data: &Path) -> Self {
        let folder = data.join("worker");
        let file = |name| folder.join(name);
        Self { lock: file("lock"), key: file("key"), address: file("address"), log: file("worker.log") }
    }
}

/// A running supervisor. Dropped without [`Supervisor::stop`] it leaves the worker alone.
pub(crate) struct Supervisor {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Supervisor {
    /// Makes the key at first use, writes the address file, adopts the worker that lives or starts one, and keeps one alive from then on.
    pub(crate) fn start(settings: Settings, local: LocalWorker, runtime: Runtime) -> io::Result<Self> {
        Self::start_with(settings, local, move |input| {
            let runtime = runtime.clone();
            async move { runtime.input(input).await }
        })
    }

    fn start_with<R, F>(settings: Settings, local: LocalWorker, report: R) -> io::Result<Self>
    where
        R: Fn(Input) -> F + Send + Sync + 'static,
        F: Future<Output = ()> + Send + 'static,
    {
        let folder = Folder::of(&settings.data);
        files::make_folder(&settings.data.join("worker")).map_err(io::Error::other)?;
        files::read_or_create_key(&folder.key).map_err(io::Error::other)?;
        files::write_private(&folder.address, format!("{}\n", settings.address).as_bytes())?;
        let stop = CancellationToken::new();
        let keeper = Keeper { settings, folder, local, report, stop: stop.clone() };
        Ok(Self { task: tokio::spawn(keeper.run()), stop })
    }

    /// Asks the worker to leave, insists if it does not, and returns when it is gone: after about 20 s at the worst.
    pub(crate) async fn stop(self) {
        self.stop.cancel();
        if let Err(error) = self.task.await {
            tracing::error!(%error, "the supervisor failed");
        }
    }
}

struct Keeper<R> {
    settings: Settings,
    folder: Folder,
    local: LocalWorker,
    report: R,
    stop: CancellationToken,
}

impl<R, F> Keeper<R>
where
    R: Fn(Input) -> F + Send + Sync + 'static,
    F: Future<Output = ()> + Send + 'static,
{
    async fn run(self) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.find().await {
                Ok(mut process) => {
                    let since = Instant::now();
                    let stopping = self.look_after(&mut process).await;
                    self.report_death().await;
                    if stopping {
                        return;
                    }
                    if since.elapsed() >= WELL_AFTER {
                        pause = PAUSE_MIN;
                    }
                }
                Err(error) => {
                    let program = self.settings.program.display();
                    tracing::warn!(%error, %program, "the node's worker cannot be started; jobs wait");
                }
            }
            tokio::select! {
                () = sleep(pause) => {}
                () = self.stop.cancelled() => return,
            }
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// The worker that lives, or a new one.
    async fn find(&self) -> io::Result<Process> {
        if let Some(process) = Process::adopt(&self.folder.lock)? {
            tracing::info!(pid = process.pid(), "the node's worker still lives and is adopted");
            return Ok(process);
        }
        // The one before may have died while no node was there to see it: its runs need not wait for their leases.
        self.report_death().await;
        let process = Process::spawn(&self.settings.program, &self.settings.args, &self.folder.log)?;
        tracing::info!(pid = process.pid(), "the node's worker is started");
        Ok(process)
    }

    /// Returns when the process is dead, or is given up. Whether the node stops.
    async fn look_after(&self, process: &mut Process) -> bool {
        let mut asked = self.settings.replace.clone();
        asked.mark_unchanged();
        let mut replacing = self.is_outdated(process).await;
        // The attachment that was last seen; none: it has not attached.
        let mut seen = None;
        let attach_by = Instant::now() + self.settings.attach_max;
        loop {
            if replacing && seen.is_some() {
                // Said again on each attachment: the former may have ended before it was heard.
                self.local.tell(ToWorker::Stop { now: false });
            }
            tokio::select! {
                biased;
                () = self.stop.cancelled() => {
                    self.end(process).await;
                    return true;
                }
                ended = process.ended() => {
                    self.tell_of_end(&ended, replacing);
                    return false;
                }
                connection = self.local.other_than(seen) => seen = Some(connection),
                Ok(()) = asked.changed(), if !replacing => {
                    tracing::info!("the node's worker is replaced, as was asked: it takes no new runs and ends those that it has");
                    replacing = true;
                }
                () = sleep_until(attach_by), if process.is_adopted() && seen.is_none() => {
                    let waited_s = self.settings.attach_max.as_secs();
                    tracing::warn!(waited_s, "the adopted worker does not attach; it is ended and another is started");
                    self.end(process).await;
                    return false;
                }
            }
        }
    }

    /// Whether an adopted process differs from one that would be started now. One that cannot be looked at does not.
    async fn is_outdated(&self, process: &Process) -> bool {
        let Some(pid) = process.pid().filter(|_| process.is_adopted()) else { return false };
        let Settings { program, args, .. } = self.settings.clone();
        let looked = tokio::task::spawn_blocking(move || program::is_run_by(pid, &program, &args)).await;
        match looked.map_err(io::Error::other).flatten() {
            Ok(true) => false,
            Ok(false) => {
                tracing::info!(
                    pid,
                    "the adopted worker runs another program or has other settings: it takes no new runs, ends those that \
                     it has, and is then replaced"
                );
                true
            }
            Err(error) => {
                tracing::debug!(%error, pid, "what the adopted worker runs cannot be looked at; it is taken as it is");
                false
            }
        }
    }

    fn tell_of_end(&self, ended: &process::Ended, replacing: bool) {
        let log = self.folder.log.display();
        match ended {
            _ if replacing => tracing::info!("the worker that is replaced has ended; another is started"),
            process::Ended::Own(status) if status.success() => tracing::info!("the node's worker has left"),
            process::Ended::Own(status) => tracing::warn!(%status, %log, "the node's worker died; another is started"),
            process::Ended::Adopted => tracing::warn!(%log, "the adopted worker has ended; another is started"),
        }
    }

    /// The process is dead: its connection ends, and its runs are lost at once. Also those that it had from a former node,
    /// if it has not attached to this one.
    async fn report_death(&self) {
        let (worker, connection) = self.local.died().unwrap_or((self.settings.worker, NO_CONNECTION));
        (self.report)(Input::WorkerDetached { worker, connection, dead: true }).await;
    }

    /// Ends the process: first by word over its connection, then by signals.
    async fn end(&self, process: &mut Process) {
        if self.local.tell(ToWorker::Stop { now: false }) {
            if timeout(LEAVE_MAX, process.ended()).await.is_ok() {
                return;
            }
            if self.local.tell(ToWorker::Stop { now: true }) && timeout(STOP_MAX, process.ended()).await.is_ok() {
                return;
            }
        }
        for signal in [rustix::process::Signal::TERM, rustix::process::Signal::KILL] {
            if !process.signal(signal) {
                tracing::warn!(pid = process.pid(), "the worker cannot be signalled and is left alone");
                return;
            }
            if timeout(STOP_MAX, process.ended()).await.is_ok() {
                return;
            }
        }
        tracing::warn!(pid = process.pid(), "the worker does not end; it is left to the system");
    }
}

/// To be called by the node's own worker when it begins: a session of its own, so that what ends the node's terminal or
/// process group does not end the worker.
pub(crate) fn own_session() {
    if let Err(error) = rustix::process::setsid() {
        tracing::debug!(%error, "the worker stays in the session that it was started in");
    }
}

#[cfg(test)]
mod tests;
