//! `shoal status`: one screen of what the node is and does.

use serde::Serialize;
use shoal_client::Client;
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::node::Node;
use shoal_protocol::object::worker::Worker;

use super::connect::Context;
use super::failure::Failure;
use super::table::{age, details, labels, size};
use super::worker::table;
use super::{job, output};

/// Jobs that the page shows. Why 8: with node and workers it stays on one screen.
const JOBS_SHOWN: u32 = 8;

#[derive(Serialize)]
struct Status {
    node: Node,
    workers: Vec<Worker>,
}

pub(crate) async fn run(context: &Context, client: &Client) -> Result<(), Failure> {
    let node = client.node().await?;
    let workers = client.workers(ListQuery::default()).await?.items;
    if context.json {
        return output::json(&Status { node, workers });
    }
    output::write(node_text(&node).as_bytes())?;
    output::line("")?;
    if workers.is_empty() {
        output::line("no workers: jobs wait until one attaches with `shoal worker`")?;
    } else {
        table(&workers).print()?;
    }
    let jobs = client.jobs(ListQuery { limit: Some(JOBS_SHOWN), ..ListQuery::default() }).await?.items;
    if !jobs.is_empty() {
        output::line("")?;
        job::table(&jobs).print()?;
    }
    Ok(())
}

/// A node for people.
pub(crate) fn node_text(node: &Node) -> String {
    let open = if node.mesh.open { " (open: it admits anyone)" } else { "" };
    let jobs = &node.jobs;
    let swept = if jobs.swept > 0 { format!(", {} forgotten", jobs.swept) } else { String::new() };
    details(&[
        ("node", format!("{} {}", node.name, node.id)),
        ("version", node.version.clone()),
        ("mesh", format!("{}{open}", node.mesh.name)),
        ("labels", labels(&node.labels)),
        ("address", node.addresses.join(" ")),
        ("http", node.http.clone()),
        ("up", format!("{}{}", age(node.started_ms), if node.stopping { ", stopping" } else { "" })),
        ("memory", size(node.resident_bytes)),
        ("workers", format!("{} with {} slots", node.workers, node.slots)),
        (
            "jobs",
            format!(
                "{} accepted: {} waiting, {} running, {} settled{swept}",
                jobs.accepted, jobs.waiting, jobs.running, jobs.settled
            ),
        ),
        ("blobs", format!("{}, {}", node.blobs.count, size(node.blobs.bytes))),
    ])
}
