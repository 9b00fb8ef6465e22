//! Arrays by the command line: many jobs of one submission, through a kill of their node.

use std::time::Duration;

use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{FailureCode, Job, ReasonCode, State};
use shoal_testnet::Node;

use crate::{local_worker, node};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(60);

fn shoal(node: &Node, arguments: &[&str]) -> String {
    let output = node.shoal(arguments).output().unwrap();
    assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn refused(node: &Node, arguments: &[&str]) -> String {
    let output = node.shoal(arguments).output().unwrap();
    assert!(!output.status.success(), "{arguments:?}");
    String::from_utf8(output.stderr).unwrap()
}

fn submit(node: &Node, flags: &[&str]) -> ObjectId {
    let arguments = [&["submit", "sleeper"], flags].concat();
    shoal(node, &arguments).trim().parse().unwrap()
}

async fn ended(client: &Client, id: ObjectId) -> Job {
    let job = client.wait(id, Some(PATIENCE), false).await.unwrap();
    assert!(job.state.is_settled(), "{job:?}");
    job
}

#[tokio::test]
async fn an_array_runs_each_of_its_elements_once_through_a_kill_of_its_node() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    local_worker::deploy(&client).await;

    let array = submit(&node, &["--arg", "environment", "--array", "10-60:10%2"]);
    let job = ended(&client, array).await;
    assert_eq!((job.state, job.elements.unwrap().succeeded), (State::Succeeded, 6));
    let said = shoal(&node, &["job", "result", &format!("{array}_30")]);
    for line in ["SHOAL_ARRAY_INDEX=30", "SHOAL_ARRAY_SIZE=6", "SHOAL_ARRAY_STEP=10", "SHOAL_ARRAY_LAST=60"] {
        assert!(said.lines().any(|said| said == line), "{line}: {said}");
    }
    assert!(refused(&node, &["job", "result", &array.to_string()]).contains(&format!("as {array}_10")));
    let listed = shoal(&node, &["job", "ls", "--array", &array.to_string()]);
    assert!([10, 20, 30, 40, 50, 60].iter().all(|index| listed.contains(&format!("{array}_{index} "))), "{listed}");
    assert!(shoal(&node, &["job", "show", &array.to_string()]).contains("10-60:10%2: 6 succeeded"));
    let listed = shoal(&node, &["job", "ls"]);
    assert_eq!(listed.matches("sleeper@").count(), 1, "an array is one job of the list: {listed}");

    // Slow enough that some are under way and some have not begun when the node is killed.
    let slow = submit(&node, &["--arg", "sleep", "--arg", "300", "--array", "0-9%2"]);
    let after = submit(&node, &["--arg", "sleep", "--arg", "1", "--after", &format!("{slow}_9")]);
    ended(&client, slow.element(1).unwrap()).await;
    let job = client.job(slow, false).await.unwrap();
    assert_eq!((job.state, job.array_id), (State::Queued, None));
    assert_eq!(client.job(slow.element(9).unwrap(), false).await.unwrap().state, State::Queued);
    assert!(refused(&node, &["job", "cancel", &format!("{slow}_9")]).contains("has not begun"));
    node.kill().unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    let job = ended(&client, slow).await;
    assert_eq!((job.state, job.elements.unwrap().succeeded), (State::Succeeded, 10));
    assert_eq!(ended(&client, after).await.state, State::Succeeded);
    let counts = client.node().await.unwrap().jobs.unwrap();
    assert_eq!((counts.accepted, counts.settled), (17, 17), "elements count one by one");

    let never = submit(&node, &["--arg", "sleep", "--arg", "600000", "--array", "0-999999%1"]);
    let element = never.element(0).unwrap();
    while client.job(element, false).await.unwrap().state != State::Running {
        client.wait(element, Some(Duration::from_millis(20)), false).await.unwrap();
    }
    let reason = client.job(never, false).await.unwrap().reason.unwrap();
    assert_eq!(reason.code, ReasonCode::Elements);
    shoal(&node, &["job", "cancel", &never.to_string()]);
    let job = ended(&client, never).await;
    assert_eq!((job.state, job.elements.unwrap().cut), (State::Cancelled, 999_999));
    assert_eq!(client.job(never.element(999_999).unwrap(), false).await.unwrap().state, State::Cancelled);

    let bad = submit(&node, &["--arg", "panic", "--array", "0-2"]);
    let job = ended(&client, bad).await;
    assert_eq!((job.state, job.failure.unwrap().code), (State::Failed, FailureCode::Elements));
    let again: ObjectId = shoal(&node, &["job", "rerun", &format!("{bad}_1")]).trim().parse().unwrap();
    let job = ended(&client, again).await;
    assert_eq!(
        (job.state, job.array.unwrap().to_string(), job.rerun_of),
        (State::Failed, "1-1".into(), bad.element(1))
    );
    assert!(refused(&node, &["submit", "sleeper", "--result-of", &bad.to_string()]).contains("is an array"));
    assert!(refused(&node, &["submit", "sleeper", "--array", "9-0"]).contains("has no element"));
    assert!(refused(&node, &["job", "rm", &format!("{bad}_1")]).contains("with its array"));

    shoal(&node, &["job", "rm", &bad.to_string()]);
    assert!(refused(&node, &["job", "show", &format!("{bad}_1")]).contains("there is no job"));
    node.stop().await.unwrap();
}

#[tokio::test]
async fn dead_elements_are_sent_again_and_an_array_of_which_some_have_succeeded_stays() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    local_worker::deploy(&client).await;
    let ids = |text: &str| -> Vec<ObjectId> { text.lines().map(|line| line.parse().unwrap()).collect() };

    let bad = submit(&node, &["--arg", "panic", "--array", "0-2"]);
    assert_eq!(ended(&client, bad).await.state, State::Failed);
    let listed = shoal(&node, &["job", "ls", "--dead", "--array", &bad.to_string()]);
    assert!((0..3).all(|index| listed.contains(&format!("{bad}_{index} "))), "{listed}");
    let again = ids(&shoal(&node, &["job", "rerun", "--dead", "--array", &bad.to_string()]));
    assert_eq!(again.len(), 3);
    for id in again {
        let job = ended(&client, id).await;
        assert_eq!((job.state, job.rerun_of.and_then(|dead| bad.index_of(dead)).is_some()), (State::Failed, true));
    }

    let mixed = submit(&node, &["--arg", "sleep", "--arg", "5000", "--array", "0-1"]);
    let element = mixed.element(0).unwrap();
    while client.job(element, false).await.unwrap().state != State::Running {
        client.wait(element, Some(Duration::from_millis(20)), false).await.unwrap();
    }
    client.cancel(element).await.unwrap();
    let job = ended(&client, mixed).await;
    assert_eq!((job.state, job.elements.unwrap().succeeded), (State::Failed, 1));
    let output = node.shoal(&["job", "rerun", "--dead"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && said.contains(&format!("rerun --dead --array {mixed}")), "{said}");
    assert_eq!(ids(&String::from_utf8(output.stdout).unwrap()).len(), 4, "all that have failed but this one");
    assert!(client.job(mixed, false).await.is_ok() && client.job(bad, false).await.is_err());

    let keyed = ["--arg", "sleep", "--arg", "1", "--key", "campaign 7", "--array"];
    let first = submit(&node, &[&keyed[..], &["0-2"]].concat());
    assert_eq!(submit(&node, &[&keyed[..], &["0-2"]].concat()), first);
    let other = refused(&node, &[&["submit", "sleeper"], &keyed[..], &["0-3"]].concat());
    assert!(other.contains(&first.to_string()), "{other}");
    node.stop().await.unwrap();
}
