//! Entries of the global store: who may write them, and what stands of those that contradict each other.

use shoal_protocol::key::PublicKey;

use super::*;

const TAKEN: Stored = Stored { taken: 1, held: 0, idle: 0, refused: 0 };
const IDLE: Stored = Stored { taken: 0, held: 0, idle: 1, refused: 0 };
const REFUSED: Stored = Stored { taken: 0, held: 0, idle: 0, refused: 1 };

/// Everything that two islands may write at one key, and what only one of them sees.
fn contradictions(ada: &Person) -> Vec<SignedEntry> {
    let total = |amount, since| Content::Total { amount, since };
    vec![
        signed(ada, 1, "k", text("first"), 1),
        signed(ada, 2, "k", text("at the same time"), 1),
        signed(ada, 2, "k", text("twice the same number"), 1),
        signed(ada, 3, "k", total(5, 0), 1),
        signed(ada, 1, "k", Content::Tombstone, 2),
        signed(ada, 3, "k", total(7, 2), 1),
        signed(ada, 3, "k", total(9, 2), 2),
        signed(ada, 2, "k", total(1, 2), 1),
        signed(ada, 1, "n", total(3, 0), 1),
        signed(ada, 1, "t", text("twice the same number"), 1),
        signed(ada, 1, "t", text("and both are the last"), 1),
    ]
}

#[tokio::test]
async fn entries_that_contradict_each_other_stand_alike_whatever_their_order() {
    let (folders, [a, b, c]) = nodes();
    let ada = Person::new(1);
    for node in [&a, &b, &c] {
        ada.found(node.documents(), "ada").await;
    }
    let mut entries = contradictions(&ada);
    a.take(entries.clone()).await;
    for entry in &entries {
        b.take([entry.clone()]).await;
    }
    entries.reverse();
    for entry in &entries {
        c.take([entry.clone()]).await;
    }
    let expected = Counts { changes: 1, entries: 5, far_ahead: 0 };
    assert_eq!([&a, &b, &c].map(|node| node.sets.counts()), [expected; 3]);
    let digest = a.sets.digest();
    assert!([&b, &c].iter().all(|node| node.sets.digest() == digest));
    assert_eq!(a.take(entries.clone()).await, Stored { idle: entries.len(), ..Stored::default() });
    close_all([a, b, c]).await;
    let nodes = [0, 1, 2].map(|at| Node::open(folders.0[at].path()));
    assert!(nodes.iter().all(|node| node.sets.digest() == digest), "rows that stand no more are gone");
    close_all(nodes).await;
}

#[tokio::test]
async fn an_entry_is_taken_from_those_who_may_write_it() {
    let (_folders, [node]) = nodes();
    let (ada, bob) = (Person::new(1), Person::new(2));
    let mine = || entry(&ada, 1, "k", text("v"), 1);
    let take = async |entry: Entry| node.take([entry.sign(&node_key(1))]).await;
    assert_eq!(take(mine()).await, IDLE, "the namespace is not known yet");
    ada.found(node.documents(), "ada").await;
    bob.found(node.documents(), "bob").await;

    assert_eq!(node.take([mine().sign(&node_key(2))]).await, REFUSED, "another node has signed it");
    assert_eq!(take(Entry { author: bob.user, ..mine() }).await, REFUSED, "the namespace is another's");
    assert_eq!(take(Entry { mesh: PublicKey([7; 32]), ..mine() }).await, REFUSED);
    assert_eq!(take(Entry { key: "a\0b".into(), ..mine() }).await, REFUSED);
    assert_eq!(take(Entry { content: Content::Value(Value::Counter(1)), ..mine() }).await, REFUSED);
    assert_eq!(take(Entry { counter: 0, ..mine() }).await, REFUSED);
    assert_eq!(take(Entry { version: entry::VERSION + 1, ..mine() }).await, IDLE, "a newer node may pass it on");
    assert_eq!(take(mine()).await, TAKEN);
    let job = shoal_protocol::ObjectId::from_parts(5, 0, node_key(1).public().tag());
    let guest = Entry { author: bob.user, job: Some(job), counter: 2, ..mine() };
    assert_eq!(take(guest).await, TAKEN, "bob's job writes where the function's owner lets it");
    node.close().await;
}

#[tokio::test]
async fn a_counter_far_ahead_is_held_back_and_counted() {
    let (_folders, [node]) = nodes();
    let ada = Person::new(1);
    ada.found(node.documents(), "ada").await;
    assert_eq!(node.take([signed(&ada, 1, "k", text("v"), u64::MAX)]).await, IDLE);
    let total = Content::Total { amount: 1, since: u64::MAX };
    assert_eq!(node.take([signed(&ada, 1, "k", total, 1)]).await, IDLE);
    assert_eq!(node.sets.counts().far_ahead, 2);
    assert_eq!(node.take([signed(&ada, 1, "k", text("v"), 1 << 40)]).await, TAKEN);
    node.close().await;
}

#[tokio::test]
async fn who_watches_a_namespace_hears_of_a_peers_entry() {
    let (_folders, [node]) = nodes();
    let ada = Person::new(1);
    ada.found(node.documents(), "ada").await;
    let watch = node.runtime.watch(ada.user);
    let changed = watch.changed();
    let mut feed = node.sets.accepted_entries();
    node.take([signed(&ada, 1, "k", text("v"), 1)]).await;
    within(changed).await;
    assert_eq!(feed.try_recv().unwrap().origin, Origin::Sync);
    drop(watch);
    node.close().await;
}
