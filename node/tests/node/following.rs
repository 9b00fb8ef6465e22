//! Following jobs: their logs, their ends, their changes, from any node and across the ends of nodes.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, ExitStatus, Stdio};

use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::object::function::{Needs, NewFunction};
use shoal_protocol::object::job::{Event, EventId, State, Submit, Subscription, Told};
use shoal_testnet::Node;

use crate::local_worker::{self, sleeper};
use crate::mesh::{Mesh, until};
use crate::node;
use crate::patience::{PATIENCE, Patience};

/// A command that goes on, with what it has printed in a file.
struct Follower {
    child: Child,
    path: PathBuf,
}

impl Follower {
    fn start(node: &Node, name: &str, arguments: &[&str]) -> Self {
        let path = node.data().join(format!("{name}.followed"));
        let child = node
            .shoal(arguments)
            .stdin(Stdio::null())
            .stdout(File::create(&path).unwrap())
            .stderr(File::create(path.with_extension("err")).unwrap())
            .spawn()
            .unwrap();
        Self { child, path }
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.path).unwrap()
    }

    fn complained(&self) -> String {
        std::fs::read_to_string(self.path.with_extension("err")).unwrap()
    }

    /// Waits until more has been printed.
    async fn says_more(&mut self) {
        let before = self.said().len();
        let patience = Patience::new();
        while self.said().len() <= before {
            assert_eq!(self.child.try_wait().unwrap(), None, "it gave up: {}", self.complained());
            patience.look_again(|| self.complained()).await;
        }
    }

    async fn ends(&mut self) -> ExitStatus {
        let patience = Patience::new();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            patience.look_again(|| self.said()).await;
        }
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A job that writes a line to its log every 50 ms, at a place, until it is cancelled.
async fn ticker(mesh: &Mesh, home: usize, place: usize) -> ObjectId {
    let component = wat::parse_str(include_str!("following/ticker.wat")).unwrap();
    let component = mesh.clients[0].put_bytes(&component, true, "").await.unwrap().id;
    mesh.deploy(&NewFunction::new("ticker", component)).await;
    let needs = Needs { labels: [("place".to_owned(), place.to_string())].into(), ..Needs::default() };
    mesh.clients[home].submit(&Submit { function: "ticker".into(), needs, ..Submit::default() }).await.unwrap()
}

/// The lines are those of one run, each once.
fn assert_whole(log: &str) {
    for (line, number) in log.lines().zip(1..) {
        assert_eq!(line, format!("tick {number:04}"), "{log}");
    }
}

/// Kills a node and starts it again; its worker lives on.
async fn restart(mesh: &mut Mesh, place: usize) {
    mesh.nodes[place].kill().unwrap();
    mesh.nodes[place].start().await.unwrap();
}

#[tokio::test]
async fn a_job_is_followed_from_a_third_node_whichever_of_the_nodes_is_killed() {
    // The first is where the others meet: it starts again under an address that they do not know.
    let mut mesh = Mesh::start(4).await;
    let (asked, home, executor) = (1, 2, 3);
    let id = ticker(&mesh, home, executor).await;
    let text = id.to_string();
    let token = mesh.token.clone();
    let follow = |mesh: &Mesh, name: &str, arguments: &[&str]| {
        Follower::start(&mesh.nodes[asked], name, &[&["--token", &token], arguments].concat())
    };
    let mut log = follow(&mesh, "log", &["job", "logs", "-f", &text]);
    let mut end = follow(&mesh, "end", &["job", "wait", &text]);
    let mut changes = follow(&mesh, "changes", &["job", "watch", &text, "--json"]);
    log.says_more().await;
    let patience = Patience::new();
    while !changes.said().contains("\"running\"") {
        patience.look_again(|| changes.said()).await;
    }
    // The node that runs it, the one that is its home, and the one that is asked.
    for place in [executor, home, asked] {
        restart(&mut mesh, place).await;
        log.says_more().await;
        // What was written meanwhile came at once; what comes now is live.
        log.says_more().await;
    }
    let third = mesh.nodes[executor].gateway().unwrap();
    let client = until(|| async { Client::connect(&third, Some(token.clone())).await.ok() }).await;
    until(|| async { client.cancel(id).await.ok() }).await;
    assert!(log.ends().await.success(), "{}", log.complained());
    assert_whole(&log.said());
    assert_eq!(end.ends().await.code(), Some(6), "{}", end.complained());
    assert!(end.said().contains("cancelled"), "{}", end.said());
    assert_eq!(changes.ends().await.code(), Some(6), "{}", changes.complained());
    assert!(changes.said().lines().last().unwrap().contains("\"cancelled\""), "{}", changes.said());
    let job = client.job(id, false).await.unwrap();
    assert_eq!((job.attempts_total, job.refusals_total), (1, 0), "one run, through all of it: {:?}", job.attempts);
    drop(mesh);
}

#[tokio::test]
async fn a_job_that_runs_again_is_followed_from_the_start_of_its_new_log() {
    let mut mesh = Mesh::start(2).await;
    let id = ticker(&mesh, 0, 1).await;
    let mut log = Follower::start(&mesh.nodes[0], "log", &["job", "logs", "-f", &id.to_string()]);
    log.says_more().await;
    mesh.nodes[1].kill().unwrap();
    mesh.nodes[1].kill_worker();
    mesh.nodes[1].start().await.unwrap();
    let patience = Patience::new();
    while log.said().matches("tick 0001\n").count() < 2 {
        patience.look_again(|| log.said()).await;
    }
    assert!(log.complained().contains("runs again"), "{}", log.complained());
    mesh.clients[0].cancel(id).await.unwrap();
    log.ends().await;
    let said = log.said();
    let (first, second) = said.split_at(said.rfind("tick 0001\n").unwrap());
    assert_whole(first);
    assert_whole(second);
    drop(mesh);
}

async fn next(events: &mut shoal_client::Events) -> Option<Told> {
    tokio::time::timeout(PATIENCE, events.next()).await.expect("in time").unwrap()
}

/// The states of a job as they are told, up to its end.
async fn states_of(events: &mut shoal_client::Events, id: ObjectId) -> (Vec<State>, EventId) {
    let mut states = Vec::new();
    loop {
        match next(events).await {
            Some(Told::Changed { id: at, event: Event { job, state, .. } }) if job == id => {
                states.push(state);
                if state.is_settled() {
                    return (states, at);
                }
            }
            Some(Told::Changed { .. }) => {}
            other => panic!("{other:?} after {states:?}"),
        }
    }
}

#[tokio::test]
async fn every_change_of_state_is_told_and_who_comes_back_goes_on() {
    use State::{Held, Offered, Queued, Running, Succeeded};
    let mut node = node().await;
    let client = node.client().await.unwrap();
    local_worker::deploy(&client).await;
    let wanted = Subscription { function: Some("sleeper".into()), ..Subscription::default() };
    let mut all = client.subscribe(wanted.clone()).await.unwrap();
    let first = client.submit(&Submit { hold: true, ..sleeper(1) }).await.unwrap();
    let mut of_first = client.subscribe(Subscription { job: Some(first), ..Subscription::default() }).await.unwrap();
    assert!(matches!(next(&mut of_first).await, Some(Told::Changed { event, .. }) if event.state == Held));
    client.release(first).await.unwrap();
    let (states, place) = states_of(&mut all, first).await;
    assert_eq!(states.first(), Some(&Held), "{states:?}");
    // What a job goes through within one step of the kernel is told once.
    let but_queued = |states: Vec<State>| states.into_iter().filter(|state| *state != Queued).collect::<Vec<_>>();
    assert_eq!(but_queued(states), [Held, Offered, Running, Succeeded]);
    assert_eq!(but_queued(states_of(&mut of_first, first).await.0), [Offered, Running, Succeeded]);
    assert_eq!(next(&mut of_first).await, None, "it ends with the job");

    // Who was away hears what came meanwhile, and nothing twice.
    drop(all);
    let second = client.submit(&sleeper(1)).await.unwrap();
    client.wait(second, Some(PATIENCE), false).await.unwrap();
    let mut again = client.subscribe(Subscription { after: Some(place), ..wanted.clone() }).await.unwrap();
    assert_eq!(states_of(&mut again, second).await.0, [Queued, Offered, Running, Succeeded]);
    // Over HTTP the same, by the header that browsers send.
    let page = events_page(&node, "/job/events", Some(&place.to_string()), "\"succeeded\"").await;
    assert!(page.contains(&second.to_string()) && !page.contains(&first.to_string()), "{page}");
    let page = events_page(&node, &format!("/job/{first}/events"), None, "event: end").await;
    assert!(page.contains("\"state\":\"succeeded\"") && page.contains("\nid: "), "{page}");

    // A node that has started again says that changes may be missing, and goes on.
    node.kill().unwrap();
    node.start().await.unwrap();
    let third = client.submit(&sleeper(1)).await;
    let third = match third {
        Ok(id) => id,
        Err(_) => client.submit(&sleeper(1)).await.unwrap(),
    };
    assert!(matches!(next(&mut again).await, Some(Told::Missed { changes: None, .. })));
    let (states, _) = states_of(&mut again, third).await;
    assert_eq!(states.last(), Some(&Succeeded));

    let refused = client.subscribe(Subscription { project: Some("nobodys".into()), ..Subscription::default() }).await;
    assert!(refused.is_err_and(|error| error.is_not_found()));
    client.close().await;
    node.stop().await.unwrap();
}

/// What a page of events says until this comes.
async fn events_page(node: &Node, path: &str, last: Option<&str>, until: &str) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let address = node.http().unwrap();
    let last = last.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    let token = node.token().unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n{last}\r\n");
    let read = async {
        let mut stream = tokio::net::TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut page = String::new();
        let mut buffer = [0; 4096];
        while !page.contains(until) {
            let len = stream.read(&mut buffer).await.unwrap();
            assert!(len > 0, "{page}");
            page.push_str(&String::from_utf8_lossy(&buffer[..len]));
        }
        page
    };
    tokio::time::timeout(PATIENCE, read).await.expect("in time")
}

#[tokio::test]
async fn the_command_line_shows_who_refused_and_who_ran() {
    let mut node = node().await;
    let client = node.client().await.unwrap();
    local_worker::deploy(&client).await;
    let id = local_worker::running(&client, &sleeper(2_000)).await;
    let shown = |id: ObjectId| {
        let output = node.shoal(&["job", "show", &id.to_string()]).output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    let text = shown(id);
    assert!(text.contains("OUTCOME") && text.contains("runs"), "{text}");
    let job = client.wait(id, Some(PATIENCE), false).await.unwrap();
    let usage = job.attempts[0].usage.unwrap();
    assert!(usage.run_us >= 2_000_000 && Some(usage) == job.usage, "{usage:?}");
    let text = shown(id);
    assert!(text.contains("2s") && text.contains("succeeded") && text.contains("for user"), "{text}");
    // Why one waits, as a code and for each candidate.
    let needs = Needs { capabilities: ["oracle".to_owned()].into(), ..Needs::default() };
    let stuck = client.submit(&Submit { needs, ..sleeper(1) }).await.unwrap();
    let text = shown(stuck);
    assert!(text.contains("no_fit") && text.contains("does not have the capability oracle"), "{text}");
    let list = node.shoal(&["job", "ls", "--state", "queued"]).output().unwrap();
    assert!(String::from_utf8(list.stdout).unwrap().contains("queued (no_fit)"));
    client.close().await;
    node.stop().await.unwrap();
}
