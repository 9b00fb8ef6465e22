//! Peers that lie: a session with one ends, within a bounded number of messages, and never panics.

use std::collections::BTreeSet;

use proptest::prelude::*;
use shoal_crdt::reconcile::{Index, Misbehaviour, READ_ITEMS_MAX, Report, Session, Step, Stored, Verdict};
use shoal_protocol::codec;
use shoal_protocol::key::Signature;
use shoal_protocol::wire::sync::{
    Answer, BATCH_ITEMS_MAX, COMPARE_WEIGHT_MAX, Claim, Fingerprint, ITEM_LEN_MAX, ItemHash, LIST_ITEMS_MAX,
    PREFIX_LEN_MAX, Prefix, SYNC_FRAME_LEN_MAX, SetKind, SignedItem, SyncMessage, VERSION, WANTS_MAX,
};

use crate::nodes::{Node, Plain, item, reconcile};
use crate::world::Chance;

const SET: SetKind = SetKind::Changes;

fn hash(chance: &mut Chance) -> [u8; 32] {
    *blake3::hash(&chance.next().to_be_bytes()).as_bytes()
}

fn open(claim: Claim) -> SyncMessage {
    SyncMessage::Open { version: VERSION, set: SET, count: 3, claim }
}

fn lie() -> Claim {
    Claim::Fingerprint(Fingerprint([9; 32]))
}

fn nothing() -> Claim {
    Claim::Items(Vec::new())
}

fn batch(items: Vec<SignedItem>) -> SyncMessage {
    SyncMessage::Batch { items, last: false }
}

/// A responder that has been opened with a fingerprint that it does not have.
fn responder(node: &Plain) -> Session {
    let mut session = Session::respond(SET, &node.index);
    session.receive(&node.index, open(lie())).unwrap();
    session
}

/// A session that exchanges batches.
fn transferring(node: &Plain) -> Session {
    let mut session = responder(node);
    session.receive(&node.index, SyncMessage::Transfer { wants: Vec::new() }).unwrap();
    session
}

fn digits(item: &ItemHash, len: usize) -> Prefix {
    (0..len).fold(Prefix::ROOT, |prefix, place| prefix.child(item.digit(place)).unwrap())
}

#[test]
fn an_initiator_that_never_agrees_is_cut_off() {
    let node = Plain::numbers(0..10_000);
    let mut session = responder(&node);
    let mut chance = Chance(1);
    let mut messages = 0;
    let end = loop {
        messages += 1;
        assert!(messages < 1000);
        let claim = |chance: &mut Chance| {
            let digits = digits(&ItemHash(hash(chance)), chance.below(6));
            (digits, Claim::Fingerprint(Fingerprint(hash(chance))))
        };
        let claims = (0..COMPARE_WEIGHT_MAX / 16).map(|_| claim(&mut chance)).collect();
        match session.receive(&node.index, SyncMessage::Compare { claims, wants: Vec::new() }) {
            Ok(steps) => assert!(steps.iter().all(fits)),
            Err(misbehaviour) => break misbehaviour,
        }
    };
    println!("an initiator that never agrees: cut off after {messages} messages: {end}");
    assert!(matches!(end, Misbehaviour::TooMany { what: "claims", .. }), "{end}");
    assert!(session.receive(&node.index, SyncMessage::Taken).is_err(), "the session has ended");
}

fn fits(step: &Step) -> bool {
    match step {
        Step::Send(message) => codec::frame(message, SYNC_FRAME_LEN_MAX).is_ok(),
        Step::Read { items, .. } => items.len() <= READ_ITEMS_MAX,
        Step::Store(_) | Step::Done(_) => true,
    }
}

#[test]
fn a_responder_that_never_agrees_costs_one_look_at_the_own_set() {
    let node = Plain::numbers(0..10_000);
    let (mut session, _) = Session::initiate(SET, &node.index);
    let mut chance = Chance(2);
    let mut lies = |claim: &Claim| match claim {
        Claim::Fingerprint(_) => Answer::Children((0..16).map(|_| Fingerprint(hash(&mut chance))).collect()),
        Claim::Items(items) => Answer::Lacks(vec![0; items.len().div_ceil(8)].into()),
    };
    let mut message = SyncMessage::Opened { count: u64::MAX, answer: lies(&lie()) };
    let (mut messages, mut seen) = (0, BTreeSet::new());
    loop {
        messages += 1;
        assert!(messages < 1000);
        let steps = session.receive(&node.index, message).unwrap();
        assert!(steps.iter().all(fits));
        let Some(Step::Send(SyncMessage::Compare { claims, .. })) = steps.first() else { break };
        assert!(claims.iter().all(|(prefix, _)| seen.insert(*prefix)), "no prefix is claimed twice");
        message = SyncMessage::Compared { answers: claims.iter().map(|(_, claim)| lies(claim)).collect() };
    }
    println!("a responder that never agrees: {messages} messages, {} claims", seen.len());
    assert!(seen.len() <= node.index.len());
}

#[test]
fn looking_for_everything_again_and_again_is_cut_off() {
    let node = Plain::numbers(0..10_000);
    let mut session = responder(&node);
    let again = SyncMessage::Compare { claims: vec![(Prefix::ROOT, nothing())], wants: Vec::new() };
    let taken = (0..10).take_while(|_| session.receive(&node.index, again.clone()).is_ok()).count();
    assert_eq!(taken, 2);

    let mut session = responder(&node);
    let all: Vec<ItemHash> = node.set().into_iter().take(WANTS_MAX).collect();
    let again = SyncMessage::Compare { claims: vec![(Prefix::ROOT, lie())], wants: all };
    let taken = (0..100).take_while(|_| session.receive(&node.index, again.clone()).is_ok()).count();
    assert_eq!(taken, (2 * 10_000 + 4096) / WANTS_MAX);
    assert!(session.left_to_send() <= 2 * 10_000 + 4096);
}

#[test]
fn messages_out_of_form_are_refused() {
    let node = Plain::numbers(0..1000);
    let sorted: Vec<ItemHash> = node.set().into_iter().collect();
    let compare = |claims| SyncMessage::Compare { claims, wants: Vec::new() };
    let root = |claim| compare(vec![(Prefix::ROOT, claim)]);
    let under = digits(&sorted[500], 2);
    let cases = [
        compare(Vec::new()),
        root(Claim::Items(sorted[..LIST_ITEMS_MAX + 1].to_vec())),
        root(Claim::Items(vec![sorted[1], sorted[0]])),
        root(Claim::Items(vec![sorted[0], sorted[0]])),
        compare(vec![(under, Claim::Items(vec![sorted[0]]))]),
        compare(vec![(under, nothing()); COMPARE_WEIGHT_MAX + 1]),
        compare(vec![(under, lie()); COMPARE_WEIGHT_MAX / 16 + 1]),
        SyncMessage::Compare { claims: vec![(under, lie())], wants: vec![sorted[0]; WANTS_MAX + 1] },
        SyncMessage::Transfer { wants: vec![sorted[0]; WANTS_MAX + 1] },
        open(lie()),
        SyncMessage::Busy,
        SyncMessage::Opened { count: 1, answer: Answer::Equal },
        SyncMessage::Compared { answers: Vec::new() },
        batch(vec![item(1, 10)]),
        SyncMessage::Taken,
    ];
    for message in cases {
        let refused = responder(&node).receive(&node.index, message.clone());
        assert!(refused.is_err(), "{message:?}: {refused:?}");
        assert!(
            Session::respond(SET, &node.index).receive(&node.index, message.clone()).is_err() || message == open(lie())
        );
    }
    let other = SyncMessage::Open { version: VERSION, set: SetKind::Entries, count: 0, claim: nothing() };
    let refused = Session::respond(SET, &node.index).receive(&node.index, other);
    assert_eq!(refused, Err(Misbehaviour::Set { ours: SET, theirs: SetKind::Entries }));
    let newer = SyncMessage::Open { version: 2, set: SET, count: 0, claim: nothing() };
    let refused = Session::respond(SET, &node.index).receive(&node.index, newer).unwrap_err();
    assert!(!refused.is_hostile(), "another version is no lie");
}

#[test]
fn answers_out_of_form_are_refused() {
    let node = Plain::numbers(0..1000);
    let sorted: Vec<ItemHash> = node.set().into_iter().collect();
    let children = |count| Answer::Children(vec![Fingerprint([3; 32]); count]);
    let first = [
        children(15),
        children(17),
        Answer::Items(sorted[..LIST_ITEMS_MAX + 1].to_vec()),
        Answer::Items(vec![sorted[1], sorted[0]]),
        Answer::Lacks(vec![0].into()),
    ];
    for answer in first {
        let (mut session, _) = Session::initiate(SET, &node.index);
        let refused = session.receive(&node.index, SyncMessage::Opened { count: 0, answer: answer.clone() });
        assert!(refused.is_err(), "{answer:?}");
    }
    // At the second digit the initiator names its items: about four under each prefix.
    let answers_of = |answer: &dyn Fn(usize) -> Answer| {
        let (mut session, _) = Session::initiate(SET, &node.index);
        let mut message = SyncMessage::Opened { count: 0, answer: children(16) };
        loop {
            let steps = session.receive(&node.index, message)?;
            let Some(Step::Send(SyncMessage::Compare { claims, .. })) = steps.first() else { return Ok(()) };
            let answers = claims.iter().map(|(_, claim)| match claim {
                Claim::Fingerprint(_) => children(16),
                Claim::Items(items) => answer(items.len()),
            });
            message = SyncMessage::Compared { answers: answers.collect() };
        }
    };
    assert_eq!(answers_of(&|count| Answer::Lacks(vec![0; count.div_ceil(8)].into())), Ok(()));
    assert_eq!(answers_of(&|_| Answer::Equal), Ok(()));
    let wrong: [&dyn Fn(usize) -> Answer; 4] = [
        &|count| Answer::Lacks(vec![0; count.div_ceil(8) + 1].into()),
        &|count| Answer::Lacks(vec![255; count.div_ceil(8)].into()),
        &|_| children(16),
        &|_| Answer::Items(Vec::new()),
    ];
    for (number, wrong) in wrong.iter().enumerate() {
        assert!(matches!(answers_of(wrong), Err(Misbehaviour::Form(_))), "{number}");
    }
    let (mut session, _) = Session::initiate(SET, &node.index);
    session.receive(&node.index, SyncMessage::Opened { count: 0, answer: children(16) }).unwrap();
    assert!(session.receive(&node.index, SyncMessage::Compared { answers: vec![Answer::Equal; 17] }).is_err());
}

#[test]
fn a_prefix_of_every_depth_is_answered() {
    let node = Plain::numbers(0..10_000);
    let path = *node.set().first().unwrap();
    for depth in 0..=PREFIX_LEN_MAX {
        let claims = vec![(digits(&path, depth), lie())];
        let answered = responder(&node).receive(&node.index, SyncMessage::Compare { claims, wants: Vec::new() });
        assert!(matches!(answered.as_deref(), Ok([Step::Send(SyncMessage::Compared { .. })])), "{depth}");
    }
}

#[test]
fn batches_out_of_form_are_refused() {
    let node = Plain::numbers(0..100);
    let small = |count: u64| (0..count).map(|n| item(1_000_000 + n, 20)).collect::<Vec<_>>();
    for message in [
        batch(Vec::new()),
        batch(small(BATCH_ITEMS_MAX as u64 + 1)),
        batch(vec![item(1, ITEM_LEN_MAX + 1)]),
        SyncMessage::Transfer { wants: Vec::new() },
    ] {
        assert!(transferring(&node).receive(&node.index, message).is_err());
    }
    let mut session = transferring(&node);
    assert!(session.receive(&node.index, batch(small(1))).is_ok());
    assert!(session.receive(&node.index, batch(small(2))).is_ok());
    let refused = session.receive(&node.index, batch(small(3))).unwrap_err();
    assert_eq!(refused, Misbehaviour::TooMany { what: "batches that are not taken", max: 2 }, "it does not wait");

    let mut session = transferring(&node);
    let last = SyncMessage::Batch { items: small(1), last: true };
    session.receive(&node.index, last.clone()).unwrap();
    assert!(session.receive(&node.index, last).is_err(), "nothing follows the last");

    // The session has sent one batch, that it has nothing to send.
    let mut session = transferring(&node);
    assert!(session.receive(&node.index, SyncMessage::Taken).is_ok());
    assert!(session.receive(&node.index, SyncMessage::Taken).is_err(), "what was sent is taken once");
}

#[test]
fn sending_what_is_known_for_ever_is_cut_off() {
    let node = Plain::numbers(0..1000);
    let mut session = transferring(&node);
    let known = batch((0..1000).map(|n| item(n, 100)).collect());
    let mut batches = 0;
    let end = loop {
        batches += 1;
        assert!(batches < 100);
        match session.receive(&node.index, known.clone()) {
            Ok(steps) => assert_eq!(steps, [Step::Send(SyncMessage::Taken)], "nothing is stored"),
            Err(misbehaviour) => break misbehaviour,
        }
    };
    println!("1,000 known items again and again: cut off at batch {batches}: {end}");
    assert!(matches!(end, Misbehaviour::TooMany { what: "items of no use", .. }), "{end}");
    assert_eq!(batches, (2 * 1000 + 4096) / 1000 + 1);
}

#[test]
fn sending_what_is_refused_is_cut_off() {
    let node = Plain::numbers(0..1000);
    let mut session = transferring(&node);
    let stores = |n: u64| batch((0..8).map(|m| item(5_000_000 + 8 * n + m, 40)).collect());
    for n in 0..2 {
        session.receive(&node.index, stores(n)).unwrap();
        session.stored(&node.index, Stored { refused: 8, ..Stored::default() }).unwrap();
    }
    session.receive(&node.index, stores(3)).unwrap();
    let end = session.stored(&node.index, Stored { refused: 1, taken: 7, ..Stored::default() }).unwrap_err();
    assert!(matches!(end, Misbehaviour::TooMany { what: "items that are refused", max: 16 }), "{end}");
    assert_eq!((session.report().refused, session.report().received), (17, 7));
}

/// What depends on something that nobody has costs its sender a signature, and is neither refused nor of use.
#[test]
fn sending_what_waits_for_others_for_ever_is_cut_off() {
    let node = Plain::numbers(0..1000);
    let mut session = transferring(&node);
    let mut sent = 0;
    let end = loop {
        let unknown = (0..100).map(|n| item(5_000_000 + sent + n, 40)).collect();
        sent += 100;
        session.receive(&node.index, batch(unknown)).unwrap();
        match session.stored(&node.index, Stored { held: 100, ..Stored::default() }) {
            Ok(steps) => assert_eq!(steps, [Step::Send(SyncMessage::Taken)]),
            Err(misbehaviour) => break misbehaviour,
        }
    };
    assert!(matches!(end, Misbehaviour::TooMany { what: "items that wait for others", .. }), "{end}");
    assert_eq!((sent, session.report().held, session.report().received), (6100, 6100, 0));
}

#[test]
fn an_edge_that_finds_nothing_does_not_loop() {
    let mut node = Plain::numbers(0..100);
    let mut session = Session::respond(SET, &node.index);
    session.receive(&node.index, open(nothing())).unwrap();
    let mut steps = session.receive(&node.index, SyncMessage::Transfer { wants: Vec::new() }).unwrap();
    let mut reads = 0;
    while let Some(Step::Read { items, .. }) = steps.first() {
        reads += 1;
        assert_eq!(items.len(), 101 - reads);
        steps = session.read(node.index(), Vec::new());
    }
    assert_eq!(reads, 100);
    assert_eq!(steps, [Step::Send(SyncMessage::Batch { items: Vec::new(), last: true })]);
    node.remove(&item(1, 100).hash());
    assert!(session.read(node.index(), vec![Some(item(1, 100)); 3]).is_empty(), "an answer to nothing");
}

#[test]
fn a_busy_peer_is_no_misbehaviour() {
    let node = Plain::numbers(0..10);
    let (mut session, _) = Session::initiate(SET, &node.index);
    let steps = session.receive(&node.index, SyncMessage::Busy).unwrap();
    assert!(matches!(steps[..], [Step::Done(Report { verdict: Verdict::Busy, .. })]));
}

/// Items that somebody has ground to share their first digits make the tree deep, and a session no dearer than its items.
#[test]
fn honest_nodes_reconcile_items_that_were_ground() {
    struct Ground(Plain);
    impl Node for Ground {
        fn index(&self) -> &Index {
            &self.0.index
        }
        fn read(&self, held: &shoal_crdt::reconcile::Held) -> Option<SignedItem> {
            // The bytes of a ground item are not made here: it takes 2^80 attempts.
            (!is_ground(&held.item)).then(|| self.0.read(held)).flatten()
        }
        fn store(&mut self, items: Vec<SignedItem>) -> Stored {
            self.0.store(items)
        }
    }
    fn is_ground(item: &ItemHash) -> bool {
        item.0[..10] == [7; 10]
    }
    let ground = |n: u64| {
        let mut bytes = *blake3::hash(&n.to_be_bytes()).as_bytes();
        bytes[..10].copy_from_slice(&[7; 10]);
        ItemHash(bytes)
    };
    for (ours, theirs) in [(0..500, 500..1000), (0..5, 5..600), (0..0, 0..1000), (0..1000, 999..1000)] {
        let (mut a, mut b) = (Ground(Plain::numbers(0..300)), Ground(Plain::numbers(200..500)));
        for n in ours {
            assert!(a.0.index.insert((1 << 50) + n, ground(n)));
        }
        for n in theirs {
            assert!(b.0.index.insert((1 << 50) + n, ground(n)));
        }
        let run = reconcile_ground(&mut a, &mut b);
        println!("ground items: {run} bytes");
        assert!((200..500).all(|n| a.0.index.contains(&item(n, 100).hash())));
        assert!((0..300).all(|n| b.0.index.contains(&item(n, 100).hash())));
    }
    fn reconcile_ground(a: &mut Ground, b: &mut Ground) -> usize {
        a.0.skip_places(1 << 51);
        b.0.skip_places(1 << 51);
        reconcile(a, b, 1).bytes.iter().sum()
    }
}

/// Messages of any kind, in form as often as not.
fn message(node: Vec<ItemHash>) -> impl Strategy<Value = SyncMessage> {
    let known = prop::sample::select(node);
    let any_hash = prop_oneof![known, any::<[u8; 32]>().prop_map(ItemHash)];
    let fingerprint = prop_oneof![Just(Fingerprint::EMPTY), any::<[u8; 32]>().prop_map(Fingerprint)];
    let prefix = (any_hash.clone(), prop_oneof![4 => 0..4usize, 1 => 0..=PREFIX_LEN_MAX]);
    let prefix = prefix.prop_map(|(item, len)| digits(&item, len));
    let list = prop::collection::vec(any_hash.clone(), 0..20).prop_map(|mut items| {
        items.sort_unstable();
        items
    });
    let claim = prop_oneof![
        3 => fingerprint.clone().prop_map(Claim::Fingerprint),
        1 => Just(Claim::Items(Vec::new())),
        1 => list.clone().prop_map(Claim::Items),
    ];
    let answer = prop_oneof![
        2 => Just(Answer::Equal),
        4 => prop::collection::vec(fingerprint, 16..=16).prop_map(Answer::Children),
        1 => list.prop_map(Answer::Items),
        1 => prop::collection::vec(any::<u8>(), 0..4).prop_map(|bits| Answer::Lacks(bits.into())),
    ];
    let wants = prop::collection::vec(any_hash, 0..10);
    let signed = (0..2000u64, 8..200usize).prop_map(|(n, len)| item(n, len));
    prop_oneof![
        1 => (any::<u64>(), claim.clone()).prop_map(|(count, claim)| SyncMessage::Open { version: VERSION, set: SET, count, claim }),
        1 => (any::<u64>(), answer.clone()).prop_map(|(count, answer)| SyncMessage::Opened { count, answer }),
        4 => (prop::collection::vec((prefix, claim), 1..20), wants.clone())
            .prop_map(|(claims, wants)| SyncMessage::Compare { claims, wants }),
        2 => prop::collection::vec(answer, 1..20).prop_map(|answers| SyncMessage::Compared { answers }),
        1 => wants.prop_map(|wants| SyncMessage::Transfer { wants }),
        4 => (prop::collection::vec(signed, 0..30), prop::bool::weighted(0.1))
            .prop_map(|(items, last)| SyncMessage::Batch { items, last }),
        3 => Just(SyncMessage::Taken),
        1 => Just(SyncMessage::Busy),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn any_messages_end_in_a_verdict_or_an_error(
        messages in prop::collection::vec(message(Plain::numbers(0..1000).set().into_iter().collect()), 1..60),
        start in 0..3u8,
        answers: u64,
    ) {
        let mut node = Plain::numbers(0..1000);
        let mut chance = Chance(answers);
        let mut session = match start {
            0 => Session::initiate(SET, &node.index).0,
            1 => responder(&node),
            _ => transferring(&node),
        };
        let mut ended = false;
        for message in messages {
            let mut todo = match session.receive(&node.index, message) {
                Ok(steps) if ended => panic!("nothing is taken after the end: {steps:?}"),
                Ok(steps) => steps,
                Err(_) => {
                    ended = true;
                    Vec::new()
                }
            };
            while let Some(step) = todo.pop() {
                prop_assert!(fits(&step));
                match step {
                    Step::Read { items, .. } => {
                        let some = items.iter().take(chance.below(items.len() + 1));
                        todo.extend(session.read(&node.index, some.map(|held| node.read(held)).collect()));
                    }
                    Step::Store(items) => {
                        let stored = node.store(items);
                        match session.stored(&node.index, stored) {
                            Ok(steps) => todo.extend(steps),
                            Err(_) => ended = true,
                        }
                    }
                    Step::Done(_) => ended = true,
                    Step::Send(_) => {}
                }
            }
        }
    }

    #[test]
    fn damaged_frames_are_messages_or_errors(
        message in message(Plain::numbers(0..50).set().into_iter().collect()),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut bytes = codec::encode(&message);
        for (place, value) in damage {
            let place = place.index(bytes.len());
            bytes[place] = value;
        }
        let _ = codec::decode::<SyncMessage>(&bytes);
        bytes.truncate(cut.index(bytes.len()));
        prop_assert!(codec::decode::<SyncMessage>(&bytes).is_err(), "a part is no message");
        let _ = SignedItem { bytes: bytes.into(), signature: Signature([0; 64]) }.hash();
    }
}
