//! The host's side of `shoal:function/checkpoint`: short ones go in a message, longer ones as blobs that go before it.

use shoal_protocol::limits::CHECKPOINT_LEN_MAX;
use shoal_protocol::object::job::Payload;
use shoal_protocol::wire::worker::{Answer, Ask};

use super::Guest;
use super::function::bindings::shoal::function::checkpoint::Host;
use super::function::bindings::shoal::function::types::{Error, ErrorCode};
use super::function::{error, refused, unexpected};

/// What was saved of the job.
#[derive(Debug, Default)]
pub(super) struct Saved {
    /// How many times by this run, whether or not the node took it.
    number: u64,
    /// The last that the node has.
    last: Option<Payload>,
}

impl Saved {
    /// Of a run that was given this.
    pub(super) fn new(last: Option<Payload>) -> Self {
        Self { number: 0, last }
    }
}

impl Host for Guest {
    async fn save(&mut self, bytes: Vec<u8>) -> Result<(), Error> {
        if bytes.len() as u64 > CHECKPOINT_LEN_MAX {
            let detail = format!("a checkpoint of {} bytes; it has at most {CHECKPOINT_LEN_MAX}", bytes.len());
            return Err(error(ErrorCode::TooLarge, detail));
        }
        let bytes = self.node.keep(bytes).await.map_err(refused)?;
        self.saved.number += 1;
        let ask = Ask::Checkpoint { number: self.saved.number, bytes: bytes.clone() };
        match self.node.ask(ask).await.map_err(refused)? {
            Answer::Saved => self.saved.last = Some(bytes),
            Answer::Entry(_) | Answer::Entries(_) => return Err(unexpected()),
        }
        Ok(())
    }

    async fn last(&mut self) -> Result<Option<Vec<u8>>, Error> {
        match self.saved.last.clone() {
            None => Ok(None),
            Some(Payload::Inline(bytes)) => Ok(Some(bytes.to_vec())),
            Some(Payload::Blob { id, .. }) => {
                let bytes = self.node.fetch(id, CHECKPOINT_LEN_MAX).await.map_err(refused)?;
                Ok(Some(bytes.to_vec()))
            }
        }
    }
}
