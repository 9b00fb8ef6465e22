//! What a scenario says: nodes, what joins them, and steps. A small TOML file; those in `testnet/scenarios` are examples.

mod operands;
mod select;
mod steps;

use std::collections::BTreeSet;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use serde::Deserialize;
use shoal_protocol::name::{self, Labels};

pub use operands::{
    Account, Churn, Cut, Deploy, Edit, Equal, Guest, Live, Lookups, Meet, Nodes, Nothing, PathIs, PathKind, Pause, Put,
    Read, Rest, Spread, Stop, Submit, Unchanged, Until, Wait,
};
pub use select::Select;
pub use steps::Step;

use crate::net::Properties;

/// Nodes of one scenario. Why 200: what the simulator goes up to; a machine has room for some 40.
const NODES_MAX: usize = 200;
/// A scenario's length, in bytes.
const FILE_LEN_MAX: u64 = 256 * 1024;

/// A scenario.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Scenario {
    /// What it shows, for people.
    #[serde(default)]
    pub title: String,
    /// What joins the nodes.
    #[serde(default)]
    pub network: Network,
    /// The nodes. None runs before a step starts it.
    pub nodes: Vec<Group>,
    /// What links do, in a network of the kind `switch`. The last one that fits counts.
    #[serde(default)]
    pub links: Vec<LinkRule>,
    /// What happens, one after the other.
    pub steps: Vec<Step>,
}

/// What joins the nodes, and how they find each other.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Network {
    /// The kind.
    pub kind: Kind,
    /// The node whose address the others are given; without one they find each other by mDNS.
    pub join: Option<String>,
    /// Networks behind routers that masquerade; a node names the one that it is in.
    pub sites: Vec<String>,
    /// The same seed loses the same frames and kills the same nodes.
    pub seed: u64,
    /// What may run it where no namespaces can be made: all nodes on this host, found by address.
    pub host_will_do: bool,
}

impl Default for Network {
    fn default() -> Self {
        Self { kind: Kind::Bridge, join: None, sites: Vec::new(), seed: 1, host_will_do: false }
    }
}

/// A kind of network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A namespace for each node, on a bridge of the kernel.
    Bridge,
    /// A namespace for each node, on a switch whose links have properties.
    Switch,
    /// All on this host.
    Host,
}

/// Nodes that are alike.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Group {
    /// The name, or with a `count` the start of the names.
    pub name: String,
    /// How many: `n1`, `n2`, …
    #[serde(default)]
    pub count: Option<usize>,
    /// Whether it has a worker.
    #[serde(default = "yes")]
    pub worker: bool,
    /// Runs at once of its worker.
    #[serde(default = "two")]
    pub slots: u32,
    /// Labels beside `node`, which is the node's name.
    #[serde(default)]
    pub labels: Labels,
    /// The site that it is in.
    #[serde(default)]
    pub site: Option<String>,
    /// Neighbours.
    #[serde(default)]
    pub view: Option<u32>,
    /// Nodes that hold a record of the DHT.
    #[serde(default)]
    pub dht_k: Option<u32>,
    /// Whether it tries to punch holes.
    #[serde(default = "yes")]
    pub hole_punching: bool,
    /// Which lines their logs have, as `SHOAL_LOG` says it.
    #[serde(default)]
    pub log: Option<String>,
    /// Further arguments of `shoal up`.
    #[serde(default)]
    pub arguments: Vec<String>,
}

fn yes() -> bool {
    true
}

fn two() -> u32 {
    2
}

/// What the links between two sets of nodes do.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LinkRule {
    /// One end.
    pub a: Select,
    /// The other.
    pub b: Select,
    /// What they do, in each direction.
    pub is: Properties,
}

impl Scenario {
    /// Reads a scenario from a file.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let len = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
        ensure!(len <= FILE_LEN_MAX, "{} is longer than {FILE_LEN_MAX} bytes", path.display());
        Self::parse(&std::fs::read_to_string(path)?).with_context(|| path.display().to_string())
    }

    /// Reads a scenario from its text.
    ///
    /// # Errors
    /// What is wrong with it, and where.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let scenario: Self = toml::from_str(text)?;
        scenario.check()?;
        Ok(scenario)
    }

    /// With so many nodes instead: those that are counted share the number as they shared the old one.
    ///
    /// # Errors
    /// When it leaves a group without a node, or is too many.
    pub fn with_nodes(mut self, wanted: usize) -> anyhow::Result<Self> {
        let counted: usize = self.nodes.iter().filter_map(|group| group.count).sum();
        let fixed = self.nodes.iter().filter(|group| group.count.is_none()).count();
        ensure!(counted > 0, "the number of nodes of this scenario is fixed");
        let share = wanted.saturating_sub(fixed);
        let (mut seen, mut given) = (0, 0);
        for group in &mut self.nodes {
            let Some(count) = &mut group.count else { continue };
            seen += *count;
            *count = (seen * share / counted).saturating_sub(given);
            given += *count;
            ensure!(*count > 0, "{wanted} nodes are too few: group {} would have none", group.name);
        }
        self.check()?;
        Ok(self)
    }

    /// With this length of its last step `live` instead.
    ///
    /// # Errors
    /// When it has no such step.
    pub fn living_for(mut self, length: Duration) -> anyhow::Result<Self> {
        let live = self.steps.iter_mut().rev().find_map(|step| match step {
            Step::Live(live) => Some(live),
            _ => None,
        });
        live.context("this scenario has no step live")?.length = length;
        Ok(self)
    }

    /// The names of all nodes with their groups, in their order.
    pub fn named(&self) -> Vec<(String, &Group)> {
        let names = |group: &Group| match group.count {
            None => vec![group.name.clone()],
            Some(count) => (1..=count).map(|n| format!("{}{n}", group.name)).collect(),
        };
        self.nodes.iter().flat_map(|group| names(group).into_iter().map(move |name| (name, group))).collect()
    }

    fn check(&self) -> anyhow::Result<()> {
        let names: Vec<String> = self.named().into_iter().map(|(name, _)| name).collect();
        ensure!((1..=NODES_MAX).contains(&names.len()), "{} nodes: from 1 to {NODES_MAX}", names.len());
        for name in &names {
            name::check("nodes: name", name)?;
        }
        ensure!(names.iter().collect::<BTreeSet<_>>().len() == names.len(), "two nodes have the same name");
        for group in &self.nodes {
            name::check_labels("nodes: labels", &group.labels)?;
            if let Some(site) = &group.site
                && !self.network.sites.contains(site)
            {
                bail!("node {} is in the site {site:?}, and network.sites has none of that name", group.name);
            }
        }
        if self.network.kind != Kind::Switch {
            ensure!(self.links.is_empty(), "links need a network of the kind \"switch\"");
        }
        ensure!(
            self.network.sites.is_empty() || self.network.kind == Kind::Bridge,
            "sites need a network of the kind \"bridge\""
        );
        let selects = self.links.iter().flat_map(|link| [&link.a, &link.b]);
        let join = self.network.join.as_ref().map(|name| Select::one(name));
        for select in selects.chain(join.as_ref()).chain(self.steps.iter().flat_map(Step::selects)) {
            ensure!(names.iter().any(|name| select.fits(name)), "{select} is no node: there are {}", names.join(", "));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
