//! Why a job does not run: always an answer, and one for each worker and peer that could have taken it.

use std::collections::BTreeSet;

use shoal_protocol::object::function::Needs;
use shoal_protocol::object::job::{Candidate, Reason, ReasonCode};
use shoal_protocol::{NodeId, ObjectId, Problem, WorkerId};

use crate::input::Now;
use crate::jobs::{Disconnected, Job, Placed};
use crate::machine::Votes;
use crate::placement::{Obstacle, examine};
use crate::queue::Place;
use crate::regents::Left;
use crate::workers::{Link, Worker, Workers};

/// Workers and peers that a reason names, the node's own workers first. Why 16: what a person reads.
const CANDIDATES_MAX: usize = 16;

/// Why a job waits in the queue. `place`: whether others with the same needs are before it; `closed`: why nothing is handed over.
pub(crate) fn queued(workers: &Workers, needs: &Needs, place: Place, closed: Option<&Problem>, now_ms: u64) -> Reason {
    // What has been here and is away is a candidate too: it may be what the job waits for.
    let known = || workers.own().chain(workers.peers()).filter(|worker| worker.link != Link::Never);
    let (there, away) = (known().filter(|worker| worker.attached()), known().filter(|worker| !worker.attached()));
    let examined = |worker| (worker, examine(worker, needs, now_ms).err());
    let findings: Vec<(&Worker, Option<Obstacle<'_>>)> = there.map(examined).collect();
    let away: Vec<(&Worker, Option<Obstacle<'_>>)> = away.map(examined).collect();
    let candidates = findings.iter().chain(&away).take(CANDIDATES_MAX);
    let candidates = candidates.map(|(worker, obstacle)| candidate(worker, obstacle.as_ref())).collect();
    let (code, message) = match closed {
        Some(problem) => (ReasonCode::NodeClosed, format!("the node hands nothing over now: {}", problem.detail)),
        None => summary(&findings, place),
    };
    Reason { code, message, candidates }
}

fn summary(findings: &[(&Worker, Option<Obstacle<'_>>)], place: Place) -> (ReasonCode, String) {
    let fitting = || findings.iter().filter(|(_, obstacle)| !obstacle.as_ref().is_some_and(Obstacle::is_misfit));
    let open = || fitting().filter(|(_, obstacle)| obstacle.as_ref().is_none_or(Obstacle::is_load));
    let (fit, able) = (fitting().count(), open().count());
    if findings.is_empty() {
        (ReasonCode::NoWorker, "no worker is attached to this node, and it has no peer".into())
    } else if fit == 0 {
        let all = numbers(findings.iter().map(|(worker, _)| *worker));
        (ReasonCode::NoFit, format!("none of the {all} that are attached has what the job needs"))
    } else if able == 0 {
        let fit = numbers(fitting().map(|(worker, _)| *worker));
        (ReasonCode::Cordoned, format!("the {fit} that fit take no new jobs"))
    } else if place == Place::BehindOlder {
        (ReasonCode::Behind, "older jobs with the same needs are before it".into())
    } else if place == Place::BehindOthers {
        (
            ReasonCode::Behind,
            "jobs of others with the same needs are before it, who have used less of their share".into(),
        )
    } else if open().any(|(_, obstacle)| obstacle.is_none()) {
        (ReasonCode::Behind, "a worker is free; other jobs are before it".into())
    } else {
        let able = numbers(open().map(|(worker, _)| *worker));
        (ReasonCode::Busy, format!("the {able} that fit are busy"))
    }
}

/// Why no further element of an array begins.
pub(crate) fn begun(array: &Job) -> Reason {
    let elements = array.extras.elements.as_deref().copied().unwrap_or_default();
    let (under_way, left) = (elements.under_way(), array.accepted.size().saturating_sub(elements.begun));
    let message = match left {
        0 => format!("all of its elements have begun; {under_way} have not ended"),
        _ => format!("{under_way} of its elements are under way, as many as may be at once; {left} have not begun"),
    };
    Reason { code: ReasonCode::Elements, message, candidates: Vec::new() }
}

/// How many workers and peers these are, in words.
fn numbers<'a>(of: impl Iterator<Item = &'a Worker>) -> String {
    let (workers, peers) = of.fold((0, 0), |(workers, peers), worker| match worker.peer {
        None => (workers + 1, peers),
        Some(_) => (workers, peers + 1),
    });
    match (workers, peers) {
        (_, 0) => format!("{workers} workers"),
        (0, _) => format!("{peers} peers"),
        _ => format!("{workers} workers and {peers} peers"),
    }
}

fn candidate(worker: &Worker, obstacle: Option<&Obstacle<'_>>) -> Candidate {
    let (code, message) = match obstacle {
        Some(obstacle) => (obstacle.code(), obstacle.message()),
        None => (ReasonCode::Behind, "is free, and others are before this job".into()),
    };
    Candidate { worker: worker.id, name: worker.name.clone(), node: worker.node(), code, message }
}

/// Why a job waits of whose project or user as many are under way as may be.
pub(crate) fn quota_running(who: &str, running: u64, most: u64) -> Reason {
    let message = format!("{running} jobs of {who} are under way at this node, of {most} that may");
    plain(ReasonCode::QuotaRunning, message)
}

/// Why a job waits that somebody has held.
pub(crate) fn held() -> Reason {
    plain(ReasonCode::Held, "it is held until somebody releases it".into())
}

/// Why a job does not run here whose regent goes on with it.
pub(crate) fn yielded(job: &Job) -> Reason {
    let regent = job.extras.rule.as_ref().map_or_else(String::new, |rule| rule.regent.short());
    let message = format!("node {regent} has gone on with it while this one was away, and does until it ends");
    plain(ReasonCode::Yielded, message)
}

/// Why a job that this node only keeps does not go on while its home is away. `acts`: whether somebody acts for that home, and which other node;
/// `left`: why it is left to the home, and the array with which.
pub(crate) fn home_away(home: NodeId, acts: Option<Option<NodeId>>, left: Option<(Left, Option<ObjectId>)>) -> Reason {
    let home = home.short();
    let message = match (left, acts) {
        (Some((left, array)), _) => {
            let why = match left {
                Left::LastRun => "the last run that it may have was under way there",
                Left::WaitsForRun => "it waits for whoever runs it (`on_disconnect: wait`)",
                Left::Once => "its effects are `once`, and only that one knows for certain whether it has begun",
                Left::Earlier => "it waits for jobs that are not kept here",
                Left::Function => "its function is not known here as that one has it",
            };
            let next = match (left, array) {
                (Left::Once, _) => String::new(),
                (_, Some(array)) => format!("; cancel its array, {array}, if you do not want to wait"),
                (_, None) => "; cancel it if you do not want to wait".to_owned(),
            };
            format!("its home, node {home}, is away, and it is left to that: {why}{next}")
        }
        (None, Some(Some(regent))) => {
            format!("its home, node {home}, is away; node {} acts for that, and says more", regent.short())
        }
        (None, Some(None)) => {
            format!("its home, node {home}, is away; this node acts for that, and is about to go on with it")
        }
        (None, None) => format!("its home, node {home}, is away, and nobody has gone on with it yet"),
    };
    plain(ReasonCode::HomeAway, message)
}

/// Why a job waits that never runs twice.
pub(crate) fn ungranted(votes: &Votes, ends: bool) -> Reason {
    let Votes { given, there, wanted, members, given_to } = votes;
    let what = if ends { "end" } else { "begin" };
    let message = match given_to {
        _ if there < wanted => {
            format!(
                "{there} of the {members} nodes that keep it are there; effects `once` need {wanted} before it may {what}"
            )
        }
        Some(holder) => format!(
            "a custodian has given its word to node {}, which may have begun it: only that one can say what became of it",
            holder.short()
        ),
        None => format!("{given} of the {members} nodes that keep it have let it {what}; effects `once` need {wanted}"),
    };
    plain(ReasonCode::NoMajority, message)
}

/// Why a job waits that is not acknowledged yet.
pub(crate) fn keeping() -> Reason {
    plain(ReasonCode::Keeping, "it waits until the other nodes that shall keep it have it on disk".into())
}

/// Why a job waits that runs after others.
pub(crate) fn blocked(unmet: &BTreeSet<ObjectId>) -> Reason {
    let first = unmet.first().map(ToString::to_string).unwrap_or_default();
    let message = match unmet.len() {
        0 | 1 => format!("it waits for the end of job {first}"),
        more => format!("it waits for the end of {more} jobs, the oldest is {first}"),
    };
    plain(ReasonCode::Dependency, message)
}

/// Why a job waits that is equal to another one.
pub(crate) fn alike(first: ObjectId) -> Reason {
    plain(ReasonCode::Memo, format!("job {first} is equal to it: its result will be this one's, if it succeeds"))
}

/// Why a job waits whose time has not come.
pub(crate) fn later(until_ms: u64, now_ms: u64) -> Reason {
    plain(ReasonCode::NotBefore, format!("its time comes in {} s", until_ms.saturating_sub(now_ms).div_ceil(1_000)))
}

/// Why a job pauses.
pub(crate) fn backoff(until_ms: u64, now_ms: u64, tries: u32) -> Reason {
    let left = until_ms.saturating_sub(now_ms);
    plain(ReasonCode::Backoff, format!("it is tried again in {left} ms, after {tries} runs that came to nothing"))
}

/// Why a job that a worker has does not run; none when it runs.
pub(crate) fn placed(placed: &Placed, worker: Option<&Worker>, now: Now) -> Option<Reason> {
    let name = worker.map_or("unknown", |worker| worker.name.as_str());
    let kind = if worker.is_some_and(|worker| worker.peer.is_some()) { "peer" } else { "worker" };
    let attached = worker.is_some_and(Worker::attached);
    if let Some(wait) = placed.disconnected.filter(|_| !attached) {
        return Some(plain(ReasonCode::Disconnected, disconnected(wait, &format!("{kind} {name}"), now)));
    }
    if placed.recovering && !attached {
        let message = format!("the node has started again and waits for {kind} {name}, which may still run it");
        return Some(plain(ReasonCode::Recovering, message));
    }
    if !attached {
        let message = format!("{kind} {name} is out of reach; its lease has not ended");
        return Some(plain(ReasonCode::WorkerUnreachable, message));
    }
    let starting = || plain(ReasonCode::Starting, format!("{kind} {name} has it and has not yet said that it runs"));
    placed.started_ms.is_none().then(starting)
}

fn disconnected(wait: Disconnected, who: &str, now: Now) -> String {
    let since_s = now.wall_ms.saturating_sub(wait.since_wall_ms) / 1_000;
    let then = match wait.until_ms {
        None => "it is not run elsewhere; `shoal job cancel` ends it".to_owned(),
        Some(until_ms) => {
            let left_s = until_ms.saturating_sub(now.mono_ms).div_ceil(1_000);
            format!("it is run again in {left_s} s unless that is back")
        }
    };
    format!("it waits for {who}, which is out of reach and whose lease ended {since_s} s ago: {then}")
}

/// What is told of a worker that is not known.
pub(crate) fn no_such_worker(worker: WorkerId) -> String {
    format!("no worker {worker} is attached to this node")
}

fn plain(code: ReasonCode, message: String) -> Reason {
    Reason { code, message, candidates: Vec::new() }
}
