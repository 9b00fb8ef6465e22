//! What has become of the jobs of the steps `live`: what all nodes say of them, how often each has run, and whether it might.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::stream::{self, StreamExt as _};
use shoal_protocol::object::job::{Job as Shown, State};
use shoal_protocol::object::kv::{ListKeys, Scope, Value};
use shoal_protocol::{BlobId, NodeId, ObjectId};

use super::live::Living;
use super::{LOOK_EVERY, Run, watch};
use crate::report::Line;
use crate::scenario::{Account, Select};

/// Jobs that are asked about at once.
const AT_ONCE: usize = 64;
/// Jobs that one line names.
const NAMED_MAX: usize = 3;
/// Keys on a page.
const PAGE_LEN: u32 = 1000;
/// A result is a short number, in bytes.
const RESULT_LEN_MAX: usize = 64;

/// What a node says of a job, as far as it must be the same at all: how it has ended, if it has.
type View = Option<(State, u64, Option<BlobId>, u32, Option<NodeId>)>;

/// What each node says of a job.
type Views<'a> = Vec<(&'a str, Result<View, String>)>;

fn view(job: &Shown) -> View {
    let output = job.output.as_ref().map(|output| output.id);
    job.state.is_settled().then_some((job.state, job.epoch, output, job.attempts_total, job.regent))
}

impl Run {
    pub(super) async fn account(&mut self, step: &Account) -> anyhow::Result<()> {
        let jobs = self.lives.jobs.clone();
        anyhow::ensure!(!jobs.is_empty(), "no step live has had a job acknowledged");
        self.same_everywhere(step, &jobs).await?;
        let ended = self.all_ended(step, &jobs).await?;
        self.tell_ends(&jobs, &ended).await?;
        self.tell_runs(&jobs, &ended).await
    }

    /// Waits until all nodes say the same of all jobs.
    async fn same_everywhere(&mut self, step: &Account, jobs: &[Living]) -> anyhow::Result<()> {
        let (since, deadline) = (self.mark, Instant::now() + watch(Some(step.within)));
        let (time, differ) = loop {
            let differ = self.differing(jobs).await?;
            if differ.is_empty() || Instant::now() >= deadline {
                break (since.elapsed(), differ);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        };
        let nodes = self.world.up(&Select::all()).count();
        let line = Line::new("account", format!("what {nodes} nodes say of {} jobs is the same", jobs.len()));
        let line = match differ.first() {
            None => line.times([time]).within(Some(step.within)),
            Some(first) => {
                let found = format!("not of {}, the first is {first}", differ.len());
                line.found(found).promise(format!("at most {:?}", step.within), false)
            }
        };
        self.tell(line);
        Ok(())
    }

    /// The jobs of which nodes say different things.
    async fn differing(&self, jobs: &[Living]) -> anyhow::Result<Vec<String>> {
        let user = self.world.user()?;
        let mut clients = Vec::new();
        for host in self.world.up(&Select::all()) {
            clients.push((host.name(), host.client(user).await?));
        }
        let looks = jobs.iter().flat_map(|job| clients.iter().map(move |(at, client)| (job, at, client)));
        let looks = looks.map(async |(job, at, client)| (job.id, *at, client.job(job.id, false).await));
        let mut looks = stream::iter(looks).buffer_unordered(AT_ONCE);
        let mut views: BTreeMap<ObjectId, Views<'_>> = BTreeMap::new();
        while let Some((job, at, shown)) = looks.next().await {
            let view = shown.map(|shown| view(&shown)).map_err(|error| error.to_string());
            views.entry(job).or_default().push((at, view));
        }
        let same = |views: &Views<'_>| {
            views.iter().all(|(_, view)| view.is_ok())
                && views.windows(2).all(|two| two.first().map(|v| &v.1) == two.last().map(|v| &v.1))
        };
        let differ = views.iter().filter(|(_, views)| !same(views));
        Ok(differ.map(|(job, views)| format!("{job}: {views:?}")).collect())
    }

    /// Waits until all jobs have ended, at a node that is not their home where there is one.
    async fn all_ended(
        &self,
        step: &Account,
        jobs: &[Living],
    ) -> anyhow::Result<Vec<Result<(Shown, Vec<u8>), String>>> {
        let user = self.world.user()?;
        let mut clients = BTreeMap::new();
        for host in self.world.up(&Select::all()) {
            clients.insert(host.name(), host.client(user).await?);
        }
        let deadline = Instant::now() + step.settle_within;
        let waiting = jobs.iter().map(async |job| {
            let other = clients.iter().find(|(name, _)| **name != job.home).map(|(_, client)| client);
            let client = other.ok_or("there is no other node")?;
            let left = deadline.saturating_duration_since(Instant::now()).max(Duration::from_millis(1));
            let shown = client.wait(job.id, Some(left), false).await.map_err(|error| error.to_string())?;
            let result = match shown.state {
                State::Succeeded => {
                    client.result_bytes(job.id, RESULT_LEN_MAX).await.map_err(|error| error.to_string())?
                }
                _ => Vec::new(),
            };
            Ok((shown, result))
        });
        Ok(stream::iter(waiting).buffered(AT_ONCE).collect().await)
    }

    async fn tell_ends(&mut self, jobs: &[Living], ended: &[Result<(Shown, Vec<u8>), String>]) -> anyhow::Result<()> {
        let (mut lost, mut wrong, mut unrun, mut twice) = (Vec::new(), Vec::new(), 0, Vec::new());
        for (job, ended) in jobs.iter().zip(ended) {
            match ended {
                Err(why) => lost.push(format!("{} of {}: {why}", job.id, job.home)),
                Ok((shown, _)) if !shown.state.is_settled() => {
                    let why = shown.reason.as_ref().map(|reason| reason.message.clone()).unwrap_or_default();
                    lost.push(format!("{} of {} is {}: {why}", job.id, job.home, shown.state.text()));
                }
                Ok((shown, result)) => {
                    let runs = std::str::from_utf8(result).ok().and_then(|text| text.trim().parse::<u64>().ok());
                    let right = runs.is_some_and(|runs| runs == 1 || (runs > 1 && !job.once));
                    // What may run once ends as failed where nobody knows what a run of it did.
                    let given_up = job.once && shown.state == State::Failed;
                    unrun += usize::from(given_up);
                    if !(given_up || shown.state == State::Succeeded && right) {
                        wrong.push(format!("{} is {}: {:?}", job.id, shown.state.text(), shown.failure));
                    }
                    if job.once && (shown.superseded.is_some() || shown.unconfirmed) {
                        twice.push(job.id.to_string());
                    }
                }
            }
        }
        let first = |all: &[String]| all.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
        let line = Line::new("account", format!("of {} acknowledged jobs lost, or not ended in time", jobs.len()));
        self.tell(line.found(format!("{} {}", lost.len(), first(&lost))).promise("none", lost.is_empty()));
        let line = Line::new("account", "wrong results");
        self.tell(line.found(format!("{} {}", wrong.len(), first(&wrong))).promise("none", wrong.is_empty()));
        let line = Line::new("account", "that may run once: given up, as nobody knows what a run did");
        self.tell(line.found(unrun.to_string()));
        let line = Line::new("account", "that may run once: settled twice, or without a majority");
        self.tell(line.found(format!("{} {}", twice.len(), first(&twice))).promise("none", twice.is_empty()));
        Ok(())
    }

    /// How often each has run, by the key that every run of it has counted in.
    async fn tell_runs(&mut self, jobs: &[Living], ended: &[Result<(Shown, Vec<u8>), String>]) -> anyhow::Result<()> {
        let counted = self.counted().await?;
        let runs = |job: &Living| counted.get(&job.key).copied().unwrap_or(0);
        let ended = ended.iter().map(|ended| ended.as_ref().is_ok_and(|(shown, _)| shown.state == State::Succeeded));
        let unrun = jobs.iter().zip(ended).filter(|(job, succeeded)| *succeeded && runs(job) == 0).count();
        let line = Line::new("account", "that have succeeded and left no trace of a run").found(unrun.to_string());
        self.tell(line.promise("none", unrun == 0));
        let more = |once: bool| jobs.iter().filter(move |job| job.once == once).filter(|job| runs(job) > 1);
        let regents = jobs.iter().filter(|job| !job.once).count();
        let line = Line::new("account", format!("of {regents} that may run twice: ran more than once"));
        self.tell(line.found(format!("{}, as their policy allows", more(false).count())));
        let wrong: Vec<String> =
            more(true).map(|job| format!("{} of {}: {} runs", job.id, job.home, runs(job))).collect();
        let line = Line::new("account", format!("of {} that may run once: ran more than once", jobs.len() - regents));
        let named = wrong.iter().take(NAMED_MAX).cloned().collect::<Vec<_>>().join("; ");
        self.tell(line.found(format!("{} {named}", wrong.len())).promise("none", wrong.is_empty()));
        Ok(())
    }

    /// The counts of all runs, as one node has them.
    async fn counted(&self) -> anyhow::Result<BTreeMap<String, i64>> {
        let user = self.world.user()?;
        let all = Select::all();
        let client = self.world.up(&all).last().context("no node runs")?.client(user).await?;
        let mut keys = ListKeys { limit: Some(PAGE_LEN), prefix: "ran-".into(), ..ListKeys::default() };
        let mut counted = BTreeMap::new();
        loop {
            let page = client.kv_list(user.id(), Scope::Global, &keys).await?;
            for entry in page.items {
                if let Value::Counter(runs) = entry.value {
                    counted.insert(entry.key, runs);
                }
            }
            if page.next.is_none() {
                return Ok(counted);
            }
            keys.after = page.next;
        }
    }
}
