//! Jobs of this home and their custodians: who these are, what is waited for, and what happens when they do not answer.

use shoal_kernel::{Command, Effect, Group, Input, PeerAttached, Record, Reply};
use shoal_protocol::custody::{CustodianSet, Custody};
use shoal_protocol::object::job::{Ending, ReasonCode, Receipt, State};
use shoal_protocol::wire::custody::{Holding, KeepJob, Kept};
use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::{Kind, NodeId, ObjectId};

use super::harness::*;

/// How long jobs wait for their custodians.
const KEEP_MS: u64 = 3_000;

impl Node {
    /// A peer that keeps jobs attaches.
    pub(crate) fn keeper(&mut self, n: u8) -> (u64, Vec<Effect>) {
        let (connection, _) = self.meet(n, Vec::new());
        let attached = PeerAttached {
            node: peer(n),
            connection,
            name: format!("p{n}"),
            runs: Vec::new(),
            rtt_us: 1_000,
            keeps: true,
        };
        (connection, self.handle(Input::PeerAttached(Box::new(attached))))
    }

    pub(crate) fn says_kept(&mut self, n: u8, set: u32, jobs: &[(u64, u64)]) -> Vec<Effect> {
        let jobs = jobs.iter().map(|(job, revision)| (id(*job), *revision)).collect();
        self.handle(Input::Kept { node: peer(n), kept: Kept { set, jobs, ..Kept::default() } })
    }

    /// Submits jobs of this durability that are not answered yet.
    pub(crate) fn hand_over(&mut self, jobs: &[u64], durability: Option<u8>) -> Vec<Effect> {
        let jobs = jobs.iter().map(|n| shoal_kernel::NewJob { durability, ..new_job(*n) }).collect();
        self.handle(Input::Request { request: 7, principal: owner(), command: Command::Submit(jobs) })
    }
}

/// What these effects send to be kept, and to whom.
fn sent(effects: &[Effect]) -> Vec<(NodeId, u32, Vec<KeepJob>)> {
    let sent = effects.iter().filter_map(|effect| match effect {
        Effect::Keep { to, set, jobs } if !jobs.is_empty() => Some((*to, set.number, jobs.clone())),
        _ => None,
    });
    sent.collect()
}

fn two() -> std::num::NonZeroU8 {
    std::num::NonZeroU8::new(2).unwrap()
}

fn receipts(effects: &[Effect]) -> Option<Vec<Receipt>> {
    effects.iter().find_map(|effect| match effect {
        Effect::Reply { reply: Ok(Reply::Receipts(receipts)), .. } => Some(receipts.clone()),
        _ => None,
    })
}

fn accepted(jobs: &[u64]) -> Option<Vec<Receipt>> {
    Some(jobs.iter().map(|n| Receipt::Accepted { id: id(*n) }).collect())
}

#[test]
fn a_job_is_acknowledged_and_runs_when_a_custodian_has_it() {
    let mut node = Node::new();
    node.keeper(1);
    node.keeper(2);
    node.says_kept(1, 2, &[]);
    node.attach(1, 4);
    let effects = node.hand_over(&[1, 2], None);
    assert_eq!((receipts(&effects), starts(&effects)), (None, Vec::new()));
    assert_eq!(node.jobs[&id(1)].0.custody, Some(Custody { set: 2, durability: two() }));
    let sent = sent(&effects);
    assert_eq!(sent.len(), 4, "both jobs go to both custodians");
    assert!(sent.iter().all(|(_, set, jobs)| *set == 2 && jobs[0].accepted.is_some() && jobs[0].standing.is_none()));
    let written = place(&effects, |effect| matches!(effect, Effect::Write(_)));
    assert!(written < place(&effects, |effect| matches!(effect, Effect::Keep { .. })), "it is on disk here first");
    assert_eq!(node.reason(1).code, ReasonCode::Keeping);
    node.assert_conserved();
    let effects = node.says_kept(2, 2, &[(1, 0)]);
    assert_eq!((receipts(&effects), started_jobs(&effects)), (None, vec![1]), "the request has one more");
    let effects = node.says_kept(1, 2, &[(2, 0), (1, 0)]);
    assert_eq!((receipts(&effects), started_jobs(&effects)), (accepted(&[1, 2]), vec![2]));
    assert_eq!(node.show(1).unwrap().durability, Some(2));
}

/// The sets that these effects announce; each was written before.
fn announced(effects: &[Effect]) -> Vec<CustodianSet> {
    let mut sets = Vec::new();
    for (place, effect) in effects.iter().enumerate() {
        let Effect::Keep { set, .. } = effect else { continue };
        let is_it =
            |effect: &Effect| matches!(effect, Effect::Write(Record::Custodians(written)) if written.set == **set);
        assert!(effects[..place].iter().any(is_it), "{set:?} leaves before it is written: {effects:?}");
        sets.extend((!sets.contains(&**set)).then(|| CustodianSet::clone(set)));
    }
    sets
}

#[test]
fn a_set_is_written_before_anybody_hears_of_it_and_its_number_is_never_another_one_s() {
    let mut node = Node::new();
    assert_eq!(announced(&node.keeper(1).1)[0].number, 1);
    let (connection, effects) = node.keeper(2);
    let second = announced(&effects);
    assert_eq!((second[0].number, second[0].members.len()), (2, 3));
    assert_eq!(announced(&node.pass(5_000)), second, "nobody has answered: the same once more");
    node.handle(Input::PeerDetached { node: peer(2), connection });
    node.keeper(3);
    let third = announced(&node.pass(5_000));
    assert_eq!((third[0].number, third[0].has_custodian(peer(3))), (3, true), "some may have heard of the second");
    // It was not begun either when the node crashed.
    let (mut node, _) = node.restarted();
    node.keeper(2);
    node.pass(15_000);
    node.keeper(1);
    let members = node.sets.values().find(|set| set.number == 3).map(|set| set.members.clone());
    assert_eq!(members.as_ref(), Some(&third[0].members));
    assert!(node.sets.values().any(|set| set.number == 4), "{:?}", node.sets);
}

#[test]
fn what_is_new_of_a_job_follows_with_rising_revisions_and_nobody_waits_for_it() {
    let mut node = Node::new();
    node.keeper(1);
    node.hand_over(&[1], None);
    node.says_kept(1, 1, &[(1, 0)]);
    node.attach_with(1, 1, offer(1, 1_000), Vec::new());
    let run = shoal_protocol::wire::worker::Run { job: id(1), epoch: 1 };
    let effects = node.ended(1, run, outcome(Ending::Succeeded));
    let sent = sent(&effects);
    let (to, set, jobs) = &sent[0];
    assert_eq!((*to, *set, jobs[0].revision(), &jobs[0].accepted), (peer(1), 1, 2, &None));
    assert_eq!(jobs[0].standing.as_ref().unwrap().state, State::Succeeded);
    assert_eq!(node.standing(1).revision, 2, "one for the epoch, one for the end");
    let (reply, effects) = node.command(
        owner(),
        Command::Forget { job: id(1), owner: id(OWNER), group: Group { owner: id(OWNER), dead: false }, bytes: 0 },
    );
    assert_eq!(reply, Ok(Reply::Done));
    let forget = Effect::ToCustodian { custodian: peer(1), message: PeerMessage::Forget(vec![id(1)]) };
    assert!(effects.contains(&forget));
}

#[test]
fn without_others_the_usual_is_one_and_what_was_asked_for_is_refused() {
    let mut node = Node::new();
    let effects = node.hand_over(&[1], None);
    assert_eq!(receipts(&effects), accepted(&[1]));
    assert_eq!(node.show(1).unwrap().durability, None);
    let refused = node.hand_over(&[2], Some(2));
    let Some(Receipt::Refused(problem)) = receipts(&refused).and_then(|receipts| receipts.first().cloned()) else {
        panic!("{refused:?}")
    };
    assert!(problem.kind == Kind::Unavailable && problem.retry_after_ms.is_some(), "{problem:?}");
    assert!(problem.detail.contains("start more nodes"), "{}", problem.detail);
    let refused = node.hand_over(&[3], Some(4));
    assert!(matches!(&receipts(&refused).unwrap()[0], Receipt::Refused(problem) if problem.kind == Kind::InvalidField));
    assert_eq!(receipts(&node.hand_over(&[4], Some(1))), accepted(&[4]));
}

#[test]
fn custodians_that_do_not_answer_cost_the_usual_its_second_and_others_the_job() {
    let mut node = Node::new();
    node.keeper(1);
    node.hand_over(&[1], None);
    let pending = node.hand_over(&[2], Some(2));
    assert_eq!(receipts(&pending), None);
    let effects = node.pass(KEEP_MS);
    let replies: Vec<_> = effects.iter().filter_map(|effect| receipts(std::slice::from_ref(effect))).collect();
    assert_eq!(replies.len(), 2);
    assert_eq!(Some(replies[0].clone()), accepted(&[1]));
    let Receipt::Refused(problem) = &replies[1][0] else { panic!("{replies:?}") };
    assert!(problem.detail.contains("2 nodes shall have the job, and only 1"), "{}", problem.detail);
    assert!(!node.jobs.contains_key(&id(2)), "what was refused is forgotten, here and there");
    assert!(effects.contains(&Effect::ToCustodian { custodian: peer(1), message: PeerMessage::Forget(vec![id(2)]) }));
    assert_eq!(node.show(1).unwrap().durability, Some(1));
    assert!(node.standing(1).alone);
    // Nobody waits for it a second time, until it has answered.
    assert_eq!(receipts(&node.hand_over(&[3], None)), accepted(&[3]));
    node.says_kept(1, 1, &[(1, 1)]);
    assert_eq!(receipts(&node.hand_over(&[4], None)), None);
    node.assert_conserved();
}

#[test]
fn a_custodian_that_goes_away_is_not_waited_for() {
    let mut node = Node::new();
    let (first, _) = node.keeper(1);
    let (second, _) = node.keeper(2);
    node.says_kept(1, 2, &[]);
    node.hand_over(&[1], None);
    assert_eq!(receipts(&node.part(1, first)), None, "there is another one");
    assert_eq!(receipts(&node.part(2, second)), accepted(&[1]));
    assert!(node.standing(1).alone);
}

#[test]
fn a_job_whose_acceptance_no_custodian_had_seen_runs_after_a_restart_and_is_sent_again() {
    let mut node = Node::new();
    node.keeper(1);
    node.hand_over(&[1], Some(2));
    let (mut node, _) = node.restarted();
    assert_eq!(node.show(1).unwrap().reason.unwrap().code, ReasonCode::NoWorker, "nobody waits for an answer any more");
    let (_, effects) = node.keeper(1);
    assert!(
        effects.contains(&Effect::ToCustodian { custodian: peer(1), message: PeerMessage::Compare { after: None } })
    );
    let effects = node.handle(Input::Holding { node: peer(1), page: Holding::default() });
    let sent = sent(&effects);
    assert_eq!((sent.len(), sent[0].2[0].job), (1, id(1)));
    assert!(sent[0].2[0].accepted.is_some());
}

#[test]
fn a_custodian_that_comes_back_gets_what_differs_a_page_at_a_time() {
    let mut node = Node::new();
    let (connection, _) = node.keeper(1);
    let jobs: Vec<u64> = (1..=1_200).collect();
    for batch in jobs.chunks(1_000) {
        node.hand_over(batch, None);
        let kept: Vec<(u64, u64)> = batch.iter().map(|n| (*n, 0)).collect();
        node.says_kept(1, 1, &kept);
    }
    node.part(1, connection);
    assert!(node.command(owner(), Command::Cancel(id(1))).0.is_ok());
    node.keeper(1);
    let (mut after, mut sent_to, mut pages) = (None, Vec::new(), 0);
    loop {
        // The custodian has them all but the last, as they were accepted.
        let listed = (1..=1_199).map(id).filter(|job| after.is_none_or(|after| *job > after));
        let listed: Vec<(ObjectId, u32, u64)> = listed.map(|job| (job, 1, 0)).collect();
        let more = listed.len() > 512;
        let page = Holding { after, jobs: listed.into_iter().take(512).collect(), more };
        let effects = node.handle(Input::Holding { node: peer(1), page });
        sent_to.extend(sent(&effects).into_iter().flat_map(|(_, _, jobs)| jobs).map(|job| job.job));
        let recalled = effects.iter().any(|e| matches!(e, Effect::Recall(recall) if recall.job == id(1)));
        assert_eq!(recalled, pages == 0, "what has ended is looked for in the store");
        pages += 1;
        let next = effects.iter().find_map(|effect| match effect {
            Effect::ToCustodian { message: PeerMessage::Compare { after }, .. } => Some(*after),
            _ => None,
        });
        match next {
            Some(next) => after = next,
            None => break,
        }
    }
    assert_eq!((sent_to, pages), (vec![id(1_200)], 3));
}

#[test]
fn what_is_forgotten_here_is_forgotten_there_unless_it_is_this_node_that_lost_its_memory() {
    let mut node = Node::new();
    node.keeper(1);
    let recall = |set| shoal_kernel::Recall { node: peer(1), job: id(5), set: Some(set), revision: 3 };
    let effects = node.handle(Input::Recalled { recall: recall(1), record: None });
    assert!(effects.contains(&Effect::ToCustodian { custodian: peer(1), message: PeerMessage::Forget(vec![id(5)]) }));
    let effects = node.handle(Input::Recalled { recall: recall(9), record: None });
    assert!(!effects.iter().any(|effect| matches!(effect, Effect::ToCustodian { .. })), "{effects:?}");
}

/// An array of two elements at this node, under a set of which peer 1 is the custodian.
fn array() -> Node {
    let mut node = Node::new();
    node.keeper(1);
    let array = shoal_kernel::NewJob { array: Some("3-4".parse().unwrap()), ..new_job(1) };
    node.handle(Input::Request { request: 7, principal: owner(), command: Command::Submit(vec![array]) });
    node.says_kept(1, 1, &[(1, 0)]);
    node
}

fn element(index: u32) -> ObjectId {
    id(1).element(index).unwrap()
}

/// The jobs that are sent, each with its revision and whether it is whole.
fn revisions(effects: &[Effect]) -> Vec<(ObjectId, u64, bool)> {
    let jobs = sent(effects).into_iter().flat_map(|(.., jobs)| jobs);
    jobs.map(|job| (job.job, job.revision(), job.accepted.is_some())).collect()
}

#[test]
fn custodians_of_an_array_hear_of_each_element_and_with_its_end_how_far_the_array_is() {
    let mut node = array();
    let effects = node.attach_with(1, 1, offer(1, 1_000), Vec::new());
    assert_eq!(revisions(&effects), [(element(3), 1, false)], "the array is there");
    assert_eq!(node.jobs[&element(3)].0.custody, Some(Custody { set: 1, durability: two() }));
    let run = shoal_protocol::wire::worker::Run { job: element(3), epoch: 1 };
    let effects = node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(revisions(&effects), [(element(3), 2, false), (id(1), 1, false), (element(4), 1, false)]);
    let (_, _, jobs) = &sent(&effects)[1];
    assert_eq!(jobs[0].standing.as_ref().unwrap().elements.unwrap().succeeded, 1);
    assert_eq!((node.standing(1).revision, node.jobs[&element(3)].1.revision), (1, 2));
}

#[test]
fn a_comparison_finds_elements_that_have_begun_and_such_as_have_ended() {
    let mut node = array();
    node.attach(1, 1);
    let run = shoal_protocol::wire::worker::Run { job: element(3), epoch: 1 };
    node.ended(1, run, outcome(Ending::Succeeded));
    let holds = |after, jobs| Input::Holding { node: peer(1), page: Holding { after, jobs, more: false } };
    let recall = |job, set| Effect::Recall(shoal_kernel::Recall { node: peer(1), job, set, revision: 0 });
    let effects = node.handle(holds(None, Vec::new()));
    assert_eq!(revisions(&effects), [(id(1), 1, true), (element(4), 1, false)]);
    assert!(effects.contains(&recall(element(3), Some(1))), "what has ended is looked for in the store: {effects:?}");
    // The next page begins amid the elements.
    let effects = node.handle(holds(Some(element(3)), Vec::new()));
    assert_eq!(revisions(&effects), [(element(4), 1, false)]);
    let recalled = |recall, node: &mut Node| {
        let Effect::Recall(recall) = recall else { panic!() };
        let record = node.jobs.get(&recall.job).cloned().map(Box::new);
        node.handle(Input::Recalled { recall, record })
    };
    assert_eq!(revisions(&recalled(recall(element(3), Some(1)), &mut node)), [(element(3), 2, false)]);
    // Who lacks an element of which it was told lacks the array: that goes first.
    let missing = Kept { set: 1, missing: vec![element(4)], ..Kept::default() };
    let effects = node.handle(Input::Kept { node: peer(1), kept: missing });
    assert_eq!(effects, [recall(element(4), None)]);
    let effects = recalled(recall(element(4), None), &mut node);
    assert_eq!(effects, [recall(id(1), None), recall(element(4), Some(1))]);
    assert_eq!(revisions(&recalled(recall(id(1), None), &mut node)), [(id(1), 1, true)]);
}

#[test]
fn subscribers_hear_of_a_job_when_it_is_acknowledged_and_never_of_one_that_is_refused() {
    let mut node = Node::new();
    node.keeper(1);
    let told = |effects: &[Effect]| -> Vec<(ObjectId, State)> {
        let told = effects.iter().filter_map(|effect| match effect {
            Effect::Told(noted) => Some((noted.event.job, noted.event.state)),
            _ => None,
        });
        told.collect()
    };
    assert_eq!(told(&node.hand_over(&[1], None)), []);
    assert_eq!(told(&node.says_kept(1, 1, &[(1, 0)])), [(id(1), State::Queued)]);
    assert_eq!(told(&node.hand_over(&[2], Some(2))), []);
    assert_eq!(told(&node.pass(KEEP_MS)), []);
}
