//! The nodes of a run with what joins them, and the user in whose name everything is done.

mod host;
mod user;
mod view;

use std::net::IpAddr;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, bail};

pub(crate) use host::Host;
pub(crate) use user::User;
pub(crate) use view::{Histogram, NodeView};

use crate::net::{self, Machine, Network};
use crate::scenario::{Group, Kind, Scenario, Select};

/// The port of a node in a namespace of its own.
const MESH_PORT: u16 = 7452;

/// All nodes.
#[derive(Debug)]
pub(crate) struct World {
    /// In the order of the scenario.
    pub(crate) hosts: Vec<Host>,
    network: Option<net::Network>,
    join: Option<String>,
    user: Option<User>,
}

impl World {
    /// The machines and the nodes of a scenario, none of them started. On one host without namespaces if `on_host`.
    ///
    /// # Errors
    /// When the network cannot be made.
    pub(crate) fn new(scenario: &Scenario, shoal: &Path, folder: &Path, on_host: bool) -> anyhow::Result<Self> {
        let settings = &scenario.network;
        let mut network = match settings.kind {
            _ if on_host => None,
            Kind::Host => None,
            Kind::Bridge => Some(Network::bridge(!settings.sites.is_empty())?),
            Kind::Switch => Some(Network::switch(settings.seed)?),
        };
        if let Some(network) = &mut network {
            settings.sites.iter().try_for_each(|site| network.add_site(site))?;
        }
        let named = scenario.named();
        // Without namespaces there is no link of one's own on which mDNS could find just the nodes of this run.
        let first = named.first().map(|(name, _)| name.clone());
        let join = if network.is_some() { settings.join.clone() } else { settings.join.clone().or(first) };
        let mut hosts = Vec::with_capacity(named.len());
        for (name, group) in named {
            let machine = machine(&name, group, network.as_mut())?;
            hosts.push(Host::new(&name, group, machine, join.is_none(), shoal, folder)?);
        }
        let world = Self { hosts, network, join, user: None };
        world.set_links(scenario)?;
        Ok(world)
    }

    fn set_links(&self, scenario: &Scenario) -> anyhow::Result<()> {
        let Some(network) = &self.network else { return Ok(()) };
        for rule in &scenario.links {
            for (a, b) in self.pairs(&rule.a, &rule.b) {
                if let (Some(a), Some(b)) = (a.machine(), b.machine()) {
                    network.set_link(a, b, rule.is)?;
                }
            }
        }
        Ok(())
    }

    /// All pairs of a node of the one set and another node of the other.
    fn pairs<'a>(&'a self, a: &'a Select, b: &'a Select) -> impl Iterator<Item = (&'a Host, &'a Host)> {
        let others = move |a: &'a Host| self.of(b).filter(move |b| b.name() != a.name()).map(move |b| (a, b));
        self.of(a).flat_map(others)
    }

    /// The nodes that these words name.
    pub(crate) fn of<'a>(&'a self, select: &Select) -> impl Iterator<Item = &'a Host> {
        self.hosts.iter().filter(|host| select.fits(host.name()))
    }

    /// Those of them that run.
    pub(crate) fn up<'a>(&'a self, select: &Select) -> impl Iterator<Item = &'a Host> {
        self.of(select).filter(|host| host.is_up())
    }

    /// When the last node that runs was up.
    pub(crate) fn last_up(&self) -> Option<Instant> {
        self.hosts.iter().filter_map(Host::up_at).max()
    }

    /// The first of them that runs.
    ///
    /// # Errors
    /// When none does.
    pub(crate) fn first_up<'a>(&'a self, select: &Select) -> anyhow::Result<&'a Host> {
        self.up(select).next().with_context(|| format!("{select} does not run"))
    }

    /// Cuts links, or heals them.
    ///
    /// # Errors
    /// In a network without links of its own.
    pub(crate) fn set_cut(&self, a: &Select, b: &Select, is_cut: bool) -> anyhow::Result<()> {
        let network = self.network.as_ref().context("there is no network that could be cut")?;
        for (a, b) in self.pairs(a, b) {
            match (a.machine(), b.machine()) {
                (Some(a), Some(b)) => network.set_cut(a, b, is_cut)?,
                _ => bail!("{} and {} have no link of their own", a.name(), b.name()),
            }
        }
        Ok(())
    }

    /// From now on no packet passes between sites.
    ///
    /// # Errors
    /// Without sites.
    pub(crate) fn close_sites(&self) -> anyhow::Result<()> {
        self.network.as_ref().context("there is no network with sites")?.block_sites()
    }

    /// What the switch has seen, where there is one.
    pub(crate) fn counts(&self) -> Option<net::Counts> {
        self.network.as_ref().and_then(Network::counts)
    }

    /// The user in whose name everything is done: the operator of the node that was started first.
    ///
    /// # Errors
    /// When none was.
    pub(crate) fn user(&self) -> anyhow::Result<&User> {
        self.user.as_ref().context("no node has been started yet")
    }

    /// Starts nodes, so many at once. The one that others join at comes first.
    ///
    /// # Errors
    /// When one does not come up.
    pub(crate) async fn start(&mut self, select: &Select, at_once: usize) -> anyhow::Result<()> {
        let wanted = |host: &&mut Host| select.fits(host.name()) && !host.is_up();
        let join = self.join.clone();
        for host in self.hosts.iter_mut().filter(wanted).filter(|host| Some(host.name()) == join.as_deref()) {
            host.start(None).await?;
        }
        let address = self.join_address()?;
        let mut rest: Vec<&mut Host> = self.hosts.iter_mut().filter(wanted).collect();
        for some in rest.chunks_mut(at_once.max(1)) {
            let starting = some.iter_mut().map(|host| host.start(address.as_deref()));
            futures_util::future::try_join_all(starting).await?;
        }
        self.find_user()
    }

    /// The address that nodes are given; none where they find each other.
    fn join_address(&self) -> anyhow::Result<Option<String>> {
        let Some(join) = &self.join else { return Ok(None) };
        let host = self.hosts.iter().find(|host| host.name() == join).context("the node to join at is unknown")?;
        match host.machine() {
            Some(machine) => Ok(Some(format!("{}:{MESH_PORT}", IpAddr::V4(machine.address)))),
            None => Ok(Some(host.node().mesh_address()?)),
        }
    }

    fn find_user(&mut self) -> anyhow::Result<()> {
        if self.user.is_none()
            && let Some(host) = self.hosts.iter().find(|host| host.is_up())
        {
            self.user = Some(User::operator_of(host.node().program(), &host.node().data())?);
        }
        Ok(())
    }
}

fn machine(name: &str, group: &Group, network: Option<&mut Network>) -> anyhow::Result<Option<Machine>> {
    Ok(match (network, &group.site) {
        (None, _) => None,
        (Some(network), None) => Some(network.join(name)?),
        (Some(network), Some(site)) => Some(network.join_site(name, site)?),
    })
}
