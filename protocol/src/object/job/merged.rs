//! A job that both sides of a cut have settled.

use serde::{Deserialize, Serialize};

use super::{Outcome, State};
use crate::id::BlobId;

/// The settlement of a lower epoch: it was true on its side of a cut, and has given way to that of a higher one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Superseded {
    /// The epoch of its run.
    pub epoch: u64,
    /// How it had settled.
    pub state: State,
    /// When, in milliseconds since the Unix epoch.
    pub settled_ms: u64,
    /// The hash of its result; none: there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<BlobId>,
}

impl Superseded {
    /// Of a settlement that gives way.
    pub fn of(epoch: u64, state: State, settled_ms: Option<u64>, outcome: Option<&Outcome>) -> Self {
        let output = outcome.map(|outcome| outcome.output.id());
        Self { epoch, state, settled_ms: settled_ms.unwrap_or_default(), output }
    }
}
