//! Slurm on one node: its controller, its daemon for the node, and munge, by which they know each other. All in one folder,
//! on loopback, at ports that were free.

mod setting;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::process::Command;

use self::setting::Setting;
use super::LOOK_EVERY;
use super::child::{Daemon, find, kill_those_with, run};
use super::figures::{Kill, Round, System};
use crate::bench::times::median;

pub(super) const NAME: &str = "Slurm";
pub(super) const INSTALL: &str = "apt-get install --no-install-recommends slurm-wlm munge";

/// Jobs of a round that are handed over one after the other. Why 100: it runs some 40 of them a second.
const JOBS: u32 = 100;
/// Jobs of a round each of which is waited for before the next.
const SINGLE: u32 = 10;
/// Jobs that wait when the controller is killed.
const KILL_JOBS: u32 = 100;
/// How long it may take to be ready for jobs. Why a minute: the controller asks the node's daemon in its own time.
const READY_MAX: Duration = Duration::from_secs(60);
/// How long jobs that do nothing may take to end.
const END_MAX: Duration = Duration::from_secs(120);
/// How often the queue is asked whether it is empty: each time by a process, and the controller answers it.
const ASK_EVERY: Duration = Duration::from_millis(100);
/// How often a file is looked for.
const FILE_EVERY: Duration = Duration::from_micros(300);
/// By which its programs know where all is, and by which they are found when they are left behind.
const WHERE: &str = "SLURM_CONF";

/// The programs, as they were found.
#[derive(Debug, Clone)]
struct Programs {
    munged: PathBuf,
    slurmctld: PathBuf,
    slurmd: PathBuf,
    sbatch: PathBuf,
    squeue: PathBuf,
    scancel: PathBuf,
    sinfo: PathBuf,
}

impl Programs {
    fn find() -> anyhow::Result<Self> {
        let there = |program: &str| find(program).with_context(|| format!("{program} is not installed"));
        Ok(Self {
            munged: there("munged")?,
            slurmctld: there("slurmctld")?,
            slurmd: there("slurmd")?,
            sbatch: there("sbatch")?,
            squeue: there("squeue")?,
            scancel: there("scancel")?,
            sinfo: there("sinfo")?,
        })
    }
}

/// Slurm, running.
pub(super) struct Slurm {
    programs: Programs,
    setting: Setting,
    version: String,
    controller: Option<Daemon>,
    node: Option<Daemon>,
    munge: Option<Daemon>,
}

impl Slurm {
    /// Starts it in this folder, with so many processors for jobs.
    pub(super) async fn start(folder: &Path, slots: u32) -> anyhow::Result<Self> {
        let programs = Programs::find()?;
        let setting = Setting::new(folder, slots)?;
        let version = run(Command::new(&programs.slurmctld).arg("-V")).await?;
        let version = version.split_whitespace().last().unwrap_or_default().to_owned();
        let mut slurm = Self { programs, setting, version, controller: None, node: None, munge: None };
        slurm.start_munge().await?;
        slurm.start_controller()?;
        let mut node = Command::new(&slurm.programs.slurmd);
        node.arg("-D").arg("-f").arg(slurm.setting.conf());
        slurm.node = Some(slurm.daemon(node, "slurmd")?);
        slurm.ready().await?;
        Ok(slurm)
    }

    pub(super) fn system(&self) -> System {
        System {
            name: NAME,
            version: self.version.clone(),
            acknowledged: "the job is in its controller's memory, and written down later",
            rounds: Vec::new(),
        }
    }

    async fn start_munge(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.programs.munged);
        command.args(["--foreground", "--force", "--num-threads=2"]).args(self.setting.munge());
        self.munge = Some(self.daemon(command, "munged")?);
        let deadline = Instant::now() + READY_MAX;
        while !self.setting.socket().exists() {
            ensure!(Instant::now() < deadline, "munged does not listen");
            self.check()?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    fn start_controller(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new(&self.programs.slurmctld);
        command.arg("-D").arg("-f").arg(self.setting.conf());
        self.controller = Some(self.daemon(command, "slurmctld")?);
        Ok(())
    }

    fn daemon(&self, mut command: Command, name: &str) -> anyhow::Result<Daemon> {
        command.env(WHERE, self.setting.conf()).stdin(std::process::Stdio::null()).stdout(std::process::Stdio::null());
        Daemon::start(&mut command, &self.setting.log(name))
    }

    /// Fails if one of the daemons has ended by itself.
    fn check(&mut self) -> anyhow::Result<()> {
        for (daemon, name) in
            [(&mut self.munge, "munged"), (&mut self.controller, "slurmctld"), (&mut self.node, "slurmd")]
        {
            if let Some(daemon) = daemon {
                daemon.check(&self.setting.log(name))?;
            }
        }
        Ok(())
    }

    /// Runs one of its programs.
    async fn ask(&self, program: &Path, arguments: &[&str]) -> anyhow::Result<String> {
        run(Command::new(program).args(arguments).env(WHERE, self.setting.conf()).current_dir(self.setting.folder()))
            .await
    }

    /// Waits until its node is there for jobs. A controller that was killed may think for a while that one still runs there.
    async fn ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_MAX;
        loop {
            self.check()?;
            // Nobody answers until the controller is up.
            let state = self.ask(&self.programs.sinfo, &["-h", "-o", "%T"]).await.unwrap_or_default();
            if ["idle", "mixed", "allocated"].contains(&state.as_str()) {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "its node is not there: {state:?}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Hands over a job of this shell command: its id, once that is acknowledged.
    async fn submit(&self, more: &[&str], command: &str) -> anyhow::Result<u64> {
        let arguments = [&["--parsable", "-n1", "-o", "/dev/null"], more, &["--wrap", command]].concat();
        let id = self.ask(&self.programs.sbatch, &arguments).await?;
        id.parse().with_context(|| format!("sbatch says {id:?}"))
    }

    /// The jobs that have not ended.
    async fn queue(&self) -> anyhow::Result<BTreeSet<u64>> {
        let ids = self.ask(&self.programs.squeue, &["-h", "-o", "%A"]).await?;
        ids.lines().map(|id| id.trim().parse().with_context(|| format!("squeue says {id:?}"))).collect()
    }

    async fn drained(&self) -> anyhow::Result<()> {
        let deadline = Instant::now() + END_MAX;
        loop {
            let left = self.queue().await?.len();
            if left == 0 {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "{left} jobs that do nothing have not ended");
            tokio::time::sleep(ASK_EVERY).await;
        }
    }

    pub(super) async fn round(&mut self, number: u32) -> anyhow::Result<Round> {
        let begun = Instant::now();
        for _ in 0..JOBS {
            self.submit(&[], "true").await?;
        }
        let handed = begun.elapsed();
        self.drained().await?;
        let ended = begun.elapsed();
        let mut results = Vec::new();
        for single in 0..SINGLE {
            let file = self.setting.folder().join(format!("effect-{number}-{single}"));
            results.push(self.effect(&file).await?.as_secs_f64() * 1_000.0);
        }
        self.drained().await?;
        let rate = |time: Duration| f64::from(JOBS) / time.as_secs_f64();
        Ok(Round {
            jobs: JOBS,
            submits_per_second: rate(handed),
            jobs_per_second: rate(ended),
            result_p50_ms: median(results),
            kill: Some(self.kill().await?),
        })
    }

    /// From the submission of a job that makes this file until it is there.
    async fn effect(&self, file: &Path) -> anyhow::Result<Duration> {
        let text = file.to_str().context("the folder's name is no text")?;
        let begun = Instant::now();
        self.submit(&[], &format!("touch '{text}'")).await?;
        while !file.exists() {
            if begun.elapsed() > END_MAX {
                bail!("a job that makes a file has not made it");
            }
            tokio::time::sleep(FILE_EVERY).await;
        }
        Ok(begun.elapsed())
    }

    /// Kills the controller when it has acknowledged jobs that wait, starts it again, and counts those that are gone.
    async fn kill(&mut self) -> anyhow::Result<Kill> {
        let mut acknowledged = BTreeSet::new();
        for _ in 0..KILL_JOBS {
            acknowledged.insert(self.submit(&["--hold"], "true").await?);
        }
        if let Some(controller) = self.controller.take() {
            controller.kill().await?;
        }
        self.start_controller()?;
        self.ready().await?;
        let there = self.queue().await?;
        let lost = acknowledged.difference(&there).count();
        if !there.is_empty() {
            let ids: Vec<String> = there.iter().map(u64::to_string).collect();
            let ids = ids.iter().map(String::as_str);
            self.ask(&self.programs.scancel, &std::iter::once("--quiet").chain(ids).collect::<Vec<_>>()).await?;
            self.drained().await?;
        }
        Ok(Kill { acknowledged: KILL_JOBS, lost: u32::try_from(lost)? })
    }

    /// Stops its daemons.
    pub(super) async fn stop(mut self) {
        for daemon in [self.node.take(), self.controller.take(), self.munge.take()].into_iter().flatten() {
            daemon.stop().await;
        }
    }
}

impl Drop for Slurm {
    fn drop(&mut self) {
        drop((self.node.take(), self.controller.take(), self.munge.take()));
        // The steps of its jobs are processes that have left their parent.
        kill_those_with(WHERE, self.setting.conf().as_os_str());
    }
}
