//! Bad input of every kind: what is answered, that a normal job succeeds after each on the same node, and that node and
//! worker have their memory back.
//!
//! The test makes one table, `input | status | type | sentence`, and prints it. Every input comes twice: the first time
//! touches code and buffers that nothing needed before and compiles what is deployed, the second time is held against
//! what was resident between the two.

mod changes;
mod disk;
mod guests;
mod http;
mod jobs;
mod quic;
mod start;

use std::time::{Duration, Instant};

use shoal_client::Client;
use shoal_protocol::object::function::{Grant, NewFunction};
use shoal_protocol::object::job::{Input, State, Submit};
use shoal_protocol::problem::TYPE_PREFIX;
use shoal_protocol::{BlobId, Problem};
use shoal_testnet::{Node, resident_kib};

use crate::{file, shoal};

/// How long memory may take to come back, and a job to reach a state. Why 30 s: the store flushes every 5 s, and this
/// machine may be busy with other tests.
const PATIENCE: Duration = Duration::from_secs(30);
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// How much of what was resident before may be added: a twentieth.
const MEMORY_SHARE: u64 = 20;
/// The worker's memory: less than what some jobs need.
const WORKER_MB: &str = "1024";
/// Normal jobs before anything is measured.
const NORMAL_JOBS: u32 = 50;

/// What came of an input.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status, exit code, state of a job, or where else it was said.
    pub status: String,
    /// The last part of the problem's type, or the code of a failure.
    pub kind: String,
    /// For people.
    pub sentence: String,
}

impl Answer {
    pub fn new(status: impl ToString, kind: impl ToString, sentence: impl ToString) -> Self {
        Self { status: status.to_string(), kind: kind.to_string(), sentence: sentence.to_string() }
    }

    /// A problem that came over QUIC.
    pub fn quic(problem: &Problem) -> Self {
        Self::new(format!("QUIC {}", problem.status), problem.kind.text(), &problem.detail)
    }

    pub fn of(result: Result<impl std::fmt::Debug, shoal_client::Error>) -> Self {
        match result {
            Err(shoal_client::Error::Problem(problem)) => Self::quic(&problem),
            other => Self::new("QUIC", "none", format!("{other:?}")),
        }
    }
}

/// What an input must come to.
pub struct Expected {
    pub status: &'static str,
    pub kind: &'static str,
    /// The sentence names the fault by this.
    pub says: &'static str,
}

pub const fn expect(status: &'static str, kind: &'static str, says: &'static str) -> Expected {
    Expected { status, kind, says }
}

/// What is resident, in KiB.
#[derive(Debug, Clone, Copy)]
struct Memory {
    node: u64,
    worker: u64,
}

impl Memory {
    fn of(node: &Node) -> Option<Self> {
        Some(Self { node: resident_kib(node.pid()?)?, worker: resident_kib(node.worker()?)? })
    }

    fn least(self, other: Self) -> Self {
        Self { node: self.node.min(other.node), worker: self.worker.min(other.worker) }
    }

    /// What may be resident after a bad input, where this was before.
    fn limit(self) -> Self {
        let limit = |kib: u64| kib + kib / MEMORY_SHARE;
        Self { node: limit(self.node), worker: limit(self.worker) }
    }

    fn is_within(self, limit: Self) -> bool {
        self.node <= limit.node && self.worker <= limit.worker
    }
}

/// The table, printed as it is made, and what is wrong with it.
#[derive(Debug, Default)]
pub struct Table {
    faults: Vec<String>,
}

impl Table {
    pub fn row(&mut self, input: &str, answer: Answer, expected: &Expected, memory: &str) {
        let Answer { status, kind, sentence } = answer;
        if (status.as_str(), kind.as_str()) != (expected.status, expected.kind) || !sentence.contains(expected.says) {
            let Expected { status: s, kind: k, says } = expected;
            self.fault(format!("{input}: {status} {kind} {sentence:?}, not {s} {k} …{says}…"));
        }
        Self::print(input, &status, &kind, &sentence, memory);
    }

    /// Said at once, since the next row may never come.
    fn fault(&mut self, fault: String) {
        println!("WRONG: {fault}");
        self.faults.push(fault);
    }

    fn print(input: &str, status: &str, kind: &str, sentence: &str, memory: &str) {
        println!("{input:<50} | {status:<9} | {kind:<19} | {sentence} | {memory}");
    }
}

/// A node, who asks it, and the table.
pub struct Bench {
    pub node: Node,
    pub client: Client,
    pub table: Table,
    /// Rows count from the second time on.
    counts: bool,
    before: Option<Memory>,
    normal_jobs: u32,
}

impl Bench {
    /// A node with the function of the normal jobs.
    pub async fn new(node: Node) -> Self {
        let client = node.client().await.unwrap();
        let component = client.put_bytes(&file("node/functions/digest/digest.wasm"), true, "digest").await.unwrap().id;
        let digest = NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new("digest", component) };
        client.deploy(&digest).await.unwrap();
        let mut bench = Self { node, client, table: Table::default(), counts: false, before: None, normal_jobs: 0 };
        for _ in 0..NORMAL_JOBS {
            bench.normal_job().await;
        }
        bench
    }

    /// A job as any other, over an input that none had before.
    pub async fn normal_job(&mut self) {
        self.normal_jobs += 1;
        let input = format!("normal job {}", self.normal_jobs);
        let submit =
            Submit { function: "digest".into(), input: Input::Bytes(input.as_bytes().into()), ..Submit::default() };
        let id = self.client.submit(&submit).await.unwrap();
        let job = self.client.wait(id, Some(PATIENCE), true).await.unwrap();
        assert_eq!(job.state, State::Succeeded, "{job:?}");
        assert_eq!(job.output.unwrap().id, BlobId::of(BlobId::of(input.as_bytes()).as_bytes()));
    }

    /// A row of the table. After it a normal job succeeds, and memory comes back.
    pub async fn row(&mut self, input: &str, answer: Answer, expected: Expected) {
        self.normal_job().await;
        let memory = self.check_memory(input).await;
        if self.counts {
            self.table.row(input, answer, &expected, &memory);
        }
    }

    /// From now on rows count, and memory is held against what is resident now.
    pub async fn begin(&mut self) {
        self.before = Some(self.least(None).await);
        self.counts = true;
    }

    async fn check_memory(&mut self, input: &str) -> String {
        let Some(before) = self.before else { return String::new() };
        let now = self.least(Some(before.limit())).await;
        if !now.is_within(before.limit()) {
            self.table.fault(format!("{input}: {now:?} KiB resident, {before:?} before"));
            // Said once: what follows is held against what it has left.
            self.before = Some(now);
        }
        let change = |before: u64, now: u64| format!("{now} {:+}", now as i64 - before as i64);
        format!("{}, {}", change(before.node, now.node), change(before.worker, now.worker))
    }

    /// The least that is resident within a while, which ends early where it is within a limit.
    async fn least(&self, limit: Option<Memory>) -> Memory {
        let patience = if limit.is_some() { PATIENCE } else { PATIENCE / 5 };
        let deadline = Instant::now() + patience;
        let mut least = Memory { node: u64::MAX, worker: u64::MAX };
        loop {
            if let Some(now) = Memory::of(&self.node) {
                least = least.least(now);
            }
            if limit.is_some_and(|limit| least.is_within(limit)) || Instant::now() >= deadline {
                return least;
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

/// The last part of a problem's type.
pub fn kind(uri: &str) -> &str {
    uri.strip_prefix(TYPE_PREFIX).unwrap_or(uri)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_input_is_named_and_costs_nothing() {
    let mut node = Node::new(shoal()).unwrap().with_arguments(&["--memory-mb", WORKER_MB]);
    node.start().await.unwrap();
    let mut bench = Bench::new(node).await;
    let guests = guests::Guests::deploy(&bench).await;
    let author = changes::Author::new(&bench).await;
    for begins in [false, true] {
        if begins {
            bench.begin().await;
            Table::print("input", "status", "type", "sentence", "KiB resident: node, worker");
        }
        http::rows(&mut bench).await;
        quic::rows(&mut bench).await;
        guests.rows(&mut bench).await;
        jobs::rows(&mut bench).await;
        author.rows(&mut bench).await;
        start::rows(&mut bench).await;
    }
    let Bench { mut node, table: mut all, client, .. } = bench;
    client.close().await;
    node.stop().await.unwrap();
    disk::rows(&mut all).await;
    assert!(all.faults.is_empty(), "{:#?}", all.faults);
}
