//! Several nodes on this machine, each whole, that were told of one another's address.

use std::process::Command;

use shoal_client::{Client, Download, Error};
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::function::{Function, Grant, Needs, NewFunction};
use shoal_protocol::object::job::{Input, Job, State, Submit};
use shoal_protocol::object::kv::{Scope, Value};
use shoal_protocol::object::node::{Path, Replica};
use shoal_protocol::{BlobId, Kind, NodeId};
use shoal_testnet::Node;

use crate::local_worker::sleeper;
use crate::patience::{PATIENCE, Patience};
use crate::{file, shoal};

/// Nodes with labels `place=0`, `place=1`, ..., and a client at each that speaks for one and the same user.
pub(crate) struct Mesh {
    pub(crate) clients: Vec<Client>,
    pub(crate) nodes: Vec<Node>,
    /// That of the user, which counts at every node.
    pub(crate) token: String,
}

impl Mesh {
    pub(crate) async fn start(count: usize) -> Self {
        Self::start_with(&vec![[].as_slice(); count]).await
    }

    /// One node for each of these lists of further arguments.
    pub(crate) async fn start_with(arguments: &[&[&str]]) -> Self {
        let count = arguments.len();
        let mut nodes: Vec<Node> = Vec::new();
        for (place, arguments) in arguments.iter().enumerate() {
            let label = format!("place={place}");
            let mut node = Node::new(shoal()).unwrap().with_arguments(&["--label", &label]).with_arguments(arguments);
            if let Some(first) = nodes.first() {
                // One by an address, the others by an invitation.
                let join = match place {
                    1 => first.mesh_address().unwrap(),
                    _ => output(first.shoal(&["invite"])).trim().to_owned(),
                };
                node = node.with_arguments(&["--join", &join]);
            }
            node.start().await.unwrap();
            nodes.push(node);
        }
        let token = output(nodes[0].shoal(&["token", "mint"])).trim().to_owned();
        let mut clients = Vec::new();
        for node in &nodes {
            // The token counts where its user is known: that is what replication brings.
            let gateway = &node.gateway().unwrap();
            clients.push(until_ok(|| Client::connect(gateway, Some(token.clone()))).await);
        }
        let mesh = Self { clients, nodes, token };
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

    /// Bytes of blobs that a node has moved by a path.
    async fn moved(&self, place: usize, path: &str, direction: &str) -> u64 {
        let page = self.nodes[place].page("/metrics").await.unwrap();
        let line = format!("shoal_blob_moved_bytes_total{{path=\"{path}\",direction=\"{direction}\"}} ");
        page.lines().find_map(|found| found.strip_prefix(&line)).map_or(0, |value| value.parse().unwrap())
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
    let patience = Patience::new();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        patience.look_again(String::new).await;
    }
}

pub(crate) async fn until_ok<T, F: Future<Output = Result<T, Error>>>(attempt: impl Fn() -> F) -> T {
    until(|| async { attempt().await.ok() }).await
}

pub(crate) fn at(place: usize) -> Needs {
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

fn everywhere(limit: u32) -> ListQuery {
    let filters = [("scope".to_owned(), "mesh".to_owned())].into();
    ListQuery { limit: Some(limit), filters, ..ListQuery::default() }
}

#[tokio::test]
async fn the_jobs_of_all_nodes_are_listed_at_each_a_page_at_a_time() {
    let mesh = Mesh::start(3).await;
    digest(&mesh).await;
    let mut submitted = Vec::new();
    for turn in 0..9 {
        let submit = Submit { function: "digest".into(), input: Input::Text("x".into()), ..Submit::default() };
        submitted.push(settled(&mesh.clients[turn % 3], &submit).await.id);
    }
    submitted.sort_by(|a, b| b.cmp(a));
    for client in &mesh.clients {
        let (mut seen, mut query) = (Vec::new(), everywhere(4));
        loop {
            let page = client.jobs(query.clone()).await.unwrap();
            assert!(page.items.len() <= 4 && page.unanswered.is_empty(), "{:?}", page.unanswered);
            seen.extend(page.items.iter().map(|job| job.id));
            query.cursor = page.next;
            if query.cursor.is_none() {
                break;
            }
        }
        assert_eq!(seen, submitted);
        assert_eq!(client.jobs(ListQuery::default()).await.unwrap().items.len(), 3, "and its own without being told");
    }
    let wrong = ListQuery { filters: [("scope".to_owned(), "moon".to_owned())].into(), ..ListQuery::default() };
    let refused = mesh.clients[0].jobs(wrong).await.unwrap_err();
    assert!(refused.to_string().contains("it is node"), "{refused}");
    mesh.stop().await;
}

#[tokio::test]
async fn a_large_blob_goes_by_the_direct_path_and_over_the_mesh_where_there_is_none() {
    const LEN: usize = 4 * 1024 * 1024;
    let mesh = Mesh::start_with(&[&[], &[], &["--direct", "off"]]).await;
    digest(&mesh).await;
    for (number, (from, to, path, other)) in
        [(0, 1, "direct", "mesh"), (0, 2, "mesh", "direct"), (2, 1, "mesh", "direct")].into_iter().enumerate()
    {
        let before = (mesh.moved(to, path, "received").await, mesh.moved(to, other, "received").await);
        let sent = mesh.moved(from, path, "sent").await;
        let input = vec![number as u8; LEN];
        let blob = mesh.clients[from].put_bytes(&input, false, "").await.unwrap().id;
        let submit = Submit { function: "digest".into(), input: Input::Blob(blob), needs: at(to), ..Submit::default() };
        let job = settled(&mesh.clients[from], &submit).await;
        assert_eq!(mesh.clients[from].result_bytes(job.id, 64).await.unwrap(), BlobId::of(&input).as_bytes());
        assert!(mesh.moved(to, path, "received").await >= before.0 + LEN as u64, "from {from} to {to}");
        assert!(mesh.moved(to, other, "received").await < before.1 + LEN as u64, "from {from} to {to}");
        // What it has sent it counts when it has heard of the end.
        until(|| async { (mesh.moved(from, path, "sent").await >= sent + LEN as u64).then_some(()) }).await;
    }
    mesh.stop().await;
}

#[tokio::test]
async fn what_is_not_kept_at_a_node_is_passed_on_there_whole_and_in_part() {
    let mesh = Mesh::start(2).await;
    let component = mesh.clients[0].put_bytes(&file("tests/guests/wasip1/wasip1.wasm"), false, "").await.unwrap().id;
    mesh.deploy(&NewFunction::new("shout", component)).await;
    let bytes: Vec<u8> = (0..3_000_000u32).map(|n| b'a' + (n.wrapping_mul(2_654_435_761) >> 28) as u8).collect();
    let id = mesh.clients[0].put_bytes(&bytes, false, "").await.unwrap().id;
    // With more the other node would keep it.
    let durability = Some(1);
    let submit =
        Submit { function: "shout".into(), input: Input::Blob(id), needs: at(0), durability, ..Submit::default() };
    let job = settled(&mesh.clients[0], &submit).await;
    let [home, other] = [0, 1].map(|place| &mesh.clients[place]);
    let result = home.result_bytes(job.id, 4_000_000).await.unwrap();
    assert!(result.len() >= bytes.len() && other.result_bytes(job.id, 4_000_000).await.unwrap() == result);
    // The DHT knows soon who has the input.
    let part = until_ok(|| other.get_blob(id, 1_000_001, Some(99_999))).await;
    assert!(read(part).await == bytes[1_000_001..1_100_000]);
    assert!(read(other.get_blob(id, 0, None).await.unwrap()).await == bytes);
    assert!(mesh.moved(0, "mesh", "sent").await >= (result.len() + bytes.len()) as u64);
    mesh.stop().await;
}

pub(crate) async fn read(mut blob: Download) -> Vec<u8> {
    let mut bytes = Vec::new();
    while let Some(chunk) = blob.chunk().await.unwrap() {
        bytes.extend_from_slice(&chunk);
    }
    bytes
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
    // Who looks at the jobs of all nodes is told whose are missing.
    let page = mesh.clients[2].jobs(everywhere(4)).await.unwrap();
    assert_eq!(page.unanswered.iter().map(|missing| missing.node).collect::<Vec<_>>(), [victim]);
    drop(std::mem::take(&mut mesh.clients));
}
