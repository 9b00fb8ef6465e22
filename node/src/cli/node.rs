//! `shoal node`.

use shoal_client::Client;
use shoal_protocol::NodeId;
use shoal_protocol::object::Class;
use shoal_protocol::object::node::{Node as NodeObject, NodePatch};

use super::connect::Context;
use super::document::NamedFlags;
use super::failure::Failure;
use super::input::PageFlags;
use super::output;
use super::status;
use super::table::{Table, age, labels, more};

/// What can be done with nodes.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Node {
    /// The nodes that this one knows, itself first
    Ls {
        #[command(flatten)]
        page: PageFlags,
    },
    /// A node
    Show {
        /// The id; the one that you speak to unless said otherwise
        id: Option<NodeId>,
    },
    /// Change the node's name or labels
    Set {
        /// The id; the one that you speak to unless said otherwise
        id: Option<NodeId>,
        #[command(flatten)]
        set: NamedFlags,
    },
}

pub(crate) async fn run(context: &Context, client: &Client, command: Node) -> Result<(), Failure> {
    let own = client.address().node;
    let show = |node: &NodeObject| {
        if context.json { output::json(node) } else { output::write(status::node_text(node).as_bytes()) }
    };
    match command {
        Node::Ls { page } => {
            let page = client.nodes(page.query([])).await?;
            if context.json {
                return output::json(&page);
            }
            let mut table = Table::new(&["ID", "NAME", "WORKERS", "SLOTS", "WAITING", "RUNNING", "UP", "LABELS"]);
            for node in &page.items {
                let waiting = node.jobs.map(|jobs| jobs.waiting).or(node.peer.as_ref().map(|peer| peer.waiting));
                table.row([
                    node.id.short(),
                    node.name.clone(),
                    node.workers.to_string(),
                    node.slots.to_string(),
                    waiting.map_or_else(String::new, |waiting| waiting.to_string()),
                    node.jobs.map_or_else(String::new, |jobs| jobs.running.to_string()),
                    node.started_ms.map_or_else(String::new, age),
                    labels(&node.labels),
                ]);
            }
            table.print()?;
            more(page.next.as_deref());
            Ok(())
        }
        Node::Show { id } => show(&client.get(Class::Node, id.unwrap_or(own)).await?),
        Node::Set { id, set } => {
            let before: NodeObject = client.get(Class::Node, id.unwrap_or(own)).await?;
            let labels = set.labels_over(&before.labels);
            let patch = NodePatch { name: set.name().cloned(), labels: (labels != before.labels).then_some(labels) };
            show(&client.set_node(before.id, &patch).await?)
        }
    }
}
