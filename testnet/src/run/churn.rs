//! Nodes come and go while jobs are submitted.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::future::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::Submit as NewJob;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Run;
use super::jobs::Job;
use crate::random::Random;
use crate::report::Line;
use crate::scenario::{Churn, Select};

/// How long a submit may take before its home counts as gone.
const SUBMIT_MAX: Duration = Duration::from_secs(5);
/// At least this share of the nodes runs at any time, of 100.
const UP_MIN: usize = 60;
/// How often memory is looked at.
const MEMORY_EVERY: Duration = Duration::from_secs(2);

/// What came of one submit: the job, if it was acknowledged, and how long that took.
type Submitted = anyhow::Result<(Job, Duration)>;

/// What is counted while nodes come and go.
#[derive(Debug, Default)]
struct Seen {
    kills: usize,
    starts: usize,
    acknowledged: Vec<Job>,
    times: Vec<Duration>,
    unknown: usize,
    /// Of each node that is spared: when, and how many KiB.
    memory: BTreeMap<String, Vec<(Duration, u64)>>,
}

impl Run {
    pub(super) async fn churn(&mut self, step: &Churn) -> anyhow::Result<()> {
        let mut seen = self.come_and_go(step).await?;
        // What is down at the end is gone for good: its jobs are nobody's promise.
        let homes_up = |job: &Job| self.world.hosts.iter().any(|host| host.name() == job.home && host.is_up());
        let all = seen.acknowledged.len();
        seen.acknowledged.retain(homes_up);
        let ended = self.ended(&seen.acknowledged, None, step.settle_within).await;
        self.tell(Line::new("churn", "kills and starts").found(format!("{} and {}", seen.kills, seen.starts)));
        let line = Line::new("churn", "submits that were acknowledged").times(seen.times.iter().copied());
        self.tell(line.found(format!("{all}, {} without an answer", seen.unknown)));
        let kept = seen.acknowledged.len();
        let share = ended.succeeded as f64 / kept.max(1) as f64;
        let line = Line::new("churn", "from acceptance to settlement")
            .times(ended.times.iter().copied())
            .found(format!("{} of {kept} succeeded, {:.2} %", ended.succeeded, share * 100.0));
        self.tell(line.promise(format!("{} %", step.share * 100.0), kept > 0 && share >= step.share));
        let line = Line::new("churn", "settled twice").found(format!("{}, {} attempts", ended.twice, ended.attempts));
        self.tell(line.promise("none", ended.twice == 0));
        self.tell_wrong("churn", &ended);
        self.tell_memory(step, &seen);
        Ok(())
    }

    async fn come_and_go(&mut self, step: &Churn) -> anyhow::Result<Seen> {
        let (mut seen, mut random) = (Seen::default(), Random::new(self.seed));
        let new = NewJob {
            function: self.function(&step.function)?.to_string(),
            args: step.args.clone(),
            ..NewJob::default()
        };
        let begun = Instant::now();
        let mut submitting = FuturesUnordered::new();
        let mut jobs = every(Duration::from_secs_f64(1.0 / step.jobs_per_second.max(0.01)));
        let (mut faults, mut looks) = (every(step.every), every(MEMORY_EVERY));
        faults.tick().await;
        while begun.elapsed() < step.length {
            tokio::select! {
                _ = faults.tick() => self.fault(step, &mut random, &mut seen).await?,
                _ = looks.tick() => self.look(step, begun.elapsed(), &mut seen),
                Some(done) = submitting.next() => seen.add(done),
                _ = jobs.tick() => {
                    if let Some((home, client)) = self.any(&mut random).await {
                        submitting.push(submit(home, client, new.clone()).boxed());
                    }
                }
            }
        }
        while let Some(done) = submitting.next().await {
            seen.add(done);
        }
        Ok(seen)
    }

    /// A node that runs, by chance, and a connection to it.
    async fn any(&self, random: &mut Random) -> Option<(String, Client)> {
        let all = Select::all();
        let up: Vec<_> = self.world.up(&all).collect();
        let host = up.get(random.below(up.len()))?;
        // One that has just started may not have met anybody yet.
        let client = timeout(SUBMIT_MAX, host.client(self.world.user().ok()?)).await.ok()?.ok()?;
        Some((host.name().to_owned(), client))
    }

    /// Kills a node or starts one.
    async fn fault(&mut self, step: &Churn, random: &mut Random, seen: &mut Seen) -> anyhow::Result<()> {
        let is_spared = |name: &str| step.spare.as_ref().is_some_and(|spare| spare.fits(name));
        let (count, up) = (self.world.hosts.len(), self.world.hosts.iter().filter(|host| host.is_up()).count());
        let kill = up == count || (up * 100 > count * UP_MIN && random.below(2) == 0);
        let fits = |place: &usize| {
            self.world.hosts.get(*place).is_some_and(|host| host.is_up() == kill && !is_spared(host.name()))
        };
        let places: Vec<usize> = (0..count).filter(fits).collect();
        let Some(place) = places.get(random.below(places.len())) else { return Ok(()) };
        let host = self.world.hosts.get_mut(*place).context("no such node")?;
        if kill {
            seen.kills += 1;
            host.kill()?;
        } else {
            seen.starts += 1;
            let name = Select::one(host.name());
            self.world.start(&name, 1).await?;
        }
        self.screen.show(&self.world);
        Ok(())
    }

    fn look(&self, step: &Churn, at: Duration, seen: &mut Seen) {
        for host in step.spare.iter().flat_map(|spare| self.world.up(spare)) {
            if let Some(kib) = host.resident_kib() {
                seen.memory.entry(host.name().to_owned()).or_default().push((at, kib));
            }
        }
    }

    fn tell_memory(&mut self, step: &Churn, seen: &Seen) {
        for (name, looks) in &seen.memory {
            let early = |at: &Duration| *at < step.length / 5;
            let most = |wanted: bool| {
                looks.iter().filter(|(at, _)| early(at) == wanted).map(|(_, kib)| *kib).max().unwrap_or_default()
            };
            let (before, after) = (most(true), most(false));
            let kept = before > 0 && after as f64 <= before as f64 * (1.0 + step.growth);
            let line = Line::new("churn", format!("memory of {name}"));
            let found = format!("{:.1} MiB in the first fifth, then {:.1}", mib(before), mib(after));
            self.tell(line.found(found).promise(format!("at most {} % more", step.growth * 100.0), kept));
        }
    }
}

impl Seen {
    fn add(&mut self, done: Submitted) {
        match done {
            Ok((job, time)) => {
                self.acknowledged.push(job);
                self.times.push(time);
            }
            // Killed meanwhile: nobody was promised anything.
            Err(_) => self.unknown += 1,
        }
    }
}

async fn submit(home: String, client: Client, new: NewJob) -> Submitted {
    let begun = Instant::now();
    let id: ObjectId = timeout(SUBMIT_MAX, client.submit(&new)).await??;
    Ok((Job { id, home, to: None }, begun.elapsed()))
}

fn every(length: Duration) -> tokio::time::Interval {
    let mut every = interval(length);
    every.set_missed_tick_behavior(MissedTickBehavior::Delay);
    every
}

fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}
