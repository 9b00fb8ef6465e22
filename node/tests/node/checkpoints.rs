//! Functions that save their state: whatever is killed under them, they go on where they were.

use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::object::function::{Grant, Needs, NewFunction};
use shoal_protocol::object::job::{Job, State, Submit};

use crate::mesh::Mesh;
use crate::patience::{PATIENCE, Patience};
use crate::{file, node};

/// The function that saves each of its steps.
async fn probe(client: &Client) -> NewFunction {
    let component = client.put_bytes(&file("tests/guests/probe/probe.wasm"), true, "probe").await.unwrap().id;
    // It imports them all; what it is granted it does not need here.
    NewFunction { grants: [Grant::Blob, Grant::Kv].into(), ..NewFunction::new("probe", component) }
}

fn steps(args: &[&str]) -> Submit {
    let args = ["steps"].iter().chain(args).map(ToString::to_string).collect();
    Submit { function: "probe".into(), args, ..Submit::default() }
}

/// Waits until a run of a later epoch has saved more checkpoints than this.
async fn saved(client: &Client, id: ObjectId, epoch: u64, number: u64) -> Job {
    let patience = Patience::new();
    loop {
        // A client that is cut off comes back by itself.
        let seen = client.job(id, false).await;
        if let Ok(job) = &seen {
            assert!(!job.state.is_settled(), "{job:?}");
            if job.checkpoint.is_some_and(|saved| saved.epoch > epoch && saved.number > number) {
                return job.clone();
            }
        }
        patience.look_again(|| format!("{seen:?}")).await;
    }
}

async fn result(client: &Client, id: ObjectId) -> (Job, String) {
    let job = client.wait(id, Some(PATIENCE), true).await.unwrap();
    assert_eq!(job.state, State::Succeeded, "{job:?}");
    let text = job.output.clone().unwrap().inline.unwrap();
    (job, String::from_utf8(text.to_vec()).unwrap())
}

#[tokio::test]
async fn a_job_goes_on_from_its_checkpoint_when_its_worker_and_its_node_are_killed() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    client.deploy(&probe(&client).await).await.unwrap();
    let id = client.submit(&steps(&["3000"])).await.unwrap();
    let first = saved(&client, id, 0, 20).await;
    assert!(node.kill_worker());
    let second = saved(&client, id, first.epoch, 20).await;
    assert_eq!(second.attempts.last().unwrap().resumed, Some(first.epoch));
    let shown = node.shoal(&["job", "show", &id.to_string()]).output().unwrap();
    let shown = String::from_utf8(shown.stdout).unwrap();
    assert!(shown.contains(&format!("{} from {}", second.epoch, first.epoch)), "{shown}");

    // The worker first: one that lives goes on by itself.
    node.kill_worker();
    node.kill().unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    let (job, text) = result(&client, id).await;
    let (from, to) = text.strip_prefix("from ").unwrap().split_once(" to ").unwrap();
    // A run of which a killed node has journaled nothing but its epoch is not counted.
    assert!(job.epoch > second.epoch && to == "3000", "{text}: {job:?}");
    assert!(from.parse::<u64>().unwrap() > 40, "{text}");
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_job_that_fails_is_tried_again_from_its_checkpoint_if_it_says_so() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    client.deploy(&probe(&client).await).await.unwrap();
    let arguments = ["submit", "probe", "--arg", "steps", "--arg", "9", "--arg", "4", "--retry-on", "guest", "--wait"];
    let output = node.shoal(&arguments).output().unwrap();
    assert_eq!(String::from_utf8(output.stdout).unwrap(), "from 4 to 9");
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_run_at_another_node_goes_on_from_its_checkpoint_when_that_is_killed() {
    let mut mesh = Mesh::start(2).await;
    let client = mesh.clients[0].clone();
    let needs = Needs { labels: [("place".to_owned(), "1".to_owned())].into(), ..Needs::default() };
    mesh.deploy(&NewFunction { needs, ..probe(&client).await }).await;
    // Too long for a message: the home fetches each.
    let id = client.submit(&steps(&["80", "80", "20000"])).await.unwrap();
    let first = saved(&client, id, 0, 10).await;
    let executor = mesh.clients[1].node().await.unwrap().id;
    mesh.nodes[1].kill_worker();
    mesh.nodes[1].kill().unwrap();
    mesh.nodes[1].start().await.unwrap();
    let (job, text) = result(&client, id).await;
    let (from, to) = text.strip_prefix("from ").unwrap().split_once(" to ").unwrap();
    assert_eq!(to, "80");
    assert!(from.parse::<u64>().unwrap() > 10, "{text}");
    let last = job.attempts.last().unwrap();
    assert!(last.resumed >= Some(first.epoch) && last.node == Some(executor), "{last:?}");
    mesh.stop().await;
}
