//! The node's own worker: its lock, its key and its node's address, as files in the node's data folder.
//!
//! The lock is held as long as the process lives, so that a restarted node finds the worker of before instead of
//! starting a second one. The node writes its address anew whenever it starts: a change of the file says that there is
//! a node to attach to.

use std::fs::{self, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use shoal_protocol::key::SecretKey;
use shoal_transport::NodeAddr;

/// Bytes of the key and address files: more is none of ours.
const FILE_LEN_MAX: u64 = 1024;

/// Where the node keeps what its own worker needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFiles {
    /// Locked by the worker as long as it lives; holds its process id.
    pub lock: PathBuf,
    /// The worker's secret key: 32 bytes, or 64 hexadecimal characters. Only its owner may read it.
    pub key: PathBuf,
    /// `quic://NODEID@127.0.0.1:PORT`, written by the node whenever it starts.
    pub address: PathBuf,
}

/// Why a local worker does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another worker holds the lock.
    #[error("a worker already runs for this data folder: {path} is locked{by}", path = path.display())]
    Held {
        /// The lock file.
        path: PathBuf,
        /// Its process id, if it is readable.
        by: String,
    },
    /// A file cannot be read or written.
    #[error("{path}: {source}", path = path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The key file holds no key, or others can read it.
    #[error("{path}: {why}", path = path.display())]
    Key {
        /// Which.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
}

/// The lock, held until it is dropped.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Takes the lock and writes the process id into it.
    pub(crate) fn take(path: &Path) -> Result<Self, Error> {
        let failed = |source| Error::File { path: path.into(), source };
        let mut file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let _ = file.take(32).read_to_string(&mut pid);
                let by = if pid.trim().is_empty() { String::new() } else { format!(" by process {}", pid.trim()) };
                return Err(Error::Held { path: path.into(), by });
            }
            Err(fs::TryLockError::Error(source)) => return Err(failed(source)),
        }
        file.set_len(0).map_err(failed)?;
        writeln!(file, "{}", std::process::id()).map_err(failed)?;
        Ok(Self { _file: file })
    }
}

/// Reads the worker's key.
pub(crate) fn key(path: &Path) -> Result<SecretKey, Error> {
    let wrong = |why| Error::Key { path: path.into(), why };
    let bytes = read(path).map_err(|source| Error::File { path: path.into(), source })?;
    let mode = fs::metadata(path).map_err(|source| Error::File { path: path.into(), source })?.mode();
    if mode & 0o077 != 0 {
        return Err(wrong("others than its owner can read it; a secret key must have mode 0600"));
    }
    if let Ok(key) = <[u8; 32]>::try_from(bytes.as_slice()) {
        return Ok(SecretKey::from_bytes(key));
    }
    // A public key has the same text form as the 32 bytes of a secret one.
    let text =
        std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse::<shoal_protocol::key::PublicKey>().ok());
    text.map(|bytes| SecretKey::from_bytes(*bytes.as_bytes())).ok_or_else(|| wrong("it holds no key of 32 bytes"))
}

/// The node's address as it stands in the file now.
pub(crate) fn address(path: &Path) -> Result<NodeAddr, String> {
    let bytes = read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    let text = String::from_utf8_lossy(&bytes);
    text.trim().parse().map_err(|error| format!("{}: {error}", path.display()))
}

/// What changes when a file is written anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Stamp(Option<(u64, i64, i64, u64)>);

/// The stamp of the file now.
pub(crate) fn stamp(path: &Path) -> Stamp {
    Stamp(fs::metadata(path).ok().map(|data| (data.ino(), data.mtime(), data.mtime_nsec(), data.len())))
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(FILE_LEN_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn the_lock_is_held_once_and_names_its_holder() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("worker.lock");
        let held = Lock::take(&path).expect("free");
        let error = Lock::take(&path).expect_err("held").to_string();
        assert!(error.contains(&format!("process {}", std::process::id())), "{error}");
        drop(held);
        Lock::take(&path).expect("free again");
    }

    #[test]
    fn a_key_is_read_in_both_forms_and_only_if_it_is_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("worker.key");
        for form in [vec![7; 32], format!("{}\n", "07".repeat(32)).into_bytes()] {
            fs::write(&path, form).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("private");
            assert_eq!(key(&path).expect("a key").to_bytes(), [7; 32]);
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("open");
        assert!(key(&path).expect_err("open to the group").to_string().contains("0600"));
    }

    #[test]
    fn a_rewritten_address_is_noticed() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("address");
        let before = stamp(&path);
        assert!(address(&path).is_err());
        fs::write(&path, format!("quic://{}@127.0.0.1:7\n", "ab".repeat(32))).expect("written");
        assert_ne!(stamp(&path), before);
        assert_eq!(address(&path).expect("an address").port, 7);
    }
}
