//! Networks of machines on one machine: namespaces, and what joins them.
//!
//! Two kinds of backbone: a bridge of the kernel, as fast as this machine; or a [`Switch`] in user space, where every link
//! has its delay, loss, bandwidth and cuts. Sites are networks behind a router that masquerades, as homes are.
//!
//! Everything is made inside the [cage](crate::cage) of a run, so names are free, and all of it ends with the run.

mod namespace;
mod nat;
mod switch;
mod sys;
mod tools;

use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};

pub use namespace::Namespace;
pub use switch::{Counts, Port, Properties, Switch};
pub use tools::missing;

use nat::Site;

/// The device of every machine.
const DEVICE: &str = "eth0";
/// The kernel's bridge.
const BRIDGE: &str = "mesh0";
/// Machines on a backbone: each is told of all the others, see [`Network::neighbours`].
const MACHINES_MAX: u16 = 256;

/// What joins the machines.
#[derive(Debug)]
enum Backbone {
    Bridge,
    Switch(Switch),
}

/// A machine: a namespace with one device and one address.
#[derive(Debug)]
pub struct Machine {
    /// Where its programs run.
    pub namespace: Namespace,
    /// Its address, inside its site if it is in one.
    pub address: Ipv4Addr,
    port: Option<Port>,
}

/// Bytes on a machine's link, frames whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traffic {
    /// Received.
    pub received: u64,
    /// Sent.
    pub sent: u64,
}

impl Machine {
    /// What its link has carried since it was plugged in.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn traffic(&self) -> anyhow::Result<Traffic> {
        // Of the thread: the process itself stands in another namespace.
        let table = self.namespace.call(|| std::fs::read_to_string("/proc/thread-self/net/dev"))??;
        Traffic::parse(&table).with_context(|| format!("no counts of {DEVICE}"))
    }
}

impl Traffic {
    /// From the system's table of devices: after the name eight counts of what came in, then those of what went out.
    fn parse(table: &str) -> Option<Self> {
        let line = table.lines().find_map(|line| line.trim().strip_prefix(DEVICE)?.strip_prefix(':'))?;
        let mut counts = line.split_whitespace().map(str::parse);
        Some(Self { received: counts.next()?.ok()?, sent: counts.nth(7)?.ok()? })
    }
}

/// A network.
#[derive(Debug)]
pub struct Network {
    backbone: Backbone,
    /// The first two numbers of every address on the backbone.
    prefix: [u8; 2],
    machines: u16,
    sites: Vec<Site>,
}

impl Network {
    /// A network around a bridge of the kernel. `public`: with addresses that look like those of the internet, as nodes
    /// behind sites expect them.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn bridge(public: bool) -> anyhow::Result<Self> {
        let lines = format!("link add {BRIDGE} type bridge mcast_snooping 0\nlink set {BRIDGE} up\n");
        tools::ip(None, &lines).context("making a bridge")?;
        Ok(Self::around(Backbone::Bridge, public))
    }

    /// A network around a switch in user space. The same seed loses the same frames.
    ///
    /// # Errors
    /// When the process has no descriptors left.
    pub fn switch(seed: u64) -> anyhow::Result<Self> {
        Ok(Self::around(Backbone::Switch(Switch::new(seed)?), false))
    }

    fn around(backbone: Backbone, public: bool) -> Self {
        // The public ones are somebody's; inside the cage nobody is there to hear.
        Self { backbone, prefix: if public { [45, 77] } else { [10, 77] }, machines: 0, sites: Vec::new() }
    }

    /// A network behind a router that masquerades.
    ///
    /// # Errors
    /// On a switch, and when the system does not allow it.
    pub fn add_site(&mut self, name: &str) -> anyhow::Result<()> {
        let router = self.join(&format!("router-{name}"))?;
        self.sites.push(Site::new(name, self.sites.len(), router)?);
        Ok(())
    }

    /// A machine on the backbone.
    ///
    /// # Errors
    /// When the system does not allow it.
    pub fn join(&mut self, name: &str) -> anyhow::Result<Machine> {
        if self.machines == MACHINES_MAX {
            bail!("a network has at most {MACHINES_MAX} machines");
        }
        let address = self.address(self.machines);
        let namespace = Namespace::new(name)?;
        namespace.settings(false)?;
        let port = match &self.backbone {
            Backbone::Bridge => {
                let plug = format!("v{}", self.machines);
                tools::ip(None, &cable(&plug, name))?;
                tools::ip(None, &format!("link set {plug} master {BRIDGE} up\n"))?;
                None
            }
            Backbone::Switch(switch) => Some(switch.add_port(namespace.call(|| sys::tap(DEVICE))??)?),
        };
        let hardware = hardware_address(self.machines);
        namespace.ip(&format!("link set {DEVICE} address {hardware}\n"))?;
        namespace.ip(&plugged(&format!("{address}/16")))?;
        namespace.ip(&self.neighbours(self.machines))?;
        self.machines += 1;
        Ok(Machine { namespace, address, port })
    }

    fn address(&self, number: u16) -> Ipv4Addr {
        let [high, low] = (number / 250 * 256 + number % 250 + 2).to_be_bytes();
        let [first, second] = self.prefix;
        Ipv4Addr::new(first, second, high, low)
    }

    /// Lines that tell a machine where the others are, so that it need not ask. Linux has one table for the answers of all
    /// namespaces, with 1,024 places: forty machines that know each other would fill it, and the last ones reach nobody.
    /// What is written by hand needs no place in it.
    fn neighbours(&self, own: u16) -> String {
        let mut lines = String::new();
        for other in (0..MACHINES_MAX).filter(|other| *other != own) {
            let (address, hardware) = (self.address(other), hardware_address(other));
            lines.push_str(&format!("neigh replace {address} lladdr {hardware} dev {DEVICE} nud permanent\n"));
        }
        lines
    }

    /// A machine in a site.
    ///
    /// # Errors
    /// When there is no such site, and when the system does not allow it.
    pub fn join_site(&mut self, name: &str, site: &str) -> anyhow::Result<Machine> {
        let site = self.sites.iter_mut().find(|known| known.name() == site).context("no such site")?;
        site.join(name)
    }

    /// Sets what the link of two machines does.
    ///
    /// # Errors
    /// When they are not joined by a switch.
    pub fn set_link(&self, a: &Machine, b: &Machine, properties: Properties) -> anyhow::Result<()> {
        let (switch, a, b) = self.ports(a, b)?;
        switch.set_link(a, b, properties);
        Ok(())
    }

    /// Cuts the link of two machines, or heals it.
    ///
    /// # Errors
    /// When they are not joined by a switch.
    pub fn set_cut(&self, a: &Machine, b: &Machine, is_cut: bool) -> anyhow::Result<()> {
        let (switch, a, b) = self.ports(a, b)?;
        switch.set_cut(a, b, is_cut);
        Ok(())
    }

    fn ports(&self, a: &Machine, b: &Machine) -> anyhow::Result<(&Switch, Port, Port)> {
        match (&self.backbone, a.port, b.port) {
            (Backbone::Switch(switch), Some(a), Some(b)) => Ok((switch, a, b)),
            _ => bail!("links have properties and can be cut only in a network of the kind \"switch\""),
        }
    }

    /// What the switch has seen, where there is one.
    pub fn counts(&self) -> Option<Counts> {
        match &self.backbone {
            Backbone::Bridge => None,
            Backbone::Switch(switch) => Some(switch.counts()),
        }
    }

    /// Lets no packet pass between sites any more, as routers do that no hole can be punched into.
    ///
    /// # Errors
    /// When `nft` refuses.
    pub fn block_sites(&self) -> anyhow::Result<()> {
        let publics: Vec<Ipv4Addr> = self.sites.iter().map(Site::public).collect();
        self.sites.iter().try_for_each(|site| site.block(&publics))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        if matches!(self.backbone, Backbone::Bridge) {
            drop(tools::ip(None, &format!("link del {BRIDGE}\n")));
        }
    }
}

/// Gives the device of a machine its address, and multicast (mDNS) a way to leave by.
fn plugged(address: &str) -> String {
    format!("address add {address} dev {DEVICE}\nlink set {DEVICE} up\nroute add 224.0.0.0/4 dev {DEVICE}\n")
}

/// A pair of devices: one here, the other as the device of a namespace.
fn cable(plug: &str, namespace: &str) -> String {
    format!("link add {plug} type veth peer name {DEVICE} netns {namespace}\n")
}

/// Of a machine on the backbone: one of the addresses that are nobody's.
fn hardware_address(number: u16) -> String {
    let [high, low] = number.to_be_bytes();
    format!("02:53:48:4f:{high:02x}:{low:02x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_is_read_from_the_table_of_devices() {
        let table = "Inter-|   Receive                                                |  Transmit\n \
            face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop\n    \
            lo:     100       1    0    0    0     0          0         0      100       1    0    0\n  \
            eth0: 2044920    7001    1    2    3     4          5         6  3055111    6002    7    8\n";
        assert_eq!(Traffic::parse(table), Some(Traffic { received: 2_044_920, sent: 3_055_111 }));
        assert_eq!(Traffic::parse("eth0: 1 2 3"), None);
    }
}
