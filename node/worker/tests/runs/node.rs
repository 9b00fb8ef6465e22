//! A node as a worker sees it: real QUIC on loopback, blobs in memory, and a test that decides what it says.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use shoal_protocol::key::SecretKey;
use shoal_protocol::limits::WORKER_FRAME_LEN_MAX;
use shoal_protocol::object::function::{Grant, RunLimits};
use shoal_protocol::object::job::{Ending, Failure, Outcome, Payload, Progress};
use shoal_protocol::object::worker::Offer;
use shoal_protocol::wire::client::{BlobOpened, BlobStored, Reply};
use shoal_protocol::wire::worker::{ALPN, Answer, Ask, Attach, BlobRequest, FromWorker, Run, Start, ToWorker};
use shoal_protocol::{BlobId, Kind, NodeId, ObjectId, Problem};
use shoal_transport::{FrameReader, NodeAddr, peer_key, read_frame, server_config, server_endpoint, write_frame};
use shoal_worker::{Attachment, Config, Error, Exit, LocalFiles};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long anything may take before a test gives up.
pub const DEADLINE: Duration = Duration::from_secs(120);
const LEASE_MS: u64 = 3_000;

type Blobs = Arc<Mutex<HashMap<BlobId, Vec<u8>>>>;

pub struct Node {
    key: SecretKey,
    endpoint: quinn::Endpoint,
    pub blobs: Blobs,
    pub folder: tempfile::TempDir,
}

impl Node {
    pub fn new() -> Self {
        let key = SecretKey::from_bytes([1; 32]);
        let folder = tempfile::tempdir().unwrap();
        let file = fs::File::options().write(true).create_new(true).mode(0o600).open(folder.path().join("worker.key"));
        std::io::Write::write_all(&mut file.unwrap(), &[2; 32]).unwrap();
        let node = Self { endpoint: Self::listen(&key), key, blobs: Blobs::default(), folder };
        node.announce();
        node
    }

    fn listen(key: &SecretKey) -> quinn::Endpoint {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        server_endpoint(address, server_config(key, &[ALPN]).unwrap(), key).unwrap()
    }

    fn announce(&self) {
        let address = NodeAddr::new(self.id(), self.endpoint.local_addr().unwrap());
        let written = self.folder.path().join("address.new");
        fs::write(&written, format!("{address}\n")).unwrap();
        fs::rename(written, self.files().address).unwrap();
    }

    pub fn id(&self) -> NodeId {
        self.key.public().into()
    }

    pub fn files(&self) -> LocalFiles {
        let file = |name: &str| self.folder.path().join(name);
        LocalFiles { lock: file("worker.lock"), key: file("worker.key"), address: file("worker.address") }
    }

    /// Starts anew on another port. The endpoint of before says no goodbye, and even goes on to acknowledge packets: only
    /// the rewritten file tells the worker.
    pub fn restart(&mut self) {
        let silent = std::mem::replace(&mut self.endpoint, Self::listen(&self.key));
        // Dropping it would end its connections politely.
        std::mem::forget(silent);
        self.announce();
    }

    pub fn config(&self) -> Config {
        Config {
            name: "local".into(),
            offer: Offer { slots: 2, memory_mb: 1024, ..Offer::default() },
            cache: self.folder.path().join("cache"),
            cache_len_max: 1 << 30,
            attachment: Attachment::Local(self.files()),
            orphan_ms: 600_000,
            drain_ms: 20_000,
        }
    }

    pub fn put(&self, bytes: impl Into<Vec<u8>>) -> BlobId {
        let bytes = bytes.into();
        let id = BlobId::of(&bytes);
        self.blobs.lock().unwrap().insert(id, bytes);
        id
    }

    pub fn get(&self, payload: &Payload) -> Vec<u8> {
        match payload {
            Payload::Inline(bytes) => bytes.to_vec(),
            Payload::Blob { id, size } => {
                let bytes = self.blobs.lock().unwrap().get(id).expect("a stored blob").clone();
                assert_eq!(bytes.len() as u64, *size);
                bytes
            }
        }
    }

    /// The next worker that connects; it is not yet let in.
    pub async fn accept(&self) -> Conversation {
        timeout(DEADLINE, async {
            loop {
                let connection = match self.endpoint.accept().await.unwrap().await {
                    Ok(connection) => connection,
                    Err(_) => continue,
                };
                let Ok((send, receive)) = connection.accept_bi().await else { continue };
                let mut frames = FrameReader::new(receive, WORKER_FRAME_LEN_MAX);
                let Ok(Some(FromWorker::Attach(attach))) = frames.next().await else { continue };
                assert_eq!(peer_key(&connection), Some(attach.key));
                let serving = tokio::spawn(serve_blobs(connection.clone(), Arc::clone(&self.blobs)));
                let shown = Shown::default();
                break Conversation { connection, send, frames, attach, shown, node: self.id(), serving };
            }
        })
        .await
        .expect("a worker attaches in time")
    }

    /// The next worker, let in.
    pub async fn attached(&self) -> Conversation {
        let mut conversation = self.accept().await;
        conversation.welcome(Vec::new()).await;
        conversation
    }

    /// A worker and the conversation with it.
    pub async fn with_worker(&self) -> (Worker, Conversation) {
        let worker = Worker::spawn(self.config());
        (worker, self.attached().await)
    }
}

/// A worker in this process.
pub struct Worker {
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<Exit, Error>>,
}

impl Worker {
    pub fn spawn(config: Config) -> Self {
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(shoal_worker::run(config, async {
            // Dropped unsent: the test is over, and its runtime ends the task.
            if stopped.await.is_err() {
                std::future::pending::<()>().await;
            }
        }));
        Self { stop: Some(stop), task }
    }

    pub fn stop(&mut self) {
        self.stop.take().unwrap().send(()).unwrap();
    }

    pub async fn ended(self) -> Result<Exit, Error> {
        timeout(DEADLINE, self.task).await.expect("the worker ends in time").unwrap()
    }
}

/// What a worker said of its runs meanwhile.
#[derive(Default)]
pub struct Shown {
    pub logs: BTreeMap<Run, Vec<u8>>,
    pub progress: Vec<Progress>,
}

pub struct Conversation {
    pub connection: quinn::Connection,
    send: quinn::SendStream,
    frames: FrameReader,
    pub attach: Attach,
    pub shown: Shown,
    node: NodeId,
    serving: JoinHandle<()>,
}

impl Drop for Conversation {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Conversation {
    pub async fn welcome(&mut self, drop: Vec<Run>) {
        let (node, worker) = (self.node, ObjectId::from_bytes([9; 16]));
        self.say(ToWorker::Attached { node, worker, lease_ms: LEASE_MS, drop }).await;
    }

    pub async fn say(&mut self, message: ToWorker) {
        write_frame(&mut self.send, &message, WORKER_FRAME_LEN_MAX).await.unwrap();
    }

    /// The worker's next message, heartbeats included, logs and progress noted.
    pub async fn next(&mut self) -> FromWorker {
        let message = timeout(DEADLINE, self.frames.next::<FromWorker>()).await.expect("a message in time");
        let message = message.unwrap().expect("the worker stays");
        match &message {
            FromWorker::Log { run, offset, bytes } => {
                let log = self.shown.logs.entry(*run).or_default();
                // As the node does: what it has it ignores.
                let known = log.len() - usize::try_from(*offset).unwrap();
                log.extend_from_slice(bytes.get(known..).unwrap_or_default());
            }
            FromWorker::Progress(_, progress) => self.shown.progress.push(progress.clone()),
            _ => {}
        }
        message
    }

    pub async fn until<T>(&mut self, mut wanted: impl FnMut(FromWorker) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.next().await) {
                return found;
            }
        }
    }

    pub async fn started(&mut self, run: Run) {
        self.until(|message| (message == FromWorker::Started(run)).then_some(())).await;
    }

    pub async fn ended(&mut self, run: Run) -> Outcome {
        self.until(|message| match message {
            FromWorker::Ended(ended, outcome) if ended == run => Some(*outcome),
            _ => None,
        })
        .await
    }

    pub async fn asked(&mut self) -> (u64, Ask) {
        self.until(|message| match message {
            FromWorker::Ask { call, ask, .. } => Some((call, ask)),
            _ => None,
        })
        .await
    }

    pub async fn answer(&mut self, call: u64, answer: Reply<Answer>) {
        self.say(ToWorker::Answer { call, answer }).await;
    }

    /// Runs it and settles it.
    pub async fn run(&mut self, start: Start) -> Outcome {
        let run = start.run;
        self.say(ToWorker::Start(Box::new(start))).await;
        let outcome = self.ended(run).await;
        self.say(ToWorker::Settled(run)).await;
        outcome
    }
}

/// A run of this component, which must be a blob of the node.
pub fn start(number: u8, component: BlobId, args: &[&str]) -> Start {
    Start {
        run: Run { job: ObjectId::from_bytes([number; 16]), epoch: 1 },
        attempt: 1,
        component,
        name: "function".into(),
        args: args.iter().map(ToString::to_string).collect(),
        env: BTreeMap::new(),
        input: Payload::empty(),
        memory_mb: 64,
        limits: RunLimits { run_ms: Some(60_000), ..RunLimits::default() },
        grants: Grant::ALL.to_vec(),
        checkpoint: None,
        trace: "0af7651916cd43dd8448eb211c80319c".into(),
        traceparent: None,
    }
}

pub fn inline(bytes: &[u8]) -> Payload {
    Payload::Inline(bytes.into())
}

pub fn failure(outcome: &Outcome) -> &Failure {
    match &outcome.ending {
        Ending::Failed(failure) => failure,
        other => panic!("it did not fail: {other:?}"),
    }
}

/// A component that stands in the repository, from its module or text.
pub fn component(path: &str) -> Vec<u8> {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../tests/guests").join(path);
    let bytes = fs::read(&path).unwrap();
    let binary = wat::parse_bytes(&bytes).unwrap();
    shoal_worker::component::componentize(&binary).unwrap()
}

async fn serve_blobs(connection: quinn::Connection, blobs: Blobs) {
    while let Ok((send, receive)) = connection.accept_bi().await {
        tokio::spawn(serve_blob(send, receive, Arc::clone(&blobs)));
    }
}

/// One stream. What breaks it is the worker's to notice.
async fn serve_blob(mut send: quinn::SendStream, mut receive: quinn::RecvStream, blobs: Blobs) -> Option<()> {
    match read_frame::<BlobRequest>(&mut receive, WORKER_FRAME_LEN_MAX).await.ok()?? {
        BlobRequest::Get { id, offset, len, .. } => {
            let held = blobs.lock().unwrap().get(&id).cloned();
            let reply: Reply<BlobOpened> = match &held {
                Some(bytes) => Ok(BlobOpened { id, size: bytes.len() as u64 }),
                None => Err(Problem::new(Kind::BlobUnavailable, format!("nobody has blob {id}"))),
            };
            write_frame(&mut send, &reply, WORKER_FRAME_LEN_MAX).await.ok()?;
            let rest = held?.split_off(usize::try_from(offset).ok()?);
            let len = len.and_then(|len| usize::try_from(len).ok()).unwrap_or(rest.len());
            send.write_all(rest.get(..len).unwrap_or(&rest)).await.ok()?;
        }
        BlobRequest::Put { .. } => {
            let bytes = receive.read_to_end(1 << 30).await.ok()?;
            let (id, size) = (BlobId::of(&bytes), bytes.len() as u64);
            blobs.lock().unwrap().insert(id, bytes);
            let reply: Reply<BlobStored> = Ok(BlobStored { id, size });
            write_frame(&mut send, &reply, WORKER_FRAME_LEN_MAX).await.ok()?;
        }
    }
    send.finish().ok()
}
