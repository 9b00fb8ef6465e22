//! Projects by weight, users within one, and what each of them may have at most.

use shoal_kernel::{Command, Effect, Input, NewJob, Principal, Record, Reply};
use shoal_protocol::object::job::{Array, Ending, Outcome, Payload, ReasonCode, Receipt, State, Usage as RunUsage};
use shoal_protocol::object::project::{Project, Quota, Usage};
use shoal_protocol::wire::peer::{Hint, UseTally};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{Kind, ObjectId};

use crate::harness::*;

/// Two projects, each with a function.
const LIGHT: u64 = 3_001;
const HEAVY: u64 = 3_002;
const RUN_MS: u64 = 50;

fn project(n: u64, weight: u32, quota: Quota) -> Input {
    Input::Project(Box::new(Project {
        id: id(n),
        name: format!("p{n}"),
        owner: id(OWNER),
        members: [(id(OTHER), "developer".to_owned())].into(),
        labels: Default::default(),
        weight,
        quota,
        usage: None,
        heads: Vec::new(),
    }))
}

/// The function of a project.
fn function_of(project: u64) -> u64 {
    project + 1_000
}

impl Node {
    fn project(&mut self, n: u64, weight: u32, quota: Quota) {
        self.handle(project(n, weight, quota));
        let mut owned = function(function_of(n));
        owned.project = Some(id(n));
        self.handle(Input::Function(Box::new(owned)));
    }

    /// Two projects, the second with three times the weight of the first, and one slot.
    fn of_two_projects(change: impl FnOnce(&mut shoal_kernel::Config)) -> Self {
        let mut node = Self::with(change);
        node.project(LIGHT, 1, Quota::default());
        node.project(HEAVY, 3, Quota::default());
        node
    }

    fn usage(&mut self, project: u64) -> Usage {
        match self.command(owner(), Command::Shares(vec![id(project)])).0 {
            Ok(Reply::Shares(shares)) => shares[0].usage,
            other => panic!("{other:?}"),
        }
    }

    /// Each run takes [`RUN_MS`]; whose jobs were handed over, in order.
    fn work(&mut self, first: Vec<Run>, runs: usize) -> Vec<u64> {
        let mut order: Vec<u64> = Vec::new();
        let mut under_way: std::collections::VecDeque<Run> = first.into();
        while order.len() < runs {
            let Some(run) = under_way.pop_front() else { break };
            self.started(1, run);
            self.now.mono_ms += RUN_MS;
            self.now.wall_ms += RUN_MS;
            let group = self.jobs[&run.job].0.group();
            order.push(group.millis());
            self.heartbeat(1, &[run]);
            let effects = self.ended(1, run, took(RUN_MS));
            under_way.extend(starts(&effects).into_iter().map(|(_, run)| run));
        }
        order
    }
}

fn took(ms: u64) -> Outcome {
    Outcome { usage: RunUsage { run_us: ms * 1_000, ..RunUsage::default() }, ..outcome(Ending::Succeeded) }
}

fn job_of(n: u64, project: u64) -> NewJob {
    NewJob { function: id(function_of(project)), ..new_job(n) }
}

fn runs(effects: &[Effect]) -> Vec<Run> {
    starts(effects).into_iter().map(|(_, run)| run).collect()
}

fn count(order: &[u64], project: u64) -> usize {
    order.iter().filter(|group| **group == project).count()
}

#[test]
fn projects_run_by_their_weights() {
    let mut node = Node::of_two_projects(|config| config.prefetch.wait_ms = 0);
    let mut jobs: Vec<NewJob> = (0..200).map(|n| job_of(1 + n, LIGHT)).collect();
    jobs.extend((0..200).map(|n| job_of(1_001 + n, HEAVY)));
    for batch in jobs.chunks(100) {
        assert!(node.submit_all(owner(), batch.to_vec()).0.iter().all(|r| matches!(r, Receipt::Accepted { .. })));
    }
    let first = runs(&node.attach_with(1, 1, offer(1, 64 * 1024), Vec::new()));
    let order = node.work(first, 200);
    let light = count(&order, LIGHT);
    assert!((48..=52).contains(&light), "{light} of 200 for a quarter");
    let (light, heavy) = (node.usage(LIGHT), node.usage(HEAVY));
    assert_eq!((light.running + heavy.running, light.due_permille, heavy.due_permille), (1, 250, 750));
    assert!(heavy.used_permille.abs_diff(750) < 15, "{heavy:?}");
    node.assert_conserved();
}

#[test]
fn who_comes_late_is_not_kept_from_its_share() {
    let mut node = Node::of_two_projects(|config| config.prefetch.wait_ms = 0);
    let alone: Vec<NewJob> = (0..100).map(|n| job_of(1 + n, HEAVY)).collect();
    node.submit_all(owner(), alone);
    let first = runs(&node.attach_with(1, 1, offer(1, 64 * 1024), Vec::new()));
    let order = node.work(first, 30);
    assert_eq!(count(&order, HEAVY), 30);
    node.submit_all(owner(), (0..100).map(|n| job_of(1_001 + n, LIGHT)).collect());
    let next: Vec<Run> = node
        .jobs
        .values()
        .filter(|(_, s)| s.state == State::Offered)
        .map(|(a, s)| Run { job: a.id, epoch: s.epoch })
        .collect();
    // Of forty runs in all a quarter is ten: as it has had none, it has the next ones.
    let order = node.work(next, 11);
    assert_eq!(count(&order, LIGHT), 10, "{order:?}");
}

#[test]
fn users_of_a_project_have_equal_shares_whatever_they_submit() {
    let mut node = Node::of_two_projects(|config| config.prefetch.wait_ms = 0);
    node.submit_all(owner(), (0..100).map(|n| job_of(1 + n, LIGHT)).collect());
    node.submit_all(other(), (0..30).map(|n| job_of(1_001 + n, LIGHT)).collect());
    let first = runs(&node.attach_with(1, 1, offer(1, 64 * 1024), Vec::new()));
    node.work(first, 40);
    let done = |from: u64| {
        (from..from + 100).filter(|n| node.jobs.get(&id(*n)).is_some_and(|(_, s)| s.state == State::Succeeded)).count()
    };
    assert!(done(1).abs_diff(done(1_001)) <= 1, "{} and {}", done(1), done(1_001));
}

#[test]
fn a_restart_does_not_forget_what_was_used() {
    let mut node = Node::of_two_projects(|config| config.prefetch.wait_ms = 0);
    node.submit_all(owner(), (0..100).map(|n| job_of(1 + n, HEAVY)).collect());
    let first = runs(&node.attach_with(1, 1, offer(1, 64 * 1024), Vec::new()));
    node.work(first, 20);
    let before = node.usage(HEAVY);
    node.now.mono_ms += 10_000;
    node.now.wall_ms += 10_000;
    let effects = node.handle(Input::Tick);
    let tallies = effects.iter().filter(|effect| matches!(effect, Effect::Write(Record::Tally(_))));
    assert_eq!(tallies.count(), 2, "of the project, and of its user");
    let (mut again, _) = node.restarted();
    again.project(LIGHT, 1, Quota::default());
    again.project(HEAVY, 3, Quota::default());
    let after = again.usage(HEAVY);
    assert_eq!((after.total_ms, before.total_ms), (1_000, 1_000));
    assert!(after.recent_ms.abs_diff(before.recent_ms) <= 200, "{after:?} {before:?}");
    // An hour later half of it is left, also where the node was away.
    node.now.wall_ms += 3_600_000;
    let (mut late, _) = node.restarted();
    assert!(late.usage(HEAVY).recent_ms.abs_diff(before.recent_ms / 2) <= 200, "{:?}", late.usage(HEAVY));
}

#[test]
fn what_neighbours_have_used_counts_once() {
    let mut node = Node::of_two_projects(|_| {});
    node.peer(1, 0);
    let told = |total_us, recent_us| {
        let tallies = vec![UseTally { group: id(HEAVY), total_us, recent_us }];
        let hint = Box::new(Hint { name: "p1".into(), tallies, ..Hint::default() });
        Input::PeerHint { node: peer(1), hint, rtt_us: 1 }
    };
    for (total, recent) in [(5_000_000, 4_000_000), (5_000_000, 4_000_000), (4_000_000, 9_000_000)] {
        node.handle(told(total, recent));
        assert_eq!(node.usage(HEAVY).recent_ms, 4_000);
    }
    node.handle(told(6_000_000, 5_000_000));
    let usage = node.usage(HEAVY);
    assert_eq!((usage.recent_ms, usage.total_ms), (5_000, 0));
    // It is the other project's turn, whose jobs are younger.
    node.submit_all(owner(), vec![job_of(1, HEAVY), job_of(2, LIGHT)]);
    assert_eq!(started_jobs(&node.attach_with(1, 1, offer(1, 64 * 1024), Vec::new())), [2]);
    assert_eq!(node.reason(1).code, ReasonCode::Busy);
}

#[test]
fn no_more_wait_than_may() {
    let mut node = Node::new();
    node.project(LIGHT, 1, Quota { queued: Some(3), ..Quota::default() });
    node.submit_all(owner(), (1..=3).map(|n| job_of(n, LIGHT)).collect());
    let problem = node.refused(other(), job_of(4, LIGHT));
    assert_eq!((problem.kind, problem.status, problem.retry_after_ms), (Kind::OverQuota, 429, Some(1_000)));
    assert!(problem.detail.contains("of 3 that may"), "{}", problem.detail);
    node.submit(new_job(5));
    // What has begun waits no more.
    let first = runs(&node.attach_with(1, 1, offer(2, 64 * 1024), Vec::new()));
    assert_eq!(first.len(), 2);
    assert_eq!(
        node.submit_all(owner(), vec![job_of(6, LIGHT), job_of(7, LIGHT)]).0[0],
        Receipt::Accepted { id: id(6) }
    );
    let usage = node.usage(LIGHT);
    assert!(usage.queued <= 3 && usage.queued + usage.running == 4 + u64::from(node.jobs.contains_key(&id(7))));
    // An array counts its elements; one that is larger than the quota never fits.
    let array = |n, last| NewJob { array: Some(Array { first: 1, last, step: 1, at_once: None }), ..job_of(n, LIGHT) };
    let problem = node.refused(owner(), array(100, 4));
    assert_eq!((problem.kind, problem.retry_after_ms), (Kind::OverQuota, None));
}

#[test]
fn an_array_counts_those_of_its_elements_that_wait_or_run() {
    let mut node = Node::new();
    node.project(LIGHT, 1, Quota { queued: Some(10), running: Some(3), ..Quota::default() });
    node.submit(NewJob { array: Some(Array { first: 1, last: 10, step: 1, at_once: None }), ..job_of(1, LIGHT) });
    assert_eq!(node.refused(owner(), job_of(100, LIGHT)).kind, Kind::OverQuota);
    let first = runs(&node.attach_with(1, 1, offer(8, 64 * 1024), Vec::new()));
    assert_eq!(first.len(), 3, "as many as may run");
    let usage = node.usage(LIGHT);
    assert_eq!((usage.queued, usage.running), (7, 3));
    let reason = node.reason(1);
    assert_eq!(reason.code, ReasonCode::QuotaRunning);
    assert!(reason.message.contains("3 jobs") && reason.message.contains("of 3 that may"), "{}", reason.message);
    // Others are not held up by it.
    assert_eq!(started_jobs(&node.submit(new_job(200))), [200]);
    node.started(1, first[0]);
    assert_eq!(starts(&node.ended(1, first[0], took(1))).len(), 1);
    node.assert_conserved();
    // With a higher quota more begin at once, and after a restart as many are under way.
    assert_eq!(starts(&node.handle(project(LIGHT, 1, Quota { running: Some(5), ..Quota::default() }))).len(), 2);
    let (mut again, _) = node.restarted();
    again.project(LIGHT, 1, Quota { running: Some(5), ..Quota::default() });
    assert_eq!(again.usage(LIGHT).running, 5);
}

#[test]
fn as_many_are_submitted_in_a_minute_as_the_rate_says() {
    let mut node = Node::new();
    node.project(LIGHT, 1, Quota { rate: Some(2), ..Quota::default() });
    node.submit(job_of(1, LIGHT));
    node.submit(NewJob { array: Some(Array { first: 1, last: 50, step: 1, at_once: None }), ..job_of(2, LIGHT) });
    let problem = node.refused(owner(), job_of(200, LIGHT));
    assert_eq!((problem.kind, problem.retry_after_ms), (Kind::OverQuota, Some(30_000)));
    node.pass(30_000);
    node.submit(job_of(201, LIGHT));
    assert_eq!(node.refused(owner(), job_of(202, LIGHT)).kind, Kind::OverQuota);
}

#[test]
fn a_user_has_limits_of_their_own_at_every_project() {
    let quota = Quota { queued: Some(2), running: Some(1), ..Quota::default() };
    let mut node = Node::of_two_projects(|config| config.user_quota = quota);
    node.submit_all(owner(), vec![job_of(1, LIGHT), job_of(2, HEAVY)]);
    assert_eq!(node.refused(owner(), new_job(3)).kind, Kind::OverQuota);
    node.submit_all(other(), vec![job_of(4, LIGHT)]);
    let first = started_jobs(&node.attach_with(1, 1, offer(8, 64 * 1024), Vec::new()));
    assert_eq!(first.len(), 2, "one of each user");
    let waits = if first.contains(&1) { 2 } else { 1 };
    assert_eq!(node.reason(waits).code, ReasonCode::QuotaRunning);
}

#[test]
fn inputs_results_and_logs_count_until_their_jobs_are_forgotten() {
    let mut node = Node::new();
    node.project(LIGHT, 1, Quota { storage: Some(20), ..Quota::default() });
    node.attach(1, 1);
    let with_input = |n, len: usize| NewJob { input: Payload::Inline(vec![7; len].into()), ..job_of(n, LIGHT) };
    let (_, run) = start(&node.submit(with_input(1, 15)));
    assert_eq!((node.usage(LIGHT).stored, node.refused(owner(), with_input(2, 6)).kind), (15, Kind::OverQuota));
    // Its result of 3 bytes stays with it.
    node.ended(1, run, outcome(Ending::Succeeded));
    assert_eq!(node.usage(LIGHT).stored, 18);
    let (mut again, _) = node.restarted();
    again.project(LIGHT, 1, Quota { storage: Some(20), ..Quota::default() });
    let problem = again.refused(owner(), with_input(3, 3));
    assert_eq!((problem.kind, problem.retry_after_ms), (Kind::OverQuota, Some(60_000)));
    let (accepted, standing) = again.jobs[&id(1)].clone();
    let group = shoal_kernel::Group::of(&accepted, standing.state);
    let forget = Command::Forget { job: id(1), owner: id(OWNER), group, bytes: bytes_of(&accepted, &standing) };
    again.command(owner(), forget).0.expect("forgotten");
    assert_eq!(again.usage(LIGHT).stored, 0);
    again.submit(with_input(3, 20));
}

#[test]
fn an_array_keeps_what_its_elements_have_made() {
    let mut node = Node::new();
    node.project(LIGHT, 1, Quota::default());
    node.attach(1, 2);
    let array = Some(Array { first: 1, last: 2, step: 1, at_once: None });
    let effects = node.submit(NewJob { array, input: Payload::Inline(vec![7; 9].into()), ..job_of(1, LIGHT) });
    for run in runs(&effects) {
        node.ended(1, run, outcome(Ending::Succeeded));
    }
    assert_eq!((node.state(1), node.usage(LIGHT).stored), (State::Succeeded, 9 + 3 + 3));
    assert_eq!(node.restarted().0.usage(LIGHT).stored, 15);
}

#[test]
fn whoever_may_not_run_a_function_hears_nothing_of_its_quota() {
    let mut node = Node::new();
    node.project(LIGHT, 1, Quota { queued: Some(0), ..Quota::default() });
    let stranger = Principal { user: Some(ObjectId::from_parts(1, 1, [1; 8])), operator: false };
    assert_eq!(node.refused(stranger, job_of(1, LIGHT)).kind, Kind::Forbidden);
    assert_eq!(node.refused(owner(), job_of(1, LIGHT)).kind, Kind::OverQuota);
}
