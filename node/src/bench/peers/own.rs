//! Shoal's own rounds: a node with its worker, and one client over QUIC.

use std::time::Duration;

use anyhow::Context as _;
use futures_util::StreamExt as _;
use shoal_client::{Client, Error};
use shoal_protocol::{Kind, ObjectId};

use super::figures::{Kill, Round, System};
use crate::bench::jobs::{Jobs, Submitter};
use crate::bench::times::median;
use crate::bench::waiting::Waiting;
use crate::bench::{Bench, WARM_JOBS};

/// Jobs of a round that are handed over one after the other.
const JOBS: u32 = 1_000;
/// Jobs under way at once where it is counted how many run. Why 64: whoever waits for the disk before each job counts its
/// syncs. The peers, which do not sync, are handed jobs one after the other several times as fast as they run them.
const IN_FLIGHT: u32 = 64;
/// Jobs of a round each of which is waited for before the next.
const SINGLE: u32 = 100;
/// Jobs that wait when the node is killed.
const KILL_JOBS: u32 = 200;
/// Jobs that are asked for at once after the kill.
const ASK_AT_ONCE: usize = 16;

pub(super) fn system() -> System {
    System {
        name: "Shoal",
        version: env!("CARGO_PKG_VERSION").to_owned(),
        acknowledged: "the job is in its node's journal, synced to the disk",
        rounds: Vec::new(),
    }
}

impl Bench {
    /// Starts the node and lets it warm up.
    pub(super) async fn start_own(&mut self) -> anyhow::Result<Jobs> {
        self.start_node()?;
        let mut jobs = Jobs::new(Submitter::deploy(self.client().await?, self.seed).await?);
        jobs.one_by_one(WARM_JOBS).await?;
        Ok(jobs)
    }

    pub(super) async fn own_round(&mut self, jobs: &mut Jobs) -> anyhow::Result<Round> {
        let handed = jobs.in_turn(JOBS).await?;
        let (_, ended) = jobs.closed(JOBS, IN_FLIGHT).await?;
        let mut results = Vec::new();
        for _ in 0..SINGLE {
            let input = jobs.next_usual();
            results.push(jobs.submitter().job(input, None).await?.result.as_secs_f64() * 1_000.0);
        }
        let kill = self.own_kill(jobs).await?;
        let rate = |time: Duration| f64::from(JOBS) / time.as_secs_f64();
        Ok(Round {
            jobs: JOBS,
            submits_per_second: rate(handed),
            jobs_per_second: rate(ended),
            result_p50_ms: median(results),
            kill: Some(kill),
        })
    }

    async fn own_kill(&mut self, jobs: &mut Jobs) -> anyhow::Result<Kill> {
        let ids = Waiting::new(jobs, self.seed).ids(&self.client().await?, KILL_JOBS).await?;
        self.stage.kill_node();
        self.start_node()?;
        let client = self.client().await?;
        let lost = lost(&client, &ids).await?;
        jobs.reconnect(client);
        Ok(Kill { acknowledged: KILL_JOBS, lost })
    }
}

/// How many of these jobs the node does not know. The others are cancelled: they would wait through all rounds to come.
async fn lost(client: &Client, ids: &[ObjectId]) -> anyhow::Result<u32> {
    let mut asking =
        futures_util::stream::iter(ids).map(|id| async { client.cancel(*id).await }).buffer_unordered(ASK_AT_ONCE);
    let mut lost = 0;
    while let Some(answer) = asking.next().await {
        match answer {
            Ok(_) => {}
            Err(Error::Problem(problem)) if problem.kind == Kind::NotFound => lost += 1,
            Err(error) => return Err(error).context("a job after the kill"),
        }
    }
    Ok(lost)
}
