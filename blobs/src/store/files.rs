//! The files below a store: where they are, how they get durable, what is left over from before.
//!
//! All calls here block; the callers run them where that is allowed. The layout is iroh-blobs' own: `blobs.db`,
//! `data/<hash>.<part>` and `temp/`. The file `lock` is ours.

use std::collections::HashSet;
use std::fs::{self, File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

use shoal_protocol::BlobId;

/// What belongs to a complete blob; other parts belong to partial ones.
const DATA: &str = "data";
const OUTBOARD: &str = "obao4";
/// A group of a blob, and what its hashes take: a pair for each two groups or pairs.
const GROUP_LEN: u64 = 16 * 1024;
const PAIR_LEN: u64 = 64;

/// Where everything is.
#[derive(Clone, Debug)]
pub(crate) struct Folder {
    root: PathBuf,
}

impl Folder {
    /// Makes the folder and what iroh-blobs expects below it.
    pub(crate) fn create(root: &Path) -> io::Result<Self> {
        fs::create_dir_all(root)?;
        // iroh-blobs refuses relative paths in places, and a later change of directory must not move the store.
        let folder = Self { root: root.canonicalize()? };
        fs::create_dir_all(folder.data())?;
        fs::create_dir_all(folder.temp())?;
        Ok(folder)
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("blobs.db")
    }

    fn data(&self) -> PathBuf {
        self.root.join("data")
    }

    fn temp(&self) -> PathBuf {
        self.root.join("temp")
    }

    fn part(&self, id: BlobId, part: &str) -> PathBuf {
        self.data().join(format!("{id}.{part}"))
    }

    /// Moves the blobs' files to another folder, and begins with none.
    pub(crate) fn set_data_aside(&self, to: &Path) -> io::Result<()> {
        fs::rename(self.data(), to)?;
        fs::create_dir_all(self.data())?;
        sync_folder(&self.root)
    }

    /// Takes the lock; `None`: somebody else has it. It ends with the file, or with the process.
    pub(crate) fn lock(&self) -> io::Result<Option<File>> {
        let file = File::options().create(true).truncate(false).write(true).open(self.root.join("lock"))?;
        match file.try_lock() {
            Ok(()) => Ok(Some(file)),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(cause)) => Err(cause),
        }
    }

    /// Makes the folders themselves durable: after this no power cut takes the store's own files away.
    pub(crate) fn sync_folders(&self) -> io::Result<()> {
        sync_folder(&self.data())?;
        sync_folder(&self.root)?;
        self.root.parent().map_or(Ok(()), sync_folder)
    }

    /// Makes one complete blob's files durable. The folder is synced apart, once for many: [`Folder::sync_data`].
    /// A blob up to `inline_len_max` has no data file, its bytes are in the database.
    pub(crate) fn sync_blob(&self, id: BlobId, size: u64, inline_len_max: u64) -> io::Result<()> {
        match File::open(self.part(id, DATA)) {
            Ok(file) => file.sync_data()?,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound && size <= inline_len_max => {}
            Err(cause) => return Err(cause),
        }
        match File::open(self.part(id, OUTBOARD)) {
            Ok(file) => file.sync_data(),
            // A small blob's outboard is in the database too.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(cause),
        }
    }

    /// Makes the names of the blobs' files durable.
    pub(crate) fn sync_data(&self) -> io::Result<()> {
        sync_folder(&self.data())
    }

    /// Whether the data file of a complete blob is there in its full length.
    pub(crate) fn is_whole(&self, id: BlobId, size: u64, inline_len_max: u64) -> bool {
        size <= inline_len_max || fs::metadata(self.part(id, DATA)).is_ok_and(|meta| meta.len() == size)
    }

    /// Removes the hashes' file of a complete blob whose hashes are in the database. iroh-blobs forgets it when a partial
    /// blob becomes complete.
    pub(crate) fn clear_inlined(&self, id: BlobId, size: u64, inline_len_max: u64) -> io::Result<()> {
        let hashes_len = size.div_ceil(GROUP_LEN).saturating_sub(1) * PAIR_LEN;
        if hashes_len > inline_len_max {
            return Ok(());
        }
        match fs::remove_file(self.part(id, OUTBOARD)) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => Err(cause),
            _ => Ok(()),
        }
    }

    /// Starts writing back what is being streamed in, so that the sync at the end has less to wait for: the temporary
    /// files, or the data file of a blob that is written where it will stay.
    pub(crate) fn write_back(&self, blob: Option<BlobId>) -> io::Result<()> {
        let sync = |path: &Path| match File::open(path) {
            Ok(file) => file.sync_data(),
            // Finished or given up meanwhile.
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(cause) => Err(cause),
        };
        match blob {
            Some(id) => sync(&self.part(id, DATA)),
            None => fs::read_dir(self.temp())?.try_for_each(|entry| sync(&entry?.path())),
        }
    }

    /// Bytes that an ordinary user may still write to this disk.
    pub(crate) fn free(&self) -> io::Result<u64> {
        let disk = rustix::fs::statvfs(&self.root)?;
        Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
    }

    /// Removes the temporary files of earlier instances. Only while none is open.
    pub(crate) fn clear_temp(&self) -> io::Result<()> {
        for entry in fs::read_dir(self.temp())? {
            fs::remove_file(entry?.path())?;
        }
        Ok(())
    }

    /// Removes the files of blobs that the database does not know: left by a kill between rename and commit. Returns
    /// how many. Only while nothing is being written.
    pub(crate) fn clear_orphans(&self, known: &HashSet<BlobId>) -> io::Result<u64> {
        let mut removed = 0;
        for entry in fs::read_dir(self.data())? {
            let path = entry?.path();
            let id = path.file_stem().and_then(|stem| stem.to_str()).and_then(|stem| stem.parse::<BlobId>().ok());
            // A file that is not named after a blob is not ours to remove.
            if id.is_some_and(|id| !known.contains(&id)) {
                fs::remove_file(&path)?;
                removed += 1;
            }
        }
        Ok(removed)
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
