//! What is journaled about jobs.
//!
//! A job of this home is two records: [`Accepted`], written once, and [`Standing`], replaced whenever a decision must
//! survive: a new epoch, an end. That a run has started or progressed is not journaled: the worker says it again. A job
//! without a [`Standing`] stands as [`Accepted::standing`] says.
//!
//! An array is one job here; of an element that has begun there is a [`Standing`], what it was accepted with is its array's. The
//! end of an array counts the elements that never began; the others have counted before.
//!
//! A *guest run*, a run of another home's job that this node has taken, is a [`GuestRun`], then a [`GuestEnd`] when it has
//! ended, and is forgotten when its home has said that it may be. Guest runs are no part of this home's counts.
//!
//! A *charge* is a job of another home that this node keeps as one of its custodians: both records of it, as the home has
//! sent them, until the home has forgotten it. Charges are no part of this home's counts either.

use serde::{Deserialize, Serialize};
use shoal_protocol::custody::{CustodianSet, SignedCustodians};
use shoal_protocol::object::job::{Array, Called, Checkpoint, Outcome, State};
use shoal_protocol::regency::{Regent, SignedVote};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{BlobId, NodeId, ObjectId, WorkerId};

pub use shoal_protocol::record::{Accepted, Spec, Standing, VERSION};

/// One entry of the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Record {
    /// A job was accepted. Counts one accepted, an array each of its elements.
    Accepted(Box<Accepted>),
    /// The same job with its input, which has come: another job's result. Counts nothing.
    Supplied(Box<Accepted>),
    /// Where a job stands from now on.
    Standing(ObjectId, Box<Standing>),
    /// An element of an array has begun: where it stands. It is among those that have not ended from now on.
    Began(ObjectId, Box<Standing>),
    /// An element of an array has ended: where it stands, and where its array stands with that.
    Ended(ObjectId, Box<Standing>, ObjectId, Box<Standing>),
    /// A settled job is forgotten, an array with its elements. Counts one swept, of an array each element, and nothing when it is not there any more.
    Swept(ObjectId),
    /// A run of another home was taken. There is at most one of each job: one of an older epoch is gone before.
    GuestAccepted(Box<GuestRun>),
    /// A run of another home has ended. What its outcome refers to is kept until it is gone.
    GuestEnded(Run, Box<GuestEnd>),
    /// A run of another home is forgotten. Nothing when it is not there any more.
    GuestGone(Run),
    /// A settled job is kept, among those of its group. Follows its last [`Standing`].
    Retained(Retained),
    /// What a run of this job of the home has saved for the next.
    Checkpoint(ObjectId, Box<Saving>),
    /// The same for a run of another home: it is kept as long as the run is here.
    GuestCheckpoint(Run, Box<Saving>),
    /// The result of a settled job may be given to those that are equal, by this key; none: no more.
    Memo(ObjectId, Option<BlobId>),
    /// What is to be told of a job that has ended, or has become of that. It comes before the end of the job.
    Call(ObjectId, Call),
    /// A set of custodians: of this home, which tells others of it from now on, or of another one whose jobs are kept here.
    Custodians(Box<Custodians>),
    /// A job of another home that is kept here, or what is new of it. Counts nothing.
    Charge(Box<Charge>),
    /// A job of another home is kept here no more. Nothing when it is not there any more.
    ChargeGone(ObjectId),
    /// Who acts for a home, or for whom this node has voted.
    Reign(Box<Reign>),
    /// A job of another home is this node's to decide from now on. Counts as accepted, and what of it has ended as settled; an
    /// element of an array counts with that.
    Taken(Box<TakenJob>),
    /// A settled job of another home that this node had taken over is only kept here from now on, as it stands. Comes before it is
    /// [`Swept`](Self::Swept).
    HandedBack(ObjectId),
    /// An element had begun, and is one of its array again, which another node decides from now on: nothing stays of it.
    Withdrawn(ObjectId),
    /// An element of an array of this node stands like this at the node that decides the array. It counts with that.
    Elsewhere(ObjectId, Box<Standing>),
    /// This node hands over all that it has to another one, or no longer does: that is done, and it stops.
    Drain(Option<Drain>),
    /// A settled job stands otherwise: the other side of a cut has settled it as well, in a higher epoch. Counts nothing.
    Merged(ObjectId, Box<Standing>),
    /// What a project or one of its users has used at this node.
    Tally(Tally),
    /// Who may begin which epoch of a job with effects `once`, by the word of this node. Gone with the job.
    Granted(Promise),
}

/// What the jobs of a project, or those of one of its users, have used whose home is this node: runs that have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// The project, or where there is none the owner of the functions.
    pub group: ObjectId,
    /// The user; none: all of them.
    pub user: Option<ObjectId>,
    /// Ever, in microseconds of slots. Only grows, until nothing of it counts any more: then it begins anew.
    pub total_us: u64,
    /// What is left of it at that time, in microseconds, now that the past counts less and less; 0: nothing is kept.
    pub recent_us: u64,
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

/// The word of a member of a set that an epoch of a job may begin, and none below it any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promise {
    /// Which job.
    pub job: ObjectId,
    /// Which epoch.
    pub epoch: u64,
    /// Who may begin it: the job's home, or a regent.
    pub to: NodeId,
}

/// Settled jobs that are counted and kept together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Group {
    /// The project, or where there is none the owner of the function: [`Accepted::group`].
    pub owner: ObjectId,
    /// Whether they have failed for good, [`State::is_dead`]: these are kept for longer.
    pub dead: bool,
}

impl Group {
    /// Of a job that has settled in this state.
    pub fn of(accepted: &Accepted, state: State) -> Self {
        Self { owner: accepted.group(), dead: state.is_dead() }
    }
}

/// A settled job, as it is found when it is to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retained {
    /// Among which.
    pub group: Group,
    /// Which.
    pub job: ObjectId,
    /// When it settled, in milliseconds since the Unix epoch.
    pub settled_ms: u64,
    /// Bytes that it refers to: [`crate::stored_bytes`].
    pub bytes: u64,
}

/// What becomes of the checkpoint of a job.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Saving {
    /// The last from now on; none: it is needed no more.
    pub checkpoint: Option<Checkpoint>,
    /// The blob of the one before, which it refers to no more.
    pub replaces: Option<BlobId>,
}

/// A call to a job's URL.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// [`VERSION`].
    pub version: u8,
    /// Where it stands.
    pub called: Called,
    /// When the job ended, in milliseconds since the Unix epoch.
    pub since_ms: u64,
    /// When it is tried next, in milliseconds since the Unix epoch.
    pub due_ms: u64,
}

/// A set of custodians, with its home's signature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Custodians {
    /// The set.
    pub set: CustodianSet,
    /// As its home has signed it; none: it is this node's own, which signs it whenever it is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signed: Option<SignedCustodians>,
    /// No majority of the set before it has said that it has it.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unconfirmed: bool,
}

/// A job of another home that is kept here, or what is new of it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Charge {
    /// [`VERSION`].
    pub version: u8,
    /// Whose job it is.
    pub home: NodeId,
    /// The number of the home's set under which it is kept.
    pub set: u32,
    /// Which.
    pub job: ObjectId,
    /// The job as its home accepted it; none: as is known, of an element as is known of its array.
    pub accepted: Option<Box<Accepted>>,
    /// Where it stands; none: as it was accepted.
    pub standing: Option<Box<Standing>>,
    /// Of an element that was not here before: its array, which is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub array: Option<ObjectId>,
}

/// The regent of a set of custodians, as a member knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reign {
    /// Who, for whom, since which term.
    pub regent: Regent,
    /// It acts; else this node has voted for it, and knows no more.
    pub acts: bool,
    /// A majority of the set has voted for it.
    pub confirmed: bool,
    /// The votes for it; where it is this node, those of the others.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub votes: Vec<SignedVote>,
}

/// This node leaves: to whom it hands over what it has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// The other node.
    pub to: NodeId,
    /// The number of the set, of this node and the other one, under which jobs go that no set keeps.
    pub set: u32,
    /// Runs are not waited for: they begin anew at the other node.
    pub hasten: bool,
    /// Since when, in milliseconds since the Unix epoch.
    pub since_ms: u64,
}

/// A job of another home that a regent takes over.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct TakenJob {
    /// [`VERSION`].
    pub version: u8,
    /// Whose job it is.
    pub home: NodeId,
    /// The number of the home's set.
    pub set: u32,
    /// The job as its home accepted it.
    pub accepted: Accepted,
    /// Where it stands from now on.
    pub standing: Standing,
}

/// What a kernel remembers of a job of another home that is kept here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChargeState {
    /// Which.
    pub job: ObjectId,
    /// Whose.
    pub home: NodeId,
    /// The number of the home's set.
    pub set: u32,
    /// The revision that is here.
    pub revision: u64,
    /// Its input is another job's result, and is not here.
    pub lacks_input: bool,
    /// Of an array: which elements it has.
    pub array: Option<Array>,
    /// How it has ended; none: it has not.
    pub ended: Option<State>,
    /// This node has taken it over: it decides, and keeps it as a job of its own.
    pub taken: bool,
}

/// A run of another home's job that this node has taken. Never changes.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestRun {
    /// [`VERSION`].
    pub version: u8,
    /// Whose job it is.
    pub home: NodeId,
    /// Which.
    pub run: Run,
    /// 1 for the job's first run.
    pub attempt: u32,
    /// The job as its home accepted it, checked against what is known here: what its worker may read and do.
    pub accepted: Accepted,
    /// The worker of this node that has it.
    pub worker: WorkerId,
    /// That worker's name.
    pub worker_name: String,
    /// What it was given of an earlier run.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Box<Checkpoint>>,
}

/// How a guest run ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GuestEnd {
    /// [`VERSION`].
    pub version: u8,
    /// What came out.
    pub outcome: Outcome,
    /// When, in milliseconds since the Unix epoch.
    pub ended_ms: u64,
}
