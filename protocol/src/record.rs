//! A job as its home keeps it: [`Accepted`], written once, and [`Standing`], replaced whenever a decision must survive.
//!
//! Both are stored, and [`Accepted`] is sent too: a home offers a run to a peer with all that the job was accepted with, so
//! that the peer can judge and serve the run without asking back.

mod extras;
mod flat;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::custody::{Custody, DURABILITY_MAX};
use crate::id::{BlobId, NodeId, ObjectId};
use crate::limits::{AFTER_MAX, ARGS_LEN_MAX, ARGS_MAX, ATTEMPTS_KEPT_MAX};
use crate::name::{self, Labels};
use crate::object::function::{Grant, Needs, RunLimits};
use crate::object::job::{
    Array, Attempt, Elements, Outcome, Payload, Refusals, Saved, State, Superseded, Terms, check_after,
};
use crate::{Kind, Problem, Seldom, TraceId};

pub use extras::Extras;

/// The version of [`Accepted`] and [`Standing`] that this package writes.
pub const VERSION: u8 = 1;

/// A job as it was accepted. Never changes, but for an input that is another job's result: it comes with that.
///
/// On disk and between nodes it is one flat map. In memory a million may wait: what many are alike in is shared, and what few have
/// takes a block of its own where there is any.
#[derive(Debug, Clone, PartialEq)]
pub struct Accepted {
    /// [`VERSION`].
    pub version: u8,
    /// The job.
    pub id: ObjectId,
    /// The W3C trace id.
    pub trace: TraceId,
    /// Who submitted what, under which conditions. Shared by jobs that are alike in it.
    pub spec: Arc<Spec>,
    /// The input.
    pub input: Payload,
    /// When, in milliseconds since the Unix epoch.
    pub accepted_ms: u64,
    /// The name for people that it was submitted with; [`Standing::name`] is the current one.
    pub name: Box<str>,
    /// When it may run, in which order, and after which failures it is tried again, as it was submitted.
    pub terms: Seldom<Terms>,
    /// With whom it is kept; none: its home alone keeps it.
    pub custody: Option<Custody>,
    /// What few jobs have.
    pub extras: Seldom<Extras>,
}

/// What jobs are alike in that one user submits for one version of a function.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Spec {
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
    /// The function's needs and its own.
    pub needs: Needs,
    /// Its own limits, else the function's.
    pub limits: RunLimits,
}

impl Accepted {
    /// What it is alike in with others, to be changed for it alone.
    pub fn spec_mut(&mut self) -> &mut Spec {
        Arc::make_mut(&mut self.spec)
    }

    /// Among whose jobs it counts and is kept: its function's project, or where there is none the function's owner.
    pub fn group(&self) -> ObjectId {
        self.spec.project.unwrap_or(self.spec.function_owner)
    }

    /// Where a job stands that has only this record: it waits, and was never offered. Accepting writes one record, not two.
    pub fn standing(&self) -> Standing {
        Standing {
            version: VERSION,
            state: match self.terms.hold {
                true => State::Held,
                false if self.extras.after.is_empty() => State::Queued,
                false => State::Blocked,
            },
            name: self.name.to_string(),
            labels: self.extras.labels.clone(),
            epoch: 0,
            attempts: Vec::new(),
            attempts_total: 0,
            refusals: None,
            cancelled: false,
            out_of_time: false,
            priority: self.terms.priority,
            ready_ms: None,
            retry_ms: None,
            disconnected_ms: None,
            unmet: self.extras.after.iter().map(|after| after.job).collect(),
            elements: self.is_array().then(Elements::default),
            saved: None,
            duplicate_of: None,
            memo_of: None,
            settled_ms: None,
            outcome: None,
            revision: 0,
            alone: false,
            regent: None,
            unconfirmed: false,
            superseded: None,
        }
    }

    /// Whether it stands for its elements, and is none itself.
    pub fn is_array(&self) -> bool {
        self.extras.array.is_some() && self.extras.index.is_none()
    }

    /// The highest id that is its own or an element's.
    pub fn last_id(&self) -> ObjectId {
        let last = self.own_array().and_then(|array| self.id.element(array.last));
        last.unwrap_or(self.id)
    }

    /// For how many jobs it counts: an array for each of its elements.
    pub fn size(&self) -> u32 {
        self.own_array().map_or(1, |array| array.size())
    }

    /// Its elements, if it is an array and no element of one.
    fn own_array(&self) -> Option<Array> {
        self.extras.array.filter(|_| self.extras.index.is_none())
    }

    /// The array that it is an element of.
    pub fn array_id(&self) -> Option<ObjectId> {
        self.extras.index.and_then(|index| self.id.array_of(index))
    }

    /// The element of this array with this index; none where it has no such element.
    pub fn element(&self, index: u32) -> Option<Self> {
        self.own_array()?.place(index)?;
        let extras =
            Extras { index: Some(index), key: None, after: Vec::new(), input_of: None, ..Extras::clone(&self.extras) };
        Some(Self { id: self.id.element(index)?, extras: extras.into(), ..self.clone() })
    }

    /// Which element of this array has this id.
    pub fn element_of_id(&self, id: ObjectId) -> Option<Self> {
        self.element(self.id.index_of(id)?)
    }

    /// Checks the bounds of what another node says that it accepted. Whether any of it is true is another question.
    pub fn check(&self) -> Result<(), Problem> {
        if self.version != VERSION {
            return invalid(format!("version is {}; this node reads {VERSION}", self.version));
        }
        name::check("function_name", &self.spec.function_name)?;
        self.spec.needs.check()?;
        self.spec.limits.check()?;
        self.terms.check()?;
        let extras = &*self.extras;
        extras.array.map_or(Ok(()), |array| array.check())?;
        check_after(&extras.after, extras.input_of)?;
        if self.custody.is_some_and(|custody| custody.durability.get() > DURABILITY_MAX) {
            return invalid(format!("custody: more nodes than {DURABILITY_MAX} shall have the job"));
        }
        extras.key.as_ref().map_or(Ok(()), |key| key.check())?;
        check_texts(&self.name, &extras.labels, &self.input, &extras.args, &extras.env)
    }
}

/// Where a job stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Standing {
    /// [`VERSION`].
    pub version: u8,
    /// `Held`, `Blocked`, `Queued`, `Offered` (which a running job stays, see above) or settled.
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
    /// Hand-overs that came to nothing. Boxed, since few jobs have any and a million may wait.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refusals: Option<Box<Refusals>>,
    /// Somebody has cancelled it; it settles when its run has stopped.
    pub cancelled: bool,
    /// It has taken longer in all than it may; it settles when its run has stopped.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub out_of_time: bool,
    /// Its place among the jobs that wait.
    #[serde(default, skip_serializing_if = "crate::object::job::is_zero")]
    pub priority: i8,
    /// When it was last released, or the last job that it waited for has ended, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ready_ms: Option<u64>,
    /// It pauses until then before it is tried again, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retry_ms: Option<u64>,
    /// It waits for who runs it, whose lease has ended, since then, in milliseconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disconnected_ms: Option<u64>,
    /// The jobs that it still waits for.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub unmet: BTreeSet<ObjectId>,
    /// Of an array: how far it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub elements: Option<Elements>,
    /// It ends as a duplicate of this job, which was submitted under the same key before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duplicate_of: Option<ObjectId>,
    /// Its result is that of this job, which is equal; it was not run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memo_of: Option<ObjectId>,
    /// What a run of it has saved last, when this was written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub saved: Option<Saved>,
    /// When it settled, in milliseconds since the Unix epoch.
    pub settled_ms: Option<u64>,
    /// What came out.
    pub outcome: Option<Outcome>,
    /// Rises with every change of a job that custodians keep, so that they know which record is newer.
    #[serde(default, skip_serializing_if = "is_none_yet")]
    pub revision: u64,
    /// It was acknowledged when its home alone had it: no custodian answered in time.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub alone: bool,
    /// The custodian that acts for its home; none: its home.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub regent: Option<NodeId>,
    /// Its regent acts, or it was settled, without the word of a majority of its custodians.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
    /// How it had settled on the other side of a cut, in a lower epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub superseded: Option<Box<Superseded>>,
}

/// For serde: a job that nobody else keeps has no revisions.
fn is_none_yet(revision: &u64) -> bool {
    *revision == 0
}

impl Standing {
    /// How it has ended; none: it has not.
    pub fn ended(&self) -> Option<State> {
        Some(self.state).filter(|state| state.is_settled())
    }

    /// Checks the bounds of what a home says of a job that is kept here.
    pub fn check(&self) -> Result<(), Problem> {
        if self.version != VERSION {
            return invalid(format!("version is {}; this node reads {VERSION}", self.version));
        }
        if !self.name.is_empty() {
            name::check("name", &self.name)?;
        }
        name::check_labels("labels", &self.labels)?;
        if self.attempts.len() > ATTEMPTS_KEPT_MAX || self.unmet.len() > AFTER_MAX {
            return invalid("attempts, unmet: more of them than a job has".into());
        }
        let payloads = self.outcome.iter().flat_map(|outcome| [&outcome.output, &outcome.log]);
        if payloads.into_iter().any(|payload| !payload.within_bounds()) {
            return Err(Problem::new(Kind::TooLarge, "outcome: what is longer than 16 KiB is a blob"));
        }
        Ok(())
    }
}

/// Checks the bounds of what somebody submits with a job, beyond its needs and limits.
pub fn check_texts(
    name: &str,
    labels: &Labels,
    input: &Payload,
    args: &[String],
    env: &BTreeMap<String, String>,
) -> Result<(), Problem> {
    if !name.is_empty() {
        name::check("name", name)?;
    }
    name::check_labels("labels", labels)?;
    if !input.within_bounds() {
        return Err(Problem::new(Kind::TooLarge, "input: what is longer than 16 KiB is a blob"));
    }
    if args.len() > ARGS_MAX || env.len() > ARGS_MAX {
        return invalid(format!("args, env: at most {ARGS_MAX} arguments and as many environment variables"));
    }
    let pairs = env.iter().flat_map(|(key, value)| [key, value]);
    let len: usize = args.iter().chain(pairs.clone()).map(String::len).sum();
    if len > ARGS_LEN_MAX {
        return invalid(format!("args, env: {len} bytes together, at most {ARGS_LEN_MAX}"));
    }
    if args.iter().chain(pairs).any(|text| text.contains('\0')) {
        return invalid("args, env: a text holds a zero byte, which no program can read".into());
    }
    match env.keys().find(|key| key.is_empty() || key.contains('=')) {
        Some(key) => invalid(format!("env: {key:?} cannot name a variable")),
        None => Ok(()),
    }
}

fn invalid(detail: String) -> Result<(), Problem> {
    Err(Problem::new(Kind::InvalidField, detail))
}
