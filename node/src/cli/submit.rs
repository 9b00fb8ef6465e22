//! `shoal submit`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;
use shoal_client::Client;
use shoal_protocol::custody::DURABILITY_MAX;
use shoal_protocol::limits::{CLIENT_FRAME_LEN_MAX, INLINE_LEN_MAX, SUBMIT_BATCH_LEN_MAX};
use shoal_protocol::object::job::{After, Effects, Input, Receipt, Submit as Job, When};
use shoal_protocol::{BlobId, ObjectId, codec};

use super::connect::Context;
use super::failure::Failure;
use super::input::{self, Bytes, LimitFlags, NeedFlags};
use super::terms::TermFlags;
use super::{output, wait};
use crate::config::parse_label;

/// Jobs of one call. Why 100,000: a campaign; more than that comes from a program of its own.
const COUNT_MAX: u32 = 100_000;
/// Of a frame, what is left to the batch's own frame.
const FRAME_ROOM: usize = 1024;

/// Hands over a job.
#[derive(Debug, clap::Args)]
pub(crate) struct Submit {
    /// The function: name, owner/name or id; @3 behind it chooses a version
    function: String,
    /// The input, from a file; - is standard input
    #[arg(long, short, value_name = "FILE", group = "what")]
    input: Option<PathBuf>,
    /// The input, as a text
    #[arg(long, short, value_name = "TEXT", group = "what")]
    text: Option<String>,
    /// The input, a blob that is at the node
    #[arg(long, value_name = "ID", group = "what")]
    blob: Option<BlobId>,
    /// The input, the result of another job of the node; the job waits for its success
    #[arg(long, value_name = "JOB", group = "what")]
    result_of: Option<ObjectId>,
    /// A job of the node that must have succeeded before; may be repeated, up to 64 of them all
    #[arg(long, value_name = "JOB")]
    after: Vec<ObjectId>,
    /// A job of the node that must have ended before, however; may be repeated
    #[arg(long, value_name = "JOB")]
    after_any: Vec<ObjectId>,
    /// A job of the node that must have ended without success before; may be repeated
    #[arg(long, value_name = "JOB")]
    after_not_ok: Vec<ObjectId>,
    /// An argument of the function; may be repeated
    #[arg(long = "arg", value_name = "ARG", allow_hyphen_values = true)]
    args: Vec<String>,
    /// An environment variable of the function; may be repeated
    #[arg(long = "env", value_name = "KEY=VALUE", value_parser = parse_label)]
    env: Vec<(String, String)>,
    /// Wait for the end and print the result; the exit code is the function's
    #[arg(long, short)]
    wait: bool,
    /// A key of your choice: submitting the same job under the same key again gives the job that was accepted first; with
    /// --not-before give a time then, not a length
    #[arg(long, value_name = "KEY", conflicts_with = "count")]
    key: Option<String>,
    /// A name for the job
    #[arg(long)]
    name: Option<String>,
    /// A label of the job; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = parse_label)]
    labels: Vec<(String, String)>,
    #[command(flatten)]
    needs: NeedFlags,
    #[command(flatten)]
    limits: LimitFlags,
    #[command(flatten)]
    terms: TermFlags,
    /// On how many nodes the job is on disk before its id is printed, from 1 to 3; 2 where another node is in reach, else 1
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=i64::from(DURABILITY_MAX)))]
    durability: Option<u8>,
    /// Never run it twice: each run needs the word of a majority of the nodes that keep the job, and one that is lost is not
    /// repeated; without it a job runs again whenever a run may have been lost
    #[arg(long)]
    once: bool,
    /// Submit so many of the same job; prints an id for each
    #[arg(long, value_name = "N", conflicts_with = "wait", value_parser = clap::value_parser!(u32).range(1..=i64::from(COUNT_MAX)))]
    count: Option<u32>,
}

#[derive(Serialize)]
struct Submitted {
    id: ObjectId,
}

pub(crate) async fn run(context: &Context, client: &Client, command: Submit) -> Result<(), Failure> {
    let (wait, count) = (command.wait, command.count);
    let job = prepare(client, command).await?;
    if let Some(count) = count {
        return many(context, client, &job, count).await;
    }
    let id = client.submit(&job).await?;
    if !wait {
        return if context.json { output::json(&Submitted { id }) } else { output::line(&id.to_string()) };
    }
    let settled = wait::until_settled(client, id, None).await?;
    if context.json {
        output::json(&client.job(id, true).await?)?;
    } else if settled.output.is_some() {
        wait::collect(client, id, None).await?;
    }
    wait::outcome(&settled)
}

async fn prepare(client: &Client, command: Submit) -> Result<Job, Failure> {
    let each = |jobs: Vec<ObjectId>, when| jobs.into_iter().map(move |job| After { job, when });
    let after = each(command.after, When::Ok)
        .chain(each(command.after_any, When::Any))
        .chain(each(command.after_not_ok, When::NotOk))
        .collect();
    let input = match (command.input, command.text, command.blob) {
        (Some(path), ..) => match input::read(client, &path).await? {
            Bytes::Short(bytes) => Input::Bytes(bytes.into()),
            Bytes::Stored(stored) => Input::Blob(stored.id),
        },
        (None, Some(text), _) if text.len() > INLINE_LEN_MAX => {
            Input::Blob(client.put_bytes(text.as_bytes(), false, "").await?.id)
        }
        (None, Some(text), _) => Input::Text(text),
        (None, None, Some(blob)) => Input::Blob(blob),
        (None, None, None) => command.result_of.map_or_else(Input::default, Input::Result),
    };
    Ok(Job {
        function: command.function,
        input,
        args: command.args,
        env: command.env.into_iter().collect::<BTreeMap<_, _>>(),
        needs: command.needs.over(&Default::default()),
        limits: command.limits.over(&Default::default()),
        name: command.name.unwrap_or_default(),
        labels: command.labels.into_iter().collect(),
        hold: command.terms.hold,
        not_before_ms: command.terms.not_before_ms(),
        priority: command.terms.priority,
        retry: command.terms.retry(),
        on_disconnect: command.terms.on_disconnect,
        memo: command.terms.memo,
        notify: command.terms.notify(),
        array: command.terms.array,
        idempotency_key: command.key,
        after,
        durability: command.durability,
        effects: if command.once { Effects::Once } else { Effects::Idempotent },
    })
}

async fn many(context: &Context, client: &Client, job: &Job, count: u32) -> Result<(), Failure> {
    let len = codec::encode(job).len().max(1);
    let batch = ((CLIENT_FRAME_LEN_MAX - FRAME_ROOM) / len).clamp(1, SUBMIT_BATCH_LEN_MAX);
    let mut left = count as usize;
    let mut all = Vec::new();
    while left > 0 {
        let jobs = vec![job.clone(); left.min(batch)];
        left -= jobs.len();
        let receipts = client.submit_batch(&jobs).await?;
        if context.json {
            all.extend(receipts);
            continue;
        }
        for receipt in receipts {
            match receipt {
                Receipt::Accepted { id } => output::line(&id.to_string())?,
                // The same job again would be refused again.
                Receipt::Refused(problem) => return Err(problem.into()),
            }
        }
    }
    if context.json { output::json(&all) } else { Ok(()) }
}
