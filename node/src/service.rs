//! The operations that both edges offer: HTTP and QUIC call the same code with the same bodies.
//!
//! An edge authenticates and decodes frames; here an operation is checked, handed to the kernel, the documents, the
//! blobs or the KV, and its answer encoded in the format that the body came in.

mod answer;
mod blob;
mod custody;
mod document;
mod drain;
mod elements;
mod events;
mod everywhere;
mod function;
mod inherit;
mod job;
mod kv;
mod life;
mod log;
mod node;
mod prefetch;
mod project;
mod remote;
mod run;
mod stream;
mod target;
mod user;
mod worker;

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::Stream;
use shoal_kernel::Principal;
use shoal_protocol::object::Class;
use shoal_protocol::wire::client::Call;
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem, Traceparent};

use crate::config::Config;
use crate::documents::Documents;
use crate::identity::Identity;
use crate::identity::token::{Operation, Rights};
use crate::logs::LogBook;
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::replication::Sets;
use crate::runtime::Runtime;
use crate::store::Store;

pub(crate) use answer::{Answer, Body, Format};
pub(crate) use blob::Door as BlobDoor;
pub(crate) use drain::Leaving;
pub(crate) use events::EventStream;
pub(crate) use kv::GlobalKv;
pub(crate) use log::{LogPiece, LogStream, framed, raw};
pub(crate) use node::{Facts as NodeFacts, Settings as NodeSettings, settings as node_settings};

/// Who calls, as the edge authenticated it, and what for.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// What the kernel decides by.
    pub(crate) principal: Principal,
    /// What the token leaves of the user's rights.
    pub(crate) rights: Rights,
    /// The place in the caller's trace, where the request says one.
    pub(crate) traceparent: Option<Traceparent>,
    /// The token, where other nodes take it, too.
    pub(crate) token: Option<Arc<str>>,
    /// The key under which a job is submitted, where the request says one beside its body.
    pub(crate) idempotency_key: Option<Arc<str>>,
}

impl Caller {
    /// Anybody.
    pub(crate) const ANONYMOUS: Self = Self {
        principal: Principal { user: None, operator: false },
        rights: Rights::ALL,
        traceparent: None,
        token: None,
        idempotency_key: None,
    };

    /// A user of whom another node says that it is them.
    pub(crate) fn of_user(user: ObjectId) -> Self {
        Self { principal: Principal { user: Some(user), operator: false }, ..Self::ANONYMOUS }
    }

    /// Refuses what the token was narrowed not to allow.
    fn check(&self, operation: Operation, class: Class) -> Result<(), Problem> {
        if self.rights.allow(operation, class) {
            return Ok(());
        }
        let detail = format!("this token does not allow to {} a {class}: it was narrowed", operation.text());
        Err(Problem::new(Kind::Forbidden, detail))
    }

    /// The user, for what needs one.
    fn user(&self) -> Result<ObjectId, Problem> {
        self.principal.user.ok_or_else(|| {
            Problem::new(
                Kind::Unauthenticated,
                "this needs a token: send it as `Authorization: Bearer …`; on the node's own machine it stands in the file `token` of the data folder",
            )
        })
    }
}

/// Bytes as they come.
pub(crate) type ByteStream = Pin<Box<dyn Stream<Item = std::io::Result<Bytes>> + Send>>;

/// Bytes that can be read.
pub(crate) struct Opened {
    /// The hash of the whole.
    pub(crate) id: BlobId,
    /// Length of the whole, in bytes.
    pub(crate) size: u64,
    /// What `bytes` are of it.
    pub(crate) range: std::ops::Range<u64>,
    /// The bytes.
    pub(crate) bytes: ByteStream,
}

/// A blob that is about to come.
#[derive(Debug, Clone, Default)]
pub(crate) struct Upload {
    /// Its length, where it is known: other lengths are refused.
    pub(crate) size: Option<u64>,
    /// Keep it although nothing refers to it.
    pub(crate) keep: bool,
    /// A name for people.
    pub(crate) name: String,
}

/// The operations, cheap to clone.
#[derive(Clone)]
pub(crate) struct Service(Arc<Parts>);

/// What the operations work on.
pub(crate) struct Parts {
    /// The kernel.
    pub(crate) runtime: Runtime,
    /// Users, projects, functions.
    pub(crate) documents: Documents,
    /// Keys that every node has.
    pub(crate) kv: GlobalKv,
    /// Bytes.
    pub(crate) blobs: shoal_blobs::Store,
    /// Live logs.
    pub(crate) logs: Arc<LogBook>,
    /// Keys and tokens.
    pub(crate) identity: Arc<Identity>,
    /// Counters.
    pub(crate) metrics: Arc<Metrics>,
    /// What was configured.
    pub(crate) config: Config,
    /// What the node says of itself.
    pub(crate) node: NodeFacts,
    /// Orders how blobs are removed.
    pub(crate) removal: BlobDoor,
    /// Other nodes.
    pub(crate) peers: Peers,
    /// What is the same at all nodes.
    pub(crate) replicas: Sets,
}

impl Service {
    /// Puts the parts together.
    pub(crate) fn new(parts: Parts) -> Self {
        Self(Arc::new(parts))
    }

    /// The bytes.
    pub(crate) fn blobs(&self) -> &shoal_blobs::Store {
        &self.0.blobs
    }

    /// Finds out who calls. No token is anybody; a token that does not count is a problem.
    pub(crate) fn authenticate(&self, token: Option<&str>) -> Result<Caller, Problem> {
        let Some(text) = token else { return Ok(Caller::ANONYMOUS) };
        let documents = &self.0.documents;
        let keys_of = |user: ObjectId| {
            documents.directory().user(user).map(|user| user.keys.keys().copied().collect()).unwrap_or_default()
        };
        let token = self.0.identity.verify_token(text, crate::runtime::now().wall_ms, keys_of)?;
        if documents.directory().user(token.user).is_none() {
            return Err(Problem::new(Kind::Unauthenticated, "the token's user is not known at this node"));
        }
        let principal = Principal { user: Some(token.user), operator: token.operator };
        let kept = token.counts_elsewhere.then(|| Arc::from(text));
        Ok(Caller { principal, rights: token.rights, token: kept, ..Caller::ANONYMOUS })
    }

    /// What the node says of itself.
    pub(crate) fn facts(&self) -> &NodeFacts {
        &self.0.node
    }

    /// The store.
    pub(crate) fn store(&self) -> &Store {
        self.0.runtime.store()
    }

    /// Whether a user's document says that this node may sign for them.
    pub(crate) fn signs_for(&self, node: NodeId, user: ObjectId) -> bool {
        self.0.documents.directory().user(user).is_some_and(|user| user.nodes.contains(&node))
    }

    /// The counters.
    pub(crate) fn metrics(&self) -> &Arc<Metrics> {
        &self.0.metrics
    }

    /// Carries out one row of Table 1: here, or at the home of the job that it is about.
    pub(crate) async fn call(&self, caller: &Caller, call: Call, body: Body) -> Result<Answer, Problem> {
        // Before it goes anywhere: another node sees the user, and not how far their token goes.
        let (operation, class) = operation_of(&call);
        caller.check(operation, class)?;
        let Some(job) = self.elsewhere(&call) else {
            return match self.regent_of(caller, &call).await? {
                Some(regent) => self.0.peers.call(regent, caller, call, body).await,
                None => self.call_here(caller, call, body).await,
            };
        };
        caller.user()?;
        match self.stands_in_for(job).await? {
            true => match self.acting_for(job, operation).await? {
                Some(regent) => self.0.peers.call(regent, caller, call, body).await,
                None => self.call_here(caller, call, body).await,
            },
            false => self.call_elsewhere(caller, job, call, body).await,
        }
    }

    /// Carries out one row of Table 1 at this node.
    pub(crate) async fn call_here(&self, caller: &Caller, call: Call, body: Body) -> Result<Answer, Problem> {
        let (operation, class) = operation_of(&call);
        caller.check(operation, class)?;
        self.check_may_change(caller, &call).await?;
        match call {
            Call::List { class, query } => self.list(caller, class, query, body.format).await,
            Call::Create { class } => self.create(caller, class, body).await,
            Call::Get { class, object } => self.get(caller, class, &object, body.format).await,
            Call::Set { class, object, if_match } => self.set(caller, class, &object, if_match, body).await,
            Call::Delete { class, object } => self.delete(caller, class, &object, body.format).await,
            Call::Method { class, object, method, query } => {
                self.method(caller, class, &object, &method, &query.filters, body).await
            }
        }
    }

    async fn list(
        &self,
        caller: &Caller,
        class: Class,
        query: shoal_protocol::object::ListQuery,
        format: Format,
    ) -> Result<Answer, Problem> {
        let page = answer::PageRequest::new(&query)?;
        match class {
            Class::User => self.list_users(caller, page, format),
            Class::Project => self.list_projects(caller, page, format),
            Class::Function => self.list_functions(caller, page, format),
            Class::Job if page.filter(everywhere::SCOPE) == Some(everywhere::MESH) => {
                self.list_jobs_everywhere(caller, query, page.limit, format).await
            }
            Class::Job => self.list_jobs(caller, page, format).await,
            Class::Worker => self.list_workers(caller, page, format).await,
            Class::Blob => self.list_blobs(caller, page, format).await,
            Class::Kv => self.list_namespaces(caller, page, format),
            Class::Node => self.list_nodes(page, format).await,
        }
    }

    async fn create(&self, caller: &Caller, class: Class, body: Body) -> Result<Answer, Problem> {
        match class {
            Class::User => self.create_user(caller, body).await,
            Class::Project => self.create_project(caller, body).await,
            Class::Function => self.deploy(caller, body).await,
            Class::Job => self.submit(caller, body).await,
            Class::Worker => self.invite_worker(caller, body).await,
            Class::Blob => self.create_blob(caller, body).await,
            Class::Kv => Err(not_applicable(
                "a KV namespace comes with its user, project or function and has its id: write to it with POST /kv/{id}/set",
            )),
            Class::Node => Err(not_applicable("a node is made by starting it: `shoal up`")),
        }
    }

    async fn get(&self, caller: &Caller, class: Class, object: &str, format: Format) -> Result<Answer, Problem> {
        match class {
            Class::User => self.show_user(caller, object, format),
            Class::Project => self.show_project(caller, object, format).await,
            Class::Function => self.show_function(caller, object, format),
            Class::Job => self.show_job(caller, object, format).await,
            Class::Worker => self.show_worker(caller, object, format).await,
            Class::Blob => self.show_blob(caller, object, format).await,
            Class::Kv => self.show_namespace(caller, object, format),
            Class::Node => self.show_node(object, format).await,
        }
    }

    async fn set(
        &self,
        caller: &Caller,
        class: Class,
        object: &str,
        if_match: Option<String>,
        body: Body,
    ) -> Result<Answer, Problem> {
        if let Some(expected) = if_match {
            let current = self.get(caller, class, object, body.format).await?;
            if expected != "*" && current.etag.as_deref() != Some(expected.trim_matches('"')) {
                return Err(Problem::new(
                    Kind::PreconditionFailed,
                    format!(
                        "the object's ETag is {}, not {expected}: read it again",
                        current.etag.as_deref().unwrap_or("unknown")
                    ),
                ));
            }
        }
        match class {
            Class::User => self.set_user(caller, object, body).await,
            Class::Project => self.set_project(caller, object, body).await,
            Class::Function => self.set_function(caller, object, body).await,
            Class::Job => self.set_job(caller, object, body).await,
            Class::Worker => self.set_worker(caller, object, body).await,
            Class::Blob => self.set_blob(caller, object, body).await,
            Class::Kv => self.set_namespace(caller, object, body).await,
            Class::Node => self.set_node(caller, object, body).await,
        }
    }

    async fn delete(&self, caller: &Caller, class: Class, object: &str, format: Format) -> Result<Answer, Problem> {
        match class {
            Class::User | Class::Project | Class::Function => self.delete_document(caller, class, object).await,
            Class::Job => self.delete_job(caller, object, format).await,
            Class::Worker => self.delete_worker(caller, object).await,
            Class::Blob => self.delete_blob(caller, object).await,
            Class::Kv => self.clear_namespace(caller, object).await,
            Class::Node => Err(not_applicable("a node ends with POST /node/{id}/stop, or with SIGTERM")),
        }
    }

    async fn method(
        &self,
        caller: &Caller,
        class: Class,
        object: &str,
        method: &str,
        query: &BTreeMap<String, String>,
        body: Body,
    ) -> Result<Answer, Problem> {
        match (class, method) {
            (Class::User | Class::Project | Class::Function, "prepare") => {
                self.prepare(caller, class, object, query, body).await
            }
            (Class::User | Class::Project | Class::Function, "apply") => self.apply(caller, class, object, body).await,
            (Class::User, "add_key") => self.add_key(caller, object, body).await,
            (Class::Project, "add_member") => self.add_member(caller, object, body).await,
            (Class::Project, "remove_member") => self.remove_member(caller, object, body).await,
            (Class::Function, "activate") => self.activate(caller, object, body).await,
            (Class::Job, "cancel") => self.cancel_job(caller, object, body.format).await,
            (Class::Job, "hold") => self.hold_job(caller, object, true, body.format).await,
            (Class::Job, "release") => self.hold_job(caller, object, false, body.format).await,
            (Class::Job, "rerun") => self.rerun_job(caller, object, body.format).await,
            (Class::Job, "wait") => self.wait_job(caller, object, body).await,
            (Class::Job, events::METHOD) => self.job_events(caller, object, body).await,
            (Class::Worker, "cordon") => self.cordon(caller, object, true, body.format).await,
            (Class::Worker, "uncordon") => self.cordon(caller, object, false, body.format).await,
            (Class::Blob, "keep") => self.keep_blob(caller, object, true, body.format).await,
            (Class::Blob, "release") => self.keep_blob(caller, object, false, body.format).await,
            (Class::Kv, _) => self.kv_method(caller, object, method, query, body).await,
            (Class::Node, "drain") => self.drain_node(caller, object, body).await,
            (Class::Node, "stop") => self.stop_node(caller, object, body.format),
            _ => Err(Problem::new(Kind::UnknownMethod, format!("a {class} has no method {method:?}"))),
        }
    }
}

/// What a call does to which class, as tokens name it.
fn operation_of(call: &Call) -> (Operation, Class) {
    match call {
        Call::List { class, .. } | Call::Get { class, .. } => (Operation::Read, *class),
        Call::Create { class } | Call::Set { class, .. } | Call::Delete { class, .. } => (Operation::Write, *class),
        Call::Method { class, method, .. } => {
            let reads = matches!(method.as_str(), "wait" | "get" | "list" | "watch" | "prepare" | events::METHOD);
            (if reads { Operation::Read } else { Operation::Write }, *class)
        }
    }
}

fn not_applicable(detail: &str) -> Problem {
    Problem::new(Kind::NotApplicable, detail)
}

#[cfg(test)]
mod tests;
