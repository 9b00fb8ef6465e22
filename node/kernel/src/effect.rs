//! What the edges do. The order of effects is the order in which they may be seen.
//!
//! Invariant: an effect other than [`Effect::Write`] leaves the node only after every `Write` that came before it is
//! durable. The runtime holds it back; the kernel only has to emit in the right order.
//!
//! What goes to a peer. [`Effect::Greet`], [`Effect::Offer`], [`Effect::ToHome`], [`Effect::Keep`] and [`Effect::ToCustodian`]
//! name its node. [`Effect::Attached`],
//! [`Effect::Cancel`], [`Effect::Settled`] and [`Effect::Detach`] go to whoever has this [`WorkerId`], which of a peer is
//! [`ObjectId::of_node`]: on its wire they are `Welcome`, `Cancel`, `Settled`, and the end of the connection.

use std::sync::Arc;

use shoal_protocol::custody::CustodianSet;
use shoal_protocol::object::function::Needs;
use shoal_protocol::object::job::{Event, Job, Reason, Receipt};
use shoal_protocol::object::project::Usage;
use shoal_protocol::object::worker::Worker;
use shoal_protocol::regency::{Regent, Vote};
use shoal_protocol::wire::custody::KeepJob;
use shoal_protocol::wire::drain::HandedJob;
use shoal_protocol::wire::peer::{PeerMessage, RunOffer};
use shoal_protocol::wire::worker::{Run, Start};
use shoal_protocol::{NodeId, ObjectId, Problem, WorkerId};

use crate::input::{Recall, RequestId};
use crate::record::{Drain, Group, Record, Reign};

/// One thing to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Journal this.
    Write(Record),
    /// Answer a request.
    Reply {
        /// The request.
        request: RequestId,
        /// The answer.
        reply: Result<Reply, Problem>,
    },
    /// Welcome a worker or a peer that has attached.
    Attached {
        /// Which.
        worker: WorkerId,
        /// Its connection.
        connection: u64,
        /// Length of its leases, in milliseconds.
        lease_ms: u64,
        /// Runs that it holds and that no longer count.
        drop: Vec<Run>,
    },
    /// Say hello to a peer, as the first thing on this connection.
    Greet {
        /// Which.
        peer: NodeId,
        /// The connection.
        connection: u64,
        /// The runs of its jobs that are here: for [`shoal_protocol::wire::peer::Hello::runs`].
        runs: Vec<Run>,
    },
    /// Offer a run to a peer, as its home.
    Offer {
        /// Which.
        peer: NodeId,
        /// What.
        offer: Box<RunOffer>,
    },
    /// Say something to a home about its runs, as their executor: `Taken`, `Declined`, `Started`, `Progress`, `Ended`,
    /// `Checkpoint` or `Heartbeat`; or as a custodian of its jobs: `Kept` or `Holding`.
    ToHome {
        /// Which.
        home: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// Send jobs of this home to one of its custodians; the edge signs the set.
    Keep {
        /// To whom.
        to: NodeId,
        /// The set under which they were accepted.
        set: Arc<CustodianSet>,
        /// Which; none: the set alone is told.
        jobs: Vec<KeepJob>,
    },
    /// Say something to a custodian of this home: `Compare` or `Forget`.
    ToCustodian {
        /// Which.
        custodian: NodeId,
        /// What.
        message: PeerMessage,
    },
    /// Ask a member of a set for its vote; the edge signs this node's own.
    Claim {
        /// Whom.
        to: NodeId,
        /// This node's vote for itself.
        vote: Vote,
    },
    /// Give a custodian this node's vote; the edge signs it.
    Voted {
        /// Whom.
        to: NodeId,
        /// The vote.
        vote: Vote,
    },
    /// Send jobs that this node has taken over to a member of their set; the edge adds this node's own vote.
    KeepTaken {
        /// To whom.
        to: NodeId,
        /// By which right.
        reign: Arc<Reign>,
        /// Which; none: the reign alone is told.
        jobs: Vec<KeepJob>,
    },
    /// Look into the store for jobs of another home that are to be taken over, or ended, and hand them in as [`crate::Input::Took`].
    Take {
        /// Whose.
        home: NodeId,
        /// Under which of its sets.
        set: u32,
        /// Which.
        jobs: Vec<ObjectId>,
    },
    /// Look into the store for a job that is not in memory and of which another node says something newer, and hand both in as
    /// [`crate::Input::Merge`].
    Merge {
        /// Who says it.
        from: NodeId,
        /// What.
        told: Box<KeepJob>,
    },
    /// Look into the store for a job of this home that a custodian shall have, and hand it in as [`crate::Input::Recalled`].
    Recall(Recall),
    /// Look for nodes that have what this job needs, beyond the peers that are attached: none of them has, or none of them
    /// has room. Repeated as long as that is so, with a pause. The needs name a label or a capability at least.
    Seek {
        /// What is needed.
        needs: Needs,
    },
    /// Connect to this node: it is away, and the home of runs that are here or of jobs that are kept here. Repeated with growing
    /// pauses.
    Reach {
        /// Which.
        node: NodeId,
    },
    /// Hand a run to a worker of this node, whoever its home is.
    Start {
        /// Which.
        worker: WorkerId,
        /// What.
        start: Box<Start>,
    },
    /// Stop a run.
    Cancel {
        /// Where.
        worker: WorkerId,
        /// Which.
        run: Run,
    },
    /// Tell a worker to forget a run: its ending is durable, or counts for nothing.
    Settled {
        /// Where.
        worker: WorkerId,
        /// Which.
        run: Run,
    },
    /// Tell a peer that a checkpoint of a run of this home is durable, or counts for nothing.
    Checkpointed {
        /// Which.
        peer: NodeId,
        /// Whose.
        run: Run,
        /// Which one of that run.
        number: u64,
    },
    /// Close a worker's or a peer's connection.
    Detach {
        /// Which.
        worker: WorkerId,
        /// Why.
        problem: Problem,
    },
    /// Something about this job changed: wake who waits for it or follows it.
    Changed {
        /// Which.
        job: ObjectId,
        /// Whether it is settled now.
        settled: bool,
    },
    /// Tell those who subscribe that this job stands otherwise.
    Told(Box<Noted>),
    /// Look into the store how this job of the home ended, and hand it in as [`crate::Input::Learned`]. It is not in memory:
    /// if it ever was, its end is durable by now.
    Learn {
        /// Which.
        job: ObjectId,
    },
    /// Call the URL of this job, which has settled; the end comes in as [`crate::Input::Called`].
    Call {
        /// Which.
        job: ObjectId,
        /// 1 for the first time.
        attempt: u32,
    },
    /// Look into the store which settled jobs of this group are the oldest, up to [`crate::SWEEP_LEN_MAX`] of them, and hand
    /// them in as [`crate::Input::Oldest`].
    Oldest {
        /// Which.
        group: Group,
        /// Those behind this one, by when it settled and its id.
        after: Option<(u64, ObjectId)>,
    },
    /// Hand in [`crate::Input::Tick`] at this time, or earlier. A later one replaces it.
    Wake {
        /// By [`crate::Now::mono_ms`].
        at_ms: u64,
    },
}

/// A change of a job's state, and who may hear of it beside its owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Noted {
    /// What subscribers are told.
    pub event: Event,
    /// Who owned the function when the job was accepted.
    pub function_owner: ObjectId,
}

/// An answer.
#[derive(Debug, Clone, PartialEq)]
pub enum Reply {
    /// One for each job of a submission, in its order.
    Receipts(Vec<Receipt>),
    /// A job in memory; none: it is settled or unknown, look into the store.
    Job(Option<Box<Job>>),
    /// Why a job of another home does not go on; none: that home is there, or the job is not kept here.
    Away(Option<Away>),
    /// Those of the asked jobs that are in memory.
    Jobs(Vec<Job>),
    /// The workers, by id.
    Workers(Vec<Worker>),
    /// One worker.
    Worker(Box<Worker>),
    /// It is done.
    Done,
    /// The load.
    Load(Load),
    /// What projects have and have used.
    Shares(Vec<Shared>),
    /// The peers, by their place among the workers.
    Peers(Vec<PeerView>),
    /// Jobs of this home whose current run is at the node, and jobs of that node of which a run is here.
    Runs {
        /// Of this home.
        placed: Vec<ObjectId>,
        /// Of that one.
        guests: Vec<ObjectId>,
        /// One of the two keeps jobs of the other.
        keeps: bool,
    },
    /// What is left of a node that leaves.
    Leaving(Box<Leaving>),
    /// These jobs are durable here, and this node's to decide.
    Inherited(Vec<ObjectId>),
}

/// Why a job of another home, which is kept here, does not go on while that is away.
#[derive(Debug, Clone, PartialEq)]
pub struct Away {
    /// In words.
    pub reason: Reason,
    /// This node acts for that home, and has left the job to it: it can be cancelled here.
    pub left: bool,
}

/// What a node has that leaves.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Leaving {
    /// To whom it goes; none: this node does not leave.
    pub drain: Option<Drain>,
    /// Some of the jobs that can be handed over now, in the order of their ids, each with the right under which the other node
    /// decides it.
    pub jobs: Vec<(Regent, HandedJob)>,
    /// Jobs that wait, these among them.
    pub waiting: u64,
    /// Jobs that run, or are on their way to their custodians.
    pub running: u64,
    /// Runs of other homes that are under way here.
    pub guests: u64,
}

/// What a project, or the owner of functions that are in none, has and has used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared {
    /// Which.
    pub group: ObjectId,
    /// What it has.
    pub usage: Usage,
}

/// A peer, as the kernel knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerView {
    /// Which.
    pub node: NodeId,
    /// Its name, as it says itself.
    pub name: String,
    /// Whether its connection stands.
    pub attached: bool,
    /// It takes no new runs.
    pub leaving: bool,
    /// Slots of the workers that it tells of.
    pub slots: u32,
    /// Of these, what is believed to be free.
    pub free_slots: u32,
    /// Runs of this home that it holds.
    pub placed: u64,
    /// Runs of its own that this node holds.
    pub guests: u64,
    /// What it declines at the moment, in its words.
    pub declining: Vec<String>,
}

/// What waits and runs at this node.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Load {
    /// Jobs that wait.
    pub waiting: u64,
    /// Jobs at a worker or a peer.
    pub running: u64,
    /// Runs of other homes that are under way here.
    pub guests: u64,
    /// Attached workers of this node.
    pub workers: u32,
    /// Slots of all attached workers.
    pub slots: u32,
}
