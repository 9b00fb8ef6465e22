//! A node behind the gateway that does what its callers' words say.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use shoal_kernel::{Input, Principal, WorkerAttached};
use shoal_protocol::object::job::{LogPlace, Subscription, Told};
use shoal_protocol::wire::client::{BlobStored, Call, Reply, Welcome};
use shoal_protocol::wire::worker::{self, Run, ToWorker};
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem, WorkerId};
use tokio::sync::{Notify, mpsc};

use super::super::backend::Backend;
use crate::service::{Answer, Body, ByteStream, Caller, EventStream, LogPiece, LogStream, Opened, Upload};

/// The token that counts, and whose it is.
pub(super) const TOKEN: &str = "token";
pub(super) const USER: ObjectId = ObjectId::MAX;

#[derive(Default)]
pub(super) struct Inner {
    pub(super) blobs: Mutex<HashMap<BlobId, Bytes>>,
    pub(super) inputs: Mutex<Vec<Input>>,
    pub(super) heard: Notify,
    pub(super) attached: Mutex<Vec<WorkerAttached>>,
    pub(super) outboxes: Mutex<Vec<mpsc::Sender<ToWorker>>>,
    pub(super) logs: Mutex<Vec<(Run, u64, Vec<u8>)>>,
    /// Calls that wait until they are let go.
    pub(super) gate: Notify,
    pub(super) under_way: AtomicU64,
    pub(super) most_under_way: AtomicU64,
    /// The token counts no more.
    pub(super) revoked: AtomicBool,
    pub(super) connections: AtomicU64,
    pub(super) faults: AtomicU64,
    numbers: AtomicU64,
}

#[derive(Clone, Default)]
pub(super) struct Stub(pub(super) Arc<Inner>);

impl Stub {
    /// Waits until the kernel has heard something like this.
    pub(super) async fn heard(&self, wanted: impl Fn(&Input) -> bool) -> Input {
        let search = async {
            loop {
                let heard = self.0.heard.notified();
                if let Some(found) = self.0.inputs.lock().expect("a list").iter().find(|input| wanted(input)) {
                    return found.clone();
                }
                heard.await;
            }
        };
        super::within(search).await
    }

    fn open(&self, id: BlobId, offset: u64) -> Result<Opened, Problem> {
        let found = self.0.blobs.lock().expect("a map").get(&id).cloned();
        let bytes = found.ok_or_else(|| Problem::new(Kind::BlobUnavailable, "no such blob"))?;
        let size = bytes.len() as u64;
        let rest = bytes.slice(offset as usize..);
        let chunks: Vec<_> = rest.chunks(10_000).map(Bytes::copy_from_slice).map(Ok).collect();
        Ok(Opened { id, size, range: offset..size, bytes: Box::pin(stream::iter(chunks)) })
    }

    async fn store(&self, mut bytes: ByteStream) -> Result<BlobStored, Problem> {
        let mut whole = Vec::new();
        while let Some(chunk) = bytes.next().await {
            match chunk {
                Ok(chunk) => whole.extend_from_slice(&chunk),
                Err(error) => return Err(Problem::new(Kind::Incomplete, error.to_string())),
            }
        }
        let (id, size) = (BlobId::of(&whole), whole.len() as u64);
        self.0.blobs.lock().expect("a map").insert(id, whole.into());
        Ok(BlobStored { id, size })
    }
}

impl Backend for Stub {
    fn authenticate(&self, token: Option<&str>) -> Result<Caller, Problem> {
        match token {
            None => Ok(Caller::ANONYMOUS),
            Some(TOKEN) if !self.0.revoked.load(Ordering::SeqCst) => {
                Ok(Caller { principal: Principal { user: Some(USER), operator: false }, ..Caller::ANONYMOUS })
            }
            Some(_) => Err(Problem::new(Kind::Unauthenticated, "this token does not count")),
        }
    }

    async fn welcome(&self, caller: &Caller) -> Welcome {
        Welcome { node: NodeId([0; 32]), name: "stub".into(), user: caller.principal.user }
    }

    /// `wait` waits for the gate, `long` answers with more than a frame takes, anything else with its body.
    async fn call(&self, _: &Caller, call: Call, body: Body) -> Result<Answer, Problem> {
        let answer = |body| Ok(Answer { status: 200, etag: None, body });
        let Call::Get { object, .. } = call else {
            return Err(Problem::new(Kind::NotApplicable, "the stub only gets"));
        };
        match object.as_str() {
            "wait" => {
                let gate = self.0.gate.notified();
                let now = self.0.under_way.fetch_add(1, Ordering::SeqCst) + 1;
                self.0.most_under_way.fetch_max(now, Ordering::SeqCst);
                gate.await;
                self.0.under_way.fetch_sub(1, Ordering::SeqCst);
                answer(vec![])
            }
            "long" => answer(vec![0; 2 * 1024 * 1024]),
            _ => answer(body.bytes.to_vec()),
        }
    }

    async fn put_blob(&self, caller: &Caller, upload: Upload, bytes: ByteStream) -> Result<BlobStored, Problem> {
        if caller.principal.user.is_none() {
            return Err(Problem::new(Kind::Unauthenticated, "uploading needs a token"));
        }
        let stored = self.store(bytes).await?;
        match upload.size {
            Some(size) if size != stored.size => Err(Problem::new(Kind::Incomplete, "another length")),
            _ => Ok(stored),
        }
    }

    async fn open_blob(&self, _: &Caller, id: BlobId, offset: u64, _: Option<u64>) -> Result<Opened, Problem> {
        self.open(id, offset)
    }

    /// A result that breaks off after its first bytes.
    async fn open_result(&self, _: &Caller, _: ObjectId, _: u64) -> Result<Opened, Problem> {
        let broken = vec![Ok(Bytes::from_static(b"half")), Err(std::io::Error::other("the disk is gone"))];
        Ok(Opened { id: BlobId::of(b""), size: 8, range: 0..8, bytes: Box::pin(stream::iter(broken)) })
    }

    /// A line, and nothing more as long as the log is followed.
    async fn open_log(&self, _: &Caller, _: ObjectId, at: LogPlace, follow: bool) -> Result<LogStream, Problem> {
        let line = stream::iter(vec![Ok(LogPiece { at, bytes: Bytes::from_static(b"line\n") })]);
        if follow { Ok(Box::pin(line.chain(stream::pending()))) } else { Ok(Box::pin(line)) }
    }

    /// One word, and nothing more.
    async fn subscribe(&self, _: &Caller, _: Subscription) -> Result<EventStream, Problem> {
        Ok(Box::pin(stream::iter([Ok(Told::Alive { id: None })])))
    }

    fn count_connection(&self, _: &'static str, begins: bool) {
        let change = if begins { 1 } else { u64::MAX };
        self.0.connections.fetch_add(change, Ordering::SeqCst);
    }

    fn count_fault(&self, _: &'static str) {
        self.0.faults.fetch_add(1, Ordering::SeqCst);
    }

    fn connection_number(&self) -> u64 {
        self.0.numbers.fetch_add(1, Ordering::SeqCst) + 1
    }

    async fn attach(&self, attached: WorkerAttached, outbox: mpsc::Sender<ToWorker>) {
        let welcome = ToWorker::Attached {
            node: NodeId([0; 32]),
            worker: attached.worker,
            lease_ms: 15_000,
            drop: attached.runs.iter().copied().filter(|run| run.epoch == 0).collect(),
        };
        outbox.send(welcome).await.expect("a session");
        self.0.attached.lock().expect("a list").push(attached);
        self.0.outboxes.lock().expect("a list").push(outbox);
    }

    async fn input(&self, input: Input) {
        self.0.inputs.lock().expect("a list").push(input);
        self.0.heard.notify_waiters();
    }

    fn append_log(&self, run: Run, offset: u64, bytes: &[u8]) {
        self.0.logs.lock().expect("a list").push((run, offset, bytes.to_vec()));
    }

    async fn ask(&self, _: WorkerId, _: Run, _: worker::Ask) -> Reply<worker::Answer> {
        Ok(worker::Answer::Entry(None))
    }

    async fn open_blob_for_run(
        &self,
        _: WorkerId,
        _: Run,
        id: BlobId,
        offset: u64,
        _: Option<u64>,
    ) -> Result<Opened, Problem> {
        self.open(id, offset)
    }

    async fn put_blob_for_run(&self, _: WorkerId, _: Run, bytes: ByteStream) -> Result<BlobStored, Problem> {
        self.store(bytes).await
    }
}
