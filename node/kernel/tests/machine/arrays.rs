//! Arrays: their elements begin one after the other, and each is a job of its own.

use shoal_kernel::{Command, Effect, Record};
use shoal_protocol::object::job::{After, Ending, FailureCode, ReasonCode, State, When};
use shoal_protocol::wire::worker::{Run, Start};
use shoal_protocol::{Kind, NodeId, ObjectId};

use crate::harness::*;

/// A submission of so many elements.
fn array(n: u64, elements: &str) -> shoal_kernel::NewJob {
    shoal_kernel::NewJob { array: Some(elements.parse().unwrap()), ..new_job(n) }
}

fn element(n: u64, index: u32) -> ObjectId {
    id(n).element(index).unwrap()
}

/// What is started, in order.
fn starts(effects: &[Effect]) -> Vec<Start> {
    let starts = effects.iter().filter_map(|effect| match effect {
        Effect::Start { start, .. } => Some((**start).clone()),
        _ => None,
    });
    starts.collect()
}

fn runs(effects: &[Effect]) -> Vec<Run> {
    starts(effects).into_iter().map(|start| start.run).collect()
}

impl Node {
    /// Lets every run end like this until none is left.
    fn run_all(&mut self, effects: Vec<Effect>, ending: impl Fn(Run) -> Ending) -> Vec<Run> {
        let mut open = runs(&effects);
        let mut ended = Vec::new();
        while !open.is_empty() {
            let run = open.remove(0);
            open.extend(runs(&self.ended(1, run, outcome(ending(run)))));
            self.assert_conserved();
            ended.push(run);
        }
        ended
    }
}

#[test]
fn elements_begin_in_their_order_and_no_more_than_may_be_under_way_at_once() {
    let mut node = Node::new();
    node.attach(1, 4);
    let effects = node.submit(array(1, "10-18:2%2"));
    let started = starts(&effects);
    assert_eq!(started.iter().map(|start| start.run.job).collect::<Vec<_>>(), [element(1, 10), element(1, 12)]);
    let env = |start: &Start, key: &str| start.env.get(key).cloned().unwrap_or_default();
    assert_eq!(env(&started[1], "SHOAL_ARRAY_INDEX"), "12");
    assert_eq!((env(&started[1], "SHOAL_ARRAY_SIZE"), env(&started[1], "SHOAL_ARRAY_LAST")), ("5".into(), "18".into()));
    assert_eq!(node.reason(1).code, ReasonCode::Elements);
    assert_eq!(node.show(1).unwrap().state, State::Queued, "it waits for its elements");
    let load = node.kernel.load();
    assert_eq!((load.waiting, load.running), (3, 2), "elements count one by one");
    node.assert_conserved();
    let next = node.ended(1, started[0].run, outcome(Ending::Succeeded));
    assert_eq!(runs(&next), [Run { job: element(1, 14), epoch: 1 }]);
    let first: Vec<Run> = vec![started[1].run];
    let rest = node.ended(1, first[0], outcome(Ending::Succeeded));
    let mut ended = node.run_all([next, rest].concat(), |_| Ending::Succeeded);
    ended.sort_by_key(|run| run.job);
    assert_eq!(ended.iter().map(|run| run.job).collect::<Vec<_>>(), [14, 16, 18].map(|index| element(1, index)));
    assert_eq!((node.state(1), node.standing(1).elements.unwrap().succeeded), (State::Succeeded, 5));
    assert_eq!(node.kernel.counters().settled[&State::Succeeded], 5, "the array itself counts nothing more");
    assert_eq!(node.kernel.counters().accepted, 5);
}

#[test]
fn an_array_is_one_record_until_its_elements_run() {
    let mut node = Node::new();
    node.submit(array(1, "0-999999"));
    assert_eq!((node.journal.len(), node.kernel.load().waiting), (1, 1_000_000));
    assert_eq!(node.show(1).unwrap().state, State::Queued);
}

#[test]
fn an_array_of_which_elements_fail_fails_and_says_how_many() {
    let mut node = Node::new();
    node.attach(1, 1);
    let effects = node.submit(array(1, "0-3"));
    let fails = |run: Run| run.job == element(1, 2);
    node.run_all(effects, |run| match fails(run) {
        true => failed(FailureCode::Guest).ending,
        false => Ending::Succeeded,
    });
    let outcome = node.standing(1).outcome.clone().unwrap();
    let Ending::Failed(failure) = outcome.ending else { panic!("{outcome:?}") };
    assert_eq!((node.state(1), failure.code), (State::Failed, FailureCode::Elements));
    assert!(failure.message.contains("of its 4 elements 3 succeeded, 1 failed"), "{}", failure.message);
}

#[test]
fn an_element_that_is_lost_runs_again_and_the_array_waits_for_it() {
    let mut node = Node::new();
    let connection = node.attach(1, 2);
    let lost = runs(&node.submit(array(1, "0-1")));
    lost.iter().for_each(|run| drop(node.started(1, *run)));
    node.detach(1, connection, true);
    node.assert_conserved();
    let effects = node.attach_with(1, 2, offer(2, 1024), Vec::new());
    let again = runs(&effects);
    assert_eq!(again, lost.iter().map(|run| Run { epoch: 2, ..*run }).collect::<Vec<_>>());
    node.run_all(effects, |_| Ending::Succeeded);
    assert_eq!(node.state(1), State::Succeeded);
}

#[test]
fn a_restart_forgets_no_element_and_begins_none_twice() {
    let mut node = Node::new();
    node.attach(1, 2);
    let effects = node.submit(array(1, "0-5%2"));
    let [first, second] = runs(&effects)[..] else { panic!("two at once") };
    let third = runs(&node.ended(1, first, outcome(Ending::Succeeded)))[0];
    // What the array's record says of its beginning is behind what its elements say.
    assert_eq!(node.standing(1).elements.unwrap().begun, 2);
    let (mut node, _) = node.restarted();
    node.assert_conserved();
    let effects = node.attach_with(1, 1, offer(2, 1024), vec![second, third]);
    assert_eq!(runs(&effects), [], "two are under way");
    let rest = [node.ended(1, second, outcome(Ending::Succeeded)), node.ended(1, third, outcome(Ending::Succeeded))];
    let ended = node.run_all(rest.concat(), |_| Ending::Succeeded);
    assert_eq!(ended.iter().map(|run| run.job).collect::<Vec<_>>(), [3, 4, 5].map(|index| element(1, index)));
    assert_eq!(node.state(1), State::Succeeded);
}

#[test]
fn an_array_is_cancelled_with_its_elements_and_those_that_never_began_are_counted_with_it() {
    let mut node = Node::new();
    node.attach(1, 2);
    let under_way = runs(&node.submit(array(1, "0-9")));
    let (reply, effects) = node.command(owner(), Command::Cancel(id(1)));
    assert!(reply.is_ok());
    let stopped = effects.iter().filter(|effect| matches!(effect, Effect::Cancel { .. })).count();
    assert_eq!((stopped, node.state(1)), (2, State::Queued));
    let (mut node, _) = node.restarted();
    let effects = node.attach_with(1, 1, offer(2, 1024), under_way.clone());
    assert_eq!(runs(&effects), []);
    node.run_all(Vec::new(), |_| Ending::Cancelled);
    for run in under_way {
        node.ended(1, run, outcome(Ending::Cancelled));
        node.assert_conserved();
    }
    let elements = node.standing(1).elements.unwrap();
    assert_eq!((node.state(1), elements.cancelled, elements.cut), (State::Cancelled, 2, 8));
    assert_eq!(node.kernel.counters().settled[&State::Cancelled], 10);
}

#[test]
fn one_element_can_be_cancelled_once_it_has_begun() {
    let mut node = Node::new();
    node.attach(1, 1);
    let run = runs(&node.submit(array(1, "0-2")))[0];
    let problem = node.command(owner(), Command::Cancel(element(1, 2))).0.unwrap_err();
    assert_eq!(problem.kind, Kind::Conflict);
    assert!(problem.detail.contains("has not begun"), "{}", problem.detail);
    node.command(owner(), Command::Cancel(run.job)).0.unwrap();
    let effects = node.ended(1, run, outcome(Ending::Cancelled));
    node.run_all(effects, |_| Ending::Succeeded);
    let elements = node.standing(1).elements.unwrap();
    assert_eq!((node.state(1), elements.cancelled, elements.succeeded), (State::Failed, 1, 2));
}

#[test]
fn a_held_array_begins_nothing_and_goes_on_when_it_is_released() {
    let mut node = Node::new();
    node.attach(1, 1);
    let run = runs(&node.submit(array(1, "0-2")))[0];
    node.command(owner(), Command::Hold(id(1))).0.unwrap();
    let effects = node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(runs(&effects), []);
    let (mut node, _) = node.restarted();
    node.attach(1, 1);
    node.assert_conserved();
    let (_, effects) = node.command(owner(), Command::Release(id(1)));
    assert_eq!(node.run_all(effects, |_| Ending::Succeeded).len(), 2);
    assert_eq!(node.state(1), State::Succeeded);
}

#[test]
fn jobs_wait_for_an_array_and_for_single_elements_of_it() {
    let mut node = Node::new();
    let job = |n: u64| ObjectId::from_parts(n, 0, NodeId([9; 32]).tag());
    node.attach(1, 1);
    let mut first = array(1, "0-2");
    first.id = job(1);
    let after = |n: u64, earlier: ObjectId| shoal_kernel::NewJob {
        id: job(n),
        after: vec![After { job: earlier, when: When::Ok }],
        ..new_job(n)
    };
    let last = job(1).element(2).unwrap();
    let effects = node.submit(first);
    let (receipts, _) = node.submit_all(owner(), vec![after(50, job(1)), after(51, last)]);
    assert_eq!(receipts.len(), 2);
    assert!(!node.journal.iter().any(|record| matches!(record, Record::Standing(id, _) if *id == job(51))));
    let ended = node.run_all(effects, |_| Ending::Succeeded);
    let order: Vec<ObjectId> = ended.into_iter().map(|run| run.job).collect();
    let place = |id: ObjectId| order.iter().position(|job| *job == id).expect("it ran");
    assert!(place(job(51)) > place(last) && place(job(50)) > place(last));
}

#[test]
fn who_waits_for_an_element_that_never_begins_is_told() {
    let mut node = Node::new();
    let job = |n: u64| ObjectId::from_parts(n, 0, NodeId([9; 32]).tag());
    node.submit(shoal_kernel::NewJob { id: job(1), ..array(1, "0-2") });
    let earlier = job(1).element(1).unwrap();
    let after = vec![After { job: earlier, when: When::Any }];
    node.submit(shoal_kernel::NewJob { id: job(50), after, ..new_job(50) });
    node.command(owner(), Command::Cancel(job(1))).0.unwrap();
    assert_eq!(node.jobs[&job(50)].1.state, State::Queued);
    assert!(node.jobs[&job(50)].1.unmet.is_empty());
}
