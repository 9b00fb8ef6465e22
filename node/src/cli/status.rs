//! `shoal status`: one screen of what the node is and does.

use serde::Serialize;
use shoal_client::Client;
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::node::{JobCounts, Node};
use shoal_protocol::object::worker::Worker;

use super::connect::Context;
use super::failure::Failure;
use super::table::{age, details, labels, size};
use super::worker::table;
use super::{job, output, peers};

/// Jobs that the page shows. Why 8: with node and workers it stays on one screen.
const JOBS_SHOWN: u32 = 8;

#[derive(Serialize)]
struct Status {
    node: Node,
    workers: Vec<Worker>,
    peers: Vec<Node>,
}

pub(crate) async fn run(context: &Context, client: &Client) -> Result<(), Failure> {
    let node = client.node().await?;
    let workers = client.workers(ListQuery::default()).await?.items;
    let peers = peers::of(client).await?;
    if context.json {
        return output::json(&Status { node, workers, peers });
    }
    output::write(node_text(&node).as_bytes())?;
    output::line("")?;
    if workers.is_empty() {
        output::line("no workers: jobs wait until one attaches with `shoal worker`")?;
    } else {
        table(&workers).print()?;
    }
    if !peers.is_empty() {
        output::line("")?;
        peers::table(&peers).print()?;
    }
    let jobs = client.jobs(ListQuery { limit: Some(JOBS_SHOWN), ..ListQuery::default() }).await?.items;
    if !jobs.is_empty() {
        output::line("")?;
        job::table(&jobs).print()?;
    }
    Ok(())
}

/// A node for people: what is known of it.
pub(crate) fn node_text(node: &Node) -> String {
    let open = if node.mesh.open { " (open: it admits anyone)" } else { "" };
    let mut rows = vec![
        ("node", format!("{} {}", node.name, node.id)),
        ("version", node.version.clone()),
        ("mesh", format!("{}{open}", node.mesh.name)),
        ("labels", labels(&node.labels)),
        ("address", node.addresses.join(" ")),
        ("join by", node.mesh_addresses.join(" ")),
    ];
    rows.extend(node.http.clone().map(|http| ("http", http)));
    let stopping = if node.stopping { ", stopping" } else { "" };
    rows.extend(node.started_ms.map(|started_ms| ("up", format!("{}{stopping}", age(started_ms)))));
    rows.extend(node.draining.as_ref().map(|draining| ("draining", super::drain::text(draining))));
    rows.extend(node.resident_bytes.map(|bytes| ("memory", size(bytes))));
    rows.push(("workers", format!("{} with {} slots", node.workers, node.slots)));
    rows.extend(node.jobs.map(|jobs| {
        let swept = if jobs.swept > 0 { format!(", {} forgotten", jobs.swept) } else { String::new() };
        let JobCounts { accepted, waiting, running, settled, .. } = jobs;
        ("jobs", format!("{accepted} accepted: {waiting} waiting, {running} running, {settled} settled{swept}"))
    }));
    rows.extend(node.blobs.map(|blobs| ("blobs", format!("{}, {}", blobs.count, size(blobs.bytes)))));
    if let Some(peer) = &node.peer {
        rows.push(("path", peers::path(peer)));
        rows.push(("round trip", peers::rtt(peer)));
        rows.push(("replica", peer.replica.text().to_owned()));
    }
    details(&rows)
}
