//! What the gateway needs of the node behind it. One implementation runs; tests put another in its place.

use std::future::Future;
use std::sync::Arc;

use shoal_kernel::{Input, WorkerAttached};
use shoal_protocol::object::job::{LogPlace, Subscription};
use shoal_protocol::wire::client::{BlobStored, Call, Reply, Welcome};
use shoal_protocol::wire::worker::{self, Run, ToWorker};
use shoal_protocol::{BlobId, ObjectId, Problem, WorkerId};
use tokio::sync::mpsc;

use crate::logs::LogBook;
use crate::runtime::Runtime;
use crate::service::{Answer, Body, ByteStream, Caller, EventStream, LogStream, Opened, Service, Upload};

/// The operations that clients and workers are offered.
pub(super) trait Backend: Clone + Send + Sync + 'static {
    /// Who holds this token.
    fn authenticate(&self, token: Option<&str>) -> Result<Caller, Problem>;
    /// The greeting for a caller.
    fn welcome(&self, caller: &Caller) -> impl Future<Output = Welcome> + Send;
    /// An operation of Table 1.
    fn call(&self, caller: &Caller, call: Call, body: Body) -> impl Future<Output = Result<Answer, Problem>> + Send;
    /// Stores a blob.
    fn put_blob(
        &self,
        caller: &Caller,
        upload: Upload,
        bytes: ByteStream,
    ) -> impl Future<Output = Result<BlobStored, Problem>> + Send;
    /// Opens a blob.
    fn open_blob(
        &self,
        caller: &Caller,
        id: BlobId,
        offset: u64,
        len: Option<u64>,
    ) -> impl Future<Output = Result<Opened, Problem>> + Send;
    /// Opens a job's result.
    fn open_result(
        &self,
        caller: &Caller,
        job: ObjectId,
        offset: u64,
    ) -> impl Future<Output = Result<Opened, Problem>> + Send;
    /// Opens a job's log behind a place.
    fn open_log(
        &self,
        caller: &Caller,
        job: ObjectId,
        from: LogPlace,
        follow: bool,
    ) -> impl Future<Output = Result<LogStream, Problem>> + Send;
    /// Subscribes to changes of jobs.
    fn subscribe(
        &self,
        caller: &Caller,
        wanted: Subscription,
    ) -> impl Future<Output = Result<EventStream, Problem>> + Send;

    /// Counts a connection of a `client` or `worker` that begins (`true`) or ends.
    fn count_connection(&self, peer: &'static str, begins: bool);
    /// Counts a peer that was cut off for what it sent.
    fn count_fault(&self, peer: &'static str);

    /// A number that no other connection has.
    fn connection_number(&self) -> u64;
    /// Registers a worker's connection and tells the kernel.
    fn attach(&self, attached: WorkerAttached, outbox: mpsc::Sender<ToWorker>) -> impl Future<Output = ()> + Send;
    /// Tells the kernel; waits while it is behind.
    fn input(&self, input: Input) -> impl Future<Output = ()> + Send;
    /// Keeps more of a running job's log.
    fn append_log(&self, run: Run, offset: u64, bytes: &[u8]);
    /// Answers a guest.
    fn ask(&self, worker: WorkerId, run: Run, ask: worker::Ask) -> impl Future<Output = Reply<worker::Answer>> + Send;
    /// Opens a blob for a guest.
    fn open_blob_for_run(
        &self,
        worker: WorkerId,
        run: Run,
        id: BlobId,
        offset: u64,
        len: Option<u64>,
    ) -> impl Future<Output = Result<Opened, Problem>> + Send;
    /// Stores a blob for a guest.
    fn put_blob_for_run(
        &self,
        worker: WorkerId,
        run: Run,
        bytes: ByteStream,
    ) -> impl Future<Output = Result<BlobStored, Problem>> + Send;
}

/// The node that runs.
#[derive(Clone)]
pub(super) struct Live {
    pub(super) service: Service,
    pub(super) runtime: Runtime,
    pub(super) logs: Arc<LogBook>,
}

impl Backend for Live {
    fn authenticate(&self, token: Option<&str>) -> Result<Caller, Problem> {
        self.service.authenticate(token)
    }

    async fn welcome(&self, caller: &Caller) -> Welcome {
        let node = self.service.node().await;
        Welcome { node: node.id, name: node.name, user: caller.principal.user }
    }

    async fn call(&self, caller: &Caller, call: Call, body: Body) -> Result<Answer, Problem> {
        self.service.call(caller, call, body).await
    }

    async fn put_blob(&self, caller: &Caller, upload: Upload, bytes: ByteStream) -> Result<BlobStored, Problem> {
        self.service.put_blob(caller, upload, bytes).await
    }

    async fn open_blob(&self, caller: &Caller, id: BlobId, offset: u64, len: Option<u64>) -> Result<Opened, Problem> {
        self.service.open_blob(caller, id, offset, len).await
    }

    async fn open_result(&self, caller: &Caller, job: ObjectId, offset: u64) -> Result<Opened, Problem> {
        self.service.open_result(caller, job, offset).await
    }

    async fn open_log(
        &self,
        caller: &Caller,
        job: ObjectId,
        from: LogPlace,
        follow: bool,
    ) -> Result<LogStream, Problem> {
        self.service.open_log(caller, job, from, follow).await
    }

    async fn subscribe(&self, caller: &Caller, wanted: Subscription) -> Result<EventStream, Problem> {
        self.service.subscribe(caller, wanted).await
    }

    fn count_connection(&self, peer: &'static str, begins: bool) {
        self.service.metrics().gateway_connection(peer, begins);
    }

    fn count_fault(&self, peer: &'static str) {
        self.service.metrics().gateway_fault(peer);
    }

    fn connection_number(&self) -> u64 {
        self.runtime.connection_number()
    }

    async fn attach(&self, attached: WorkerAttached, outbox: mpsc::Sender<ToWorker>) {
        self.runtime.attach(attached, outbox).await;
    }

    async fn input(&self, input: Input) {
        self.runtime.input(input).await;
    }

    fn append_log(&self, run: Run, offset: u64, bytes: &[u8]) {
        if self.logs.append(run, offset, bytes) {
            self.runtime.changed(run.job);
        }
    }

    async fn ask(&self, worker: WorkerId, run: Run, ask: worker::Ask) -> Reply<worker::Answer> {
        self.service.ask(worker, run, ask).await
    }

    async fn open_blob_for_run(
        &self,
        worker: WorkerId,
        run: Run,
        id: BlobId,
        offset: u64,
        len: Option<u64>,
    ) -> Result<Opened, Problem> {
        self.service.open_blob_for_run(worker, run, id, offset, len).await
    }

    async fn put_blob_for_run(&self, worker: WorkerId, run: Run, bytes: ByteStream) -> Result<BlobStored, Problem> {
        self.service.put_blob_for_run(worker, run, bytes).await
    }
}
