//! The DHT.

use std::collections::BTreeSet;

use crate::harness::{Node, options, until, within};

#[tokio::test(flavor = "multi_thread")]
async fn what_one_provides_another_finds_that_is_no_neighbour() {
    let bounded = |join: &[&Node]| shoal_mesh::Options { view_max: 2, ..options(join) };
    let mut nodes = vec![Node::start(bounded(&[])).await];
    for _ in 0..5 {
        let next = Node::start(bounded(&[&nodes[0]])).await;
        nodes.push(next);
    }
    for node in &nodes {
        until("each has neighbours", || node.mesh.counters().neighbours > 0).await;
    }
    let provider = nodes.last().unwrap();
    provider.mesh.provide(b"label:gpu".to_vec());
    let neighbours: BTreeSet<_> = provider.met.borrow().clone();
    let seeker = nodes.iter().find(|node| node.id() != provider.id() && !neighbours.contains(&node.id())).unwrap();
    let found = within("the provider is found", async {
        loop {
            if let Some(node) = seeker.mesh.find(b"label:gpu".to_vec()).recv().await {
                return node;
            }
        }
    })
    .await;
    assert_eq!(found, provider.id());
    assert!(seeker.mesh.peer(&found).unwrap().connected, "who is found is there");
    until("a record lies at others", || nodes.iter().any(|node| node.mesh.counters().dht_records > 0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_provided_alone_is_told_to_who_comes_later() {
    let a = Node::start(options(&[])).await;
    a.mesh.provide(b"node:a".to_vec());
    let b = Node::start(options(&[&a])).await;
    b.meets_all(&[&a]).await;
    until("the record lies at the newcomer", || b.mesh.counters().dht_records == 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_for_what_nobody_has_ends() {
    let a = Node::start(options(&[])).await;
    let b = Node::start(options(&[&a])).await;
    b.meets_all(&[&a]).await;
    assert_eq!(within("the look-up ends", b.mesh.find(b"label:none".to_vec()).recv()).await, None);
    assert_eq!(b.mesh.counters().lookups.count, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_reached_by_its_id_alone() {
    let a = Node::start(options(&[])).await;
    let bounded = |join: &[&Node]| shoal_mesh::Options { view_max: 1, ..options(join) };
    let b = Node::start(bounded(&[&a])).await;
    let c = Node::start(bounded(&[&a])).await;
    a.meets_all(&[&b, &c]).await;
    // Whom a look-up asks, the asker has to know.
    b.meets_all(&[&a]).await;
    b.mesh.connect(c.id()).await.unwrap();
    assert!(b.mesh.peer(&c.id()).unwrap().connected);
    let nobody = shoal_protocol::key::SecretKey::from_bytes([0xee; 32]).public();
    assert!(b.mesh.connect(nobody.into()).await.is_err());
}
