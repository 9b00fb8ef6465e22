//! One run, from its start to its outcome.
//!
//! Each run has a fresh instance, a deadline and an interrupt, and ends in exactly one [`Outcome`], whatever the guest
//! does. The deadline counts from the moment the guest starts, so that a first compilation is not held against it.
//! After an interrupt the store is dropped, never used again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use shoal_protocol::limits::COMPONENT_LEN_MAX;
use shoal_protocol::object::job::{Ending, Failure, FailureCode, Outcome, Payload, Usage};
use shoal_protocol::wire::worker::{Run, Start};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::cache::{self, Cache};
use crate::engine::Engine;
use crate::host::output::Output;
use crate::host::{self, Ended, GuestPayload, Runnable};
use crate::live::Live;
use crate::node::{self, Node};

/// How long the component may take to arrive and to be compiled. Why 10 minutes: 128 MiB on a slow link and machine.
const PREPARE_MAX: Duration = Duration::from_secs(600);
/// How long, after its guest has ended, a run may take to hand result and log to the node. Why 10 minutes: what a
/// restart of the node and a full disk that somebody frees take.
const HAND_OVER_MAX: Duration = Duration::from_secs(600);

/// Why a run is ended from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interrupt {
    /// Somebody cancelled the job.
    Cancelled,
    /// The worker leaves and cannot wait for it.
    Leaving,
    /// The node says that this run counts for nothing: its outcome goes nowhere.
    Forgotten,
}

/// What all runs share.
pub(crate) struct Shop {
    /// Compiles and interrupts.
    pub(crate) engine: Arc<Engine>,
    /// Ready components.
    pub(crate) cache: Cache,
}

/// One run's belongings.
pub(crate) struct Job {
    /// What to run.
    pub(crate) start: Arc<Start>,
    /// The way to the node.
    pub(crate) node: Node,
    /// What it shows meanwhile.
    pub(crate) live: Arc<Live>,
    /// Says when to end it.
    pub(crate) interrupt: watch::Receiver<Option<Interrupt>>,
    /// Hears that the guest has started.
    pub(crate) started: mpsc::Sender<Run>,
}

/// How the guest's part went.
struct Played {
    ending: Ending,
    exit_code: Option<i32>,
    output: Payload,
    start_us: u64,
    memory_bytes: u64,
}

impl Played {
    fn ended(ending: Ending) -> Self {
        Self { ending, exit_code: None, output: Payload::empty(), start_us: 0, memory_bytes: 0 }
    }

    fn failed(code: FailureCode, message: impl Into<String>) -> Self {
        Self::ended(failed(code, message))
    }
}

/// Runs the job. Never fails: what goes wrong is its outcome.
pub(crate) async fn execute(shop: &Shop, job: Job) -> Outcome {
    let begun = Instant::now();
    let interrupted = interrupted(job.interrupt.clone());
    let played = {
        let mut interrupted = std::pin::pin!(interrupted);
        tokio::select! {
            biased;
            interrupt = &mut interrupted => Played::ended(ending_of(interrupt)),
            played = play(shop, &job, begun) => played,
        }
    };
    let run_us = micros(begun.elapsed());
    let (log, log_dropped) = job.live.whole_log();
    let usage = Usage { run_us, start_us: played.start_us, memory_bytes: played.memory_bytes };
    let (ending, log) = match keep(&job, log).await {
        Ok(log) => (played.ending, log),
        Err(error) => (
            failed(FailureCode::WorkerFault, format!("the log could not be handed to the node: {error}")),
            Payload::empty(),
        ),
    };
    Outcome { ending, exit_code: played.exit_code, output: played.output, log, log_dropped, usage }
}

async fn play(shop: &Shop, job: &Job, begun: Instant) -> Played {
    let component = job.start.component;
    let fetch = || async {
        let fetched = job.node.fetch(component, COMPONENT_LEN_MAX).await;
        fetched.map_err(|error| cache::Error::Fetch(format!("component {component}: {error}")))
    };
    let runnable = match timeout(PREPARE_MAX, shop.cache.get(component, fetch)).await {
        Ok(Ok(runnable)) => runnable,
        Ok(Err(cache::Error::Fetch(why))) => return Played::failed(FailureCode::BlobUnavailable, why),
        Ok(Err(cache::Error::Invalid(why))) => return Played::failed(FailureCode::InvalidComponent, why),
        Ok(Err(cache::Error::Fault(why))) => return Played::failed(FailureCode::WorkerFault, why),
        Err(_) => {
            return Played::failed(FailureCode::WorkerFault, format!("component {component} was not ready in time"));
        }
    };
    let output = Arc::new(Output::new(job.start.limits.output_bytes()));
    let guest = run_guest(shop, job, &runnable, &output, begun);
    let drain = output.drain(&job.node);
    let (mut guest, mut drain) = (std::pin::pin!(guest), std::pin::pin!(drain));
    let mut played = tokio::select! {
        biased;
        // Only a failure ends it while the guest still writes.
        drained = &mut drain => return undelivered(drained.err().unwrap_or(node::Error::Lost)),
        (played, returned) = &mut guest => match returned {
            Some(result) => return deliver(job, played, result).await,
            None => played,
        },
    };
    output.close();
    if output.exceeded() {
        played.ending = too_large(job.start.limits.output_bytes());
    }
    match timeout(HAND_OVER_MAX, drain).await {
        Ok(Ok(payload)) => Played { output: payload, ..played },
        Ok(Err(error)) => undelivered(error),
        Err(_) => undelivered(node::Error::Lost),
    }
}

/// Runs the guest up to its end or its deadline. What a function returned is given apart, it is yet to be delivered.
async fn run_guest(
    shop: &Shop,
    job: &Job,
    runnable: &Runnable,
    output: &Arc<Output>,
    begun: Instant,
) -> (Played, Option<GuestPayload>) {
    let _running = shop.engine.running();
    let is_function = matches!(runnable, Runnable::Function(_));
    let mut store = host::store(&shop.engine, &job.start, &job.node, &job.live, output, is_function);
    let input = match &job.start.input {
        Payload::Inline(bytes) if is_function => GuestPayload::Bytes(bytes.to_vec()),
        Payload::Inline(_) => GuestPayload::Bytes(Vec::new()),
        Payload::Blob { id, .. } => GuestPayload::Blob(id.to_string()),
    };
    let mut start_us = 0;
    let started = || {
        start_us = micros(begun.elapsed());
        // A full queue means that the session has much to say; that the run is under way it says with its heartbeat.
        let _ = job.started.try_send(job.start.run);
    };
    let limit = Duration::from_millis(job.start.limits.run_ms());
    let ended = timeout(limit, host::call(&mut store, runnable, input, started)).await;
    let memory_bytes = store.data().memory_peak();
    drop(store);
    let mut returned = None;
    let (ending, exit_code) = match ended {
        Err(_) => (Ending::TimedOut, None),
        Ok(Ended::Exited(0)) => (Ending::Succeeded, Some(0)),
        Ok(Ended::Exited(code)) => (failed(FailureCode::Guest, format!("it exited with code {code}")), Some(code)),
        Ok(Ended::Returned(Ok(payload))) => {
            returned = Some(payload);
            (Ending::Succeeded, None)
        }
        Ok(Ended::Returned(Err(why))) => (failed(FailureCode::Guest, why), None),
        Ok(Ended::Trapped(why)) => (failed(FailureCode::Trap, why), None),
        Ok(Ended::OutOfMemory) => {
            let why = format!("it needed more than its {} MiB of memory", job.start.memory_mb);
            (failed(FailureCode::OutOfMemory, why), None)
        }
        Ok(Ended::InputLost(why)) => (failed(FailureCode::BlobUnavailable, why), None),
        Ok(Ended::NotInstantiated(why)) => (failed(FailureCode::InvalidComponent, why), None),
    };
    let ending = blame(ending, &job.node);
    (Played { ending, exit_code, output: Payload::empty(), start_us, memory_bytes }, returned)
}

/// A run that fails after the node's disk has refused what it had made fails for that: another try may go better.
fn blame(ending: Ending, node: &Node) -> Ending {
    match (&ending, node.trouble()) {
        (Ending::Failed(_) | Ending::TimedOut, Some(why)) => failed(FailureCode::WorkerFault, why),
        _ => ending,
    }
}

/// Hands over what a function returned.
async fn deliver(job: &Job, played: Played, returned: GuestPayload) -> Played {
    let limit = job.start.limits.output_bytes();
    let payload = match returned {
        GuestPayload::Bytes(bytes) if bytes.len() as u64 > limit => {
            return Played { ending: too_large(limit), ..played };
        }
        GuestPayload::Bytes(bytes) => timeout(HAND_OVER_MAX, keep(job, bytes)).await.unwrap_or(Err(node::Error::Lost)),
        GuestPayload::Blob(text) => {
            let Ok(id) = text.parse() else {
                let shown = crate::live::cut(&text, 80);
                return Played {
                    ending: failed(FailureCode::Guest, format!("its result {shown:?} is no blob id")),
                    ..played
                };
            };
            let size = timeout(HAND_OVER_MAX, job.node.size(id)).await.unwrap_or(Err(node::Error::Lost));
            size.map(|size| Payload::Blob { id, size })
        }
    };
    match payload {
        Ok(payload) if payload.size() > limit => Played { ending: too_large(limit), ..played },
        Ok(output) => Played { output, ..played },
        Err(node::Error::Refused(problem)) => {
            let why = format!("its result could not be taken: {problem}");
            Played { ending: blame(failed(FailureCode::BlobUnavailable, why), &job.node), ..played }
        }
        Err(error) => undelivered(error),
    }
}

/// Bytes as a payload, as [`Node::keep`] makes it, in bounded time.
async fn keep(job: &Job, bytes: Vec<u8>) -> Result<Payload, node::Error> {
    timeout(HAND_OVER_MAX, job.node.keep(bytes)).await.unwrap_or(Err(node::Error::Lost))
}

async fn interrupted(mut interrupt: watch::Receiver<Option<Interrupt>>) -> Interrupt {
    // The sender is dropped only with the run itself.
    interrupt.wait_for(Option::is_some).await.ok().and_then(|held| *held).unwrap_or(Interrupt::Leaving)
}

fn ending_of(interrupt: Interrupt) -> Ending {
    match interrupt {
        Interrupt::Cancelled | Interrupt::Forgotten => Ending::Cancelled,
        Interrupt::Leaving => failed(FailureCode::WorkerLost, "the worker was stopped"),
    }
}

fn undelivered(error: node::Error) -> Played {
    Played::failed(FailureCode::WorkerFault, format!("the result could not be handed to the node: {error}"))
}

fn too_large(limit: u64) -> Ending {
    failed(FailureCode::OutputTooLarge, format!("its result is longer than the {limit} bytes it may have"))
}

fn failed(code: FailureCode, message: impl Into<String>) -> Ending {
    let message = message.into();
    Ending::Failed(Failure { code, message: crate::live::cut(&message, FAILURE_LEN_MAX).to_string() })
}

/// Bytes of a failure's message. Why 4 KiB: a sentence and a backtrace; it stands in the job's record.
const FAILURE_LEN_MAX: usize = 4096;

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
