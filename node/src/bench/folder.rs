//! The folder in which everything happens. It is removed at the end, whatever the end is.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

use crate::cli::size;

/// How a file system in memory names itself, see statfs(2).
const TMPFS: i64 = 0x0102_1994;
/// What is needed beside blobs, in bytes: journal, tables and compiled code.
const ROOM_LEN: u64 = 512 * 1024 * 1024;

/// A folder of this process.
pub(super) struct Folder(PathBuf);

impl Folder {
    /// A new folder below `parent`, or below the system's folder for temporary files.
    pub(super) fn new(parent: Option<&Path>) -> anyhow::Result<Self> {
        let parent = parent.map_or_else(std::env::temp_dir, Path::to_owned);
        let path = std::path::absolute(parent)?.join(format!("shoal-bench-{}", std::process::id()));
        std::fs::create_dir_all(&path).with_context(|| format!("making {}", path.display()))?;
        Ok(Self(path))
    }

    pub(super) fn path(&self) -> &Path {
        &self.0
    }

    /// Whether it is in memory, so that a sync costs nothing.
    pub(super) fn is_in_memory(&self) -> bool {
        rustix::fs::statfs(&self.0).is_ok_and(|system| system.f_type == TMPFS)
    }

    /// Refuses a disk that has no room for blobs of this length: the file, the node's copy and one that is being removed.
    pub(super) fn check_room(&self, blob_len: u64) -> anyhow::Result<()> {
        let disk = rustix::fs::statvfs(&self.0).with_context(|| format!("asking about {}", self.0.display()))?;
        let free = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed = blob_len.saturating_mul(3).saturating_add(ROOM_LEN);
        ensure!(
            free >= needed,
            "{} are free in {}, and blobs of {} need {}: choose another folder with --folder or a smaller --blob-size",
            size(free),
            self.0.display(),
            size(blob_len),
            size(needed)
        );
        Ok(())
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "the folder of the benchmark is left behind");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_with_all_that_is_in_it() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new(Some(parent.path())).unwrap();
        std::fs::write(folder.path().join("file"), "text").unwrap();
        drop(folder);
        assert_eq!(std::fs::read_dir(parent.path()).unwrap().count(), 0);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_both_lengths() {
        let parent = tempfile::tempdir().unwrap();
        let folder = Folder::new(Some(parent.path())).unwrap();
        let refused = folder.check_room(1 << 50).unwrap_err().to_string();
        assert!(refused.contains("1.0 PiB need 3.0 PiB") && refused.contains("--blob-size"), "{refused}");
    }
}
