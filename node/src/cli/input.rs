//! What is given to a command: files, standard input, values, limits.

use std::io::Read as _;
use std::path::{Path, PathBuf};

use shoal_client::{Client, Upload};
use shoal_protocol::limits::INLINE_LEN_MAX;
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::function::{Grant, Needs, RunLimits};
use shoal_protocol::wire::client::BlobStored;
use tokio::io::AsyncReadExt;

use super::failure::{Failure, NOT_FOUND};
use super::progress::Progress;
use crate::config::{Length, parse_label};

/// Needs, as flags.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct NeedFlags {
    /// A label that the worker must carry, as key=value; may be repeated
    #[arg(id = "needs-label", long = "needs-label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    /// A capability that the worker must offer, such as gpu; may be repeated
    #[arg(long = "needs-capability", value_name = "NAME")]
    capabilities: Vec<String>,
    /// Memory of the function, in MiB; 256 unless said otherwise
    #[arg(long, value_name = "MIB")]
    memory_mb: Option<u32>,
}

impl NeedFlags {
    /// The needs that the flags say, over `before`.
    pub(crate) fn over(&self, before: &Needs) -> Needs {
        let mut needs = before.clone();
        needs.labels.extend(self.labels.iter().cloned());
        needs.capabilities.extend(self.capabilities.iter().cloned());
        needs.memory_mb = self.memory_mb.or(needs.memory_mb);
        needs
    }
}

/// Limits of a run, as flags.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct LimitFlags {
    /// How long a run may take, such as 90s or 10m; 1h unless said otherwise
    #[arg(long, value_name = "LENGTH")]
    timeout: Option<Length>,
    /// Runs, the first included, when a worker fails; 3 unless said otherwise
    #[arg(long, value_name = "N")]
    attempts: Option<u32>,
    /// How long the result may be, in bytes; 64 MiB unless said otherwise
    #[arg(long, value_name = "BYTES")]
    output_bytes: Option<u64>,
    /// How long a job may wait for its first run, from when it may run; as long as it takes unless said otherwise
    #[arg(long, value_name = "LENGTH")]
    queue_limit: Option<Length>,
    /// How long a job may take in all, from its acceptance to its end; as long as it takes unless said otherwise
    #[arg(long, value_name = "LENGTH")]
    total_limit: Option<Length>,
}

impl LimitFlags {
    /// The limits that the flags say, over `before`.
    pub(crate) fn over(&self, before: &RunLimits) -> RunLimits {
        let said = RunLimits {
            run_ms: self.timeout.map(Length::millis),
            output_bytes: self.output_bytes,
            attempts: self.attempts,
            queue_ms: self.queue_limit.map(Length::millis),
            total_ms: self.total_limit.map(Length::millis),
        };
        said.or(before)
    }
}

/// Which part of a list, as flags.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct PageFlags {
    /// Entries at most, 1 to 1000; 50 unless said otherwise
    #[arg(long, value_name = "N")]
    limit: Option<u32>,
    /// Go on where the page before ended
    #[arg(long, value_name = "CURSOR")]
    cursor: Option<String>,
}

impl PageFlags {
    /// The query, with those filters that have a value.
    pub(crate) fn query<const N: usize>(self, filters: [(&str, Option<String>); N]) -> ListQuery {
        let filters = filters.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
        ListQuery { limit: self.limit, cursor: self.cursor, filters }
    }
}

/// Reads the name of a grant.
pub(crate) fn parse_grant(text: &str) -> Result<Grant, String> {
    let known = || Grant::ALL.map(Grant::text).join(", ");
    Grant::ALL.into_iter().find(|grant| grant.text() == text).ok_or_else(|| format!("there is {}", known()))
}

/// A file that the command line names is missing or unreadable.
pub(crate) fn unreadable(path: &Path, error: &std::io::Error) -> Failure {
    let failure = Failure::new(format!("{}: {error}", path.display()));
    if error.kind() == std::io::ErrorKind::NotFound { failure.code(NOT_FOUND) } else { failure }
}

/// Bytes that are short enough to stand in a request, or a blob.
pub(crate) enum Bytes {
    /// Up to 16 KiB.
    Short(Vec<u8>),
    /// More.
    Stored(BlobStored),
}

/// Reads a file, or standard input for `-`. What is longer than 16 KiB becomes a blob.
pub(crate) async fn read(client: &Client, path: &PathBuf) -> Result<Bytes, Failure> {
    let mut start = Vec::new();
    if is_stdin(path) {
        let mut stdin = stdin()?;
        (&mut stdin)
            .take(INLINE_LEN_MAX as u64 + 1)
            .read_to_end(&mut start)
            .await
            .map_err(|error| Failure::new(format!("standard input: {error}")))?;
        if start.len() <= INLINE_LEN_MAX {
            return Ok(Bytes::Short(start));
        }
        let mut progress = Progress::new("input");
        let all = AsyncReadExt::chain(start.as_slice(), stdin);
        let stored = client.put_blob(all, Upload::default(), &mut |sent| progress.bytes(sent, None)).await?;
        return Ok(Bytes::Stored(stored));
    }
    let failed = |error| unreadable(path, &error);
    let file = std::fs::File::open(path).map_err(failed)?;
    file.take(INLINE_LEN_MAX as u64 + 1).read_to_end(&mut start).map_err(failed)?;
    if start.len() <= INLINE_LEN_MAX {
        return Ok(Bytes::Short(start));
    }
    Ok(Bytes::Stored(put_file(client, path, false, "").await?))
}

/// Puts a file as a blob, with progress.
pub(crate) async fn put_file(client: &Client, path: &Path, keep: bool, name: &str) -> Result<BlobStored, Failure> {
    // Asked first: the error then names the file and has its own exit code.
    std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    let mut progress = Progress::new(path.display().to_string());
    let stored = client.put_file(path, keep, name, &mut |sent, size| progress.bytes(sent, Some(size))).await?;
    Ok(stored)
}

/// Standard input, without the buffer of the standard library's: for bytes in large pieces.
pub(crate) fn stdin() -> Result<tokio::fs::File, Failure> {
    use std::os::fd::AsFd as _;
    let own = std::io::stdin().as_fd().try_clone_to_owned();
    let own = own.map_err(|error| Failure::new(format!("standard input: {error}")))?;
    Ok(tokio::fs::File::from_std(own.into()))
}

/// Whether the path stands for standard input.
pub(crate) fn is_stdin(path: &Path) -> bool {
    path == Path::new("-")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_go_over_what_was_said_before() {
        let before = Needs { memory_mb: Some(64), labels: [("a".into(), "1".into())].into(), ..Needs::default() };
        let flags = NeedFlags { labels: vec![("b".into(), "2".into())], ..NeedFlags::default() };
        let after = flags.over(&before);
        assert_eq!((after.memory_mb, after.labels.len()), (Some(64), 2));
        // Less memory than before is a wish, too: it is not the larger of both.
        assert_eq!(NeedFlags { memory_mb: Some(32), ..NeedFlags::default() }.over(&before).memory_mb, Some(32));
        let limits = LimitFlags { timeout: Some("10m".parse().expect("a length")), ..LimitFlags::default() };
        let before = RunLimits { attempts: Some(2), run_ms: Some(1), ..RunLimits::default() };
        let after = RunLimits { run_ms: Some(600_000), ..before };
        assert_eq!(limits.over(&before), after);
    }

    #[test]
    fn a_query_has_the_filters_that_are_said() {
        let query = PageFlags::default().query([("state", Some("queued".into())), ("name", None)]);
        assert_eq!(query.filters, [("state".to_owned(), "queued".to_owned())].into());
        assert!(parse_grant("kv").is_ok() && parse_grant("root").is_err());
    }
}
