//! Two kernels and a queue between them: what one says the other understands.

use std::collections::VecDeque;

use shoal_kernel::{Effect, Input, PeerAttached};
use shoal_protocol::object::job::{Ending, State};
use shoal_protocol::wire::peer::{Hint, PeerMessage};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{NodeId, WorkerId};

use super::guests::job_of;
use super::harness::*;

/// A home with no worker and an executor with one, connected.
struct Pair {
    nodes: [Node; 2],
    under_way: VecDeque<(usize, Effect)>,
    connection: u64,
}

/// The ids of the two.
const NODES: [NodeId; 2] = [NodeId([9; 32]), NodeId([1; 32])];

impl Pair {
    fn new() -> Self {
        let nodes = NODES.map(|id| Node::with(|config| config.node = id));
        let mut pair = Self { nodes, under_way: VecDeque::new(), connection: 100 };
        pair.nodes[1].attach(1, 2);
        pair.connect();
        pair
    }

    fn connect(&mut self) {
        self.connection += 1;
        let connection = self.connection;
        for (from, node) in [(0, NODES[1]), (1, NODES[0])] {
            self.input(from, Input::PeerConnected { node, connection });
        }
        self.settle();
        let workers = self.nodes[1].kernel.hints();
        let hint = Box::new(Hint { name: "executor".into(), workers, ..Hint::default() });
        self.input(0, Input::PeerHint { node: NODES[1], hint, rtt_us: 100 });
        self.settle();
    }

    fn input(&mut self, at: usize, input: Input) {
        let effects = self.nodes[at].handle(input);
        self.take(at, effects);
    }

    fn take(&mut self, at: usize, effects: Vec<Effect>) {
        self.under_way.extend(effects.into_iter().map(|effect| (at, effect)));
    }

    /// Delivers everything; the runs that were started at the executor's worker.
    fn settle(&mut self) -> Vec<Run> {
        let mut started = Vec::new();
        while let Some((from, effect)) = self.under_way.pop_front() {
            if let Effect::Start { start, .. } = &effect {
                started.push(start.run);
            }
            if let Some(input) = self.heard(from, effect) {
                self.input(1 - from, input);
            }
        }
        started
    }

    /// What the other node makes of an effect.
    fn heard(&self, from: usize, effect: Effect) -> Option<Input> {
        let (node, connection) = (NODES[from], self.connection);
        let (worker, to) = (WorkerId::of_node(&node), WorkerId::of_node(&NODES[1 - from]));
        Some(match effect {
            Effect::Greet { runs, .. } => {
                let attached = PeerAttached { node, connection, name: "n".into(), runs, rtt_us: 100, keeps: false };
                Input::PeerAttached(Box::new(attached))
            }
            Effect::Attached { worker, lease_ms, drop, .. } if worker == to => {
                Input::HomeAttached { home: node, connection, lease_ms, drop }
            }
            Effect::Offer { offer, .. } => Input::Offered { home: node, connection, offer },
            Effect::Cancel { worker, run } if worker == to => Input::HomeCancel { home: node, run },
            Effect::Settled { worker, run } if worker == to => Input::HomeSettled { home: node, run },
            Effect::ToHome { message, .. } => match message {
                PeerMessage::Taken { run, worker } => Input::PeerTaken { node, run, worker },
                PeerMessage::Declined(run, problem) => Input::Declined { worker, run, problem },
                PeerMessage::Started(run) => Input::Started { worker, run },
                PeerMessage::Progress(run, progress) => Input::Progress { worker, run, progress },
                PeerMessage::Ended(run, outcome) => Input::Ended { worker, run, outcome },
                PeerMessage::Heartbeat { runs } => Input::Heartbeat { worker, runs },
                other => panic!("{other:?}"),
            },
            _ => return None,
        })
    }

    /// Submits a job at the home.
    fn submit(&mut self, n: u64) -> Run {
        let mut job = new_job(n);
        job.id = job_of(NODES[0], n);
        let run = Run { job: job.id, epoch: 1 };
        let effects = self.nodes[0].submit(job);
        self.take(0, effects);
        run
    }

    fn state(&self, run: Run) -> State {
        self.nodes[0].jobs[&run.job].1.state
    }
}

#[test]
fn a_job_goes_its_whole_way() {
    let mut pair = Pair::new();
    let run = pair.submit(1);
    assert_eq!(pair.settle(), [run]);
    let effects = pair.nodes[1].started(1, run);
    pair.take(1, effects);
    pair.settle();
    let effects = pair.nodes[1].ended(1, run, outcome(Ending::Succeeded));
    pair.take(1, effects);
    pair.settle();
    assert_eq!(pair.state(run), State::Succeeded);
    let (_, standing) = &pair.nodes[0].jobs[&run.job];
    assert_eq!((standing.attempts[0].worker_name.as_str(), standing.attempts[0].node), ("w1", Some(NODES[1])));
    assert!(pair.nodes[1].guests.is_empty(), "settled there, forgotten here");
}

#[test]
fn two_that_know_different_things_find_out_when_they_connect() {
    let mut pair = Pair::new();
    let [kept, lost, over] = [1, 2, 3].map(|n| pair.submit(n));
    assert_eq!(pair.settle(), [kept, lost], "two slots");
    // The connection breaks; one run ends, the executor starts anew, the home settles another without it.
    for (at, n) in [(0, 1), (1, 9)] {
        let connection = pair.connection;
        drop(pair.nodes[at].part(n, connection));
    }
    pair.nodes[1].ended(1, kept, outcome(Ending::Succeeded));
    let (executor, _) = pair.nodes[1].restarted();
    pair.nodes[1] = executor;
    pair.nodes[1].attach_with(1, 1, offer(2, 64 * 1024), vec![lost]);
    pair.nodes[0].pass(GRANTED_MS);
    pair.connect();
    // The home has given both up by then: what is there no longer counts, and both run again.
    assert_eq!(pair.nodes[0].kernel.counters().lost, 2);
    for run in [kept, lost] {
        let again = Run { epoch: 2, ..run };
        assert!(pair.nodes[1].kernel.guest_runs(NODES[0]).iter().all(|held| held.job != run.job || *held == again));
    }
    let effects = pair.nodes[1].attach_with(1, 2, offer(4, 64 * 1024), Vec::new());
    pair.take(1, effects);
    for _ in 0..40 {
        pair.settle();
        let held: Vec<Run> = pair.nodes[1].kernel.guest_runs(NODES[0]);
        for run in held {
            let effects = pair.nodes[1].ended(1, run, outcome(Ending::Succeeded));
            pair.take(1, effects);
        }
        for at in [0, 1] {
            let effects = pair.nodes[at].pass(LEASE_MS / 4);
            pair.take(at, effects);
        }
        let held = pair.nodes[1].kernel.guest_runs(NODES[0]);
        let effects = pair.nodes[1].heartbeat(1, &held);
        pair.take(1, effects);
        pair.settle();
        let workers = pair.nodes[1].kernel.hints();
        let hint = Box::new(Hint { name: "executor".into(), workers, ..Hint::default() });
        pair.input(0, Input::PeerHint { node: NODES[1], hint, rtt_us: 100 });
    }
    assert!([kept, lost, over].iter().all(|run| pair.state(*run) == State::Succeeded));
    assert!(pair.nodes[1].guests.is_empty());
    pair.nodes[0].assert_conserved();
}
