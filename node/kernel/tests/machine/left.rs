//! Jobs that a regent leaves to their home: they say why, and whoever may cancel them has them ended all the same.

use std::num::NonZeroU8;

use shoal_kernel::{Command, Effect, Input, Principal, Reply, Retention};
use shoal_protocol::custody::Custody;
use shoal_protocol::object::function::Grant;
use shoal_protocol::object::job::{Effects, Ending, OnDisconnect, ReasonCode, State};
use shoal_protocol::regency::first_of_term;
use shoal_protocol::wire::custody::KeepJob;
use shoal_protocol::{Kind, ObjectId, Problem};

use super::array_takeover::{array, element, news, orphaned_array};
use super::charges::{keep, record};
use super::harness::*;
use super::takeover::{job, orphaned_with, take};

/// What its home says of a job whose only run was under way.
fn last_run(n: u64, effects: Effects) -> KeepJob {
    let mut told = record(n, 1, true);
    let (Some(accepted), Some(standing)) = (&mut told.accepted, &mut told.standing) else { panic!("{told:?}") };
    accepted.spec_mut().limits.attempts = Some(1);
    accepted.terms.effects = effects;
    accepted.custody = Some(Custody { set: 4, durability: NonZeroU8::MIN });
    (standing.state, standing.attempts_total) = (State::Offered, 1);
    told
}

/// A regent that has left a job to its home.
fn left(effects: Effects) -> Node {
    let (mut node, asked) = orphaned_with(&[1, 9], vec![last_run(1, effects)], Retention::default());
    take(&mut node, &asked);
    assert!(node.jobs.is_empty());
    node
}

fn away(node: &mut Node, id: ObjectId) -> (ReasonCode, String, bool) {
    match node.command(owner(), Command::WhyAway(id)).0 {
        Ok(Reply::Away(Some(away))) => (away.reason.code, away.reason.message, away.left),
        other => panic!("{other:?}"),
    }
}

/// Asks for a job's end: its owner is [`other`]; the store's answer has to come before that of the kernel.
fn ask(node: &mut Node, principal: Principal, id: ObjectId) -> Vec<Effect> {
    let effects = node.handle(Input::Request { request: 7, principal, command: Command::Cancel(id) });
    assert!(effects.iter().all(|effect| !matches!(effect, Effect::Reply { .. })), "{effects:?}");
    effects
}

fn answer(effects: &[Effect]) -> Result<State, Problem> {
    let reply = effects.iter().find_map(|effect| match effect {
        Effect::Reply { request: 7, reply } => Some(reply.clone()),
        _ => None,
    });
    reply.expect("a reply").map(|reply| match reply {
        Reply::Job(Some(job)) => job.state,
        other => panic!("{other:?}"),
    })
}

#[test]
fn it_says_why_and_is_ended_by_who_may_cancel_it() {
    let mut node = left(Effects::Idempotent);
    let (code, message, can_end) = away(&mut node, job(1));
    assert_eq!((code, can_end), (ReasonCode::HomeAway, true));
    assert!(message.contains("the last run that it may have was under way there"), "{message}");
    let asked = ask(&mut node, owner(), job(1));
    assert_eq!(answer(&take(&mut node, &asked)).unwrap_err().kind, Kind::Forbidden);
    assert!(node.jobs.is_empty(), "nothing is taken for who may not");
    let asked = ask(&mut node, other(), job(1));
    let effects = take(&mut node, &asked);
    assert_eq!(answer(&effects).unwrap(), State::Cancelled);
    let ended = &node.jobs[&job(1)].1;
    assert_eq!((ended.state, ended.unconfirmed), (State::Cancelled, true));
    assert!(ended.revision >= first_of_term(1), "its home hears so as of any job that was taken over");
    node.assert_conserved();
    let again = node.command(other(), Command::Cancel(job(1))).0;
    assert_eq!(again.unwrap_err().kind, Kind::NotFound, "it has settled: the store has it");
}

#[test]
fn what_may_not_run_twice_only_its_home_ends() {
    let mut node = left(Effects::Once);
    let (_, message, _) = away(&mut node, job(1));
    assert!(message.contains("`once`") && !message.contains("cancel"), "{message}");
    let asked = ask(&mut node, other(), job(1));
    assert_eq!(answer(&take(&mut node, &asked)).unwrap_err().kind, Kind::Conflict);
    assert!(node.jobs.is_empty());
}

#[test]
fn an_array_is_ended_with_its_elements() {
    let array = array(|array| array.terms.on_disconnect = Some(OnDisconnect::Wait));
    let said = vec![news(&array, 0, State::Succeeded, 1), news(&array, 1, State::Offered, 1)];
    let (mut node, asked) = orphaned_array(array, said);
    take(&mut node, &asked);
    assert!(node.jobs.is_empty());
    assert!(away(&mut node, element(1)).1.contains("on_disconnect"), "an element is left with its array");
    let asked = ask(&mut node, operator(), job(1));
    take(&mut node, &asked);
    let ended = &node.jobs[&job(1)].1;
    let elements = ended.elements.unwrap();
    assert_eq!((ended.state, elements.succeeded, elements.cancelled), (State::Cancelled, 1, 1));
    assert_eq!(node.jobs[&element(1)].1.state, State::Cancelled);
}

#[test]
fn each_is_answered_with_what_the_store_says_of_it() {
    let told = [1, 2].map(|n| last_run(n, Effects::Idempotent));
    let (mut node, asked) = orphaned_with(&[1, 9], told.to_vec(), Retention::default());
    take(&mut node, &asked);
    let asked = [1, 2, 1].map(|n| ask(&mut node, other(), job(n)));
    let first = take(&mut node, &asked[0]);
    let replies = |effects: &[Effect]| effects.iter().filter(|effect| matches!(effect, Effect::Reply { .. })).count();
    assert_eq!((replies(&first), node.jobs.contains_key(&job(2))), (2, false), "both that asked for the first");
    assert_eq!(answer(&first).unwrap(), State::Cancelled);
    assert_eq!(answer(&take(&mut node, &asked[1])).unwrap(), State::Cancelled);
    assert_eq!((node.jobs[&job(1)].1.state, node.jobs[&job(2)].1.state), (State::Cancelled, State::Cancelled));
}

#[test]
fn a_node_that_leaves_takes_nothing_more() {
    let mut node = left(Effects::Idempotent);
    node.command(operator(), Command::Drain { to: peer(3), hasten: false }).0.unwrap();
    let asked = ask(&mut node, other(), job(1));
    assert_eq!(answer(&take(&mut node, &asked)).unwrap_err().kind, Kind::Draining);
    assert!(node.jobs.is_empty());
}

#[test]
fn a_home_that_comes_back_meanwhile_is_asked_itself() {
    let mut node = left(Effects::Idempotent);
    let asked = ask(&mut node, other(), job(1));
    node.keeper(1);
    assert_eq!(answer(&take(&mut node, &asked)).unwrap_err().kind, Kind::Unavailable);
    assert!(node.jobs.is_empty());
    assert!(matches!(node.command(owner(), Command::WhyAway(job(1))).0, Ok(Reply::Away(None))));
}

#[test]
fn what_its_home_says_of_it_later_is_kept_beside_that() {
    let mut node = left(Effects::Idempotent);
    let asked = ask(&mut node, other(), job(1));
    take(&mut node, &asked);
    node.keeper(1);
    let mut told = record(1, 5, false);
    let standing = told.standing.as_mut().unwrap();
    (standing.state, standing.outcome, standing.settled_ms) =
        (State::Succeeded, Some(outcome(Ending::Succeeded)), Some(5));
    keep(&mut node, &[1, 9], vec![told]);
    assert_eq!(node.jobs[&job(1)].1.state, State::Cancelled, "the higher term stands");
}

#[test]
fn a_job_whose_function_is_not_known_here_as_its_home_says_it_is_runs_at_no_regent() {
    let mut told = record(1, 0, true);
    told.accepted.as_mut().unwrap().spec_mut().grants = [Grant::Kv].into();
    let (mut node, asked) = orphaned_with(&[1, 9], vec![told], Retention::default());
    node.attach(1, 1);
    let effects = take(&mut node, &asked);
    assert!(node.jobs.is_empty() && effects.iter().all(|effect| !matches!(effect, Effect::Start { .. })));
    let (code, why, left) = away(&mut node, job(1));
    assert!(code == ReasonCode::HomeAway && left && why.contains("not known here as that one has it"), "{why}");
}
