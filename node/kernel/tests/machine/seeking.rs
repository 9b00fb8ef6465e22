//! Looking for peers that have what nobody here has.

use shoal_kernel::{Command, Effect};
use shoal_protocol::object::function::Needs;

use super::harness::*;

fn gpu(n: u64) -> shoal_kernel::NewJob {
    let mut job = new_job(n);
    job.needs.capabilities.insert("gpu".into());
    job
}

fn seeks(effects: &[Effect]) -> Vec<Needs> {
    let seeks = effects.iter().filter_map(|effect| match effect {
        Effect::Seek { needs } => Some(needs.clone()),
        _ => None,
    });
    seeks.collect()
}

#[test]
fn what_nobody_has_is_looked_for_until_somebody_has_it() {
    let mut node = Node::new();
    node.attach(1, 4);
    let needs = gpu(1).needs;
    assert_eq!(seeks(&node.submit(gpu(1))), std::slice::from_ref(&needs));
    assert_eq!(seeks(&node.submit(gpu(2))), [], "the same needs are looked for once");
    let mut labelled = new_job(3);
    labelled.needs.labels.insert("zone".into(), "b".into());
    assert_eq!(seeks(&node.submit(labelled)).len(), 1, "other needs by themselves");
    for _ in 0..3 {
        assert_eq!(seeks(&node.pass(2_999)).len(), 0);
        assert_eq!(seeks(&node.pass(1)).len(), 2);
        node.heartbeat(1, &[]);
    }
    node.meet(1, Vec::new());
    let mut with = offer(1, 1_000);
    with.capabilities.insert("gpu".into());
    assert_eq!(offers(&node.hint(1, vec![free(with)])).len(), 1);
    for _ in 0..10 {
        assert!(!seeks(&node.pass(1_000)).contains(&needs), "who has it is here, only busy");
        node.peer_heartbeat(1, &[]);
    }
}

#[test]
fn it_is_woken_for_the_next_search() {
    let mut node = Node::new();
    let effects = node.submit(gpu(1));
    assert!(effects.contains(&Effect::Wake { at_ms: node.now.mono_ms + 3_000 }));
    assert_eq!(node.kernel.counters().seeks, 1);
}

#[test]
fn those_who_have_it_get_time_before_others_are_looked_for() {
    let mut node = Node::new();
    let mut with = offer(1, 1_000);
    with.capabilities.insert("gpu".into());
    node.attach_with(1, 1, with, Vec::new());
    node.submit(gpu(1));
    assert_eq!(seeks(&node.submit(gpu(2))), []);
    let mut passed = 0;
    let run = shoal_protocol::wire::worker::Run { job: id(1), epoch: 1 };
    while seeks(&node.pass(500)).is_empty() {
        passed += 500;
        node.heartbeat(1, &[run]);
        assert!(passed < 40_000, "it is never looked for");
    }
    assert_eq!(passed + 500, 30_000);
}

#[test]
fn needs_that_nobody_can_be_found_by_are_not_looked_for() {
    let mut node = Node::new();
    assert_eq!(seeks(&node.submit(new_job(1))), []);
    let mut large = new_job(2);
    large.needs = needs_mb(4_000);
    assert_eq!(seeks(&node.submit(large)), []);
}

#[test]
fn a_job_that_comes_and_goes_does_not_start_a_search_each_time() {
    let mut node = Node::new();
    let mut found = 0;
    for n in 1..=100 {
        found += seeks(&node.submit(gpu(n))).len();
        assert!(node.command(owner(), Command::Cancel(id(n))).0.is_ok());
        node.pass(10);
    }
    assert_eq!(found, 1);
}
