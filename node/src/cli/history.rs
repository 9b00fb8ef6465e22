//! Why a job does not run, and what has become of it so far, as tables.

use shoal_protocol::object::job::{Attempt, Ending, Job, Refusal};

use super::table::{Table, age, length, now_ms, run_number, size};

/// Why each worker and peer that could take the job does not; empty where there is nothing to say.
pub(super) fn candidates(job: &Job, width: Option<usize>) -> String {
    let candidates = job.reason.iter().flat_map(|reason| &reason.candidates);
    let mut table = Table::new(&["CANDIDATE", "KIND", "REASON", "WHY"]);
    let mut some = false;
    for candidate in candidates {
        let kind = if candidate.node.is_some() { "peer" } else { "worker" };
        table.row([candidate.name.clone(), kind.into(), candidate.code.text().into(), candidate.message.clone()]);
        some = true;
    }
    if some { format!("\n{}", table.text(width)) } else { String::new() }
}

/// Every hand-over that is remembered, oldest first: to whom, when, how long it waited there and ran, what it used, and how
/// it ended; empty before the first.
pub(super) fn hand_overs(job: &Job, width: Option<usize>) -> String {
    let mut rows: Vec<(u64, [String; 7])> = job.attempts.iter().map(|run| (run.epoch, run_row(run))).collect();
    rows.extend(job.refusals.iter().map(|refusal| (refusal.epoch, refusal_row(refusal))));
    if rows.is_empty() {
        return String::new();
    }
    rows.sort_by_key(|(epoch, _)| *epoch);
    let mut table = Table::new(&["EPOCH", "AT", "SINCE", "WAITED", "RAN", "MEMORY", "OUTCOME"]);
    rows.into_iter().for_each(|(_, row)| table.row(row));
    let said = (job.attempts.len() + job.refusals.len()) as u64;
    let all = u64::from(job.attempts_total) + u64::from(job.refusals_total);
    let hidden = all.saturating_sub(said + merged(job));
    let more = if hidden > 0 { format!("{hidden} older ones are not remembered\n") } else { String::new() };
    format!("\n{}{more}", table.text(width))
}

/// Refusals that stand in a row with others.
fn merged(job: &Job) -> u64 {
    job.refusals.iter().map(|refusal| u64::from(refusal.times.saturating_sub(1))).sum()
}

fn run_row(run: &Attempt) -> [String; 7] {
    let waited = run.started_ms.or(run.ended_ms).map(|at_ms| length(at_ms.saturating_sub(run.offered_ms)));
    let ran = match (run.usage, run.started_ms) {
        (Some(usage), _) => Some(length(usage.run_us / 1_000)),
        (None, Some(started_ms)) => Some(length(run.ended_ms.unwrap_or_else(now_ms).saturating_sub(started_ms))),
        (None, None) => None,
    };
    let memory = run.usage.filter(|usage| usage.memory_bytes > 0).map(|usage| size(usage.memory_bytes));
    [
        // What it went on from stands beside it: a checkpoint of that run.
        run.resumed.map_or_else(
            || run_number(run.epoch),
            |from| format!("{} from {}", run_number(run.epoch), run_number(from)),
        ),
        place(&run.worker_name, run.node),
        age(run.offered_ms),
        waited.unwrap_or_default(),
        ran.unwrap_or_default(),
        memory.unwrap_or_default(),
        outcome(run),
    ]
}

fn outcome(run: &Attempt) -> String {
    match &run.ending {
        None if run.started_ms.is_some() => "runs".into(),
        None => "offered".into(),
        Some(Ending::Succeeded) => "succeeded".into(),
        Some(Ending::Failed(failure)) => format!("failed: {}", failure.message),
        Some(Ending::Cancelled) => "cancelled".into(),
        Some(Ending::TimedOut) => "timed out".into(),
    }
}

fn refusal_row(refusal: &Refusal) -> [String; 7] {
    let times = if refusal.times > 1 { format!(", {} times", refusal.times) } else { String::new() };
    let none = String::new;
    [
        run_number(refusal.epoch),
        place(&refusal.worker_name, refusal.node),
        age(refusal.at_ms),
        none(),
        none(),
        none(),
        format!("no run, {}{times}: {}", refusal.code.text(), refusal.message),
    ]
}

fn place(worker: &str, node: Option<shoal_protocol::NodeId>) -> String {
    node.map_or_else(|| worker.to_owned(), |node| format!("{worker} of {}", node.short()))
}

#[cfg(test)]
mod tests {
    use super::super::wait::tests::job;
    use super::*;
    use shoal_protocol::object::job::{Candidate, Reason, ReasonCode, RefusalCode, State, Usage};
    use shoal_protocol::{NodeId, WorkerId};

    fn run(epoch: u64) -> Attempt {
        Attempt {
            epoch,
            resumed: None,
            worker: WorkerId::from_parts(1, 0, [0; 8]),
            worker_name: "w1".into(),
            node: None,
            offered_ms: 1_000,
            started_ms: Some(3_500),
            ended_ms: Some(9_000),
            ending: Some(Ending::TimedOut),
            usage: Some(Usage { run_us: 5_000_000, start_us: 0, memory_bytes: 1 << 20 }),
        }
    }

    #[test]
    fn the_history_says_who_ran_and_who_refused_in_their_order() {
        let mut job = job(State::Queued);
        assert_eq!(hand_overs(&job, None), "");
        let refusal = Refusal {
            epoch: 4,
            worker: WorkerId::from_parts(2, 0, [0; 8]),
            worker_name: "attic".into(),
            node: Some(NodeId([0xab; 32])),
            at_ms: 1,
            code: RefusalCode::Declined,
            message: "all slots are in use".into(),
            times: 3,
        };
        (job.attempts, job.refusals) = (vec![run(1), run(5)], vec![refusal]);
        (job.attempts_total, job.refusals_total) = (2, 3);
        let text = hand_overs(&job, None);
        let lines: Vec<&str> = text.lines().skip(2).collect();
        assert_eq!(lines.len(), 3, "{text}");
        assert!(lines[0].contains("w1") && lines[0].contains("2s") && lines[0].contains("5s"), "{text}");
        assert!(lines[0].contains("1.0 MiB") && lines[0].contains("timed out"), "{text}");
        assert!(lines[1].contains("attic of abab") && lines[1].contains("declined, 3 times: all slots"), "{text}");
        job.attempts_total = 12;
        assert!(hand_overs(&job, None).contains("10 older ones"), "{}", hand_overs(&job, None));
    }

    #[test]
    fn each_candidate_has_its_reason_as_a_code_and_in_words() {
        let mut job = job(State::Queued);
        assert_eq!(candidates(&job, None), "");
        let candidate = Candidate {
            worker: WorkerId::from_parts(1, 0, [0; 8]),
            name: "w1".into(),
            node: None,
            code: ReasonCode::NoFit,
            message: "does not have the capability gpu".into(),
        };
        job.reason = Some(Reason { code: ReasonCode::NoFit, message: "none fits".into(), candidates: vec![candidate] });
        let text = candidates(&job, None);
        assert!(text.contains("worker  no_fit  does not have the capability gpu"), "{text}");
    }
}
