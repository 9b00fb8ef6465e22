//! Settled jobs go when they are old or when there are too many of them: the oldest first, a few at a time.

use shoal_kernel::{Command, Effect, Group, Input, Keep, NewJob, Record, Reply, Retention, SWEEP_LEN_MAX};
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Ending, FailureCode, State};

use crate::harness::*;

fn settled() -> Group {
    Group { owner: id(OWNER), dead: false }
}

fn dead() -> Group {
    Group { dead: true, ..settled() }
}

/// A node with a worker that keeps so many jobs for ten seconds, and dead ones for a minute.
fn keeping(jobs: u64) -> Node {
    let mut node = Node::with(|config| {
        config.retention =
            Retention { settled: Keep { age_ms: 10_000, jobs }, dead: Keep { age_ms: 60_000, jobs: 100 } };
    });
    node.attach(1, 1);
    node
}

impl Node {
    fn succeeds(&mut self, n: u64) -> Vec<Effect> {
        let (_, run) = start(&self.submit(new_job(n)));
        self.ended(1, run, outcome(Ending::Succeeded))
    }

    /// Lets time pass while the worker lives.
    fn lives(&mut self, mut ms: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        while ms > 0 {
            self.heartbeat(1, &[]);
            effects.extend(self.pass(ms.min(LEASE_MS / 2)));
            ms -= ms.min(LEASE_MS / 2);
        }
        effects
    }

    /// What the edge reads of the store.
    fn oldest(&mut self, group: Group) -> Vec<Effect> {
        let settled = self.kept().filter(|(accepted, standing)| Group::of(accepted, standing.state) == group);
        let mut jobs: Vec<_> =
            settled.map(|(job, standing)| (standing.settled_ms.unwrap(), job.id, bytes_of(job, standing))).collect();
        jobs.sort_unstable();
        jobs.truncate(SWEEP_LEN_MAX);
        self.handle(Input::Oldest { group, jobs })
    }
}

fn asked(effects: &[Effect]) -> Vec<Group> {
    let asked = effects.iter().filter_map(|effect| match effect {
        Effect::Oldest { group, .. } => Some(*group),
        _ => None,
    });
    asked.collect()
}

fn swept(effects: &[Effect]) -> Vec<ObjectId> {
    let swept = effects.iter().filter_map(|effect| match effect {
        Effect::Write(Record::Swept(job)) => Some(*job),
        _ => None,
    });
    swept.collect()
}

#[test]
fn a_job_goes_when_it_is_old_and_a_dead_one_later() {
    let mut node = keeping(100);
    let effects = node.succeeds(1);
    let written = place(&effects, |e| matches!(e, Effect::Write(Record::Standing(..))));
    assert!(written < place(&effects, |e| matches!(e, Effect::Write(Record::Retained(r)) if r.group == settled())));
    let (_, run) = start(&node.submit(new_job(2)));
    node.ended(1, run, failed(FailureCode::Guest));
    node.lives(4_000);
    node.succeeds(3);
    assert_eq!(asked(&node.lives(5_999)), []);
    assert_eq!(asked(&node.lives(1)), [settled()]);
    let effects = node.oldest(settled());
    assert_eq!(swept(&effects), [id(1)]);
    assert_eq!(asked(&node.lives(3_999)), [], "the next is four seconds younger");
    assert_eq!(asked(&node.lives(1)), [settled()]);
    assert_eq!(swept(&node.oldest(settled())), [id(3)]);
    assert_eq!(node.state(2), State::Failed);
    assert_eq!(asked(&node.lives(46_000)), [settled(), dead()]);
    assert_eq!(swept(&node.oldest(dead())), [id(2)]);
    assert_eq!((node.oldest(settled()), node.kernel.counters().swept), (Vec::new(), 3));
}

#[test]
fn of_too_many_the_oldest_go_a_few_at_a_time() {
    let mut node = keeping(5);
    let all = 5 + SWEEP_LEN_MAX as u64 + 3;
    let mut questions = 0;
    for n in 1..=all {
        node.now.wall_ms += 1;
        questions += asked(&node.succeeds(n)).len();
    }
    assert_eq!(questions, 1, "one question at a time");
    let effects = node.oldest(settled());
    assert_eq!(swept(&effects), (1..=SWEEP_LEN_MAX as u64).map(id).collect::<Vec<_>>());
    assert_eq!(asked(&effects), [settled()], "there are more");
    let effects = node.oldest(settled());
    assert_eq!((swept(&effects).len(), asked(&effects)), (3, Vec::new()));
    assert_eq!((node.jobs.len(), node.kernel.counters().swept_for_number), (5, SWEEP_LEN_MAX as u64 + 3));
    // One that somebody forgets makes room.
    let command = Command::Forget { job: id(all), owner: id(OWNER), group: settled(), bytes: 0 };
    node.command(owner(), command).0.unwrap();
    assert_eq!(asked(&node.succeeds(all + 1)), []);
    assert_eq!(asked(&node.succeeds(all + 2)), [settled()]);
}

#[test]
fn a_restart_knows_what_is_kept() {
    let mut node = keeping(3);
    (1..=3).for_each(|n| drop(node.succeeds(n)));
    let (mut node, _) = node.restarted();
    node.attach(1, 1);
    assert_eq!(swept(&node.oldest(settled())), [], "all may stay");
    assert_eq!(asked(&node.succeeds(4)), [settled()]);
    assert_eq!(swept(&node.oldest(settled())), [id(1)]);
    node.lives(9_999);
    assert_eq!(asked(&node.lives(1)), [settled()]);
    // A wall clock that was set back keeps them no longer than they may stay.
    node.now.wall_ms -= 900_000;
    assert_eq!(swept(&node.oldest(settled())), []);
    assert_eq!(asked(&node.lives(10_000)), [settled()]);
}

#[test]
fn an_array_counts_once_and_goes_with_its_elements() {
    let mut node = keeping(2);
    let effects = node.submit(NewJob { array: Some("0-4%1".parse().unwrap()), ..new_job(1) });
    let mut run = start(&effects).1;
    let mut ended = Vec::new();
    for left in (0..5).rev() {
        ended = node.ended(1, run, outcome(Ending::Succeeded));
        assert_eq!(asked(&ended), [], "elements are no settled jobs of their own");
        let kept = ended.iter().any(|e| matches!(e, Effect::Write(Record::Retained(r)) if r.job == id(1)));
        assert_eq!(kept, left == 0);
        if left > 0 {
            run = start(&ended).1;
        }
    }
    assert_eq!(ended.iter().filter(|e| matches!(e, Effect::Write(Record::Retained(_)))).count(), 1);
    assert_eq!(asked(&node.succeeds(100)), []);
    let (mut node, _) = node.restarted();
    node.attach(1, 1);
    assert_eq!(swept(&node.oldest(settled())), [], "a restart counts it once, too");
    node.now.wall_ms += 1;
    assert_eq!(asked(&node.succeeds(101)), [settled()]);
    assert_eq!(swept(&node.oldest(settled())), [id(1)]);
    assert_eq!(node.jobs.keys().copied().collect::<Vec<_>>(), [id(100), id(101)], "its elements are gone with it");
}

#[test]
fn a_job_that_is_forgotten_again_and_again_makes_room_for_one() {
    let mut node = keeping(3);
    (1..=3).for_each(|n| drop(node.succeeds(n)));
    let forget = || Command::Forget { job: id(2), owner: id(OWNER), group: settled(), bytes: 0 };
    // The store finds it until that is durable, for whoever asks.
    let jobs: Vec<_> = node.kept().map(|(job, standing)| (standing.settled_ms.unwrap(), job.id, 0)).collect();
    assert_eq!(swept(&node.command(owner(), forget()).1), [id(2)]);
    let (reply, effects) = node.command(owner(), forget());
    assert_eq!((reply, swept(&effects)), (Ok(Reply::Done), Vec::new()));
    // One of those that are left is too many: what goes already makes no room for it.
    node.succeeds(4);
    assert_eq!(asked(&node.succeeds(5)), [settled()]);
    assert_eq!(swept(&node.handle(Input::Oldest { group: settled(), jobs })), [id(1)]);
    assert_eq!(node.jobs.len(), 3);
}
