//! The programs by which networks are made: `ip` and `nft`, which read their commands from standard input.

use std::ffi::OsStr;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// Where programs of the system are when the path does not say so, as for users who are not root.
const SYSTEM_FOLDERS: [&str; 2] = ["/usr/sbin", "/sbin"];

/// The programs among these that this machine does not have.
pub fn missing<'a>(names: &[&'a str]) -> Vec<&'a str> {
    names.iter().copied().filter(|name| find(name).is_none()).collect()
}

/// Where a program is.
fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let folders = std::env::split_paths(&path).chain(SYSTEM_FOLDERS.map(PathBuf::from));
    folders.map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// Runs `ip` with these lines, in this namespace or in ours.
pub(super) fn ip(namespace: Option<&str>, lines: &str) -> anyhow::Result<()> {
    let place = namespace.into_iter().flat_map(|name| ["-n", name]);
    feed("ip", place.chain(["-batch", "-"]), lines)
}

/// Runs a program with these arguments and this on its standard input.
pub(super) fn feed<I: AsRef<OsStr>>(
    name: &str,
    arguments: impl IntoIterator<Item = I>,
    input: &str,
) -> anyhow::Result<()> {
    let program = find(name).with_context(|| format!("the program {name} is missing"))?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {name}"))?;
    if let Some(mut stdin) = child.stdin.take() {
        stdin.write_all(input.as_bytes())?;
    }
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("{name} refuses {input:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
