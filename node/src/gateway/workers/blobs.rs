//! The blob streams of one worker, and its guests' place among those of others.

use std::sync::Arc;

use quinn::{Connection, RecvStream, SendStream};
use shoal_protocol::Problem;
use shoal_protocol::wire::client::{BlobOpened, Reply};
use shoal_protocol::wire::worker::{BlobRequest, Run};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::backend::Backend;
use super::super::frames::{Error, Frames};
use super::super::transfer::{self, STALL_MAX};
use super::super::{Ending, HELLO_MAX, clients, close};
use super::{Session, not_held};
use crate::service::Opened;

/// A request for a blob, in bytes: two ids and some numbers.
const REQUEST_LEN_MAX: usize = 1024;
/// Blob streams of one worker at once; more wait in the transport. Why 128: each run needs one or two at a time.
const STREAMS_MAX: usize = 128;
/// Blob streams of all workers of this node that move bytes at once.
const TRANSFERS_ALL_MAX: usize = 256;

/// Places that all workers share, apart from those of clients: neither keeps the other waiting.
pub(in super::super) type Places = Arc<Semaphore>;

pub(in super::super) fn places() -> Places {
    Arc::new(Semaphore::new(TRANSFERS_ALL_MAX))
}

/// Serves the worker's blob streams. Ends with a fault of the worker, or with the connection.
pub(super) async fn serve<B: Backend>(connection: &Connection, session: Arc<Session<B>>) -> Ending {
    let mut tasks: JoinSet<Option<Problem>> = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(ended) = tasks.join_next() => match ended {
                Ok(None) => {}
                Ok(Some(problem)) => {
                    tracing::warn!(worker = %session.worker, problem = problem.detail, "a worker breaks the blob protocol");
                    return Ending::new(close::PROTOCOL, &problem.detail);
                }
                Err(error) => tracing::error!(%error, "a transfer of a worker failed"),
            },
            opened = connection.accept_bi(), if tasks.len() < STREAMS_MAX => match opened {
                Ok((send, recv)) => {
                    tasks.spawn(stream(Arc::clone(&session), send, recv));
                }
                Err(_) => return Ending::gone(),
            },
        }
    }
}

/// One stream. Returns what the worker did wrong if its connection must end.
async fn stream<B: Backend>(session: Arc<Session<B>>, send: SendStream, recv: RecvStream) -> Option<Problem> {
    let mut frames = Frames::new(recv, REQUEST_LEN_MAX);
    let error = match timeout(HELLO_MAX, frames.read::<BlobRequest>()).await {
        Ok(Ok(Some(request))) => {
            session.transfer(request, send, frames).await;
            return None;
        }
        Ok(Ok(None) | Err(Error::Gone(_))) => return None,
        Ok(Err(error)) => error,
        Err(_) => Error::Truncated,
    };
    let problem = clients::problem_of(&error);
    transfer::answer_last(send, &Reply::<()>::Err(problem.clone())).await;
    Some(problem)
}

impl<B: Backend> Session<B> {
    async fn transfer(&self, request: BlobRequest, mut send: SendStream, frames: Frames) {
        let run = match &request {
            BlobRequest::Get { run, .. } | BlobRequest::Put { run } => *run,
        };
        let _place = match self.enter(run).await {
            Ok(place) => place,
            Err(problem) => return transfer::answer(send, &Reply::<()>::Err(problem)).await,
        };
        match request {
            BlobRequest::Get { run, id, offset, len } => {
                match self.backend.open_blob_for_run(self.worker, run, id, offset, len).await {
                    Ok(Opened { id, size, bytes, .. }) => {
                        if transfer::begin(&mut send, &Reply::Ok(BlobOpened { id, size })).await {
                            transfer::outgoing(bytes, send).await;
                        }
                    }
                    Err(problem) => transfer::answer(send, &Reply::<BlobOpened>::Err(problem)).await,
                }
            }
            BlobRequest::Put { run } => {
                let (arrived, recv) = frames.into_rest();
                let bytes = transfer::incoming(arrived, recv);
                let stored = self.backend.put_blob_for_run(self.worker, run, bytes).await;
                transfer::answer(send, &stored).await;
            }
        }
    }

    /// A place for one transfer, if the run is this worker's.
    async fn enter(&self, run: Run) -> Result<tokio::sync::SemaphorePermit<'_>, Problem> {
        if !self.held.has(run) {
            return Err(not_held(run));
        }
        match timeout(STALL_MAX, self.places.acquire()).await {
            Ok(Ok(place)) => Ok(place),
            _ => Err(transfer::no_place()),
        }
    }
}
