//! Clients that ask much of a node that is recorded, and what it has promised them when.

use std::fmt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use futures_util::stream::{self, StreamExt as _, TryStreamExt as _};
use shoal_client::Client;
use shoal_protocol::object::function::{Grant, NewFunction};
use shoal_protocol::object::job::{Input, Submit};
use shoal_protocol::object::kv::{Scope, Value};
use shoal_protocol::object::worker::NewWorker;
use shoal_protocol::{BlobId, ObjectId};

use super::PATIENCE;
use super::record::Tape;
use crate::Node;

/// Does what its arguments say: here it returns its input, or a pattern.
const FUNCTION: &[u8] = include_bytes!("../../../tests/guests/probe/probe.wasm");
/// Its name.
pub(super) const NAME: &str = "probe";
/// No blob is longer, in bytes.
pub(super) const BLOB_LEN_MAX: usize = 512 * 1024;
/// Lengths of blobs, in bytes: within the database of blobs, with hashes there, and with files for both.
const BLOB_LENS: [usize; 4] = [3_000, 20 * 1024, 100 * 1024, 400 * 1024];
/// Requests that are under way at once.
const AT_ONCE: usize = 6;

/// Something that a client was told.
#[derive(Debug, Clone)]
pub(super) enum Promised {
    Job { id: ObjectId, input: BlobId },
    Settled { id: ObjectId, result: BlobId },
    Blob { id: BlobId },
    Key { user: ObjectId, key: String, number: u64 },
}

/// When it was told that.
#[derive(Debug, Clone)]
pub(super) struct Promise {
    /// How many events there were when the client had heard it: what it rests on is among them.
    pub(super) at: usize,
    pub(super) what: Promised,
}

/// How many of each kind.
#[derive(Debug, Default)]
pub(super) struct Counts {
    jobs: usize,
    settled: usize,
    blobs: usize,
    keys: usize,
}

impl Counts {
    pub(super) fn of(promises: &[Promise]) -> Self {
        let mut counts = Self::default();
        for promise in promises {
            *match promise.what {
                Promised::Job { .. } => &mut counts.jobs,
                Promised::Settled { .. } => &mut counts.settled,
                Promised::Blob { .. } => &mut counts.blobs,
                Promised::Key { .. } => &mut counts.keys,
            } += 1;
        }
        counts
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { jobs, settled, blobs, keys } = self;
        write!(f, "{jobs} jobs, {settled} results, {blobs} blobs, {keys} keys")
    }
}

/// The clients.
pub(super) struct Load {
    tape: Arc<Tape>,
    promises: Mutex<Vec<Promise>>,
    asked: usize,
    user: ObjectId,
}

/// A worker that is not recorded. Dropped, it is gone.
struct Worker {
    process: Child,
    _folder: tempfile::TempDir,
}

impl Load {
    /// Deploys the function.
    pub(super) async fn begin(node: &Node, tape: &Arc<Tape>) -> anyhow::Result<Self> {
        let client = node.client().await?;
        let user = client.welcome().user.context("the operator's token names no user")?;
        let component = client.put_bytes(FUNCTION, true, NAME).await?.id;
        let first = Promise { at: tape.len(), what: Promised::Blob { id: component } };
        client
            .deploy(&NewFunction { grants: [Grant::Blob, Grant::Kv].into(), ..NewFunction::new(NAME, component) })
            .await?;
        client.close().await;
        Ok(Self { tape: Arc::clone(tape), promises: Mutex::new(vec![first]), asked: 0, user })
    }

    /// Submits so many jobs, puts blobs and sets keys, and waits for most of the jobs.
    pub(super) async fn ask(&mut self, node: &Node, jobs: usize) -> anyhow::Result<()> {
        let client = node.client().await?;
        // One for each life of the node, whose address is another one then.
        let _worker = Worker::attach(node, &client).await?;
        let first = self.asked;
        self.asked += jobs;
        let asks = (first..self.asked).map(|count| self.one(&client, count));
        stream::iter(asks).buffer_unordered(AT_ONCE).try_collect::<()>().await?;
        client.close().await;
        Ok(())
    }

    /// What was promised, in the order of time.
    pub(super) fn promises(&self) -> Vec<Promise> {
        let mut promises = std::mem::take(&mut *self.locked());
        promises.sort_by_key(|promise| promise.at);
        promises
    }

    async fn one(&self, client: &Client, count: usize) -> anyhow::Result<()> {
        let text = format!("{count} ");
        let (submit, input, result) = match count % 3 {
            0 => {
                let bytes = bytes(&text, 64 + count * 13 % 4000);
                let id = BlobId::of(&bytes);
                (Submit { input: Input::Bytes(bytes.into()), ..Submit::default() }, id, id)
            }
            1 => {
                let len = BLOB_LENS.get(count / 3 % BLOB_LENS.len()).copied().unwrap_or(1);
                let id = client.put_bytes(&bytes(&text, len + count), count.is_multiple_of(2), "").await?.id;
                self.promised(Promised::Blob { id });
                (Submit { input: Input::Blob(id), ..Submit::default() }, id, id)
            }
            _ => {
                let len = 20 * 1024 + count;
                let pattern: Vec<u8> = (0..len as u64).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect();
                let args = vec!["blob".into(), len.to_string()];
                (Submit { args, ..Submit::default() }, BlobId::of(b""), BlobId::of(&pattern))
            }
        };
        let id = client.submit(&Submit { function: NAME.into(), ..submit }).await?;
        self.promised(Promised::Job { id, input });
        if count % 5 == 4 {
            // Nobody waits for this one.
            return Ok(());
        }
        let (key, number) = (format!("key-{}", count % 7), count as u64);
        client.kv_set(self.user, Scope::Local, &format!("{key}-{count}"), Value::Text(number.to_string())).await?;
        self.promised(Promised::Key { user: self.user, key: format!("{key}-{count}"), number });
        let job = client.wait(id, Some(PATIENCE), false).await?;
        anyhow::ensure!(job.state.text() == "succeeded", "a job is {}: {:?}", job.state.text(), job.failure);
        self.promised(Promised::Settled { id, result });
        Ok(())
    }

    fn promised(&self, what: Promised) {
        // Counted at once: every event from here on is one that the promise cannot rest on.
        let at = self.tape.len();
        self.locked().push(Promise { at, what });
    }

    fn locked(&self) -> MutexGuard<'_, Vec<Promise>> {
        self.promises.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    async fn attach(node: &Node, client: &Client) -> anyhow::Result<Self> {
        let wanted = NewWorker { name: "unseen".into(), valid_ms: None };
        let ticket = client.new_worker(&wanted).await?.ticket;
        let folder = tempfile::tempdir()?;
        let process = Command::new(node.program())
            .args(["worker", "--ticket", &ticket, "--slots", "2"])
            .envs(["XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME"].map(|name| (name, folder.path())))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Self { process, _folder: folder })
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

fn bytes(first: &str, len: usize) -> Vec<u8> {
    let mut bytes = first.as_bytes().to_vec();
    bytes.extend((bytes.len()..len).map(|place| (place % 251) as u8));
    bytes
}
