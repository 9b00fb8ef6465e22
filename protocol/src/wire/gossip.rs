//! Between nodes: what goes to all of them.

use serde::{Deserialize, Serialize};

use crate::change::SignedChange;
use crate::entry::SignedEntry;

/// What gossip carries, on the topic `changes`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Gossip {
    /// A change of a document.
    Change(SignedChange),
    /// An entry of the global key-value store.
    Entry(SignedEntry),
}
