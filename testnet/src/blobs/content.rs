//! A file that nothing can make shorter, with other bytes in each round.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Where the bytes come from.
const RANDOM: &str = "/dev/urandom";

/// The file.
pub(super) struct Content {
    path: PathBuf,
    len: u64,
}

impl Content {
    /// Writes a file of so many bytes into `folder`.
    pub(super) fn make(folder: &Path, len: u64) -> anyhow::Result<Self> {
        let path = folder.join("content");
        let mut random = File::open(RANDOM)?.take(len);
        let mut file = File::create(&path)?;
        std::io::copy(&mut random, &mut file).context("making the content")?;
        file.sync_all()?;
        Ok(Self { path, len })
    }

    /// Makes it other content of the same length.
    pub(super) fn change(&self, round: u32) -> anyhow::Result<()> {
        let mut file = File::options().write(true).open(&self.path)?;
        let stamp = round.to_le_bytes();
        let len = usize::try_from(self.len).unwrap_or(stamp.len()).min(stamp.len());
        file.write_all(stamp.get(..len).unwrap_or_default())?;
        Ok(file.sync_all()?)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// In bytes.
    pub(super) fn len(&self) -> u64 {
        self.len
    }
}
