//! Jobs that wait: how fast they are handed over, and what a node pays for many of them. They need a label that no worker
//! carries, so that nothing but handing over is measured.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde::Serialize;
use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::function::Needs;
use shoal_protocol::object::job::{Input as JobInput, Receipt, Submit};

use super::http::{Http, Session};
use super::jobs::{Input, Jobs, NAME};
use super::times::{Spread, ratio};
use crate::cli::Progress;

/// The label, with a value, that no worker carries.
const LABEL: (&str, &str) = ("bench", "nobody");
/// Jobs of one batch while a queue is filled.
const BATCH: u32 = 1_000;
/// Batches under way at once.
const BATCHES_AT_ONCE: usize = 4;
/// Jobs on a page of the list, and pages that are read.
const PAGE: u32 = 50;
const PAGES: usize = 2_000;
/// Jobs on a page when all are counted.
const PAGE_LONG: u32 = 1_000;

/// How fast jobs were handed over: each is durable when it counts.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Handing {
    pub(super) in_flight: u32,
    pub(super) per_second: f64,
    pub(super) latency: Spread,
}

/// Handing over by each way.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Submits {
    pub(super) jobs: u32,
    pub(super) http_one: Handing,
    pub(super) http: Handing,
    pub(super) quic_one: Handing,
    pub(super) quic: Handing,
}

/// What is paid while so many jobs wait.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Cost {
    pub(super) waiting: u32,
    pub(super) submit: Handing,
    /// Pages of the list, one after the other.
    pub(super) page: Spread,
}

/// A queue, short and long.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Queue {
    pub(super) short: Cost,
    pub(super) long: Cost,
    /// Of the long one for each of the short one.
    pub(super) submit_rate_ratio: Option<f64>,
    pub(super) page_p99_ratio: Option<f64>,
    /// What the node's memory grew by for each job.
    pub(super) bytes_per_job: f64,
    /// From the start of the process that was killed to its being up.
    pub(super) restarts: [Restart; 2],
}

/// A start after a kill.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Restart {
    pub(super) waiting: u32,
    pub(super) seconds: f64,
}

impl Queue {
    pub(super) fn new(short: Cost, long: Cost, bytes: f64, restarts: [Restart; 2]) -> Self {
        Self {
            short,
            long,
            submit_rate_ratio: ratio(short.submit.per_second, long.submit.per_second),
            page_p99_ratio: ratio(long.page.p99_ms, short.page.p99_ms),
            bytes_per_job: bytes / f64::from(long.waiting.max(1)),
            restarts,
        }
    }
}

/// Jobs that wait, each with an input of its own.
pub(super) struct Waiting<'a> {
    jobs: &'a mut Jobs,
    seed: u64,
    /// Handed over until now.
    given: u32,
}

impl<'a> Waiting<'a> {
    pub(super) fn new(jobs: &'a mut Jobs, seed: u64) -> Self {
        Self { jobs, seed, given: 0 }
    }

    /// How many wait.
    pub(super) fn count(&self) -> u32 {
        self.given
    }

    fn next(&mut self, count: u32) -> Vec<Submit> {
        self.given += count;
        let inputs: Vec<Input> = (0..count).map(|_| self.jobs.next_usual()).collect();
        let needs = Needs { labels: [(LABEL.0.to_owned(), LABEL.1.to_owned())].into(), ..Needs::default() };
        let submit = |input: Input| Submit {
            function: NAME.into(),
            input: JobInput::Bytes(input.bytes(self.seed).into()),
            needs: needs.clone(),
            ..Submit::default()
        };
        inputs.into_iter().map(submit).collect()
    }

    /// Each way in turn, so many jobs each.
    pub(super) async fn submits(
        &mut self,
        client: &Client,
        http: &Http,
        jobs: u32,
        in_flight: u32,
    ) -> anyhow::Result<Submits> {
        Ok(Submits {
            jobs,
            http_one: self.over_http(http, jobs, 1).await?,
            quic_one: self.over_quic(client, jobs, 1).await?,
            http: self.over_http(http, jobs, in_flight).await?,
            quic: self.over_quic(client, jobs, in_flight).await?,
        })
    }

    /// So many connections that are kept, each with one request at a time.
    async fn over_http(&mut self, http: &Http, jobs: u32, in_flight: u32) -> anyhow::Result<Handing> {
        let bodies = self.next(jobs);
        let bodies: Result<Vec<Vec<u8>>, _> = bodies.iter().map(serde_json::to_vec).collect();
        let bodies = bodies?;
        let share = bodies.len().div_ceil(usize::try_from(in_flight)?.max(1)).max(1);
        let sessions: Vec<Session> =
            futures_util::future::try_join_all(bodies.chunks(share).map(|_| http.session())).await?;
        let begun = Instant::now();
        let handing = sessions.into_iter().zip(bodies.chunks(share)).map(|(mut session, bodies)| async move {
            let mut times = Vec::with_capacity(bodies.len());
            for body in bodies {
                let asked = Instant::now();
                session.submit(body.clone()).await?;
                times.push(asked.elapsed());
            }
            anyhow::Ok(times)
        });
        let times = futures_util::future::try_join_all(handing).await?.concat();
        Ok(handed(times, begun.elapsed(), in_flight))
    }

    async fn over_quic(&mut self, client: &Client, jobs: u32, in_flight: u32) -> anyhow::Result<Handing> {
        let submits = self.next(jobs);
        let begun = Instant::now();
        let times: Vec<Duration> = futures_util::stream::iter(&submits)
            .map(|submit| async move {
                let asked = Instant::now();
                client.submit(submit).await.map(|_| asked.elapsed())
            })
            .buffer_unordered(usize::try_from(in_flight)?)
            .try_collect()
            .await?;
        Ok(handed(times, begun.elapsed(), in_flight))
    }

    /// Lets so many more wait, handed over one after the other: their ids.
    pub(super) async fn ids(&mut self, client: &Client, jobs: u32) -> anyhow::Result<Vec<ObjectId>> {
        let mut ids = Vec::new();
        for submit in self.next(jobs) {
            ids.push(client.submit(&submit).await?);
        }
        Ok(ids)
    }

    /// Lets so many wait.
    pub(super) async fn fill(&mut self, client: &Client, count: u32) -> anyhow::Result<()> {
        let mut progress = Progress::new("filling the queue:");
        while self.given < count {
            let mut batches = Vec::new();
            while batches.len() < BATCHES_AT_ONCE && self.given < count {
                batches.push(self.next(BATCH.min(count - self.given)));
            }
            let handing = batches.iter().map(|batch| client.submit_batch(batch));
            for receipt in futures_util::future::try_join_all(handing).await?.into_iter().flatten() {
                if let Receipt::Refused(problem) = receipt {
                    bail!("a job was refused: {}", problem.detail);
                }
            }
            progress.say(&format!("{} of {count} jobs", self.given));
        }
        Ok(())
    }

    /// What is paid now.
    pub(super) async fn cost(&mut self, client: &Client, jobs: u32, in_flight: u32) -> anyhow::Result<Cost> {
        let waiting = self.given;
        let submit = self.over_quic(client, jobs, in_flight).await?;
        Ok(Cost { waiting, submit, page: pages(client).await? })
    }

    /// Counts all that wait, page by page.
    pub(super) async fn count_again(&self, client: &Client) -> anyhow::Result<()> {
        let mut query = ListQuery { limit: Some(PAGE_LONG), ..ListQuery::default() };
        query.filters.insert("state".into(), "queued".into());
        let (mut counted, mut progress) = (0, Progress::new("counting again:"));
        loop {
            let page = client.jobs(query.clone()).await.context("listing the jobs after the kill")?;
            counted += page.items.len();
            progress.say(&format!("{counted} jobs"));
            match page.next {
                Some(next) => query.cursor = Some(next),
                None => break,
            }
        }
        ensure!(counted == usize::try_from(self.given)?, "{} jobs were acknowledged, {counted} are there", self.given);
        Ok(())
    }
}

/// Pages of the list, from the newest on, and again when there are no more.
async fn pages(client: &Client) -> anyhow::Result<Spread> {
    let mut query = ListQuery { limit: Some(PAGE), ..ListQuery::default() };
    let mut times = Vec::with_capacity(PAGES);
    while times.len() < PAGES {
        let asked = Instant::now();
        let page = client.jobs(query.clone()).await?;
        times.push(asked.elapsed());
        query.cursor = page.next;
    }
    Ok(Spread::of(times))
}

fn handed(times: Vec<Duration>, elapsed: Duration, in_flight: u32) -> Handing {
    let per_second = times.len() as f64 / elapsed.as_secs_f64();
    Handing { in_flight, per_second, latency: Spread::of(times) }
}
