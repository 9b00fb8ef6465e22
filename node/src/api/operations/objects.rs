//! The operations on jobs, workers, blobs, key-value namespaces and nodes.

use std::collections::BTreeMap;

use shoal_protocol::object::blob::{Blob, BlobPatch};
use shoal_protocol::object::job::{Accepted, AwaitEvents, Events, Job, JobPatch, Submission, Wait};
use shoal_protocol::object::kv::{Entry, Increment, Key, ListKeys, Namespace, Put, Value};
use shoal_protocol::object::node::{Drain, Draining, Node, NodePatch};
use shoal_protocol::object::worker::{NewWorker, Ticket, Worker, WorkerPatch};
use shoal_protocol::object::{Class, Page};
use shoal_protocol::wire::client::BlobStored;

use super::documents::{CURSOR, LIMIT, NAME, OWNER, created, done, json};
use super::shapes::{Stopping, SubmissionAnswer};
use super::{Content, Operation, Parameter, Part, Request, Row, Success, Values, shape};

const STATES: &[&str] =
    &["held", "blocked", "queued", "offered", "running", "succeeded", "failed", "cancelled", "timed_out", "expired"];

const JOB_FILTERS: &[Parameter] = &[
    LIMIT,
    CURSOR,
    NAME,
    OWNER,
    Parameter { name: "state", what: "Only those in this state", values: Values::One(STATES), required: false },
    Parameter {
        name: "dead",
        what: "Only the dead letters: those that have failed for good, as failed, timed_out or expired; with `false` only the others",
        values: Values::Bool,
        required: false,
    },
    Parameter {
        name: "project",
        what: "Only those of functions of this project, by id or name",
        values: Values::Text,
        required: false,
    },
    Parameter {
        name: "function",
        what: "Only those of this function, by id or name",
        values: Values::Text,
        required: false,
    },
    Parameter {
        name: "array",
        what: "In place of the jobs the elements of this array that have begun, newest first: of this node only",
        values: Values::Text,
        required: false,
    },
    Parameter {
        name: "scope",
        what: "Whose jobs: `node`, this node's, `kept`, those that it keeps for other homes, or `mesh`, those of all nodes, with the names of those that did not answer. `node` unless said otherwise",
        values: Values::One(&["node", "kept", "mesh"]),
        required: false,
    },
];

/// Where a value lives. Global unless said otherwise.
const SCOPE: Parameter = Parameter {
    name: "scope",
    what: "`global`: the value is every node's; `local`: this node's only. `global` unless said otherwise",
    values: Values::One(&["global", "local"]),
    required: false,
};

const UPLOAD: &[Parameter] = &[
    Parameter { name: "keep", what: "Keep it although nothing refers to it", values: Values::Bool, required: false },
    Parameter { name: "name", what: "A name for people", values: Values::Text, required: false },
];

const FOLLOW: &[Parameter] = &[Parameter {
    name: "follow",
    what: "Wait for more until the job has ended; server-sent events unless `Accept` asks for text/plain",
    values: Values::Bool,
    required: false,
}];

/// Where a subscriber was.
const AFTER: Parameter = Parameter {
    name: "after",
    what: "Only what came behind the event with this id; a header `Last-Event-ID` counts before it",
    values: Values::Text,
    required: false,
};

const CHANGES: &[Parameter] = &[
    AFTER,
    Parameter {
        name: "function",
        what: "Only of jobs that run this function, by id or name",
        values: Values::Text,
        required: false,
    },
    Parameter {
        name: "project",
        what: "Only of jobs whose function belongs to this project, by id or name",
        values: Values::Text,
        required: false,
    },
];

const A_FEED: &[Success] = &[Success {
    status: 200,
    what: "An event for each change of state, with an id; `missed` where there were more, `end` with the job, `error` with a problem",
    content: Content::Text("text/event-stream"),
}];

const A_JOB: &[Success] = &[json("The job", shape::<Job>)];
const A_WORKER: &[Success] = &[json("The worker", shape::<Worker>)];
const A_BLOB: &[Success] = &[json("The blob", shape::<Blob>)];
const AN_ENTRY: &[Success] = &[json("The entry", shape::<Entry>)];
const A_NODE: &[Success] = &[json("The node", shape::<Node>)];
const BYTES: &[Success] = &[
    Success { status: 200, what: "The bytes; `ETag` is their hash", content: Content::Bytes },
    Success { status: 206, what: "The range that was asked for", content: Content::Bytes },
    Success { status: 304, what: "The caller has these bytes already", content: Content::Nothing },
];

/// The operations.
pub(super) static OPERATIONS: &[Operation] = &[
    Operation::new(Class::Job, Row::List, "The jobs of this node, newest first")
        .query(JOB_FILTERS)
        .answers(&[json("A page of jobs", shape::<Page<Job>>)]),
    Operation::new(Class::Job, Row::Create, "Hand over a job, or up to 1,000 of them as an array")
        .takes(Request::Json(shape::<Submission>))
        .answers(&[Success {
            status: 202,
            what: "Durable: the id of the job, or for an array what became of each",
            content: Content::Json(shape::<SubmissionAnswer>),
        }]),
    Operation::new(Class::Job, Row::Get, "A job").answers(A_JOB),
    Operation::new(Class::Job, Row::Set, "Change a job's name, labels or priority by a merge patch")
        .takes(Request::Json(shape::<JobPatch>))
        .answers(A_JOB),
    Operation::new(Class::Job, Row::Delete, "Cancel a job that has not ended; forget one that has").answers(&[
        Success {
            status: 202,
            what: "It is being cancelled; delete it again to forget it",
            content: Content::Json(shape::<Job>),
        },
        done("It is forgotten"),
    ]),
    Operation::new(Class::Job, Row::Method("cancel"), "Cancel a job; nothing changes if it has ended").answers(A_JOB),
    Operation::new(Class::Job, Row::Method("hold"), "Hold a job that waits; a conflict if it was handed over")
        .answers(A_JOB),
    Operation::new(Class::Job, Row::Method("release"), "Release a held job").answers(A_JOB),
    Operation::new(
        Class::Job,
        Row::Method("rerun"),
        "Hand over the same job once more: its function, version, input, arguments, needs and limits",
    )
    .answers(&[Success {
        status: 202,
        what: "Durable: the id of the new job",
        content: Content::Json(shape::<Accepted>),
    }]),
    Operation::new(Class::Job, Row::Method("wait"), "Wait for a job's end, a minute at most")
        .takes(Request::OptionalJson(shape::<Wait>))
        .answers(&[json("The job: ended, or as it stands when the time is over", shape::<Job>)]),
    Operation::new(Class::Job, Row::Part(Part::Result), "The result of a job").answers(BYTES),
    Operation::new(Class::Job, Row::Part(Part::Logs), "The log of a job").query(FOLLOW).answers(&[
        Success { status: 200, what: "The log so far, or as it comes", content: Content::Text("text/plain") },
        Success { status: 200, what: "The log as it comes", content: Content::Text("text/event-stream") },
    ]),
    Operation::new(Class::Job, Row::Method("events"), "What has changed of a job behind a place, as soon as there is something")
        .takes(Request::OptionalJson(shape::<AwaitEvents>))
        .answers(&[json("The changes; none when the time is over", shape::<Events>)]),
    Operation::new(Class::Job, Row::Part(Part::Events), "Changes of a job as they come, up to its end, wherever its home is")
        .query(&[AFTER])
        .answers(A_FEED),
    Operation::new(Class::Job, Row::Feed, "Changes of the jobs of this node that the caller may see, as they come")
        .query(CHANGES)
        .answers(A_FEED),
    Operation::new(Class::Worker, Row::List, "The workers of this node")
        .query(&[LIMIT, CURSOR, NAME])
        .answers(&[json("A page of workers", shape::<Page<Worker>>)]),
    Operation::new(Class::Worker, Row::Create, "Make a ticket with which one more worker attaches")
        .takes(Request::OptionalJson(shape::<NewWorker>))
        .answers(&[created("The ticket", shape::<Ticket>)]),
    Operation::new(Class::Worker, Row::Get, "A worker").answers(A_WORKER),
    Operation::new(Class::Worker, Row::Set, "Change a worker by a merge patch")
        .takes(Request::Json(shape::<WorkerPatch>))
        .answers(A_WORKER),
    Operation::new(Class::Worker, Row::Delete, "Send a worker away; the node's own is replaced by a fresh one").answers(&[done(
        "It is gone, and its runs start again elsewhere. The node's own worker takes no new runs, ends those that it has, \
         and then a fresh process takes its place, under the same id",
    )]),
    Operation::new(Class::Worker, Row::Method("cordon"), "Give a worker no new jobs").answers(A_WORKER),
    Operation::new(Class::Worker, Row::Method("uncordon"), "Give a worker new jobs again").answers(A_WORKER),
    Operation::new(Class::Blob, Row::List, "The blobs at this node that the caller may read")
        .query(&[LIMIT, CURSOR, NAME])
        .answers(&[json("A page of blobs", shape::<Page<Blob>>)]),
    Operation::new(Class::Blob, Row::Create, "Store bytes of any length")
        .query(UPLOAD)
        .takes(Request::Bytes)
        .answers(&[created("Durable: the hash and the length", shape::<BlobStored>)]),
    Operation::new(Class::Blob, Row::Get, "What is known of a blob").answers(A_BLOB),
    Operation::new(Class::Blob, Row::Set, "Change a blob's name, or whether it is kept")
        .takes(Request::Json(shape::<BlobPatch>))
        .answers(A_BLOB),
    Operation::new(Class::Blob, Row::Delete, "Delete a blob that nothing refers to").answers(&[done("It is gone")]),
    Operation::new(Class::Blob, Row::Method("keep"), "Keep a blob although nothing refers to it").answers(A_BLOB),
    Operation::new(Class::Blob, Row::Method("release"), "Keep a blob only while something refers to it")
        .answers(A_BLOB),
    Operation::new(Class::Blob, Row::Part(Part::Content), "The bytes of a blob").answers(BYTES),
    Operation::new(Class::Kv, Row::List, "The namespaces that the caller may read")
        .query(&[LIMIT, CURSOR])
        .answers(&[json("A page of namespaces", shape::<Page<Namespace>>)]),
    Operation::new(Class::Kv, Row::Create, "Namespaces come with their owners: make a user, project or function"),
    Operation::new(Class::Kv, Row::Get, "A namespace").answers(&[json("The namespace", shape::<Namespace>)]),
    Operation::new(Class::Kv, Row::Set, "Set and remove keys, every node's, by a merge patch")
        .takes(Request::Json(shape::<BTreeMap<String, Option<Value>>>))
        .answers(&[json("The namespace", shape::<Namespace>)]),
    Operation::new(Class::Kv, Row::Delete, "Delete every key of a namespace").answers(&[done("It is empty")]),
    Operation::new(Class::Kv, Row::Method("get"), "The value of a key")
        .query(&[SCOPE])
        .takes(Request::Json(shape::<Key>))
        .answers(AN_ENTRY),
    Operation::new(Class::Kv, Row::Method("set"), "Set a key")
        .query(&[SCOPE])
        .takes(Request::Json(shape::<Put>))
        .answers(AN_ENTRY),
    Operation::new(Class::Kv, Row::Method("delete"), "Delete a key")
        .query(&[SCOPE])
        .takes(Request::Json(shape::<Key>))
        .answers(&[done("Nothing stands at the key")]),
    Operation::new(Class::Kv, Row::Method("list"), "The keys and values, by key")
        .query(&[SCOPE])
        .takes(Request::OptionalJson(shape::<ListKeys>))
        .answers(&[json("A page of entries; `next` goes into `after`", shape::<Page<Entry>>)]),
    Operation::new(Class::Kv, Row::Method("cas"), "Set a key if it has the version that the caller names; local only")
        .query(&[SCOPE])
        .takes(Request::Json(shape::<Put>))
        .answers(AN_ENTRY),
    Operation::new(Class::Kv, Row::Method("incr"), "Add to a counter")
        .query(&[SCOPE])
        .takes(Request::Json(shape::<Increment>))
        .answers(AN_ENTRY),
    Operation::new(Class::Kv, Row::Method("watch"), "Wait until a key has changed, a minute at most")
        .query(&[SCOPE])
        .takes(Request::Json(shape::<Key>))
        .answers(&[json("The entry as it stands now", shape::<Entry>), done("Nothing stands at the key")]),
    Operation::new(Class::Node, Row::List, "The nodes that this node knows, itself first")
        .query(&[LIMIT, CURSOR, NAME])
        .answers(&[json("A page of nodes", shape::<Page<Node>>)]),
    Operation::new(Class::Node, Row::Create, "Nodes come by themselves: run `shoal up` on a machine"),
    Operation::new(Class::Node, Row::Get, "A node").answers(A_NODE),
    Operation::new(Class::Node, Row::Set, "Change a node by a merge patch")
        .takes(Request::Json(shape::<NodePatch>))
        .answers(A_NODE),
    Operation::new(Class::Node, Row::Delete, "Nodes go by themselves: use the method `stop`"),
    Operation::new(Class::Node, Row::Method("drain"), "Hand over all that the node has to another one, and stop then")
        .takes(Request::Json(shape::<Drain>))
        .answers(&[Success {
            status: 202,
            what: "It takes nothing new, and hands over; how far it is stands in the node",
            content: Content::Json(shape::<Draining>),
        }]),
    Operation::new(Class::Node, Row::Method("stop"), "Stop the node in order").answers(&[Success {
        status: 202,
        what: "It takes nothing new, drains, saves and ends",
        content: Content::Json(shape::<Stopping>),
    }]),
];
