//! What a home and its custodians say to each other, on the control stream of two neighbours.
//!
//! A home sends what is to be kept in [`Keep`]; the custodian answers with [`Kept`] when that is durable. Each record of a
//! job has a revision that rises with every change, so that repeated and late messages change nothing. What a cut has
//! swallowed is found by comparing: the home asks, page by page, what the custodian holds ([`Holding`]), and sends what
//! differs. Both sides name jobs of the sender's or the receiver's home only; anything else ends the session.

use serde::{Deserialize, Serialize};

use crate::custody::SignedCustodians;
use crate::id::{NodeId, ObjectId};
use crate::limits::KEEP_JOBS_MAX;
use crate::record::{Accepted, Standing};
use crate::regency::Regency;
use crate::{Kind, Problem};

/// As a home: keep these jobs of mine.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Keep {
    /// The set under which they were accepted.
    pub set: SignedCustodians,
    /// At most [`KEEP_JOBS_MAX`]; none: the set alone is told.
    pub jobs: Vec<KeepJob>,
}

/// A job that is to be kept, or what is new of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeepJob {
    /// Which.
    pub job: ObjectId,
    /// The job as it was accepted; none: the custodian has it, as far as the home knows. Of an element of an array always none:
    /// the custodian has the array.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub accepted: Option<Box<Accepted>>,
    /// Where it stands; none: as it was accepted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub standing: Option<Box<Standing>>,
    /// Its input was another job's result and has come since it was accepted: a custodian that does not have it lacks the job.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub supplied: bool,
}

impl KeepJob {
    /// All of a job; of an element of an array all that is its own.
    pub fn whole(accepted: Accepted, standing: Option<Standing>) -> Self {
        if accepted.extras.index.is_some() {
            let standing = standing.unwrap_or_else(|| accepted.standing());
            return Self::news(&accepted, standing);
        }
        let supplied = standing.as_ref().is_some_and(|standing| is_supplied(&accepted, standing));
        let (job, standing) = (accepted.id, standing.map(Box::new));
        Self { job, accepted: Some(Box::new(accepted)), standing, supplied }
    }

    /// Where a job stands now.
    pub fn news(accepted: &Accepted, standing: Standing) -> Self {
        let supplied = is_supplied(accepted, &standing);
        Self { job: accepted.id, accepted: None, standing: Some(Box::new(standing)), supplied }
    }

    /// Numbers the states of the job: a higher one replaces a lower one.
    pub fn revision(&self) -> u64 {
        self.standing.as_ref().map_or(0, |standing| standing.revision)
    }

    /// Checks the bounds of what a home says.
    pub fn check(&self) -> Result<(), Problem> {
        let refused = |detail: &str| Err(Problem::new(Kind::InvalidField, format!("{}: {detail}", self.job)));
        if self.accepted.as_ref().is_some_and(|accepted| accepted.id != self.job) {
            return refused("the record is of another job");
        }
        if self.accepted.as_ref().is_some_and(|accepted| accepted.extras.index.is_some()) {
            return refused("what an element was accepted with is its array's");
        }
        if self.accepted.is_none() && self.standing.is_none() {
            return refused("nothing is said of the job");
        }
        self.accepted.as_ref().map_or(Ok(()), |accepted| accepted.check())?;
        self.standing.as_ref().map_or(Ok(()), |standing| standing.check())
    }
}

/// Whether the input of a job was another job's result and has come.
pub fn is_supplied(accepted: &Accepted, standing: &Standing) -> bool {
    accepted.extras.input_of.is_some_and(|earlier| !standing.unmet.contains(&earlier))
}

/// As the regent of a home: keep these jobs of it, as I have decided.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct KeepTaken {
    /// That the sender is regent, for members of the set to check.
    pub regency: Regency,
    /// Jobs of the home that stand under that set; at most [`KEEP_JOBS_MAX`].
    pub jobs: Vec<KeepJob>,
}

/// As a custodian, or as a home to its regent: what is durable here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// Whose jobs; none: the receiver's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub home: Option<NodeId>,
    /// The number of the set that was told.
    pub set: u32,
    /// Jobs, each with the revision that is here; at most [`KEEP_JOBS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<(ObjectId, u64)>,
    /// Jobs of which what is new was told, and that are not here.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub missing: Vec<ObjectId>,
    /// Some were not taken: there is no room for more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub full: bool,
}

/// Let these jobs begin, or end: their effects are `once`. From their home, or from a regent of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// At most [`KEEP_JOBS_MAX`].
    pub jobs: Vec<Begin>,
}

/// The next run of a job, or its end, for which a member of the job's set is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Begin {
    /// Which job.
    pub job: ObjectId,
    /// The epoch that is about to begin.
    pub epoch: u64,
    /// Of every epoch up to this one the sender knows that its run never began, or how it ended.
    pub after: u64,
}

/// The answer: what is durable here.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Granted {
    /// Jobs, each with the epoch that may begin; at most [`KEEP_JOBS_MAX`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub jobs: Vec<(ObjectId, u64)>,
    /// Jobs of which another epoch was granted before, to whom stands beside it; the epoch is that for which was asked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub refused: Vec<(ObjectId, u64, NodeId)>,
}

impl Granted {
    /// Whether it is within its bounds.
    pub fn is_sound(&self) -> bool {
        self.jobs.len().saturating_add(self.refused.len()) <= KEEP_JOBS_MAX
    }
}

/// As a custodian: jobs of yours that are here, in the order of their ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holding {
    /// The page begins behind this job; none: at the first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<ObjectId>,
    /// Jobs, each with its set and its revision; at most [`KEEP_JOBS_MAX`].
    pub jobs: Vec<(ObjectId, u32, u64)>,
    /// Behind the last of them there are more.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub more: bool,
}

impl Holding {
    /// Whether it is within its bounds, and in order.
    pub fn is_sound(&self) -> bool {
        let ids = || self.after.iter().copied().chain(self.jobs.iter().map(|(job, ..)| *job));
        self.jobs.len() <= KEEP_JOBS_MAX && ids().zip(ids().skip(1)).all(|(a, b)| a < b)
    }
}
