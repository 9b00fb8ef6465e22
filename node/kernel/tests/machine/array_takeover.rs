//! Arrays whose home is away: who goes on with them, from where, and what their home makes of that when it is back.

use shoal_kernel::{Accepted, Command, Effect, Group, Input, NewJob, Record, Standing};
use shoal_protocol::object::job::{Effects, Elements, Ending, FailureCode, State};
use shoal_protocol::regency::first_of_term;
use shoal_protocol::wire::custody::KeepJob;
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Kind, ObjectId};

use super::charges::{keep, record};
use super::harness::*;
use super::takeover::{AWAY_MS, asked_to_merge, job, take, told};

const TERM: u64 = first_of_term(1);

pub(crate) fn element(index: u32) -> ObjectId {
    job(1).element(index).unwrap()
}

/// An array of five of peer 1 as its home says it.
pub(crate) fn array(change: impl FnOnce(&mut Accepted)) -> Accepted {
    let mut accepted = *record(1, 0, true).accepted.unwrap();
    accepted.extras.array = Some("0-4".parse().unwrap());
    change(&mut accepted);
    accepted
}

/// What that home says of one of its elements.
pub(crate) fn news(array: &Accepted, index: u32, state: State, attempts: u32) -> KeepJob {
    let accepted = array.element(index).unwrap();
    let standing = Standing { state, revision: 1, epoch: 1, attempts_total: attempts, ..accepted.standing() };
    KeepJob::news(&accepted, standing)
}

/// A node with four slots that keeps this array and what was said of its elements, and whose home has been away for long; and what it
/// makes of that.
pub(crate) fn orphaned_array(array: Accepted, elements: Vec<KeepJob>) -> (Node, Vec<Effect>) {
    let mut node = Node::with(|config| config.takeover_after_ms = AWAY_MS);
    let (connection, _) = node.keeper(1);
    keep(&mut node, &[1, 9], [vec![KeepJob::whole(array, None)], elements].concat());
    node.handle(Input::PeerDetached { node: peer(1), connection });
    let mut effects = node.pass(5_000);
    (0..5).for_each(|_| effects.extend(node.pass(5_000)));
    node.attach(1, 4);
    (node, effects)
}

#[test]
fn a_regent_goes_on_with_an_array_where_its_home_was() {
    let array = array(|_| {});
    let said = vec![
        news(&array, 0, State::Succeeded, 1),
        news(&array, 1, State::Offered, 1),
        news(&array, 3, State::Offered, 2),
    ];
    let (mut node, effects) = orphaned_array(array, said);
    let effects = take(&mut node, &effects);
    // Of the third nothing was heard: its home begins them in order, so that it has begun, too.
    let mut started: Vec<Run> = starts(&effects).into_iter().map(|(_, run)| run).collect();
    started.sort_by_key(|run| run.job);
    assert_eq!(started, [1, 2, 3, 4].map(|index| Run { job: element(index), epoch: TERM + 1 }));
    assert_eq!(node.jobs[&element(3)].1.attempts_total, 3, "what its home had tried counts");
    assert!(!node.jobs.contains_key(&element(0)), "what has ended stays as its home said");
    let position =
        |id| place(&effects, |effect| matches!(effect, Effect::Write(Record::Taken(taken)) if taken.accepted.id == id));
    assert!(position(element(3)) < position(job(1)), "an array is never found without elements that it counts");
    let load = |node: &Node| (node.kernel.load().waiting, node.kernel.load().running);
    assert_eq!(load(&node.restarted().0), load(&node), "a restart finds all of it");
    for run in started {
        node.ended(1, run, outcome(Ending::Succeeded));
    }
    let standing = &node.jobs[&job(1)].1;
    assert_eq!((standing.state, standing.elements.unwrap().succeeded), (State::Succeeded, 5));
    assert!(standing.revision >= TERM && standing.unconfirmed);
    let accepted = &node.jobs[&job(1)].0;
    let group = Group::of(accepted, State::Succeeded);
    let forget = Command::Forget { job: job(1), owner: accepted.spec.owner, group, bytes: 0 };
    let refused = node.command(other(), forget).0.unwrap_err();
    assert!(refused.detail.contains("has not heard how it ended"), "{refused:?}");
}

#[test]
fn an_element_whose_last_run_went_with_its_home_has_failed() {
    let array = array(|array| array.spec_mut().limits.attempts = Some(1));
    let said = vec![news(&array, 0, State::Offered, 1)];
    let (mut node, effects) = orphaned_array(array, said);
    take(&mut node, &effects);
    let lost = &node.jobs[&element(0)].1;
    let Some(Ending::Failed(failure)) = lost.outcome.as_ref().map(|outcome| &outcome.ending) else {
        panic!("{lost:?}")
    };
    assert_eq!((lost.state, failure.code), (State::Failed, FailureCode::WorkerLost));
    assert_eq!(node.jobs[&job(1)].1.elements.unwrap().failed, 1);
}

#[test]
fn an_array_whose_elements_may_not_run_twice_is_left_to_its_home() {
    let array = array(|array| array.terms.effects = Effects::Once);
    let (mut node, effects) = orphaned_array(array, Vec::new());
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Take { .. })));
    let effects = take(&mut node, &effects);
    assert!(node.jobs.is_empty() && effects.iter().all(|effect| !matches!(effect, Effect::Write(_))), "{effects:?}");
}

/// A home with an array of five, of which the first has ended and the next two run, and peer 1 keeps it.
fn home() -> (Node, Vec<Run>) {
    let mut node = Node::new();
    node.attach(1, 2);
    node.keeper(1);
    let submitted = NewJob { array: Some("0-4".parse().unwrap()), ..new_job(1) };
    node.handle(Input::Request { request: 8, principal: owner(), command: Command::Submit(vec![submitted]) });
    let effects = node.says_kept(1, 1, &[(1, 0)]);
    let runs: Vec<Run> = starts(&effects).into_iter().map(|(_, run)| run).collect();
    let next = node.ended(1, runs[0], outcome(Ending::Succeeded));
    (node, vec![runs[1], starts(&next)[0].1])
}

/// What peer 1 says as the regent of this array.
fn as_regent(node: &Node, state: State, revision: u64, elements: Elements) -> KeepJob {
    let (accepted, ours) = &node.jobs[&id(1)];
    let (regent, elements) = (Some(peer(1)), Some(elements));
    let standing =
        Standing { state, epoch: TERM, revision: TERM + revision, regent, elements, settled_ms: None, ..ours.clone() };
    KeepJob::news(accepted, standing)
}

#[test]
fn a_home_that_is_back_runs_nothing_of_an_array_that_its_regent_decides_and_shows_what_that_says() {
    let (mut node, runs) = home();
    node.assert_conserved();
    let far = Elements { begun: 4, succeeded: 1, ..Elements::default() };
    let news = as_regent(&node, State::Queued, 0, far);
    let effects = told(&mut node, 1, 1, vec![news]);
    for run in &runs {
        assert!(effects.iter().any(|effect| matches!(effect, Effect::Cancel { run: stopped, .. } if stopped == run)));
        assert!(!node.jobs.contains_key(&run.job), "it is one of its array again");
    }
    assert!(node.jobs.contains_key(&id(1).element(0).unwrap()), "what has ended here stays");
    assert_eq!(node.standing(1).elements.unwrap().apart(), 1);
    node.assert_conserved();
    // Of what it did not know it hears from its regent.
    let last = node.jobs[&id(1)].0.element(3).unwrap();
    let standing = Standing {
        state: State::Succeeded,
        epoch: TERM + 1,
        revision: TERM + 2,
        regent: Some(peer(1)),
        outcome: Some(outcome(Ending::Succeeded)),
        ..last.standing()
    };
    let asked = asked_to_merge(&told(&mut node, 1, 1, vec![KeepJob::news(&last, standing.clone())]));
    let unbegun = Standing { elements: None, revision: 0, ..node.standing(1).clone() };
    let effects =
        node.handle(Input::Merge { from: peer(1), told: asked, record: Some(Box::new((last.clone(), unbegun))) });
    assert_eq!(node.elsewhere[&last.id], standing);
    assert!(effects.contains(&Effect::Changed { job: last.id, settled: true }), "{effects:?}");
    let (mut node, _) = node.restarted();
    node.assert_conserved();
    let far = Elements { begun: 5, succeeded: 5, ..Elements::default() };
    let news = as_regent(&node, State::Succeeded, 9, far);
    told(&mut node, 1, 1, vec![news]);
    assert_eq!((node.state(1), node.standing(1).elements.unwrap().with_array()), (State::Succeeded, 4));
    node.assert_conserved();
}

#[test]
fn what_a_home_has_ended_alone_ends_at_its_regent_and_is_counted_once() {
    let array = array(|_| {});
    let (mut node, effects) = orphaned_array(array.clone(), vec![news(&array, 0, State::Offered, 1)]);
    take(&mut node, &effects);
    node.keeper(1);
    let elements = Some(Elements { begun: 2, cut: 3, cancelled: 2, ..Elements::default() });
    let cancelled =
        Standing { state: State::Cancelled, revision: 9, settled_ms: Some(7), elements, ..array.standing() };
    keep(&mut node, &[1, 9], vec![KeepJob::news(&array, cancelled)]);
    let settled = &node.jobs[&job(1)].1;
    assert_eq!((settled.state, settled.elements.unwrap().begun), (State::Cancelled, 2));
    let began_here = node.jobs.len() as u32 - 1;
    assert_eq!((began_here > 2, settled.elements.unwrap().with_array()), (true, 5 - began_here));
}

#[test]
fn an_array_that_its_home_has_ended_stays_until_that_has_told_how_each_element_did() {
    let array = array(|_| {});
    let first = news(&array, 0, State::Offered, 1);
    let others = (1..5).map(|index| news(&array, index, State::Succeeded, 1));
    let (mut node, effects) = orphaned_array(array.clone(), others.chain([first.clone()]).collect());
    let run = starts(&take(&mut node, &effects))[0].1;
    node.keeper(1);
    let elements = Some(Elements { begun: 5, succeeded: 5, ..Elements::default() });
    let ended = Standing { state: State::Succeeded, revision: 9, settled_ms: Some(7), elements, ..array.standing() };
    keep(&mut node, &[1, 9], vec![KeepJob::news(&array, ended)]);
    assert!(!node.jobs[&run.job].1.state.is_settled());
    let group = Group::of(&array, State::Succeeded);
    let forget = Command::Forget { job: array.id, owner: array.spec.owner, group, bytes: 0 };
    assert_eq!(node.command(other(), forget.clone()).0.unwrap_err().kind, Kind::Conflict);
    let sweeps = |effects: Vec<Effect>| effects.contains(&Effect::Write(Record::Swept(array.id)));
    node.now.wall_ms += 3_650 * 24 * 3_600_000;
    let oldest = Input::Oldest { group, jobs: vec![(7, array.id, 0)] };
    assert!(!sweeps(node.handle(oldest.clone())), "an element of it is under way");
    let mut told = first;
    let standing = told.standing.as_mut().unwrap();
    (standing.state, standing.revision, standing.settled_ms, standing.outcome) =
        (State::Succeeded, 3, Some(7), Some(outcome(Ending::Succeeded)));
    keep(&mut node, &[1, 9], vec![told]);
    assert!(node.jobs[&run.job].1.state.is_settled());
    node.assert_conserved();
    assert!(sweeps(node.handle(oldest)));
}

#[test]
fn elements_of_an_array_that_its_home_has_ended_and_forgotten_end_too() {
    let array = array(|_| {});
    let first = news(&array, 0, State::Offered, 1);
    let others = (1..5).map(|index| news(&array, index, State::Succeeded, 1));
    let (mut node, effects) = orphaned_array(array.clone(), others.chain([first]).collect());
    let run = starts(&take(&mut node, &effects))[0].1;
    node.keeper(1);
    let elements = Some(Elements { begun: 5, succeeded: 5, ..Elements::default() });
    let ended = Standing { state: State::Succeeded, revision: 9, settled_ms: Some(7), elements, ..array.standing() };
    keep(&mut node, &[1, 9], vec![KeepJob::news(&array, ended)]);
    // Nobody will tell any more how the one that is under way here has ended at its home.
    let effects = node.handle(Input::Forget { home: peer(1), jobs: vec![array.id] });
    assert!(effects.iter().any(|effect| matches!(effect, Effect::Cancel { run: stopped, .. } if *stopped == run)));
    assert_eq!(node.jobs[&run.job].1.state, State::Cancelled);
    assert_eq!((node.kernel.load().waiting, node.kernel.load().running), (0, 0));
    node.assert_conserved();
    let forget = Command::Forget {
        job: array.id,
        owner: array.spec.owner,
        group: Group::of(&array, State::Succeeded),
        bytes: 0,
    };
    node.command(other(), forget).0.unwrap();
}

#[test]
fn an_array_that_its_home_has_forgotten_ends_with_its_elements() {
    let array = array(|_| {});
    let said = vec![news(&array, 0, State::Succeeded, 1), news(&array, 1, State::Offered, 1)];
    let (mut node, effects) = orphaned_array(array, said);
    let runs = starts(&take(&mut node, &effects));
    assert_eq!(runs.len(), 4);
    node.keeper(1);
    // Of an element alone that says nothing: its home may never have heard of it, and says the same of the array if that has gone.
    let effects = node.handle(Input::Forget { home: peer(1), jobs: runs.iter().map(|(_, run)| run.job).collect() });
    assert!(effects.is_empty() && runs.iter().all(|(_, run)| node.jobs.contains_key(&run.job)), "{effects:?}");
    let effects = node.handle(Input::Forget { home: peer(1), jobs: vec![job(1)] });
    let stopped = effects.iter().filter(|effect| matches!(effect, Effect::Cancel { .. })).count();
    assert_eq!((stopped, node.jobs.len(), node.charges.len()), (4, 0, 0), "{effects:?}");
    assert_eq!((node.kernel.load().waiting, node.kernel.load().running), (0, 0));
    node.assert_conserved();
}
