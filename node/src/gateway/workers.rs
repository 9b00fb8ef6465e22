//! One worker's connection: who it is, what it says, what it is told, and its blobs.
//!
//! What always holds: a worker speaks for the runs that it was given and for no others; what it sends is cut to its
//! bounds before anybody else sees it; the kernel hears of the end of every connection that it heard the beginning of.

mod blobs;
mod held;
mod hello;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use quinn::{Connection, SendStream};
use shoal_kernel::{Input, WorkerAttached};
use shoal_protocol::limits::{LOG_LEN_MAX, MESSAGE_LEN_MAX, WORKER_FRAME_LEN_MAX};
use shoal_protocol::object::job::{Ending as RunEnding, Failure, FailureCode, Outcome, Payload, Progress, Usage};
use shoal_protocol::wire::worker::{Answer, Ask, FromWorker, Run, ToWorker};
use shoal_protocol::{Kind, Problem, WorkerId, codec};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::backend::Backend;
use super::frames::{Error, Frames};
use super::local::{Attachment, LocalWorker};
use super::transfer::{self, STALL_MAX};
use super::{Ending, HELLO_MAX, close};
use crate::identity::Identity;
pub(super) use blobs::{Places, places};
use held::Held;

/// Messages to one worker that wait to be written. Why 1,024: a start, a cancel or an acknowledgement for each of its
/// runs several times over; a worker that takes none of so many is sent away.
const OUTBOX_MAX: usize = 1_024;
/// Questions of guests of one worker that are unanswered. Why 256: each run asks one thing at a time.
const ASKS_MAX: usize = 256;
/// Runs that a worker may hold, under way and unacknowledged. Why 4,096: far more than slots, and a heartbeat with all of
/// them fits into a frame.
const RUNS_MAX: usize = 4_096;
/// Bytes that are written at once.
const BATCH_BYTES_MAX: usize = 256 * 1024;

/// Serves a worker until it leaves, misbehaves, is sent away, or the node stops.
pub(super) async fn serve<B: Backend>(
    connection: &Connection,
    backend: B,
    identity: Arc<Identity>,
    local: LocalWorker,
    places: Places,
    stop: CancellationToken,
) -> Ending {
    let (send, recv) = match timeout(HELLO_MAX, connection.accept_bi()).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(_)) => return Ending::gone(),
        Err(_) => return Ending::new(close::SILENT, "the control stream was not opened in time"),
    };
    let mut frames = Frames::new(recv, WORKER_FRAME_LEN_MAX);
    let peer = shoal_transport::peer_key(connection);
    let admitted = match hello::admit(&mut frames, peer, identity).await {
        Ok(Some(admitted)) => admitted,
        Ok(None) => return Ending::gone(),
        Err((code, problem)) => {
            let ending = Ending::new(code, &problem.detail);
            transfer::answer_last(send, &ToWorker::Refused(problem)).await;
            return ending;
        }
    };
    let attached = WorkerAttached { connection: backend.connection_number(), ..admitted.attached };
    let (worker, number) = (attached.worker, attached.connection);
    let slots = attached.offer.slots;
    tracing::info!(%worker, name = attached.name, local = attached.local, slots, pid = admitted.pid, "a worker attaches");
    let (outbox, runtime_says) = mpsc::channel(OUTBOX_MAX);
    // Capacity for every unanswered question and a word from the supervisor: a sender never waits long.
    let (own, own_says) = mpsc::channel(ASKS_MAX + 16);
    let held = Held::new(attached.runs.iter().copied());
    let at_fault = AtomicBool::new(false);
    let session = Arc::new(Session { backend, worker, number, held, own: own.clone(), places, at_fault });
    if attached.local {
        let closed = CancellationToken::new();
        local.attached(Attachment { worker, connection: number, own, closed: closed.clone() });
    } else {
        drop(own);
    }
    session.backend.attach(attached, outbox).await;
    let ending = session.run(connection, send, frames, (runtime_says, own_says), &local, stop).await;
    local.detached(number);
    session.backend.input(Input::WorkerDetached { worker, connection: number, dead: false }).await;
    tracing::info!(%worker, why = ending.sentence(), "a worker's connection ended");
    ending
}

/// An attached worker.
struct Session<B> {
    backend: B,
    worker: WorkerId,
    number: u64,
    held: Held,
    own: mpsc::Sender<ToWorker>,
    places: Places,
    /// It is being sent away for what it said.
    at_fault: AtomicBool,
}

type Says = (mpsc::Receiver<ToWorker>, mpsc::Receiver<ToWorker>);

impl<B: Backend> Session<B> {
    async fn run(
        self: &Arc<Self>,
        connection: &Connection,
        send: SendStream,
        frames: Frames,
        says: Says,
        local: &LocalWorker,
        stop: CancellationToken,
    ) -> Ending {
        tokio::select! {
            biased;
            () = stop.cancelled() => Ending::new(close::STOPPING, "the node stops"),
            () = local.gone(self.number) => Ending::new(close::DONE, "the worker's process has ended"),
            ending = Arc::clone(self).tell(send, says) => ending,
            ending = Arc::clone(self).listen(frames) => ending,
            ending = blobs::serve(connection, Arc::clone(self)) => ending,
        }
    }

    /// Writes what the runtime and this session have to say, in order, as much as is ready at once.
    async fn tell(self: Arc<Self>, mut send: SendStream, (mut runtime, mut own): Says) -> Ending {
        let mut batch = Vec::new();
        loop {
            let first = tokio::select! {
                biased;
                message = runtime.recv() => match message {
                    Some(message) => message,
                    None => return Ending::new(close::REPLACED, "the node has ended this attachment"),
                },
                Some(message) = own.recv() => message,
            };
            let mut next = Some(first);
            let mut last_words = None;
            while let Some(message) = next.take() {
                self.held.heard(&message);
                if let ToWorker::Refused(problem) = &message {
                    let code = if self.at_fault.load(Ordering::Relaxed) { close::PROTOCOL } else { close::REFUSED };
                    last_words = Some(Ending::new(code, &problem.detail));
                }
                self.encode(&mut batch, message).await;
                if batch.len() < BATCH_BYTES_MAX && last_words.is_none() {
                    next = runtime.try_recv().or_else(|_| own.try_recv()).ok();
                }
            }
            match timeout(STALL_MAX, send.write_all(&batch)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Ending::gone(),
                Err(_) => return Ending::new(close::STALLED, "the worker does not take what it is sent"),
            }
            batch.clear();
            if let Some(ending) = last_words {
                if send.finish().is_ok() {
                    let _ = timeout(super::FLUSH_MAX, send.stopped()).await;
                }
                return ending;
            }
        }
    }

    async fn encode(&self, batch: &mut Vec<u8>, message: ToWorker) {
        let Err(error) = codec::append_frame(batch, &message, WORKER_FRAME_LEN_MAX) else { return };
        let problem = Problem::new(Kind::TooLarge, format!("{error}; ask for less at once"));
        match message {
            ToWorker::Answer { call, .. } => {
                let refusal = ToWorker::Answer { call, answer: Err(problem) };
                // A problem of one sentence always fits.
                let _ = codec::append_frame(batch, &refusal, WORKER_FRAME_LEN_MAX);
            }
            ToWorker::Start(start) => {
                tracing::error!(job = %start.run.job, %error, "a run does not fit into a frame; its job was accepted too large");
                let failure = Failure { code: FailureCode::WorkerFault, message: error.to_string() };
                let outcome = Box::new(Outcome {
                    ending: RunEnding::Failed(failure),
                    exit_code: None,
                    output: Payload::empty(),
                    log: Payload::empty(),
                    log_dropped: 0,
                    usage: Usage::default(),
                });
                self.backend.input(Input::Ended { worker: self.worker, run: start.run, outcome }).await;
            }
            _ => tracing::error!(%error, "a message to a worker does not fit into a frame"),
        }
    }

    /// Reads what the worker says and passes it on. Waits while the kernel is behind: the transport slows the worker down.
    async fn listen(self: Arc<Self>, mut frames: Frames) -> Ending {
        let mut asks = JoinSet::new();
        loop {
            let message = tokio::select! {
                biased;
                Some(_) = asks.join_next() => continue,
                message = frames.read::<FromWorker>() => message,
            };
            match message {
                Ok(Some(FromWorker::Ask { call, run, ask })) => self.ask(&mut asks, call, run, ask).await,
                Ok(Some(message)) => {
                    if let Err(problem) = self.heard(message).await {
                        return self.refuse(problem).await;
                    }
                }
                Ok(None) => return Ending::new(close::DONE, "the worker left"),
                Err(Error::Gone(_)) => return Ending::gone(),
                Err(error) => return self.refuse(super::clients::problem_of(&error)).await,
            }
        }
    }

    /// Tells the worker why it is sent away; [`Session::tell`] ends the connection behind it.
    async fn refuse(&self, problem: Problem) -> Ending {
        tracing::warn!(worker = %self.worker, problem = problem.detail, "a worker breaks the protocol and is sent away");
        let ending = Ending::new(close::PROTOCOL, &problem.detail);
        self.at_fault.store(true, Ordering::Relaxed);
        let said = self.own.send(ToWorker::Refused(problem)).await;
        if said.is_ok() {
            tokio::time::sleep(super::FLUSH_MAX).await;
        }
        ending
    }

    /// One message. An error is a fault of the worker's.
    async fn heard(&self, message: FromWorker) -> Result<(), Problem> {
        let worker = self.worker;
        let input = match message {
            FromWorker::Heartbeat { runs } => {
                if runs.len() > RUNS_MAX {
                    let detail = format!("a heartbeat names {} runs, {RUNS_MAX} at most", runs.len());
                    return Err(Problem::new(Kind::TooLarge, detail));
                }
                Input::Heartbeat { worker, runs }
            }
            FromWorker::Started(run) => Input::Started { worker, run },
            FromWorker::Progress(run, progress) => {
                let progress = Progress { message: cut(progress.message), ..progress };
                Input::Progress { worker, run, progress }
            }
            FromWorker::Log { run, offset, bytes } => {
                let within = offset.saturating_add(bytes.len() as u64) <= LOG_LEN_MAX as u64;
                if within && self.held.has(run) {
                    self.backend.append_log(run, offset, &bytes);
                }
                return Ok(());
            }
            FromWorker::Ended(run, outcome) => {
                Input::Ended { worker, run, outcome: Box::new(check_outcome(*outcome)?) }
            }
            FromWorker::Declined(run, problem) => {
                let problem = Problem { detail: cut(problem.detail), title: cut(problem.title), ..problem };
                Input::Declined { worker, run, problem }
            }
            FromWorker::Leaving => Input::Leaving { worker },
            FromWorker::Attach(_) => {
                return Err(Problem::new(Kind::Malformed, "a worker attaches once on a connection"));
            }
            FromWorker::Ask { .. } => return Err(Problem::new(Kind::Internal, "a question came where none is taken")),
        };
        self.backend.input(input).await;
        Ok(())
    }

    /// Answers a guest in a task of its own, so that a slow answer holds up nothing else.
    async fn ask(self: &Arc<Self>, asks: &mut JoinSet<()>, call: u64, run: Run, ask: Ask) {
        let refused = if !self.held.has(run) {
            Some(not_held(run))
        } else if asks.len() >= ASKS_MAX {
            Some(Problem::new(Kind::Full, format!("{ASKS_MAX} questions are unanswered")).retry_after(100))
        } else {
            None
        };
        match refused {
            Some(problem) => self.say(call, Err(problem)).await,
            None => {
                let session = Arc::clone(self);
                asks.spawn(async move {
                    let answer = session.backend.ask(session.worker, run, ask).await;
                    session.say(call, answer).await;
                });
            }
        }
    }

    async fn say(&self, call: u64, answer: Result<Answer, Problem>) {
        // Fails only when the connection is ending.
        let _ = self.own.send(ToWorker::Answer { call, answer }).await;
    }
}

/// A run that this worker was not given, or that it has already lost.
fn not_held(run: Run) -> Problem {
    Problem::new(Kind::Forbidden, format!("epoch {} of job {} is not at this worker", run.epoch, run.job))
}

/// Cuts texts to their bounds; refuses what cannot be cut.
fn check_outcome(outcome: Outcome) -> Result<Outcome, Problem> {
    if !outcome.output.within_bounds() || !outcome.log.within_bounds() || outcome.log.size() > LOG_LEN_MAX as u64 {
        return Err(Problem::new(Kind::TooLarge, "an ending holds bytes that should be a blob, or too long a log"));
    }
    let ending = match outcome.ending {
        RunEnding::Failed(failure) => RunEnding::Failed(Failure { message: cut(failure.message), ..failure }),
        ending => ending,
    };
    Ok(Outcome { ending, ..outcome })
}

/// The text up to [`MESSAGE_LEN_MAX`] bytes.
fn cut(mut text: String) -> String {
    if text.len() > MESSAGE_LEN_MAX {
        text.truncate(text.floor_char_boundary(MESSAGE_LEN_MAX));
    }
    text
}
