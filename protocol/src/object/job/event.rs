//! Changes of jobs' states, for those who subscribe to them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{FailureCode, State};
use crate::id::{NodeId, ObjectId, WorkerId};

/// A job stands otherwise than before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Event {
    /// The job.
    pub job: ObjectId,
    /// Where it stands now.
    pub state: State,
    /// The current epoch; 0 before the first run.
    pub epoch: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// The function.
    pub function: ObjectId,
    /// The function's project when the job was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub project: Option<ObjectId>,
    /// Who submitted it.
    pub owner: ObjectId,
    /// The worker or peer that has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<WorkerId>,
    /// The node that has it, where that is a peer of the home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<NodeId>,
    /// Why it ended without a result.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<FailureCode>,
}

/// A place in the changes that a node tells of. A node that starts again counts anew, under another start.
///
/// Text form: `START-NUMBER`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EventId {
    /// When the node started, in milliseconds since the Unix epoch.
    pub start_ms: u64,
    /// Changes since then, up to this one.
    pub number: u64,
}

impl fmt::Display for EventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start_ms, self.number)
    }
}

impl FromStr for EventId {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let id = text.split_once('-').and_then(|(start_ms, number)| {
            Some(Self { start_ms: start_ms.parse().ok()?, number: number.parse().ok()? })
        });
        id.ok_or("the id of an event is START-NUMBER, as events say it")
    }
}

impl Serialize for EventId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for EventId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl schemars::JsonSchema for EventId {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "EventId".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A place in the changes that a node tells of: START-NUMBER",
            "pattern": "^[0-9]{1,20}-[0-9]{1,20}$",
        })
    }
}

/// What a subscriber is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Told {
    /// A job has changed.
    Changed {
        /// Behind it one can go on from here.
        id: EventId,
        /// How it stands.
        event: Event,
    },
    /// Changes were missed: the subscriber was away or too slow for what the node remembers, or the node has started again.
    Missed {
        /// Behind it one can go on from here.
        id: EventId,
        /// How many at most, of all jobs of the node; none: unknown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        changes: Option<u64>,
    },
    /// Nothing: the node is there.
    Alive {
        /// Behind it one can go on from here: what came until then was for others.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<EventId>,
    },
}

impl Told {
    /// Where one can go on.
    pub const fn id(&self) -> Option<EventId> {
        match self {
            Self::Changed { id, .. } | Self::Missed { id, .. } => Some(*id),
            Self::Alive { id } => *id,
        }
    }
}

/// Whose changes somebody wants to hear of: of those that they may see, all that fit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Subscription {
    /// Of this job only, wherever its home is. It ends with the job.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub job: Option<ObjectId>,
    /// Of jobs of this node that run this function, by its id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub function: Option<String>,
    /// Of jobs of this node whose function belongs to this project, by its id or name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub project: Option<String>,
    /// Those behind this one; none: those from now on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<EventId>,
}

/// The body of method `events`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AwaitEvents {
    /// Those behind this one; none: how the job stands now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub after: Option<EventId>,
    /// How long to wait for the first, in milliseconds; 60,000 at most and unless said otherwise.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timeout_ms: Option<u64>,
}

/// The answer of method `events`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, schemars::JsonSchema)]
pub struct Events {
    /// The changes, oldest first, at most 64; none: nothing has changed.
    pub told: Vec<Told>,
    /// For `after` of the next request.
    pub next: EventId,
    /// The job has ended and all was told.
    pub ended: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_has_one_text() {
        let id = EventId { start_ms: 1_796_018_400_123, number: 42 };
        assert_eq!((id.to_string().as_str(), "1796018400123-42".parse()), ("1796018400123-42", Ok(id)));
        assert_eq!(serde_json::json!(id), "1796018400123-42");
        for bad in ["", "7", "2-", "-3", "x-1"] {
            assert!(bad.parse::<EventId>().is_err(), "{bad}");
        }
    }
}
