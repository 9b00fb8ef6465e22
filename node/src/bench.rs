//! `shoal bench`: what a node does with jobs on this machine, beside what the disk alone does.
//!
//! It starts a node of its own, deploys a function that returns the BLAKE3 of its input, and checks every result against
//! the hash that the client computes. At the end the node is killed and started again, and every result is read once more.

use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use futures_util::StreamExt as _;
use shoal_client::{Client, NodeAddr};
use shoal_protocol::ObjectId;
use shoal_protocol::object::function::{Grant, NewFunction};
use shoal_protocol::object::job::{Input, Job, State, Submit};

use crate::cli::BenchArgs;
use crate::stage::{Stage, say};

/// The function that is run.
const FUNCTION: &[u8] = include_bytes!("../functions/digest/digest.wasm");
/// Jobs one after the other, for the latency of a quiet node.
const QUIET_JOBS: u32 = 500;
/// Jobs that are not counted: code is compiled, caches fill.
const WARM_JOBS: u32 = 200;
/// Synced appends of the baseline.
const SYNCS: usize = 1000;
/// How long an idle node is watched.
const IDLE: Duration = Duration::from_secs(5);

/// Runs the benchmark to its end.
pub(crate) fn run(args: BenchArgs) -> anyhow::Result<()> {
    let out = std::env::temp_dir().join(format!("shoal-bench-{}", std::process::id()));
    std::fs::create_dir_all(&out).with_context(|| format!("making {}", out.display()))?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let mut stage = Stage::new(&out)?;
    let measured = runtime.block_on(measure(&args, &out, &mut stage));
    let stopped = if stage.node_pid().is_some() { stage.stop_node() } else { Ok(()) };
    std::fs::remove_dir_all(&out).with_context(|| format!("removing {}", out.display()))?;
    measured.and(stopped)
}

async fn measure(args: &BenchArgs, out: &Path, stage: &mut Stage) -> anyhow::Result<()> {
    say("baseline: 512 bytes appended and synced (fdatasync), one at a time");
    say(&format!("  {}", Times::of(syncs(out)?)));

    let slots = args.slots.to_string();
    let up = ["up", "--name", "bench", "--gateway", "127.0.0.1:0", "--http", "127.0.0.1:0", "--slots", &slots];
    stage.start_node(&up)?;
    let client = connect(stage).await?;
    let component = client.put_bytes(FUNCTION, false, "digest").await?;
    client.deploy(&digest(component.id)).await?;
    one_after_the_other(&client, 0, WARM_JOBS).await?;

    say(&format!("idle for {} s", IDLE.as_secs()));
    idle(stage).await?;

    say(&format!("{QUIET_JOBS} jobs one after the other: submit to result, checked, a fresh instance each"));
    say(&format!("  {}", Times::of(one_after_the_other(&client, WARM_JOBS, QUIET_JOBS).await?)));

    say(&format!("{} jobs, {} in flight, {} slots", args.jobs, args.in_flight, args.slots));
    let begun = Instant::now();
    let first = WARM_JOBS + QUIET_JOBS;
    let width = args.in_flight as usize;
    let done: Vec<anyhow::Result<(ObjectId, Duration)>> = futures_util::stream::iter(first..first + args.jobs)
        .map(|n| job(&client, n))
        .buffer_unordered(width)
        .collect()
        .await;
    let elapsed = begun.elapsed();
    let done = done.into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    let times = done.iter().map(|(_, time)| *time).collect();
    say(&format!("  {:.0} jobs a second; {}", f64::from(args.jobs) / elapsed.as_secs_f64(), Times::of(times)));

    say("the node is killed and started again; every result is read once more");
    client.close().await;
    stage.kill_node();
    stage.start_node(&up)?;
    let client = connect(stage).await?;
    for (id, _) in &done {
        let job = client.job(*id, true).await?;
        ensure!(job.state == State::Succeeded, "job {id} is {} after the kill", job.state.text());
        ensure!(job.output.is_some_and(|output| output.size == 32), "job {id} has lost its result");
    }
    say(&format!("  {} of {} are there", done.len(), args.jobs));
    client.close().await;
    Ok(())
}

fn digest(component: shoal_protocol::BlobId) -> NewFunction {
    // Inputs above 16 KiB come as blobs: the function imports the interface.
    NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new("digest", component) }
}

async fn connect(stage: &Stage) -> anyhow::Result<Client> {
    let read = |name: &str| std::fs::read_to_string(stage.data().join(name)).with_context(|| format!("reading {name}"));
    let node: serde_json::Value = serde_json::from_str(&read(crate::node::NODE_FILE)?)?;
    let address: NodeAddr =
        node.get("gateway").and_then(|a| a.as_str()).context("the node says no address")?.parse()?;
    Ok(Client::connect(&address, Some(read("token")?.trim().to_owned())).await?)
}

async fn one_after_the_other(client: &Client, first: u32, jobs: u32) -> anyhow::Result<Vec<Duration>> {
    let mut times = Vec::new();
    for n in first..first + jobs {
        times.push(job(client, n).await?.1);
    }
    Ok(times)
}

/// One job from submit to result; its input is like no other's.
async fn job(client: &Client, n: u32) -> anyhow::Result<(ObjectId, Duration)> {
    let input = blake3::hash(&n.to_le_bytes());
    let expected = blake3::hash(input.as_bytes());
    let submit = Submit {
        function: "digest".into(),
        input: Input::Bytes(input.as_bytes().as_slice().into()),
        ..Submit::default()
    };
    let begun = Instant::now();
    let id = client.submit(&submit).await?;
    let job: Job = client.wait(id, None, true).await?;
    let elapsed = begun.elapsed();
    match job.output.and_then(|output| output.inline) {
        Some(result) if *result == *expected.as_bytes().as_slice() => Ok((id, elapsed)),
        _ => bail!("job {id} is {}: its result is not the hash of its input", job.state.text()),
    }
}

fn syncs(out: &Path) -> anyhow::Result<Vec<Duration>> {
    let mut file = std::fs::File::create(out.join("syncs"))?;
    let mut times = Vec::with_capacity(SYNCS);
    for _ in 0..SYNCS {
        let begun = Instant::now();
        file.write_all(&[7; 512])?;
        file.sync_data()?;
        times.push(begun.elapsed());
    }
    Ok(times)
}

/// Memory and processor time of the node and its worker while nothing happens.
async fn idle(stage: &Stage) -> anyhow::Result<()> {
    let worker = std::fs::read_to_string(stage.data().join("worker").join("lock"))?;
    let pids = [("node", stage.node_pid()), ("worker", worker.trim().parse().ok())];
    let before: Vec<Option<u64>> = pids.iter().map(|(_, pid)| pid.and_then(ticks)).collect();
    tokio::time::sleep(IDLE).await;
    for ((name, pid), before) in pids.iter().zip(before) {
        let Some(pid) = *pid else { continue };
        let spent = ticks(pid).zip(before).map_or(0, |(after, before)| after.saturating_sub(before));
        // A tick is 10 ms on every Linux that is supported.
        let percent = spent as f64 / IDLE.as_secs_f64();
        say(&format!(
            "  {name}: {} MiB resident, {percent:.1} % of a processor",
            resident_kib(pid).unwrap_or(0) / 1024
        ));
    }
    Ok(())
}

fn resident_kib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.split_whitespace().next()?.parse().ok()
}

/// User and system time, in ticks.
fn ticks(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold spaces; fields are counted behind its closing parenthesis.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    Some(fields.next()?.parse::<u64>().ok()? + fields.next()?.parse::<u64>().ok()?)
}

/// Sorted times.
struct Times(Vec<Duration>);

impl Times {
    fn of(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    fn at(&self, percent: usize) -> f64 {
        let place = (self.0.len() * percent / 100).min(self.0.len().saturating_sub(1));
        self.0.get(place).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
    }
}

impl std::fmt::Display for Times {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "p50 {:.2} ms, p90 {:.2} ms, p99 {:.2} ms", self.at(50), self.at(90), self.at(99))
    }
}
