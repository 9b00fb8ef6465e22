//! The folder of a Slurm, and its configuration.

use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use crate::bench::peers::child::find;

/// The length of munge's key, in bytes.
const KEY_LEN: usize = 128;

/// Where everything of a Slurm is.
#[derive(Debug)]
pub(super) struct Setting {
    folder: PathBuf,
}

impl Setting {
    /// Makes the folder, with a key for munge and the configuration.
    pub(super) fn new(folder: &Path, slots: u32) -> anyhow::Result<Self> {
        let setting = Self { folder: folder.to_owned() };
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(folder)
            .with_context(|| format!("making {}", folder.display()))?;
        for name in ["spool", "state"] {
            std::fs::create_dir(folder.join(name))?;
        }
        let munge = folder.join("munge");
        std::fs::create_dir(&munge)?;
        // Whoever has to do with munge passes through its folder; it refuses one that others cannot.
        std::fs::set_permissions(&munge, std::fs::Permissions::from_mode(0o711))?;
        setting.write_key()?;
        let host = std::fs::read_to_string("/proc/sys/kernel/hostname").context("asking for this machine's name")?;
        let host = host.trim().split('.').next().unwrap_or_default();
        let user = rustix::process::getuid().as_raw();
        let ports = free_ports()?;
        std::fs::write(setting.conf(), configuration(folder, host, user, ports, slots)?)?;
        Ok(setting)
    }

    fn write_key(&self) -> anyhow::Result<()> {
        let mut key = [0; KEY_LEN];
        getrandom::fill(&mut key).map_err(|error| anyhow!("no random numbers: {error}"))?;
        let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(self.key())?;
        std::io::Write::write_all(&mut file, &key)?;
        Ok(())
    }

    fn key(&self) -> PathBuf {
        self.folder.join("munge").join("key")
    }

    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(super) fn conf(&self) -> PathBuf {
        self.folder.join("slurm.conf")
    }

    /// Where a daemon says what goes wrong.
    pub(super) fn log(&self, daemon: &str) -> PathBuf {
        self.folder.join(format!("{daemon}.log"))
    }

    pub(super) fn socket(&self) -> PathBuf {
        socket(&self.folder)
    }

    /// The arguments of munge that say where everything is.
    pub(super) fn munge(&self) -> Vec<String> {
        let files = [
            ("key-file", "key"),
            ("pid-file", "pid"),
            ("log-file", "log"),
            ("seed-file", "seed"),
            ("socket", "socket"),
        ];
        let folder = self.folder.join("munge");
        files.iter().map(|(name, file)| format!("--{name}={}", folder.join(file).display())).collect()
    }
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("munge").join("socket")
}

/// Two ports of loopback at which nobody listens at the moment.
fn free_ports() -> anyhow::Result<[u16; 2]> {
    let (one, other) = (TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?);
    Ok([one.local_addr()?.port(), other.local_addr()?.port()])
}

/// As quick as it can be made: jobs are scheduled as they come, and nothing accounts for them. Why an epilog that does
/// nothing: its end lets the controller schedule at once. Without one it did so once a second, and ran 2 jobs a second.
fn configuration(folder: &Path, host: &str, user: u32, ports: [u16; 2], slots: u32) -> anyhow::Result<String> {
    let text = folder.to_str().context("the folder's name is no text")?;
    let socket = socket(folder);
    let epilog = find("true").context("there is no program `true`")?;
    let [controller, node] = ports;
    Ok(format!(
        "ClusterName=shoal-bench\n\
         SlurmctldHost={host}(127.0.0.1)\n\
         SlurmctldPort={controller}\n\
         SlurmdPort={node}\n\
         SlurmUser={user}\n\
         SlurmdUser={user}\n\
         AuthType=auth/munge\n\
         AuthInfo=socket={}\n\
         CommunicationParameters=NoInAddrAny,NoCtldInAddrAny\n\
         StateSaveLocation={text}/state\n\
         SlurmdSpoolDir={text}/spool\n\
         SlurmctldPidFile={text}/slurmctld.pid\n\
         SlurmdPidFile={text}/slurmd.pid\n\
         SlurmctldDebug=error\n\
         SlurmdDebug=error\n\
         SlurmdParameters=config_overrides\n\
         MpiDefault=none\n\
         ProctrackType=proctrack/pgid\n\
         JobAcctGatherType=jobacct_gather/none\n\
         AccountingStorageType=accounting_storage/none\n\
         SelectType=select/cons_tres\n\
         SelectTypeParameters=CR_Core\n\
         SchedulerType=sched/backfill\n\
         SchedulerParameters=batch_sched_delay=0,sched_min_interval=0,sched_interval=1,default_queue_depth=10000\n\
         MaxJobCount=100000\n\
         MinJobAge=2\n\
         ReturnToService=2\n\
         Epilog={epilog}\n\
         NodeName={host} NodeAddr=127.0.0.1 CPUs={slots} State=UNKNOWN\n\
         PartitionName=bench Nodes=ALL Default=YES MaxTime=INFINITE State=UP\n",
        socket.display(),
        epilog = epilog.display(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_in_one_folder_and_the_key_is_for_nobody_else() {
        let parent = tempfile::tempdir().unwrap();
        let folder = parent.path().join("slurm");
        let setting = Setting::new(&folder, 3).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&setting.key())), (0o700, 0o600));
        let text = std::fs::read_to_string(setting.conf()).unwrap();
        assert!(text.lines().all(|line| !line.starts_with(' ') && line.contains('=')), "{text}");
        assert!(text.contains("CPUs=3") && text.contains(&format!("AuthInfo=socket={}", setting.socket().display())));
        assert!(setting.munge().iter().all(|argument| argument.contains(folder.to_str().unwrap())));
        assert!(Setting::new(&folder, 3).is_err(), "it is there");
    }
}
