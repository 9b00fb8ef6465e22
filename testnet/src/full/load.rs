//! Clients that submit jobs and put blobs and keys at a node whose disks are full from time to time, and what became of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::stream::{self, StreamExt as _};
use shoal_client::{Client, Error};
use shoal_protocol::object::function::{Grant, NewFunction};
use shoal_protocol::object::job::{Input, State, Submit};
use shoal_protocol::object::kv::{Scope, Value};
use shoal_protocol::{BlobId, Kind, ObjectId};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval};

use super::{LOOK_EVERY, PATIENCE};
use crate::Node;

/// Does what its arguments say: here it returns its input, or a pattern.
const FUNCTION: &[u8] = include_bytes!("../../../tests/guests/probe/probe.wasm");
const NAME: &str = "probe";
/// Blobs and results from this length on: above 16 KiB they are no part of a job's record.
const LARGE_LEN: usize = 20 * 1024;
/// They are all different, up to this number of them.
const LARGE_KINDS: usize = 10_000;
/// Each client asks at most this often. Why so seldom: what is waiting at the end has to be run and read as well.
const ASK_EVERY: Duration = Duration::from_millis(20);
/// Jobs that are asked about at once.
const AT_ONCE: usize = 32;
/// How long all jobs together may take to settle in the end.
const SETTLE_MAX: Duration = Duration::from_secs(180);
/// What the report names of what is wrong.
const NAMED_MAX: usize = 3;

/// All clients.
pub(super) struct Load {
    seen: Arc<Mutex<Seen>>,
    stop: watch::Sender<bool>,
    clients: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Default)]
struct Seen {
    jobs: Vec<(ObjectId, BlobId)>,
    blobs: Vec<BlobId>,
    /// The last number that was acknowledged under each client's key.
    keys: Vec<(String, u64)>,
    refusals: Refusals,
    unclear: Wrong,
    /// When a request of each kind was last taken that was made then.
    taken: [Option<Instant>; KINDS],
}

/// How many requests were refused since there is no room.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Refusals {
    pub(super) jobs: u64,
    pub(super) blobs: u64,
    pub(super) keys: u64,
}

impl Refusals {
    pub(super) fn all(&self) -> u64 {
        self.jobs + self.blobs + self.keys
    }
}

/// Kinds of requests: job, blob, key.
const KINDS: usize = 3;
const JOB: usize = 0;
const BLOB: usize = 1;
const KEY: usize = 2;

/// What is not as it must be.
#[derive(Debug, Default)]
pub(super) struct Wrong {
    pub(super) count: usize,
    /// The first few, in words.
    pub(super) first: Vec<String>,
}

impl Wrong {
    fn add(&mut self, text: String) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(text);
        }
    }
}

/// What became of what was acknowledged.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) jobs: usize,
    pub(super) blobs: usize,
    pub(super) keys: usize,
    pub(super) unclear: Wrong,
    pub(super) lost: Wrong,
    pub(super) failed: Wrong,
    pub(super) attempts: u64,
    pub(super) counts: String,
    pub(super) add_up: bool,
}

impl Load {
    /// Deploys the function, and lets so many clients ask.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(super) async fn begin(node: &Node, clients: usize) -> anyhow::Result<Self> {
        let client = node.client().await?;
        let component = client.put_bytes(FUNCTION, true, NAME).await?.id;
        let grants = [Grant::Blob, Grant::Kv].into();
        client.deploy(&NewFunction { grants, ..NewFunction::new(NAME, component) }).await?;
        let user = client.welcome().user.context("the operator's token names no user")?;
        let (stop, seen) = (watch::Sender::new(false), Arc::<Mutex<Seen>>::default());
        let mut asking = Vec::with_capacity(clients);
        for number in 0..clients {
            locked(&seen).keys.push((format!("client-{number}"), 0));
            let asker = Asker { number, user, client: node.client().await?, seen: Arc::clone(&seen) };
            asking.push(tokio::spawn(asker.run(stop.subscribe())));
        }
        Ok(Self { seen, stop, clients: Mutex::new(asking) })
    }

    pub(super) fn refusals(&self) -> Refusals {
        locked(&self.seen).refusals
    }

    /// Waits until of each kind a request was taken that was made after this moment.
    ///
    /// # Errors
    /// When that is not so before the deadline.
    pub(super) async fn all_taken_since(&self, moment: Instant, deadline: Instant) -> anyhow::Result<()> {
        while !locked(&self.seen).taken.iter().all(|taken| taken.is_some_and(|taken| taken >= moment)) {
            ensure!(Instant::now() < deadline, "it does not recover");
            tokio::time::sleep(LOOK_EVERY).await;
        }
        Ok(())
    }

    /// Lets the clients end what they have begun.
    pub(super) async fn stop(&self) {
        self.stop.send_replace(true);
        let clients = std::mem::take(&mut *self.clients.lock().unwrap_or_else(PoisonError::into_inner));
        for client in clients {
            drop(client.await);
        }
    }

    /// Waits until all jobs have ended, and looks how, and at what was put.
    ///
    /// # Errors
    /// When the node does not answer, or nothing was acknowledged.
    pub(super) async fn check(&self, node: &Node) -> anyhow::Result<Outcome> {
        let Seen { jobs, blobs, keys, unclear, .. } = std::mem::take(&mut *locked(&self.seen));
        ensure!(!jobs.is_empty() && !blobs.is_empty(), "nothing was acknowledged");
        let client = node.client().await?;
        let mut outcome = Outcome { jobs: jobs.len(), blobs: blobs.len(), unclear, ..Outcome::default() };
        let deadline = Instant::now() + SETTLE_MAX;
        let asked = jobs.iter().map(|(id, result)| async { (*id, ended(&client, *id, *result, deadline).await) });
        let mut asked = stream::iter(asked).buffer_unordered(AT_ONCE);
        while let Some((id, ended)) = asked.next().await {
            match ended {
                Ok(Ended { attempts, failure }) => {
                    outcome.attempts += u64::from(attempts);
                    if let Some(failure) = failure {
                        outcome.failed.add(format!("{id}: {failure}"));
                    }
                }
                Err(error) => outcome.lost.add(format!("{id}: {error:#}")),
            }
        }
        for id in blobs {
            // The client checks the hash.
            if let Err(error) = read(&client, id).await {
                outcome.lost.add(format!("blob {id}: {error}"));
            }
        }
        let user = client.welcome().user.context("the operator's token names no user")?;
        for (key, number) in keys.into_iter().filter(|(_, number)| *number > 0) {
            outcome.keys += 1;
            let found = client.kv_get(user, Scope::Local, &key).await.map(|entry| entry.value);
            // The one after it may have been written although it was refused in the end: nobody was promised anything.
            let right = [number, number + 1].map(|number| Value::Text(number.to_string()));
            if !found.as_ref().is_ok_and(|found| right.contains(found)) {
                outcome.lost.add(format!("{key} holds {found:?}, not {number}"));
            }
        }
        (outcome.counts, outcome.add_up) = counts(&client, deadline).await?;
        Ok(outcome)
    }
}

async fn read(client: &Client, id: BlobId) -> Result<Vec<u8>, Error> {
    client.get_blob(id, 0, None).await?.into_vec(LARGE_LEN + LARGE_KINDS).await
}

/// How a job has ended.
struct Ended {
    attempts: u32,
    failure: Option<String>,
}

async fn ended(client: &Client, id: ObjectId, result: BlobId, deadline: Instant) -> anyhow::Result<Ended> {
    let left = deadline.saturating_duration_since(Instant::now());
    let shown = client.wait(id, Some(left), true).await?;
    ensure!(shown.state.is_settled(), "is {}", shown.state.text());
    if shown.state != State::Succeeded {
        let failure = Some(format!("is {}: {:?}", shown.state.text(), shown.failure));
        return Ok(Ended { attempts: shown.attempts_total, failure });
    }
    let bytes = client.result_bytes(id, LARGE_LEN + LARGE_KINDS).await?;
    ensure!(BlobId::of(&bytes) == result, "has another result than its input asks for");
    Ok(Ended { attempts: shown.attempts_total, failure: None })
}

/// What the node counts once nothing is left to do.
async fn counts(client: &Client, deadline: Instant) -> anyhow::Result<(String, bool)> {
    loop {
        let jobs = client.node().await?.jobs.context("the node says nothing of its jobs")?;
        if jobs.waiting + jobs.running == 0 || Instant::now() >= deadline {
            let add_up = jobs.waiting + jobs.running == 0 && jobs.accepted == jobs.settled + jobs.swept;
            return Ok((format!("{} of {} settled", jobs.settled, jobs.accepted), add_up));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// One client.
struct Asker {
    number: usize,
    user: ObjectId,
    client: Client,
    seen: Arc<Mutex<Seen>>,
}

impl Asker {
    async fn run(self, mut stop: watch::Receiver<bool>) {
        let mut every = interval(ASK_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for count in 0u64.. {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                _ = every.tick() => {}
            }
            match count % 5 {
                0 => self.inline(count, 32).await,
                1 => self.inline(count, 4096).await,
                2 => self.large_input(count).await,
                3 => self.large_result(count).await,
                _ => self.key().await,
            }
        }
    }

    /// A job with its input in its record, which is its result.
    async fn inline(&self, count: u64, len: usize) {
        let bytes = self.bytes(count, len);
        let result = BlobId::of(&bytes);
        let job = Submit { input: Input::Bytes(bytes.into()), ..Submit::default() };
        self.submit(job, result).await;
    }

    /// A blob, and a job over it, which gives it back.
    async fn large_input(&self, count: u64) {
        let asked = Instant::now();
        let bytes = self.bytes(count, self.large_len(count));
        let stored = self.answered(BLOB, asked, self.client.put_bytes(&bytes, true, "")).await;
        let Some(id) = stored.map(|stored| stored.id) else { return };
        locked(&self.seen).blobs.push(id);
        self.submit(Submit { input: Input::Blob(id), ..Submit::default() }, id).await;
    }

    /// A job whose result is long.
    async fn large_result(&self, count: u64) {
        let len = self.large_len(count);
        let bytes: Vec<u8> = (0..len as u64).map(|place| (place ^ (place >> 8) ^ (place >> 16)) as u8).collect();
        let job = Submit { args: vec!["blob".into(), len.to_string()], ..Submit::default() };
        self.submit(job, BlobId::of(&bytes)).await;
    }

    async fn key(&self) {
        let (asked, key) = (Instant::now(), format!("client-{}", self.number));
        let number = locked(&self.seen).keys.get(self.number).map_or(0, |(_, number)| *number) + 1;
        let set = self.client.kv_set(self.user, Scope::Local, &key, Value::Text(number.to_string()));
        if self.answered(KEY, asked, set).await.is_some()
            && let Some((_, known)) = locked(&self.seen).keys.get_mut(self.number)
        {
            *known = number;
        }
    }

    async fn submit(&self, job: Submit, result: BlobId) {
        let job = Submit { function: NAME.into(), ..job };
        let asked = Instant::now();
        if let Some(id) = self.answered(JOB, asked, self.client.submit(&job)).await {
            locked(&self.seen).jobs.push((id, result));
        }
    }

    /// The answer, if it is none that refuses. A refusal has to say that it is the disk.
    async fn answered<T>(
        &self,
        kind: usize,
        asked: Instant,
        answer: impl Future<Output = Result<T, Error>>,
    ) -> Option<T> {
        let answer = tokio::time::timeout(PATIENCE, answer).await;
        let mut seen = locked(&self.seen);
        match answer {
            Ok(Ok(answer)) => {
                if let Some(taken) = seen.taken.get_mut(kind) {
                    *taken = Some(asked);
                }
                return Some(answer);
            }
            Ok(Err(error)) if error.kind() == Some(Kind::StorageUnavailable) => match kind {
                JOB => seen.refusals.jobs += 1,
                BLOB => seen.refusals.blobs += 1,
                _ => seen.refusals.keys += 1,
            },
            Ok(Err(error)) => seen.unclear.add(format!("{:?}: {error}", error.kind())),
            Err(_) => seen.unclear.add(format!("no answer in {PATIENCE:?}")),
        }
        None
    }

    fn large_len(&self, count: u64) -> usize {
        LARGE_LEN + (count as usize * 101 + self.number) % LARGE_KINDS
    }

    /// Bytes that no other request has.
    fn bytes(&self, count: u64, len: usize) -> Vec<u8> {
        let mut bytes: Vec<u8> = format!("{} {count} ", self.number).into_bytes();
        bytes.extend((bytes.len()..len).map(|place| (place % 251) as u8));
        bytes
    }
}

fn locked(seen: &Mutex<Seen>) -> MutexGuard<'_, Seen> {
    seen.lock().unwrap_or_else(PoisonError::into_inner)
}
