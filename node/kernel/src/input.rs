//! What the edges hand in. Every value here is already authenticated and within the bounds of `protocol::limits`.
//!
//! To the home of a job a peer is one more worker: what it says as an executor comes in as [`Input::Heartbeat`],
//! [`Input::Started`], [`Input::Progress`], [`Input::Ended`] and [`Input::Declined`], with [`ObjectId::of_node`] as its
//! worker's id. Of a connection between two nodes the edge hands in [`Input::PeerConnected`], then what comes on it: a
//! hello as [`Input::PeerAttached`], a welcome as [`Input::HomeAttached`], and [`Input::PeerDetached`] at its end.

use std::collections::BTreeMap;

use shoal_protocol::custody::{CustodianSet, SignedCustodians};
use shoal_protocol::name::Labels;
use shoal_protocol::object::function::{Function, Needs, RunLimits};
use shoal_protocol::object::job::{
    After, Array, Checkpoint, JobPatch, KeyId, Outcome, Payload, Progress, State, Terms,
};
use shoal_protocol::object::project::Project;
use shoal_protocol::object::worker::{Offer, WorkerPatch};
use shoal_protocol::regency::{Regent, SignedVote, Vote};
use shoal_protocol::wire::custody::{Grant, Granted, Holding, KeepJob, Kept};
use shoal_protocol::wire::drain::HandedJob;
use shoal_protocol::wire::peer::{Hint, RunOffer};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{BlobId, NodeId, ObjectId, Problem, TraceId, Traceparent, WorkerId};

use crate::record::{Group, Reign};

use crate::record::{Accepted, Standing};

/// The time at which an input is handled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Now {
    /// Milliseconds of a clock that never steps and runs through sleep. All decisions use this one.
    pub mono_ms: u64,
    /// Milliseconds since the Unix epoch. Shown to people, never decided by.
    pub wall_ms: u64,
}

/// Chosen by an edge; the reply carries it back.
pub type RequestId = u64;

/// Who asks, as an edge has found out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Principal {
    /// The user; none: anybody.
    pub user: Option<ObjectId>,
    /// Operates this node: sees and cancels every job of this home, cordons its workers.
    pub operator: bool,
}

/// One thing that has happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Input {
    /// Time has passed. Due no later than the last [`crate::Effect::Wake`] said.
    Tick,
    /// Somebody asks for something.
    Request {
        /// The reply carries it back.
        request: RequestId,
        /// Who asks.
        principal: Principal,
        /// What for.
        command: Command,
    },
    /// A function is there or has changed.
    Function(Box<Function>),
    /// A function was deleted.
    FunctionGone(ObjectId),
    /// A project is there or has changed: its members may run its functions.
    Project(Box<Project>),
    /// A project was deleted.
    ProjectGone(ObjectId),
    /// A worker has attached. A worker that attaches twice replaces its former connection.
    WorkerAttached(Box<WorkerAttached>),
    /// A worker's connection ended.
    WorkerDetached {
        /// Which.
        worker: WorkerId,
        /// The connection that ended, as [`WorkerAttached::connection`]: an old one's end says nothing of the new one.
        connection: u64,
        /// Its process is known to be dead: its runs are lost at once, without waiting for their leases.
        dead: bool,
    },
    /// A worker says that it lives and holds these runs.
    Heartbeat {
        /// Which.
        worker: WorkerId,
        /// Runs under way or ended and unacknowledged.
        runs: Vec<Run>,
    },
    /// A run's guest has started.
    Started {
        /// Which worker says so.
        worker: WorkerId,
        /// Which run.
        run: Run,
    },
    /// How far a run is.
    Progress {
        /// Which worker says so.
        worker: WorkerId,
        /// Which run.
        run: Run,
        /// How far.
        progress: Progress,
    },
    /// A run has ended; its blobs are durable at this node: of a peer's run they were fetched before.
    Ended {
        /// Which worker says so.
        worker: WorkerId,
        /// Which run.
        run: Run,
        /// How.
        outcome: Box<Outcome>,
    },
    /// A worker did not take a run.
    Declined {
        /// Which worker says so.
        worker: WorkerId,
        /// Which run.
        run: Run,
        /// Why.
        problem: Problem,
    },
    /// A connection to a peer stands, and nothing was said on it yet; a former one counts no more. Answered by
    /// [`crate::Effect::Greet`].
    PeerConnected {
        /// Which.
        node: NodeId,
        /// Numbers the connection; unique at this node, among those of workers too.
        connection: u64,
    },
    /// A peer's hello has come. Answered by [`crate::Effect::Attached`].
    PeerAttached(Box<PeerAttached>),
    /// A peer's connection ended.
    PeerDetached {
        /// Which.
        node: NodeId,
        /// The connection that ended: an old one's end says nothing of the new one.
        connection: u64,
    },
    /// What a peer could run now. One that is not within its bounds is counted, and says nothing.
    PeerHint {
        /// Which.
        node: NodeId,
        /// What it says.
        hint: Box<Hint>,
        /// There and back, in microseconds, as measured last.
        rtt_us: u64,
    },
    /// A peer has taken a run of this home.
    PeerTaken {
        /// Which.
        node: NodeId,
        /// Which run.
        run: Run,
        /// The name of its worker that has it.
        worker: String,
    },
    /// A run at a peer has ended, and what it made is on its way here: [`Input::Ended`] follows when that is durable.
    Delivering {
        /// Which.
        node: NodeId,
        /// Which run.
        run: Run,
    },
    /// A run at a peer has saved its state, and the bytes are durable at this node. Answered by
    /// [`crate::Effect::Checkpointed`].
    PeerCheckpoint {
        /// Which.
        node: NodeId,
        /// Which run.
        run: Run,
        /// What.
        checkpoint: Box<Checkpoint>,
    },
    /// To a home this checkpoint of a run that is here is durable, or counts for nothing.
    HomeCheckpointed {
        /// Which.
        home: NodeId,
        /// Which run.
        run: Run,
        /// Which one of that run.
        number: u64,
    },
    /// A home has welcomed this node on this connection, as the executor of its runs.
    HomeAttached {
        /// Which.
        home: NodeId,
        /// The connection.
        connection: u64,
        /// Length of its leases, in milliseconds.
        lease_ms: u64,
        /// Runs of it that are here and no longer count.
        drop: Vec<Run>,
    },
    /// A home offers a run. Answered by `Taken` or `Declined` in [`crate::Effect::ToHome`].
    Offered {
        /// Which.
        home: NodeId,
        /// The connection on which it does.
        connection: u64,
        /// What.
        offer: Box<RunOffer>,
    },
    /// A home wants a run to stop.
    HomeCancel {
        /// Which.
        home: NodeId,
        /// Which run.
        run: Run,
    },
    /// To a home the ending of this run is durable, or counts for nothing.
    HomeSettled {
        /// Which.
        home: NodeId,
        /// Which run.
        run: Run,
    },
    /// A home wants jobs of it to be kept here; what they refer to is durable here, and the set is signed by the home.
    Keep {
        /// Which home.
        home: NodeId,
        /// Its set, of which this node is a custodian.
        set: Box<CustodianSet>,
        /// The same as the home has signed it.
        signed: Box<SignedCustodians>,
        /// Jobs of the home, within their bounds.
        jobs: Vec<KeepJob>,
    },
    /// A home asks which of its jobs are kept here, behind this one.
    Compare {
        /// Which home.
        home: NodeId,
        /// None: from the first on.
        after: Option<ObjectId>,
    },
    /// A home has forgotten these jobs of it.
    Forget {
        /// Which home.
        home: NodeId,
        /// Which.
        jobs: Vec<ObjectId>,
    },
    /// A custodian of this home says what is durable there.
    Kept {
        /// Which.
        node: NodeId,
        /// What it says.
        kept: Kept,
    },
    /// A custodian of this home says which of its jobs are there.
    Holding {
        /// Which.
        node: NodeId,
        /// One page of them, in order.
        page: Holding,
    },
    /// What the store knows of a job of this home that the kernel has asked about for a custodian.
    Recalled {
        /// As it was asked.
        recall: Recall,
        /// The job; none: the store does not know it.
        record: Option<Box<(Accepted, Standing)>>,
    },
    /// A custodian of a home wants to act for it; the vote is its own, and signed.
    Claimed {
        /// Which vote.
        vote: Vote,
    },
    /// A member of a set has voted for this node.
    Voted {
        /// Its vote.
        vote: Vote,
        /// The same as it has signed it.
        signed: Box<SignedVote>,
    },
    /// The regent of a home, which may be this node, says how jobs of it stand; its votes are checked, and what the jobs refer to
    /// is durable here.
    KeepTaken {
        /// Who says so: the regent.
        from: NodeId,
        /// By which right, without the votes.
        reign: Box<Reign>,
        /// Jobs of the home, within their bounds.
        jobs: Vec<KeepJob>,
    },
    /// Jobs of another home that the kernel wants to take over, or to end, as they are durable.
    Took {
        /// Whose.
        home: NodeId,
        /// Under which of its sets.
        set: u32,
        /// Those that are there.
        jobs: Vec<(Accepted, Standing)>,
    },
    /// What is durable of a job that is not in memory and of which another node says something newer; none: it is not known.
    Merge {
        /// Who says it.
        from: NodeId,
        /// What.
        told: Box<KeepJob>,
        /// The job.
        record: Option<Box<(Accepted, Standing)>>,
    },
    /// A home, or a regent of one, asks to let jobs begin whose effects are `once`.
    Grant {
        /// Who asks.
        from: NodeId,
        /// For what, within its bounds.
        grant: Grant,
    },
    /// A member of their sets answers that for jobs which this node decides.
    Granted {
        /// Who answers.
        node: NodeId,
        /// What, within its bounds.
        granted: Granted,
    },
    /// A worker takes no new runs and leaves.
    Leaving {
        /// Which.
        worker: WorkerId,
    },
    /// How a job of this home ended that the kernel has asked about; none: the store does not know it.
    Learned {
        /// Which.
        job: ObjectId,
        /// How it ended.
        end: Option<End>,
    },
    /// Another node has a job with this key.
    KeyTold {
        /// Which key.
        key: KeyId,
        /// The job.
        job: ObjectId,
        /// The hash of what was submitted: [`shoal_protocol::object::job::IdempotencyKey::body`].
        body: BlobId,
    },
    /// The oldest settled jobs of a group that the kernel has asked about, as they are durable.
    Oldest {
        /// Which group.
        group: Group,
        /// When each settled, in milliseconds since the Unix epoch, which it is, and the bytes that it refers to: oldest first.
        jobs: Vec<(u64, ObjectId, u64)>,
    },
    /// The URL of a job was called.
    Called {
        /// Which.
        job: ObjectId,
        /// As it was asked for.
        attempt: u32,
        /// What came of it.
        end: CallEnd,
    },
    /// Accept nothing new: the node stops, or its store cannot write.
    Refuse(Problem),
    /// Accept again.
    Accept,
}

/// A job that is not in memory, and what a custodian has of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recall {
    /// Which custodian.
    pub node: NodeId,
    /// Which job.
    pub job: ObjectId,
    /// The number of the set under which the custodian keeps it; none: it does not have the job.
    pub set: Option<u32>,
    /// The revision that the custodian has.
    pub revision: u64,
}

/// What came of a call to a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallEnd {
    /// The receiver has answered as it should.
    Delivered,
    /// It has not, for this reason; it may another time.
    Failed(String),
    /// It may not be called, or wants to hear no more, for this reason.
    Refused(String),
}

/// How a job ended, as far as it matters to those that run after it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct End {
    /// Its state.
    pub state: State,
    /// Its result.
    pub output: Payload,
}

/// A worker that the gateway has let in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WorkerAttached {
    /// Its id.
    pub worker: WorkerId,
    /// Numbers the connection; unique at this node.
    pub connection: u64,
    /// Its name.
    pub name: String,
    /// Whether the node itself started it.
    pub local: bool,
    /// Another number is another process, which has lost the runs of the former.
    pub incarnation: u64,
    /// What it offers.
    pub offer: Offer,
    /// Runs that it holds.
    pub runs: Vec<Run>,
}

/// A peer whose hello has come.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerAttached {
    /// Which.
    pub node: NodeId,
    /// The connection.
    pub connection: u64,
    /// Its name, as it says itself.
    pub name: String,
    /// The runs of this home's jobs that it holds, under way or ended and not yet settled.
    pub runs: Vec<Run>,
    /// There and back, in microseconds, as far as it is known.
    pub rtt_us: u64,
    /// Whether it keeps jobs of other homes.
    pub keeps: bool,
}

/// What somebody asks for.
#[derive(Debug, Clone, PartialEq)]
pub enum Command {
    /// Take these jobs. Each is accepted or refused by itself. Answered by [`crate::Reply::Receipts`].
    Submit(Vec<NewJob>),
    /// What is known of a job beyond the store: answered by [`crate::Reply::Job`], `None` when it is settled or unknown.
    Show(ObjectId),
    /// The same for many, without a check of rights: the caller filters what the principal may see.
    Describe(Vec<ObjectId>),
    /// Cancel a job. Answered by [`crate::Reply::Job`] or a problem; `NotFound` when it is not in memory, nor left to its home by
    /// this node as its regent.
    Cancel(ObjectId),
    /// Why a job that is only kept here does not go on, whoever asks. Answered by [`crate::Reply::Away`].
    WhyAway(ObjectId),
    /// Hold a job that waits. Answered as [`Command::Cancel`] is; `Conflict` when it is handed over already.
    Hold(ObjectId),
    /// Release a held job; nothing changes where it is not held. Answered as [`Command::Cancel`] is.
    Release(ObjectId),
    /// Change name, labels or priority of an unsettled job.
    Patch(ObjectId, JobPatch),
    /// Forget a settled job. The caller has read `owner`, `group` and `bytes` from its record.
    Forget {
        /// Which.
        job: ObjectId,
        /// Who submitted it.
        owner: ObjectId,
        /// Among which it is kept.
        group: Group,
        /// Bytes that it refers to: [`crate::stored_bytes`].
        bytes: u64,
    },
    /// A guest at a worker of this node has saved its state; a blob is here and held until the reply, [`crate::Reply::Done`].
    Checkpoint {
        /// Which worker says so.
        worker: WorkerId,
        /// Which run.
        run: Run,
        /// Which one of that run, from 1 on.
        number: u64,
        /// What.
        bytes: Payload,
    },
    /// The workers of this node. Answered by [`crate::Reply::Workers`].
    Workers,
    /// Change a worker. Operators only.
    PatchWorker(WorkerId, WorkerPatch),
    /// Send a worker away: its runs are lost. Operators only.
    DetachWorker(WorkerId),
    /// The peers. Answered by [`crate::Reply::Peers`].
    Peers,
    /// The jobs whose runs tie this node to another one. Answered by [`crate::Reply::Runs`].
    RunsWith(NodeId),
    /// How many jobs there are. Answered by [`crate::Reply::Load`].
    Load,
    /// Hand all jobs over to another node: nothing new is accepted from now on, and nothing is begun. Operators only. Answered by
    /// [`crate::Reply::Done`]; `Conflict` where this node acts for other homes.
    Drain {
        /// To whom.
        to: NodeId,
        /// Runs are not waited for.
        hasten: bool,
    },
    /// What is to be handed over next. Answered by [`crate::Reply::Leaving`].
    HandOver,
    /// All is handed over. Answered by [`crate::Reply::Done`].
    Drained,
    /// What these projects have and have used, or without any those that have used the most. Answered by
    /// [`crate::Reply::Shares`].
    Shares(Vec<ObjectId>),
    /// A node that leaves hands jobs over. Answered by [`crate::Reply::Inherited`] when they are durable here.
    Inherit(Box<Inheritance>),
}

/// Jobs that a node which leaves hands over to this one.
#[derive(Debug, Clone, PartialEq)]
pub struct Inheritance {
    /// The set under which they are kept.
    pub set: CustodianSet,
    /// The same, as the home has signed it.
    pub signed: SignedCustodians,
    /// This node, for the home and its set.
    pub regent: Regent,
    /// The home's vote for that.
    pub vote: SignedVote,
    /// The jobs, an array before its elements. What they refer to is here and held until the reply.
    pub jobs: Vec<HandedJob>,
}

/// A job that somebody wants to hand over.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// Minted by the edge for this node, and never used before.
    pub id: ObjectId,
    /// The W3C trace id.
    pub trace: TraceId,
    /// The place in the submitter's trace, where the request said one; its id is `trace`.
    pub traceparent: Option<Traceparent>,
    /// The function. A name has already been looked up.
    pub function: ObjectId,
    /// The number of a version; none: the current one.
    pub version: Option<u32>,
    /// The input. A blob is at this node and held until the reply.
    pub input: Payload,
    /// Arguments.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Needs beyond the function's.
    pub needs: Needs,
    /// Limits instead of the function's.
    pub limits: RunLimits,
    /// A name for people.
    pub name: String,
    /// Labels.
    pub labels: Labels,
    /// When it may run, in which order, and after which failures it is tried again.
    pub terms: Terms,
    /// It stands for these elements. Their ids are minted with its own.
    pub array: Option<Array>,
    /// Under which it is submitted, so that nothing is submitted twice.
    pub key: Option<String>,
    /// The job that it repeats.
    pub rerun_of: Option<ObjectId>,
    /// Jobs of this home that it runs after. Of those that are not in memory the edge has seen that the principal may see
    /// them.
    pub after: Vec<After>,
    /// The one of them whose result is its input.
    pub input_of: Option<ObjectId>,
    /// How many nodes must have it before it is acknowledged; none: two where another one is in reach.
    pub durability: Option<u8>,
}
