//! What a node has after a cut, beside what was promised before it.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::stream::{self, StreamExt as _};
use shoal_client::Client;
use shoal_protocol::BlobId;
use shoal_protocol::object::job::{State, Submit};
use shoal_protocol::object::kv::{Scope, Value};

use super::load::{BLOB_LEN_MAX, NAME, Promise, Promised};
use super::model::Cut;
use crate::Node;

/// Promises that are looked at at once.
const AT_ONCE: usize = 32;

/// A moment at which the power is cut.
#[derive(Debug, Clone, Copy)]
pub(super) struct Point {
    /// How many events there were before.
    pub(super) after: usize,
    pub(super) cut: Cut,
    /// What is chosen of what was not synced.
    pub(super) seed: u64,
}

/// What was found there.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) cut: Cut,
    pub(super) started: Option<Duration>,
    /// Why the node does not start.
    pub(super) closed: Option<String>,
    pub(super) looked: usize,
    pub(super) lost: Vec<String>,
}

/// Starts the node, and looks at all that was promised before the cut.
pub(super) async fn check(mut node: Node, point: Point, promises: &[Promise]) -> anyhow::Result<Found> {
    let mut found = Found { cut: point.cut, started: None, closed: None, looked: 0, lost: Vec::new() };
    let begun = Instant::now();
    if let Err(error) = node.start().await {
        found.closed = Some(format!("{point:?}: {error:#}"));
        return Ok(found);
    }
    found.started = Some(begun.elapsed());
    let client = node.client().await?;
    let due: Vec<&Promise> = promises.iter().filter(|promise| promise.at <= point.after).collect();
    found.looked = due.len();
    let looks = due.iter().map(|promise| async { (*promise, look(&client, &promise.what).await) });
    let mut looks = stream::iter(looks).buffer_unordered(AT_ONCE);
    while let Some((promise, seen)) = looks.next().await {
        if let Err(error) = seen {
            found.lost.push(format!("{point:?}: {:?}: {error:#}", promise.what));
        }
    }
    drop(looks);
    let deployed = due.iter().any(|promise| matches!(promise.what, Promised::Job { .. }));
    if deployed && let Err(error) = client.submit(&Submit { function: NAME.into(), ..Submit::default() }).await {
        found.lost.push(format!("{point:?}: it takes no job any more: {error}"));
    }
    client.close().await;
    node.kill()?;
    Ok(found)
}

async fn look(client: &Client, promised: &Promised) -> anyhow::Result<()> {
    match promised {
        Promised::Job { id, input } => {
            let job = client.job(*id, true).await?;
            ensure!(job.input.id == *input, "it has the input {}", job.input.id);
            if job.input.size > 0 && job.input.inline.is_none() {
                read(client, *input).await.context("its input")?;
            }
        }
        Promised::Settled { id, result } => {
            let job = client.job(*id, false).await?;
            ensure!(job.state == State::Succeeded, "is {}", job.state.text());
            let bytes = client.result_bytes(*id, BLOB_LEN_MAX).await.context("its result")?;
            ensure!(BlobId::of(&bytes) == *result, "it has another result");
        }
        Promised::Blob { id } => read(client, *id).await?,
        Promised::Key { user, key, number } => {
            let entry = client.kv_get(*user, Scope::Local, key).await?;
            let Value::Text(text) = &entry.value else { anyhow::bail!("it holds {:?}", entry.value) };
            ensure!(text.parse::<u64>()? >= *number, "it holds {text}");
        }
    }
    Ok(())
}

/// Reads a blob; the client checks the hash.
async fn read(client: &Client, id: BlobId) -> anyhow::Result<()> {
    client.get_blob(id, 0, None).await?.into_vec(BLOB_LEN_MAX).await?;
    Ok(())
}
