//! Which addresses the node may call for others: whoever may submit a job must not reach through the node what they could not reach
//! otherwise, such as services on its loopback or the metadata of its cloud.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses by which clouds serve credentials to their machines, and that are not link-local.
const METADATA: [IpAddr; 3] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0x0ec2, 0, 0, 0, 0, 0, 0x0254)),
];

/// What an operator allows beyond what is usual.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Allowed {
    /// A host as a URL names it, at one port or at all.
    Host(String, Option<u16>),
    /// The addresses that begin with so many bits of this one.
    Net(IpAddr, u8),
}

impl FromStr for Allowed {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no HOST, HOST:PORT, [IPv6]:PORT or network such as 127.0.0.0/8");
        if let Some((address, bits)) = text.split_once('/') {
            let address: IpAddr = address.parse().map_err(|_| wrong())?;
            let bits: u8 = bits.parse().map_err(|_| wrong())?;
            let most = if address.is_ipv4() { 32 } else { 128 };
            return if bits <= most { Ok(Self::Net(address.to_canonical(), bits)) } else { Err(wrong()) };
        }
        if let Ok(address) = text.parse::<IpAddr>() {
            return Ok(Self::Host(address.to_string(), None));
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let bare = host.trim_start_matches('[').trim_end_matches(']').to_ascii_lowercase();
        let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':');
        if bare.is_empty() || !bare.chars().all(usual) { Err(wrong()) } else { Ok(Self::Host(bare, port)) }
    }
}

impl fmt::Display for Allowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Host(host, None) => f.write_str(host),
            Self::Host(host, Some(port)) => write!(f, "{host}:{port}"),
            Self::Net(address, bits) => write!(f, "{address}/{bits}"),
        }
    }
}

impl Allowed {
    fn takes(&self, host: &str, port: u16, address: IpAddr) -> bool {
        match self {
            Self::Host(allowed, only) => {
                only.is_none_or(|only| only == port) && (*allowed == host || *allowed == address.to_string())
            }
            Self::Net(net, bits) => is_within(*net, *bits, address),
        }
    }
}

/// Whether an address begins with so many bits of another one.
fn is_within(net: IpAddr, bits: u8, address: IpAddr) -> bool {
    let (net, address, width) = match (net, address) {
        (IpAddr::V4(net), IpAddr::V4(address)) => (u128::from(net.to_bits()), u128::from(address.to_bits()), 32u32),
        (IpAddr::V6(net), IpAddr::V6(address)) => (net.to_bits(), address.to_bits(), 128),
        _ => return false,
    };
    let beyond = width.saturating_sub(u32::from(bits));
    let head = |bits: u128| bits.checked_shr(beyond).unwrap_or(0);
    head(net) == head(address)
}

/// Decides which addresses are called.
#[derive(Debug, Clone, Default)]
pub(crate) struct Door {
    allowed: Vec<Allowed>,
}

impl Door {
    /// With what the operator allows beyond what is usual.
    pub(crate) fn new(allowed: Vec<Allowed>) -> Self {
        Self { allowed }
    }

    /// Whether this address of this host, as the URL names it, may be called at this port.
    pub(crate) fn takes(&self, host: &str, port: u16, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.allowed.iter().any(|allowed| allowed.takes(host, port, address)) || !is_shut(address)
    }
}

/// Whether an address is called only if the operator allows it: the node's own, those of its link, and no single host's.
fn is_shut(address: IpAddr) -> bool {
    if METADATA.contains(&address) {
        return true;
    }
    match address {
        IpAddr::V4(v4) => {
            let first = v4.octets().first().copied().unwrap_or(0);
            // "This network", and what is reserved.
            let odd = first == 0 || first >= 240;
            odd || v4.is_loopback() || v4.is_link_local() || v4.is_multicast() || v4.is_broadcast()
        }
        IpAddr::V6(v6) => {
            let [head, second, third, _, _, _, high, low] = v6.segments();
            // NAT64 and 6to4 carry an IPv4 address, which is what is reached.
            let carried = match (head, second) {
                (0x64, 0xff9b) => Some((high, low)),
                (0x2002, _) => Some((second, third)),
                _ => None,
            };
            let v4 = |(high, low): (u16, u16)| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
            let carried = carried.is_some_and(|parts| is_shut(IpAddr::V4(v4(parts))));
            carried || v6.is_loopback() || v6.is_unspecified() || v6.is_unicast_link_local() || v6.is_multicast()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn takes(allowed: &[&str], host: &str, port: u16, address: &str) -> bool {
        let allowed = allowed.iter().map(|text| text.parse().unwrap()).collect();
        Door::new(allowed).takes(host, port, address.parse().unwrap())
    }

    #[test]
    fn the_nodes_own_addresses_and_metadata_are_shut() {
        let shut = [
            "127.0.0.1",
            "127.9.9.9",
            "0.0.0.0",
            "169.254.169.254",
            "224.0.0.1",
            "255.255.255.255",
            "240.0.0.1",
            "100.100.100.200",
            "192.0.0.192",
            "::1",
            "::",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::7f00:1",
            "2002:7f00:1::",
        ];
        for address in shut {
            assert!(!takes(&[], "a.example", 80, address), "{address}");
        }
        for address in ["10.0.0.7", "192.168.1.2", "93.184.216.34", "2001:db8::1", "fd12::7", "64:ff9b::5db8:d822"] {
            assert!(takes(&[], "a.example", 80, address), "{address}");
        }
    }

    #[test]
    fn an_operator_opens_hosts_ports_and_networks() {
        assert!(takes(&["localhost"], "localhost", 8080, "127.0.0.1"));
        assert!(!takes(&["localhost"], "other", 8080, "127.0.0.1"), "another name for it");
        assert!(takes(&["127.0.0.1:9000"], "localhost", 9000, "127.0.0.1"));
        assert!(!takes(&["127.0.0.1:9000"], "localhost", 9001, "127.0.0.1"));
        assert!(takes(&["127.0.0.0/8"], "x", 1, "127.5.5.5") && !takes(&["127.0.0.0/8"], "x", 1, "::1"));
        assert!(takes(&["[::1]:80"], "x", 80, "::1") && takes(&["::1"], "x", 80, "::1"));
        assert!(takes(&["169.254.0.0/17"], "x", 80, "::ffff:169.254.1.1"));
        assert!(!takes(&["169.254.0.0/17"], "x", 80, "169.254.169.254"));
        assert!(takes(&["0.0.0.0/0"], "x", 80, "169.254.169.254") && takes(&["::/0"], "x", 80, "::1"));
        for wrong in ["", "a b", "1.2.3.4/33", "x/8", "host:port", "host:70000", ":80"] {
            assert!(wrong.parse::<Allowed>().is_err(), "{wrong}");
        }
        for right in ["localhost", "a.example:8080", "10.0.0.0/8", "127.0.0.1:9000"] {
            assert_eq!(right.parse::<Allowed>().unwrap().to_string(), right);
        }
    }
}
