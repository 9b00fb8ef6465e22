//! Invitations: a text with which `shoal up --join` finds a mesh.
//!
//! It says which mesh, and where nodes of it are reached, each with its key: whoever answers there has to prove it. It
//! admits nobody by itself: the open mesh admits anyone.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use shoal_protocol::codec;
use shoal_protocol::key::PublicKey;

/// How every invitation begins: what it is, and the version of its form.
const PREFIX: &str = "shoalm1";
/// An invitation's text, in bytes. Why 4 KiB: sixteen addresses take about 2.
const TEXT_LEN_MAX: usize = 4 * 1024;
/// Addresses in one. Why 16: a node has a few, of two or three networks.
pub(crate) const ADDRESSES_MAX: usize = 16;

/// What an invitation says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Invitation {
    /// The mesh.
    pub(crate) mesh: PublicKey,
    /// Nodes of it: `NODEID@HOST:PORT`, or libp2p's form.
    pub(crate) addresses: Vec<String>,
}

/// Why a text is no invitation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoInvitation {
    /// It is longer than any.
    #[error("it is longer than {TEXT_LEN_MAX} bytes")]
    TooLong,
    /// Some of it is missing, or is something else.
    #[error("the invitation is cut off or was changed: copy it again, whole, from `shoal invite`")]
    Damaged,
    /// There is nobody to join by.
    #[error("the invitation has {0} addresses; it needs from 1 to {ADDRESSES_MAX}")]
    Addresses(usize),
}

impl Invitation {
    /// As people pass it on.
    pub(crate) fn text(&self) -> String {
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(codec::encode(self)))
    }

    /// Whether this is meant to be one, and not an address.
    pub(crate) fn is_meant(text: &str) -> bool {
        text.trim().starts_with(PREFIX) && !text.contains([':', '/'])
    }

    /// Reads one. Its addresses are texts still.
    pub(crate) fn read(text: &str) -> Result<Self, NoInvitation> {
        let text = text.trim();
        if text.len() > TEXT_LEN_MAX {
            return Err(NoInvitation::TooLong);
        }
        let body = text.strip_prefix(PREFIX).ok_or(NoInvitation::Damaged)?;
        let bytes = URL_SAFE_NO_PAD.decode(body).map_err(|_| NoInvitation::Damaged)?;
        let invitation: Self = codec::decode(&bytes).map_err(|_| NoInvitation::Damaged)?;
        if !(1..=ADDRESSES_MAX).contains(&invitation.addresses.len()) {
            return Err(NoInvitation::Addresses(invitation.addresses.len()));
        }
        Ok(invitation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::key::SecretKey;

    fn invitation(addresses: usize) -> Invitation {
        let mesh = SecretKey::from_bytes([7; 32]).public();
        Invitation { mesh, addresses: vec![format!("{}@10.0.0.7:7452", "ab".repeat(32)); addresses] }
    }

    #[test]
    fn what_was_invited_is_read() {
        let invitation = invitation(ADDRESSES_MAX);
        let text = invitation.text();
        assert!(Invitation::is_meant(&text) && text.len() <= TEXT_LEN_MAX);
        assert_eq!(Invitation::read(&format!(" {text}\n")), Ok(invitation));
    }

    #[test]
    fn what_is_none_is_said() {
        let text = invitation(1).text();
        assert_eq!(Invitation::read(&text[..text.len() - 3]), Err(NoInvitation::Damaged));
        assert_eq!(Invitation::read("10.0.0.7:7452"), Err(NoInvitation::Damaged));
        assert_eq!(Invitation::read(&format!("{PREFIX}{}", "a".repeat(TEXT_LEN_MAX))), Err(NoInvitation::TooLong));
        assert_eq!(Invitation::read(&invitation(0).text()), Err(NoInvitation::Addresses(0)));
        assert!(!Invitation::is_meant("shoalm1.example.org:7452"), "a host may have any name");
    }
}
