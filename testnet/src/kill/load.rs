//! Clients that submit as long as their node is there, and what became of the jobs that were acknowledged.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use futures_util::stream::{self, StreamExt as _};
use shoal_client::{Client, Options};
use shoal_protocol::object::function::{Grant, NewFunction, RunLimits};
use shoal_protocol::object::job::{Input, Job, State, Submit};
use shoal_protocol::{BlobId, ObjectId};
use shoal_testnet::Node;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::{LOOK_EVERY, PATIENCE};

/// Does what its arguments say: here it returns its input or a pattern, or says which attempt it is.
const FUNCTION: &[u8] = include_bytes!("../../../tests/guests/probe/probe.wasm");
const NAME: &str = "probe";
/// Results from this length on. They are blobs: above 16 KiB they are uploaded on their own.
const LARGE_LEN: u64 = 24 * 1024;
/// They are all different, up to this number of them.
const LARGE_KINDS: u64 = 10_000;
/// Each client submits at most this often. Why so seldom: what is waiting at the end has to be run and read as well.
const SUBMIT_EVERY: Duration = Duration::from_millis(20);
/// Jobs that are asked about at once.
const AT_ONCE: usize = 32;
/// The same of jobs whose home is gone: whoever answers looks for that first.
const LOST_AT_ONCE: usize = 256;
/// How long all jobs together may take to settle once nothing is killed any more.
const SETTLE_MAX: Duration = Duration::from_secs(180);
/// The pause before a job is asked for again.
const ASK_AGAIN: Duration = Duration::from_millis(200);
/// Jobs that the report names.
const NAMED_MAX: usize = 3;

/// One node, as clients see it: none while it is away.
#[derive(Debug)]
pub(super) struct Home {
    connection: watch::Sender<Option<Connection>>,
    /// Of a user that every node knows; none: each node has its own.
    token: Option<String>,
}

/// A client, which says nothing of itself.
#[derive(Clone)]
struct Connection(Client);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Home {
    /// The node is killed, or was.
    pub(super) fn gone(&self) {
        self.connection.send_replace(None);
    }

    /// The node runs again. Returns once it answers, and knows what is to be run.
    pub(super) async fn is_back(&self, node: &mut Node) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        let client = loop {
            match self.reached(node).await {
                Ok(client) => break client,
                // What it had before may have brought it to its point already.
                Err(error) if node.has_ended()? => return Err(error),
                // The user and the function come to it.
                Err(_) if self.token.is_some() && Instant::now() < deadline => tokio::time::sleep(LOOK_EVERY).await,
                Err(error) => return Err(error),
            }
        };
        self.connection.send_replace(Some(Connection(client)));
        Ok(())
    }

    async fn reached(&self, node: &Node) -> anyhow::Result<Client> {
        let token = self.token.clone().map_or_else(|| node.token(), Ok)?;
        let options = Options { token: Some(token), reconnect_for: Duration::ZERO, ..Options::default() };
        let client = Client::connect_with(&node.gateway()?, options).await?;
        client.node().await?;
        if self.token.is_some() {
            client.function(NAME).await?;
        }
        Ok(client)
    }

    fn client(&self) -> anyhow::Result<Client> {
        let connection = self.connection.borrow().clone();
        Ok(connection.context("a node is away")?.0)
    }
}

/// What a job must give.
#[derive(Debug, Clone, Copy)]
enum Expected {
    /// These bytes.
    Bytes(BlobId),
    /// The number of the attempt that counts.
    Attempt,
}

/// A job that was acknowledged.
#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    id: ObjectId,
    home: usize,
    expected: Expected,
    took: Duration,
}

#[derive(Debug, Default)]
struct Seen {
    acknowledged: Vec<Acknowledged>,
    unknown: u64,
}

/// All clients.
#[derive(Debug)]
pub(super) struct Load {
    homes: Vec<Home>,
    seen: Arc<Mutex<Seen>>,
    stop: watch::Sender<bool>,
    clients: Mutex<Vec<JoinHandle<()>>>,
}

/// What became of the jobs.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) acknowledged: usize,
    /// Submits without an answer.
    pub(super) unknown: u64,
    /// How long acknowledgements took.
    pub(super) times: Vec<Duration>,
    pub(super) wrong: Wrong,
    /// Results of a run that had been given up.
    pub(super) old: u64,
    pub(super) attempts: u64,
    pub(super) counts: Counts,
}

/// Jobs that did not end as they must have.
#[derive(Debug, Default)]
pub(super) struct Wrong {
    pub(super) count: usize,
    /// The first few, in words.
    pub(super) first: Vec<String>,
}

/// What the homes count.
#[derive(Debug, Default)]
pub(super) struct Counts {
    pub(super) text: String,
    pub(super) add_up: bool,
}

impl Load {
    /// Deploys the function, and lets so many clients submit, by turns at each node. With a durability jobs are those of one user,
    /// who is known everywhere.
    ///
    /// # Errors
    /// When that cannot be done.
    pub(super) async fn begin(nodes: &mut [Node], clients: usize, durability: Option<u8>) -> anyhow::Result<Self> {
        let mut homes: Vec<Home> = Vec::with_capacity(nodes.len());
        let token = durability.and(nodes.first()).map(minted).transpose()?;
        for (place, node) in nodes.iter_mut().enumerate() {
            let home = Home { connection: watch::Sender::new(None), token: token.clone() };
            if token.is_none() || place == 0 {
                let first = Home { connection: watch::Sender::new(None), token: None };
                let own = first.reached(node).await?;
                deploy(&own).await?;
            }
            home.is_back(node).await?;
            homes.push(home);
        }
        let (stop, seen) = (watch::Sender::new(false), Arc::<Mutex<Seen>>::default());
        let submitting = (0..clients).filter_map(|number| {
            let place = number % homes.len();
            let home = homes.get(place)?.connection.subscribe();
            let submitter =
                Submitter { number, place, durability, home, seen: Arc::clone(&seen), stop: stop.subscribe() };
            Some(tokio::spawn(submitter.run()))
        });
        let clients = Mutex::new(submitting.collect());
        Ok(Self { homes, seen, stop, clients })
    }

    /// The node in this place, as clients see it.
    pub(super) fn home(&self, place: usize) -> &Home {
        // Made for each node in `begin`.
        #[expect(clippy::indexing_slicing, reason = "places are those of the nodes")]
        &self.homes[place]
    }

    /// Lets the clients end what they have begun.
    pub(super) async fn stop_submitting(&self) {
        self.stop.send_replace(true);
        let clients = std::mem::take(&mut *self.clients.lock().unwrap_or_else(PoisonError::into_inner));
        for client in clients {
            drop(client.await);
        }
    }

    /// Waits until all jobs have ended, and looks how.
    pub(super) async fn check(&self) -> anyhow::Result<Outcome> {
        let Seen { acknowledged, unknown } =
            std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner));
        ensure!(!acknowledged.is_empty(), "no job was acknowledged");
        let mut outcome = self.ends(&acknowledged, None).await;
        outcome.unknown = unknown;
        outcome.counts = self.counts().await?;
        Ok(outcome)
    }

    /// Waits until all jobs have ended whose home is this one, which is gone for good, and looks how: at the other nodes.
    pub(super) async fn check_lost(&self, gone: usize) -> Outcome {
        let lost: Vec<Acknowledged> = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            seen.acknowledged.extract_if(.., |job| job.home == gone).collect()
        };
        self.ends(&lost, Some(gone)).await
    }

    async fn ends(&self, acknowledged: &[Acknowledged], gone: Option<usize>) -> Outcome {
        let mut outcome = Outcome { acknowledged: acknowledged.len(), ..Outcome::default() };
        outcome.times = acknowledged.iter().map(|job| job.took).collect();
        let deadline = Instant::now() + SETTLE_MAX;
        let others: Vec<usize> = (0..self.homes.len()).filter(|place| Some(*place) != gone).collect();
        let asked = |number: usize, job: &Acknowledged| match gone {
            Some(_) => others.get(number % others.len().max(1)).copied().unwrap_or_default(),
            None => job.home,
        };
        let checking =
            acknowledged.iter().enumerate().map(|(number, job)| self.ended(job, asked(number, job), deadline));
        let at_once = if gone.is_some() { LOST_AT_ONCE } else { AT_ONCE };
        let mut checked = stream::iter(checking).buffer_unordered(at_once);
        while let Some((job, ended)) = checked.next().await {
            match ended {
                Ok((attempts, is_old)) => {
                    outcome.attempts += u64::from(attempts);
                    outcome.old += u64::from(is_old);
                }
                Err(error) => outcome.wrong.add(format!("{}: {error:#}", job.id)),
            }
        }
        outcome
    }

    /// Until the deadline it is asked again: while nobody decides a job whose home is gone, or while a node is away.
    async fn ended(
        &self,
        job: &Acknowledged,
        at: usize,
        deadline: Instant,
    ) -> (Acknowledged, anyhow::Result<(u32, bool)>) {
        loop {
            match self.result(job, at, deadline).await {
                Err(_) if Instant::now() < deadline => tokio::time::sleep(ASK_AGAIN).await,
                ended => return (*job, ended),
            }
        }
    }

    /// How many attempts a job had, and whether its result is that of an earlier one.
    async fn result(&self, job: &Acknowledged, at: usize, deadline: Instant) -> anyhow::Result<(u32, bool)> {
        let client = self.home(at).client()?;
        let left = deadline.saturating_duration_since(Instant::now());
        let shown: Job = client.wait(job.id, Some(left), true).await?;
        ensure!(shown.state == State::Succeeded, "is {}: {:?}", shown.state.text(), shown.failure);
        let bytes = client.result_bytes(job.id, (LARGE_LEN + LARGE_KINDS) as usize).await?;
        match job.expected {
            Expected::Bytes(id) => {
                ensure!(BlobId::of(&bytes) == id, "has another result than its input asks for");
                Ok((shown.attempts_total, false))
            }
            Expected::Attempt => {
                let text = String::from_utf8(bytes)?;
                let said = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)).unwrap_or_default();
                ensure!(said("id ") == job.id.to_string(), "has the result of another job");
                Ok((shown.attempts_total, said("attempt ") != shown.attempts_total.to_string()))
            }
        }
    }

    /// Waits until the homes have nothing left, not even of what nobody was told of.
    async fn counts(&self) -> anyhow::Result<Counts> {
        let deadline = Instant::now() + SETTLE_MAX;
        let mut counts = Counts { add_up: true, ..Counts::default() };
        for home in &self.homes {
            let client = home.client()?;
            let jobs = loop {
                let jobs = client.node().await?.jobs.context("a node says nothing of its jobs")?;
                if jobs.waiting + jobs.running == 0 || Instant::now() >= deadline {
                    break jobs;
                }
                tokio::time::sleep(LOOK_EVERY).await;
            };
            counts.add_up &= jobs.waiting + jobs.running == 0 && jobs.accepted == jobs.settled + jobs.swept;
            let separator = if counts.text.is_empty() { "" } else { ", " };
            counts.text += &format!("{separator}{} of {} settled", jobs.settled, jobs.accepted);
        }
        Ok(counts)
    }
}

impl Outcome {
    /// Both together; the counts are those of the other.
    pub(super) fn and(mut self, other: Self) -> Self {
        let Self { acknowledged, unknown, times, wrong, old, attempts, counts } = other;
        self.acknowledged += acknowledged;
        self.unknown += unknown;
        self.times.extend(times);
        self.wrong.count += wrong.count;
        self.wrong.first.extend(wrong.first);
        self.wrong.first.truncate(NAMED_MAX);
        self.old += old;
        self.attempts += attempts;
        Self { counts, ..self }
    }
}

impl Wrong {
    fn add(&mut self, text: String) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(text);
        }
    }
}

/// A token of the node's operator that counts at every node.
fn minted(node: &Node) -> anyhow::Result<String> {
    let minted = node.shoal(&["token", "mint"]).output()?;
    ensure!(minted.status.success(), "no token: {}", String::from_utf8_lossy(&minted.stderr));
    Ok(String::from_utf8(minted.stdout)?.trim().to_owned())
}

async fn deploy(client: &Client) -> anyhow::Result<()> {
    // Each operator deploys a function of their own: names are those of a user.
    let component = client.put_bytes(FUNCTION, true, NAME).await?.id;
    let limits = RunLimits { attempts: Some(100), ..RunLimits::default() };
    let function = NewFunction { limits, grants: [Grant::Blob, Grant::Kv].into(), ..NewFunction::new(NAME, component) };
    client.deploy(&function).await?;
    Ok(())
}

/// One client.
struct Submitter {
    number: usize,
    place: usize,
    durability: Option<u8>,
    home: watch::Receiver<Option<Connection>>,
    seen: Arc<Mutex<Seen>>,
    stop: watch::Receiver<bool>,
}

impl Submitter {
    async fn run(mut self) {
        let mut every = interval(SUBMIT_EVERY);
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for count in 0u64.. {
            every.tick().await;
            let mut stop = self.stop.clone();
            let connection = tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => return,
                connection = self.home.wait_for(Option::is_some) => connection.ok().and_then(|home| home.clone()),
            };
            let Some(Connection(client)) = connection else { return };
            self.submit(&client, count).await;
        }
    }

    async fn submit(&mut self, client: &Client, count: u64) {
        let (submit, expected) = self.job(count);
        let begun = Instant::now();
        let answer = tokio::select! {
            answer = timeout(PATIENCE, client.submit(&submit)) => answer.ok().and_then(Result::ok),
            // Killed meanwhile: nobody was promised anything.
            _ = self.home.wait_for(Option::is_none) => None,
        };
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Some(id) => seen.acknowledged.push(Acknowledged { id, home: self.place, expected, took: begun.elapsed() }),
            None => seen.unknown += 1,
        }
    }

    /// By turns a job whose result says which attempt it is of, one whose result is its input, and one whose result is long.
    fn job(&self, count: u64) -> (Submit, Expected) {
        let job = Submit { function: NAME.into(), durability: self.durability, ..Submit::default() };
        match count % 3 {
            0 => (Submit { args: vec!["describe".into()], ..job }, Expected::Attempt),
            1 => {
                let input = format!("{} {count}", self.number);
                let expected = Expected::Bytes(BlobId::of(input.as_bytes()));
                (Submit { input: Input::Text(input), ..job }, expected)
            }
            _ => {
                let len = LARGE_LEN + (count * 101 + self.number as u64) % LARGE_KINDS;
                let bytes: Vec<u8> = (0..len).map(|place| (place ^ (place >> 8) ^ (place >> 16)) as u8).collect();
                (Submit { args: vec!["blob".into(), len.to_string()], ..job }, Expected::Bytes(BlobId::of(&bytes)))
            }
        }
    }
}
