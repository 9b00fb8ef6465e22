//! Gossip.

use std::time::Duration;

use shoal_mesh::Verdict;

use crate::harness::{Node, options, within};

#[tokio::test(flavor = "multi_thread")]
async fn gossip_goes_on_only_if_it_was_accepted() {
    // A chain: the ends keep each other out, so that all goes through the middle.
    let mut middle = Node::start(options(&[])).await;
    let of_left = options(&[&middle]);
    let of_right = options(&[&middle]);
    let (left_id, right_id) = (of_left.secret.public().into(), of_right.secret.public().into());
    let left = Node::start(of_left).await;
    left.mesh.block(right_id, "the chain of a test");
    let mut right = Node::start(of_right).await;
    right.mesh.block(left_id, "the chain of a test");
    left.meets_all(&[&middle]).await;
    right.meets_all(&[&middle]).await;
    middle.meets_all(&[&left, &right]).await;
    // Nothing announces that the other listens: it is told again, as another message each time, until it hears.
    let mut repeats = tokio::time::interval(Duration::from_millis(50));
    let mut number = 0_u32;
    let first = within("gossip arrives", async {
        loop {
            tokio::select! {
                heard = middle.gossip.recv() => return heard.unwrap(),
                _ = repeats.tick() => {
                    number += 1;
                    left.mesh.publish([b"wrong ".as_slice(), &number.to_be_bytes()].concat());
                }
            }
        }
    })
    .await;
    assert_eq!(first.from, left.id());
    middle.mesh.judge(first.id, Verdict::Reject);
    left.mesh.publish(b"right".to_vec());
    loop {
        let gossiped = within("gossip arrives in the middle", middle.gossip.recv()).await.unwrap();
        let is_right = gossiped.bytes == b"right";
        middle.mesh.judge(gossiped.id, if is_right { Verdict::Accept } else { Verdict::Reject });
        if is_right {
            break;
        }
    }
    assert_eq!(right.hears().await, b"right", "the end hears what the middle has accepted, and nothing else");
    assert!(!right.mesh.peer(&left.id()).is_some_and(|peer| peer.connected));
    assert!(middle.mesh.counters().gossip_refused_total >= 1);
}
