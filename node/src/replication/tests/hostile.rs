//! Peers that lie, over the stream and by gossip.

use shoal_crdt::reconcile::{Misbehaviour, REFUSED_MAX};
use shoal_protocol::codec;
use shoal_protocol::limits::GOSSIP_LEN_MAX;
use shoal_protocol::wire::gossip::Gossip;
use shoal_protocol::wire::sync::{Claim, Fingerprint, VERSION};
use tokio::io::DuplexStream;

use super::*;

async fn send(peer: &mut DuplexStream, message: &SyncMessage) {
    frames::write(peer, message, SYNC_FRAME_LEN_MAX).await.unwrap();
}

/// Opens a session with what the node does not have, and says what is missing at once.
async fn open(peer: &mut DuplexStream, set: SetKind) {
    let claim = Claim::Fingerprint(Fingerprint([7; 32]));
    send(peer, &SyncMessage::Open { version: VERSION, set, count: 3, claim }).await;
    send(peer, &SyncMessage::Transfer { wants: Vec::new() }).await;
}

/// How a session of this node ends with a peer that does so.
async fn ends_with(node: &Node, lie: impl AsyncFnOnce(&mut DuplexStream)) -> SyncError {
    let (mut peer, stream) = tokio::io::duplex(1 << 20);
    let (ended, _peer) = within(async {
        tokio::join!(node.sets.respond(stream), async {
            lie(&mut peer).await;
            peer
        })
    })
    .await;
    ended.unwrap_err()
}

#[tokio::test]
async fn a_peer_that_sends_what_nobody_signed_is_cut_off_and_nothing_is_stored() {
    let (_folders, [node, other]) = nodes();
    let mut ada = Person::new(1);
    ada.found(node.documents(), "ada").await;
    ada.found(other.documents(), "ada").await;
    for n in 0..=REFUSED_MAX {
        ada.function(other.documents(), &format!("f{n}")).await;
    }
    let before = (node.sets.digest(), node.sets.counts());
    let wrong = |mut item: SignedItem| {
        item.signature.0[5] ^= 1;
        item
    };
    let changes = all(other.documents()).into_iter().skip(1).map(wrong).collect::<Vec<_>>();
    let entries: Vec<_> =
        (0..=REFUSED_MAX).map(|n| wrong(signed(&ada, 2, &format!("k{n}"), text("forged"), 1).into())).collect();
    for (set, items) in [(SetKind::Changes, changes), (SetKind::Entries, entries)] {
        assert_eq!(items.len(), REFUSED_MAX + 1);
        let ended = ends_with(&node, async |peer| {
            open(peer, set).await;
            send(peer, &SyncMessage::Batch { items, last: true }).await;
        })
        .await;
        assert!(ended.is_hostile(), "{ended}");
        assert!(matches!(ended, SyncError::Misbehaviour(Misbehaviour::TooMany { .. })), "{ended}");
    }
    assert_eq!((node.sets.digest(), node.sets.counts()), before);
    close_all([node, other]).await;
}

#[tokio::test]
async fn bytes_that_are_no_messages_speak_against_the_peer_and_leaving_does_not() {
    let (_folders, [node]) = nodes();
    let too_long = ends_with(&node, async |peer| peer.write_all(&[0xff; 4]).await.unwrap()).await;
    assert!(too_long.is_hostile(), "{too_long}");
    let noise = ends_with(&node, async |peer| peer.write_all(&[0, 0, 0, 2, 0xff, 0xff]).await.unwrap()).await;
    assert!(noise.is_hostile(), "{noise}");
    let out_of_place = ends_with(&node, async |peer| send(peer, &SyncMessage::Taken).await).await;
    assert!(out_of_place.is_hostile(), "{out_of_place}");
    let newer = ends_with(&node, async |peer| {
        let claim = Claim::Items(Vec::new());
        send(peer, &SyncMessage::Open { version: VERSION + 1, set: SetKind::Changes, count: 0, claim }).await;
    })
    .await;
    assert!(!newer.is_hostile(), "{newer}");
    for before in [0, 3] {
        let left = ends_with(&node, async |peer| {
            peer.write_all(&vec![0; before]).await.unwrap();
            peer.shutdown().await.unwrap();
        })
        .await;
        assert!(!left.is_hostile(), "{left}");
    }
    node.close().await;
}

#[tokio::test]
async fn gossip_is_passed_on_once_and_only_what_is_signed() {
    let (_folders, [a, b]) = nodes();
    let mut ada = Person::new(1);
    let mut feed = b.sets.accepted_changes();
    ada.found(a.documents(), "ada").await;
    let function = ada.function(a.documents(), "f").await;
    ada.rename(a.documents(), function, "g").await;
    let (change, rename) = (all(a.documents()).remove(0), all(a.documents()).remove(2));
    let entry = signed(&ada, 1, "k", text("v"), 1);
    let judged = async |message: &Gossip| within(b.sets.judge(&codec::encode(message))).await;

    let early = judged(&Gossip::Entry(entry.clone())).await;
    assert_eq!(early, Judgement::Useless, "its namespace is not known yet");
    let waits = judged(&Gossip::Change(rename.into())).await;
    assert_eq!(waits, Judgement::Useless, "who knows what it follows may refuse it");
    let mut forged = change.clone();
    forged.signature.0[0] ^= 1;
    assert_eq!(judged(&Gossip::Change(forged.into())).await, Judgement::Reject);
    assert_eq!(judged(&Gossip::Change(change.clone().into())).await, Judgement::Accept);
    assert_eq!(judged(&Gossip::Change(change.into())).await, Judgement::Useless);
    assert_eq!(judged(&Gossip::Entry(entry.clone())).await, Judgement::Accept);
    assert_eq!(judged(&Gossip::Entry(entry)).await, Judgement::Useless);
    assert_eq!(within(b.sets.judge(b"noise")).await, Judgement::Reject);
    assert_eq!(within(b.sets.judge(&vec![0; GOSSIP_LEN_MAX + 1])).await, Judgement::Reject);

    let accepted = feed.try_recv().unwrap();
    assert_eq!((accepted.origin, accepted.items.len()), (Origin::Gossip, 1));
    assert!(feed.try_recv().is_err());
    close_all([a, b]).await;
}
