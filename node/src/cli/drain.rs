//! `shoal drain`: a node hands over all that it has to another one, and stops then.

use std::time::Duration;

use shoal_client::Client;
use shoal_protocol::object::Class;
use shoal_protocol::object::node::{Drain as Request, DrainPhase, Draining, Node};
use tokio::time::{Instant, sleep};

use super::connect::Context;
use super::failure::{Failure, UNREACHABLE};
use super::output;
use super::progress::Progress;

/// How often it is asked how far the node is.
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// Let a node leave.
#[derive(Debug, clap::Args)]
pub(crate) struct Drain {
    /// The node that leaves, by its id or name; the one that you speak to, which is the only one that can be asked
    #[arg(value_name = "NODE")]
    leaving: Option<String>,
    /// To whom everything goes: the id or the name of another node, see `shoal peers`
    #[arg(long, value_name = "NODE")]
    to: String,
    /// Wait for no run: they are stopped, and their jobs begin anew at the other node
    #[arg(long)]
    now: bool,
    /// Follow it for so many seconds at most; it goes on without you. 0: do not follow
    #[arg(long, value_name = "SECONDS")]
    wait: Option<u64>,
}

pub(crate) async fn run(context: &Context, client: &Client, command: Drain) -> Result<(), Failure> {
    let own: Node = match &command.leaving {
        Some(node) => client.get(Class::Node, node).await?,
        None => client.node().await?,
    };
    if own.peer.is_some() {
        let what = format!("node {} is not the one that you speak to: ask that one, with --node ADDRESS", own.name);
        return Err(Failure::usage(what));
    }
    let begun = client.drain(own.id, &Request { to: command.to, now: command.now }).await?;
    let until = command.wait.map(|seconds| Instant::now() + Duration::from_secs(seconds));
    let last = follow(client, begun, until).await?;
    if context.json {
        output::json(&last)?;
    } else {
        summary(&last).iter().try_for_each(|line| output::line(line))?;
    }
    match last.phase {
        DrainPhase::Done => Ok(()),
        _ => Err(Failure::new("the node has not stopped: it goes on handing over")
            .next("follow it with `shoal status`, or with this command again")),
    }
}

/// How far the node was when it was done, or when the time was over.
async fn follow(client: &Client, begun: Draining, until: Option<Instant>) -> Result<Draining, Failure> {
    let mut progress = Progress::new("draining");
    let mut last = begun;
    loop {
        progress.say(&text(&last));
        let is_over = until.is_some_and(|until| until <= Instant::now());
        if last.phase == DrainPhase::Done || is_over {
            return Ok(last);
        }
        sleep(LOOK_EVERY).await;
        match client.node().await {
            Ok(Node { draining: Some(draining), .. }) => last = draining,
            Ok(_) => {
                return Err(Failure::new("the node does not leave any more: it was started anew after it had left"));
            }
            Err(error) => {
                let what = format!("the node was lost while it handed over {}: {error}", last.phase.text());
                let next = "it goes on when it is started again";
                return Err(Failure::new(what).code(UNREACHABLE).next(next));
            }
        }
    }
}

/// In one line.
pub(super) fn text(draining: &Draining) -> String {
    let Draining { phase, waiting, running, guests, jobs, settled, blobs, keys, .. } = draining;
    let what = match phase {
        DrainPhase::Jobs => {
            format!("{jobs} jobs handed over, {waiting} left, {running} running, {guests} runs of other homes")
        }
        DrainPhase::Settled => format!("{settled} settled jobs handed over"),
        DrainPhase::Blobs => format!("{blobs} blobs handed over"),
        DrainPhase::Keys => format!("{keys} keys of local KV handed over"),
        DrainPhase::Done => "all is handed over".to_owned(),
    };
    let trouble = draining.trouble.as_ref().map(|trouble| format!("; {trouble}")).unwrap_or_default();
    format!("to {}: {what}{trouble}", draining.to.short())
}

fn summary(draining: &Draining) -> Vec<String> {
    let Draining { to, jobs, settled, blobs, keys, differ, .. } = draining;
    let first = match draining.phase {
        DrainPhase::Done => {
            format!(
                "node {to} has all of it: {jobs} jobs, {settled} settled ones, {blobs} blobs, {keys} keys of local KV"
            )
        }
        _ => text(draining),
    };
    let differ = differ.iter().map(|key| format!("another value stands there, and stays: {key}"));
    std::iter::once(first).chain(differ).map(|line| output::safe(&line)).collect()
}
