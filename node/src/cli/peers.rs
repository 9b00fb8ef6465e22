//! `shoal peers`: the other nodes, how far they are, by which way, and whether they have the same objects.

use shoal_client::Client;
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::node::{Node, Peer};

use super::connect::Context;
use super::failure::Failure;
use super::output;
use super::table::{Table, age, labels};

/// Nodes on one page.
const PAGE_LEN: u32 = 500;

pub(crate) async fn run(context: &Context, client: &Client) -> Result<(), Failure> {
    let peers = of(client).await?;
    if context.json {
        return output::json(&peers);
    }
    if peers.is_empty() {
        return output::line(
            "no other node is known: on a LAN they find each other; elsewhere `shoal up --join HOST:PORT`",
        );
    }
    table(&peers).print()
}

/// The other nodes that this one knows.
pub(super) async fn of(client: &Client) -> Result<Vec<Node>, Failure> {
    let page = client.nodes(ListQuery { limit: Some(PAGE_LEN), ..ListQuery::default() }).await?;
    Ok(page.items.into_iter().filter(|node| node.peer.is_some()).collect())
}

pub(super) fn table(peers: &[Node]) -> Table {
    let mut table =
        Table::new(&["NODE", "NAME", "PATH", "RTT", "VIEW", "REPLICA", "FREE", "WAITING", "SINCE", "LABELS"]);
    for node in peers {
        let Some(peer) = &node.peer else { continue };
        table.row([
            node.id.short(),
            node.name.clone(),
            path(peer),
            rtt(peer),
            if peer.neighbour { "yes" } else { "" }.to_owned(),
            peer.replica.text().to_owned(),
            format!("{}/{}", peer.free_slots, node.slots),
            peer.waiting.to_string(),
            age(peer.since_ms),
            labels(&node.labels),
        ]);
    }
    table
}

/// The way to a peer, or why there is none.
pub(super) fn path(peer: &Peer) -> String {
    if let Some(why) = &peer.kept_out {
        return format!("kept out: {why}");
    }
    peer.path.map_or("away", |path| path.text()).to_owned()
}

/// How far it is, there and back.
pub(super) fn rtt(peer: &Peer) -> String {
    match peer.rtt_us {
        None => String::new(),
        Some(us) if us < 10_000 => format!("{:.1} ms", us as f64 / 1000.0),
        Some(us) => format!("{} ms", us / 1000),
    }
}
