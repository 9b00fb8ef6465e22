//! What runs save for the next: kept by epoch and number, durable before anybody hears of it, told to the home.

use shoal_kernel::{Command, Effect, Input, Principal, Record, Reply, RequestId};
use shoal_protocol::object::job::{Checkpoint, Ending, FailureCode, Payload, Saved};
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{BlobId, Kind, Problem};

use crate::guests::run_of;
use crate::harness::*;

const NOBODY: Principal = Principal { user: None, operator: false };

fn bytes(text: &str) -> Payload {
    Payload::Inline(text.as_bytes().into())
}

fn blob(n: u8) -> Payload {
    Payload::Blob { id: BlobId([n; 32]), size: 20_000 }
}

fn checkpoint(run: Run, number: u64, bytes: Payload) -> Box<Checkpoint> {
    Box::new(Checkpoint { epoch: run.epoch, number, saved_ms: 5, bytes })
}

impl Node {
    fn saves(&mut self, request: RequestId, n: u64, run: Run, number: u64, bytes: Payload) -> Vec<Effect> {
        let command = Command::Checkpoint { worker: worker_id(n), run, number, bytes };
        self.handle(Input::Request { request, principal: NOBODY, command })
    }

    fn peer_saves(&mut self, n: u8, run: Run, number: u64, bytes: Payload) -> Vec<Effect> {
        self.handle(Input::PeerCheckpoint { node: peer(n), run, checkpoint: checkpoint(run, number, bytes) })
    }

    fn saved(&self, run: Run) -> Option<&Payload> {
        self.saved.iter().find_map(|saved| saved.get(&run.job)).map(|saved| &saved.bytes)
    }
}

fn reply(effects: &[Effect], request: RequestId) -> Option<Result<Reply, Problem>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply { request: answered, reply } if *answered == request => Some(reply.clone()),
        _ => None,
    })
}

fn given(effects: &[Effect]) -> Option<Payload> {
    let starts = effects.iter().filter_map(|effect| match effect {
        Effect::Start { start, .. } => Some(start.checkpoint.clone()),
        Effect::Offer { offer, .. } => Some(offer.checkpoint.as_ref().map(|given| given.bytes.clone())),
        _ => None,
    });
    let starts: Vec<_> = starts.collect();
    assert_eq!(starts.len(), 1, "{effects:?}");
    starts.into_iter().next().unwrap()
}

#[test]
fn the_next_run_is_given_what_was_saved_last_also_after_a_restart() {
    let mut node = Node::new();
    let connection = node.attach(1, 1);
    let effects = node.submit(new_job(1));
    assert_eq!(given(&effects), None);
    let (_, run) = start(&effects);
    node.started(1, run);
    for (number, text) in [(1, "one"), (2, "two")] {
        let effects = node.saves(9, 1, run, number, bytes(text));
        let written = place(&effects, |e| matches!(e, Effect::Write(Record::Checkpoint(..))));
        assert!(written < place(&effects, |e| matches!(e, Effect::Reply { .. })));
        assert_eq!(reply(&effects, 9), Some(Ok(Reply::Done)));
    }
    let shown = node.show(1).unwrap().checkpoint;
    let saved_ms = node.now.wall_ms;
    assert_eq!(shown, Some(Saved { epoch: run.epoch, number: 2, saved_ms, size: 3 }));
    // The same and an earlier one once more: there is a later one of this run, which is as good.
    for number in [2, 1] {
        let effects = node.saves(9, 1, run, number, bytes("late"));
        assert_eq!((reply(&effects, 9), effects.len()), (Some(Ok(Reply::Done)), 1), "nothing is written");
    }

    let (mut node, _) = node.restarted();
    node.detach(1, connection, true);
    node.pass(GRANTED_MS);
    let effects = node.attach_with(2, 1, offer(1, 64 * 1024), Vec::new());
    assert_eq!(given(&effects), Some(bytes("two")));
    let attempts = node.show(1).unwrap().attempts;
    assert_eq!(attempts.last().unwrap().resumed, Some(run.epoch));

    // The run of before is late, whatever it counts.
    let effects = node.saves(9, 1, run, 3, bytes("three"));
    assert_eq!(reply(&effects, 9).unwrap().unwrap_err().kind, Kind::Conflict);
    assert_eq!(node.saved(run), Some(&bytes("two")));
}

#[test]
fn a_blob_is_let_go_when_it_is_replaced_and_when_the_job_ends() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(1)));
    let replaced = |effects: &[Effect]| {
        let mut saved = effects.iter().filter_map(|effect| match effect {
            Effect::Write(Record::Checkpoint(_, saving)) => Some(saving.replaces),
            _ => None,
        });
        saved.next().unwrap()
    };
    assert_eq!(replaced(&node.saves(9, 1, run, 1, blob(1))), None);
    assert_eq!(replaced(&node.saves(9, 1, run, 2, blob(2))), Some(BlobId([1; 32])));
    assert_eq!(replaced(&node.saves(9, 1, run, 3, blob(2))), None, "the same bytes");
    let effects = node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(replaced(&effects), Some(BlobId([2; 32])));
    assert_eq!((node.saved(run), node.standing(1).saved.unwrap().number), (None, 3), "when it was, stays known");
    assert_eq!(reply(&node.saves(9, 1, run, 4, blob(3)), 9).unwrap().unwrap_err().kind, Kind::Conflict);
}

#[test]
fn what_a_peer_saves_goes_to_the_next_peer_and_one_that_is_late_is_answered_and_counts_for_nothing() {
    let mut node = Node::new();
    let connection = node.peer(1, 1);
    let effects = node.submit(new_job(1));
    let (_, run) = offered(&effects);
    node.peer_taken(1, run);
    let effects = node.peer_saves(1, run, 1, bytes("there"));
    let told = Effect::Checkpointed { peer: peer(1), run, number: 1 };
    assert!(place(&effects, |e| matches!(e, Effect::Write(Record::Checkpoint(..)))) < place(&effects, |e| *e == told));
    node.part(1, connection);
    node.pass(GRANTED_MS);
    node.meet(2, Vec::new());
    let effects = node.hint(2, vec![free(offer(1, 64 * 1024))]);
    assert_eq!(given(&effects), Some(bytes("there")));
    let effects = node.peer_saves(1, run, 2, bytes("late"));
    assert_eq!(effects, [Effect::Checkpointed { peer: peer(1), run, number: 2 }]);
    assert_eq!(node.saved(run), Some(&bytes("there")));
}

/// A node with a worker that has a run of peer 1, which its guest has started.
fn hosting() -> (Node, Run, u64) {
    let mut node = Node::new();
    node.attach(1, 1);
    let (connection, _) = node.meet(1, Vec::new());
    let run = run_of(1, 1, 3);
    node.offer(1, run);
    node.started(1, run);
    (node, run, connection)
}

fn told(effects: &[Effect]) -> Vec<PeerMessage> {
    let mut said = to_home(effects, 1);
    said.retain(|message| matches!(message, PeerMessage::Checkpoint(..) | PeerMessage::Ended(..)));
    said
}

#[test]
fn a_guest_waits_for_its_home_while_that_is_in_reach() {
    let (mut node, run, connection) = hosting();
    let effects = node.saves(9, 1, run, 1, bytes("one"));
    let written = place(&effects, |e| matches!(e, Effect::Write(Record::GuestCheckpoint(..))));
    assert!(written < place(&effects, |e| matches!(e, Effect::ToHome { .. })));
    assert_eq!((told(&effects).len(), reply(&effects, 9)), (1, None));
    let answered = |node: &mut Node, number| node.handle(Input::HomeCheckpointed { home: peer(1), run, number });
    assert_eq!(answered(&mut node, 7), [], "of another one");
    assert_eq!(reply(&answered(&mut node, 1), 9), Some(Ok(Reply::Done)));

    // Cut off in between, and then for longer: what was saved is durable here.
    let effects = node.saves(10, 1, run, 2, bytes("two"));
    assert_eq!(reply(&effects, 10), None);
    assert_eq!(reply(&node.part(1, connection), 10), Some(Ok(Reply::Done)));
    let effects = node.saves(11, 1, run, 3, bytes("three"));
    assert_eq!((told(&effects).len(), reply(&effects, 11)), (0, Some(Ok(Reply::Done))));
    let (_, effects) = node.meet(1, Vec::new());
    let wall_ms = node.now.wall_ms;
    let last = Checkpoint { saved_ms: wall_ms, ..*checkpoint(run, 3, bytes("three")) };
    assert_eq!(told(&effects), [PeerMessage::Checkpoint(run, Box::new(last))]);

    // A home that does not answer is waited for no longer than its lease, and told again.
    let effects = node.saves(12, 1, run, 4, bytes("four"));
    assert_eq!(reply(&effects, 12), None);
    let effects: Vec<Effect> = (0..4)
        .flat_map(|_| {
            node.heartbeat(1, &[run]);
            node.pass(LEASE_MS / 3)
        })
        .collect();
    assert_eq!((reply(&effects, 12), told(&effects).len()), (Some(Ok(Reply::Done)), 1));
    node.handle(Input::HomeSettled { home: peer(1), run });
    assert_eq!(node.saved(run), None, "it goes with the run");
}

#[test]
fn a_peer_that_declines_what_has_saved_came_back_without_it_and_that_was_an_attempt() {
    let mut node = Node::new();
    node.peer(1, 1);
    let (_, run) = offered(&node.submit(new_job(1)));
    node.peer_taken(1, run);
    node.peer_saves(1, run, 1, bytes("half"));
    // Its home has been restarted since, and knows of the start by the checkpoint alone.
    let (mut node, _) = node.restarted();
    node.meet(1, vec![run]);
    node.peer_declined(1, run, "the worker came back without the run");
    assert_eq!((node.standing(1).attempts_total, node.standing(1).attempts.len()), (1, 1));
}

#[test]
fn a_home_hears_of_a_checkpoint_before_it_hears_that_the_run_was_lost() {
    let (mut node, run, connection) = hosting();
    node.part(1, connection);
    node.saves(9, 1, run, 1, bytes("one"));
    node.ended(1, run, failed(FailureCode::WorkerLost));
    let (mut node, _) = node.restarted();
    let (_, effects) = node.meet(1, Vec::new());
    let said = told(&effects);
    assert!(matches!(&said[..], [PeerMessage::Checkpoint(..), PeerMessage::Ended(..)]), "{said:?}");

    // Of one that has a result nobody goes on from there.
    let (mut node, run, connection) = hosting();
    node.part(1, connection);
    node.saves(9, 1, run, 1, bytes("one"));
    node.ended(1, run, outcome(Ending::Succeeded));
    assert!(matches!(&told(&node.meet(1, Vec::new()).1)[..], [PeerMessage::Ended(..)]));
}

#[test]
fn a_guest_that_waits_is_answered_whatever_becomes_of_its_run() {
    let (mut node, run, _) = hosting();
    assert_eq!(reply(&node.saves(9, 1, run, 1, bytes("one")), 9), None);
    let effects = node.handle(Input::HomeSettled { home: peer(1), run });
    assert_eq!(reply(&effects, 9).unwrap().unwrap_err().kind, Kind::Conflict);

    let (mut node, run, _) = hosting();
    node.saves(9, 1, run, 1, bytes("one"));
    let effects = node.saves(10, 1, run, 1, bytes("one"));
    assert_eq!(reply(&effects, 9).unwrap().unwrap_err().kind, Kind::Conflict, "it has asked again");
    assert_eq!(reply(&effects, 10), None);
    let effects = node.ended(1, run, failed(FailureCode::Guest));
    assert_eq!(reply(&effects, 10).unwrap().unwrap_err().kind, Kind::Conflict);
}
