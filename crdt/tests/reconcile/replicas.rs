//! Replicas of real changes that reconcile: nothing waits for what comes after it.

use shoal_crdt::reconcile::{Held, Index, Stored};
use shoal_crdt::{Outcome, Replica, wanted};
use shoal_protocol::change::{DocumentClass, SignedChange};
use shoal_protocol::wire::sync::SignedItem;

use crate::nodes::{Node, reconcile};
use crate::world::{Person, assert_equal, replica};

/// What the thread of a node's documents holds: a replica, the journal, and the index beside it.
struct Documents {
    replica: Replica,
    journal: Vec<SignedChange>,
    index: Index,
    held_back_max: usize,
}

impl Documents {
    fn new() -> Self {
        Self { replica: replica(), journal: Vec::new(), index: Index::new(), held_back_max: 0 }
    }

    fn apply(&mut self, change: &SignedChange) -> Outcome {
        let applied = self.replica.apply(change).unwrap();
        for accepted in applied.accepted {
            assert!(self.index.insert(self.journal.len() as u64, accepted.hash().into()));
            self.journal.push(accepted);
        }
        self.held_back_max = self.held_back_max.max(self.replica.held_back());
        applied.outcome
    }
}

impl Node for Documents {
    fn index(&self) -> &Index {
        &self.index
    }

    fn read(&self, held: &Held) -> Option<SignedItem> {
        self.journal.get(held.place as usize).cloned().map(SignedItem::from)
    }

    fn store(&mut self, items: Vec<SignedItem>) -> Stored {
        let mut stored = Stored::default();
        for item in items {
            match self.apply(&SignedChange::from(item)) {
                Outcome::Duplicate => stored.idle += 1,
                Outcome::HeldBack { .. } => stored.held += 1,
                Outcome::Counted | Outcome::DoesNotCount(_) => stored.taken += 1,
            }
        }
        stored
    }
}

/// Functions and histories of several changes, some by people that only one of the nodes has heard of.
fn fill(documents: &mut Documents, seed: u8, name: &str, functions: usize) {
    let mut person = Person::new(seed, name);
    documents.apply(&person.founding.clone());
    let mut copy = replica();
    copy.apply(&person.founding).unwrap();
    for n in 0..functions {
        let id = person.function(&mut copy, &format!("f{n}"));
        for round in 0..3 {
            let name = wanted::name(&format!("f{n}-{round}"));
            person.change(&mut copy, DocumentClass::Function, id, vec![name]);
        }
        for change in copy.changes(id) {
            documents.apply(change);
        }
    }
}

#[test]
fn replicas_become_equal_and_nothing_is_held_back() {
    let (mut a, mut b, mut empty) = (Documents::new(), Documents::new(), Documents::new());
    fill(&mut a, 1, "ada", 150);
    fill(&mut b, 1, "ada", 20);
    fill(&mut b, 2, "bob", 150);
    let run = reconcile(&mut a, &mut b, 1);
    println!("two replicas of {} changes: {:?} bytes, {:?} messages", a.journal.len(), run.bytes, run.messages);
    reconcile(&mut empty, &mut b, 2);
    assert_equal(&mut a.replica, &mut b.replica);
    assert_equal(&mut a.replica, &mut empty.replica);
    assert_eq!(a.journal.len(), 2 + 300 * 4);
    assert_eq!([&a, &b, &empty].map(|node| node.held_back_max), [0; 3], "what a change depends on comes before it");
}
