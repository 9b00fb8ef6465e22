//! Where this node listens: QUIC and TCP on the same port, and what of it is told to others.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::StreamExt as _;
use libp2p::Multiaddr;
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::swarm::SwarmEvent;

use super::Driver;
use crate::address::{ip, is_loopback, is_relayed, quic, socket, tcp};
use crate::handle::Error;

/// How often a free port is looked for that is free for TCP as well.
const PORT_TRIES: usize = 8;
/// How long the system may take to say where a socket is bound.
const BIND_MAX: Duration = Duration::from_secs(5);

impl Driver {
    /// Listens on all of these; each is bound when it returns.
    pub(crate) async fn listen(&mut self, sockets: &[SocketAddr]) -> Result<(), Error> {
        for socket in sockets {
            let failed = |why| Error::Listen { address: *socket, why };
            let bound = tokio::time::timeout(BIND_MAX, self.listen_on_both(*socket)).await;
            bound.map_err(|_| failed("the system does not say where".to_owned()))?.map_err(failed)?;
        }
        Ok(())
    }

    /// With port 0 TCP takes the port that UDP was given: others need to know one number only.
    async fn listen_on_both(&mut self, at: SocketAddr) -> Result<(), String> {
        let mut failure = String::new();
        for _ in 0..PORT_TRIES {
            let (udp, port) = self.bind(quic(at)).await?;
            match self.bind(tcp(SocketAddr::new(at.ip(), port))).await {
                Ok(_) => return Ok(()),
                Err(why) => failure = why,
            }
            self.swarm.remove_listener(udp);
            if at.port() != 0 {
                break;
            }
        }
        Err(failure)
    }

    /// The listener and its port, once there is an address.
    async fn bind(&mut self, address: Multiaddr) -> Result<(ListenerId, u16), String> {
        let id = self.swarm.listen_on(address).map_err(|error| match error {
            TransportError::Other(error) => error.to_string(),
            TransportError::MultiaddrNotSupported(address) => format!("{address} is not supported"),
        })?;
        loop {
            let event = self.swarm.select_next_some().await;
            let bound = match &event {
                SwarmEvent::NewListenAddr { listener_id, address } if *listener_id == id => socket(address),
                SwarmEvent::ListenerClosed { listener_id, reason, .. } if *listener_id == id => {
                    return Err(reason.as_ref().err().map_or_else(|| "closed".to_owned(), ToString::to_string));
                }
                _ => None,
            };
            self.notice(event);
            if let Some(socket) = bound {
                return Ok((id, socket.port()));
            }
        }
    }

    /// An address of our own has come or gone.
    pub(super) fn listeners_changed(&mut self) {
        let direct: Vec<Multiaddr> = self.swarm.listeners().filter(|address| !is_relayed(address)).cloned().collect();
        let reach_out = direct.iter().any(|address| !is_loopback(address));
        // On a LAN nobody else would ever confirm an address, and records in the DHT carry confirmed ones only. Loopback
        // is told only by a node that has nothing else: elsewhere it would lead others to themselves.
        let (told, kept_back): (Vec<_>, Vec<_>) =
            direct.into_iter().partition(|address| !reach_out || !is_loopback(address));
        for address in kept_back {
            self.swarm.remove_external_address(&address);
        }
        for address in told {
            self.swarm.add_external_address(address);
        }
        self.addresses_changed();
    }

    /// Others are to know at once, and so are the handles.
    pub(super) fn addresses_changed(&mut self) {
        let mut addresses: Vec<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        addresses.sort_by_key(|address| (is_relayed(address), is_loopback(address), address.clone()));
        if addresses != self.shared.addresses() {
            self.shared.set_addresses(addresses);
            self.announce_anew();
        }
    }

    /// The IPs at which this node listens directly.
    pub(super) fn own_ips(&self) -> Vec<IpAddr> {
        self.swarm.listeners().filter(|address| !is_relayed(address)).filter_map(ip).collect()
    }

    /// Whether this address is one of our own.
    pub(super) fn is_own(&self, address: &Multiaddr) -> bool {
        let at = socket(address);
        self.swarm.listeners().chain(self.swarm.external_addresses()).any(|own| at.is_some() && socket(own) == at)
    }
}
