//! The node's own worker: it dies, or is to be another.

use std::time::Duration;

use rustix::process::Pid;
use shoal_client::{Client, Options};
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::function::NewFunction;
use shoal_protocol::object::job::{Job, State, Submit};
use shoal_protocol::object::worker::Worker;
use shoal_protocol::{Kind, ObjectId};
use shoal_testnet::Node;

use crate::patience::Patience;
use crate::{file, node};

/// How long anything may take. Less than the 18 s after which a node gives up a worker that it does not hear.
const PATIENCE: Duration = Duration::from_secs(15);

/// Deploys a command that sleeps in its host for as many milliseconds as it is told.
pub async fn deploy(client: &Client) {
    let component = client.put_bytes(&file("tests/guests/wasip1/wasip1.wasm"), false, "").await.unwrap().id;
    client.deploy(&NewFunction::new("sleeper", component)).await.unwrap();
}

pub fn sleeper(sleep_ms: u32) -> Submit {
    let args = vec!["sleep".into(), sleep_ms.to_string()];
    Submit { function: "sleeper".into(), args, ..Submit::default() }
}

/// Submits a job and returns when it runs.
pub async fn running(client: &Client, submit: &Submit) -> ObjectId {
    let id = client.submit(submit).await.unwrap();
    until(client, id, |job| job.state == State::Running).await;
    id
}

/// Waits until the job is as it should be.
async fn until(client: &Client, id: ObjectId, condition: impl Fn(&Job) -> bool) -> Job {
    let patience = Patience::of(PATIENCE);
    loop {
        let job = client.job(id, true).await.unwrap();
        if condition(&job) {
            return job;
        }
        patience.look_again(|| format!("{job:?}")).await;
    }
}

/// Waits for another worker process in the place of this one.
pub async fn replaced(node: &Node, former: Pid) -> Pid {
    let patience = Patience::of(PATIENCE);
    loop {
        match node.worker() {
            Some(worker) if worker != former => return worker,
            worker => patience.look_again(|| format!("worker {worker:?}")).await,
        }
    }
}

/// Waits until the node's own worker is there and as it should be.
async fn own_worker(client: &Client, condition: impl Fn(&Worker) -> bool) -> Worker {
    let patience = Patience::of(PATIENCE);
    loop {
        let workers = client.workers(ListQuery::default()).await.unwrap().items;
        if let Some(worker) = workers.iter().find(|worker| worker.local && worker.attached && condition(worker)) {
            return worker.clone();
        }
        patience.look_again(|| format!("{workers:?}")).await;
    }
}

#[tokio::test]
async fn what_a_worker_had_that_died_while_no_node_ran_is_run_again_before_its_lease_ends() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    deploy(&client).await;
    let id = running(&client, &sleeper(3_000)).await;
    client.close().await;
    node.kill().unwrap();
    assert!(node.kill_worker());
    // As long as no worker can be started none can come back without the run: the node must know by itself.
    let log = node.data().join("worker/worker.log");
    std::fs::remove_file(&log).unwrap();
    std::fs::create_dir(&log).unwrap();
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    let waits = until(&client, id, |job| job.state == State::Queued).await;
    assert_eq!((waits.epoch, waits.attempts.len()), (1, 0), "the run is lost: {waits:?}");
    std::fs::remove_dir(&log).unwrap();
    let job = client.wait(id, None, true).await.unwrap();
    assert_eq!((job.state, job.epoch, job.attempts.len()), (State::Succeeded, 2, 1), "{:?}", job.attempts);
    client.close().await;
    node.stop().await.unwrap();
}

#[tokio::test]
async fn the_nodes_own_worker_is_deleted_in_order_and_a_fresh_one_takes_its_place() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    deploy(&client).await;
    let worker = own_worker(&client, |_| true).await;
    let former = node.worker().unwrap();
    let anybody = Client::connect_with(&node.gateway().unwrap(), Options::default()).await.unwrap();
    let refused = anybody.delete_worker(worker.id).await.expect_err("only an operator may");
    assert_eq!(refused.kind(), Some(Kind::Unauthenticated), "{refused}");
    anybody.close().await;

    let long = running(&client, &sleeper(2_000)).await;
    client.delete_worker(worker.id).await.unwrap();
    let next = client.submit(&sleeper(0)).await.unwrap();
    let fresh = replaced(&node, former).await;
    let long = client.wait(long, None, true).await.unwrap();
    assert_eq!((long.state, long.epoch, long.attempts.len()), (State::Succeeded, 1, 1), "{:?}", long.attempts);
    let next = client.wait(next, None, true).await.unwrap();
    assert_eq!((next.state, next.attempts.len()), (State::Succeeded, 1), "{:?}", next.attempts);
    let now = own_worker(&client, |now| now.attached_ms > worker.attached_ms).await;
    assert_eq!((now.id, now.cordoned), (worker.id, false));
    assert_eq!(node.worker(), Some(fresh), "one is enough");
    client.close().await;
    node.stop().await.unwrap();
}

#[tokio::test]
async fn a_node_that_starts_with_other_settings_has_a_worker_with_these() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    own_worker(&client, |worker| worker.offer.labels.is_empty()).await;
    client.close().await;
    let former = node.worker().unwrap();
    node.kill().unwrap();
    let mut node = node.with_arguments(&["--label", "rack=7"]);
    node.start().await.unwrap();
    let client = node.client().await.unwrap();
    own_worker(&client, |worker| worker.offer.labels.get("rack").is_some_and(|rack| rack == "7")).await;
    assert_ne!(node.worker(), Some(former));
    client.close().await;
    node.stop().await.unwrap();
}
