//! What is journaled about jobs, and how a settled job is shown from it.
//!
//! A job is two records: [`Accepted`], written once, and [`Standing`], replaced whenever a decision must survive:
//! a new epoch, an end. That a run has started or progressed is not journaled: the worker says it again. A job without
//! a [`Standing`] stands as [`Accepted::standing`] says.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};
use shoal_protocol::name::Labels;
use shoal_protocol::object::function::{Grant, Needs, RunLimits};
use shoal_protocol::object::job::{Attempt, Outcome, Payload, State};
use shoal_protocol::{BlobId, ObjectId, Traceparent};

/// The version of [`Accepted`] and [`Standing`] that this package writes.
pub const VERSION: u8 = 1;

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A job was accepted. Counts one accepted.
    Accepted(Box<Accepted>),
    /// Where a job stands from now on.
    Standing(ObjectId, Box<Standing>),
    /// A settled job is forgotten. Counts one swept, and nothing when it is not there any more.
    Swept(ObjectId),
}

/// A job as it was accepted. Never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Accepted {
    /// [`VERSION`].
    pub version: u8,
    /// The job.
    pub id: ObjectId,
    /// The W3C trace id.
    pub trace: String,
    /// The place in the submitter's trace, where the request said one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<Traceparent>,
    /// Who submitted it.
    pub owner: ObjectId,
    /// The function.
    pub function: ObjectId,
    /// Its name at that time.
    pub function_name: String,
    /// Who owned the function at that time.
    pub function_owner: ObjectId,
    /// The function's project at that time.
    pub project: Option<ObjectId>,
    /// The number of the version that runs.
    pub function_version: u32,
    /// The component that runs.
    pub component: BlobId,
    /// What it may do.
    pub grants: BTreeSet<Grant>,
    /// The input.
    pub input: Payload,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// The function's needs and its own.
    pub needs: Needs,
    /// Its own limits, else the function's.
    pub limits: RunLimits,
    /// When, in milliseconds since the Unix epoch.
    pub accepted_ms: u64,
    /// The name for people that it was submitted with; [`Standing::name`] is the current one.
    pub name: String,
    /// The labels that it was submitted with; [`Standing::labels`] are the current ones.
    pub labels: Labels,
}

impl Accepted {
    /// Where a job stands that has only this record: queued, and never offered. Accepting writes one record, not two.
    pub fn standing(&self) -> Standing {
        Standing {
            version: VERSION,
            state: State::Queued,
            name: self.name.clone(),
            labels: self.labels.clone(),
            epoch: 0,
            attempts: Vec::new(),
            attempts_total: 0,
            cancelled: false,
            settled_ms: None,
            outcome: None,
        }
    }
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// [`VERSION`].
    pub version: u8,
    /// `Queued`, `Offered` (which a running job stays, see above) or settled.
    pub state: State,
    /// A name for people.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// The current epoch; 0 before the first run.
    pub epoch: u64,
    /// The last runs, oldest first.
    pub attempts: Vec<Attempt>,
    /// Runs in all.
    pub attempts_total: u32,
    /// Somebody has cancelled it; it settles when its run has stopped.
    pub cancelled: bool,
    /// When it settled, in milliseconds since the Unix epoch.
    pub settled_ms: Option<u64>,
    /// What came out.
    pub outcome: Option<Outcome>,
}
