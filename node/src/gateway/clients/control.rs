//! The control stream of one client.
//!
//! Driven by one task, without a task for each request: requests are decoded as they arrive, their answers are polled
//! together, and whatever is ready goes out in one write. Nothing is read while [`CLIENT_REQUESTS_IN_FLIGHT_MAX`] requests
//! or [`REQUEST_BYTES_MAX`] of them are unanswered, or while the client does not take its answers: the transport then
//! slows the client down.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use quinn::SendStream;
use shoal_protocol::limits::{CLIENT_FRAME_LEN_MAX, CLIENT_REQUESTS_IN_FLIGHT_MAX};
use shoal_protocol::wire::client::{Reply, Request, Response, Welcome};
use shoal_protocol::{Kind, Problem, Traceparent, codec};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::super::backend::Backend;
use super::super::frames::{Error, Frames};
use super::super::transfer::STALL_MAX;
use super::super::{Ending, FLUSH_MAX, close};
use super::pass::Pass;
use super::problem_of;
use crate::service::{Answer, Body, Caller, Format};

/// Bytes of unanswered requests of one connection. Why 4 MiB: four of the largest frames.
const REQUEST_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Answers that wait to be written, in bytes; one more may exceed it. Why 1 MiB: the largest frame.
const ANSWER_BYTES_MAX: usize = CLIENT_FRAME_LEN_MAX;
/// Turns of the control stream before other tasks of the thread get theirs.
const TURNS_MAX: u32 = 256;
/// How long requests that were accepted may take once the node stops.
const DRAIN_MAX: Duration = Duration::from_secs(5);
/// The id of an answer to what could not be read, so that its own id is unknown.
const UNREADABLE: u64 = u64::MAX;

/// The control stream.
pub(super) struct Control<B> {
    send: SendStream,
    frames: Frames,
    backend: B,
    pass: Arc<Pass<B>>,
    answers: Answers,
    /// Bytes of unanswered requests.
    asked: usize,
}

/// Answers that wait to be written.
#[derive(Default)]
struct Answers {
    bytes: Vec<u8>,
    /// How many of these bytes were written already.
    written: usize,
}

impl Answers {
    fn waiting(&self) -> &[u8] {
        self.bytes.get(self.written..).unwrap_or_default()
    }

    fn len(&self) -> usize {
        self.waiting().len()
    }

    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn advance(&mut self, len: usize) {
        self.written = self.written.saturating_add(len);
        if self.written >= self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(ANSWER_BYTES_MAX);
            self.written = 0;
        } else if self.written >= ANSWER_BYTES_MAX {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }

    fn append(&mut self, response: &Response) {
        if codec::append_frame(&mut self.bytes, response, CLIENT_FRAME_LEN_MAX).is_err() {
            let detail = format!("the answer is longer than {CLIENT_FRAME_LEN_MAX} bytes; ask for less at once");
            let problem = Problem::new(Kind::TooLarge, detail);
            // A problem of one sentence always fits.
            let _ = codec::append_frame(&mut self.bytes, &refusal(response.id, &problem), CLIENT_FRAME_LEN_MAX);
        }
    }
}

/// What is to become of the control stream.
enum Phase {
    /// Requests are read.
    Open,
    /// No more are read; what was is answered until the deadline, if there is one, and then the connection ends like this.
    Closing(Ending, Option<Instant>),
}

impl<B: Backend> Control<B> {
    /// A stream on which the client is greeted first.
    pub(super) fn new(send: SendStream, frames: Frames, backend: B, pass: Arc<Pass<B>>, welcome: Welcome) -> Self {
        let mut answers = Answers::default();
        // A node's name is short: the greeting always fits.
        let _ = codec::append_frame(&mut answers.bytes, &Reply::Ok(welcome), CLIENT_FRAME_LEN_MAX);
        Self { send, frames, backend, pass, answers, asked: 0 }
    }

    /// Serves requests until the client leaves or misbehaves, its token counts no more, or the node stops.
    pub(super) async fn run(mut self, stop: CancellationToken) -> Ending {
        let mut in_flight = FuturesUnordered::new();
        let mut phase = Phase::Open;
        let mut turns = 0u32;
        let mut moved = Instant::now();
        loop {
            turns = turns.wrapping_add(1);
            if turns.is_multiple_of(TURNS_MAX) {
                tokio::task::yield_now().await;
            }
            while matches!(phase, Phase::Open) && self.has_room(in_flight.len()) {
                match self.frames.take::<Request>() {
                    Ok(Some((request, len))) => match self.pass.caller() {
                        Ok(caller) => {
                            self.asked = self.asked.saturating_add(len);
                            in_flight.push(answer(self.backend.clone(), caller, request, len));
                        }
                        Err(problem) => phase = self.end(request.id, &problem, close::UNAUTHENTICATED),
                    },
                    Ok(None) => break,
                    Err(error) => phase = self.end(UNREADABLE, &problem_of(&error), close::PROTOCOL),
                }
            }
            if let Phase::Closing(ending, _) = &phase
                && in_flight.is_empty()
                && self.answers.is_empty()
            {
                let ending = ending.clone();
                self.leave().await;
                return ending;
            }
            let reading = matches!(phase, Phase::Open) && self.has_room(in_flight.len());
            let deadline = match &phase {
                Phase::Closing(_, Some(deadline)) => *deadline,
                _ => moved + STALL_MAX,
            };
            tokio::select! {
                biased;
                Some((response, len)) = in_flight.next(), if self.answers.len() < ANSWER_BYTES_MAX => {
                    self.asked = self.asked.saturating_sub(len);
                    if self.answers.is_empty() {
                        moved = Instant::now();
                    }
                    self.answers.append(&response);
                }
                written = self.send.write(self.answers.waiting()), if !self.answers.is_empty() => match written {
                    Ok(len) => {
                        self.answers.advance(len);
                        moved = Instant::now();
                    }
                    Err(_) => return Ending::gone(),
                },
                filled = self.frames.fill(), if reading => match filled {
                    Ok(true) => {}
                    Ok(false) if self.frames.has_part() => {
                        phase = self.end(UNREADABLE, &problem_of(&Error::Truncated), close::PROTOCOL);
                    }
                    Ok(false) => phase = Phase::Closing(Ending::new(close::DONE, ""), None),
                    Err(_) => return Ending::gone(),
                },
                () = stop.cancelled(), if matches!(phase, Phase::Open) => {
                    let ending = Ending::new(close::STOPPING, "the node stops");
                    phase = Phase::Closing(ending, Some(Instant::now() + DRAIN_MAX));
                }
                () = tokio::time::sleep_until(deadline), if !self.answers.is_empty() || matches!(phase, Phase::Closing(_, Some(_))) => {
                    return match phase {
                        Phase::Closing(ending, Some(_)) => ending,
                        _ => Ending::new(close::STALLED, "the client does not take its answers"),
                    };
                }
            }
        }
    }

    fn has_room(&self, in_flight: usize) -> bool {
        in_flight < CLIENT_REQUESTS_IN_FLIGHT_MAX
            && self.asked < REQUEST_BYTES_MAX
            && self.answers.len() < ANSWER_BYTES_MAX
    }

    /// Answers with a problem, and reads no more.
    fn end(&mut self, id: u64, problem: &Problem, code: u32) -> Phase {
        self.answers.append(&refusal(id, problem));
        Phase::Closing(Ending::new(code, &problem.detail), Some(Instant::now() + DRAIN_MAX))
    }

    /// Waits a moment until the client has what was written.
    async fn leave(&mut self) {
        if self.send.finish().is_ok() {
            let _ = timeout(FLUSH_MAX, self.send.stopped()).await;
        }
    }
}

/// Answers one request.
async fn answer<B: Backend>(backend: B, caller: Arc<Caller>, request: Request, len: usize) -> (Response, usize) {
    let Request { id, call, body, traceparent } = request;
    let caller = Caller { traceparent: Traceparent::sent(traceparent.as_deref()), ..Caller::clone(&caller) };
    let body = Body { format: Format::Cbor, bytes: body.0 };
    let response = match backend.call(&caller, call, body).await {
        Ok(Answer { status, etag, body }) => Response { id, status, etag, body: body.into() },
        Err(problem) => refusal(id, &problem),
    };
    (response, len)
}

fn refusal(id: u64, problem: &Problem) -> Response {
    Response { id, status: problem.status, etag: None, body: codec::encode(problem).into() }
}
