//! The life of a job by the command line: held, released, waiting for its time, bounded, tried again, repeated.

use std::time::{SystemTime, UNIX_EPOCH};

use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{FailureCode, Job, ReasonCode, State};
use shoal_testnet::Node;

use crate::patience::{PATIENCE, Patience};
use crate::{local_worker, node};

/// What a command prints; it has to succeed.
fn shoal(node: &Node, arguments: &[&str]) -> String {
    let output = node.shoal(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What a command complains of.
fn refused(node: &Node, arguments: &[&str]) -> String {
    let output = node.shoal(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn submit(node: &Node, flags: &[&str]) -> ObjectId {
    let arguments = [&["submit", "sleeper", "--arg", "sleep", "--arg"], flags].concat();
    shoal(node, &arguments).trim().parse().unwrap()
}

async fn ended(client: &Client, id: ObjectId) -> Job {
    let job = client.wait(id, Some(PATIENCE), false).await.unwrap();
    assert!(job.state.is_settled(), "{job:?}");
    job
}

fn now_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64
}

#[tokio::test]
async fn a_job_waits_ends_and_is_repeated_as_the_command_line_says() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    local_worker::deploy(&client).await;

    let held = submit(&node, &["1", "--hold", "--priority", "7"]);
    let soon = submit(&node, &["1", "--not-before", "2s"]);
    let never = submit(&node, &["1", "--not-before", "2d", "--total-limit", "1s"]);
    let stuck = submit(&node, &["1", "--needs-capability", "oracle", "--queue-limit", "300ms"]);
    let job = client.job(held, false).await.unwrap();
    assert_eq!((job.state, job.priority, job.reason.unwrap().code), (State::Held, 7, ReasonCode::Held));
    assert!(shoal(&node, &["job", "show", &held.to_string()]).contains("held until somebody releases it"));
    assert!(shoal(&node, &["job", "ls", "--state", "held"]).contains(&held.to_string()));
    assert_eq!(client.job(soon, false).await.unwrap().reason.unwrap().code, ReasonCode::NotBefore);

    node.kill().unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    let job = ended(&client, soon).await;
    assert_eq!(job.state, State::Succeeded);
    assert!(job.attempts[0].offered_ms >= job.not_before_ms.unwrap() && job.not_before_ms.unwrap() <= now_ms());
    for (id, code) in [(never, FailureCode::TotalLimit), (stuck, FailureCode::QueueLimit)] {
        let job = ended(&client, id).await;
        assert_eq!((job.state, job.failure.unwrap().code), (State::Expired, code));
    }

    assert_eq!(client.job(held, false).await.unwrap().state, State::Held, "through a kill");
    shoal(&node, &["job", "release", &held.to_string()]);
    assert_eq!(ended(&client, held).await.state, State::Succeeded);
    assert!(refused(&node, &["job", "hold", &held.to_string()]).contains("succeeded"));
    let again: ObjectId = shoal(&node, &["job", "rerun", &held.to_string()]).trim().parse().unwrap();
    let job = ended(&client, again).await;
    assert_eq!((job.state, job.rerun_of, job.args), (State::Succeeded, Some(held), vec!["sleep".into(), "1".into()]));

    let long = submit(&node, &["600000", "--total-limit", "700ms"]);
    let job = ended(&client, long).await;
    assert_eq!((job.state, job.failure.unwrap().code), (State::TimedOut, FailureCode::TotalLimit));
    let flags = ["--timeout", "100ms", "--attempts", "2", "--retry-on", "timed_out", "--retry-pause", "20ms"];
    let twice = submit(&node, &[&["600000"], &flags[..]].concat());
    let job = ended(&client, twice).await;
    assert_eq!((job.state, job.attempts_total), (State::TimedOut, 2));

    after_others(&node, &client).await;
    assert!(refused(&node, &["submit", "sleeper", "--priority", "101"]).contains("-100 to 100"));
    assert!(refused(&node, &["submit", "sleeper", "--not-before", "tomorrow"]).contains("is no time"));
    assert!(refused(&node, &["submit", "sleeper", "--queue-limit", "0s"]).contains("limits.queue_ms"));
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_job_that_is_submitted_again_under_its_key_is_the_same_job() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    local_worker::deploy(&client).await;
    let first = submit(&node, &["1", "--key", "order 7"]);
    assert_eq!(submit(&node, &["1", "--key", "order 7"]), first);
    assert!(refused(&node, &["submit", "sleeper", "--key", "order 7"]).contains(&first.to_string()));
    assert_eq!(ended(&client, first).await.state, State::Succeeded);
    node.kill().unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    assert_eq!(submit(&node, &["1", "--key", "order 7"]), first, "through a kill, and though it has ended");
    assert!(shoal(&node, &["job", "show", &first.to_string()]).contains("order 7"));
    client.forget(first).await.unwrap();
    assert_ne!(submit(&node, &["1", "--key", "order 7"]), first);
    node.stop().await.unwrap();
}

#[tokio::test]
async fn dead_letters_are_sent_again_and_old_jobs_go() {
    let mut node = Node::new(crate::shoal()).unwrap().with_arguments(&["--keep-jobs", "3", "--keep-dead", "1h"]);
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    local_worker::deploy(&client).await;
    let fails = |n: &str| -> ObjectId {
        shoal(&node, &["submit", "sleeper", "--arg", "exit", "--arg", n]).trim().parse().unwrap()
    };
    let dead = [fails("1"), fails("2")];
    for id in dead {
        assert_eq!(ended(&client, id).await.state, State::Failed);
    }
    let mut well = Vec::new();
    for _ in 0..5 {
        let id = submit(&node, &["0"]);
        assert_eq!(ended(&client, id).await.state, State::Succeeded);
        well.push(id);
    }
    let listed = shoal(&node, &["job", "ls", "--dead"]);
    assert!(dead.iter().all(|id| listed.contains(&id.to_string())) && !listed.contains("succeeded"), "{listed}");
    // A kill changes nothing of what is kept.
    node.kill().unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    let gone = well.remove(0);
    let patience = Patience::new();
    while let Ok(kept) = client.job(gone, false).await {
        patience.look_again(|| format!("{kept:?}")).await;
    }
    let again = shoal(&node, &["job", "rerun", "--dead"]);
    let again: Vec<ObjectId> = again.lines().map(|line| line.parse().unwrap()).collect();
    assert_eq!(again.len(), 2);
    for id in again {
        let job = ended(&client, id).await;
        assert!(job.state == State::Failed && dead.contains(&job.rerun_of.unwrap()), "{job:?}");
        assert!(!shoal(&node, &["job", "ls", "--dead"]).contains(&job.rerun_of.unwrap().to_string()));
    }
    assert!(refused(&node, &["job", "rerun"]).contains("--dead"));
    let counts = client.node().await.unwrap().jobs.unwrap();
    assert_eq!(counts.accepted, counts.waiting + counts.running + counts.settled + counts.swept);
    node.stop().await.unwrap();
}

/// A job that runs after others, with the result of one of them, or ends with the reason why it cannot.
async fn after_others(node: &Node, client: &Client) {
    let id = |id: &ObjectId| id.to_string();
    let first = submit(node, &["1", "--hold"]);
    let second = submit(node, &["1", "--result-of", &id(&first)]);
    let last = submit(node, &["1", "--after-any", &id(&first), "--after", &id(&second)]);
    let never = submit(node, &["1", "--after-not-ok", &id(&first)]);
    let job = client.job(last, false).await.unwrap();
    assert_eq!((job.state, job.reason.unwrap().code), (State::Blocked, ReasonCode::Dependency));
    assert!(shoal(node, &["job", "show", &id(&last)]).contains(&id(&second)));
    shoal(node, &["job", "release", &id(&first)]);
    let [first, second, last] = [ended(client, first).await, ended(client, second).await, ended(client, last).await];
    assert!([&first, &second, &last].iter().all(|job| job.state == State::Succeeded));
    assert_eq!(second.input.id, first.output.unwrap().id);
    assert!(last.attempts[0].offered_ms >= second.settled_ms.unwrap());
    let job = ended(client, never).await;
    let failure = job.failure.unwrap();
    assert_eq!((job.state, failure.code), (State::Failed, FailureCode::Dependency));
    assert!(failure.message.contains("has succeeded"), "{}", failure.message);
}
