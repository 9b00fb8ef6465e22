//! Small private files of the data folder: keys, tokens, registries.
//!
//! What always holds: a file is either the former or the new one, whole, whatever instant the machine stops at; and it
//! is readable by its owner alone from the moment it exists.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use shoal_protocol::key::SecretKey;

use super::Error;

/// A private file, in bytes, unless said otherwise. Why 64 KiB: a key has 65, a token a few hundred.
pub(super) const PRIVATE_LEN_MAX: u64 = 64 * 1024;

/// Makes the folder, and those above it, for its owner alone. A folder that exists stays as it is.
pub(crate) fn make_folder(path: &Path) -> Result<(), Error> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| Error::Io { path: path.into(), source })
}

/// Replaces a file by these bytes, readable by its owner alone: written beside it, synced, renamed, the folder synced.
pub(crate) fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?.to_string_lossy();
    let beside: PathBuf = folder.join(format!(".{name}.new"));
    // One that a crash left behind may have another mode.
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    File::open(folder)?.sync_all()
}

/// Reads a file that must belong to its owner alone; none if there is none.
pub(crate) fn read_private(path: &Path) -> Result<Option<Vec<u8>>, Error> {
    read_private_up_to(path, PRIVATE_LEN_MAX)
}

/// The same, with another bound in bytes.
pub(super) fn read_private_up_to(path: &Path, len_max: u64) -> Result<Option<Vec<u8>>, Error> {
    let failed = |source| Error::Io { path: path.into(), source };
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o777;
    if mode & 0o077 != 0 {
        return Err(Error::Exposed { path: path.into(), mode });
    }
    let mut bytes = Vec::new();
    file.take(len_max.saturating_add(1)).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > len_max {
        return Err(Error::Damaged { path: path.into(), why: format!("it is longer than {len_max} bytes") });
    }
    Ok(Some(bytes))
}

/// Before the checksum of a sealed file's bytes, which are in front of it.
const SEAL: &[u8] = b"\nblake3 ";
/// A seal ends with so many hexadecimal characters.
const SEAL_HEX_LEN: usize = 32;

/// Replaces a file and its copy by these bytes and their checksum: a bit that flips in one of them is found and mended.
pub(crate) fn write_sealed(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let sealed = [bytes, SEAL, seal(bytes).as_bytes()].concat();
    write_private(path, &sealed)?;
    write_private(&copy_of(path), &sealed)
}

/// The bytes of a sealed file. Where they are not those that were written, the copy takes their place. A file without a
/// seal is as somebody has put it there, or a program before this one, and is given as it is.
pub(super) fn read_sealed(path: &Path, len_max: u64) -> Result<Option<Vec<u8>>, Error> {
    let found = read_private_up_to(path, len_max)?;
    if let Some(whole) = found.as_deref().and_then(unsealed) {
        return Ok(Some(whole.to_vec()));
    }
    let is_foreign = found.as_deref().is_some_and(|bytes| !looks_sealed(bytes));
    let copy = if is_foreign { None } else { read_private_up_to(&copy_of(path), len_max)? };
    match copy.as_deref().and_then(unsealed) {
        Some(whole) => {
            tracing::warn!(file = %path.display(), "the file was damaged or gone; its copy takes its place");
            write_sealed(path, whole).map_err(|source| Error::Io { path: path.into(), source })?;
            Ok(Some(whole.to_vec()))
        }
        None => Ok(found),
    }
}

/// Whether file and copy hold what was written; else a sentence.
pub(super) fn check_sealed(path: &Path) -> Result<(), String> {
    for file in [path.to_owned(), copy_of(path)] {
        let bytes = fs::read(&file).map_err(|error| format!("{}: {error}", file.display()))?;
        if looks_sealed(&bytes) && unsealed(&bytes).is_none() {
            return Err(format!("{} is damaged", file.display()));
        }
    }
    Ok(())
}

fn copy_of(path: &Path) -> PathBuf {
    path.with_added_extension("copy")
}

fn seal(bytes: &[u8]) -> String {
    let mut seal = blake3::hash(bytes).to_hex().to_string();
    seal.truncate(SEAL_HEX_LEN);
    seal
}

/// What is in front of a seal that is right.
fn unsealed(bytes: &[u8]) -> Option<&[u8]> {
    let (rest, hex) = bytes.split_at_checked(bytes.len().checked_sub(SEAL_HEX_LEN)?)?;
    let whole = rest.strip_suffix(SEAL)?;
    (seal(whole).as_bytes() == hex).then_some(whole)
}

/// Whether there is a seal, right or not: of what it is made few bits can have flipped.
fn looks_sealed(bytes: &[u8]) -> bool {
    let Some(start) = bytes.len().checked_sub(SEAL.len() + SEAL_HEX_LEN) else { return false };
    let mark = bytes.get(start..).unwrap_or_default();
    mark.iter().zip(SEAL).filter(|(found, wanted)| found != wanted).count() <= 1
}

/// The key in this sealed file; draws one and writes it if there is no such file.
pub(crate) fn read_or_create_sealed_key(path: &Path) -> Result<SecretKey, Error> {
    let key = match read_sealed(path, PRIVATE_LEN_MAX)? {
        Some(bytes) => parse_key(&bytes).ok_or_else(|| no_key(path))?,
        None => draw_key()?,
    };
    if check_sealed(path).is_err() || fs::read(path).is_ok_and(|bytes| unsealed(&bytes).is_none()) {
        let text = format!("{}\n", hex::encode(key.to_bytes()));
        write_sealed(path, text.as_bytes()).map_err(|source| Error::Io { path: path.into(), source })?;
    }
    Ok(key)
}

/// The key in this file, which may be a copy of a sealed one; none if there is no such file.
pub(crate) fn read_key(path: &Path) -> Result<Option<SecretKey>, Error> {
    let Some(bytes) = read_private(path)? else { return Ok(None) };
    match parse_key(unsealed(&bytes).unwrap_or(&bytes)) {
        Some(key) => Ok(Some(key)),
        None => Err(no_key(path)),
    }
}

fn no_key(path: &Path) -> Error {
    Error::Damaged {
        path: path.into(),
        why: "it holds no key, which is 64 hexadecimal characters; put it back from a copy".into(),
    }
}

fn draw_key() -> Result<SecretKey, Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| Error::Random(error.to_string()))?;
    Ok(SecretKey::from_bytes(bytes))
}

/// The key in this file; draws one and writes it if there is no such file.
pub(crate) fn read_or_create_key(path: &Path) -> Result<SecretKey, Error> {
    if let Some(key) = read_key(path)? {
        return Ok(key);
    }
    let key = draw_key()?;
    let text = format!("{}\n", hex::encode(key.to_bytes()));
    write_private(path, text.as_bytes()).map_err(|source| Error::Io { path: path.into(), source })?;
    Ok(key)
}

/// 64 hexadecimal characters, as this program writes them, or the 32 bytes themselves.
fn parse_key(bytes: &[u8]) -> Option<SecretKey> {
    if let Ok(raw) = <[u8; 32]>::try_from(bytes) {
        return Some(SecretKey::from_bytes(raw));
    }
    let mut raw = [0; 32];
    hex::decode_to_slice(std::str::from_utf8(bytes).ok()?.trim(), &mut raw).ok()?;
    Some(SecretKey::from_bytes(raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_drawn_once_and_kept_private() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.key");
        assert!(read_key(&path).expect("no file is no error").is_none());
        let first = read_or_create_key(&path).expect("a key");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
        assert_eq!(read_or_create_key(&path).expect("the key").to_bytes(), first.to_bytes());
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_key_that_others_can_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.key");
        read_or_create_key(&path).expect("a key");
        for mode in [0o640, 0o604, 0o644, 0o660] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
            let error = read_or_create_key(&path).expect_err("an exposed key").to_string();
            assert!(error.contains(&format!("{mode:03o}")) && error.contains("chmod 600"), "{error}");
        }
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("chmod");
        read_or_create_key(&path).expect("private again");
    }

    #[test]
    fn a_damaged_key_is_neither_used_nor_replaced() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.key");
        for bytes in [&b""[..], b"abc", &[b'z'; 64], &[b'0'; 62]] {
            write_private(&path, bytes).expect("written");
            assert!(matches!(read_or_create_key(&path), Err(Error::Damaged { .. })), "{bytes:?}");
            assert_eq!(fs::read(&path).expect("still there"), bytes);
        }
        write_private(&path, &vec![b'0'; 70_000]).expect("written");
        assert!(matches!(read_or_create_key(&path), Err(Error::Damaged { .. })));
    }

    #[test]
    fn whatever_bit_of_a_sealed_file_flips_its_bytes_are_those_that_were_written() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.key");
        let key = read_or_create_sealed_key(&path).expect("a key").to_bytes();
        assert_eq!(read_key(&path).expect("a sealed key").expect("a key").to_bytes(), key, "as somebody's own");
        for file in [path.clone(), copy_of(&path)] {
            let whole = fs::read(&file).expect("a file");
            // Each costs some syncs.
            for bit in (0..whole.len() * 8).step_by(13) {
                let mut flipped = whole.clone();
                flipped[bit / 8] ^= 1 << (bit % 8);
                fs::write(&file, &flipped).expect("flipped");
                assert_eq!(read_or_create_sealed_key(&path).expect("the key").to_bytes(), key, "bit {bit}");
                assert_eq!(fs::read(&file).expect("a file"), whole, "bit {bit} is not mended");
            }
        }
    }

    #[test]
    fn a_key_that_was_never_sealed_or_that_somebody_puts_back_counts() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("node.key");
        read_or_create_sealed_key(&path).expect("a key");
        for digit in ["1", "2"] {
            fs::write(&path, format!("{}\n", digit.repeat(64))).expect("put back");
            let wanted = [if digit == "1" { 0x11 } else { 0x22 }; 32];
            for _ in 0..2 {
                assert_eq!(read_or_create_sealed_key(&path).expect("the key").to_bytes(), wanted);
            }
        }
        fs::remove_file(&path).expect("gone");
        assert_eq!(read_or_create_sealed_key(&path).expect("the copy").to_bytes(), [0x22; 32]);
    }

    #[test]
    fn what_a_crash_left_beside_the_file_does_not_stay() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("token");
        fs::write(folder.path().join(".token.new"), "half").expect("a leftover");
        write_private(&path, b"whole").expect("written");
        assert_eq!(fs::read(&path).expect("a file"), b"whole");
        assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o600);
    }
}
