//! Jobs of other homes that are kept here.

use shoal_kernel::{Command, Effect, Input, Record, Reply};
use shoal_protocol::Octets;
use shoal_protocol::custody::{CustodianSet, SignedCustodians, VERSION};
use shoal_protocol::key::Signature;
use shoal_protocol::object::job::{After, State, When};
use shoal_protocol::wire::custody::{Holding, KeepJob, Kept};
use shoal_protocol::wire::peer::PeerMessage;

use super::guests::{accepted, job_of};
use super::harness::*;

pub(crate) fn keep(node: &mut Node, members: &[u8], jobs: Vec<KeepJob>) -> Vec<Effect> {
    let members = members.iter().map(|n| peer(*n)).collect();
    let set = Box::new(CustodianSet { version: VERSION, home: peer(1), number: 4, members });
    let signed = Box::new(SignedCustodians { bytes: Octets::default(), signature: Signature([0; 64]) });
    node.handle(Input::Keep { home: peer(1), set, signed, jobs })
}

/// A job of peer 1 at a revision: as it was accepted, or what is new of it.
pub(crate) fn record(n: u64, revision: u64, whole: bool) -> KeepJob {
    let accepted = accepted(job_of(peer(1), n));
    let mut standing = accepted.standing();
    (standing.revision, standing.epoch) = (revision, revision);
    if whole {
        KeepJob::whole(accepted, (revision > 0).then_some(standing))
    } else {
        KeepJob::news(&accepted, standing)
    }
}

fn said(effects: &[Effect]) -> Kept {
    match to_home(effects, 1).as_slice() {
        [PeerMessage::Kept(kept)] => kept.clone(),
        other => panic!("{other:?}"),
    }
}

fn node() -> Node {
    let mut node = Node::new();
    node.meet(1, Vec::new());
    node
}

#[test]
fn a_job_is_written_before_its_home_hears_that_it_is_kept_and_newer_replaces_older() {
    let mut node = node();
    let effects = keep(&mut node, &[1, 9], vec![record(1, 0, true), record(2, 3, true)]);
    assert_eq!(said(&effects).jobs, [(job_of(peer(1), 1), 0), (job_of(peer(1), 2), 3)]);
    let written = effects.iter().rposition(|effect| matches!(effect, Effect::Write(_))).unwrap();
    assert!(written < place(&effects, |effect| matches!(effect, Effect::ToHome { .. })));
    let effects = keep(&mut node, &[1, 9], vec![record(1, 2, false), record(2, 1, true), record(2, 3, true)]);
    assert_eq!(said(&effects).jobs, [(job_of(peer(1), 1), 2), (job_of(peer(1), 2), 3), (job_of(peer(1), 2), 3)]);
    assert_eq!(effects.iter().filter(|effect| matches!(effect, Effect::Write(_))).count(), 1, "only what is newer");
    let (_, accepted, standing) = &node.charges[&job_of(peer(1), 1)];
    assert_eq!((accepted.id, standing.epoch), (job_of(peer(1), 1), 2));
    assert_eq!(node.kernel.load().waiting, 0, "it is no job of this home");
}

#[test]
fn what_is_new_of_a_job_that_is_not_here_is_missed() {
    let mut node = node();
    let effects = keep(&mut node, &[1, 9], vec![record(1, 2, false)]);
    let kept = said(&effects);
    assert_eq!((kept.jobs, kept.missing), (Vec::new(), vec![job_of(peer(1), 1)]));
    assert!(node.charges.is_empty());
}

#[test]
fn what_is_new_of_a_job_whose_input_has_come_needs_the_input() {
    let mut node = node();
    let mut whole = record(1, 0, true);
    let accepted = whole.accepted.as_mut().unwrap();
    (accepted.extras.input_of, accepted.extras.after) = (Some(id(3)), vec![After { job: id(3), when: When::Ok }]);
    keep(&mut node, &[1, 9], vec![whole.clone()]);
    // Its input was sent before, and takes longer than what follows.
    let news = KeepJob { supplied: true, ..record(1, 2, false) };
    assert_eq!(said(&keep(&mut node, &[1, 9], vec![news.clone()])).missing, [job_of(peer(1), 1)]);
    whole.supplied = true;
    whole.standing = record(1, 1, false).standing;
    assert_eq!(said(&keep(&mut node, &[1, 9], vec![whole])).jobs, [(job_of(peer(1), 1), 1)]);
    assert_eq!(said(&keep(&mut node, &[1, 9], vec![news])).jobs, [(job_of(peer(1), 1), 2)]);
}

#[test]
fn a_home_that_names_others_is_told_that_its_set_was_heard_and_nothing_is_kept() {
    let mut node = node();
    let effects = keep(&mut node, &[1, 8], vec![record(1, 0, true)]);
    assert_eq!(said(&effects), Kept { set: 4, ..Kept::default() });
    assert!(node.charges.is_empty() && node.sets.is_empty());
    let mut stranger = record(1, 0, true);
    stranger.job = id(1);
    assert_eq!(said(&keep(&mut node, &[1, 9], vec![stranger])).jobs, []);
}

#[test]
fn what_is_kept_survives_a_restart_is_listed_and_goes_when_its_home_says_so() {
    let mut node = node();
    keep(&mut node, &[1, 9], vec![record(1, 0, true), record(2, 5, true)]);
    let (mut node, _) = node.restarted();
    node.meet(1, Vec::new());
    let effects = node.handle(Input::Compare { home: peer(1), after: None });
    let listed = vec![(job_of(peer(1), 1), 4, 0), (job_of(peer(1), 2), 4, 5)];
    assert_eq!(to_home(&effects, 1), [PeerMessage::Holding(Holding { after: None, jobs: listed, more: false })]);
    assert_eq!(said(&keep(&mut node, &[1, 9], vec![record(2, 4, true)])).jobs, [(job_of(peer(1), 2), 5)]);
    let forget = |jobs| Input::Forget { home: peer(1), jobs };
    let effects = node.handle(forget(vec![job_of(peer(1), 2), id(7)]));
    assert_eq!(effects, [Effect::Write(Record::ChargeGone(job_of(peer(1), 2)))]);
    assert_eq!(node.handle(forget(vec![job_of(peer(1), 2)])), []);
    // The same job, whose input was fetched meanwhile.
    assert_eq!(said(&keep(&mut node, &[1, 9], vec![record(2, 0, true)])).jobs, []);
    assert_eq!(node.charges.values().map(|(_, _, standing)| standing.state).collect::<Vec<_>>(), [State::Queued]);
}

#[test]
fn an_element_is_kept_with_its_array_and_goes_with_it() {
    let mut node = node();
    let array = job_of(peer(1), 1);
    let mut whole = record(1, 0, true);
    whole.accepted.as_mut().unwrap().extras.array = Some("0-4".parse().unwrap());
    let element = |index, revision| {
        let accepted = whole.accepted.as_ref().unwrap().element(index).unwrap();
        let mut standing = accepted.standing();
        standing.revision = revision;
        KeepJob::whole(accepted, Some(standing))
    };
    let third = array.element(3).unwrap();
    assert_eq!(said(&keep(&mut node, &[1, 9], vec![element(3, 1)])).missing, [third]);
    let effects = keep(&mut node, &[1, 9], vec![whole.clone(), element(3, 1), element(3, 2)]);
    assert_eq!(said(&effects).jobs, [(array, 0), (third, 1), (third, 2)]);
    assert_eq!((node.charges[&third].1.extras.index, node.charges[&third].2.revision), (Some(3), 2));
    let mut beyond = element(3, 1);
    beyond.job = array.element(5).unwrap();
    assert_eq!(said(&keep(&mut node, &[1, 9], vec![beyond])).missing, [array.element(5).unwrap()]);
    let (mut node, _) = node.restarted();
    node.meet(1, Vec::new());
    let effects = keep(&mut node, &[1, 9], vec![element(3, 2), element(4, 1)]);
    assert_eq!(said(&effects).jobs, [(third, 2), (array.element(4).unwrap(), 1)]);
    node.handle(Input::Forget { home: peer(1), jobs: vec![array] });
    assert!(node.charges.is_empty());
}

#[test]
fn a_home_that_is_away_is_looked_for_by_who_keeps_its_jobs_and_their_connection_is_of_use() {
    let mut node = node();
    let keeps = |node: &mut Node| match node.command(owner(), Command::RunsWith(peer(1))).0 {
        Ok(Reply::Runs { keeps, .. }) => keeps,
        other => panic!("{other:?}"),
    };
    assert!(!keeps(&mut node));
    keep(&mut node, &[1, 9], vec![record(1, 0, true)]);
    assert!(keeps(&mut node));
    let (mut node, _) = node.restarted();
    let reach = Effect::Reach { node: peer(1) };
    assert!(!node.pass(5_000).contains(&reach), "it may come by itself");
    assert!(node.pass(5_000).contains(&reach));
    node.keeper(1);
    assert!(keeps(&mut node) && !node.pass(60_000).contains(&reach));
}
