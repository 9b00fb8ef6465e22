//! A worker as its node sees it: every way in which a run can go, and every way in which the two can lose each other.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, missing_docs)]
#![allow(unreachable_pub, reason = "the parts of one test")]

mod bare;
mod node;

use std::time::{Duration, Instant};

use node::{Node, Worker, component, failure, inline, start};
use shoal_protocol::limits::{INLINE_LEN_MAX, LOG_LEN_MAX};
use shoal_protocol::object::job::{Ending, FailureCode, Payload};
use shoal_protocol::object::kv::{Entry, Scope, Value};
use shoal_protocol::wire::worker::{Answer, Ask, FromWorker, KvOperation, Namespace, ToWorker};
use shoal_protocol::{BlobId, Kind, Problem, Traceparent};
use shoal_worker::{Attachment, Error, Exit};

const WASIP1: &str = "wasip1/wasip1.wasm";
const PROBE: &str = "probe/probe.wasm";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_gives_the_bytes_of_bare_wasmtime() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    for (number, (name, bytes)) in bare::guests().into_iter().enumerate() {
        let blob = node.put(bytes.clone());
        let command = bare::Command::new(&bytes).unwrap();
        for (args, input) in [(vec!["a", "b c"], "Grüße, world\n".repeat(3)), (vec!["fail"], "x".repeat(50_000))] {
            let args: Vec<&str> = args;
            let bare = bare::run(&command, &args, input.as_bytes());
            let mut start = start(number as u8, blob, &args);
            start.name = "guest".into();
            start.memory_mb = 512;
            start.run.epoch = input.len() as u64;
            start.input = if input.len() > INLINE_LEN_MAX {
                Payload::Blob { id: node.put(input.as_bytes()), size: input.len() as u64 }
            } else {
                inline(input.as_bytes())
            };
            let outcome = talk.run(start).await;
            assert_eq!(outcome.exit_code, Some(bare.exit_code), "{name} {args:?}: {:?}", outcome.ending);
            assert_eq!(node.get(&outcome.output), bare.stdout, "{name} {args:?}");
            assert_eq!(node.get(&outcome.log), bare.stderr, "{name} {args:?}");
            assert!(outcome.usage.memory_bytes > 0 && outcome.usage.run_us >= outcome.usage.start_us, "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_blob_in_and_a_blob_out() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let text = "a line of some length\n".repeat(200_000);
    let mut start = start(1, node.put(component(WASIP1)), &["big"]);
    start.input = Payload::Blob { id: node.put(text.as_bytes()), size: text.len() as u64 };
    let outcome = talk.run(start).await;
    assert_eq!(outcome.ending, Ending::Succeeded);
    assert!(matches!(outcome.output, Payload::Blob { .. }));
    assert_eq!(node.get(&outcome.output), format!("arguments: big\n{}", text.to_uppercase()).into_bytes());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_input_that_nobody_has_is_the_reason() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let mut start = start(1, node.put(component(WASIP1)), &[]);
    start.input = Payload::Blob { id: BlobId([7; 32]), size: 100_000 };
    let outcome = talk.run(start).await;
    assert_eq!(failure(&outcome).code, FailureCode::BlobUnavailable, "{outcome:?}");
    assert!(failure(&outcome).message.contains("0707"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_component_that_nobody_has_or_that_is_another_is_the_reason() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let outcome = talk.run(start(1, BlobId([7; 32]), &[])).await;
    assert_eq!(failure(&outcome).code, FailureCode::BlobUnavailable, "{outcome:?}");
    node.blobs.lock().unwrap().insert(BlobId([8; 32]), component(WASIP1));
    let outcome = talk.run(start(2, BlobId([8; 32]), &[])).await;
    assert!(failure(&outcome).message.contains("hash"), "{outcome:?}");
}

/// What goes wrong with each of these, and what a person reads of it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_bad_guest_ends_with_its_reason_and_the_worker_goes_on() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let (probe, wasip1) = (node.put(component(PROBE)), node.put(component(WASIP1)));
    let table = |name: &str| node.put(component(&format!("wat/{name}.wat")));
    let (unknown, long) = ("07".repeat(32), "x".repeat(60 * 1024 + 1));
    let cases = [
        (probe, vec!["trap"], FailureCode::Trap, "unreachable"),
        (probe, vec!["panic", "on purpose"], FailureCode::Trap, "unreachable"),
        (probe, vec!["fail", "no luck today"], FailureCode::Guest, "no luck today"),
        (probe, vec!["grow"], FailureCode::OutOfMemory, "64 MiB"),
        (probe, vec!["forge", &unknown], FailureCode::BlobUnavailable, "0707"),
        (probe, vec!["forge", "nonsense"], FailureCode::Guest, "nonsense"),
        (probe, vec!["blobs"], FailureCode::Guest, "32 blobs"),
        (probe, vec!["set", "user", "local", "k", &long], FailureCode::Guest, "61441 bytes"),
        (probe, vec!["get", "user", "local", &long], FailureCode::Guest, "a key of 61441 bytes"),
        // The adapter from WASI 0.1 knows but one code of failure, in bare wasmtime too.
        (wasip1, vec!["exit", "7"], FailureCode::Guest, "code 1"),
        (wasip1, vec!["panic"], FailureCode::Trap, "unreachable"),
        (wasip1, vec!["grow"], FailureCode::OutOfMemory, "64 MiB"),
        (table("unknown-import"), vec![], FailureCode::InvalidComponent, "acme:weather/forecast"),
        (table("no-entry"), vec![], FailureCode::InvalidComponent, "run"),
        (table("other-run"), vec![], FailureCode::InvalidComponent, "run"),
        (table("memory-4gib"), vec![], FailureCode::OutOfMemory, "64 MiB"),
        (table("table-huge"), vec![], FailureCode::InvalidComponent, "table"),
        (table("table-grows"), vec![], FailureCode::Guest, "code 1"),
        (table("recursion"), vec![], FailureCode::Trap, "stack"),
        (table("start-traps"), vec![], FailureCode::Trap, "unreachable"),
    ];
    for (number, (component, args, code, said)) in cases.into_iter().enumerate() {
        let outcome = talk.run(start(number as u8, component, &args)).await;
        let failure = failure(&outcome);
        assert_eq!(failure.code, code, "{args:?} {failure:?}");
        assert!(failure.message.contains(said), "{args:?} {failure:?}");
        assert!(failure.message.len() <= 4096, "{args:?}");
        let well = talk.run(start(100 + number as u8, table("minimal"), &[])).await;
        assert_eq!(well.ending, Ending::Succeeded, "after {args:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_deadline_reaches_every_endless_guest() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let (probe, wasip1) = (node.put(component(PROBE)), node.put(component(WASIP1)));
    let start_loops = node.put(component("wat/start-loops.wat"));
    for (number, (component, args)) in
        [(probe, vec!["loop"]), (wasip1, vec!["loop"]), (wasip1, vec!["sleep", "600000"]), (start_loops, vec![])]
            .into_iter()
            .enumerate()
    {
        let mut start = start(number as u8, component, &args);
        start.limits.run_ms = Some(100);
        let outcome = talk.run(start).await;
        assert_eq!(outcome.ending, Ending::TimedOut, "{args:?}");
        let guest_us = outcome.usage.run_us - outcome.usage.start_us;
        assert!(outcome.usage.start_us == 0 || (100_000..10_000_000).contains(&guest_us), "{args:?} {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_without_end_is_cut_and_counted() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    for (number, (path, word)) in [(PROBE, "log"), (WASIP1, "complain")].into_iter().enumerate() {
        let mut start = start(number as u8, node.put(component(path)), &[word]);
        let run = start.run;
        start.limits.run_ms = Some(1500);
        let outcome = talk.run(start).await;
        assert_eq!(outcome.ending, Ending::TimedOut);
        let log = node.get(&outcome.log);
        assert_eq!(log.len(), LOG_LEN_MAX);
        assert!(outcome.log_dropped > 0);
        let live = &talk.shown.logs[&run];
        assert_eq!(live[..], log[..live.len()], "what was shown live is the log's beginning");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_output_without_end_is_stopped_at_its_limit() {
    const LIMIT: u64 = 3 * 1024 * 1024 + 5;
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let mut endless = start(1, node.put(component(WASIP1)), &["print"]);
    endless.limits.output_bytes = Some(LIMIT);
    let outcome = talk.run(endless).await;
    assert_eq!(failure(&outcome).code, FailureCode::OutputTooLarge, "{outcome:?}");
    assert_eq!(outcome.output.size(), LIMIT);
    assert_eq!(node.get(&outcome.output).len() as u64, LIMIT);
    for (number, word) in [(2, "bytes"), (3, "blob")] {
        let mut longer = start(number, node.put(component(PROBE)), &[word, "3145734"]);
        longer.limits.output_bytes = Some(LIMIT);
        let outcome = talk.run(longer).await;
        assert_eq!(failure(&outcome).code, FailureCode::OutputTooLarge, "{word} {outcome:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_loop_ends_at_once() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let start = start(1, node.put(component(PROBE)), &["loop"]);
    let run = start.run;
    talk.say(ToWorker::Start(Box::new(start))).await;
    talk.started(run).await;
    let asked = Instant::now();
    talk.say(ToWorker::Cancel(run)).await;
    assert_eq!(talk.ended(run).await.ending, Ending::Cancelled);
    // It is some 10 ms; the bound has room for a machine that is busy with other tests.
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_sees_its_job_and_shows_how_far_it_is() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let probe = node.put(component(PROBE));
    let mut described = start(1, probe, &["describe"]);
    described.attempt = 3;
    described.env.insert("COLOUR".into(), "blue".into());
    described.traceparent = Traceparent::sent(Some(TRACEPARENT));
    described.input = inline(b"12345");
    let job = described.run.job;
    let outcome = talk.run(described).await;
    let said = String::from_utf8(node.get(&outcome.output)).unwrap();
    assert_eq!(
        said,
        format!(
            "id {job}\nattempt 3\narguments describe\nenvironment COLOUR=blue TRACEPARENT={TRACEPARENT}\ninput 5\n"
        )
    );
    let lines = talk.run(start(2, probe, &["log-lines", "3"])).await;
    assert_eq!(node.get(&lines.log), b"TRACE line 0\nDEBUG line 1\nINFO  line 2\n");
    let worked = talk.run(start(3, probe, &["work", "700"])).await;
    assert_eq!(node.get(&worked.output), b"700");
    let progress = &talk.shown.progress;
    assert!(!progress.is_empty() && progress.iter().all(|progress| progress.total == 700), "{progress:?}");
    assert!(progress.is_sorted_by_key(|progress| progress.done));
    let most = worked.usage.run_us / 100_000 + 2;
    assert!(progress.len() as u64 <= most, "{} in {} µs", progress.len(), worked.usage.run_us);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_reads_and_writes_blobs() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let probe = node.put(component(PROBE));
    let written = talk.run(start(1, probe, &["blob", "300000"])).await;
    let Payload::Blob { id, size: 300_000 } = written.output else { panic!("{written:?}") };
    let whole = node.get(&written.output);
    let name = id.to_string();
    assert_eq!(node.get(&talk.run(start(2, probe, &["read", &name])).await.output), whole);
    let part = talk.run(start(3, probe, &["seek", &name, "200001", "70000"])).await;
    assert_eq!(node.get(&part.output), whole[200_001..270_001]);
    let mut echo = start(4, probe, &["echo"]);
    echo.input = Payload::Blob { id, size: 300_000 };
    assert_eq!(talk.run(echo).await.output, written.output);
    let mut denied = start(5, probe, &["read", &name]);
    denied.grants.clear();
    let outcome = talk.run(denied).await;
    assert!(failure(&outcome).message.contains("not granted blob"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_function_uses_keys_and_the_node_answers() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let probe = node.put(component(PROBE));
    let entry = |value| Entry { key: "k".into(), value, version: 4 };
    let (text, counter) = (entry(Value::Text("seven".into())), entry(Value::Counter(12)));
    let refused = |kind| Err(Problem::new(kind, "the node says no"));
    let cases = [
        (vec!["get", "user", "local", "k"], Ok(Answer::Entry(Some(text.clone()))), "text seven"),
        (vec!["get", "function", "global", "k"], Ok(Answer::Entry(None)), "none"),
        (vec!["delete", "function", "global", "k"], Ok(Answer::Entry(Some(text.clone()))), "true"),
        (vec!["count", "function", "global", "k", "5"], Ok(Answer::Entry(Some(counter))), "12"),
        (vec!["cas", "function", "k", "4", "new"], Ok(Answer::Entry(Some(text.clone()))), "true"),
        (vec!["cas", "function", "k", "4"], refused(Kind::PreconditionFailed), "false"),
        (vec!["get", "project", "global", "k"], refused(Kind::NotFound), ""),
    ];
    for (number, (args, answer, said)) in cases.into_iter().enumerate() {
        let start = start(number as u8, probe, &args);
        let run = start.run;
        talk.say(ToWorker::Start(Box::new(start))).await;
        let (call, ask) = talk.asked().await;
        let Ask::Kv { namespace, scope, operation } = ask else { panic!("{args:?} asked {ask:?}") };
        let wanted = match args[1] {
            "user" => Namespace::User,
            "project" => Namespace::Project,
            _ => Namespace::Function,
        };
        assert_eq!(namespace, wanted);
        let local = args[0] == "cas" || args[2] == "local";
        assert_eq!(scope == Scope::Local, local, "{args:?}");
        match (args[0], args.len(), operation) {
            ("get", _, KvOperation::Get(key)) => assert_eq!(key.key, "k"),
            ("delete", _, KvOperation::Delete(key)) => assert_eq!(key.key, "k"),
            ("count", _, KvOperation::Incr(by)) => assert_eq!(by.amount, 5),
            ("cas", 5, KvOperation::Cas(put)) => {
                assert_eq!((put.version, put.value), (Some(4), Value::Text("new".into())))
            }
            ("cas", 4, KvOperation::CasDelete { version, .. }) => assert_eq!(version, 4),
            (_, _, other) => panic!("{args:?} asked {other:?}"),
        }
        let fails = said.is_empty();
        talk.answer(call, answer).await;
        let outcome = talk.ended(run).await;
        talk.say(ToWorker::Settled(run)).await;
        if fails {
            assert!(failure(&outcome).message.contains("the node says no"), "{outcome:?}");
        } else {
            assert_eq!(String::from_utf8(node.get(&outcome.output)).unwrap(), said, "{args:?}");
        }
    }
    let mut denied = start(99, probe, &["get", "user", "local", "k"]);
    denied.grants.clear();
    let outcome = talk.run(denied).await;
    assert!(failure(&outcome).message.contains("not granted kv"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ending_is_said_at_each_attachment_until_it_is_settled() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let minimal = node.put(component("wat/minimal.wat"));
    let start = start(1, minimal, &[]);
    let run = start.run;
    talk.say(ToWorker::Start(Box::new(start))).await;
    let first = talk.ended(run).await;
    for _ in 0..3 {
        talk.connection.close(0u32.into(), b"the node goes away");
        talk = node.attached().await;
        assert_eq!(talk.attach.runs, [run]);
        assert_eq!(talk.ended(run).await, first);
    }
    talk.say(ToWorker::Settled(run)).await;
    talk.until(|message| (message == FromWorker::Heartbeat { runs: vec![] }).then_some(())).await;
    talk.connection.close(0u32.into(), b"the node goes away");
    assert!(node.attached().await.attach.runs.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_outlives_a_node_that_is_killed_and_finds_the_new_one() {
    let mut node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let incarnation = talk.attach.incarnation;
    let probe = node.put(component(PROBE));
    let start = start(1, probe, &["get", "user", "global", "k"]);
    let run = start.run;
    talk.say(ToWorker::Start(Box::new(start))).await;
    // The call is never answered: the node dies first.
    talk.asked().await;
    node.restart();
    let mut again = node.attached().await;
    assert_eq!((again.attach.incarnation, &again.attach.runs), (incarnation, &vec![run]));
    let (call, ask) = again.asked().await;
    assert!(matches!(ask, Ask::Kv { operation: KvOperation::Get(_), .. }), "asked again, since it is safe");
    again.answer(call, Ok(Answer::Entry(None))).await;
    let outcome = again.ended(run).await;
    assert_eq!((outcome.ending, node.get(&outcome.output)), (Ending::Succeeded, b"none".to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_goes_on_from_what_was_saved_and_saves_its_steps() {
    let node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let probe = node.put(component(PROBE));
    for (number, (len, last)) in
        [("1", inline(b"3")), ("20000", Payload::Blob { id: node.put("3"), size: 1 })].into_iter().enumerate()
    {
        let mut start = start(number as u8, probe, &["steps", "5", "0", len]);
        start.checkpoint = Some(last);
        start.grants.clear();
        let run = start.run;
        talk.say(ToWorker::Start(Box::new(start))).await;
        for step in ["4", "5"] {
            let (call, ask) = talk.asked().await;
            let Ask::Checkpoint { number, bytes } = ask else { panic!("{ask:?}") };
            assert_eq!(number + 3, step.parse::<u64>().unwrap());
            assert_eq!(String::from_utf8(node.get(&bytes)).unwrap().trim_end(), step);
            assert_eq!(bytes.blob().is_some(), len.len() > 1, "longer ones are blobs");
            talk.answer(call, Ok(Answer::Saved)).await;
        }
        let outcome = talk.ended(run).await;
        assert_eq!(node.get(&outcome.output), b"from 3 to 5", "{outcome:?}");
        talk.say(ToWorker::Settled(run)).await;
    }

    // Refused since another run has taken its place, and too long.
    let steps = start(7, probe, &["steps", "5"]);
    let run = steps.run;
    talk.say(ToWorker::Start(Box::new(steps))).await;
    let (call, _) = talk.asked().await;
    talk.answer(call, Err(Problem::new(Kind::Conflict, "it does not count any more"))).await;
    let outcome = talk.ended(run).await;
    assert!(failure(&outcome).message.contains("does not count any more"), "{outcome:?}");
    let outcome = talk.run(start(8, probe, &["steps", "1", "9", "16777217"])).await;
    assert!(failure(&outcome).message.contains("at most 16777216"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_checkpoint_is_saved_at_the_node_that_comes_back() {
    let mut node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let start = start(1, node.put(component(PROBE)), &["steps", "1"]);
    let run = start.run;
    talk.say(ToWorker::Start(Box::new(start))).await;
    let (_, asked) = talk.asked().await;
    node.restart();
    let mut again = node.attached().await;
    let (call, ask) = again.asked().await;
    assert_eq!(ask, asked, "once more, with the same number");
    again.answer(call, Ok(Answer::Saved)).await;
    assert_eq!(node.get(&again.ended(run).await.output), b"from 0 to 1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_increment_is_never_asked_twice() {
    let mut node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let start = start(1, node.put(component(PROBE)), &["count", "user", "global", "k", "1"]);
    let run = start.run;
    talk.say(ToWorker::Start(Box::new(start))).await;
    talk.asked().await;
    node.restart();
    let mut again = node.attached().await;
    let outcome = again
        .until(|message| match message {
            FromWorker::Ask { ask, .. } => panic!("asked again: {ask:?}"),
            FromWorker::Ended(ended, outcome) if ended == run => Some(*outcome),
            _ => None,
        })
        .await;
    assert!(failure(&outcome).message.contains("connection"), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_counts_for_nothing_is_dropped_on_attachment() {
    let mut node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let probe = node.put(component(PROBE));
    let dropped = start(1, probe, &["loop"]);
    let run = dropped.run;
    talk.say(ToWorker::Start(Box::new(dropped))).await;
    talk.started(run).await;
    node.restart();
    let mut again = node.accept().await;
    assert_eq!(again.attach.runs, [run]);
    again.welcome(vec![run]).await;
    again
        .until(|message| match message {
            FromWorker::Ended(..) => panic!("nobody asked for its ending"),
            FromWorker::Heartbeat { runs } => runs.is_empty().then_some(()),
            _ => None,
        })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_are_shown_again_to_a_node_that_lost_them() {
    let mut node = Node::new();
    let (_worker, mut talk) = node.with_worker().await;
    let mut start = start(1, node.put(component(PROBE)), &["log"]);
    let run = start.run;
    start.limits.run_ms = Some(20_000);
    talk.say(ToWorker::Start(Box::new(start))).await;
    talk.until(|message| matches!(message, FromWorker::Log { .. }).then_some(())).await;
    node.restart();
    let mut again = node.attached().await;
    again.until(|message| matches!(message, FromWorker::Log { offset: 0, .. }).then_some(())).await;
    again.say(ToWorker::Cancel(run)).await;
    let outcome = again.ended(run).await;
    let log = node.get(&outcome.log);
    assert!(log.starts_with(&again.shown.logs[&run]), "what was shown is the log's beginning");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_it_lets_runs_end_and_leaves() {
    let node = Node::new();
    let (mut worker, mut talk) = node.with_worker().await;
    let probe = node.put(component(PROBE));
    let working = start(1, probe, &["work", "100"]);
    let run = working.run;
    talk.say(ToWorker::Start(Box::new(working))).await;
    talk.started(run).await;
    worker.stop();
    talk.until(|message| (message == FromWorker::Leaving).then_some(())).await;
    let late = start(2, probe, &["loop"]);
    let late_run = late.run;
    talk.say(ToWorker::Start(Box::new(late))).await;
    talk.until(|message| matches!(message, FromWorker::Declined(run, _) if run == late_run).then_some(())).await;
    assert_eq!(talk.ended(run).await.ending, Ending::Succeeded);
    talk.say(ToWorker::Settled(run)).await;
    drop(talk);
    assert_eq!(worker.ended().await.unwrap(), Exit::Left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn told_to_stop_now_it_interrupts_and_says_so() {
    let node = Node::new();
    let (worker, mut talk) = node.with_worker().await;
    let endless = start(1, node.put(component(PROBE)), &["loop"]);
    let run = endless.run;
    talk.say(ToWorker::Start(Box::new(endless))).await;
    talk.started(run).await;
    talk.say(ToWorker::Stop { now: true }).await;
    let outcome = talk.ended(run).await;
    assert_eq!(failure(&outcome).code, FailureCode::WorkerLost, "tried again elsewhere");
    talk.say(ToWorker::Settled(run)).await;
    assert_eq!(worker.ended().await.unwrap(), Exit::Left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_worker_for_the_same_folder_is_refused() {
    let node = Node::new();
    let (_worker, _talk) = node.with_worker().await;
    let error = Worker::spawn(node.config()).ended().await.unwrap_err();
    assert!(matches!(error, Error::Local(_)) && error.to_string().contains("already runs"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_not_wanted_says_why() {
    let node = Node::new();
    let mut config = node.config();
    let place = std::fs::read_to_string(node.files().address).unwrap().parse().unwrap();
    config.attachment = Attachment::Ticket { node: place, ticket: "forged".into() };
    let worker = Worker::spawn(config);
    let mut talk = node.accept().await;
    talk.say(ToWorker::Refused(Problem::new(Kind::Unauthenticated, "the ticket is not ours"))).await;
    let error = worker.ended().await.unwrap_err().to_string();
    assert!(error.contains("the ticket is not ours"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_not_ready_is_asked_again() {
    let node = Node::new();
    let _worker = Worker::spawn(node.config());
    for _ in 0..3 {
        node.accept().await.say(ToWorker::Refused(Problem::new(Kind::Unavailable, "not yet"))).await;
    }
    node.attached().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_does_not_end_is_interrupted_when_the_worker_must_go() {
    let node = Node::new();
    let mut config = node.config();
    config.drain_ms = 100;
    let mut worker = Worker::spawn(config);
    let mut talk = node.attached().await;
    let endless = start(1, node.put(component(PROBE)), &["loop"]);
    let run = endless.run;
    talk.say(ToWorker::Start(Box::new(endless))).await;
    talk.started(run).await;
    worker.stop();
    assert_eq!(failure(&talk.ended(run).await).code, FailureCode::WorkerLost);
    // Never acknowledged: the worker goes all the same.
    assert_eq!(worker.ended().await.unwrap(), Exit::Left);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_local_worker_without_a_node_leaves_after_a_while() {
    let node = Node::new();
    std::fs::remove_file(node.files().address).unwrap();
    let mut config = node.config();
    config.orphan_ms = 100;
    assert_eq!(Worker::spawn(config).ended().await.unwrap(), Exit::Orphaned);
}
