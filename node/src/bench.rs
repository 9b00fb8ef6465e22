//! `shoal bench`: what a node does with jobs and blobs on this machine, beside what the machine does by itself.
//!
//! It starts a node of its own, with its worker, and speaks to it as any client does. Every result is compared with what
//! it must be: jobs return the BLAKE3 of an input that no other job has, blobs are hashed when they come back. Beside each
//! figure stands a raw one, measured in the same run: synced appends to the same disk, the same component in bare
//! wasmtime, the same file in iroh-blobs alone. At the end of the jobs the node is killed and started again, and every
//! result is read once more.
//!
//! With `--peers` it measures Slurm and HyperQueue in turn with Shoal instead, see [`peers`].

mod arrivals;
mod blobs;
mod folder;
mod http;
mod jobs;
mod open;
mod peers;
mod process;
mod raw;
mod report;
mod screen;
mod share;
mod times;
mod trace;
mod waiting;

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, anyhow, bail, ensure};
use serde::Deserialize;
use shoal_client::Client;
use shoal_worker::bare::Function;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::{BenchArgs, Part, size};
use crate::stage::Stage;
use arrivals::{Arrival, Random};
use blobs::Transfers;
use folder::Folder;
use http::Http;
use jobs::{Jobs, Submitter};
use process::{IDLE, Watch};
use raw::Raw;
use report::{Figures, Machine, Report, Shape};
use screen::Screen;
use waiting::{Cost, Queue, Restart, Waiting};

/// The function that is run.
const FUNCTION: &[u8] = include_bytes!("../functions/digest/digest.wasm");
/// Jobs one after the other, for the latency of a quiet node.
const QUIET_JOBS: u32 = 500;
/// Jobs that are not counted: code is compiled, caches fill.
const WARM_JOBS: u32 = 200;
/// Jobs of the short queue, with which the long one is compared.
const SHORT_QUEUE: u32 = 1_000;
/// Jobs that wait when the node is killed for the first time.
const MIDDLE_QUEUE: u32 = 100_000;
/// Jobs that are handed over to see what that costs beside a queue. Why 20,000: rows of theirs are moved into the tables meanwhile,
/// which costs more the longer the queue is.
const COST_JOBS: u32 = 20_000;
/// Arrivals a second where neither the command line nor the closed loop says how many.
const RATE_DEFAULT: f64 = 500.0;

/// Runs the benchmark to its end.
pub(crate) fn run(args: BenchArgs) -> anyhow::Result<()> {
    let mut bench = Bench::new(args)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let measured = runtime.block_on(async {
        let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
        tokio::select! {
            measured = bench.measure() => measured,
            _ = term.recv() => Err(anyhow!("it was told to stop")),
            _ = int.recv() => Err(anyhow!("it was interrupted")),
        }
    });
    // What still blocks a thread is not waited for.
    runtime.shutdown_background();
    let stopped = if bench.stage.node_pid().is_some() { bench.stage.stop_node() } else { Ok(()) };
    measured.and(stopped)?;
    bench.deliver()
}

/// What the node says of itself in its file.
#[derive(Deserialize)]
struct Whereabouts {
    gateway: String,
    http: String,
}

/// One run. The stage stands before the folder: it is taken down first.
struct Bench {
    args: BenchArgs,
    seed: u64,
    trace: Option<Vec<Arrival>>,
    screen: Screen,
    report: Report,
    stage: Stage,
    folder: Folder,
}

impl Bench {
    /// Checks all that can be checked before anything is measured.
    fn new(args: BenchArgs) -> anyhow::Result<Self> {
        ensure!(
            args.trace.is_some() || !args.only.contains(&Part::Trace),
            "a trace is measured from a file: add --trace FILE, see shoal bench --help"
        );
        let trace = args.trace.as_deref().filter(|_| args.wants(Part::Trace)).map(trace::read).transpose()?;
        let seed = match args.seed {
            Some(seed) => seed,
            None => u64::from(getrandom::u32().map_err(|error| anyhow!("no random numbers: {error}"))?),
        };
        let folder = Folder::new(args.folder.as_deref())?;
        if !args.peers && args.wants(Part::Blobs) {
            folder.check_room(args.blob_size)?;
        }
        let machine = Machine::this(folder.path(), folder.is_in_memory());
        Ok(Self {
            seed,
            trace,
            screen: Screen::new(args.json),
            report: Report::new(seed, args.slots, machine),
            stage: Stage::new(folder.path(), "node")?,
            folder,
            args,
        })
    }

    async fn measure(&mut self) -> anyhow::Result<()> {
        self.report.show_head(&self.screen);
        if self.args.peers {
            return self.peers().await;
        }
        self.start_node()?;
        let jobs = [Part::Latency, Part::Closed, Part::Poisson, Part::OnOff, Part::Trace];
        let wants_jobs = jobs.into_iter().any(|part| self.args.wants(part));
        if wants_jobs || self.args.wants(Part::Idle) {
            let submitter = Submitter::deploy(self.client().await?, self.seed).await?;
            let mut jobs = Jobs::new(submitter);
            jobs.one_by_one(WARM_JOBS).await?;
            if self.args.wants(Part::Idle) {
                self.screen.title(&format!("a node with nothing to do, for {} s", IDLE.as_secs()));
                let idle = Watch::begin(&self.stage).idle().await;
                idle.show(&self.screen);
                self.report.idle = Some(idle);
            }
            if wants_jobs {
                self.jobs(&mut jobs).await?;
                self.kill_and_read(&jobs).await?;
            }
            jobs.close().await;
        }
        if self.args.wants(Part::Blobs) {
            self.blobs().await?;
        }
        if self.args.wants(Part::Submit) || self.args.wants(Part::Queue) {
            self.waiting().await?;
        }
        // Last, as it leaves jobs that wait.
        if self.args.wants(Part::Share) {
            let (slots, length) = (self.args.slots, Duration::from_secs(self.args.seconds.into()));
            self.screen.title(&format!("two projects on {slots} slots, {} s each time", length.as_secs()));
            let client = self.client().await?;
            let share = share::run(&client, slots, length).await?;
            client.close().await;
            share.show(&self.screen);
            self.report.share = Some(share);
        }
        let end = Watch::of(&self.stage).memory();
        self.screen.title("at the end");
        self.screen.say(&format!("  {end}"));
        self.report.end = Some(end);
        Ok(())
    }

    /// All parts with jobs.
    async fn jobs(&mut self, jobs: &mut Jobs) -> anyhow::Result<()> {
        let slots = self.args.slots;
        let function = blocking(move || raw::function(slots)).await?;
        if self.args.wants(Part::Latency) {
            self.screen.title(&format!("{QUIET_JOBS} jobs one after the other, a fresh instance each"));
            self.report.latency = Some(self.closed(jobs, QUIET_JOBS, 1, self.raw(&function, 1)).await?);
        }
        if self.args.wants(Part::Closed) {
            let (count, in_flight) = (self.args.jobs, self.args.in_flight);
            self.screen.title(&format!("closed loop: {count} jobs, {in_flight} in flight, {slots} slots"));
            self.report.closed = Some(self.closed(jobs, count, in_flight, self.raw(&function, slots)).await?);
        }
        let reached = self.report.closed.map(|closed| closed.per_second);
        let length = Duration::from_secs(self.args.seconds.into());
        if self.args.wants(Part::Poisson) {
            let rate = self.args.rate.or(reached.map(|rate| rate / 2.0)).unwrap_or(RATE_DEFAULT);
            self.screen.title(&format!("Poisson: {rate:.0} jobs a second for {} s", length.as_secs()));
            let arrivals = arrivals::poisson(&mut Random::new(self.seed, 1), rate, length)?;
            self.report.poisson = self.shape(jobs, &function, "Poisson", &arrivals).await?;
        }
        if self.args.wants(Part::OnOff) {
            let rate = self.args.rate.or(reached).unwrap_or(RATE_DEFAULT);
            let bursts = self.args.on_off;
            let (on, off) = (bursts.on.as_millis(), bursts.off.as_millis());
            self.screen.title(&format!("on-off: {rate:.0} jobs a second for {on} ms, none for {off} ms, in turn"));
            let arrivals = arrivals::on_off(&mut Random::new(self.seed, 2), rate, bursts, length)?;
            self.report.on_off = self.shape(jobs, &function, "on-off", &arrivals).await?;
        }
        if let Some(arrivals) = self.trace.take() {
            self.screen.title("trace");
            self.report.trace = self.shape(jobs, &function, "trace", &arrivals).await?;
        }
        Ok(())
    }

    /// So many jobs, so many of them in flight at once.
    async fn closed(&self, jobs: &mut Jobs, count: u32, in_flight: u32, raw: Raw) -> anyhow::Result<Figures> {
        let raw = blocking(move || raw.sample()).await?;
        let watch = Watch::begin(&self.stage);
        let (latency, elapsed) = jobs.closed(count, in_flight).await?;
        let memory = watch.memory();
        let raw = blocking(move || raw.sample()).await?.figures();
        let figures = Figures::new(f64::from(count) / elapsed.as_secs_f64(), latency, raw, memory);
        figures.show(&self.screen);
        Ok(figures)
    }

    /// One open loop. None where chance let nobody arrive.
    async fn shape(
        &self,
        jobs: &mut Jobs,
        function: &Arc<Function>,
        name: &str,
        arrivals: &[Arrival],
    ) -> anyhow::Result<Option<Shape>> {
        if arrivals.is_empty() {
            self.screen.say("  nobody arrived in this time: choose a higher --rate or more --seconds");
            return Ok(None);
        }
        let raw = self.raw(function, self.args.slots);
        let raw = blocking(move || raw.sample()).await?;
        let watch = Watch::begin(&self.stage);
        let open = open::run(jobs, arrivals, name).await?;
        let memory = watch.memory();
        let raw = blocking(move || raw.sample()).await?.figures();
        let shape = Shape {
            figures: Figures::new(open.done_per_second, open.latency, raw, memory),
            arrived_per_second: open.arrived_per_second,
            begun_late: open.begun_late,
            in_flight_max: open.in_flight_max,
            found_full: open.found_full,
        };
        shape.show(&self.screen);
        Ok(Some(shape))
    }

    /// What disk and wasmtime do by themselves, yet to be measured.
    fn raw(&self, function: &Arc<Function>, threads: u32) -> Raw {
        Raw::new(function.clone(), threads, self.seed, self.folder.path().to_owned())
    }

    /// Kills the node and reads every result once more.
    async fn kill_and_read(&mut self, jobs: &Jobs) -> anyhow::Result<()> {
        self.screen.title("the node is killed (SIGKILL) and started again; every result is read once more");
        self.stage.kill_node();
        self.start_node()?;
        let client = self.client().await?;
        jobs.read_again(&client).await?;
        client.close().await;
        self.screen.say(&format!("  {0} of {0} are there, and right", jobs.count()));
        self.report.results_after_kill = Some(jobs.count());
        Ok(())
    }

    /// Both parts with jobs that wait.
    async fn waiting(&mut self) -> anyhow::Result<()> {
        let in_flight = self.args.in_flight;
        let submitter = Submitter::deploy(self.client().await?, self.seed).await?;
        let mut jobs = Jobs::new(submitter);
        jobs.one_by_one(WARM_JOBS).await?;
        let before = Watch::of(&self.stage).memory().node.now_mib;
        let mut waiting = Waiting::new(&mut jobs, self.seed);
        let mut short = None;
        if self.args.wants(Part::Queue) {
            self.screen.title(&format!("a queue of {SHORT_QUEUE} jobs"));
            let client = self.client().await?;
            waiting.fill(&client, SHORT_QUEUE).await?;
            Watch::of(&self.stage).rest().await;
            let cost = waiting.cost(&client, COST_JOBS.min(self.args.queued), in_flight).await?;
            cost.show(&self.screen);
            short = Some(cost);
        }
        if self.args.wants(Part::Submit) {
            let count = self.args.submits;
            self.screen
                .title(&format!("{count} jobs handed over by each way; they wait for a worker that is not there"));
            let http = Http::new(&self.whereabouts()?.http, &self.token()?)?;
            let submits = waiting.submits(&self.client().await?, &http, count, in_flight).await?;
            submits.show(&self.screen);
            self.report.submit = Some(submits);
        }
        if let Some(short) = short {
            self.long_queue(&mut waiting, short, before).await?;
        }
        Ok(())
    }

    async fn long_queue(&mut self, waiting: &mut Waiting<'_>, short: Cost, before_mib: f64) -> anyhow::Result<()> {
        let (queued, in_flight) = (self.args.queued, self.args.in_flight);
        let middle = queued.min(MIDDLE_QUEUE).max(waiting.count());
        self.screen
            .title(&format!("a queue of {queued} jobs; the node is killed and started with {middle}, and with all"));
        let client = self.client().await?;
        waiting.fill(&client, middle).await?;
        let first = self.restart(waiting).await?;
        let client = self.client().await?;
        waiting.fill(&client, queued).await?;
        Watch::of(&self.stage).rest().await;
        let long = waiting.cost(&client, COST_JOBS.min(queued), in_flight).await?;
        let grown = (Watch::of(&self.stage).memory().node.now_mib - before_mib) * 1024.0 * 1024.0;
        let second = self.restart(waiting).await?;
        waiting.count_again(&self.client().await?).await?;
        let queue = Queue::new(short, long, grown, [first, second]);
        queue.show(&self.screen);
        self.report.queue = Some(queue);
        Ok(())
    }

    /// Kills the node and starts it again.
    async fn restart(&mut self, waiting: &Waiting<'_>) -> anyhow::Result<Restart> {
        self.stage.kill_node();
        let begun = Instant::now();
        self.start_node()?;
        Ok(Restart { waiting: waiting.count(), seconds: begun.elapsed().as_secs_f64() })
    }

    async fn blobs(&mut self) -> anyhow::Result<()> {
        let (len, rounds) = (self.args.blob_size, self.args.blob_rounds);
        self.screen.title(&format!("blobs of {}, {rounds} rounds; bare is iroh-blobs alone", size(len)));
        let transfers = Transfers {
            stage: &self.stage,
            http: Http::new(&self.whereabouts()?.http, &self.token()?)?,
            client: self.client().await?,
            folder: self.folder.path(),
            seed: self.seed,
        };
        let blobs = transfers.run(len, rounds).await?;
        transfers.client.close().await;
        blobs.show(&self.screen);
        self.report.blobs = Some(blobs);
        Ok(())
    }

    fn start_node(&mut self) -> anyhow::Result<()> {
        let slots = self.args.slots.to_string();
        self.stage.start_node(&["up", "--name", "bench", "--slots", &slots])
    }

    fn whereabouts(&self) -> anyhow::Result<Whereabouts> {
        Ok(serde_json::from_str(&self.said(crate::node::NODE_FILE)?)?)
    }

    fn token(&self) -> anyhow::Result<String> {
        Ok(self.said("token")?.trim().to_owned())
    }

    fn said(&self, name: &str) -> anyhow::Result<String> {
        std::fs::read_to_string(self.stage.data().join(name)).with_context(|| format!("reading the node's {name}"))
    }

    async fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::connect(&self.whereabouts()?.gateway.parse()?, Some(self.token()?)).await?)
    }

    /// Hands over the figures to whoever wants them as JSON.
    fn deliver(&self) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(&self.report)?;
        self.screen.json(&text);
        let Some(path) = &self.args.report else { return Ok(()) };
        match std::fs::write(path, text + "\n") {
            Ok(()) => Ok(()),
            Err(error) => bail!("the report cannot be written into {}: {error}", path.display()),
        }
    }
}

/// Work that blocks, off the thread of the clients.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> anyhow::Result<T> + Send + 'static) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}
