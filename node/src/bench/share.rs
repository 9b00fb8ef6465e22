//! Two projects that compete: what each gets of a worker by its weight, and what competing costs. Their jobs wait 50 ms in their
//! host, so that slots are what they compete for and not processors.
//!
//! First a third project runs alone, with more work than the worker can do: that is the peak. Then the two are offered ten times as
//! much as that, half of it each, whatever waits already. Jobs are counted as the node tells that they have succeeded.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use serde::Serialize;
use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::object::Class;
use shoal_protocol::object::function::NewFunction;
use shoal_protocol::object::job::{Receipt, State, Submit, Subscription, Told};
use shoal_protocol::object::project::NewProject;
use tokio::time::{MissedTickBehavior, interval, timeout_at};

use super::screen::Screen;
use crate::cli::Progress;

/// A function that waits for 50 ms in its host.
const FUNCTION: &[u8] = include_bytes!("../../functions/wait/wait.wasm");
/// Times that both are measured.
const ROUNDS: u32 = 3;
/// What is offered, in peaks.
const OFFERED: f64 = 10.0;
/// Weights of the two.
const WEIGHTS: [u32; 2] = [1, 3];
/// How often jobs are handed over.
const HAND_EVERY: Duration = Duration::from_millis(50);
/// How long both run before anything is counted: code is compiled, and the queue fills.
const WARM: Duration = Duration::from_secs(3);
/// Jobs of one batch at most.
const BATCH: usize = 1_000;
/// By how much the ratio of both may be off.
const OFF_MAX: f64 = 0.05;
/// What there must be of the peak.
const GOODPUT_MIN: f64 = 0.9;

/// What the two got.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Share {
    pub(super) slots: u32,
    pub(super) weights: [u32; 2],
    /// Jobs a second of one project alone.
    pub(super) peak_per_second: f64,
    /// Jobs a second that were offered to both together.
    pub(super) offered_per_second: f64,
    pub(super) rounds: Vec<Round>,
    /// Whether each ratio is within 5 % of the weights'.
    pub(super) shares_hold: bool,
    /// Whether each round has at least 90 % of the peak.
    pub(super) goodput_holds: bool,
}

/// One time that both were measured.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(super) struct Round {
    /// Jobs of each that succeeded.
    pub(super) jobs: [u64; 2],
    /// Of the second for each of the first.
    pub(super) ratio: f64,
    /// Jobs a second of both, in peaks.
    pub(super) goodput: f64,
    /// Jobs that waited at its end.
    pub(super) waiting: u64,
}

impl Round {
    fn new(jobs: [u64; 2], elapsed: Duration, peak_per_second: f64, waiting: u64) -> Self {
        let [first, second] = jobs.map(|jobs| jobs as f64);
        let per_second = (first + second) / elapsed.as_secs_f64();
        Self { jobs, ratio: second / first.max(1.0), goodput: per_second / peak_per_second, waiting }
    }

    fn share_holds(&self) -> bool {
        let [first, second] = WEIGHTS.map(f64::from);
        (self.ratio / (second / first) - 1.0).abs() <= OFF_MAX
    }
}

impl Share {
    /// For people.
    pub(super) fn show(&self, screen: &Screen) {
        let Self { peak_per_second, offered_per_second, .. } = self;
        let [first, second] = self.weights;
        screen.say(&format!("  one project alone: {peak_per_second:.1} jobs a second on {} slots", self.slots));
        screen.say(&format!("  offered to two of weights {first} and {second}: {offered_per_second:.0} a second"));
        for Round { jobs: [first, second], ratio, goodput, waiting } in &self.rounds {
            let percent = 100.0 * goodput;
            screen.say(&format!(
                "  {first} and {second} jobs: 1 to {ratio:.3}, {percent:.1} % of the peak, {waiting} wait"
            ));
        }
        let verdict = |holds: bool| if holds { "holds" } else { "DOES NOT HOLD" };
        screen.say(&format!("  shares within 5 % of the weights: {}", verdict(self.shares_hold)));
        screen.say(&format!("  at least 90 % of the peak: {}", verdict(self.goodput_holds)));
    }
}

/// A project with the function.
struct Rival {
    project: ObjectId,
    function: String,
}

/// Measures it all, each time for so long.
pub(super) async fn run(client: &Client, slots: u32, length: Duration) -> anyhow::Result<Share> {
    let component = client.put_bytes(FUNCTION, false, "wait").await?.id;
    let alone = rival(client, "alone", 1, component).await?;
    let [first, second] = WEIGHTS;
    let rivals = [rival(client, "first", first, component).await?, rival(client, "second", second, component).await?];
    let peak_per_second = peak(client, &alone, slots, length).await?;
    let offered_per_second = OFFERED * peak_per_second;
    let rounds = compete(client, &rivals, peak_per_second, length).await?;
    let shares_hold = rounds.iter().all(Round::share_holds);
    let goodput_holds = rounds.iter().all(|round| round.goodput >= GOODPUT_MIN);
    Ok(Share { slots, weights: WEIGHTS, peak_per_second, offered_per_second, rounds, shares_hold, goodput_holds })
}

async fn rival(client: &Client, name: &str, weight: u32, component: shoal_protocol::BlobId) -> anyhow::Result<Rival> {
    let project = client.create_project(&NewProject { name: name.into(), ..NewProject::default() }).await?.id;
    let patch = BTreeMap::from([("weight", weight)]);
    let _: shoal_protocol::object::project::Project = client.set(Class::Project, project, None, &patch).await?;
    let function = format!("wait-{name}");
    client.deploy(&NewFunction { project: Some(project), ..NewFunction::new(&function, component) }).await?;
    Ok(Rival { project, function })
}

/// Jobs a second of one project that has the worker to itself, with twice as many jobs in hand as it takes.
async fn peak(client: &Client, alone: &Rival, slots: u32, length: Duration) -> anyhow::Result<f64> {
    let begun = Instant::now();
    let until = begun + WARM + length;
    let mut counting = Counting::begin(client, [alone.project, alone.project]).await?;
    // Twenty runs a second in each slot, were there nothing else.
    let all = f64::from(slots) * 20.0 * (WARM + length).as_secs_f64() * 1.2;
    hand(client, &alone.function, all as usize).await?;
    counting.until(begun + WARM).await?;
    let (from, counted) = (Instant::now(), counting.all());
    counting.until(until).await?;
    let jobs = counting.all() - counted;
    ensure!(jobs > 0, "no job of one project alone has succeeded");
    let per_second = jobs as f64 / from.elapsed().as_secs_f64();
    // What is left of it would run beside the others.
    counting.drain(client, alone.project).await?;
    Ok(per_second)
}

/// Offers both ten times as much as the worker can do, and counts.
async fn compete(
    client: &Client,
    rivals: &[Rival; 2],
    peak_per_second: f64,
    length: Duration,
) -> anyhow::Result<Vec<Round>> {
    let [first, second] = rivals;
    let mut counting = Counting::begin(client, [first.project, second.project]).await?;
    let each_second = OFFERED * peak_per_second / 2.0;
    let offering = offer(client, rivals, each_second);
    let measuring = async {
        let mut progress = Progress::new("two projects:");
        counting.until(Instant::now() + WARM).await?;
        let mut rounds = Vec::new();
        for number in 1..=ROUNDS {
            progress.say(&format!("round {number} of {ROUNDS}"));
            let (from, before) = (Instant::now(), counting.jobs);
            counting.until(from + length).await?;
            let elapsed = from.elapsed();
            let mut jobs = counting.jobs;
            jobs.iter_mut().zip(before).for_each(|(jobs, before)| *jobs -= before);
            let waiting = waiting(client, first.project).await? + waiting(client, second.project).await?;
            rounds.push(Round::new(jobs, elapsed, peak_per_second, waiting));
        }
        anyhow::Ok(rounds)
    };
    tokio::select! {
        rounds = measuring => rounds,
        offered = offering => match offered {
            Ok(()) => bail!("jobs are offered no more"),
            Err(error) => Err(error),
        },
    }
}

/// Hands over as many jobs of each as are due, until it is dropped.
async fn offer(client: &Client, rivals: &[Rival; 2], each_second: f64) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut handed = 0_usize;
    let mut ticks = interval(HAND_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let due = (each_second * begun.elapsed().as_secs_f64()) as usize;
        let more = due.saturating_sub(handed);
        for rival in rivals {
            hand(client, &rival.function, more).await?;
        }
        handed += more;
    }
}

async fn hand(client: &Client, function: &str, jobs: usize) -> anyhow::Result<()> {
    let submits = vec![Submit { function: function.into(), ..Submit::default() }; jobs.min(BATCH)];
    let mut left = jobs;
    while left > 0 {
        let batch = submits.get(..left.min(BATCH)).unwrap_or_default();
        for receipt in client.submit_batch(batch).await? {
            if let Receipt::Refused(problem) = receipt {
                bail!("a job was refused: {}", problem.detail);
            }
        }
        left -= batch.len();
    }
    Ok(())
}

async fn waiting(client: &Client, project: ObjectId) -> anyhow::Result<u64> {
    let shown = client.project(project).await?;
    Ok(shown.usage.context("the node does not say what the project has")?.queued)
}

/// Counts jobs that succeed, of two projects.
struct Counting {
    events: shoal_client::Events,
    projects: [ObjectId; 2],
    jobs: [u64; 2],
}

impl Counting {
    async fn begin(client: &Client, projects: [ObjectId; 2]) -> anyhow::Result<Self> {
        let wanted = Subscription { job: None, function: None, project: None, after: None };
        Ok(Self { events: client.subscribe(wanted).await?, projects, jobs: [0; 2] })
    }

    /// What has succeeded of the first one.
    fn all(&self) -> u64 {
        let [first, _] = self.jobs;
        first
    }

    /// Counts until then.
    async fn until(&mut self, until: Instant) -> anyhow::Result<()> {
        while let Ok(told) = timeout_at(until.into(), self.events.next()).await {
            self.count(told?)?;
        }
        Ok(())
    }

    fn count(&mut self, told: Option<Told>) -> anyhow::Result<()> {
        match told {
            Some(Told::Changed { event, .. }) => {
                let place = self.projects.iter().position(|project| event.project == Some(*project));
                let count = place.and_then(|place| self.jobs.get_mut(place));
                match (event.state, count) {
                    (State::Succeeded, Some(count)) => *count += 1,
                    (state, Some(_)) if state.is_settled() => bail!("job {} is {}", event.job, state.text()),
                    _ => {}
                }
                Ok(())
            }
            Some(_) => bail!("the node has told more than was read in time"),
            None => bail!("the node tells nothing more"),
        }
    }

    /// Waits until nothing of the project is left.
    async fn drain(&mut self, client: &Client, project: ObjectId) -> anyhow::Result<()> {
        loop {
            let usage = client.project(project).await?.usage.context("the node does not say what the project has")?;
            if usage.queued + usage.running == 0 {
                return Ok(());
            }
            self.until(Instant::now() + Duration::from_millis(200)).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_function_is_its_text() {
        let text = include_str!("../../functions/wait/wait.wat");
        assert_eq!(wat::parse_str(text).expect("a module"), FUNCTION);
    }

    #[test]
    fn what_is_off_by_more_than_a_twentieth_does_not_hold() {
        let round = |first, second| Round::new([first, second], Duration::from_secs(10), 40.0, 0);
        assert!(round(100, 300).share_holds() && round(100, 286).share_holds() && round(100, 314).share_holds());
        assert!(!round(100, 284).share_holds() && !round(100, 316).share_holds() && !round(0, 400).share_holds());
        assert!((round(100, 300).goodput - 1.0).abs() < 1e-9);
    }
}
