//! One long job, and the restarts of whoever has to do with it.
//!
//! The home accepts it, another node executes it, and a client waits for it at a third. While it runs each of them is
//! killed and started again, one after the other; near its end the worker that runs it is killed with its node. The job
//! computes a chain in which each link is made of the one before, saves every step, and says with which it has begun.

mod cast;
mod chain;

use std::path::Path;
use std::time::{Duration, Instant};

use shoal_protocol::object::job::Job;
use shoal_protocol::object::job::State;
use shoal_testnet::report::{Line, Report};

use self::cast::Cast;
use self::chain::Ended;

/// The steps that a run is made of take so long together that it lasts this much longer than was asked for. Why: how long
/// a step takes is measured before, and the machine may be faster later.
const MARGIN: f64 = 1.1;
/// The part of the steps that must not be made again after the kill near the end.
const KEPT_MIN: f64 = 0.85;
const STEP: &str = "long";

/// How long it is.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How long the job computes, in minutes
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=24 * 60))]
    minutes: u64,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    pub(crate) json: Option<std::path::PathBuf>,
}

/// What happens to the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Act {
    Home,
    Executor,
    Client,
    Worker,
}

impl Act {
    const ALL: [Self; 4] = [Self::Home, Self::Executor, Self::Client, Self::Worker];

    /// After which part of its steps.
    fn share(self) -> f64 {
        match self {
            Self::Home => 0.15,
            Self::Executor => 0.40,
            Self::Client => 0.65,
            Self::Worker => 0.90,
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Home => "the home is killed and started again",
            Self::Executor => "the executor is killed and started again, its worker goes on",
            Self::Client => "the client is killed and started again",
            Self::Worker => "the worker is killed with the executor",
        }
    }
}

pub(crate) async fn run(shoal: &Path, args: &Args) -> anyhow::Result<Report> {
    let begun = Instant::now();
    let mut cast = Cast::begin(shoal).await?;
    let length = Duration::from_secs(args.minutes * 60);
    let steps = (length.as_secs_f64() * MARGIN / cast.step_time().await?.as_secs_f64()) as u64;
    let submitted = Instant::now();
    cast.submit(steps, length).await?;
    let mut lines = vec![Line::new(STEP, "accepted").found(format!("{steps} steps"))];
    for act in Act::ALL {
        let step = cast.comes_to((steps as f64 * act.share()) as u64).await?;
        let at = submitted.elapsed();
        match act {
            Act::Home => cast.restart_home().await?,
            Act::Executor => cast.restart_executor(false).await?,
            Act::Client => cast.restart_client()?,
            Act::Worker => cast.restart_executor(true).await?,
        }
        let line = Line::new(STEP, act.words());
        lines.push(line.found(format!("after {:.1} s, at step {step}", at.as_secs_f64())));
    }
    let (job, ended) = cast.end(length).await?;
    lines.extend(verdict(&job, &ended, steps, submitted.elapsed(), length));
    Ok(Report::new(STEP, 3, begun.elapsed(), lines, None))
}

fn verdict(job: &Job, ended: &Ended, steps: u64, took: Duration, length: Duration) -> Vec<Line> {
    let state = Line::new(STEP, "the client that waited has seen how it ended").found(job.state.text());
    let long = Line::new(STEP, "from its acceptance to its end").found(format!("{:.1} s", took.as_secs_f64()));
    let runs = Line::new(STEP, "runs").found(job.attempts_total.to_string());
    let first =
        Line::new(STEP, "steps that the last run did not make again").found(format!("{} of {steps}", ended.first));
    let kept = (steps as f64 * KEPT_MIN) as u64;
    let last = Line::new(STEP, "the last link of the chain").found(format!("{:016x}", ended.link));
    vec![
        state.promise("succeeded", job.state == State::Succeeded),
        long.promise(format!("at least {length:?}"), took >= length),
        runs.promise("one more, after the kill of the worker", job.attempts_total == 2),
        first.promise(format!("at least {kept}"), ended.first >= kept),
        last.promise("that of all steps in their order", ended.link == chain::link(steps)),
    ]
}
