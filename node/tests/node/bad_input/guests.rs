//! Components that are none, want what they may not have, or misbehave while they run.

use shoal_protocol::BlobId;
use shoal_protocol::object::function::{Needs, RunLimits};
use shoal_protocol::object::job::{Job, State, Submit};

use super::{Answer, Bench, Expected, PATIENCE, expect, http};
use crate::file;

/// Memory of a guest.
const MEMORY_MB: u32 = 64;
/// What a guest may return.
const OUTPUT_BYTES: u64 = 3 * 1024 * 1024;
/// How long a guest may run. Why 2 s: the machine may be busy, and those that are not endless shall end by themselves.
const RUN_MS: u64 = 2_000;

/// What is deployed, or cannot be.
pub struct Guests {
    garbage: BlobId,
    cut_off: BlobId,
    digest: BlobId,
    imports: BlobId,
    no_entry: BlobId,
}

impl Guests {
    pub async fn deploy(bench: &Bench) -> Self {
        let put = async |bytes: Vec<u8>| bench.client.put_bytes(&bytes, true, "").await.unwrap().id;
        let wat = async |name: &str| put(wat::parse_file(path(name)).unwrap()).await;
        let digest = file("node/functions/digest/digest.wasm");
        let guests = Self {
            garbage: put(b"this is no component".to_vec()).await,
            cut_off: put(digest[..digest.len() / 2].to_vec()).await,
            digest: put(digest).await,
            imports: wat("unknown-import").await,
            no_entry: wat("no-entry").await,
        };
        for (name, code) in [
            ("probe", put(file("tests/guests/probe/probe.wasm")).await),
            ("command", put(file("tests/guests/wasip1/wasip1.wasm")).await),
            ("recursion", wat("recursion").await),
            ("start-loops", wat("start-loops").await),
            ("start-traps", wat("start-traps").await),
            ("memory-4gib", wat("memory-4gib").await),
        ] {
            let answer = function(bench, name, code, &["blob", "kv"]).await;
            assert_eq!(answer.status, "201", "{name}: {answer:?}");
        }
        guests
    }

    pub async fn rows(&self, bench: &mut Bench) {
        self.refused(bench).await;
        for (function, arguments, expected) in misbehaviour() {
            let answer = run(bench, function, arguments).await;
            let words: Vec<&str> = [function].into_iter().chain(arguments.iter().copied()).collect();
            bench.row(&format!("a run of {}", words.join(" ")), answer, expected).await;
        }
    }

    async fn refused(&self, bench: &mut Bench) {
        let invalid = |says| expect("422", "invalid-component", says);
        let missing = |says| expect("422", "import-not-granted", says);
        let unknown = BlobId([0; 32]);
        for (what, code, grants, expected) in [
            ("a text", self.garbage, &[][..], invalid("not a WebAssembly component")),
            ("half a component", self.cut_off, &["blob"], invalid("unexpected end")),
            ("a component without an entry", self.no_entry, &[], invalid("run")),
            ("a component that imports blob, ungranted", self.digest, &[], missing("shoal:function/blob")),
            ("a component that imports acme:weather", self.imports, &[], missing("acme:weather/forecast")),
            ("a component that nobody has", unknown, &[], expect("404", "blob-unavailable", http::NO_HASH)),
        ] {
            let answer = function(bench, "refused", code, grants).await;
            bench.row(&format!("deploy {what}"), answer, expected).await;
        }
    }
}

/// Each way to misbehave, and what a person reads of it.
fn misbehaviour() -> Vec<(&'static str, &'static [&'static str], Expected)> {
    let failed = |kind, says| expect("failed", kind, says);
    vec![
        ("probe", &["trap"], failed("trap", "unreachable")),
        ("probe", &["panic", "on purpose"], failed("trap", "unreachable")),
        ("recursion", &[], failed("trap", "stack")),
        ("start-traps", &[], failed("trap", "unreachable")),
        ("probe", &["fail", "no luck today"], failed("guest", "no luck today")),
        ("command", &["exit", "7"], failed("guest", "code 1")),
        ("probe", &["loop"], expect("timed_out", "", "timed out: it may run for 2s")),
        ("start-loops", &[], expect("timed_out", "", "timed out: it may run for 2s")),
        ("command", &["sleep", "600000"], expect("timed_out", "", "timed out: it may run for 2s")),
        ("probe", &["grow"], failed("out_of_memory", "64 MiB")),
        ("command", &["grow"], failed("out_of_memory", "64 MiB")),
        ("memory-4gib", &[], failed("out_of_memory", "64 MiB")),
        ("command", &["print"], failed("output_too_large", "3145728 bytes")),
        ("probe", &["bytes", "3145729"], failed("output_too_large", "3145728 bytes")),
        ("probe", &["log"], expect("timed_out", "", "its log was cut")),
        ("command", &["complain"], expect("timed_out", "", "its log was cut")),
        ("probe", &["blobs"], failed("guest", "32 blobs")),
        ("probe", &["read", http::NO_HASH], failed("guest", http::NO_HASH)),
        ("probe", &["forge", http::NO_HASH], failed("blob_unavailable", http::NO_HASH)),
    ]
}

fn path(name: &str) -> String {
    format!("{}/../tests/guests/wat/{name}.wat", env!("CARGO_MANIFEST_DIR"))
}

/// Deploys a function over HTTP.
async fn function(bench: &Bench, name: &str, component: BlobId, grants: &[&str]) -> Answer {
    let body = serde_json::json!({ "name": name, "component": component, "grants": grants });
    bench.http("POST", "/function", body.to_string().as_bytes(), None).await
}

/// Runs a function to its end. The sentence is what the command line says of it.
async fn run(bench: &Bench, function: &str, arguments: &[&str]) -> Answer {
    let submit = Submit {
        function: function.into(),
        args: arguments.iter().map(|&word| word.to_owned()).collect(),
        needs: Needs { memory_mb: Some(MEMORY_MB), ..Needs::default() },
        limits: RunLimits { run_ms: Some(RUN_MS), output_bytes: Some(OUTPUT_BYTES), ..RunLimits::default() },
        ..Submit::default()
    };
    let id = bench.client.submit(&submit).await.unwrap();
    let job = bench.client.wait(id, Some(PATIENCE), false).await.unwrap();
    assert_eq!(job.attempts_total, 1, "a guest's fault is not tried again: {job:?}");
    let waited = tokio::process::Command::from(bench.node.shoal(&["job", "wait", &id.to_string()])).output().await;
    let waited = waited.unwrap();
    let said = String::from_utf8(waited.stderr).unwrap();
    let sentence = said.lines().next().unwrap_or_default().replace(&id.to_string(), "ID");
    assert!(!waited.status.success(), "{said}");
    answer(&job, &sentence)
}

fn answer(job: &Job, sentence: &str) -> Answer {
    let code = job.failure.as_ref().map_or(serde_json::Value::Null, |failure| serde_json::json!(failure.code));
    let why = job.failure.as_ref().map_or("", |failure| failure.message.lines().next().unwrap());
    assert!(sentence.contains(why) && (job.state == State::Failed) != why.is_empty(), "{sentence} {job:?}");
    Answer::new(job.state.text(), code.as_str().unwrap_or_default(), sentence)
}
