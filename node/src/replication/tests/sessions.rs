//! Honest nodes.

use shoal_crdt::reconcile::Verdict;
use shoal_protocol::change::DocumentClass;
use shoal_protocol::wire::sync::{Claim, Fingerprint, VERSION};
use tokio::io::DuplexStream;

use super::*;

/// A person with functions and keys.
async fn fill(node: &Node, seed: u8, count: usize) -> Person {
    let mut person = Person::new(seed);
    person.found(node.documents(), &format!("person{seed}")).await;
    for n in 0..count {
        person.function(node.documents(), &format!("f{n}")).await;
    }
    let entries = (0..count).map(|n| signed(&person, seed, &format!("k{n}"), text("v"), 1));
    assert_eq!(node.take(entries).await.taken, count);
    person
}

#[tokio::test]
async fn disjoint_sets_become_equal_and_stay_so_after_a_start() {
    let (folders, [a, b]) = nodes();
    fill(&a, 1, 30).await;
    fill(&b, 2, 20).await;
    assert_ne!(a.sets.digest(), b.sets.digest());
    let [changes, entries] = reconcile(&a, &b).await;
    assert_eq!([changes[0].sent, changes[0].received, changes[0].refused], [31, 21, 0]);
    assert_eq!([entries[1].sent, entries[1].received, entries[1].refused], [20, 30, 0]);
    assert_eq!(a.sets.digest(), b.sets.digest());
    assert_eq!(a.sets.counts(), Counts { changes: 52, entries: 50, far_ahead: 0 });
    let functions = |node: &Node| node.documents().directory().of_class(DocumentClass::Function, None).count();
    assert_eq!((functions(&a), functions(&b)), (50, 50));

    let again = reconcile(&a, &b).await;
    assert!(again.iter().flatten().all(|report| report.verdict == Verdict::Equal));
    let digest = a.sets.digest();
    close_all([a, b]).await;
    let nodes = [0, 1].map(|at| Node::open(folders.0[at].path()));
    assert!(nodes.iter().all(|node| node.sets.digest() == digest));
    close_all(nodes).await;
}

#[tokio::test]
async fn what_one_has_reaches_the_third_through_the_second() {
    let (_folders, [a, b, c]) = nodes();
    fill(&a, 1, 5).await;
    fill(&b, 2, 5).await;
    fill(&c, 3, 5).await;
    reconcile(&a, &b).await;
    reconcile(&b, &c).await;
    reconcile(&a, &b).await;
    let digests = [&a, &b, &c].map(|node| node.sets.digest());
    assert!(digests.iter().all(|digest| *digest == digests[0]));
    assert_eq!(c.sets.counts(), Counts { changes: 18, entries: 15, far_ahead: 0 });
    close_all([a, b, c]).await;
}

#[tokio::test]
async fn both_send_many_large_batches_over_a_stream_that_holds_little() {
    let (_folders, [a, b]) = nodes();
    let ada = Person::new(1);
    for node in [&a, &b] {
        ada.found(node.documents(), "ada").await;
    }
    let value = "x".repeat(50_000);
    for (node, seed) in [(&a, 1), (&b, 2)] {
        node.take((0..30).map(|n| signed(&ada, seed, &format!("{seed}-{n}"), text(&value), 1))).await;
    }
    let [_, entries] = reconcile_over(&a, &b, 512).await;
    assert_eq!(entries.map(|report| (report.sent, report.received)), [(30, 30); 2]);
    assert_eq!(a.sets.digest(), b.sets.digest());
    close_all([a, b]).await;
}

/// The next message of a node under test.
async fn next(peer: &mut DuplexStream) -> SyncMessage {
    frames::expect(peer, SYNC_FRAME_LEN_MAX).await.unwrap()
}

#[tokio::test]
async fn a_node_that_is_being_filled_has_no_time_for_another_peer() {
    let (_folders, [a, b]) = nodes();
    let ada = fill(&a, 1, 1).await;
    let (mut peer, stream) = tokio::io::duplex(64 * 1024);
    let (filling, ()) = within(async {
        tokio::join!(b.sets.respond(stream), async {
            let claim = Claim::Fingerprint(Fingerprint([7; 32]));
            let open = SyncMessage::Open { version: VERSION, set: SetKind::Entries, count: u64::MAX, claim };
            frames::write(&mut peer, &open, SYNC_FRAME_LEN_MAX).await.unwrap();
            assert_eq!(next(&mut peer).await.name(), "opened");
            let claimed = reconcile(&a, &b).await;
            let verdicts = claimed.map(|[ours, theirs]| (ours.verdict, theirs.verdict));
            assert_eq!(verdicts, [(Verdict::Exchanged, Verdict::Exchanged); 2], "a claim keeps nobody away");

            let transfer = SyncMessage::Transfer { wants: Vec::new() };
            frames::write(&mut peer, &transfer, SYNC_FRAME_LEN_MAX).await.unwrap();
            for batch in 0..2 {
                let entry = |n| signed(&ada, 3, &format!("{batch}-{n}"), text("v"), 1).into();
                let batch = SyncMessage::Batch { items: (0..600).map(entry).collect(), last: false };
                frames::write(&mut peer, &batch, SYNC_FRAME_LEN_MAX).await.unwrap();
                while next(&mut peer).await != SyncMessage::Taken {}
            }
            let busy = reconcile(&a, &b).await;
            assert!(busy.iter().flatten().all(|report| report.verdict == Verdict::Busy), "{busy:?}");
            let (stream, _other) = tokio::io::duplex(1);
            let own = b.sets.initiate(stream, SetKind::Changes).await.unwrap();
            assert_eq!(own.verdict, Verdict::Busy, "nor does it ask another");
            drop(peer);
        })
    })
    .await;
    assert!(!filling.unwrap_err().is_hostile(), "a peer may leave");
    reconcile(&a, &b).await;
    assert_eq!(a.sets.digest(), b.sets.digest());
    close_all([a, b]).await;
}
