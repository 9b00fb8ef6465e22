//! The operations over a real store, kernel, documents and blobs; tests play the worker.

mod blobs;
mod checkpoints;
mod documents;
mod events;
mod health;
mod jobs;
mod kv;
mod settled;

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_kernel::{Input, Principal, WorkerAttached};
use shoal_protocol::key::SecretKey;
use shoal_protocol::object::Class;
use shoal_protocol::object::function::{Function, Grant, NewFunction};
use shoal_protocol::object::job::{Accepted, Ending, Job, Outcome, Payload, Submit, Usage};
use shoal_protocol::object::node::Mesh;
use shoal_protocol::object::user::{NewUser, User};
use shoal_protocol::object::worker::Offer;
use shoal_protocol::wire::client::Call;
use shoal_protocol::wire::worker::{Start, ToWorker};
use shoal_protocol::{BlobId, ObjectId, Problem, WorkerId, codec};
use tokio::sync::{Notify, mpsc};

use super::*;
use crate::config::{Listen, LogFormat, MeshConfig};
use crate::runtime::{Started, current_runs};
use crate::store::Store;

/// How long anything may take before a test fails.
const PATIENCE: Duration = Duration::from_secs(60);
const COMPONENT: &[u8] = include_bytes!("../../functions/digest/digest.wasm");

async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

/// A node without its edges.
struct World {
    service: Service,
    runtime: Runtime,
    /// Its operator.
    operator: Caller,
    _folder: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        Self::keeping(Default::default()).await
    }

    /// One that keeps these settled jobs.
    async fn keeping(keep: shoal_kernel::Retention) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = Config { keep, ..config(folder.path()) };
        let identity = Arc::new(Identity::open(&config.data).unwrap());
        let metrics = Arc::new(Metrics::new());
        let (store, _threads) = Store::open(&config.data, u64::MAX, Box::new(|_, _, _| {})).unwrap();
        let (mesh, key) = identity.mesh();
        let (documents, _thread) = Documents::open(key, store.clone()).unwrap();
        let user = crate::node::found_operator(&identity, &documents).await.unwrap();
        let blobs = shoal_blobs::Store::open(&config.data.join("blobs"), Default::default()).await.unwrap();
        let logs = Arc::new(LogBook::new(current_runs(store.clone())));
        let known = Box::new(documents.known());
        let kernel = shoal_kernel::Config { retention: config.keep, ..shoal_kernel::Config::new(identity.node_id()) };
        let Started { runtime, .. } = Runtime::start(kernel, store, known, metrics.clone(), logs.clone()).unwrap();
        documents.connect(runtime.clone());
        let kv = GlobalKv::open(key, runtime.clone(), documents.clone()).unwrap();
        let node = NodeFacts {
            mesh: Mesh { name: mesh.into(), key, open: true },
            gateway: String::new(),
            http: String::new(),
            started_ms: 0,
            settings: RwLock::default(),
            stopping: AtomicBool::new(false),
            stop: Arc::new(Notify::new()),
            replace_worker: None,
        };
        let removal = BlobDoor::default();
        let peers = Peers::new(crate::node::start_mesh(&config, &identity).await.unwrap().0, None, metrics.clone());
        let replicas = Sets::new(documents.clone(), kv.clone());
        let parts = Parts {
            runtime: runtime.clone(),
            documents,
            kv,
            blobs,
            logs,
            identity,
            metrics,
            config,
            node,
            removal,
            peers,
            replicas,
        };
        let principal = Principal { user: Some(user), operator: true };
        let operator = Caller { principal, ..Caller::ANONYMOUS };
        Self { service: Service::new(parts), runtime, operator, _folder: folder }
    }

    /// Somebody else, for whom the node signs.
    async fn user(&self, name: &str) -> Caller {
        let new = NewUser { name: name.into(), ..NewUser::default() };
        let user: User = self.call(&self.operator, Call::Create { class: Class::User }, &new).await.unwrap();
        Caller { principal: Principal { user: Some(user.id), operator: false }, ..Caller::ANONYMOUS }
    }

    async fn call<T: DeserializeOwned>(
        &self,
        caller: &Caller,
        call: Call,
        body: &impl Serialize,
    ) -> Result<T, Problem> {
        let body = Body { format: Format::Cbor, bytes: codec::encode(body).into() };
        let answer = within(self.service.call(caller, call, body)).await?;
        Ok(codec::decode(&answer.body).expect("the answer that was expected"))
    }

    /// A call that answers nothing.
    async fn tell(&self, caller: &Caller, call: Call, body: &impl Serialize) -> Result<(), Problem> {
        let body = Body { format: Format::Cbor, bytes: codec::encode(body).into() };
        within(self.service.call(caller, call, body)).await.map(drop)
    }

    async fn put(&self, caller: &Caller, bytes: &[u8]) -> BlobId {
        let bytes = stream::once(Bytes::copy_from_slice(bytes));
        within(self.service.put_blob(caller, Upload::default(), bytes)).await.unwrap().id
    }

    async fn read(&self, caller: &Caller, id: BlobId) -> Result<Bytes, Problem> {
        let opened = within(self.service.open_blob(caller, id, 0, None)).await?;
        Ok(all(opened.bytes).await)
    }

    async fn deploy(&self, name: &str) -> Function {
        let new = self.new_function(name).await;
        self.call(&self.operator, Call::Create { class: Class::Function }, &new).await.unwrap()
    }

    async fn new_function(&self, name: &str) -> NewFunction {
        let component = self.put(&self.operator, COMPONENT).await;
        let grants: BTreeSet<Grant> = [Grant::Blob, Grant::Kv].into();
        NewFunction { grants, ..NewFunction::new(name, component) }
    }

    async fn submit(&self, caller: &Caller, function: &str, input: shoal_protocol::object::job::Input) -> ObjectId {
        let submit = Submit { function: function.into(), input, ..Submit::default() };
        let accepted: Accepted = self.call(caller, Call::Create { class: Class::Job }, &submit).await.unwrap();
        accepted.id
    }

    async fn job(&self, caller: &Caller, id: ObjectId) -> Result<Job, Problem> {
        self.call(caller, Call::Get { class: Class::Job, object: id.to_string() }, &()).await
    }

    /// Waits until a job has settled.
    async fn settled(&self, id: ObjectId) -> Job {
        self.call(&self.operator, method(Class::Job, id, "wait"), &serde_json::json!({})).await.unwrap()
    }
}

fn method(class: Class, object: impl ToString, method: &str) -> Call {
    Call::Method { class, object: object.to_string(), method: method.into(), query: Default::default() }
}

fn config(folder: &std::path::Path) -> Config {
    let listen = Listen { address: ([127, 0, 0, 1], 0).into(), any_port: true };
    Config {
        data: folder.to_owned(),
        name: "test".into(),
        labels: Default::default(),
        gateway: listen,
        http: listen,
        slots: 1,
        memory_mb: 1024,
        jobs_mb: 64,
        journal_mb: 256,
        worker: false,
        blob_grace_ms: 0,
        keep: Default::default(),
        takeover_after_ms: 60_000,
        log: LogFormat::Text,
        mesh: MeshConfig {
            listen,
            join: Vec::new(),
            invited_to: Vec::new(),
            direct: None,
            mdns: false,
            view: 4,
            dht_k: 4,
            hole_punching: false,
        },
    }
}

async fn all(mut bytes: ByteStream) -> Bytes {
    let mut whole = Vec::new();
    while let Some(chunk) = within(bytes.next()).await {
        whole.extend_from_slice(&chunk.unwrap());
    }
    whole.into()
}

/// An attached worker, whose runs end as the test says.
struct Worker {
    runtime: Runtime,
    id: WorkerId,
    hears: mpsc::Receiver<ToWorker>,
}

impl Worker {
    async fn attach(world: &World) -> Self {
        let id = ObjectId::from_parts(1, 1, SecretKey::from_bytes([8; 32]).public().tag());
        let (outbox, hears) = mpsc::channel(64);
        let offer = Offer { slots: 4, memory_mb: 4096, ..Offer::default() };
        let attached = WorkerAttached {
            worker: id,
            connection: world.runtime.connection_number(),
            name: "w".into(),
            local: true,
            incarnation: 1,
            offer,
            runs: Vec::new(),
        };
        world.runtime.attach(attached, outbox).await;
        Self { runtime: world.runtime.clone(), id, hears }
    }

    /// Waits until it is given a run.
    async fn start(&mut self) -> Start {
        loop {
            match within(self.hears.recv()).await.expect("the node goes on") {
                ToWorker::Start(start) => return *start,
                _ => continue,
            }
        }
    }

    /// Ends a run with this result and log.
    async fn end(&self, start: &Start, output: &[u8], log: &[u8]) {
        self.ends(start, Payload::Inline(output.into()), Payload::Inline(log.into())).await;
    }

    /// Ends a run with this result.
    async fn end_with(&self, start: &Start, output: Payload) {
        self.ends(start, output, Payload::empty()).await;
    }

    async fn ends(&self, start: &Start, output: Payload, log: Payload) {
        let outcome = Outcome {
            ending: Ending::Succeeded,
            exit_code: None,
            output,
            log,
            log_dropped: 0,
            usage: Usage::default(),
        };
        self.runtime.input(Input::Ended { worker: self.id, run: start.run, outcome: Box::new(outcome) }).await;
    }
}
