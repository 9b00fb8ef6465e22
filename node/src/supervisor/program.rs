//! Which program a process runs: the one that a worker of ours would run now, or another.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// What the system puts behind the path of a running program whose file was removed or replaced.
const DELETED: &[u8] = b" (deleted)";
/// A command line, in bytes. Why 128 KiB: labels, the longest part of a worker's, are far below it.
const COMMAND_LINE_LEN_MAX: u64 = 128 * 1024;
/// Bytes that are compared at once.
const CHUNK_LEN: usize = 256 * 1024;

/// The path of this program, also where another file has taken its place since it was started.
///
/// # Errors
/// When the system does not say.
pub(crate) fn path() -> io::Result<PathBuf> {
    std::env::current_exe().map(standing)
}

/// The path as it stands in the file system.
fn standing(path: PathBuf) -> PathBuf {
    let replaced = path.as_os_str().as_bytes().strip_suffix(DELETED).map(|path| PathBuf::from(OsStr::from_bytes(path)));
    // A file may really have such a name.
    replaced.filter(|_| !path.exists()).unwrap_or(path)
}

/// Whether this process runs these very bytes with these arguments: two builds of one version differ. To be called where it
/// may block; the answer is about the process that had this number meanwhile.
///
/// # Errors
/// When the process or the program cannot be looked at: it has ended, is another user's, or the file is missing.
pub(super) fn is_run_by(pid: u32, program: &Path, args: &[OsString]) -> io::Result<bool> {
    let process = Path::new("/proc").join(pid.to_string());
    Ok(arguments(&process)? == args && is_same_file(&process.join("exe"), program)?)
}

/// The arguments after the program's name.
fn arguments(process: &Path) -> io::Result<Vec<OsString>> {
    let mut line = Vec::new();
    File::open(process.join("cmdline"))?.take(COMMAND_LINE_LEN_MAX).read_to_end(&mut line)?;
    let line = line.strip_suffix(&[0]).unwrap_or(&line);
    Ok(line.split(|byte| *byte == 0).skip(1).map(|word| OsString::from_vec(word.to_vec())).collect())
}

/// Whether two files hold the same bytes. The link of a process to its program leads there also when that is deleted.
fn is_same_file(one: &Path, other: &Path) -> io::Result<bool> {
    let (mut one, mut other) = (File::open(one)?, File::open(other)?);
    let (of_one, of_other) = (one.metadata()?, other.metadata()?);
    let place = |data: &Metadata| (data.dev(), data.ino());
    if place(&of_one) == place(&of_other) {
        return Ok(true);
    }
    if of_one.len() != of_other.len() {
        return Ok(false);
    }
    let (mut chunk, mut against) = (vec![0; CHUNK_LEN], vec![0; CHUNK_LEN]);
    loop {
        let len = fill(&mut one, &mut chunk)?;
        if fill(&mut other, &mut against)? != len || chunk.get(..len) != against.get(..len) {
            return Ok(false);
        }
        if len < CHUNK_LEN {
            return Ok(true);
        }
    }
}

/// Reads until the chunk is full or the file ends. How many bytes.
fn fill(file: &mut File, chunk: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while let Some(rest) = chunk.get_mut(len..).filter(|rest| !rest.is_empty()) {
        match file.read(rest) {
            Ok(0) => break,
            Ok(read) => len += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_program_is_found_where_it_was() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("shoal");
        std::fs::write(&path, "").expect("written");
        let deleted = folder.path().join("shoal (deleted)");
        assert_eq!(standing(path.clone()), path);
        assert_eq!(standing(deleted.clone()), path);
        std::fs::write(&deleted, "").expect("written");
        assert_eq!(standing(deleted.clone()), deleted, "a file that is named so");
    }

    #[test]
    fn a_process_runs_the_bytes_and_arguments_that_it_was_started_with() {
        let folder = tempfile::tempdir().expect("a folder");
        let [program, copy, other] = ["program", "copy", "other"].map(|name| folder.path().join(name));
        std::fs::copy("/bin/sleep", &program).expect("copied");
        std::fs::copy("/bin/sleep", &copy).expect("copied");
        let mut bytes = std::fs::read("/bin/sleep").expect("read");
        // An executable with a byte more behind its end runs as well.
        bytes.push(0);
        std::fs::write(&other, &bytes).expect("written");
        let args = ["600".into()];
        let mut process = std::process::Command::new(&program).args(&args).spawn().expect("a process");
        let pid = process.id();
        // A spawn returns when the old program is gone, an instant before the system knows the new one's arguments.
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
        let line = Path::new("/proc").join(pid.to_string()).join("cmdline");
        while std::fs::read(&line).expect("read").is_empty() && std::time::Instant::now() < deadline {
            std::thread::yield_now();
        }
        let looked = |program: &Path, args: &[OsString]| is_run_by(pid, program, args).expect("looked at");
        let found = [
            looked(&program, &args),
            looked(&copy, &args),
            looked(&other, &args),
            looked(&program, &["601".into()]),
            looked(&program, &[]),
        ];
        std::fs::remove_file(&program).expect("removed");
        let without_its_file = looked(&copy, &args);
        let missing = is_run_by(pid, &program, &args);
        process.kill().expect("killed");
        process.wait().expect("reaped");
        assert_eq!(found, [true, true, false, false, false]);
        assert!(without_its_file);
        assert!(missing.is_err() && is_run_by(pid, &copy, &args).is_err());
    }
}
