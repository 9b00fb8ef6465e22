//! What few of the unsettled jobs have: each part takes memory only where there is any of it.

use std::collections::BTreeSet;

use shoal_protocol::name::Labels;
use shoal_protocol::object::job::{Attempt, Checkpoint, Elements, Refusals};
use shoal_protocol::regency::term_of;
use shoal_protocol::seldom::Usual;
use shoal_protocol::{NodeId, ObjectId};

use crate::record::{Accepted, Standing};

/// What became of a job each time that it was handed over. A job that waits for its first run has none.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct History {
    /// The last runs, oldest first.
    pub(crate) attempts: Vec<Attempt>,
    pub(crate) attempts_total: u32,
    /// Hand-overs that came to nothing.
    pub(crate) refusals: Option<Box<Refusals>>,
    /// What a run of it has saved last.
    pub(crate) checkpoint: Option<Box<Checkpoint>>,
    /// Runs that were lost.
    pub(crate) losses: u8,
    /// Runs that were declined, or lost before their guest had started; they are not counted as attempts.
    pub(crate) fruitless: u8,
}

impl Usual for History {
    const USUAL: &'static Self =
        &Self { attempts: Vec::new(), attempts_total: 0, refusals: None, checkpoint: None, losses: 0, fruitless: 0 };
}

impl History {
    /// As it is journaled. Checkpoints have records of their own.
    pub(crate) fn of(standing: Standing) -> Self {
        let Standing { attempts, attempts_total, refusals, .. } = standing;
        Self { attempts, attempts_total, refusals, ..Self::USUAL.clone() }
    }
}

/// What few jobs that wait have.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Extras {
    /// The jobs that it still waits for.
    pub(crate) unmet: BTreeSet<ObjectId>,
    /// When it was last released, or the last job that it waited for has ended, by the wall clock.
    pub(crate) ready_ms: Option<u64>,
    /// It does not run before.
    pub(crate) earliest_ms: u64,
    /// When it has waited for its first run for as long as it may; only while it waits for that.
    pub(crate) queue_until_ms: Option<u64>,
    /// When it has taken as long in all as it may.
    pub(crate) total_until_ms: Option<u64>,
    /// Of an array: how far it is.
    pub(crate) elements: Option<Box<Elements>>,
    /// It ends as a duplicate of this job.
    pub(crate) duplicate_of: Option<ObjectId>,
    /// It ends with the result of this job.
    pub(crate) memo_of: Option<Box<ObjectId>>,
    /// What it is called now, if that is not what it was submitted with.
    pub(crate) renamed: Option<Box<Names>>,
    /// Who decides it, if that is a regent.
    pub(crate) rule: Option<Box<Rule>>,
}

/// By which regent a job is decided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Rule {
    pub(crate) regent: NodeId,
    /// In which it acts.
    pub(crate) term: u32,
    /// No majority of the job's custodians has voted for it.
    pub(crate) unconfirmed: bool,
}

impl Usual for Extras {
    const USUAL: &'static Self = &Self {
        unmet: BTreeSet::new(),
        ready_ms: None,
        earliest_ms: 0,
        queue_until_ms: None,
        total_until_ms: None,
        elements: None,
        duplicate_of: None,
        memo_of: None,
        renamed: None,
        rule: None,
    };
}

impl Extras {
    /// As they are journaled. The times are read from what the job was accepted with when it is taken in.
    pub(crate) fn of(accepted: &Accepted, standing: &Standing) -> Self {
        let same = *standing.name == *accepted.name && standing.labels == accepted.extras.labels;
        let names = || Box::new(Names { name: standing.name.clone(), labels: standing.labels.clone() });
        Self {
            unmet: standing.unmet.clone(),
            ready_ms: standing.ready_ms,
            elements: standing.elements.map(Box::new),
            duplicate_of: standing.duplicate_of,
            renamed: (!same).then(names),
            rule: standing.regent.map(|regent| {
                Box::new(Rule { regent, term: term_of(standing.revision), unconfirmed: standing.unconfirmed })
            }),
            ..Self::USUAL.clone()
        }
    }
}

/// What people call a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) name: String,
    pub(crate) labels: Labels,
}

impl Names {
    /// As it was submitted.
    pub(crate) fn of(accepted: &Accepted) -> Self {
        Self { name: accepted.name.to_string(), labels: accepted.extras.labels.clone() }
    }
}
