//! Jobs that are submitted and read all the time, also while the mesh is cut. Each adds 1 to a key of its own, which counts its runs
//! wherever they happen.

use std::time::{Duration, Instant, SystemTime};

use futures_util::future::FutureExt as _;
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Effects, Submit as NewJob};
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::Run;
use crate::random::Random;
use crate::report::Line;
use crate::scenario::{Live, Select};

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// One job of so many waits for a time of its own.
const LATER_EVERY: usize = 3;

/// A job that was acknowledged.
#[derive(Debug, Clone)]
pub(super) struct Living {
    pub(super) id: ObjectId,
    /// The name of its home.
    pub(super) home: String,
    /// The key that its runs count in.
    pub(super) key: String,
    /// Whether it may not run twice.
    pub(super) once: bool,
}

/// What the steps `live` have seen.
#[derive(Debug, Default)]
pub(super) struct Lives {
    pub(super) jobs: Vec<Living>,
    submitted: usize,
}

/// What came of a submit, or of a read.
enum Done {
    Submitted(Option<(Living, Duration)>),
    Read(Result<Duration, String>),
}

#[derive(Debug, Default)]
struct Seen {
    times: Vec<Duration>,
    unknown: usize,
    reads: Vec<Duration>,
    unread: Vec<String>,
}

impl Run {
    pub(super) async fn live(&mut self, step: &Live) -> anyhow::Result<()> {
        let function = self.function(&step.function)?.to_string();
        let (begun, first) = (Instant::now(), self.lives.jobs.len());
        let mut random = Random::new(self.seed.wrapping_add(self.lives.submitted as u64));
        let mut every = interval(Duration::from_secs_f64(1.0 / step.jobs_per_second.max(0.01)));
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut under_way) = (Seen::default(), FuturesUnordered::new());
        while begun.elapsed() < step.length {
            tokio::select! {
                Some(done) = under_way.next() => seen.add(done, &mut self.lives.jobs),
                _ = every.tick() => {
                    if let Some((home, client)) = self.by_turns(&Select::all()).await {
                        let (new, living) = self.next_job(step, &function, home, &mut random);
                        under_way.push(submit(client, new, living).boxed());
                    }
                    if let Some((job, client)) = self.to_be_read(step, first, &mut random).await {
                        under_way.push(read(client, job).boxed());
                    }
                }
            }
        }
        while let Some(done) = under_way.next().await {
            seen.add(done, &mut self.lives.jobs);
        }
        self.tell_live(first, seen);
        Ok(())
    }

    fn tell_live(&mut self, first: usize, seen: Seen) {
        let new = self.lives.jobs.get(first..).unwrap_or_default();
        let once = new.iter().filter(|job| job.once).count();
        let found = format!("{} and {once} that may run once; {} without an answer", new.len() - once, seen.unknown);
        self.tell(Line::new("live", "jobs acknowledged").times(seen.times).found(found));
        let found = match seen.unread.as_slice() {
            [] => "all".to_owned(),
            unread => format!("{} were not: {}", unread.len(), unread.first().cloned().unwrap_or_default()),
        };
        let line = Line::new("live", "jobs read at another node of the same side").times(seen.reads).found(found);
        self.tell(line.promise("all", seen.unread.is_empty()));
    }

    /// The next node, with a connection to it.
    async fn by_turns(&self, select: &Select) -> Option<(String, Client)> {
        let up: Vec<_> = self.world.up(select).collect();
        let host = up.get(self.lives.submitted % up.len().max(1))?;
        let client = timeout(ANSWER_MAX, host.client(self.world.user().ok()?)).await.ok()?.ok()?;
        Some((host.name().to_owned(), client))
    }

    fn next_job(&mut self, step: &Live, function: &str, home: String, random: &mut Random) -> (NewJob, Living) {
        self.lives.submitted += 1;
        let number = self.lives.submitted;
        let key = format!("ran-{number}");
        let once = random.below(2) == 0;
        let later = step.later.mul_f64(random.share());
        let at = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default() + later;
        let new = NewJob {
            function: function.to_owned(),
            args: ["count", "user", "global", &key, "1"].map(str::to_owned).to_vec(),
            not_before_ms: number
                .is_multiple_of(LATER_EVERY)
                .then(|| u64::try_from(at.as_millis()).unwrap_or(u64::MAX)),
            effects: if once { Effects::Once } else { Effects::Idempotent },
            ..NewJob::default()
        };
        (new, Living { id: ObjectId::MIN, home, key, once })
    }

    /// A job of this step by chance, and a connection to a node on the side of its home that is not its home.
    async fn to_be_read(&self, step: &Live, first: usize, random: &mut Random) -> Option<(ObjectId, Client)> {
        let jobs = self.lives.jobs.get(first..)?;
        let job = jobs.get(random.below(jobs.len()))?;
        let side = step.sides.iter().find(|side| side.fits(&job.home))?;
        let hosts: Vec<_> = self.world.up(side).filter(|host| host.name() != job.home).collect();
        let client = hosts.get(random.below(hosts.len()))?.client(self.world.user().ok()?);
        Some((job.id, timeout(ANSWER_MAX, client).await.ok()?.ok()?))
    }
}

impl Seen {
    fn add(&mut self, done: Done, jobs: &mut Vec<Living>) {
        match done {
            Done::Submitted(Some((job, time))) => {
                self.times.push(time);
                jobs.push(job);
            }
            Done::Submitted(None) => self.unknown += 1,
            Done::Read(Ok(time)) => self.reads.push(time),
            Done::Read(Err(why)) => self.unread.push(why),
        }
    }
}

async fn submit(client: Client, new: NewJob, living: Living) -> Done {
    let begun = Instant::now();
    let id = timeout(ANSWER_MAX, client.submit(&new)).await.ok().and_then(Result::ok);
    Done::Submitted(id.map(|id| (Living { id, ..living }, begun.elapsed())))
}

async fn read(client: Client, job: ObjectId) -> Done {
    let begun = Instant::now();
    Done::Read(match timeout(ANSWER_MAX, client.job(job, false)).await {
        Ok(Ok(_)) => Ok(begun.elapsed()),
        Ok(Err(error)) => Err(format!("{job}: {error}")),
        Err(_) => Err(format!("{job}: no answer within {ANSWER_MAX:?}")),
    })
}
