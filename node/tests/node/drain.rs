//! A node leaves: what it had is at another one from then on, also when its disk is gone.

use std::process::Output;
use std::time::Duration;

use shoal_client::Client;
use shoal_protocol::object::function::NewFunction;
use shoal_protocol::object::job::{Input, State, Submit};
use shoal_protocol::object::kv::{Scope, Value};
use shoal_protocol::object::node::{Drain, DrainPhase};
use shoal_protocol::{Kind, ObjectId};

use crate::local_worker::sleeper;
use crate::mesh::{Mesh, at, read, until, until_ok};
use crate::patience::Patience;
use crate::{failure_of, file};

/// The node that leaves, the one to which it hands over, and one that has nothing to do with that: the others find each other by it.
const HOME: usize = 1;
const HEIR: usize = 2;
const THIRD: usize = 0;

async fn functions(mesh: &Mesh) {
    let client = &mesh.clients[0];
    let component = client.put_bytes(&file("tests/guests/wasip1/wasip1.wasm"), false, "").await.unwrap().id;
    mesh.deploy(&NewFunction::new("shout", component)).await;
    mesh.deploy(&NewFunction::new("sleeper", component)).await;
}

async fn succeeded(client: &Client, id: ObjectId) {
    let job = until(|| async {
        let job = client.wait(id, Some(Duration::from_secs(1)), true).await.ok()?;
        job.state.is_settled().then_some(job)
    })
    .await;
    assert_eq!(job.state, State::Succeeded, "{:?}", job.failure);
}

async fn shoal(mesh: &Mesh, place: usize, arguments: &[&str]) -> Output {
    let mut command = mesh.nodes[place].shoal(arguments);
    tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap()
}

#[tokio::test]
async fn a_node_that_leaves_hands_over_all_that_it_has_and_stops() {
    let mut mesh = Mesh::start(3).await;
    functions(&mesh).await;
    let home = &mesh.clients[HOME];
    let home_id = home.node().await.unwrap().id;
    let heir_id = mesh.clients[HEIR].node().await.unwrap().id;
    let shout = Submit { function: "shout".into(), input: Input::Text("hello".into()), ..Submit::default() };
    // Settled, with a short result and with a blob; one of an array that has ended; one that nobody else keeps.
    let short = home.submit(&shout).await.unwrap();
    let blob = home.put_bytes(&vec![b'x'; 200_000], false, "").await.unwrap().id;
    let long = home.submit(&Submit { input: Input::Blob(blob), durability: Some(1), ..shout.clone() }).await.unwrap();
    let array = Submit { array: Some("0-2".parse().unwrap()), ..shout.clone() };
    let array = home.submit(&array).await.unwrap();
    for id in [short, long, array] {
        succeeded(home, id).await;
    }
    let results = [home.result_bytes(short, 1_000).await.unwrap(), home.result_bytes(long, 1_000_000).await.unwrap()];
    let element = array.element(1).unwrap();
    // One that is held, alone; one behind it; one that runs; and an array of which some elements have run.
    let held = home.submit(&Submit { hold: true, durability: Some(1), ..shout.clone() }).await.unwrap();
    let behind: Submit =
        serde_json::from_value(serde_json::json!({ "function": "shout", "after": [{ "job": held }] })).unwrap();
    let behind = home.submit(&behind).await.unwrap();
    let runs = home.submit(&Submit { needs: at(HOME), ..sleeper(2_500) }).await.unwrap();
    until(|| async { (home.job(runs, false).await.ok()?.state == State::Running).then_some(()) }).await;
    let waits =
        home.submit(&Submit { needs: at(9), array: Some("0-3".parse().unwrap()), ..shout.clone() }).await.unwrap();
    // What is local, and what was uploaded.
    let user = home.job(held, false).await.unwrap().owner;
    let kept = home.put_bytes(b"only here", true, "note").await.unwrap().id;
    home.kv_set(user, Scope::Local, "mine", Value::Text("of home".into())).await.unwrap();
    home.kv_set(user, Scope::Local, "both", Value::Text("of home".into())).await.unwrap();
    mesh.clients[HEIR].kv_set(user, Scope::Local, "both", Value::Text("of heir".into())).await.unwrap();

    let said = failure_of(mesh.nodes[HOME].shoal(&["drain", "--to", "nobody"]));
    assert!(said.contains("nor the name of one that this node knows"), "{said}");
    let begun = shoal(&mesh, HOME, &["drain", "--to", &heir_id.to_string(), "--wait", "0"]).await;
    assert!(!begun.status.success() && String::from_utf8_lossy(&begun.stderr).contains("has not stopped"));
    let refused = home.submit(&shout).await.unwrap_err();
    assert_eq!(refused.kind(), Some(Kind::Draining), "{refused}");
    assert!(refused.to_string().contains(&heir_id.to_string()), "{refused}");
    let status = String::from_utf8(shoal(&mesh, HOME, &["status"]).await.stdout).unwrap();
    assert!(status.contains("draining"), "{status}");
    let done = shoal(&mesh, HOME, &["drain", &home_id.to_string(), "--to", &heir_id.to_string()]).await;
    let told = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{told} {}", String::from_utf8_lossy(&done.stderr));
    assert!(told.contains("has all of it") && told.contains(&format!("{user}/both")), "{told}");

    // It ends by itself, and nothing of it is left.
    mesh.clients.remove(HOME).close().await;
    let patience = Patience::new();
    while !mesh.nodes[HOME].has_ended().unwrap() {
        patience.look_again(|| mesh.nodes[HOME].log()).await;
    }
    let data = mesh.nodes[HOME].data();
    std::fs::remove_dir_all(data).unwrap();
    let [heir, third] = [HEIR - 1, THIRD];

    for round in 0..2 {
        if round == 1 {
            // The other one remembers.
            mesh.nodes[HEIR].stop().await.unwrap();
            mesh.nodes[HEIR].start().await.unwrap();
            let (gateway, token) = (mesh.nodes[HEIR].gateway().unwrap(), mesh.token.clone());
            mesh.clients[heir] = until_ok(|| Client::connect(&gateway, Some(token.clone()))).await;
        }
        for client in [&mesh.clients[heir], &mesh.clients[third]] {
            let job = until_ok(|| client.job(short, false)).await;
            assert_eq!((job.state, job.home), (State::Succeeded, home_id));
            assert_eq!(until_ok(|| client.result_bytes(short, 1_000)).await, results[0]);
            assert!(until_ok(|| client.result_bytes(long, 1_000_000)).await == results[1]);
            assert_eq!(until_ok(|| client.job(runs, false)).await.state, State::Succeeded);
            assert_eq!(until_ok(|| client.job(array, false)).await.elements.unwrap().succeeded, 3);
            assert_eq!(until_ok(|| client.job(element, false)).await.state, State::Succeeded);
            assert_eq!(until_ok(|| client.result_bytes(element, 1_000)).await, results[0]);
        }
        let client = &mesh.clients[heir];
        assert_eq!(read(client.get_blob(kept, 0, None).await.unwrap()).await, b"only here");
        let local = |key| client.kv_get(user, Scope::Local, key);
        assert_eq!(local("mine").await.unwrap().value, Value::Text("of home".into()));
        assert_eq!(local("both").await.unwrap().value, Value::Text("of heir".into()));
    }
    // What waited goes on, told so at whichever node.
    let client = &mesh.clients[third];
    assert_eq!(until_ok(|| client.job(held, false)).await.state, State::Held);
    assert_eq!(until_ok(|| client.job(behind, false)).await.state, State::Blocked);
    assert_eq!(until_ok(|| client.job(waits, false)).await.elements.unwrap().begun, 0);
    until_ok(|| client.release(held)).await;
    succeeded(client, held).await;
    succeeded(client, behind).await;
    until_ok(|| client.cancel(waits)).await;
    // Its custodian hears of it a moment later than who decides it.
    assert_eq!(until_ok(|| client.wait(waits, None, false)).await.state, State::Cancelled);
    mesh.clients.clear();
    for place in [HEIR, THIRD] {
        mesh.nodes[place].stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_node_that_is_killed_while_it_leaves_goes_on_when_it_is_started_again() {
    const HEIR: usize = 0;
    let mut mesh = Mesh::start(2).await;
    functions(&mesh).await;
    let home = &mesh.clients[HOME];
    let shout = Submit { function: "shout".into(), input: Input::Text("hello".into()), ..Submit::default() };
    let mut held = Vec::new();
    for _ in 0..40 {
        held.push(home.submit(&Submit { hold: true, ..shout.clone() }).await.unwrap());
    }
    // One that runs keeps it from leaving.
    let runs = home.submit(&Submit { needs: at(HOME), ..sleeper(60_000) }).await.unwrap();
    until(|| async { (home.job(runs, false).await.ok()?.state == State::Running).then_some(()) }).await;
    let (own, heir) = (home.node().await.unwrap().id, mesh.clients[HEIR].node().await.unwrap());
    let drain = Drain { to: heir.id.to_string(), now: false };
    let operator = mesh.nodes[HOME].client().await.unwrap();
    assert_eq!(operator.drain(own, &drain).await.unwrap().to, heir.id);
    until(|| async { (operator.node().await.ok()?.draining?.jobs >= 40).then_some(()) }).await;
    drop(operator);
    mesh.nodes[HOME].kill().unwrap();
    mesh.nodes[HOME].start().await.unwrap();
    let operator = mesh.nodes[HOME].client().await.unwrap();
    let refused = operator.submit(&shout).await.unwrap_err();
    assert_eq!(refused.kind(), Some(Kind::Draining), "{refused}");
    let state = operator.node().await.unwrap().draining.unwrap();
    assert!(state.phase != DrainPhase::Done && !state.now, "{state:?}");
    // Now nobody wants to wait for what runs.
    let now = Drain { to: heir.id.to_string(), now: true };
    until_ok(|| operator.drain(own, &now)).await;
    let patience = Patience::new();
    while !mesh.nodes[HOME].has_ended().unwrap() {
        patience.look_again(|| mesh.nodes[HOME].log()).await;
    }
    drop(operator);
    mesh.clients.remove(HOME).close().await;
    let client = mesh.clients.remove(HEIR);
    for id in &held {
        assert_eq!(until_ok(|| client.job(*id, false)).await.state, State::Held);
    }
    until_ok(|| client.release(held[7])).await;
    succeeded(&client, held[7]).await;
    let job = until_ok(|| client.job(runs, false)).await;
    assert!(!job.state.is_settled() && job.regent == Some(heir.id), "{job:?}");
    client.cancel(runs).await.unwrap();
    drop(client);
    mesh.nodes[HEIR].stop().await.unwrap();
}
