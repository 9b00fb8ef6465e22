//! What peers tell of by gossip.

use std::time::Duration;

use shoal_crdt::reconcile::Stored;
use shoal_protocol::codec;
use shoal_protocol::limits::GOSSIP_LEN_MAX;
use shoal_protocol::wire::gossip::Gossip;
use tokio::time::timeout;

use super::{Origin, Sets, Shared as _};

/// How long a message is judged. Why 2 s: a sync of the disk takes less; a node that is behind has no time for hints, and
/// what it has begun to take it takes anyway.
const JUDGE_MAX: Duration = Duration::from_secs(2);

/// What to do with a message of gossip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Judgement {
    /// It is new here, and taken: pass it on.
    Accept,
    /// It is known, or of no use as long as something else is not: keep it to ourselves.
    Useless,
    /// There was no time: keep it to ourselves.
    Ignore,
    /// No honest node sends it: it speaks against the peer that it came from.
    Reject,
}

impl Sets {
    /// Takes a message of gossip, if it is of use. Takes at most 2 s; the caller need not wait for one before the next.
    pub(crate) async fn judge(&self, message: &[u8]) -> Judgement {
        if message.len() > GOSSIP_LEN_MAX {
            return Judgement::Reject;
        }
        let taking = async {
            match codec::decode(message) {
                Ok(Gossip::Change(change)) => {
                    self.documents.receive(vec![change.into()], Origin::Gossip).await.map(judgement)
                }
                Ok(Gossip::Entry(entry)) => self.kv.receive(vec![entry.into()], Origin::Gossip).await.map(judgement),
                Err(_) => Ok(Judgement::Reject),
            }
        };
        match timeout(JUDGE_MAX, taking).await {
            Ok(Ok(judgement)) => judgement,
            Ok(Err(problem)) => {
                tracing::debug!(%problem, "a message of gossip was not taken");
                Judgement::Ignore
            }
            Err(_) => Judgement::Ignore,
        }
    }
}

fn judgement(stored: Stored) -> Judgement {
    match stored {
        Stored { taken: 1.., .. } => Judgement::Accept,
        Stored { refused: 1.., .. } => Judgement::Reject,
        // What waits for others may be refused by who knows these: passing it on would speak against us.
        Stored { .. } => Judgement::Useless,
    }
}
