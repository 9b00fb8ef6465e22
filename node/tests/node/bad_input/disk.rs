//! A disk that is full, for real: nothing is acknowledged that it does not hold, reading goes on, and once it is freed
//! the node goes on by itself with all that it had acknowledged.

use std::time::{Duration, Instant};

use shoal_protocol::object::function::NewFunction;
use shoal_protocol::object::job::{Accepted, State, Submit};
use shoal_protocol::object::kv::{Scope, Value};
use shoal_protocol::{BlobId, Kind, ObjectId};
use shoal_testnet::Node;

use super::{Answer, Bench, Expected, PATIENCE, Table, expect};
use crate::patience::Patience;
use crate::{file, shoal};

/// The disk, in MiB: what the node needs, and the blobs of this test.
const DISK_MIB: u32 = 64;
/// A blob that is kept.
const BLOB_LEN: usize = 1024 * 1024;
/// Requests that may still be taken because the last page of the journal has room for them.
const TAKEN_MAX: u32 = 200;
/// A key that is written until that is refused.
const KEY: &str = "kept";
/// How long a run goes on while the disk is full.
const RUN_MS: u32 = 3_000;

/// What was acknowledged.
#[derive(Default)]
struct Acknowledged {
    /// Jobs and what they are over.
    jobs: Vec<(ObjectId, String)>,
    runs: Vec<ObjectId>,
    values: u32,
    blobs: Vec<Vec<u8>>,
}

pub async fn rows(table: &mut Table) {
    let mut node = match Node::new(shoal()).unwrap().with_disk(DISK_MIB) {
        Ok(node) => node,
        Err(why) => return eprintln!("left out: a full disk, since this machine does not allow a small one: {why:#}"),
    };
    node.start().await.unwrap();
    let mut bench = Bench::new(node).await;
    bench.table = std::mem::take(table);
    let blob = bench.client.put_bytes(&vec![7; BLOB_LEN], true, "kept").await.unwrap().id;
    let command = bench.client.put_bytes(&file("tests/guests/wasip1/wasip1.wasm"), true, "").await.unwrap().id;
    bench.client.deploy(&NewFunction::new("command", command)).await.unwrap();
    let mut had = Acknowledged::default();
    for begins in [false, true] {
        if begins {
            bench.begin().await;
        }
        requests(&mut bench, &mut had).await;
        a_run(&mut bench, &mut had, blob).await;
    }
    had.check(&bench, blob).await;
    a_start(&mut bench, &mut had, blob).await;
    had.check(&bench, blob).await;
    bench.node.stop().await.unwrap();
    *table = bench.table;
}

/// Every kind of request that writes, and what tells how the node is.
async fn requests(bench: &mut Bench, had: &mut Acknowledged) {
    let unavailable = |says| expect("507", "storage-unavailable", says);
    let answer = until_refused(bench, had).await;
    freed(bench, "a full disk: POST /job", answer, unavailable("nothing was accepted")).await;

    let answer = had.set_until_refused(bench).await;
    let expected = expect("QUIC 507", "storage-unavailable", "nothing was accepted");
    freed(bench, "a full disk: kv set over QUIC", answer, expected).await;

    for len in [8, BLOB_LEN] {
        let answer = had.put_until_refused(bench, len).await;
        let row = format!("a full disk: POST /blob, {len} bytes");
        freed(bench, &row, answer, unavailable("No space left on device")).await;
    }

    until_refused(bench, had).await;
    let patch = serde_json::json!({ "description": "x".repeat(5000) }).to_string();
    let answer = bench.http("POST", "/function/command", patch.as_bytes(), None).await;
    freed(bench, "a full disk: POST /function/command", answer, unavailable("nothing was accepted")).await;

    until_refused(bench, had).await;
    let answer = bench.http("GET", "/healthz", b"", None).await;
    let expected = expect("503", "storage-unavailable", "cannot write to its disk");
    freed(bench, "a full disk: GET /healthz", answer, expected).await;
}

/// A run that ends while the disk is full, and what is read meanwhile.
async fn a_run(bench: &mut Bench, had: &mut Acknowledged, blob: BlobId) {
    let args = vec!["sleep".to_owned(), RUN_MS.to_string()];
    let submit = Submit { function: "command".into(), args, ..Submit::default() };
    let run = bench.client.submit(&submit).await.unwrap();
    let patience = Patience::new();
    while bench.client.job(run, false).await.unwrap().state != State::Running {
        patience.look_again(|| "it does not run".to_owned()).await;
    }
    let ends = Instant::now() + Duration::from_millis(u64::from(RUN_MS) + 500);
    let worker = bench.node.worker();
    let mut answer = until_refused(bench, had).await;
    while Instant::now() < ends {
        // All this time nothing is taken, and everything can be read.
        answer = until_refused(bench, had).await;
        assert_eq!(kept(bench, blob).await, vec![7; BLOB_LEN]);
        had.first(bench).await;
        assert!(!bench.client.job(run, false).await.unwrap().state.is_settled());
    }
    had.runs.push(run);
    let expected = expect("507", "storage-unavailable", "nothing was accepted");
    freed(bench, "a full disk while a run ends", answer, expected).await;
    let job = bench.client.wait(run, Some(PATIENCE), true).await.unwrap();
    assert_eq!((job.state, job.epoch, job.attempts_total), (State::Succeeded, 1, 1), "{job:?}");
    assert_eq!(bench.node.worker(), worker, "the worker did not live through it");
}

/// A node that was killed starts while its disk is full, with all that it had, and takes jobs again once it is freed.
/// One that begins in a new folder there says why it cannot.
async fn a_start(bench: &mut Bench, had: &mut Acknowledged, blob: BlobId) {
    bench.node.kill().unwrap();
    full(bench);
    let new = bench.node.data().join("new");
    // Twice: the first leaves nothing behind that another start could not read.
    for _ in 0..2 {
        let answer = super::start::up(&new, "127.0.0.1:0", "127.0.0.1:0").await;
        bench.table.row("a full disk: shoal up", answer, &expect("exit 1", "", "No space left on device"), "");
    }
    bench.node.start().await.unwrap();
    bench.client = bench.node.client().await.unwrap();
    had.check(bench, blob).await;
    let answer = until_refused(bench, had).await;
    let row = "a full disk: POST /job after a start";
    let expected = expect("507", "storage-unavailable", "nothing was accepted");
    bench.before = None;
    freed(bench, row, answer, expected).await;
}

fn full(bench: &Bench) {
    bench.node.disk().unwrap().fill().unwrap();
}

/// Submits on a full disk until nothing is taken any more: the last page of the journal has room for some.
async fn until_refused(bench: &Bench, had: &mut Acknowledged) -> Answer {
    for _ in 0..TAKEN_MAX {
        full(bench);
        let text = format!("on a full disk, {}", had.jobs.len());
        let body = serde_json::json!({ "function": "digest", "input": { "text": text } }).to_string();
        let answer = bench.http("POST", "/job", body.as_bytes(), None).await;
        if answer.status != "202" {
            return answer;
        }
        let accepted: Accepted = serde_json::from_str(&answer.sentence).unwrap();
        had.jobs.push((accepted.id, text));
    }
    panic!("the disk never gets full");
}

/// Frees the disk, waits until jobs are taken again, which needs no restart, and writes the row.
async fn freed(bench: &mut Bench, input: &str, answer: Answer, expected: Expected) {
    let pid = bench.node.pid();
    bench.node.disk().unwrap().free().unwrap();
    let patience = Patience::new();
    let submit = Submit { function: "digest".into(), ..Submit::default() };
    while let Err(error) = bench.client.submit(&submit).await {
        assert_eq!(error.kind(), Some(Kind::StorageUnavailable), "{error}");
        patience.look_again(|| error.to_string()).await;
    }
    let health = bench.http("GET", "/healthz", b"", None).await;
    assert_eq!(health.status, "200", "{health:?}");
    bench.row(input, answer, expected).await;
    assert_eq!(bench.node.pid(), pid);
}

impl Acknowledged {
    /// Writes ever higher numbers under a key, until that is refused.
    async fn set_until_refused(&mut self, bench: &Bench) -> Answer {
        let user = bench.client.welcome().user.unwrap();
        for _ in 0..TAKEN_MAX {
            full(bench);
            let value = Value::Text((self.values + 1).to_string());
            match bench.client.kv_set(user, Scope::Local, KEY, value).await {
                Ok(_) => self.values += 1,
                refused => return Answer::of(refused),
            }
        }
        panic!("the disk never gets full");
    }

    /// Puts blobs of this length until one is refused.
    async fn put_until_refused(&mut self, bench: &Bench, len: usize) -> Answer {
        for _ in 0..TAKEN_MAX {
            full(bench);
            let mut bytes = vec![9; len];
            bytes[..8].copy_from_slice(&self.blobs.len().to_be_bytes());
            let answer = bench.http("POST", "/blob", &bytes, None).await;
            if answer.status != "201" {
                return answer;
            }
            self.blobs.push(bytes);
        }
        panic!("the disk never gets full");
    }

    /// The first job can be read.
    async fn first(&self, bench: &Bench) {
        if let Some((id, text)) = self.jobs.first() {
            let job = bench.client.job(*id, true).await.unwrap();
            assert_eq!(job.output.unwrap().id, result(text), "{id}");
        }
    }

    /// All is there, and has come to its end once.
    async fn check(&self, bench: &Bench, blob: BlobId) {
        for (id, text) in &self.jobs {
            let job = bench.client.wait(*id, Some(PATIENCE), true).await.unwrap();
            assert_eq!((job.state, job.output.unwrap().id), (State::Succeeded, result(text)));
        }
        for &id in &self.runs {
            let job = bench.client.wait(id, Some(PATIENCE), true).await.unwrap();
            assert_eq!((job.state, job.epoch), (State::Succeeded, 1));
            assert_eq!(bench.client.result_bytes(id, 100).await.unwrap(), b"slept true\n");
        }
        assert_eq!(kept(bench, blob).await, vec![7; BLOB_LEN]);
        for bytes in &self.blobs {
            assert_eq!(kept(bench, BlobId::of(bytes)).await, *bytes);
        }
        let user = bench.client.welcome().user.unwrap();
        if self.values > 0 {
            let entry = bench.client.kv_get(user, Scope::Local, KEY).await.unwrap();
            assert_eq!(entry.value, Value::Text(self.values.to_string()));
        }
    }
}

async fn kept(bench: &Bench, blob: BlobId) -> Vec<u8> {
    bench.client.get_blob(blob, 0, None).await.unwrap().into_vec(BLOB_LEN).await.unwrap()
}

/// The result of the function `digest`: the BLAKE3 of its input.
fn result(text: &str) -> BlobId {
    BlobId::of(BlobId::of(text.as_bytes()).as_bytes())
}
