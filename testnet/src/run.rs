//! Makes the steps of a scenario, one after the other, and writes down what it finds.

mod account;
mod churn;
mod counters;
mod documents;
mod jobs;
mod live;
mod meet;
mod read;
mod rest;
mod spread;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use shoal_protocol::ObjectId;

use crate::report::{Line, Report};
use crate::scenario::{Scenario, Select, Step};
use crate::screen::Screen;
use crate::world::World;

use jobs::Job;
use live::Lives;

/// The scenarios that come with it.
pub const BUILT_IN: [(&str, &str); 9] = [
    ("lan", include_str!("../scenarios/lan.toml")),
    ("wan", include_str!("../scenarios/wan.toml")),
    ("dht", include_str!("../scenarios/dht.toml")),
    ("cut", include_str!("../scenarios/cut.toml")),
    ("islands", include_str!("../scenarios/islands.toml")),
    ("churn", include_str!("../scenarios/churn.toml")),
    ("nat", include_str!("../scenarios/nat.toml")),
    ("spread", include_str!("../scenarios/spread.toml")),
    ("idle", include_str!("../scenarios/idle.toml")),
];

/// The pause between two looks at whether something has come true. Why 10 ms: promises are about seconds, and forty nodes
/// that are asked more often than a hundred times a second are kept from their work.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// How much longer than promised something is watched, so that a broken promise says by how much.
const WATCH_LONGER: Duration = Duration::from_secs(15);
/// How long something without a promise is watched.
const WATCH_MAX: Duration = Duration::from_secs(60);

/// A run.
pub struct Run {
    world: World,
    screen: Screen,
    lines: Vec<Line>,
    functions: BTreeMap<String, ObjectId>,
    batches: BTreeMap<String, Vec<Job>>,
    /// Of all steps `live`.
    lives: Lives,
    /// When the step before the one at hand had done its part; of a start, when the last node was up.
    mark: Instant,
    seed: u64,
}

/// Runs a scenario. What it finds is in the report, also why it ended early.
///
/// # Errors
/// When its network cannot be made.
pub async fn run(
    name: &str,
    scenario: &Scenario,
    shoal: &Path,
    folder: &Path,
    on_host: bool,
) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let world = World::new(scenario, shoal, folder, on_host)?;
    let nodes = world.hosts.len();
    let mut run = Run {
        screen: Screen::new(&world),
        world,
        lines: Vec::new(),
        functions: BTreeMap::new(),
        batches: BTreeMap::new(),
        lives: Lives::default(),
        mark: Instant::now(),
        seed: scenario.network.seed,
    };
    let error = run.steps(&scenario.steps).await.err().map(|error| format!("{error:#}"));
    if let Some(counts) = run.world.counts() {
        let counts = format!("{counts:?}");
        run.tell(Line::new("network", "frames on links").found(counts));
    }
    Ok(Report::new(name, nodes, begun.elapsed(), run.lines, error))
}

impl Run {
    async fn steps(&mut self, steps: &[Step]) -> anyhow::Result<()> {
        for (number, step) in steps.iter().enumerate() {
            self.screen.begin(&self.world, step.name());
            // Boxed, as steps may hold steps.
            Box::pin(self.step(step)).await.with_context(|| format!("step {}, {}", number + 1, step.name()))?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> anyhow::Result<()> {
        match step {
            Step::Start(step) => self.start(&step.nodes, step.at_once).await?,
            Step::Stop(step) => self.stop(&step.nodes).await?,
            Step::Kill(step) => self.kill(&step.nodes)?,
            Step::Cut(step) => self.world.set_cut(&step.a, &step.b, true)?,
            Step::Heal(_) => self.world.set_cut(&Select::all(), &Select::all(), false)?,
            Step::CloseSites(_) => self.world.close_sites()?,
            Step::Pause(step) => tokio::time::sleep(step.length).await,
            Step::Meet(step) => self.meet(step).await?,
            Step::Deploy(step) => self.deploy(step).await?,
            Step::Edit(step) => self.edit(step).await?,
            Step::Put(step) => self.put(step).await?,
            Step::Submit(step) => self.submit(step).await?,
            Step::Wait(step) => self.wait(step).await?,
            Step::Read(step) => self.read(step).await?,
            Step::Equal(step) => self.equal(step).await?,
            Step::Path(step) => self.path(step).await?,
            Step::Lookups(step) => self.lookups(step).await?,
            Step::Unchanged(step) => self.unchanged(step).await?,
            Step::Churn(step) => self.churn(step).await?,
            Step::Live(step) => self.live(step).await?,
            Step::Account(step) => self.account(step).await?,
            Step::Spread(step) => self.spread(step).await?,
            Step::Rest(step) => self.rest(step).await?,
        }
        self.mark = match step {
            Step::Start(_) => self.world.last_up().unwrap_or_else(Instant::now),
            _ => Instant::now(),
        };
        Ok(())
    }

    async fn start(&mut self, nodes: &Select, at_once: usize) -> anyhow::Result<()> {
        let begun = Instant::now();
        self.world.start(nodes, at_once).await?;
        self.tell(Line::new("start", format!("{nodes} up")).times([begun.elapsed()]));
        Ok(())
    }

    async fn stop(&mut self, nodes: &Select) -> anyhow::Result<()> {
        let stopping = self.world.hosts.iter_mut().filter(|host| nodes.fits(host.name()) && host.is_up());
        let stopping = stopping.map(async |host| {
            let begun = Instant::now();
            host.stop().await.map(|()| begun.elapsed())
        });
        let times = futures_util::future::try_join_all(stopping).await?;
        self.tell(Line::new("stop", format!("{nodes} stopped")).times(times));
        Ok(())
    }

    fn kill(&mut self, nodes: &Select) -> anyhow::Result<()> {
        self.world
            .hosts
            .iter_mut()
            .filter(|host| nodes.fits(host.name()) && host.is_up())
            .try_for_each(|host| host.kill())
    }

    /// Writes down what was found.
    fn tell(&mut self, line: Line) {
        self.screen.found(&self.world, &line);
        self.lines.push(line);
    }

    fn function(&self, name: &str) -> anyhow::Result<ObjectId> {
        self.functions.get(name).copied().with_context(|| format!("no step has deployed {name}"))
    }

    fn batch(&self, name: &str) -> anyhow::Result<&[Job]> {
        self.batches.get(name).map(Vec::as_slice).with_context(|| format!("no step has submitted {name}"))
    }
}

/// How long something is watched that was promised within this.
fn watch(within: Option<Duration>) -> Duration {
    within.map_or(WATCH_MAX, |within| within + WATCH_LONGER)
}

/// Looks until it is true, and says how long after `since` that was; `None` when it is not by then. A look that fails is
/// one that was not true: nodes that start or are cut off do not answer.
async fn until<F: Future<Output = anyhow::Result<bool>>>(
    since: Instant,
    patience: Duration,
    mut look: impl FnMut() -> F,
) -> Option<Duration> {
    let deadline = Instant::now() + patience;
    loop {
        if matches!(tokio::time::timeout_at(deadline.into(), look()).await, Ok(Ok(true))) {
            return Some(since.elapsed());
        }
        if Instant::now() >= deadline {
            return None;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// A line about something that was watched at several nodes: the times, and the names of those where it did not come
/// true, which breaks the promise if one was made, and ends the run if not.
fn watched(
    step: &str,
    what: String,
    seen: &[(String, Option<Duration>)],
    within: Option<Duration>,
) -> anyhow::Result<Line> {
    let late: Vec<&str> = seen.iter().filter(|(_, time)| time.is_none()).map(|(name, _)| name.as_str()).collect();
    let line = Line::new(step, what).times(seen.iter().filter_map(|(_, time)| *time));
    if late.is_empty() {
        return Ok(line.within(within));
    }
    let late = format!("not at {}", late.join(", "));
    match within {
        Some(limit) => Ok(line.found(late).promise(format!("at most {limit:?}"), false)),
        None => anyhow::bail!("{}: {late}", line.what),
    }
}
