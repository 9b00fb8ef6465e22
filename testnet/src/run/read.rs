//! Jobs that are read at nodes which are not their homes.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::stream::{self, StreamExt as _};
use shoal_client::Client;
use shoal_protocol::object::job::State;
use shoal_protocol::{BlobId, NodeId};

use super::Run;
use super::jobs::{Ended, Job, neighbours};
use crate::report::Line;
use crate::scenario::Read;

/// Reads at once. Why 16: each may move a large result.
const AT_ONCE: usize = 16;
/// A result that is read, in bytes.
const RESULT_LEN_MAX: usize = 1 << 30;
/// How long one read may take at most.
const PATIENCE: Duration = Duration::from_secs(120);

impl Run {
    pub(super) async fn read(&mut self, step: &Read) -> anyhow::Result<()> {
        let user = self.world.user()?;
        let mut reads: Vec<(&Job, &str, Client)> = Vec::new();
        for host in self.world.up(&step.at) {
            let near = if step.beyond_view { neighbours(host).await? } else { Vec::new() };
            let client = host.client(user).await?;
            for job in self.batch(&step.batch)? {
                if !step.beyond_view || !self.is_near(job, host.name(), &near)? {
                    reads.push((job, host.name(), client.clone()));
                }
            }
        }
        ensure!(!reads.is_empty(), "there is nothing to read like that");
        let count = reads.len();
        let reading = reads.into_iter().map(async |(job, at, client)| {
            let read = tokio::time::timeout(PATIENCE, one(&client, job, step.bytes)).await;
            (job, at, read.unwrap_or_else(|late| Err(late.into())))
        });
        let (mut ended, mut bytes) = (Ended::default(), 0);
        let mut reading = stream::iter(reading).buffer_unordered(AT_ONCE);
        while let Some((job, at, read)) = reading.next().await {
            match read {
                Ok((time, len)) => {
                    ended.times.push(time);
                    bytes += len;
                }
                Err(error) => ended.wrong.push(format!("{} of {} at {at}: {error:#}", job.id, job.home)),
            }
        }
        drop(reading);
        self.tell_read(step, count, bytes, ended);
        Ok(())
    }

    fn tell_read(&mut self, step: &Read, count: usize, bytes: usize, ended: Ended) {
        let good = ended.times.len();
        let what = if step.bytes { "results read" } else { "read" };
        let mut found = format!("{good} of {count}");
        if step.bytes {
            let seconds: f64 = ended.times.iter().map(Duration::as_secs_f64).sum();
            let mib = bytes as f64 / f64::from(1 << 20);
            found.push_str(&format!(", {mib:.1} MiB, {:.1} MiB/s each", mib / seconds));
        }
        let line = Line::new("read", format!("{}: {what} at {}", step.batch, step.at));
        let line = line.times(ended.times.iter().copied()).found(found).promise("all", good == count);
        let late = step.within.is_some_and(|within| ended.times.iter().any(|time| *time > within));
        let line = match step.within {
            Some(within) => line.promise(format!("all, each within {within:?}"), good == count && !late),
            None => line,
        };
        self.tell(line);
        self.tell_wrong("read", &ended);
    }

    /// Whether the home of a job is this node, or near it.
    fn is_near(&self, job: &Job, at: &str, near: &[NodeId]) -> anyhow::Result<bool> {
        let home = self.world.hosts.iter().find(|host| host.name() == job.home).context("a home is unknown")?;
        Ok(job.home == at || near.contains(&home.id()?))
    }
}

/// Reads a job, and its result if it is wanted: how long it took, and how many bytes came.
async fn one(client: &Client, job: &Job, bytes: bool) -> anyhow::Result<(Duration, usize)> {
    let begun = Instant::now();
    let shown = client.job(job.id, false).await?;
    ensure!(shown.state == State::Succeeded, "it is {}", shown.state.text());
    if !bytes {
        return Ok((begun.elapsed(), 0));
    }
    let result = client.result_bytes(job.id, RESULT_LEN_MAX).await?;
    let took = begun.elapsed();
    let wanted = shown.output.context("it has no result")?.id;
    ensure!(BlobId::of(&result) == wanted, "the result is another one");
    Ok((took, result.len()))
}
