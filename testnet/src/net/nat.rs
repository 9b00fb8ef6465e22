//! A site: machines behind a router that masquerades and lets nobody in who was not asked.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use anyhow::{Context as _, bail};

use super::{DEVICE, Machine, Namespace, cable, plugged};

/// The router's bridge, to which the site's machines are plugged.
const INSIDE: &str = "inside";
/// Machines of one site.
const MACHINES_MAX: u8 = 200;

/// A site with its router.
#[derive(Debug)]
pub(super) struct Site {
    name: String,
    router: Machine,
    number: u8,
    machines: u8,
}

impl Site {
    pub(super) fn new(name: &str, number: usize, router: Machine) -> anyhow::Result<Self> {
        let number = u8::try_from(number + 1).context("too many sites")?;
        let inside = gateway(number);
        router.namespace.settings(true)?;
        router.namespace.ip(&format!(
            "link add {INSIDE} type bridge mcast_snooping 0\nlink set {INSIDE} up\naddress add {inside}/24 dev {INSIDE}\n"
        ))?;
        router.namespace.nft(&rules())?;
        Ok(Self { name: name.to_owned(), router, number, machines: 0 })
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The address as which all its machines are seen.
    pub(super) fn public(&self) -> Ipv4Addr {
        self.router.address
    }

    pub(super) fn join(&mut self, name: &str) -> anyhow::Result<Machine> {
        if self.machines == MACHINES_MAX {
            bail!("a site has at most {MACHINES_MAX} machines");
        }
        let namespace = Namespace::new(name)?;
        namespace.settings(false)?;
        let address = Ipv4Addr::new(192, 168, self.number, self.machines + 2);
        let plug = format!("v{}", self.machines);
        self.router.namespace.ip(&cable(&plug, name))?;
        self.router.namespace.ip(&format!("link set {plug} master {INSIDE} up\n"))?;
        namespace.ip(&plugged(&format!("{address}/24")))?;
        namespace.ip(&format!("route add default via {}\n", gateway(self.number)))?;
        self.machines += 1;
        Ok(Machine { namespace, address, port: None })
    }

    /// Lets nothing pass to these addresses any more.
    pub(super) fn block(&self, publics: &[Ipv4Addr]) -> anyhow::Result<()> {
        let rules =
            publics.iter().filter(|address| **address != self.public()).fold(String::new(), |mut rules, other| {
                // Writing to a string does not fail.
                let _ = writeln!(rules, "insert rule ip shoal passing ip daddr {other} drop");
                rules
            });
        self.router.namespace.nft(&rules)
    }
}

fn gateway(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(192, 168, number, 1)
}

/// As a router at home: what goes out is masqueraded, its answers come in, all else is dropped. Dropped also before the
/// router itself, as otherwise a packet that comes too early takes the port on which its answer is awaited.
fn rules() -> String {
    format!(
        "table ip shoal {{
            chain leaving {{
                type nat hook postrouting priority srcnat
                oifname {DEVICE} masquerade
            }}
            chain passing {{
                type filter hook forward priority filter; policy drop
                ct state established,related accept
                iifname {INSIDE} accept
            }}
            chain entering {{
                type filter hook input priority filter; policy accept
                iifname {DEVICE} ct state new drop
            }}
        }}\n"
    )
}
