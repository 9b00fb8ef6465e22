//! Compiled code on disk, one file for each component and engine.
//!
//! A file's name is `COMPONENT.ENGINE.PROOF.cwasm`. The proof is keyed BLAKE3, under a key that never leaves this
//! machine, over the names and the code: code that was changed, cut, renamed or made elsewhere has another proof and is
//! removed. Whoever can read the key file can already act as the worker.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use shoal_protocol::BlobId;
use wasmtime::component::Component;

use crate::engine::Engine;

/// The file with the 32 bytes of the key.
pub(super) const KEY_FILE: &str = "key";
const EXTENSION: &str = "cwasm";
/// What is being written has this extension; what a crash left of it is removed at the next start.
const UNFINISHED: &str = "part";
/// Bytes read at once while a file is proven.
const READ_LEN: usize = 256 * 1024;

/// The files of one folder, for one engine.
pub(super) struct Disk {
    folder: PathBuf,
    key: [u8; 32],
    tag: String,
    bytes_max: u64,
}

impl Disk {
    /// Opens the folder, and makes it and its key if they are not there.
    pub(super) fn open(folder: &Path, tag: &str, bytes_max: u64) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
        let disk = Self { folder: folder.to_path_buf(), key: key(folder)?, tag: tag.into(), bytes_max };
        for path in disk.files(UNFINISHED)? {
            let _ = fs::remove_file(path);
        }
        Ok(disk)
    }

    /// The component, if a proven file of it is there.
    pub(super) fn load(&self, id: BlobId, engine: &Engine) -> Option<Component> {
        let prefix = self.prefix(id);
        let files = self.files(EXTENSION).ok()?;
        let path = files.into_iter().find(|path| name(path).is_some_and(|name| name.starts_with(&prefix)))?;
        match self.load_file(id, &path, engine) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::debug!(component = %id, error, "compiled code is not loaded, it is made anew");
                let _ = fs::remove_file(path);
                None
            }
        }
    }

    fn load_file(&self, id: BlobId, path: &Path, engine: &Engine) -> Result<Component, String> {
        let mut file = File::open(path).map_err(|error| error.to_string())?;
        let proof = self.prove(id, &mut file).map_err(|error| error.to_string())?;
        let claimed = name(path).and_then(|name| name.strip_prefix(&self.prefix(id))?.split('.').next());
        let claimed = claimed.and_then(|text| blake3::Hash::from_hex(text).ok()).ok_or("its name holds no proof")?;
        // `Hash` compares in constant time.
        if proof != claimed {
            return Err("its proof is not ours".into());
        }
        #[expect(
            unsafe_code,
            reason = "wasmtime trusts compiled code: the keyed hash just proved that this worker's machine made it"
        )]
        let component = unsafe { Component::deserialize_file(engine.wasm(), path) };
        // The time of the last use decides what leaves first.
        let _ = file.set_modified(SystemTime::now());
        component.map_err(|error| format!("{error:#}"))
    }

    /// Keeps compiled code. It is there whole or not at all.
    pub(super) fn store(&self, id: BlobId, code: &[u8]) -> io::Result<()> {
        let proof = self.prove(id, &mut &*code)?;
        let name = format!("{}{}", self.prefix(id), proof.to_hex());
        let unfinished = self.folder.join(format!("{name}.{}.{UNFINISHED}", std::process::id()));
        let written = write_new(&unfinished, code)
            .and_then(|()| fs::rename(&unfinished, self.folder.join(format!("{name}.{EXTENSION}"))));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        self.evict()
    }

    /// Removes the files that were not used for longest, until the rest is within the bound.
    fn evict(&self) -> io::Result<()> {
        let mut files: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for path in self.files(EXTENSION)? {
            if let Ok(metadata) = fs::metadata(&path) {
                files.push((metadata.modified()?, metadata.len(), path));
            }
        }
        files.sort();
        let mut total: u64 = files.iter().map(|(_, len, _)| len).sum();
        // The newest stays, whatever its size: it is about to be loaded.
        let but_newest = files.len().saturating_sub(1);
        for (_, len, path) in files.into_iter().take(but_newest) {
            if total <= self.bytes_max {
                break;
            }
            fs::remove_file(path)?;
            total -= len;
        }
        Ok(())
    }

    fn prefix(&self, id: BlobId) -> String {
        format!("{id}.{}.", self.tag)
    }

    fn prove(&self, id: BlobId, code: &mut impl io::Read) -> io::Result<blake3::Hash> {
        let mut hasher = blake3::Hasher::new_keyed(&self.key);
        hasher.update(self.prefix(id).as_bytes());
        let mut buffer = vec![0; READ_LEN];
        loop {
            let read = code.read(&mut buffer)?;
            match buffer.get(..read) {
                Some([]) | None => return Ok(hasher.finalize()),
                Some(bytes) => hasher.update(bytes),
            };
        }
    }

    fn files(&self, extension: &str) -> io::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.folder)? {
            let path = entry?.path();
            if path.extension().is_some_and(|found| found == extension) {
                files.push(path);
            }
        }
        Ok(files)
    }
}

fn name(path: &Path) -> Option<&str> {
    path.file_name()?.to_str()
}

/// The key in the folder. One that others could have read or written, or of another length, is replaced: with it goes
/// all that it proved.
fn key(folder: &Path) -> io::Result<[u8; 32]> {
    let path = folder.join(KEY_FILE);
    if let Ok(mut file) = File::open(&path) {
        let mut key = Vec::new();
        let private = file.metadata()?.permissions().mode() & 0o077 == 0;
        let own = file.metadata()?.uid() == fs::metadata(folder)?.uid();
        io::Read::by_ref(&mut file).take(33).read_to_end(&mut key)?;
        if private
            && own
            && let Ok(key) = <[u8; 32]>::try_from(key)
        {
            return Ok(key);
        }
        fs::remove_file(&path)?;
    }
    let mut key = [0; 32];
    getrandom::fill(&mut key).map_err(|error| io::Error::other(error.to_string()))?;
    let unfinished = folder.join(format!("{KEY_FILE}.{}.{UNFINISHED}", std::process::id()));
    write_new(&unfinished, &key)?;
    // A link is made only if nobody else was faster; then theirs counts.
    let linked = fs::hard_link(&unfinished, &path);
    fs::remove_file(&unfinished)?;
    match linked {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            let bytes = fs::read(&path)?;
            bytes.try_into().map_err(|_| io::Error::other("the key file is not 32 bytes"))
        }
        other => other.map(|()| key),
    }
}

fn write_new(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let _ = fs::remove_file(path);
    File::options().write(true).create_new(true).mode(0o600).open(path)?.write_all(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_leave_when_the_bound_is_passed() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk = Disk::open(folder.path(), "engine", 250).expect("a disk");
        for n in 1..=3u8 {
            disk.store(BlobId([n; 32]), &[n; 100]).expect("stored");
            let path = disk
                .files(EXTENSION)
                .expect("files")
                .into_iter()
                .find(|path| name(path).is_some_and(|name| name.starts_with(&BlobId([n; 32]).to_string())));
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(u64::from(n));
            File::open(path.expect("its file")).expect("open").set_modified(time).expect("touched");
        }
        disk.evict().expect("evicted");
        let mut left: Vec<String> = disk
            .files(EXTENSION)
            .expect("files")
            .iter()
            .filter_map(|path| Some(name(path)?[..2].to_string()))
            .collect();
        left.sort();
        assert_eq!(left, ["02", "03"]);
    }

    #[test]
    fn the_key_is_private_and_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let key = |_| Disk::open(folder.path(), "engine", 1).expect("a disk").key;
        let first = key(());
        let path = folder.path().join(KEY_FILE);
        assert_eq!(fs::metadata(&path).expect("key").permissions().mode() & 0o777, 0o600);
        assert_eq!(key(()), first);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("opened to others");
        assert_ne!(key(()), first, "a key that others could read is replaced");
    }
}
