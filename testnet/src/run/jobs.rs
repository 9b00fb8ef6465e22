//! Jobs: submitted anywhere, forced to where they are to run, waited for at their homes.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use shoal_client::Client;
use shoal_protocol::object::function::Needs;
use shoal_protocol::object::job::{Ending, Job as Shown, State, Submit as NewJob};
use shoal_protocol::{NodeId, ObjectId};

use super::Run;
use crate::report::Line;
use crate::scenario::{Select, Submit, Until, Wait};
use crate::world::Host;

/// Jobs that are asked about at once. Why 64: enough to keep every node busy, far below what a client may have open.
const AT_ONCE: usize = 64;
/// Jobs that one line names.
const NAMED_MAX: usize = 5;

/// A job that was acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Job {
    pub(super) id: ObjectId,
    /// The name of its home.
    pub(super) home: String,
    /// Where it must run.
    pub(super) to: Option<NodeId>,
}

/// How jobs have ended.
#[derive(Debug, Default)]
pub(super) struct Ended {
    pub(super) succeeded: usize,
    pub(super) elsewhere: usize,
    pub(super) astray: usize,
    pub(super) twice: usize,
    pub(super) attempts: u64,
    pub(super) times: Vec<Duration>,
    /// What went wrong, in words; the first few.
    pub(super) wrong: Vec<String>,
}

impl Run {
    pub(super) async fn submit(&mut self, step: &Submit) -> anyhow::Result<()> {
        let (user, function) = (self.world.user()?, self.function(&step.function)?);
        let mut wanted = Vec::new();
        for (home, to) in self.pairs(step).await? {
            let to = to.map(|to| anyhow::Ok((to.name().to_owned(), to.id()?))).transpose()?;
            let new = new_job(step, function, to.as_ref().map(|(name, _)| name.as_str()));
            let client = home.client(user).await?;
            wanted.extend(
                (0..step.count).map(|_| (home.name(), client.clone(), new.clone(), to.as_ref().map(|to| to.1))),
            );
        }
        let submitting = wanted.into_iter().map(async |(home, client, new, to)| {
            let begun = Instant::now();
            let id = client.submit(&new).await.with_context(|| format!("submitting at {home}"))?;
            anyhow::Ok((Job { id, home: home.to_owned(), to }, begun.elapsed()))
        });
        let done: Vec<(Job, Duration)> = stream::iter(submitting).buffer_unordered(AT_ONCE).try_collect().await?;
        let line = Line::new("submit", format!("{}: jobs acknowledged", step.batch));
        let line = line.times(done.iter().map(|(_, time)| *time));
        self.batches.entry(step.batch.clone()).or_default().extend(done.into_iter().map(|(job, _)| job));
        self.tell(line);
        Ok(())
    }

    /// The homes, each with the node that its job is forced to.
    async fn pairs<'a>(&'a self, step: &Submit) -> anyhow::Result<Vec<(&'a Host, Option<&'a Host>)>> {
        let Some(to) = &step.to else { return Ok(self.world.up(&step.at).map(|home| (home, None)).collect()) };
        let mut pairs = Vec::new();
        for home in self.world.up(&step.at) {
            let neighbours = if step.beyond_view { neighbours(home).await? } else { Vec::new() };
            for to in self.world.up(to).filter(|to| to.name() != home.name() && to.has_worker()) {
                if !neighbours.contains(&to.id()?) {
                    pairs.push((home, Some(to)));
                }
            }
        }
        let keep = step.pairs.unwrap_or(pairs.len()).min(pairs.len());
        anyhow::ensure!(keep > 0, "there is no pair of nodes like that");
        Ok((0..keep).filter_map(|place| pairs.get(place * pairs.len() / keep).copied()).collect())
    }

    pub(super) async fn wait(&mut self, step: &Wait) -> anyhow::Result<()> {
        match step.until {
            Until::Running => self.wait_running(step).await,
            Until::Succeeded => self.wait_succeeded(step).await,
        }
    }

    async fn wait_running(&mut self, step: &Wait) -> anyhow::Result<()> {
        let jobs = self.batch(&step.batch)?;
        let running = super::until(self.mark, step.within, async || {
            let shown: Vec<Shown> =
                stream::iter(jobs).map(|job| self.show(job)).buffer_unordered(AT_ONCE).try_collect().await?;
            Ok(shown.iter().all(|job| job.state == State::Running || job.state.is_settled()))
        });
        let running = running.await.with_context(|| format!("not all jobs of {} run in time", step.batch))?;
        let line = Line::new("wait", format!("{}: all {} run", step.batch, jobs.len())).times([running]);
        self.tell(line);
        Ok(())
    }

    async fn show(&self, job: &Job) -> anyhow::Result<Shown> {
        Ok(self.home(job).await?.job(job.id, false).await?)
    }

    pub(super) async fn home(&self, job: &Job) -> anyhow::Result<Client> {
        let home = self.world.hosts.iter().find(|host| host.name() == job.home).context("a home is unknown")?;
        anyhow::ensure!(home.is_up(), "{}, the home of {}, does not run", job.home, job.id);
        home.client(self.world.user()?).await
    }

    async fn wait_succeeded(&mut self, step: &Wait) -> anyhow::Result<()> {
        let jobs = self.batch(&step.batch)?.to_vec();
        let ran_at = step.ran_at.as_ref().map(|nodes| self.world.of(nodes).map(Host::id).collect::<Result<_, _>>());
        let ran_at: Option<Vec<NodeId>> = ran_at.transpose()?;
        let ended = self.ended(&jobs, ran_at.as_deref(), step.within).await;
        let good = ended.succeeded - ended.astray;
        let line = Line::new("wait", format!("{}: from acceptance to settlement", step.batch))
            .times(ended.times.iter().copied())
            .found(format!("{good} of {} succeeded, {} at another node", jobs.len(), ended.elsewhere))
            .promise(format!("all within {:?}", step.within), good == jobs.len());
        self.tell(line);
        let line = Line::new("wait", format!("{}: settled twice", step.batch))
            .found(format!("{}, {} attempts", ended.twice, ended.attempts))
            .promise("none", ended.twice == 0);
        self.tell(line);
        self.tell_wrong("wait", &ended);
        self.tell_counts(&jobs).await
    }

    /// Every job that a home has acknowledged is waiting, running, settled or swept, and none is counted twice.
    async fn tell_counts(&mut self, jobs: &[Job]) -> anyhow::Result<()> {
        let homes: BTreeSet<&str> = jobs.iter().map(|job| job.home.as_str()).collect();
        let mut wrong = Vec::new();
        for host in self.world.up(&Select::all()).filter(|host| homes.contains(host.name())) {
            let (id, view) = (host.id()?, host.view().await?);
            let counts = view.into_iter().find(|node| node.id == id).and_then(|node| node.jobs);
            let counts = counts.with_context(|| format!("{} says nothing of its jobs", host.name()))?;
            if counts.accepted != counts.waiting + counts.running + counts.settled + counts.swept {
                wrong.push(format!("{}: {counts:?}", host.name()));
            }
        }
        let line = Line::new("wait", format!("counts of {} homes add up", homes.len())).found(wrong.join(", "));
        self.tell(line.promise("accepted = waiting + running + settled + swept", wrong.is_empty()));
        Ok(())
    }

    /// Says what went wrong with the first few.
    pub(super) fn tell_wrong(&mut self, step: &str, ended: &Ended) {
        for wrong in ended.wrong.iter().take(NAMED_MAX) {
            self.tell(Line::new(step, "").found(wrong));
        }
    }

    /// Waits for jobs at their homes, and says how they have ended. `ran_at`: those that ended well elsewhere are astray.
    pub(super) async fn ended(&self, jobs: &[Job], ran_at: Option<&[NodeId]>, within: Duration) -> Ended {
        let deadline = Instant::now() + within;
        let waiting = jobs.iter().map(async |job| {
            let left = deadline.saturating_duration_since(Instant::now());
            let shown = async { anyhow::Ok(self.home(job).await?.wait(job.id, Some(left), false).await?) };
            // Some seconds more than the wait itself: the answer has to come back, too.
            let patience = left + Duration::from_secs(10);
            (job, tokio::time::timeout(patience, shown).await.unwrap_or_else(|late| Err(late.into())))
        });
        let mut ended = Ended::default();
        let mut waiting = stream::iter(waiting).buffer_unordered(AT_ONCE);
        while let Some((job, shown)) = waiting.next().await {
            match shown {
                Ok(shown) => ended.add(job, ran_at, &shown),
                Err(error) => ended.wrong.push(format!("{} of {}: {error:#}", job.id, job.home)),
            }
        }
        ended
    }
}

impl Ended {
    fn add(&mut self, job: &Job, ran_at: Option<&[NodeId]>, shown: &Shown) {
        self.attempts += u64::from(shown.attempts_total);
        let succeeded = shown.attempts.iter().filter(|attempt| attempt.ending == Some(Ending::Succeeded)).count();
        self.twice += usize::from(succeeded > 1);
        if shown.state != State::Succeeded {
            let why = shown.failure.as_ref().map(|failure| failure.message.clone());
            let why = why.or_else(|| shown.reason.as_ref().map(|reason| reason.message.clone()));
            let why = why.unwrap_or_default();
            self.wrong.push(format!("{} of {} is {}: {why}", job.id, job.home, shown.state.text()));
            return;
        }
        self.succeeded += 1;
        let node = shown.attempts.last().and_then(|attempt| attempt.node).unwrap_or(shown.home);
        self.elsewhere += usize::from(node != shown.home);
        if job.to.is_some_and(|to| to != node) || ran_at.is_some_and(|nodes| !nodes.contains(&node)) {
            self.astray += 1;
            self.wrong.push(format!("{} of {} ran at {node}, where it was not to run", job.id, job.home));
        }
        let took = shown.settled_ms.unwrap_or_default().saturating_sub(shown.accepted_ms);
        self.times.push(Duration::from_millis(took));
    }
}

fn new_job(step: &Submit, function: ObjectId, to: Option<&str>) -> NewJob {
    let mut labels = step.needs.clone();
    labels.extend(to.map(|to| ("node".to_owned(), to.to_owned())));
    NewJob {
        function: function.to_string(),
        args: step.args.clone(),
        needs: Needs { labels, ..Needs::default() },
        ..NewJob::default()
    }
}

/// The nodes in the view of a node.
pub(super) async fn neighbours(host: &Host) -> anyhow::Result<Vec<NodeId>> {
    let view = host.view().await?;
    let is_neighbour = |node: &&crate::world::NodeView| node.peer.as_ref().is_some_and(|peer| peer.neighbour);
    Ok(view.iter().filter(is_neighbour).map(|node| node.id).collect())
}
