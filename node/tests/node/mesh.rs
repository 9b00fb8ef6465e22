//! Several nodes on this machine, each whole, that were told of one another's address.

use std::process::Command;
use std::time::{Duration, Instant};

use shoal_client::{Client, Error};
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::function::{Function, Grant, Needs, NewFunction};
use shoal_protocol::object::job::{Input, Job, State, Submit};
use shoal_protocol::object::kv::{Scope, Value};
use shoal_protocol::object::node::{Path, Replica};
use shoal_protocol::{BlobId, Kind, NodeId};
use shoal_testnet::Node;

use crate::local_worker::sleeper;
use crate::{file, shoal};

/// How long anything may take on a busy machine.
const PATIENCE: Duration = Duration::from_secs(40);
/// The pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Nodes with labels `place=0`, `place=1`, ..., and a client at each that speaks for one and the same user.
pub(crate) struct Mesh {
    pub(crate) clients: Vec<Client>,
    pub(crate) nodes: Vec<Node>,
}

impl Mesh {
    pub(crate) async fn start(count: usize) -> Self {
        let mut nodes: Vec<Node> = Vec::new();
        for place in 0..count {
            let label = format!("place={place}");
            let mut node = Node::new(shoal()).unwrap().with_arguments(&["--label", &label]);
            if let Some(first) = nodes.first() {
                node = node.with_arguments(&["--join", &first.mesh_address().unwrap()]);
            }
            node.start().await.unwrap();
            nodes.push(node);
        }
        let token = output(nodes[0].shoal(&["token", "mint"]));
        let mut clients = Vec::new();
        for node in &nodes {
            // The token counts where its user is known: that is what replication brings.
            let (gateway, token) = (&node.gateway().unwrap(), token.trim());
            clients.push(until_ok(|| Client::connect(gateway, Some(token.to_owned()))).await);
        }
        let mesh = Self { clients, nodes };
        for client in &mesh.clients {
            until(|| async {
                let nodes = client.nodes(ListQuery::default()).await.unwrap().items;
                let peers = nodes.iter().filter_map(|node| node.peer.as_ref());
                let seen = peers.filter(|peer| peer.neighbour && peer.replica == Replica::Equal);
                (seen.count() == count - 1).then_some(())
            })
            .await;
        }
        mesh
    }

    /// Deploys a function at the first node and returns when every node knows it.
    pub(crate) async fn deploy(&self, new: &NewFunction) -> Function {
        let function = self.clients[0].deploy(new).await.unwrap();
        for client in &self.clients {
            until(|| async { client.function(function.id).await.ok() }).await;
        }
        function
    }

    async fn id(&self, place: usize) -> NodeId {
        self.clients[place].node().await.unwrap().id
    }

    pub(crate) async fn stop(mut self) {
        drop(self.clients);
        for node in &mut self.nodes {
            node.stop().await.unwrap();
        }
    }
}

fn output(mut command: Command) -> String {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) async fn until<T, F: Future<Output = Option<T>>>(look: impl Fn() -> F) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "it did not come in time");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

async fn until_ok<T, F: Future<Output = Result<T, Error>>>(attempt: impl Fn() -> F) -> T {
    until(|| async { attempt().await.ok() }).await
}

fn at(place: usize) -> Needs {
    Needs { labels: [("place".to_owned(), place.to_string())].into(), ..Needs::default() }
}

async fn digest(mesh: &Mesh) {
    let client = &mesh.clients[0];
    let component = client.put_bytes(&file("node/functions/digest/digest.wasm"), true, "").await.unwrap().id;
    mesh.deploy(&NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new("digest", component) }).await;
}

async fn settled(client: &Client, submit: &Submit) -> Job {
    let id = client.submit(submit).await.unwrap();
    let job = client.wait(id, Some(PATIENCE), true).await.unwrap();
    assert_eq!(job.state, State::Succeeded, "{:?} {:?}", job.failure, job.reason);
    job
}

#[tokio::test]
async fn a_job_runs_where_its_label_is_and_is_read_anywhere() {
    let mesh = Mesh::start(3).await;
    digest(&mesh).await;
    let nodes = mesh.clients[2].nodes(ListQuery::default()).await.unwrap().items;
    assert!(nodes.iter().filter_map(|node| node.peer.as_ref()).all(|peer| peer.path == Some(Path::Direct)));
    // From every node to every other, with an input that is too long for the job's record.
    let input = vec![7; 300_000];
    for from in 0..3 {
        let blob = mesh.clients[from].put_bytes(&input, false, "").await.unwrap().id;
        for to in 0..3 {
            let submit =
                Submit { function: "digest".into(), input: Input::Blob(blob), needs: at(to), ..Submit::default() };
            let job = settled(&mesh.clients[from], &submit).await;
            assert_eq!(job.home, mesh.id(from).await);
            let ran_at = job.attempts.last().unwrap().node;
            assert_eq!(ran_at, if from == to { None } else { Some(mesh.id(to).await) });
            for client in &mesh.clients {
                let read = client.job(job.id, false).await.unwrap();
                assert_eq!((read.id, read.state), (job.id, State::Succeeded));
                let result = client.result_bytes(job.id, 64).await.unwrap();
                assert_eq!(result, BlobId::of(&input).as_bytes());
            }
        }
    }
    mesh.stop().await;
}

#[tokio::test]
async fn what_is_written_at_one_node_is_read_at_the_others_and_what_is_local_is_not() {
    let mesh = Mesh::start(3).await;
    digest(&mesh).await;
    let namespace = mesh.clients[0].function("digest").await.unwrap().id;
    mesh.clients[1].kv_set(namespace, Scope::Global, "depth", Value::Text("9 m".into())).await.unwrap();
    mesh.clients[1].kv_set(namespace, Scope::Local, "own", Value::Text("mine".into())).await.unwrap();
    for client in &mesh.clients {
        let entry = until_ok(|| client.kv_get(namespace, Scope::Global, "depth")).await;
        assert_eq!(entry.value, Value::Text("9 m".into()));
    }
    let local = mesh.clients[0].kv_get(namespace, Scope::Local, "own").await;
    assert_eq!(local.unwrap_err().kind(), Some(Kind::NotFound));
    // Three nodes count at once, and each counts.
    for client in &mesh.clients {
        client.kv_incr(namespace, Scope::Global, "boats", 2).await.unwrap();
    }
    for client in &mesh.clients {
        until(|| async {
            let entry = client.kv_get(namespace, Scope::Global, "boats").await.ok()?;
            (entry.value == Value::Counter(6)).then_some(())
        })
        .await;
    }
    mesh.stop().await;
}

#[tokio::test]
async fn a_run_is_cancelled_from_a_third_node_and_its_log_followed_there() {
    let mesh = Mesh::start(3).await;
    let component = mesh.clients[0].put_bytes(&file("tests/guests/wasip1/wasip1.wasm"), false, "").await.unwrap().id;
    mesh.deploy(&NewFunction::new("sleeper", component)).await;
    let id = mesh.clients[0].submit(&Submit { needs: at(1), ..sleeper(600_000) }).await.unwrap();
    let third = &mesh.clients[2];
    until(|| async { (third.job(id, false).await.unwrap().state == State::Running).then_some(()) }).await;
    third.cancel(id).await.unwrap();
    let job = third.wait(id, Some(PATIENCE), false).await.unwrap();
    assert_eq!(job.state, State::Cancelled);
    mesh.stop().await;
}

#[tokio::test]
async fn a_node_that_dies_loses_no_job_of_others() {
    let mut mesh = Mesh::start(3).await;
    let component = mesh.clients[0].put_bytes(&file("tests/guests/wasip1/wasip1.wasm"), false, "").await.unwrap().id;
    mesh.deploy(&NewFunction::new("sleeper", component)).await;
    // Two slots at home, then the others: with six jobs at least one runs at each.
    let home = &mesh.clients[0];
    let mut jobs = Vec::new();
    for _ in 0..6 {
        jobs.push(home.submit(&sleeper(3_000)).await.unwrap());
    }
    let victim = mesh.id(1).await;
    until(|| async {
        let mut there = false;
        for id in &jobs {
            let job = home.job(*id, false).await.unwrap();
            there |= job.state == State::Running && job.attempts.last().unwrap().node == Some(victim);
        }
        there.then_some(())
    })
    .await;
    mesh.nodes[1].kill().unwrap();
    mesh.nodes[1].kill_worker();
    for id in &jobs {
        let job = until(|| async {
            let job = home.wait(*id, Some(PATIENCE), false).await.unwrap();
            job.state.is_settled().then_some(job)
        })
        .await;
        assert_eq!(job.state, State::Succeeded, "{:?}", job.attempts);
    }
    let counts = home.node().await.unwrap().jobs.unwrap();
    assert_eq!((counts.accepted, counts.settled), (6, 6));
    drop(std::mem::take(&mut mesh.clients));
}
