//! What is accepted, what is refused, and in which order it is said.

use shoal_kernel::{Effect, Input, Record};
use shoal_protocol::object::function::{RunLimits, Version};
use shoal_protocol::object::job::{Payload, Receipt, State};
use shoal_protocol::object::project::Project;
use shoal_protocol::{BlobId, Kind, Problem};

use super::harness::*;

#[test]
fn a_job_is_written_before_it_is_acknowledged_and_its_epoch_before_it_starts() {
    let mut node = Node::new();
    node.attach(1, 1);
    let effects = node.submit(new_job(1));
    let accepted = place(&effects, |e| matches!(e, Effect::Write(Record::Accepted(_))));
    let reply = place(&effects, |e| matches!(e, Effect::Reply { .. }));
    let epoch = place(&effects, |e| matches!(e, Effect::Write(Record::Standing(_, s)) if s.epoch == 1));
    let start = place(&effects, |e| matches!(e, Effect::Start { .. }));
    assert!(accepted < reply && accepted < epoch && epoch < start);
    assert_eq!(node.state(1), State::Offered);
    node.assert_conserved();
}

#[test]
fn each_job_of_a_batch_is_answered_by_itself_and_in_order() {
    let mut node = Node::new();
    let mut wrong = new_job(2);
    wrong.function = id(77);
    let (receipts, effects) = node.submit_all(owner(), vec![new_job(1), wrong, new_job(3)]);
    assert_eq!(receipts[0], Receipt::Accepted { id: id(1) });
    assert!(matches!(&receipts[1], Receipt::Refused(problem) if problem.kind == Kind::NotFound));
    assert_eq!(receipts[2], Receipt::Accepted { id: id(3) });
    assert_eq!(effects.iter().filter(|e| matches!(e, Effect::Write(Record::Accepted(_)))).count(), 2);
    assert_eq!((node.kernel.counters().accepted, node.kernel.counters().refused[&Kind::NotFound]), (2, 1));
    let many = (0..1_001).map(new_job).collect();
    let (reply, _) = node.command(owner(), shoal_kernel::Command::Submit(many));
    assert_eq!(reply.unwrap_err().kind, Kind::TooLarge);
}

#[test]
fn what_is_wrong_is_refused_and_named() {
    let mut node = Node::new();
    let nobody = shoal_kernel::Principal { user: None, operator: false };
    assert_eq!(node.refused(nobody, new_job(1)).kind, Kind::Unauthenticated);
    type Change = fn(&mut shoal_kernel::NewJob);
    let table: [(Change, Kind, &str); 15] = [
        (|job| job.function = id(1), Kind::NotFound, "function"),
        (|job| job.version = Some(9), Kind::NotFound, "version 9"),
        (|job| job.needs = needs_mb(0), Kind::InvalidField, "needs.memory_mb"),
        (|job| job.needs = needs_mb(5_000), Kind::InvalidField, "4096"),
        (|job| job.limits.attempts = Some(0), Kind::InvalidField, "limits.attempts"),
        (|job| job.limits.run_ms = Some(u64::MAX), Kind::InvalidField, "limits.run_ms"),
        (|job| job.limits.queue_ms = Some(0), Kind::InvalidField, "limits.queue_ms"),
        (|job| job.limits.total_ms = Some(u64::MAX), Kind::InvalidField, "limits.total_ms"),
        (|job| job.input = Payload::Inline(vec![0; 16 * 1024 + 1].into()), Kind::TooLarge, "16 KiB"),
        (|job| job.args = vec!["x".into(); 65], Kind::InvalidField, "64"),
        (|job| job.args = vec!["x".repeat(9_000)], Kind::InvalidField, "9000 bytes"),
        (|job| job.args = vec!["a\0b".into()], Kind::InvalidField, "zero byte"),
        (|job| job.env = [("A=B".into(), String::new())].into(), Kind::InvalidField, "A=B"),
        (|job| job.name = "Not A Name".into(), Kind::InvalidField, "name"),
        (|job| job.labels = [("UP".into(), String::new())].into(), Kind::InvalidField, "label"),
    ];
    for (change, kind, says) in table {
        let mut job = new_job(1);
        change(&mut job);
        let problem = node.refused(owner(), job);
        assert_eq!(problem.kind, kind, "{problem}");
        assert!(problem.detail.contains(says), "{problem}");
    }
    node.submit(new_job(1));
    assert_eq!(node.refused(owner(), new_job(1)).kind, Kind::Internal, "an id counts once");
}

#[test]
fn a_projects_function_is_for_its_members() {
    let mut node = Node::new();
    let mut owned = function(FUNCTION);
    owned.project = Some(id(3_000));
    node.handle(Input::Function(Box::new(owned)));
    assert_eq!(node.refused(other(), new_job(1)).kind, Kind::Forbidden);
    let project = Project {
        id: id(3_000),
        name: "p".into(),
        owner: id(OWNER),
        members: [(id(OTHER), "developer".to_owned())].into(),
        labels: Default::default(),
        weight: 1,
        quota: Default::default(),
        usage: None,
        heads: Vec::new(),
    };
    node.handle(Input::Project(Box::new(project)));
    assert_eq!(node.submit_all(other(), vec![new_job(1)]).0, [Receipt::Accepted { id: id(1) }]);
    node.handle(Input::ProjectGone(id(3_000)));
    assert_eq!(node.refused(other(), new_job(2)).kind, Kind::Forbidden);
}

#[test]
fn a_full_node_pushes_back_and_takes_jobs_again_when_it_has_room() {
    let mut node = Node::with(|config| config.jobs_bytes_max = 2 * shoal_kernel::JOB_BYTES);
    node.attach(1, 1);
    let (_, run) = start(&node.submit(new_job(1)));
    node.submit(new_job(2));
    let problem = node.refused(owner(), new_job(3));
    assert_eq!(problem.kind, Kind::Full);
    assert!(problem.retry_after_ms.is_some());
    node.ended(1, run, outcome(shoal_protocol::object::job::Ending::Succeeded));
    node.submit(new_job(3));
}

#[test]
fn needs_of_too_many_kinds_are_refused() {
    let mut node = Node::new();
    for n in 1..=1_024 {
        let mut job = new_job(n);
        job.needs = needs_mb(n as u32);
        node.submit(job);
    }
    let mut job = new_job(5_000);
    job.needs = needs_mb(3_000);
    assert_eq!(node.refused(owner(), job).kind, Kind::Full);
    let mut job = new_job(5_001);
    job.needs = needs_mb(5);
    node.submit(job);
}

#[test]
fn while_it_refuses_nothing_is_accepted_or_placed() {
    let mut node = Node::new();
    node.submit(new_job(1));
    node.handle(Input::Refuse(Problem::new(Kind::StorageUnavailable, "the disk is full")));
    assert_eq!(node.refused(owner(), new_job(2)).kind, Kind::StorageUnavailable);
    node.attach(1, 1);
    assert_eq!(node.state(1), State::Queued);
    assert_eq!(started_jobs(&node.handle(Input::Accept)), [1]);
    node.submit(new_job(2));
}

#[test]
fn a_job_runs_the_version_that_it_was_accepted_with() {
    let mut node = Node::new();
    node.submit(new_job(1));
    let newer = BlobId([77; 32]);
    let mut changed = function(FUNCTION);
    changed.versions.push(Version { number: 2, component: newer, size: 1 });
    changed.current = newer;
    changed.limits = RunLimits { run_ms: Some(5), ..RunLimits::default() };
    node.handle(Input::Function(Box::new(changed)));
    node.submit(new_job(2));
    let mut first = new_job(3);
    first.version = Some(1);
    node.submit(first);
    let effects = node.attach_with(1, 1, offer(3, 64 * 1024), Vec::new());
    let components: Vec<BlobId> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::Start { start, .. } => Some(start.component),
            _ => None,
        })
        .collect();
    let older = function(FUNCTION).current;
    assert_eq!(components, [older, newer, older]);
    assert_eq!(node.jobs[&id(2)].0.spec.limits.run_ms(), 5);
    assert_eq!(node.jobs[&id(2)].0.spec.function_version, 2);
}
