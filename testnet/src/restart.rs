//! One node and its worker are killed while a client submits.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{bail, ensure};
use rustix::process::Pid;
use shoal_client::Client;
use shoal_protocol::object::function::{Grant, NewFunction, RunLimits};
use shoal_protocol::object::job::{Input, State, Submit};
use shoal_protocol::{BlobId, ObjectId};
use shoal_testnet::Node;

use crate::say;

/// Returns the BLAKE3 of its input.
const FUNCTION: &[u8] = include_bytes!("../../node/functions/digest/digest.wasm");
/// How long all jobs together may take to settle once nothing is killed any more.
const SETTLE_MAX: Duration = Duration::from_secs(120);

/// How much is killed.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How often the node is killed, and its worker as often
    #[arg(long, default_value_t = 20)]
    kills: u32,
    /// Jobs that are submitted before each kill
    #[arg(long, default_value_t = 50)]
    jobs: u32,
}

/// A job that was acknowledged, and the result that it must have.
struct Acknowledged {
    id: ObjectId,
    expected: BlobId,
}

pub(crate) async fn run(shoal: &Path, args: &Args) -> anyhow::Result<()> {
    let begun = Instant::now();
    let mut node = Node::new(shoal)?;
    node.start().await?;
    let client = node.client().await?;
    let component = client.put_bytes(FUNCTION, true, "digest").await?.id;
    client.deploy(&function(component)).await?;

    let mut acknowledged = Vec::new();
    let (mut unknown, mut adopted, mut n) = (0u32, 0u32, 0u32);
    for kill in 0..args.kills * 2 {
        let client = node.client().await?;
        let of_worker = node.worker();
        // The kill falls among the submits, at another place each time.
        let pause = Duration::from_millis(u64::from(5 + 7 * (kill % 11)));
        let killing = async {
            tokio::time::sleep(pause).await;
            if kill % 2 == 0 {
                return node.kill();
            }
            ensure!(node.kill_worker(), "there is no worker to kill");
            Ok(())
        };
        let (cut_off, killed) = tokio::join!(submit(&client, &mut n, args.jobs, &mut acknowledged), killing);
        killed?;
        unknown += cut_off;
        if kill % 2 == 0 {
            node.start().await?;
            adopted += u32::from(of_worker.is_some() && of_worker == node.worker());
        } else {
            wait_for_worker(&node, of_worker).await?;
        }
    }
    let client = node.client().await?;
    let attempts = check(&client, &acknowledged).await?;
    let counts = client.node().await?.jobs.unwrap_or_default();
    ensure!(
        counts.accepted == counts.waiting + counts.running + counts.settled + counts.swept,
        "the home's counts do not add up: {counts:?}"
    );
    ensure!(counts.waiting + counts.running == 0, "jobs are left over: {counts:?}");
    client.close().await;
    node.stop().await?;
    say(&format!("kills of the node       {}", args.kills));
    say(&format!("kills of the worker     {}", args.kills));
    say(&format!("workers adopted         {adopted}"));
    say(&format!("acknowledged jobs       {}", acknowledged.len()));
    say("lost or wrong           0");
    say(&format!("settled at this home    {} of {} accepted", counts.settled, counts.accepted));
    say(&format!("submits cut off         {unknown}"));
    say(&format!("runs beyond the first   {}", attempts.saturating_sub(acknowledged.len() as u64)));
    say(&format!("took                    {:.1} s", begun.elapsed().as_secs_f64()));
    Ok(())
}

fn function(component: BlobId) -> NewFunction {
    NewFunction {
        limits: RunLimits { attempts: Some(100), ..RunLimits::default() },
        // Inputs above 16 KiB come as blobs: the function imports the interface.
        grants: [Grant::Blob].into(),
        ..NewFunction::new("digest", component)
    }
}

/// Submits jobs until one gets no answer; how many that are, 0 or 1. What was acknowledged is remembered.
async fn submit(client: &Client, n: &mut u32, jobs: u32, acknowledged: &mut Vec<Acknowledged>) -> u32 {
    for _ in 0..jobs {
        *n += 1;
        let input = n.to_le_bytes();
        let result = BlobId::of(&input);
        let submit =
            Submit { function: "digest".into(), input: Input::Bytes(input.as_slice().into()), ..Submit::default() };
        match client.submit(&submit).await {
            Ok(id) => acknowledged.push(Acknowledged { id, expected: BlobId::of(result.as_bytes()) }),
            Err(_) => return 1,
        }
    }
    0
}

/// Waits until another worker runs in place of the one that was killed, which may still stand there as a zombie.
async fn wait_for_worker(node: &Node, killed: Option<Pid>) -> anyhow::Result<()> {
    let deadline = Instant::now() + SETTLE_MAX;
    while node.worker().is_none_or(|worker| Some(worker) == killed) {
        ensure!(Instant::now() < deadline, "no worker was started in place of the one that was killed");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Every acknowledged job has succeeded with the right result. Runs in all.
async fn check(client: &Client, acknowledged: &[Acknowledged]) -> anyhow::Result<u64> {
    let deadline = Instant::now() + SETTLE_MAX;
    let mut attempts = 0;
    for Acknowledged { id, expected } in acknowledged {
        let left = deadline.saturating_duration_since(Instant::now());
        let job = client.wait(*id, Some(left), true).await?;
        if job.state != State::Succeeded {
            bail!("job {id} was acknowledged and is {}: {:?}", job.state.text(), job.failure);
        }
        ensure!(job.output.is_some_and(|output| output.id == *expected), "job {id} has a wrong result");
        attempts += u64::from(job.attempts_total);
    }
    Ok(attempts)
}
