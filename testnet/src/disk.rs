//! Small disks of a node's own, so that they can be full: file systems in memory that only the node sees, in a mount
//! namespace that a process of its own keeps.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead as _, BufReader, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, bail};

/// What is written at once while the disk is filled: at last single bytes.
const FILLER_LENS: [usize; 3] = [1024 * 1024, 4096, 1];
/// Mounts one over each folder, of the size before it, says so, and keeps them until standard input ends.
const HOLD: &str = r#"while [ $# -gt 0 ]; do mkdir -p "$2" && mount -t tmpfs -o "size=$1,mode=700" tmpfs "$2" || exit 1; shift 2; done
echo mounted && exec cat"#;

/// A disk, with others in folders of it. Dropped, they are gone with all that is on them.
#[derive(Debug)]
pub struct Disk {
    holder: Child,
    folder: PathBuf,
}

impl Disk {
    /// A disk of so many MiB in the place of a folder.
    ///
    /// # Errors
    /// When this machine does not let this user mount in a namespace of their own.
    pub fn new(folder: &Path, mib: u32) -> anyhow::Result<Self> {
        Self::with_parts(folder, mib, &[])
    }

    /// The same, with disks of their own in the place of folders below it.
    ///
    /// # Errors
    /// As [`Disk::new`].
    pub fn with_parts(folder: &Path, mib: u32, parts: &[(&str, u32)]) -> anyhow::Result<Self> {
        let mut command = Command::new("unshare");
        command.arg("--mount").args((!is_root()).then_some(["--user", "--map-root-user"]).into_iter().flatten());
        command.args(["sh", "-c", HOLD, "sh", &format!("{mib}m")]).arg(folder);
        for (part, mib) in parts {
            command.arg(format!("{mib}m")).arg(folder.join(part));
        }
        let mut holder = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("starting unshare")?;
        let mut said = String::new();
        let stdout = holder.stdout.take().context("unshare has no standard output")?;
        BufReader::new(stdout).read_line(&mut said)?;
        if said.trim() != "mounted" {
            let mut why = String::new();
            holder.stderr.take().context("unshare has no standard error")?.read_to_string(&mut why)?;
            holder.wait()?;
            bail!("no disk can be mounted: {}", why.trim());
        }
        Ok(Self { holder, folder: folder.to_owned() })
    }

    /// What is on it, as it is seen from outside.
    pub fn seen(&self) -> PathBuf {
        let inside = self.folder.strip_prefix("/").unwrap_or(&self.folder);
        Path::new("/proc").join(self.holder.id().to_string()).join("root").join(inside)
    }

    /// How a program is started that sees it: by these words before its own.
    pub(crate) fn launcher(&self) -> Vec<OsString> {
        let mut words =
            vec!["nsenter".into(), "--target".into(), self.holder.id().to_string().into(), "--mount".into()];
        if !is_root() {
            words.extend(["--user".into(), "--preserve-credentials".into()]);
        }
        words
    }

    /// Fills it to the last byte, also what has become free since.
    ///
    /// # Errors
    /// Any but that it is full.
    pub fn fill(&self) -> anyhow::Result<()> {
        self.fill_part("")
    }

    /// The same for the disk in this folder below it; "": itself.
    ///
    /// # Errors
    /// As [`Disk::fill`].
    pub fn fill_part(&self, part: &str) -> anyhow::Result<()> {
        let mut file = File::options().create(true).append(true).open(self.filler(part))?;
        for len in FILLER_LENS {
            let bytes = vec![0; len];
            loop {
                match file.write(&bytes) {
                    Ok(_) => {}
                    Err(error) if error.kind() == ErrorKind::StorageFull => break,
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }

    /// Gives back what [`Disk::fill`] has taken.
    ///
    /// # Errors
    /// When it was never filled.
    pub fn free(&self) -> anyhow::Result<()> {
        self.free_part("")
    }

    /// Gives back what [`Disk::fill_part`] has taken.
    ///
    /// # Errors
    /// When it was never filled.
    pub fn free_part(&self, part: &str) -> anyhow::Result<()> {
        Ok(std::fs::remove_file(self.filler(part))?)
    }

    fn filler(&self, part: &str) -> PathBuf {
        self.seen().join(part).join("filler")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.holder.kill());
        drop(self.holder.wait());
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
