//! Two processes of iroh-blobs alone.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use shoal_protocol::BlobId;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

/// How long a process may take for anything.
const PATIENCE: Duration = Duration::from_secs(600);

/// How long a transfer took, in seconds.
pub(super) struct Took {
    /// Until iroh-blobs had answered.
    pub(super) answered_s: f64,
    /// Until everything was synced.
    pub(super) durable_s: f64,
}

/// Moves the file from one process to the other, and removes what they made in `folder`.
pub(super) async fn transfer(shoal: &Path, folder: &Path, file: &Path, id: BlobId) -> anyhow::Result<Took> {
    let folder = tempfile::tempdir_in(folder)?;
    let (from, to) = (folder.path().join("from"), folder.path().join("to"));
    let mut server = process(shoal).arg("serve").args([&from, file]).stdin(Stdio::piped()).spawn()?;
    let offered = line(&mut server).await.context("iroh-blobs alone, serving")?;
    ensure!(offered.ends_with(&id.to_string()), "iroh-blobs alone offers {offered} instead of {id}");
    let mut client = process(shoal).arg("get").arg(&to).arg(&offered).stdin(Stdio::null()).spawn()?;
    let took = line(&mut client).await.context("iroh-blobs alone, fetching")?;
    // With its input ended the server ends, too.
    drop(server.stdin.take());
    for mut child in [client, server] {
        let status = timeout(PATIENCE, child.wait()).await.context("iroh-blobs alone does not end")??;
        ensure!(status.success(), "iroh-blobs alone ended with {status}");
    }
    let (answered, durable) = took.split_once(' ').context("iroh-blobs alone says no times")?;
    Ok(Took { answered_s: answered.parse()?, durable_s: durable.parse()? })
}

fn process(shoal: &Path) -> Command {
    let mut command = Command::new(shoal);
    command.arg("bare-blobs").stdout(Stdio::piped()).kill_on_drop(true);
    command
}

async fn line(child: &mut Child) -> anyhow::Result<String> {
    let out = child.stdout.take().context("no standard output")?;
    let line = timeout(PATIENCE, BufReader::new(out).lines().next_line()).await??;
    line.context("the process said nothing")
}
