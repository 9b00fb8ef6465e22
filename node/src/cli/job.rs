//! `shoal job`.

mod dead;

use std::path::PathBuf;

use shoal_client::Client;
use shoal_protocol::ObjectId;
use shoal_protocol::object::job::{Accepted, After, Elements, Job as JobObject, OnDisconnect, Saved, State};

use super::connect::Context;
use super::failure::{Failure, INTERRUPTED};
use super::input::PageFlags;
use super::table::{Table, age, details, labels, length, more, run_number, size, terminal_width};
use super::{history, output, wait, watch};
use crate::config::Length;

/// What can be done with jobs.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Job {
    /// The jobs of the node, newest first
    Ls {
        /// Only those in this state, such as queued, running, succeeded, failed
        #[arg(long, value_parser = parse_state)]
        state: Option<State>,
        /// Only the dead letters: those that have failed for good
        #[arg(long, conflicts_with = "state")]
        dead: bool,
        /// Only those of functions of this project, by name or id
        #[arg(long)]
        project: Option<String>,
        /// Only those of this function, by name or id
        #[arg(long)]
        function: Option<String>,
        /// Only those with this name
        #[arg(long)]
        name: Option<String>,
        /// The elements of this array that have begun
        #[arg(long, value_name = "ARRAY", conflicts_with = "mesh")]
        array: Option<ObjectId>,
        /// The jobs of all nodes, not only of the one that is asked
        #[arg(long)]
        mesh: bool,
        #[command(flatten)]
        page: PageFlags,
    },
    /// All that is known about a job
    Show {
        /// The job
        id: ObjectId,
    },
    /// What a job wrote to its log
    Logs {
        /// The job
        id: ObjectId,
        /// Go on until the job has ended
        #[arg(long, short)]
        follow: bool,
    },
    /// A job's result, to standard output
    Result {
        /// The job
        id: ObjectId,
        /// Into this file instead; goes on where it was cut
        #[arg(long, short, value_name = "FILE")]
        output: Option<PathBuf>,
    },
    /// Wait until jobs have ended
    Wait {
        /// The jobs
        #[arg(required = true)]
        ids: Vec<ObjectId>,
        /// At most so long for each, such as 90s or 10m
        #[arg(long, value_name = "LENGTH")]
        timeout: Option<Length>,
    },
    /// Changes of a job as they come, or of all that you may see at the node: a table, or a line each in a pipe
    Watch(watch::Watch),
    /// Cancel jobs that have not ended
    Cancel {
        /// The jobs
        #[arg(required = true)]
        ids: Vec<ObjectId>,
    },
    /// Hold jobs that wait, until they are released
    Hold {
        /// The jobs
        #[arg(required = true)]
        ids: Vec<ObjectId>,
    },
    /// Release jobs that are held
    Release {
        /// The jobs
        #[arg(required = true)]
        ids: Vec<ObjectId>,
    },
    /// Hand the same jobs over once more; prints an id for each
    #[command(group(clap::ArgGroup::new("which").required(true).args(["ids", "dead"])))]
    Rerun {
        /// The jobs
        ids: Vec<ObjectId>,
        /// All of your dead letters at the node; each is forgotten as soon as its successor is durable. An array of which some
        /// elements have succeeded stays: see --array
        #[arg(long)]
        dead: bool,
        /// Of this array the elements that have failed for good, each as a job of its own; they stay as long as their array
        #[arg(long, value_name = "ARRAY", requires = "dead", conflicts_with_all = ["project", "function"])]
        array: Option<ObjectId>,
        /// Of these only those of functions of this project, by name or id
        #[arg(long, requires = "dead")]
        project: Option<String>,
        /// Of these only those of this function, by name or id
        #[arg(long, requires = "dead")]
        function: Option<String>,
    },
    /// Forget jobs that have ended
    Rm {
        /// The jobs
        #[arg(required = true)]
        ids: Vec<ObjectId>,
    },
}

fn parse_state(text: &str) -> Result<State, String> {
    let known = || State::ALL.map(State::text).join(", ");
    State::ALL.into_iter().find(|state| state.text() == text).ok_or_else(|| format!("there is {}", known()))
}

pub(crate) async fn run(context: &Context, client: &Client, command: Job) -> Result<(), Failure> {
    match command {
        Job::Ls { state, dead, project, function, name, array, mesh, page } => {
            let filters = [
                ("state", state.map(|state| state.text().to_owned())),
                ("dead", dead.then(|| "true".to_owned())),
                ("project", project),
                ("function", function),
                ("name", name),
                ("array", array.map(|array| array.to_string())),
                ("scope", mesh.then(|| "mesh".to_owned())),
            ];
            let page = client.jobs(page.query(filters)).await?;
            if context.json {
                return output::json(&page);
            }
            table(&page.items).print()?;
            more(page.next.as_deref());
            for missing in &page.unanswered {
                wait::eprint(&format!("the jobs of node {} are missing: {}", missing.node.short(), missing.why));
            }
            Ok(())
        }
        Job::Show { id } => {
            let job = client.job(id, false).await?;
            if context.json { output::json(&job) } else { output::write(show(&job).as_bytes()) }
        }
        Job::Logs { id, follow } => logs(client, id, follow).await,
        Job::Result { id, output } => {
            wait::collect(client, id, output.as_deref()).await.map_err(|failure| failure.or_next(unfinished(id)))?;
            // What a job leaves that has not succeeded is no result to go on with.
            wait::outcome(&client.job(id, false).await?)
        }
        Job::Wait { ids, timeout } => wait_for(context, client, &ids, timeout).await,
        Job::Watch(command) => watch::run(context, client, command).await,
        Job::Cancel { ids } => each(ids, async |id| shown(context, &client.cancel(id).await?)).await,
        Job::Hold { ids } => each(ids, async |id| shown(context, &client.hold(id).await?)).await,
        Job::Release { ids } => each(ids, async |id| shown(context, &client.release(id).await?)).await,
        Job::Rerun { ids, dead: false, .. } => each(ids, |id| rerun(context, client, id)).await,
        Job::Rerun { array: Some(array), .. } => dead::send_elements_again(context, client, array).await,
        Job::Rerun { project, function, .. } => dead::send_again(context, client, project, function).await,
        Job::Rm { ids } => each(ids, |id| remove(client, id)).await,
    }
}

/// `DELETE` of a job that has not ended cancels it; `rm` promises no such thing.
async fn remove(client: &Client, id: ObjectId) -> Result<(), Failure> {
    let job = client.job(id, false).await?;
    if !job.state.is_settled() {
        let what = format!("job {} is {}; only jobs that have ended are forgotten", job.id_text(), job.state.text());
        return Err(Failure::new(what).next(format!("end it with `shoal job cancel {}`", job.id_text())));
    }
    Ok(client.forget(id).await?)
}

/// Hands a job over once more, and prints the id of the new one.
async fn rerun(context: &Context, client: &Client, id: ObjectId) -> Result<(), Failure> {
    let id = client.rerun(id).await?;
    if context.json { output::json(&Accepted { id }) } else { output::line(&id.to_string()) }
}

/// Does the same to each job. One with which it cannot be done holds up none of the others; the first of these gives the exit code.
async fn each(ids: Vec<ObjectId>, act: impl AsyncFn(ObjectId) -> Result<(), Failure>) -> Result<(), Failure> {
    if let [id] = ids[..] {
        return act(id).await;
    }
    let mut first = Ok(());
    for id in ids {
        if let Err(failure) = act(id).await {
            let failure = failure.of(format!("job {id}")).said();
            first = first.and(Err(failure));
        }
    }
    first
}

/// How a job stands now, for who reads it.
fn shown(context: &Context, job: &JobObject) -> Result<(), Failure> {
    if context.json { output::json(job) } else { Ok(()) }
}

fn unfinished(id: ObjectId) -> String {
    format!("`shoal job show {id}` says where it stands, `shoal job wait {id}` waits for its end")
}

async fn logs(client: &Client, id: ObjectId, follow: bool) -> Result<(), Failure> {
    let mut log = client.log(id, follow).await?;
    let reading = async {
        let mut epoch = 0;
        while let Some(chunk) = log.chunk().await? {
            let run = log.place().epoch;
            if epoch > 0 && run != epoch {
                wait::eprint(&format!("the job runs again, as run {}: its log begins anew", run_number(run)));
            }
            epoch = run;
            output::write(&chunk)?;
        }
        // All of the log is there: who cannot be asked now takes nothing from it.
        if let Some(cut) = client.job(id, false).await.ok().and_then(|job| wait::log_cut(&job)) {
            wait::eprint(&format!("the log of job {id} was {cut}"));
        }
        Ok(())
    };
    tokio::select! {
        read = reading => read,
        _ = tokio::signal::ctrl_c() => Err(Failure::silent(INTERRUPTED)),
    }
}

async fn wait_for(
    context: &Context,
    client: &Client,
    ids: &[ObjectId],
    timeout: Option<Length>,
) -> Result<(), Failure> {
    let mut jobs = Vec::new();
    let mut lost = Ok(());
    for &id in ids {
        match wait::until_settled(client, id, timeout.map(|timeout| timeout.0)).await {
            Ok(job) => jobs.push(job),
            Err(failure) if ids.len() == 1 || failure.ends_all() => return Err(failure),
            Err(failure) => lost = lost.and(Err(failure.of(format!("job {id}")).said())),
        }
    }
    match (context.json, jobs.as_slice()) {
        (true, [job]) if ids.len() == 1 => output::json(job)?,
        (true, jobs) => output::json(jobs)?,
        (false, jobs) => {
            for job in jobs {
                output::line(&format!("{} {}", job.id_text(), job.state.text()))?;
            }
        }
    }
    // The first that has not succeeded gives the exit code.
    jobs.iter().map(wait::outcome).find(Result::is_err).unwrap_or(lost)
}

/// Jobs as a table.
pub(crate) fn table(jobs: &[JobObject]) -> Table {
    let mut table = Table::new(&["ID", "STATE", "FUNCTION", "AGE", "RUN", "ABOUT"]);
    for job in jobs {
        let run = job.usage.map(|usage| length(usage.run_us / 1000)).unwrap_or_default();
        let function = format!("{}@{}", job.function_name, job.version);
        table.row([job.id_text(), state(job), function, age(job.accepted_ms), run, about(job)]);
    }
    table
}

/// The state, with the reason of a job that waits as squeue has it: `queued (busy)`.
fn state(job: &JobObject) -> String {
    let text = job.state.text();
    match &job.reason {
        Some(reason) if reason.code.text() != text => format!("{text} ({})", reason.code.text()),
        _ => text.to_owned(),
    }
}

/// What is most worth knowing about a job beside its state.
fn about(job: &JobObject) -> String {
    let said = match (&job.failure, &job.progress, &job.reason) {
        (Some(failure), ..) => failure.message.clone(),
        (_, Some(progress), _) if !job.state.is_settled() => progress.message.clone(),
        (.., Some(reason)) => reason.message.clone(),
        _ => String::new(),
    };
    [job.name.as_str(), said.as_str()].iter().filter(|text| !text.is_empty()).copied().collect::<Vec<_>>().join(": ")
}

fn show(job: &JobObject) -> String {
    let bytes = |bytes: &shoal_protocol::object::job::Bytes| format!("{}, BLAKE3 {}", size(bytes.size), bytes.id);
    let exit = job.exit_code.map(|code| code.to_string()).unwrap_or_default();
    let used =
        job.usage.map(|usage| format!("{} ms, {} at most", usage.run_us.div_ceil(1000), size(usage.memory_bytes)));
    let mut text = details(&[
        ("job", job.id_text()),
        ("name", job.name.clone()),
        ("state", wait::state_text(job)),
        ("failure", job.failure.as_ref().map(|failure| failure.message.clone()).unwrap_or_default()),
        ("exit code", exit),
        ("function", format!("{}, version {}, id {}", job.function_name, job.version, job.function)),
        ("arguments", job.args.join(" ")),
        ("labels", labels(&job.labels)),
        ("needs", needs(job)),
        ("array", array(job)),
        ("effects", if job.effects.is_once() { "once".into() } else { String::new() }),
        ("priority", if job.priority == 0 { String::new() } else { job.priority.to_string() }),
        ("after", after(job)),
        ("key", job.idempotency_key.clone().unwrap_or_default()),
        ("duplicate of", job.duplicate_of.map(|id| id.to_string()).unwrap_or_default()),
        ("memoised", memo(job)),
        ("calls", calls(job)),
        ("repeats", job.rerun_of.map(|id| id.to_string()).unwrap_or_default()),
        ("saved", job.checkpoint.map(|saved| saved_text(&saved)).unwrap_or_default()),
        ("in the queue", job.limits.queue_ms.map(|ms| format!("{} at most", length(ms))).unwrap_or_default()),
        ("in all", job.limits.total_ms.map(|ms| format!("{} at most", length(ms))).unwrap_or_default()),
        ("out of reach", out_of_reach(job)),
        ("reason", job.reason.as_ref().map(|reason| reason.code.text().to_owned()).unwrap_or_default()),
        ("accepted", format!("{} ago at node {}, for user {}", age(job.accepted_ms), job.home.short(), job.owner)),
        ("kept", kept(job)),
        ("decided", decided(job)),
        ("ended", job.settled_ms.map(|at| format!("{} ago", age(at))).unwrap_or_default()),
        ("used", used.unwrap_or_default()),
        ("input", bytes(&job.input)),
        ("result", job.output.as_ref().map(bytes).unwrap_or_default()),
        ("log", job.log.as_ref().map(bytes).into_iter().chain(wait::log_cut(job)).collect::<Vec<_>>().join(", ")),
        ("runs", job.attempts_total.to_string()),
        ("refused", if job.refusals_total == 0 { String::new() } else { format!("{} times", job.refusals_total) }),
        ("trace", job.trace.clone()),
    ]);
    text.push_str(&history::candidates(job, terminal_width()));
    text.push_str(&history::hand_overs(job, terminal_width()));
    text
}

/// Which elements there are, and how far they are.
fn array(job: &JobObject) -> String {
    let (Some(array), Some(elements)) = (job.array, job.elements) else { return String::new() };
    let Elements { succeeded, failed, cancelled, timed_out, expired, .. } = elements;
    let waiting = array.size().saturating_sub(elements.begun);
    let counts = [
        (if job.state.is_settled() { 0 } else { waiting }, "waiting"),
        (elements.under_way(), "under way"),
        (succeeded, "succeeded"),
        (failed, "failed"),
        (cancelled, "cancelled"),
        (timed_out, "timed out"),
        (expired, "expired"),
        (elements.cut, "never begun"),
    ];
    let counts = counts.iter().filter(|(count, _)| *count > 0).map(|(count, what)| format!("{count} {what}"));
    format!("{array}: {}; `shoal job ls --array {}` lists them", counts.collect::<Vec<_>>().join(", "), job.id)
}

/// What becomes of it when whoever runs it is out of reach.
fn out_of_reach(job: &JobObject) -> String {
    let then = match job.on_disconnect {
        None => return String::new(),
        Some(OnDisconnect::Wait) => "waits for who runs it, and is not run elsewhere".to_owned(),
        Some(OnDisconnect::ReplaceAfterMs(ms)) => format!("run again after another {}", length(ms)),
    };
    let since = job.disconnected_ms.map(|at| format!("; has waited for {}", age(at)));
    format!("{then}{}", since.unwrap_or_default())
}

/// Whose result it may be given, or was.
fn memo(job: &JobObject) -> String {
    match job.memo_of {
        Some(first) => format!("not run: its result is that of {first}, which is equal"),
        None if job.memo => "yes".into(),
        None => String::new(),
    }
}

/// Whom the node calls, and what came of that.
fn calls(job: &JobObject) -> String {
    let Some(notify) = &job.notify else { return String::new() };
    let Some(called) = &job.called else { return notify.url.clone() };
    let when = called.last_ms.map(|at| format!(", the last time {} ago", age(at))).unwrap_or_default();
    let error = called.last_error.as_ref().map(|error| format!(": {error}")).unwrap_or_default();
    format!("{}: {}, tried {} times{when}{error}", notify.url, called.state.text().replace('_', " "), called.attempts)
}

fn saved_text(saved: &Saved) -> String {
    let Saved { epoch, number, .. } = saved;
    let run = run_number(*epoch);
    format!("{}, {} ago, checkpoint {number} of run {run}", size(saved.size), age(saved.saved_ms))
}

/// Who decides a job beside its home, and what came of that.
fn decided(job: &JobObject) -> String {
    let regent = job.regent.map(|regent| format!("by node {}, as its home was away", regent.short()));
    let unconfirmed = job.unconfirmed.then(|| "no majority of its custodians was there to confirm it".to_owned());
    let superseded = job.superseded.as_ref().map(|lower| {
        let when = age(lower.settled_ms);
        let run = run_number(lower.epoch);
        format!("its home had it {} {when} ago, in run {run}, before it heard of that", lower.state.text())
    });
    [regent, unconfirmed, superseded].into_iter().flatten().collect::<Vec<_>>().join("; ")
}

/// Who has the job beside its home.
fn kept(job: &JobObject) -> String {
    let custodians: Vec<String> = job.custodians.iter().map(|node| node.short()).collect();
    match (job.durability, custodians.as_slice()) {
        (None, _) => String::new(),
        (Some(1), _) => "at its home alone when it was accepted, for no other node answered".into(),
        (Some(nodes), []) => format!("on {nodes} nodes when it was accepted"),
        (Some(nodes), custodians) => {
            format!("on {nodes} nodes when it was accepted; beside its home by {}", custodians.join(", "))
        }
    }
}

fn after(job: &JobObject) -> String {
    let each = |after: &After| match job.input_of {
        Some(earlier) if earlier == after.job => {
            format!("{} {}, whose result is the input", after.job, after.when.words())
        }
        _ => format!("{} {}", after.job, after.when.words()),
    };
    job.after.iter().map(each).collect::<Vec<_>>().join("; ")
}

fn needs(job: &JobObject) -> String {
    let mut parts = vec![format!("{} MiB", job.needs.memory())];
    parts.extend(job.needs.labels.iter().map(|(key, value)| format!("{key}={value}")));
    parts.extend(job.needs.capabilities.iter().cloned());
    parts.join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use shoal_protocol::object::job::{Failure as JobFailure, FailureCode, Progress};

    #[test]
    fn a_table_says_why() {
        let mut running = wait::tests::job(State::Running);
        running.progress = Some(Progress { done: 1, total: 2, message: "halfway".into() });
        let mut failed = wait::tests::job(State::Failed);
        failed.name = "nightly".into();
        failed.failure = Some(JobFailure { code: FailureCode::Trap, message: "unreachable".into() });
        let text = table(&[running, failed]).text(None);
        assert!(text.contains("running") && text.contains("halfway"), "{text}");
        assert!(text.contains("nightly: unreachable"), "{text}");
    }

    #[test]
    fn what_is_not_known_is_not_shown() {
        let text = show(&wait::tests::job(State::Queued));
        assert!(text.contains("state") && !text.contains("exit code") && !text.contains("result"), "{text}");
        assert!(parse_state("timed_out").is_ok() && parse_state("done").is_err());
    }
}
