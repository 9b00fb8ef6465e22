//! Replicated documents: users, projects and functions as sets of signed changes. The only home of automerge.
//!
//! A [`Replica`] takes signed changes in any order and any number of times, decides which of them count, derives an
//! automerge document from those, and hands out plain objects. The node drives it from an actor of its own: bytes
//! come in, objects and the changes to be journaled go out. There is no IO here, no clock and no async; nothing that
//! comes out depends on the time, on chance, or on the order in which changes arrived.
//!
//! What a change passes, cheapest first, and where:
//!
//! | step | asks | answer when not |
//! |---|---|---|
//! | `check` | size, CBOR, version, mesh, signature, structure, paths and values | refused, no trace |
//! | `history` | are its dependencies known, does its number follow its author's last | held back; refused |
//! | `history` | does another change carry the same author and number and a lower hash | does not count |
//! | `rights` | did its author hold the right | does not count |
//! | `derive` | is the whole document within its `schema` afterwards | does not count |
//!
//! A change that does not count keeps its place in the history and loses its operations. Whether it counts is a pure
//! function of the set of changes that the replica holds, so replicas with equal sets have equal documents.
//!
//! How two nodes come to hold equal sets is [`reconcile`]'s.

mod check;
mod derive;
mod facts;
pub mod faults;
mod history;
pub mod reconcile;
mod replica;
mod rights;
pub mod schema;
pub mod wanted;

pub use check::Refused;
pub use facts::{Facts, Object};
pub use replica::prepare::{NotPrepared, Wanted};
pub use replica::{Applied, Outcome, Replica, Work};
pub use rights::Reason;
pub use schema::limits;
