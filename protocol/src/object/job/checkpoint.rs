//! Checkpoints: what a function saves while it runs, and gets back when it is run again.

use serde::{Deserialize, Serialize};

use super::Payload;
use crate::limits::CHECKPOINT_LEN_MAX;
use crate::{Kind, Problem};

/// What a run has saved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Checkpoint {
    /// The epoch of the run that saved it.
    pub epoch: u64,
    /// Which one of that run it is, from 1 on.
    pub number: u64,
    /// When its node took it, in milliseconds since the Unix epoch.
    pub saved_ms: u64,
    /// What the guest has saved.
    pub bytes: Payload,
}

impl Checkpoint {
    /// Its place among the checkpoints of its job: the highest is the last. No clock has part in it.
    pub fn place(&self) -> (u64, u64) {
        (self.epoch, self.number)
    }

    /// What readers of the job see of it.
    pub fn saved(&self) -> Saved {
        Saved { epoch: self.epoch, number: self.number, saved_ms: self.saved_ms, size: self.bytes.size() }
    }

    /// Checks the bounds of what another node says that a run has saved.
    pub fn check(&self) -> Result<(), Problem> {
        check_len(&self.bytes)
    }
}

/// Checks the length of a checkpoint.
pub fn check_len(bytes: &Payload) -> Result<(), Problem> {
    if !bytes.within_bounds() {
        return Err(Problem::new(Kind::TooLarge, "a checkpoint that is longer than 16 KiB is a blob"));
    }
    if bytes.size() > CHECKPOINT_LEN_MAX {
        let detail = format!(
            "a checkpoint of {} bytes; it has at most {CHECKPOINT_LEN_MAX}: put more into a blob and save its id",
            bytes.size()
        );
        return Err(Problem::new(Kind::TooLarge, detail));
    }
    Ok(())
}

/// The last checkpoint of a job, as its readers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Saved {
    /// The epoch of the run that saved it.
    pub epoch: u64,
    /// Which one of that run it is, from 1 on.
    pub number: u64,
    /// When, in milliseconds since the Unix epoch.
    pub saved_ms: u64,
    /// Length in bytes.
    pub size: u64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::BlobId;
    use crate::codec;

    fn checkpoint(epoch: u64, number: u64, bytes: Payload) -> Checkpoint {
        Checkpoint { epoch, number, saved_ms: 5, bytes }
    }

    #[test]
    fn a_later_epoch_comes_after_every_number_of_an_earlier_one() {
        let place = |epoch, number| checkpoint(epoch, number, Payload::empty()).place();
        assert!(place(1, 9) < place(2, 1) && place(2, 1) < place(2, 2));
    }

    #[test]
    fn it_reads_back_and_is_bounded() {
        let blob = |size| Payload::Blob { id: BlobId([1; 32]), size };
        let short = checkpoint(1, 2, Payload::Inline(b"state".as_slice().into()));
        assert_eq!(codec::decode::<Checkpoint>(&codec::encode(&short)), Ok(short.clone()));
        assert_eq!(short.saved(), Saved { epoch: 1, number: 2, saved_ms: 5, size: 5 });
        assert_eq!(checkpoint(1, 1, blob(CHECKPOINT_LEN_MAX)).check(), Ok(()));
        for bytes in [blob(CHECKPOINT_LEN_MAX + 1), Payload::Inline(vec![0; 17_000].into())] {
            assert_eq!(checkpoint(1, 1, bytes).check().expect_err("too long").kind, Kind::TooLarge);
        }
    }
}
