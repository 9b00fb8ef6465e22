//! Worker tickets: with one, a worker may attach to the node that signed it.
//!
//! A ticket says which worker, under which name, at which node, until when. The first key that shows it owns it from
//! then on, see [`super::worker_registry`].

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use shoal_protocol::key::{Purpose, SecretKey, Signature};
use shoal_protocol::{Kind, NodeId, Octets, Problem, WorkerId, codec, name};

/// How every ticket begins: what it is, and the version of its form.
const PREFIX: &str = "shoalw1";
/// A ticket's text, in bytes. Why 2 KiB: two ids, two names, an address and a signature take about 400.
const TEXT_LEN_MAX: usize = 2 * 1024;
/// A node's address in a ticket, in bytes: an id, a DNS name and a port.
const ADDRESS_LEN_MAX: usize = 400;

/// What a ticket says. [`verify`] makes it believable.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ticket {
    /// Which worker attaches with it.
    pub(crate) worker: WorkerId,
    /// Its name.
    pub(crate) name: String,
    /// The node that signed it.
    pub(crate) node: NodeId,
    /// Where that node listens: `quic://NODEID@host:port`.
    pub(crate) address: String,
    /// Until when it counts for a worker that was never attached, in milliseconds since the Unix epoch.
    pub(crate) expires_ms: u64,
    /// Drawn for this ticket, so that no two are the same.
    pub(crate) nonce: Octets,
}

/// The ticket as it was signed.
#[derive(Serialize, Deserialize)]
struct Signed {
    ticket: Octets,
    signature: Signature,
}

/// The text of a ticket, signed by the node's key.
pub(super) fn sign(key: &SecretKey, ticket: &Ticket) -> String {
    let bytes = codec::encode(ticket);
    let signature = key.sign(Purpose::WorkerTicket, &bytes);
    let signed = codec::encode(&Signed { ticket: bytes.into(), signature });
    format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(signed))
}

/// What the ticket says, once its signature is known to be `node`'s. Does not look at its expiry.
pub(super) fn verify(node: NodeId, text: &str) -> Result<Ticket, Problem> {
    let (ticket, signed) = read_signed(text)?;
    if ticket.node != node {
        let detail = format!("this worker ticket is for node {}, this is node {node}", ticket.node);
        return Err(Problem::new(Kind::Unauthenticated, detail));
    }
    if !node_key(node).verify(Purpose::WorkerTicket, &signed.ticket, &signed.signature) {
        return Err(Problem::new(Kind::Unauthenticated, "the worker ticket is not signed by this node"));
    }
    Ok(ticket)
}

/// What a ticket says, not verified: for its holder, who needs the node's address from it.
pub(crate) fn read(text: &str) -> Result<Ticket, Problem> {
    read_signed(text).map(|(ticket, _)| ticket)
}

fn read_signed(text: &str) -> Result<(Ticket, Signed), Problem> {
    let wrong = |why: &str| Problem::new(Kind::Unauthenticated, format!("this is no worker ticket: {why}"));
    let text = text.trim();
    if text.len() > TEXT_LEN_MAX {
        return Err(wrong(&format!("it is longer than {TEXT_LEN_MAX} bytes")));
    }
    let body = text.strip_prefix(PREFIX).ok_or_else(|| wrong(&format!("it does not start with {PREFIX}")))?;
    let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| wrong("it is cut off or was changed"))?;
    let signed: Signed = codec::decode(&bytes).map_err(|_| wrong("it is cut off or was changed"))?;
    let ticket: Ticket = codec::decode(&signed.ticket).map_err(|_| wrong("it is cut off or was changed"))?;
    name::check("worker name", &ticket.name)?;
    if ticket.address.len() > ADDRESS_LEN_MAX || ticket.address.chars().any(char::is_control) {
        return Err(wrong("its address is none"));
    }
    Ok((ticket, signed))
}

fn node_key(node: NodeId) -> shoal_protocol::key::PublicKey {
    node.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(node: &SecretKey) -> Ticket {
        Ticket {
            worker: WorkerId::from_parts(1, 2, *b"homenode"),
            name: "gpu-1".into(),
            node: node.public().into(),
            address: "quic://x@127.0.0.1:1".into(),
            expires_ms: 5,
            nonce: vec![7; 16].into(),
        }
    }

    #[test]
    fn a_ticket_counts_at_the_node_that_signed_it() {
        let node = SecretKey::from_bytes([1; 32]);
        let text = sign(&node, &ticket(&node));
        assert!(text.starts_with("shoalw1") && text.len() < 600, "{} bytes", text.len());
        assert_eq!(verify(node.public().into(), &text), Ok(ticket(&node)));
        assert_eq!(read(&format!(" {text}\n")), Ok(ticket(&node)));
        let other = SecretKey::from_bytes([2; 32]);
        assert!(verify(other.public().into(), &text).is_err());
    }

    #[test]
    fn a_ticket_that_was_changed_cut_or_signed_by_another_is_refused() {
        let node = SecretKey::from_bytes([1; 32]);
        let text = sign(&node, &ticket(&node));
        for cut in 0..text.len() {
            assert!(verify(node.public().into(), &text[..cut]).is_err(), "cut at {cut}");
        }
        for place in PREFIX.len()..text.len() {
            let mut changed = text.clone().into_bytes();
            changed[place] = if changed[place] == b'A' { b'B' } else { b'A' };
            let changed = String::from_utf8(changed).expect("text");
            assert!(verify(node.public().into(), &changed).is_err(), "changed at {place}");
        }
        let forged = sign(&SecretKey::from_bytes([2; 32]), &ticket(&node));
        assert!(verify(node.public().into(), &forged).is_err());
        assert!(verify(node.public().into(), &"shoalw1A".repeat(1_000)).is_err());
    }
}
