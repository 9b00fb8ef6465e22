//! Waiting for a job, and what its end means for the exit code.

use std::cell::Cell;
use std::path::Path;
use std::time::Duration;

use shoal_client::{Client, Error};
use shoal_protocol::limits::LOG_LEN_MAX;
use shoal_protocol::object::job::{Job, State};
use shoal_protocol::{Kind, ObjectId};
use tokio::time::Instant;

use super::failure::{Failure, INTERRUPTED, JOB};
use super::output;
use super::progress::Progress;
use super::table::{length, size};

/// How often the shown state is renewed. Why 1 s: a person looks at it.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How often it is asked where nobody looks: so soon it is said that a job is out of reach.
const ASK_EVERY: Duration = Duration::from_secs(10);
/// How long the node, or the job's home, may be out of reach. Why ten minutes: a node is restarted, or mended, in less.
const AWAY_MAX: Duration = Duration::from_secs(600);

/// Waits until the job is settled, or for `timeout`. Interrupted from the keyboard, the job goes on.
pub(crate) async fn until_settled(client: &Client, id: ObjectId, timeout: Option<Duration>) -> Result<Job, Failure> {
    let mut progress = Progress::new(format!("job {id}"));
    let deadline = timeout.map(|timeout| Instant::now() + timeout);
    let mut away: Option<Instant> = None;
    let lost = Cell::new(false);
    let waiting = async {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            let every = if progress.is_on() { LOOK_EVERY } else { ASK_EVERY };
            let slice = left.map_or(every, |left| left.min(every));
            let job = match client.wait(id, Some(slice), false).await {
                Ok(job) => job,
                Err(error) if is_away(&error) && left.is_none_or(|left| !left.is_zero()) => {
                    if away.is_none() && !progress.is_on() {
                        // Where nobody sees the progress it is said once.
                        eprint(&format!("job {id} is out of reach, and is waited for: {error}"));
                    }
                    lost.set(true);
                    if away.get_or_insert_with(Instant::now).elapsed() >= AWAY_MAX {
                        return Err(error.into());
                    }
                    progress.say(&format!("out of reach: {error}"));
                    tokio::time::sleep(left.map_or(LOOK_EVERY, |left| left.min(LOOK_EVERY))).await;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            away = None;
            lost.set(false);
            if job.state.is_settled() || left.is_some_and(|left| left <= slice) {
                return Ok::<_, Failure>(job);
            }
            progress.say(&state_text(&job));
        }
    };
    tokio::select! {
        job = waiting => job,
        _ = tokio::signal::ctrl_c() => Err(match lost.get() {
            false => goes_on(id),
            true => Failure::new(format!("interrupted; nobody answers for job {id} now")).code(INTERRUPTED),
        }),
    }
}

/// Whether the node, or the home of the job, may be back later.
fn is_away(error: &Error) -> bool {
    matches!(error, Error::Unreachable { .. } | Error::Disconnected) || error.kind() == Some(Kind::Unavailable)
}

/// What is said when somebody no longer waits.
fn goes_on(id: ObjectId) -> Failure {
    Failure::new(format!("interrupted; job {id} goes on")).code(INTERRUPTED).next(format!(
        "collect it with `shoal job wait {id}` and `shoal job result {id}`, or end it with `shoal job cancel {id}`"
    ))
}

/// Where a job stands, in a line.
pub(crate) fn state_text(job: &Job) -> String {
    let mut text = job.state.text().to_owned();
    if let Some(progress) = &job.progress {
        let total = if progress.total > 0 { format!(" of {}", progress.total) } else { String::new() };
        text.push_str(&format!("  {}{total} {}", progress.done, progress.message));
    } else if let Some(reason) = &job.reason {
        text.push_str(&format!("  {}", reason.message));
    }
    text
}

/// The exit code of a job that was waited for: none if it has succeeded.
pub(crate) fn outcome(job: &Job) -> Result<(), Failure> {
    if job.state == State::Succeeded {
        return Ok(());
    }
    let id = job.id_text();
    if !job.state.is_settled() {
        return Err(Failure::new(format!("job {id} is still {}", state_text(job)))
            .code(JOB)
            .next(format!("it goes on; wait longer with `shoal job wait {id}`")));
    }
    let why = match (&job.failure, job.exit_code) {
        // The lines below the first are a backtrace, which `job show` has too.
        (Some(failure), _) => format!(": {}", output::safe(failure.message.lines().next().unwrap_or_default())),
        (None, Some(code)) => format!(": exit code {code}"),
        (None, None) if job.state == State::TimedOut => format!(": it may run for {}", length(job.limits.run_ms())),
        (None, None) => String::new(),
    };
    let cut = log_cut(job).map(|cut| format!("; its log was {cut}")).unwrap_or_default();
    let own = job.exit_code.and_then(|code| u8::try_from(code).ok()).filter(|&code| code != 0);
    Err(Failure::new(format!("job {id} {}{why}{cut}", job.state.text().replace('_', " ")))
        .code(own.unwrap_or(JOB))
        .next(format!("`shoal job logs {id}` shows what it wrote, `shoal job show {id}` what happened")))
}

/// What of the log is missing.
pub(crate) fn log_cut(job: &Job) -> Option<String> {
    let (max, dropped) = (size(LOG_LEN_MAX as u64), job.log_dropped);
    (dropped > 0).then(|| format!("cut at {max}, {} more were dropped", size(dropped)))
}

/// Writes a job's result to standard output, or into a file.
pub(crate) async fn collect(client: &Client, id: ObjectId, path: Option<&Path>) -> Result<(), Failure> {
    let mut progress = Progress::new("result");
    if let Some(path) = path {
        let stored = client.result_to_file(id, path, &mut |done, size| progress.bytes(done, Some(size))).await?;
        drop(progress);
        eprint(&format!("{}: {}, BLAKE3 {}", path.display(), size(stored.size), stored.id));
        return Ok(());
    }
    let mut download = client.result(id, 0).await?;
    let (mut done, total) = (0, download.size());
    while let Some(chunk) = download.chunk().await? {
        output::write(&chunk)?;
        done += chunk.len() as u64;
        progress.bytes(done, Some(total));
    }
    Ok(())
}

/// Says something beside the result. Standard error may be closed; that is no fault.
pub(crate) fn eprint(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stderr(), "{text}");
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use shoal_protocol::object::job::{Bytes, Failure as JobFailure, FailureCode};
    use shoal_protocol::{BlobId, NodeId};

    /// A job in this state.
    pub(crate) fn job(state: State) -> Job {
        Job {
            id: ObjectId::from_parts(1, 0, [7; 8]),
            name: String::new(),
            labels: [].into(),
            function: ObjectId::from_parts(2, 0, [7; 8]),
            function_name: "f".into(),
            version: 1,
            component: BlobId([1; 32]),
            owner: ObjectId::from_parts(3, 0, [7; 8]),
            home: NodeId([1; 32]),
            durability: None,
            effects: Default::default(),
            custodians: Vec::new(),
            regent: None,
            unconfirmed: false,
            superseded: None,
            state,
            reason: None,
            epoch: 1,
            accepted_ms: 1,
            settled_ms: None,
            args: vec![],
            needs: Default::default(),
            limits: Default::default(),
            not_before_ms: None,
            priority: 0,
            retry: None,
            on_disconnect: None,
            disconnected_ms: None,
            memo: false,
            memo_of: None,
            notify: None,
            called: None,
            array: None,
            elements: None,
            index: None,
            array_id: None,
            idempotency_key: None,
            duplicate_of: None,
            rerun_of: None,
            after: vec![],
            input_of: None,
            progress: None,
            checkpoint: None,
            project: None,
            input: Bytes { id: BlobId::of(b""), size: 0, inline: None },
            output: None,
            log: None,
            log_dropped: 0,
            failure: None,
            exit_code: None,
            usage: None,
            attempts: vec![],
            attempts_total: 1,
            refusals: vec![],
            refusals_total: 0,
            trace: "0".repeat(32),
            traceparent: None,
        }
    }

    fn code_of(job: &Job) -> u8 {
        outcome(job).err().map_or(0, |failure| failure.exit_code())
    }

    #[test]
    fn the_exit_code_says_how_the_job_ended() {
        assert_eq!(code_of(&job(State::Succeeded)), 0);
        for state in [State::Failed, State::Cancelled, State::TimedOut, State::Expired, State::Running] {
            assert_eq!(code_of(&job(state)), JOB, "{state:?}");
        }
        for (exit_code, expected) in [(1, 1), (42, 42), (255, 255), (256, JOB), (0, JOB), (-1, JOB)] {
            let failed = Job {
                exit_code: Some(exit_code),
                failure: Some(JobFailure { code: FailureCode::Guest, message: "no".into() }),
                ..job(State::Failed)
            };
            assert_eq!(code_of(&failed), expected, "{exit_code}");
        }
    }

    #[test]
    fn a_cut_log_is_no_secret() {
        assert_eq!(log_cut(&job(State::TimedOut)), None);
        let cut = log_cut(&Job { log_dropped: 3 << 20, ..job(State::TimedOut) }).expect("a sentence");
        assert_eq!(cut, "cut at 1.0 MiB, 3.0 MiB more were dropped");
    }
}
