//! Jobs that other nodes keep with their home: what is read when that is gone for good, and what is promised.

use std::time::Duration;

use shoal_client::Client;
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::function::{Grant, NewFunction, RunLimits};
use shoal_protocol::object::job::{Input, Job, ReasonCode, State, Submit};
use shoal_protocol::{Kind, ObjectId};

use crate::mesh::{Mesh, at, until, until_ok};
use crate::{failure_of, file, node};

/// Records of jobs that a node keeps for others.
async fn records_kept(mesh: &Mesh, place: usize) -> u64 {
    let page = mesh.nodes[place].page("/metrics").await.unwrap();
    let value = page.lines().find_map(|line| line.strip_prefix("shoal_records_kept_total "));
    value.map_or(0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn what_a_home_has_acknowledged_is_read_at_any_node_when_it_is_gone_with_its_disk() {
    const HOME: usize = 1;
    let mut mesh = Mesh::start(4).await;
    let component = mesh.clients[0].put_bytes(&file("tests/guests/wasip1/wasip1.wasm"), false, "").await.unwrap().id;
    mesh.deploy(&NewFunction::new("shout", component)).await;
    let home = &mesh.clients[HOME];
    let victim = home.node().await.unwrap().id;
    // An input and a result that are blobs, and that the home alone would have.
    let bytes = vec![b'x'; 200_000];
    let input = Input::Blob(home.put_bytes(&bytes, false, "").await.unwrap().id);
    let submit = Submit { function: "shout".into(), input, needs: at(HOME), durability: Some(3), ..Submit::default() };
    let done = until_ok(|| home.submit(&submit)).await;
    assert_eq!(home.wait(done, Some(Duration::from_secs(40)), false).await.unwrap().state, State::Succeeded);
    let result = home.result_bytes(done, 1_000_000).await.unwrap();
    assert!(result.len() >= bytes.len());
    // And one for which there is no place.
    let waits = home.submit(&Submit { function: "shout".into(), needs: at(9), ..Submit::default() }).await.unwrap();
    assert_eq!(home.job(waits, false).await.unwrap().durability, Some(2));
    // Its end is told to custodians, and nobody waits for that: it is the third record of the first, beside the one of the other.
    let others = [0, 2, 3];
    until(|| async {
        let mut keep = 0;
        for place in others {
            keep += usize::from(records_kept(&mesh, place).await >= 4);
        }
        (keep == 2).then_some(())
    })
    .await;

    let data = mesh.nodes[HOME].data();
    mesh.nodes[HOME].kill().unwrap();
    mesh.nodes[HOME].kill_worker();
    std::fs::remove_dir_all(data).unwrap();
    // Also at the one that keeps nothing: it finds those that do.
    for place in others {
        let client = &mesh.clients[place];
        let job = until_ok(|| client.job(done, false)).await;
        assert_eq!((job.state, job.home, job.durability), (State::Succeeded, victim, Some(3)));
        assert_eq!(job.custodians.len(), 2, "{:?}", job.custodians);
        assert!(client.result_bytes(done, 1_000_000).await.unwrap() == result);
        assert_eq!(until_ok(|| client.job(waits, false)).await.state, State::Queued);
        let refused = client.cancel(waits).await.unwrap_err();
        assert_eq!(refused.kind(), Some(Kind::Unavailable), "{refused}");
        assert!(refused.to_string().contains("can show it, but not change it"), "{refused}");
    }
    // They stand in the list of all jobs, which says whose node is missing.
    let everywhere = ListQuery { filters: [("scope".to_owned(), "mesh".to_owned())].into(), ..ListQuery::default() };
    let page = until_ok(|| mesh.clients[3].jobs(everywhere.clone())).await;
    assert_eq!(page.items.iter().map(|job| job.id).collect::<Vec<_>>(), [waits, done]);
    assert!(page.unanswered.iter().any(|missing| missing.node == victim));
    drop(std::mem::take(&mut mesh.clients));
}

#[tokio::test]
async fn a_custodian_goes_on_with_the_jobs_of_a_home_that_is_away_and_both_say_the_same_when_it_is_back() {
    const HOME: usize = 1;
    let mut mesh = Mesh::start_with(&[["--takeover-after", "1s"].as_slice(); 3]).await;
    let component = mesh.clients[0].put_bytes(&file("tests/guests/wasip1/wasip1.wasm"), false, "").await.unwrap().id;
    mesh.deploy(&NewFunction::new("shout", component)).await;
    let home = &mesh.clients[HOME];
    let home_id = home.node().await.unwrap().id;
    let held = Submit {
        function: "shout".into(),
        input: Input::Text("hello".into()),
        hold: true,
        durability: Some(3),
        ..Submit::default()
    };
    let job = until_ok(|| home.submit(&held)).await;
    // And one of which the only run that it may have is under way.
    let args = vec!["sleep".to_owned(), "600000".to_owned()];
    let limits = RunLimits { attempts: Some(1), ..RunLimits::default() };
    let runs = Submit { hold: false, args, limits, needs: at(HOME), ..held.clone() };
    let runs = until_ok(|| home.submit(&runs)).await;
    until(|| async { home.job(runs, false).await.ok().filter(|job| job.state == State::Running) }).await;
    until(|| async { mesh.clients[0].job(runs, false).await.ok().filter(|job| job.state == State::Running) }).await;
    // And one for which there is no place.
    let waits = Submit { hold: false, needs: at(9), ..held };
    let waits = until_ok(|| home.submit(&waits)).await;
    mesh.nodes[HOME].kill().unwrap();
    mesh.nodes[HOME].kill_worker();
    // Who acts for the home changes the job; the other one asks it.
    let client = &mesh.clients[0];
    until_ok(|| client.release(job)).await;
    let done = until(|| async {
        let job = client.wait(job, Some(Duration::from_secs(1)), true).await.ok()?;
        job.state.is_settled().then_some(job)
    })
    .await;
    assert_eq!((done.state, done.home, done.unconfirmed), (State::Succeeded, home_id, false));
    let regent = done.regent.unwrap();
    assert!(regent != home_id && done.epoch > u64::from(u32::MAX), "{done:?}");
    let says = |job: Job| job.reason.filter(|reason| reason.message.contains("the last run that it may have"));
    let said = until(|| async { client.job(runs, false).await.ok().and_then(says) }).await;
    assert_eq!(said.code, ReasonCode::HomeAway);
    // Asked for at any of the two it is ended by the one that acts for its home.
    assert_eq!(until_ok(|| client.cancel(runs)).await.state, State::Cancelled);
    let ended =
        until(|| async { mesh.clients[2].job(runs, false).await.ok().filter(|job| job.state.is_settled()) }).await;
    assert_eq!((ended.state, ended.regent), (State::Cancelled, Some(regent)));

    mesh.nodes[HOME].start().await.unwrap();
    let token = mesh.token.clone();
    let gateway = mesh.nodes[HOME].gateway().unwrap();
    let home = until_ok(|| Client::connect(&gateway, Some(token.clone()))).await;
    let back = until(|| async { home.job(job, true).await.ok().filter(|job| job.state.is_settled()) }).await;
    assert_eq!((back.state, back.epoch, back.regent), (State::Succeeded, done.epoch, Some(regent)));
    assert_eq!(back.output, done.output);
    assert_eq!(back.attempts.len(), 1, "it ran once: {:?}", back.attempts);
    let given_up = until(|| async { home.job(runs, true).await.ok().filter(|job| job.state.is_settled()) }).await;
    assert_eq!((given_up.state, given_up.regent), (State::Cancelled, Some(regent)));
    // What goes on elsewhere is changed there, though its home is back, and at any other node.
    let mut decides = None;
    for place in [0, 2] {
        let client = &mesh.clients[place];
        decides = decides.or((until_ok(|| client.node()).await.id == regent).then_some(client));
    }
    let decides = decides.unwrap();
    assert_eq!(decides.job(waits, false).await.unwrap().regent, Some(regent));
    assert_eq!(decides.hold(waits).await.unwrap().state, State::Held);
    assert_eq!(until_ok(|| home.release(waits)).await.state, State::Queued);
    assert_eq!(decides.cancel(waits).await.unwrap().state, State::Cancelled);
    until(|| async { home.job(waits, false).await.ok().filter(|job| job.state == State::Cancelled) }).await;
    drop(home);
    mesh.stop().await;
}

#[tokio::test]
async fn a_node_that_is_alone_says_so_and_refuses_what_it_cannot_promise() {
    let mut node = node().await;
    let client: Client = node.client().await.unwrap();
    let component = client.put_bytes(&file("node/functions/digest/digest.wasm"), true, "digest").await.unwrap().id;
    let digest = NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new("digest", component) };
    client.deploy(&digest).await.unwrap();
    let submit = |durability| Submit { function: "digest".into(), durability, ..Submit::default() };
    let job = client.submit(&submit(None)).await.unwrap();
    assert_eq!(client.job(job, false).await.unwrap().durability, None);
    let refused = client.submit(&submit(Some(2))).await.unwrap_err();
    assert_eq!(refused.kind(), Some(Kind::Unavailable));
    assert!(refused.to_string().contains("submit with a lower durability, or start more nodes"), "{refused}");
    assert_eq!(client.submit(&submit(Some(0))).await.unwrap_err().kind(), Some(Kind::InvalidField));
    let said = failure_of(node.shoal(&["submit", "digest", "--text", "x", "--durability", "3"]));
    assert!(said.contains("3 nodes shall have the job"), "{said}");
    node.stop().await.unwrap();
}

const HOME: usize = 1;
const ELEMENTS: u32 = 8;

/// An array at one of three nodes that act soon: two of its elements at least have ended, and others have not.
async fn half_of_an_array() -> (Mesh, ObjectId) {
    let mesh = Mesh::start_with(&[["--takeover-after", "1s"].as_slice(); 3]).await;
    let component = mesh.clients[0].put_bytes(&file("tests/guests/wasip1/wasip1.wasm"), false, "").await.unwrap().id;
    mesh.deploy(&NewFunction::new("sleeper", component)).await;
    let args = vec!["sleep".to_owned(), "300".to_owned()];
    let array = Some(format!("0-{}%1", ELEMENTS - 1).parse().unwrap());
    let submit =
        Submit { function: "sleeper".into(), args, array, durability: Some(3), needs: at(0), ..Submit::default() };
    let home = &mesh.clients[HOME];
    let array = until_ok(|| home.submit(&submit)).await;
    until(|| async { home.job(array, false).await.ok()?.elements.filter(|elements| elements.succeeded >= 2) }).await;
    (mesh, array)
}

async fn succeeds(client: &Client, array: ObjectId) -> Job {
    let ended = until(|| async {
        let job = client.wait(array, Some(Duration::from_secs(1)), true).await.ok()?;
        job.state.is_settled().then_some(job)
    })
    .await;
    assert_eq!((ended.state, ended.elements.unwrap().succeeded), (State::Succeeded, ELEMENTS), "{ended:?}");
    for index in 0..ELEMENTS {
        let element = array.element(index).unwrap();
        let job = until_ok(|| client.job(element, true)).await;
        assert_eq!((job.state, job.index, job.array_id), (State::Succeeded, Some(index), Some(array)));
        client.result_bytes(element, 1_000).await.unwrap();
    }
    ended
}

#[tokio::test]
async fn an_array_runs_to_its_end_when_its_home_is_gone_with_its_disk() {
    let (mut mesh, array) = half_of_an_array().await;
    let data = mesh.nodes[HOME].data();
    mesh.nodes[HOME].kill().unwrap();
    mesh.nodes[HOME].kill_worker();
    std::fs::remove_dir_all(data).unwrap();
    let mut regent = None;
    for place in [0, 2] {
        let ended = succeeds(&mesh.clients[place], array).await;
        assert!(ended.regent.is_some() && !ended.unconfirmed, "{ended:?}");
        regent = ended.regent;
    }
    let listed = ListQuery { filters: [("array".to_owned(), array.to_string())].into(), ..ListQuery::default() };
    let listed = until_ok(|| mesh.clients[0].jobs(listed.clone())).await.items;
    assert_eq!(listed.len(), ELEMENTS as usize, "what had ended before, and what has ended since");
    let everywhere = ListQuery { filters: [("scope".to_owned(), "mesh".to_owned())].into(), ..ListQuery::default() };
    for place in [0, 2] {
        let page = until_ok(|| mesh.clients[place].jobs(everywhere.clone())).await;
        let shown: Vec<_> = page.items.iter().map(|job| (job.id, job.state)).collect();
        assert_eq!(shown, [(array, State::Succeeded)], "an array is one job of a list, wherever it is kept");
    }
    for place in [0, 2] {
        let client = &mesh.clients[place];
        if Some(client.node().await.unwrap().id) == regent {
            let refused = client.forget(array).await.unwrap_err();
            assert_eq!(refused.kind(), Some(Kind::Conflict), "{refused}");
            assert!(refused.to_string().contains("has not heard how it ended"), "{refused}");
        }
    }
    drop(std::mem::take(&mut mesh.clients));
}

#[tokio::test]
async fn a_home_that_is_back_shows_what_its_array_has_done_without_it() {
    let (mut mesh, array) = half_of_an_array().await;
    mesh.nodes[HOME].kill().unwrap();
    mesh.nodes[HOME].kill_worker();
    let ended = succeeds(&mesh.clients[0], array).await;
    mesh.nodes[HOME].start().await.unwrap();
    let gateway = mesh.nodes[HOME].gateway().unwrap();
    let token = mesh.token.clone();
    let home = until_ok(|| Client::connect(&gateway, Some(token.clone()))).await;
    let back = succeeds(&home, array).await;
    assert_eq!((back.regent, back.settled_ms), (ended.regent, ended.settled_ms));
    drop(home);
    mesh.stop().await;
}
