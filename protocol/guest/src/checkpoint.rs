//! What outlives a run: when the job is run again, after its worker or its node has died or after a failure, the next run
//! finds what was saved last.
//!
//! ```no_run
//! use shoal_guest::{Error, Input, checkpoint};
//!
//! /// Goes on where an earlier run has stopped.
//! fn sum(_: Input) -> Result<String, Error> {
//!     let saved = checkpoint::last()?.and_then(|bytes| bytes.try_into().ok());
//!     let mut next = saved.map_or(0, u64::from_le_bytes);
//!     while next < 1_000_000 {
//!         next += 1_000;
//!         checkpoint::save(&next.to_le_bytes())?;
//!     }
//!     Ok(next.to_string())
//! }
//! ```

use crate::bindings::shoal::function::checkpoint as host;
use crate::error::Error;

/// Saves the state of the job, up to 16 MiB, in the place of what was saved before. Once this returns it is durable. Blobs
/// that the bytes name are not kept by them.
///
/// # Errors
/// `TooLarge`; `Conflict` when another run has taken the place of this one; `Unavailable` when it cannot be stored now.
pub fn save(state: &[u8]) -> Result<(), Error> {
    Ok(host::save(state)?)
}

/// What was saved last: by this run, else by an earlier one.
///
/// # Errors
/// `Unavailable` if it cannot be fetched now.
pub fn last() -> Result<Option<Vec<u8>>, Error> {
    Ok(host::last()?)
}
