//! `shoal invite`: a text with which another machine joins the mesh of this node.

use serde::Serialize;
use shoal_client::Client;

use super::connect::Context;
use super::failure::Failure;
use super::output;
use crate::identity::invitation::{ADDRESSES_MAX, Invitation};

#[derive(Serialize)]
struct Invited {
    invitation: String,
    addresses: Vec<String>,
}

pub(crate) async fn run(context: &Context, client: &Client) -> Result<(), Failure> {
    let node = client.node().await?;
    let mut addresses = node.mesh_addresses;
    addresses.truncate(ADDRESSES_MAX);
    if addresses.is_empty() {
        return Err(Failure::new(format!("node {} knows no address at which others reach it", node.name))
            .next("see `--mesh` in `shoal up --help`"));
    }
    let invitation = Invitation { mesh: node.mesh.key, addresses: addresses.clone() }.text();
    if context.json {
        return output::json(&Invited { invitation, addresses });
    }
    output::line(&invitation)?;
    super::wait::eprint("on the other machine: shoal up --join followed by this text");
    if addresses.iter().all(|address| is_here_only(address)) {
        super::wait::eprint("it counts on this machine only: the node listens on the loopback, see `shoal up --mesh`");
    }
    Ok(())
}

/// Whether only this machine reaches it.
fn is_here_only(address: &str) -> bool {
    let place = address.rsplit_once('@').map_or(address, |(_, place)| place);
    place.parse::<std::net::SocketAddr>().is_ok_and(|place| place.ip().is_loopback())
}

#[cfg(test)]
mod tests {
    use super::is_here_only;

    #[test]
    fn the_loopback_is_no_address_for_others() {
        assert!(is_here_only("ab@127.0.0.1:7452") && is_here_only("ab@[::1]:7452"));
        assert!(!is_here_only("ab@10.0.0.7:7452") && !is_here_only("/ip4/192.0.2.1/udp/1/quic-v1"));
    }
}
