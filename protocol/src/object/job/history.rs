//! Hand-overs of a job that were no runs: who did not take it, and why.

use serde::{Deserialize, Serialize};

use crate::id::{NodeId, WorkerId};
use crate::limits::REFUSALS_KEPT_MAX;

/// Why a hand-over came to nothing, for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum RefusalCode {
    /// The worker or peer did not take it.
    Declined,
    /// It did not reach the worker or peer.
    NeverArrived,
    /// The worker or peer was lost before it had begun.
    Lost,
    /// The home took it back before it had begun, for a place that was free.
    Withdrawn,
}

impl RefusalCode {
    /// As it stands in JSON.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Declined => "declined",
            Self::NeverArrived => "never_arrived",
            Self::Lost => "lost",
            Self::Withdrawn => "withdrawn",
        }
    }
}

/// A hand-over that came to nothing before the guest had started. It is not counted as a run. Those that follow each other
/// at the same worker, for the same reason, are one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Refusal {
    /// The epoch of the last of them.
    pub epoch: u64,
    /// Where.
    pub worker: WorkerId,
    /// The worker's name.
    pub worker_name: String,
    /// The node, where it was handed to a peer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// When the last of them came to nothing, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// For machines.
    pub code: RefusalCode,
    /// For people.
    pub message: String,
    /// How many they are.
    pub times: u32,
}

impl Refusal {
    /// Whether this one is another of the same kind.
    fn repeats(&self, earlier: &Self) -> bool {
        (self.worker, self.code, &self.message) == (earlier.worker, earlier.code, &earlier.message)
    }
}

/// The hand-overs of a job that came to nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refusals {
    /// How many there were in all.
    pub total: u32,
    /// The last ones, oldest first, at most [`REFUSALS_KEPT_MAX`].
    pub kept: Vec<Refusal>,
}

impl Refusals {
    /// Adds one.
    pub fn add(&mut self, refusal: Refusal) {
        self.total = self.total.saturating_add(refusal.times);
        if let Some(last) = self.kept.last_mut().filter(|last| refusal.repeats(last)) {
            let times = last.times.saturating_add(refusal.times);
            *last = Refusal { times, ..refusal };
            return;
        }
        if self.kept.len() >= REFUSALS_KEPT_MAX {
            self.kept.remove(0);
        }
        self.kept.push(refusal);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(epoch: u64, message: &str) -> Refusal {
        Refusal {
            epoch,
            worker: WorkerId::from_parts(1, 0, [0; 8]),
            worker_name: "w".into(),
            node: None,
            at_ms: epoch,
            code: RefusalCode::Declined,
            message: message.into(),
            times: 1,
        }
    }

    #[test]
    fn equal_ones_in_a_row_are_one_and_the_oldest_are_dropped() {
        let mut refusals = Refusals::default();
        for epoch in 1..=5 {
            refusals.add(refusal(epoch, "full"));
        }
        assert_eq!((refusals.total, refusals.kept.len()), (5, 1));
        assert_eq!((refusals.kept[0].times, refusals.kept[0].epoch), (5, 5));
        for epoch in 6..=30 {
            refusals.add(refusal(epoch, &format!("for reason {epoch}")));
        }
        assert_eq!((refusals.total, refusals.kept.len()), (30, REFUSALS_KEPT_MAX));
        assert_eq!(refusals.kept.last().map(|last| last.epoch), Some(30));
    }

    #[test]
    fn a_code_has_one_text() {
        for code in [RefusalCode::Declined, RefusalCode::NeverArrived, RefusalCode::Lost, RefusalCode::Withdrawn] {
            assert_eq!(serde_json::json!(code), code.text());
        }
    }
}
