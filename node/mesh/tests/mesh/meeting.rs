//! Who meets whom.

use shoal_mesh::Address;
use shoal_protocol::key::SecretKey;
use shoal_protocol::object::node::Path;

use crate::harness::{Node, options, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn two_nodes_meet_by_address() {
    let a = Node::start(options(&[])).await;
    let b = Node::start(options(&[&a])).await;
    a.meets_all(&[&b]).await;
    b.meets_all(&[&a]).await;
    until("the distance is measured", || b.mesh.peer(&a.id()).unwrap().rtt.is_some()).await;
    let peer = b.mesh.peer(&a.id()).unwrap();
    assert_eq!((peer.path, peer.connected, peer.neighbour), (Path::Direct, true, true));
    assert_eq!(peer.version, "shoal/0.0.0");
    assert_eq!(peer.addresses, a.mesh.addresses());
    assert_eq!(b.mesh.with_tag(shoal_protocol::key::PublicKey::from(a.id()).tag()), Some(a.id()));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_address_without_a_node_id_is_enough() {
    let a = Node::start(options(&[])).await;
    let address: Address = a.address().to_string().split_once('@').unwrap().1.parse().unwrap();
    let b = Node::start(shoal_mesh::Options { join: vec![address], ..options(&[]) }).await;
    b.meets_all(&[&a]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn all_who_join_through_one_meet() {
    let first = Node::start(options(&[])).await;
    let mut others = Vec::new();
    for _ in 0..9 {
        others.push(Node::start(options(&[&first])).await);
    }
    for node in others.iter().chain([&first]) {
        node.meets(9).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_stops_is_lost() {
    let a = Node::start(options(&[])).await;
    let b = Node::start(options(&[&a])).await;
    a.meets_all(&[&b]).await;
    b.mesh.stop().await;
    a.meets(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_killed_and_starts_again_is_met_anew_before_its_connection_runs_out() {
    let mut a = Node::start(options(&[])).await;
    let of_b = options(&[&a]);
    // What ends with a runtime of its own says no goodbye.
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let b = process.spawn(Node::start(of_b.clone())).await.unwrap();
    a.meets_all(&[&b]).await;
    b.meets_all(&[&a]).await;
    process.shutdown_background();
    let b = Node::start(of_b).await;
    until("it is noticed", || a.mesh.counters().reborn_total == 1).await;
    // The new process has heard what the old one had: who listens to gossip, for one.
    until("gossip goes", || {
        b.mesh.publish(b"news".to_vec());
        b.mesh.counters().gossip_sent_total > 0
    })
    .await;
    assert_eq!(a.hears().await, b"news");
    let stream = within("a stream opens", a.mesh.open(b.id(), shoal_mesh::Lane::Call)).await;
    assert!(stream.is_ok(), "{stream:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_alone_joins_once_somebody_is_there() {
    let a = Node::start(options(&[])).await;
    let mut of_a = options(&[]);
    of_a.listen = vec![a.mesh.addresses()[0].split_once('@').unwrap().1.parse().unwrap()];
    let b = Node::start(options(&[&a])).await;
    b.meets_all(&[&a]).await;
    a.mesh.stop().await;
    b.meets(0).await;
    // Another node, under the address of the first, which alone was given.
    let join = of_a.listen[0].to_string().parse().unwrap();
    let c = Node::start(shoal_mesh::Options { join: vec![join], ..options(&[]) }).await;
    let again = Node::start_once_free(of_a).await;
    c.meets_all(&[&again]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_of_another_mesh_is_left_alone_and_counted() {
    let a = Node::start(options(&[])).await;
    let mut foreign = options(&[&a]);
    foreign.mesh = SecretKey::of_open_mesh("another").public();
    let stranger = Node::start(foreign).await;
    // Whoever hears first who the other is ends it.
    let counted =
        |count: fn(&shoal_mesh::Counters) -> u64| count(&a.mesh.counters()) + count(&stranger.mesh.counters());
    until("it is counted", || counted(|counters| counters.foreign_total) > 0).await;
    until("it is kept out", || counted(|counters| counters.blocked) > 0).await;
    until("the connection ends", || counted(|counters| counters.connected) == 0).await;
    assert!(a.met.borrow().is_empty() && stranger.met.borrow().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_misbehaves_is_closed_and_kept_out() {
    let a = Node::start(options(&[])).await;
    let b = Node::start(options(&[&a])).await;
    a.meets_all(&[&b]).await;
    a.mesh.block(b.id(), "a test says so");
    a.meets(0).await;
    b.meets(0).await;
    assert_eq!(a.mesh.counters().blocked_total, 1);
    assert!(a.mesh.connect(b.id()).await.is_err());
    assert!(!a.mesh.peer(&b.id()).unwrap().connected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_hears_that_another_has_its_key() {
    let of_original = options(&[]);
    let mut of_twin = of_original.clone();
    let original = Node::start(of_original).await;
    of_twin.join = vec![original.address().to_string().split_once('@').unwrap().1.parse().unwrap()];
    let mut twin = Node::start(of_twin).await;
    within("the twin hears", twin.doubled.wait_for(|doubled| *doubled)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_view_is_bounded_and_the_mesh_is_whole() {
    const NODES: usize = 12;
    const VIEW: usize = 4;
    let bounded = |join: &[&Node]| shoal_mesh::Options { view_max: VIEW, ..options(join) };
    let mut nodes = vec![Node::start(bounded(&[])).await];
    for _ in 1..NODES {
        let next = Node::start(bounded(&[&nodes[0]])).await;
        nodes.push(next);
    }
    for node in &nodes {
        until("the view is full", || node.mesh.counters().neighbours as usize == VIEW).await;
    }
    // Who can be reached from the first, from neighbour to neighbour.
    let reached = || {
        let mut reached = std::collections::BTreeSet::from([nodes[0].id()]);
        loop {
            let before = reached.len();
            for node in &nodes {
                let neighbours: Vec<_> = node.mesh.peers().into_iter().filter(|peer| peer.neighbour).collect();
                if reached.contains(&node.id()) {
                    reached.extend(neighbours.iter().map(|peer| peer.node));
                } else if neighbours.iter().any(|peer| reached.contains(&peer.node)) {
                    reached.insert(node.id());
                }
            }
            if reached.len() == before {
                return before;
            }
        }
    };
    until("all are connected, if only through others", || reached() == NODES).await;
    assert!(nodes.iter().all(|node| node.mesh.counters().neighbours as usize <= VIEW));
}
