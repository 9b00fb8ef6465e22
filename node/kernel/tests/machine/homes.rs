//! Homes that come, go, cancel, and stay away from the runs that are here.

use shoal_kernel::Input;
use shoal_kernel::{Effect, Record};
use shoal_protocol::object::job::Ending;
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::wire::worker::Run;

use super::guests::run_of;
use super::harness::*;

const WEEK_MS: u64 = 7 * 24 * 3_600_000;

/// A node with so many runs of peer 1, which have all ended and are not settled; the home is away.
fn ended(count: u64) -> (Node, Vec<Run>) {
    let mut node = Node::new();
    node.attach_with(1, 1, offer(600, 600 * 256), Vec::new());
    let (connection, _) = node.meet(1, Vec::new());
    let runs: Vec<Run> = (1..=count).map(|n| run_of(1, n, 1)).collect();
    runs.iter().for_each(|run| assert_eq!(starts(&node.offer(1, *run)).len(), 1));
    node.part(1, connection);
    runs.iter().for_each(|run| drop(node.ended(1, *run, outcome(Ending::Succeeded))));
    (node, runs)
}

fn reported(effects: &[Effect]) -> Vec<Run> {
    let said = to_home(effects, 1).into_iter();
    said.filter_map(|message| if let PeerMessage::Ended(run, _) = message { Some(run) } else { None }).collect()
}

fn settles(node: &mut Node, run: Run) -> Vec<Effect> {
    node.handle(Input::HomeSettled { home: peer(1), run })
}

#[test]
fn a_home_that_comes_back_hears_every_ending_a_bounded_number_at_once() {
    let (mut node, runs) = ended(200);
    let (_, effects) = node.meet(1, Vec::new());
    let mut heard = reported(&effects);
    assert_eq!(heard, runs[..64]);
    for run in &runs {
        heard.extend(reported(&settles(&mut node, *run)));
    }
    assert_eq!(heard, runs, "each once");
    assert!(node.guests.is_empty());
}

#[test]
fn a_home_hears_on_every_connection_how_far_its_runs_are() {
    let mut node = Node::new();
    node.attach(1, 3);
    let (connection, _) = node.meet(1, Vec::new());
    let [waiting, running, done] = [1, 2, 3].map(|n| run_of(1, n, 1));
    [waiting, running, done].iter().for_each(|run| drop(node.offer(1, *run)));
    node.started(1, running);
    node.ended(1, done, outcome(Ending::Succeeded));
    node.part(1, connection);
    let (_, effects) = node.meet(1, Vec::new());
    let taken = |run| PeerMessage::Taken { run, worker: "w1".into() };
    let ended = PeerMessage::Ended(done, Box::new(outcome(Ending::Succeeded)));
    assert_eq!(to_home(&effects, 1), [taken(waiting), taken(running), PeerMessage::Started(running), ended]);
    // And what it no longer wants goes.
    let connection = node.link(1);
    let effects = node.welcomed(1, connection, vec![waiting, done, run_of(1, 9, 9)]);
    assert!(effects.contains(&Effect::Cancel { worker: worker_id(1), run: waiting }));
    assert!(!effects.contains(&Effect::Cancel { worker: worker_id(1), run: done }));
    assert_eq!(node.kernel.guest_runs(peer(1)), [running]);
}

#[test]
fn a_home_hears_a_heartbeat_every_third_of_its_lease() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (connection, effects) = node.meet(1, Vec::new());
    let run = run_of(1, 1, 1);
    node.offer(1, run);
    let third = LEASE_MS / 3;
    assert!(effects.contains(&Effect::Wake { at_ms: node.now.mono_ms + third }));
    for _ in 0..3 {
        assert_eq!(to_home(&node.pass(third - 1), 1), []);
        assert_eq!(to_home(&node.pass(1), 1), [PeerMessage::Heartbeat { runs: vec![run] }]);
    }
    node.part(1, connection);
    assert_eq!(to_home(&node.pass(10 * third), 1), [], "nobody hears it");
}

#[test]
fn a_home_cancels_its_runs_and_nobody_elses() {
    let mut node = Node::new();
    node.attach(1, 1);
    node.meet(1, Vec::new());
    let run = run_of(1, 1, 1);
    node.offer(1, run);
    for (home, run) in [(2, run), (1, run_of(1, 1, 2)), (1, run_of(1, 2, 1))] {
        assert_eq!(node.handle(Input::HomeCancel { home: peer(home), run }), []);
    }
    let effects = node.handle(Input::HomeCancel { home: peer(1), run });
    assert_eq!(effects, [Effect::Cancel { worker: worker_id(1), run }]);
    // It is repeated to a worker that comes back.
    let effects = node.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    assert!(effects.contains(&Effect::Cancel { worker: worker_id(1), run }));
    let effects = node.ended(1, run, outcome(Ending::Cancelled));
    assert_eq!(reported(&effects), [run]);
    // A cancellation that crossed the ending hears of it again.
    assert_eq!(reported(&node.handle(Input::HomeCancel { home: peer(1), run })), [run]);
}

#[test]
fn a_run_goes_on_while_its_home_is_away_and_is_kept_for_it_but_not_for_ever() {
    let (mut node, runs) = ended(2);
    node.pass(WEEK_MS - 1);
    assert_eq!(node.kernel.guest_runs(peer(1)), runs);
    let effects = node.pass(1);
    let gone = effects.iter().filter(|e| matches!(e, Effect::Write(Record::GuestGone(_)))).count();
    assert_eq!((gone, node.kernel.counters().guests_dropped), (2, 2));
    assert!(node.guests.is_empty());
}

#[test]
fn a_home_that_is_away_is_looked_for_as_long_as_it_has_something_here() {
    let (mut node, runs) = ended(1);
    let reached = |effects: &[Effect]| effects.contains(&Effect::Reach { node: peer(1) });
    let mut pauses = Vec::new();
    let mut paused_ms = 0;
    while pauses.len() < 7 {
        paused_ms += 500;
        if reached(&node.pass(500)) {
            pauses.push(paused_ms);
            paused_ms = 0;
        }
    }
    assert_eq!(pauses, [3_000, 6_000, 12_000, 24_000, 48_000, 60_000, 60_000]);
    // Also after a restart.
    let (mut again, _) = node.restarted();
    assert!(!reached(&again.pass(2_999)) && reached(&again.pass(1)));
    // Once it is here it is not, however long it takes to welcome us; and when it has all of it there is nothing to say.
    again.handle(Input::PeerConnected { node: peer(1), connection: 77 });
    assert!((0..10).all(|_| !reached(&again.pass(60_000))));
    again.welcomed(1, 77, Vec::new());
    settles(&mut again, runs[0]);
    again.part(1, 77);
    assert!((0..10).all(|_| again.pass(60_000).is_empty()));
}

#[test]
fn one_home_takes_only_so_much_room() {
    let (mut node, _) = ended(512);
    node.meet(1, Vec::new());
    let effects = node.offer(1, run_of(1, 1_000, 1));
    assert!(to_home(&effects, 1).iter().any(|message| matches!(message, PeerMessage::Declined(..))));
    node.meet(2, Vec::new());
    assert_eq!(starts(&node.offer(2, run_of(2, 1, 1))).len(), 1, "another one has room");
}

#[test]
fn where_all_room_is_taken_the_oldest_ending_of_an_absent_home_goes() {
    let mut node = Node::new();
    node.attach_with(1, 1, offer(600, 600 * 256), Vec::new());
    for home in 1..=4 {
        let (connection, _) = node.meet(home, Vec::new());
        for n in 1..=512 {
            let run = run_of(home, n, 1);
            assert_eq!(starts(&node.offer(home, run)).len(), 1);
            node.ended(1, run, outcome(Ending::Succeeded));
        }
        if home > 1 {
            node.part(home, connection);
        }
        node.now.mono_ms += 1;
        node.heartbeat(1, &[]);
    }
    node.meet(5, Vec::new());
    let effects = node.offer(5, run_of(5, 1, 1));
    assert!(effects.contains(&Effect::Write(Record::GuestGone(run_of(2, 1, 1)))), "home 1 is here");
    assert_eq!((starts(&effects).len(), node.guests.len()), (1, 2_048));
}
