//! Calls to URLs when jobs have ended: each is made at least once, whatever restarts, and not for ever.

use shoal_kernel::{CallEnd, Command, Effect, Group, Input, NewJob, Record};
use shoal_protocol::object::job::{CallState, Ending, FailureCode, Notify, NotifyOn, State, Terms};
use shoal_protocol::{Kind, ObjectId};

use super::harness::*;

const HOUR_MS: u64 = 3_600_000;

fn told(n: u64, events: &[NotifyOn]) -> NewJob {
    let notify = Notify { url: "http://receiver.example/done".into(), events: events.iter().copied().collect() };
    NewJob { terms: Terms { notify: Some(Box::new(notify)), ..Terms::default() }, ..new_job(n) }
}

fn calls(effects: &[Effect]) -> Vec<(ObjectId, u32)> {
    let calls = effects.iter().filter_map(|effect| match effect {
        Effect::Call { job, attempt } => Some((*job, *attempt)),
        _ => None,
    });
    calls.collect()
}

fn called(node: &mut Node, n: u64, attempt: u32, end: CallEnd) -> Vec<Effect> {
    node.handle(Input::Called { job: id(n), attempt, end })
}

fn failed_once(why: &str) -> CallEnd {
    CallEnd::Failed(why.into())
}

/// A node whose job 1 has just succeeded.
fn ended() -> (Node, Vec<Effect>) {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(told(1, &[])));
    let mut effects = node.ended(1, run, outcome(Ending::Succeeded));
    effects.extend(node.pass(0));
    (node, effects)
}

/// Lets so much time pass that whatever is due is.
fn wait(node: &mut Node, ms: u64) -> Vec<(ObjectId, u32)> {
    calls(&node.pass(ms))
}

#[test]
fn a_call_is_written_with_the_end_and_made_after_it() {
    let (mut node, effects) = ended();
    let noted = place(&effects, |e| matches!(e, Effect::Write(Record::Call(..))));
    let settled = place(&effects, |e| matches!(e, Effect::Write(Record::Standing(_, s)) if s.state.is_settled()));
    let made = place(&effects, |e| matches!(e, Effect::Call { .. }));
    assert!(noted < settled && settled < made);
    assert_eq!(calls(&effects), [(id(1), 1)]);
    called(&mut node, 1, 1, CallEnd::Delivered);
    let call = &node.calls[&id(1)].called;
    assert_eq!((call.state, call.attempts, call.last_ms), (CallState::Delivered, 1, Some(node.now.wall_ms)));
    assert!(wait(&mut node, 48 * HOUR_MS).is_empty(), "once is enough");
}

#[test]
fn only_the_ends_that_are_wanted_are_told() {
    let mut node = Node::new();
    node.attach(1, 1);
    let (_, run) = start(&node.submit(told(1, &[NotifyOn::Failed])));
    let mut effects = node.ended(1, run, outcome(Ending::Succeeded));
    effects.extend(node.pass(0));
    assert!(calls(&effects).is_empty() && node.calls.is_empty());
    let (_, run) = start(&node.submit(told(2, &[NotifyOn::Failed])));
    node.ended(1, run, failed(FailureCode::Guest));
    assert!(node.calls.contains_key(&id(2)));
    node.submit(NewJob { terms: Terms { hold: true, ..told(3, &[]).terms }, ..new_job(3) });
    node.command(owner(), Command::Cancel(id(3))).0.unwrap();
    assert!(node.calls.contains_key(&id(3)));
}

#[test]
fn what_was_not_answered_is_tried_again_ever_more_rarely_for_a_day() {
    let (mut node, _) = ended();
    let (mut attempt, mut last_ms, begun_ms) = (1, 0, node.now.mono_ms);
    while node.calls[&id(1)].called.state == CallState::Pending {
        called(&mut node, 1, attempt, failed_once("503"));
        let from_ms = node.now.mono_ms;
        let mut made = Vec::new();
        while made.is_empty() && node.calls[&id(1)].called.state == CallState::Pending {
            made = wait(&mut node, 100);
        }
        if made.is_empty() {
            break;
        }
        let pause_ms = node.now.mono_ms - from_ms;
        assert!(pause_ms <= HOUR_MS && pause_ms * 4 >= last_ms, "{pause_ms} after {last_ms}");
        last_ms = pause_ms;
        attempt += 1;
    }
    let tried_ms = node.now.mono_ms - begun_ms;
    let call = &node.calls[&id(1)].called;
    assert_eq!((call.state, call.last_error.as_deref()), (CallState::GivenUp, Some("503")));
    assert!((24 * HOUR_MS..=25 * HOUR_MS).contains(&tried_ms), "{tried_ms}");
    assert!((20..=48).contains(&call.attempts), "{}", call.attempts);
    assert_eq!((node.kernel.counters().calls_given_up, wait(&mut node, 48 * HOUR_MS).len()), (1, 0));
}

#[test]
fn who_may_not_be_called_is_not_called_again() {
    let (mut node, _) = ended();
    called(&mut node, 1, 1, CallEnd::Refused("410".into()));
    assert_eq!(node.calls[&id(1)].called.state, CallState::GivenUp);
    assert!(wait(&mut node, HOUR_MS).is_empty());
}

#[test]
fn a_restart_makes_the_calls_that_were_not_answered() {
    let (node, _) = ended();
    let (mut node, _) = node.restarted();
    assert_eq!(node.kernel.counters().calls, 1, "it was under way, and may have come to nothing");
    called(&mut node, 1, 1, failed_once("500"));
    let (mut node, _) = node.restarted();
    assert!(wait(&mut node, 2_000).is_empty(), "the pause goes on");
    assert_eq!(wait(&mut node, 3_000), [(id(1), 2)]);
    called(&mut node, 1, 2, CallEnd::Delivered);
    let (mut node, _) = node.restarted();
    assert!(wait(&mut node, HOUR_MS).is_empty());
}

#[test]
fn a_call_of_a_job_that_has_not_ended_after_all_waits_for_its_end() {
    let (mut node, _) = ended();
    // The power failed within the batch: the call is there, the end is not.
    let (accepted, standing) = node.jobs.get_mut(&id(1)).unwrap();
    *standing = accepted.standing();
    let (mut node, _) = node.restarted();
    assert!(wait(&mut node, HOUR_MS).is_empty());
    let (_, effects) = node.command(owner(), Command::Cancel(id(1)));
    assert_eq!(calls(&effects), [(id(1), 1)]);
}

#[test]
fn an_edge_that_says_nothing_is_asked_again_and_a_late_word_says_nothing() {
    let (mut node, _) = ended();
    assert!(wait(&mut node, 60_000).is_empty());
    assert!(node.calls[&id(1)].called.last_error.is_some());
    assert_eq!(wait(&mut node, 5_000), [(id(1), 2)]);
    assert_eq!(called(&mut node, 1, 1, CallEnd::Delivered), []);
    called(&mut node, 1, 2, CallEnd::Delivered);
    assert_eq!(node.calls[&id(1)].called.attempts, 2);
    assert_eq!(called(&mut node, 1, 2, CallEnd::Delivered), []);
}

#[test]
fn so_many_are_called_at_once_and_the_others_in_turn() {
    let mut node = Node::new();
    for n in 1..=40 {
        node.submit(NewJob { terms: Terms { hold: true, ..told(n, &[]).terms }, ..new_job(n) });
    }
    for n in 1..=40 {
        node.command(owner(), Command::Cancel(id(n))).0.unwrap();
    }
    let mut made = wait(&mut node, 0);
    made.sort_unstable();
    // Each command has let the clock's tick in as well.
    let begun = node.kernel.counters().calls;
    assert_eq!(begun, 32, "{made:?}");
    let (mut answered, mut ahead) = (0, (1..=40).map(|n| (id(n), 1)).collect::<Vec<_>>());
    while let Some((job, attempt)) = (!ahead.is_empty()).then(|| ahead.remove(0)) {
        let effects = node.handle(Input::Called { job, attempt, end: CallEnd::Delivered });
        answered += usize::from(!effects.is_empty());
    }
    assert_eq!((answered, node.kernel.counters().calls), (40, 40));
}

#[test]
fn of_an_array_its_end_is_told_once() {
    let mut node = Node::new();
    node.attach(1, 4);
    let effects = node.submit(NewJob { array: Some("0-2".parse().unwrap()), ..told(1, &[]) });
    let mut all = Vec::new();
    for (_, run) in starts(&effects) {
        all.extend(node.ended(1, run, outcome(Ending::Succeeded)));
    }
    all.extend(node.pass(0));
    assert_eq!((node.state(1), calls(&all)), (State::Succeeded, vec![(id(1), 1)]));
}

#[test]
fn what_is_forgotten_is_told_no_more() {
    let (mut node, _) = ended();
    called(&mut node, 1, 1, failed_once("500"));
    let group = Group { owner: id(OWNER), dead: false };
    node.command(owner(), Command::Forget { job: id(1), owner: id(OWNER), group, bytes: 0 }).0.unwrap();
    assert!(wait(&mut node, 48 * HOUR_MS).is_empty() && node.calls.is_empty());
}

#[test]
fn a_url_that_is_none_is_refused() {
    let mut node = Node::new();
    let mut job = told(1, &[]);
    job.terms.notify = Some(Box::new(Notify { url: "example.org".into(), events: Default::default() }));
    let problem = node.refused(owner(), job);
    assert!(problem.kind == Kind::InvalidField && problem.detail.contains("notify.url"), "{problem}");
}
