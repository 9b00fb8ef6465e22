//! The executor's side of the mesh: runs of other homes.

use std::sync::Arc;

use shoal_kernel::{Accepted, Effect, Input, Record};
use shoal_protocol::object::function::{Grant, Needs, RunLimits};
use shoal_protocol::object::job::{Ending, FailureCode, Payload, State};
use shoal_protocol::object::project::Project;
use shoal_protocol::wire::peer::{PeerMessage, RunOffer};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem, TraceId};

use super::harness::*;

pub(crate) fn job_of(home: NodeId, n: u64) -> ObjectId {
    ObjectId::from_parts(n, 0, home.tag())
}

/// A run that peer `home` offers.
pub(crate) fn run_of(home: u8, n: u64, epoch: u64) -> Run {
    Run { job: job_of(peer(home), n), epoch }
}

pub(crate) fn accepted(job: ObjectId) -> Accepted {
    let function = function(FUNCTION);
    Accepted {
        version: shoal_kernel::record::VERSION,
        id: job,
        trace: TraceId([0; 16]),
        spec: Arc::new(shoal_kernel::Spec {
            owner: id(OTHER),
            function: function.id,
            function_name: function.name,
            function_owner: function.owner,
            project: None,
            function_version: 1,
            component: function.current,
            grants: Default::default(),
            needs: Needs::default(),
            limits: RunLimits::default(),
        }),
        input: Payload::empty(),
        accepted_ms: 5,
        name: "".into(),
        terms: Default::default(),
        custody: None,
        extras: Default::default(),
    }
}

impl Node {
    pub(crate) fn offer_with(&mut self, home: u8, run: Run, change: impl FnOnce(&mut Accepted)) -> Vec<Effect> {
        let mut accepted = accepted(run.job);
        change(&mut accepted);
        let offer = Box::new(RunOffer { run, attempt: 1, accepted, checkpoint: None, right: None });
        let connection = self.link(home);
        self.handle(Input::Offered { home: peer(home), connection, offer })
    }

    pub(crate) fn offer(&mut self, home: u8, run: Run) -> Vec<Effect> {
        self.offer_with(home, run, |_| {})
    }

    fn declines(&mut self, home: u8, run: Run, change: impl FnOnce(&mut Accepted)) -> Problem {
        let before = self.journal.len();
        let effects = self.offer_with(home, run, change);
        assert_eq!(self.journal.len(), before, "nothing is written of what is declined");
        match &to_home(&effects, home)[..] {
            [PeerMessage::Declined(declined, problem)] if *declined == run => problem.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn settles(&mut self, home: u8, run: Run) -> Vec<Effect> {
        self.handle(Input::HomeSettled { home: peer(home), run })
    }
}

/// A node with a worker of one slot that has a run of peer 1.
fn hosting() -> (Node, Run) {
    let mut node = Node::new();
    node.attach(1, 1);
    node.meet(1, Vec::new());
    let run = run_of(1, 1, 3);
    let effects = node.offer(1, run);
    let written = place(&effects, |e| matches!(e, Effect::Write(Record::GuestAccepted(_))));
    assert!(written < place(&effects, |e| matches!(e, Effect::ToHome { .. })));
    assert!(written < place(&effects, |e| matches!(e, Effect::Start { .. })));
    assert_eq!(to_home(&effects, 1), [PeerMessage::Taken { run, worker: "w1".into() }]);
    assert_eq!(start(&effects), (worker_id(1), run));
    (node, run)
}

fn ending(effects: &[Effect], home: u8) -> (Run, Ending) {
    let mut said = to_home(effects, home);
    said.retain(|message| !matches!(message, PeerMessage::Heartbeat { .. }));
    match &said[..] {
        [PeerMessage::Ended(run, outcome)] => (*run, outcome.ending.clone()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_guest_run_is_taken_run_reported_and_forgotten_when_settled() {
    let (mut node, run) = hosting();
    assert_eq!((node.kernel.load().guests, node.kernel.load().running, node.jobs.len()), (1, 0, 0));
    assert_eq!(to_home(&node.started(1, run), 1), [PeerMessage::Started(run)]);
    let effects = node.ended(1, run, outcome(Ending::Succeeded));
    let written = place(&effects, |e| matches!(e, Effect::Write(Record::GuestEnded(..))));
    assert!(written < place(&effects, |e| matches!(e, Effect::ToHome { .. })));
    assert!(written < place(&effects, |e| *e == Effect::Settled { worker: worker_id(1), run }));
    assert_eq!(ending(&effects, 1), (run, Ending::Succeeded));
    assert_eq!(node.guests[&run.job].1.as_ref().unwrap().outcome, outcome(Ending::Succeeded));
    // Its slot is free at once, its ending stays until the home has it.
    assert_eq!(node.kernel.hints()[0].free_slots, 1);
    assert_eq!(node.kernel.guest_runs(peer(1)), [run]);
    assert_eq!(node.settles(2, run), [], "another home has no say in it");
    node.settles(1, run);
    assert!(node.guests.is_empty() && node.kernel.guest_runs(peer(1)).is_empty());
}

#[test]
fn how_far_a_guest_is_goes_to_its_home() {
    let (mut node, run) = hosting();
    let progress = shoal_protocol::object::job::Progress { done: 1, total: 2, message: "x".repeat(5_000) };
    let effects = node.handle(Input::Progress { worker: worker_id(1), run, progress });
    assert!(
        matches!(&to_home(&effects, 1)[..], [PeerMessage::Progress(_, progress)] if progress.message.len() == 1_024)
    );
}

#[test]
fn a_run_is_declined_where_there_is_no_room_for_it() {
    let (mut node, _) = hosting();
    let problem = node.declines(1, run_of(1, 2, 1), |_| {});
    assert_eq!(problem.kind, Kind::Full);
    let problem = node
        .declines(1, run_of(1, 2, 1), |accepted| accepted.spec_mut().needs.capabilities = ["gpu".to_owned()].into());
    assert!(problem.detail.contains("no worker here that fits"), "{problem}");
    node.handle(Input::Refuse(Problem::new(Kind::Unavailable, "it stops")));
    assert_eq!(node.declines(1, run_of(1, 2, 1), |_| {}).kind, Kind::Unavailable);
}

#[test]
fn a_guest_waits_ahead_of_a_slot_only_if_none_of_our_own_jobs_waits() {
    let mut node = Node::new();
    node.attach(1, 1);
    node.meet(1, Vec::new());
    let (_, own) = start(&node.submit(new_job(1)));
    node.ended(1, own, outcome(Ending::Succeeded));
    node.submit(new_job(2));
    let run = run_of(1, 1, 1);
    assert_eq!(start(&node.offer(1, run)), (worker_id(1), run), "runs take 2 ms");
    let mut large = new_job(3);
    large.needs = needs_mb(4_000);
    node.attach_with(2, 1, offer(1, 300), Vec::new());
    node.submit(large);
    node.submit({
        let mut job = new_job(4);
        job.needs.capabilities.insert("gpu".into());
        job
    });
    assert_eq!(start(&node.offer(1, run_of(1, 2, 1))).0, worker_id(2), "a free slot that none of our jobs can use");
    assert_eq!(node.declines(1, run_of(1, 3, 1), |_| {}).kind, Kind::Full);
}

#[test]
fn a_place_that_is_kept_for_a_job_of_ours_is_not_given_away() {
    let mut node = Node::new();
    node.attach_with(1, 1, offer(4, 4_000), Vec::new());
    node.meet(1, Vec::new());
    let mut small = new_job(1);
    small.needs = needs_mb(1_000);
    node.submit(small);
    let mut large = new_job(2);
    large.needs = needs_mb(4_000);
    node.submit(large);
    for _ in 0..6 {
        node.pass(900);
        node.heartbeat(1, &[Run { job: id(1), epoch: 1 }]);
    }
    let (_, filler) = node.submit_all(owner(), vec![new_job(3)]);
    assert_eq!(starts(&filler), [], "the worker is kept free");
    assert_eq!(node.kernel.hints()[0].free_slots, 0);
    assert_eq!(node.declines(1, run_of(1, 1, 1), |_| {}).kind, Kind::Full);
}

#[test]
fn only_what_the_function_says_here_is_run() {
    let mut node = Node::new();
    node.attach(1, 4);
    node.meet(1, Vec::new());
    let run = run_of(1, 1, 1);
    let kind = |node: &mut Node, change: &dyn Fn(&mut Accepted)| node.declines(1, run, change).kind;
    assert_eq!(kind(&mut node, &|accepted| accepted.spec_mut().function = id(1)), Kind::NotFound);
    assert_eq!(kind(&mut node, &|accepted| accepted.spec_mut().function_version = 2), Kind::NotFound);
    assert_eq!(kind(&mut node, &|accepted| accepted.spec_mut().component.0[0] += 1), Kind::NotFound);
    assert_eq!(kind(&mut node, &|accepted| accepted.spec_mut().grants = [Grant::Kv].into()), Kind::Forbidden);
    // Nobody else's namespace is opened to the guest.
    assert_eq!(kind(&mut node, &|accepted| accepted.spec_mut().function_owner = id(OTHER)), Kind::Forbidden);
    assert_eq!(kind(&mut node, &|accepted| accepted.spec_mut().project = Some(id(7))), Kind::Forbidden);
    assert_eq!(kind(&mut node, &|accepted| accepted.extras.args = vec!["x".repeat(9_000)]), Kind::InvalidField);
    assert_eq!(kind(&mut node, &|accepted| accepted.input = Payload::Inline(vec![0; 20_000].into())), Kind::TooLarge);
    assert_eq!(kind(&mut node, &|accepted| accepted.id = run_of(1, 2, 1).job), Kind::InvalidField);
    assert_eq!(node.kernel.counters().guests_declined, 9);
    node.handle(Input::FunctionGone(id(FUNCTION)));
    assert_eq!(kind(&mut node, &|_| {}), Kind::NotFound);
    let mut granted = function(FUNCTION);
    granted.grants.insert(Grant::Kv);
    node.handle(Input::Function(Box::new(granted)));
    let effects = node.offer_with(1, run, |accepted| accepted.spec_mut().grants = [Grant::Kv].into());
    assert_eq!(start(&effects).1, run);
}

#[test]
fn the_submitter_must_have_the_right_by_what_is_known_here() {
    let mut node = Node::new();
    node.attach(1, 4);
    node.meet(1, Vec::new());
    let mut owned = function(FUNCTION);
    owned.project = Some(id(7));
    node.handle(Input::Function(Box::new(owned)));
    let project = |accepted: &mut Accepted| accepted.spec_mut().project = Some(id(7));
    assert_eq!(node.declines(1, run_of(1, 1, 1), project).kind, Kind::Forbidden);
    node.handle(Input::Project(Box::new(Project {
        id: id(7),
        name: "p".into(),
        owner: id(OWNER),
        members: [(id(OTHER), "developer".to_owned())].into(),
        labels: Default::default(),
        weight: 1,
        quota: Default::default(),
        usage: None,
        heads: Vec::new(),
    })));
    assert_eq!(starts(&node.offer_with(1, run_of(1, 1, 1), project)).len(), 1);
}

#[test]
fn a_job_is_offered_by_its_home_only() {
    let mut node = Node::new();
    node.attach(1, 4);
    node.meet(1, Vec::new());
    for stranger in [run_of(2, 1, 1), run_of(9, 1, 1), Run { job: id(1), epoch: 1 }] {
        assert_eq!(node.declines(1, stranger, |_| {}).kind, Kind::Forbidden);
    }
    assert_eq!(node.declines(1, run_of(1, 1, 0), |_| {}).kind, Kind::InvalidField);
    // Who has not been welcomed, or speaks on an old connection, is not heard.
    let offer = || {
        let run = run_of(1, 1, 1);
        Box::new(RunOffer { run, attempt: 1, accepted: accepted(run.job), checkpoint: None, right: None })
    };
    let connection = node.link(1);
    node.handle(Input::PeerConnected { node: peer(1), connection: 77 });
    for connection in [connection, 77] {
        assert_eq!(node.handle(Input::Offered { home: peer(1), connection, offer: offer() }), []);
    }
    node.welcomed(1, 77, Vec::new());
    assert_eq!(starts(&node.handle(Input::Offered { home: peer(1), connection: 77, offer: offer() })).len(), 1);
}

#[test]
fn an_offer_that_comes_twice_is_taken_once() {
    let (mut node, run) = hosting();
    let before = node.journal.len();
    assert_eq!(to_home(&node.offer(1, run), 1), [PeerMessage::Taken { run, worker: "w1".into() }]);
    node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(ending(&node.offer(1, run), 1), (run, Ending::Succeeded));
    assert_eq!(node.journal.len(), before + 1);
}

#[test]
fn a_newer_epoch_replaces_the_older_run() {
    let (mut node, old) = hosting();
    node.attach(2, 1);
    let new = run_of(1, 1, 5);
    let effects = node.offer(1, new);
    assert!(effects.contains(&Effect::Cancel { worker: worker_id(1), run: old }));
    let gone = place(&effects, |e| *e == Effect::Write(Record::GuestGone(old)));
    assert!(gone < place(&effects, |e| matches!(e, Effect::Write(Record::GuestAccepted(_)))));
    assert_eq!(start(&effects), (worker_id(2), new), "the old run still occupies its slot");
    // The old one has nothing more to say, and the older no way back.
    let effects = node.ended(1, old, outcome(Ending::Succeeded));
    assert_eq!(effects, [Effect::Settled { worker: worker_id(1), run: old }]);
    assert_eq!(node.declines(1, old, |_| {}).kind, Kind::Conflict);
    assert_eq!(node.kernel.guest_runs(peer(1)), [new]);
    // Where there is no room for the newer one the older one goes all the same.
    let (mut node, old) = hosting();
    let effects = node.offer(1, new);
    assert!(matches!(&to_home(&effects, 1)[..], [PeerMessage::Declined(..)]));
    assert!(effects.contains(&Effect::Cancel { worker: worker_id(1), run: old }) && node.guests.is_empty());
}

#[test]
fn a_run_that_is_lost_with_its_worker_is_reported_as_that() {
    let (mut node, run) = hosting();
    let effects = node.detach(1, 1, true);
    let (ended, Ending::Failed(failure)) = ending(&effects, 1) else { panic!("{effects:?}") };
    assert_eq!((ended, failure.code), (run, FailureCode::WorkerLost));
    assert_eq!(starts(&effects), [], "it is its home that tries again");
    // The same by the end of a lease, and by a worker that no longer lists what it had.
    let (mut node, run) = hosting();
    node.detach(1, 1, false);
    assert!(matches!(ending(&node.pass(GRANTED_MS), 1).1, Ending::Failed(_)));
    node.settles(1, run);
    let (mut node, run) = hosting();
    node.started(1, run);
    assert!(matches!(ending(&node.heartbeat(1, &[]), 1).1, Ending::Failed(_)));
}

#[test]
fn a_run_that_the_worker_does_not_take_is_declined_after_all() {
    let (mut node, run) = hosting();
    let problem = Problem::new(Kind::Full, "not now");
    let effects = node.handle(Input::Declined { worker: worker_id(1), run, problem: problem.clone() });
    assert_eq!(to_home(&effects, 1), [PeerMessage::Declined(run, problem)]);
    assert!(node.guests.is_empty() && effects.contains(&Effect::Write(Record::GuestGone(run))));
}

#[test]
fn a_worker_comes_back_to_its_guest_runs() {
    let (mut node, run) = hosting();
    node.started(1, run);
    node.detach(1, 1, false);
    node.pass(GRANTED_MS - 1);
    let effects = node.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    assert!(effects.iter().any(|e| matches!(e, Effect::Attached { drop, .. } if drop.is_empty())));
    node.pass(900);
    assert_eq!(to_home(&node.heartbeat(1, &[run]), 1), []);
    assert_eq!(ending(&node.ended(1, run, outcome(Ending::Succeeded)), 1).0, run);
}

#[test]
fn a_guest_that_outlives_its_limit_is_ended_without_its_worker() {
    let mut node = Node::new();
    node.attach(1, 1);
    node.meet(1, Vec::new());
    let run = run_of(1, 1, 1);
    node.offer_with(1, run, |accepted| accepted.spec_mut().limits.run_ms = Some(500));
    node.started(1, run);
    let mut said = Vec::new();
    for _ in 0..4 {
        node.pass(500);
        said.extend(to_home(&node.heartbeat(1, &[run]), 1));
    }
    assert!(matches!(&said[..], [PeerMessage::Ended(_, outcome)] if outcome.ending == Ending::TimedOut), "{said:?}");
    assert_eq!(node.kernel.hints()[0].free_slots, 0, "the worker has not let go of it");
}

#[test]
fn a_restarted_node_goes_on_with_its_guests() {
    let (mut node, run) = hosting();
    node.started(1, run);
    let (mut again, _) = node.restarted();
    assert_eq!((again.kernel.counters().guests_restored, again.kernel.guest_runs(peer(1))), (1, vec![run]));
    again.attach_with(1, 1, offer(1, 64 * 1024), vec![run]);
    assert_eq!(again.kernel.hints()[0].free_slots, 0);
    // It ends before its home is there.
    assert_eq!(to_home(&again.ended(1, run, outcome(Ending::Succeeded)), 1), []);
    let (mut third, _) = again.restarted();
    let (_, effects) = third.meet(1, Vec::new());
    assert!(effects.iter().any(|e| matches!(e, Effect::Greet { runs, .. } if *runs == [run])));
    assert_eq!(ending(&effects, 1), (run, Ending::Succeeded));
    third.settles(1, run);
    assert!(third.guests.is_empty());
    // A worker that does not come back has lost it.
    let (mut lost, _) = node.restarted();
    lost.pass(GRANTED_MS);
    let end = lost.guests[&run.job].1.clone().unwrap();
    assert!(matches!(end.outcome.ending, Ending::Failed(failure) if failure.code == FailureCode::WorkerLost));
}

#[test]
fn guests_are_no_part_of_this_homes_books() {
    let (mut node, run) = hosting();
    node.submit(new_job(1));
    node.assert_conserved();
    assert_eq!(node.state(1), State::Queued);
    let effects = node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(start(&effects), (worker_id(1), Run { job: id(1), epoch: 1 }), "what it leaves is for the next");
    node.assert_conserved();
}
