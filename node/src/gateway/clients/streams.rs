//! The streams of one client beside the control stream: one transfer each.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use quinn::{Connection, RecvStream, SendStream};
use shoal_protocol::limits::CLIENT_FRAME_LEN_MAX;
use shoal_protocol::object::job::{LogPlace, Subscription};
use shoal_protocol::wire::client::{BlobOpened, Opening, Reply};
use shoal_protocol::{Kind, ObjectId, Problem, codec};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::super::backend::Backend;
use super::super::frames::{Error, Frames};
use super::super::transfer::{self, STALL_MAX};
use super::super::{Ending, HELLO_MAX, close};
use super::pass::Pass;
use super::{OPENING_LEN_MAX, problem_of};
use crate::service::{Caller, Opened, Upload, framed, raw};

/// Streams beside the control stream that one connection may have under way; more wait in the transport.
const STREAMS_MAX: usize = 128;
/// Transfers of bytes that one connection may have under way. Why 16: they share one path anyway.
const TRANSFERS_MAX: usize = 16;
/// Followed logs at this node, over all connections: each is a task that mostly sleeps.
const FOLLOWED_MAX: usize = 1_024;
/// Transfers of bytes at this node, over all connections. Why 128: with their buffers about 100 MiB at the worst.
const TRANSFERS_ALL_MAX: usize = 128;

/// Places that all connections share.
#[derive(Clone)]
pub(in super::super) struct Places {
    transfers: Arc<Semaphore>,
    followed: Arc<Semaphore>,
}

impl Places {
    pub(in super::super) fn new() -> Self {
        Self {
            transfers: Arc::new(Semaphore::new(TRANSFERS_ALL_MAX)),
            followed: Arc::new(Semaphore::new(FOLLOWED_MAX)),
        }
    }
}

/// What the transfers of one connection share.
pub(super) struct Session<B> {
    backend: B,
    pass: Arc<Pass<B>>,
    places: Places,
    own: Arc<Semaphore>,
}

impl<B> Session<B> {
    pub(super) fn new(backend: B, pass: Arc<Pass<B>>, places: Places) -> Self {
        Self { backend, pass, places, own: Arc::new(Semaphore::new(TRANSFERS_MAX)) }
    }
}

/// Serves the streams. Ends with a fault of the client, or with the connection.
pub(super) async fn serve<B: Backend>(connection: &Connection, session: Session<B>) -> Ending {
    let session = Arc::new(session);
    let mut tasks: JoinSet<Option<Ending>> = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(ended) = tasks.join_next() => match ended {
                Ok(None) => {}
                Ok(Some(fault)) => return fault,
                Err(error) => tracing::error!(%error, "a transfer of a client failed"),
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

/// One stream. Returns how the connection must end if the client is at fault.
async fn stream<B: Backend>(session: Arc<Session<B>>, send: SendStream, recv: RecvStream) -> Option<Ending> {
    let mut frames = Frames::new(recv, OPENING_LEN_MAX);
    let error = match timeout(HELLO_MAX, frames.read::<Opening>()).await {
        Ok(Ok(Some(opening))) => match session.transfer(opening, send, frames).await {
            Ok(()) => return None,
            Err(send) => {
                let problem = Problem::new(Kind::Malformed, "a connection has one control stream, its first");
                return Some(fault(send, problem).await);
            }
        },
        Ok(Err(Error::Gone(_)) | Ok(None)) => return None,
        Ok(Err(error)) => error,
        Err(_) => Error::Truncated,
    };
    Some(fault(send, problem_of(&error)).await)
}

async fn fault(send: SendStream, problem: Problem) -> Ending {
    let ending = Ending::new(close::PROTOCOL, &problem.detail);
    transfer::answer_last(send, &Reply::<()>::Err(problem)).await;
    ending
}

impl<B: Backend> Session<B> {
    /// Does what the opening says; gives the stream back if it says what it may not say.
    async fn transfer(&self, opening: Opening, send: SendStream, frames: Frames) -> Result<(), SendStream> {
        if matches!(opening, Opening::Control { .. }) {
            return Err(send);
        }
        let caller = match self.pass.caller() {
            Ok(caller) => caller,
            Err(problem) => {
                transfer::answer(send, &Reply::<()>::Err(problem)).await;
                return Ok(());
            }
        };
        match opening {
            Opening::Control { .. } => {}
            Opening::PutBlob { size, keep, name } => {
                self.put(&caller, Upload { size, keep, name }, send, frames).await;
            }
            Opening::GetBlob { id, offset, len } => {
                self.get(send, self.backend.open_blob(&caller, id, offset, len)).await;
            }
            Opening::GetResult { job, offset } => {
                self.get(send, self.backend.open_result(&caller, job, offset)).await;
            }
            Opening::Subscribe(wanted) => self.events(&caller, wanted, send).await,
            Opening::GetLog { job, follow, from } => self.log(&caller, job, from, follow, send).await,
        }
        Ok(())
    }

    async fn put(&self, caller: &Caller, upload: Upload, send: SendStream, frames: Frames) {
        let Some(_place) = self.place().await else {
            return transfer::answer(send, &Reply::<()>::Err(transfer::no_place())).await;
        };
        let (arrived, recv) = frames.into_rest();
        let stored = self.backend.put_blob(caller, upload, transfer::incoming(arrived, recv)).await;
        transfer::answer(send, &stored).await;
    }

    async fn get(&self, mut send: SendStream, open: impl Future<Output = Result<Opened, Problem>>) {
        let Some(_place) = self.place().await else {
            return transfer::answer(send, &Reply::<()>::Err(transfer::no_place())).await;
        };
        match open.await {
            Ok(Opened { id, size, bytes, .. }) => {
                if transfer::begin(&mut send, &Reply::Ok(BlobOpened { id, size })).await {
                    transfer::outgoing(bytes, send).await;
                }
            }
            Err(problem) => transfer::answer(send, &Reply::<BlobOpened>::Err(problem)).await,
        }
    }

    /// A log: frames for who says where they are, else its bytes alone.
    async fn log(&self, caller: &Caller, job: ObjectId, from: Option<LogPlace>, follow: bool, mut send: SendStream) {
        let Ok(_place) = self.places.followed.try_acquire() else {
            let problem = Problem::new(Kind::Full, "too many logs are being read at this node").retry_after(1_000);
            return transfer::answer(send, &Reply::<()>::Err(problem)).await;
        };
        match self.backend.open_log(caller, job, from.unwrap_or_default(), follow).await {
            Ok(log) => {
                if transfer::begin(&mut send, &Reply::Ok(())).await {
                    let bytes = if from.is_some() { framed(log) } else { raw(log) };
                    transfer::outgoing(bytes, send).await;
                }
            }
            Err(problem) => transfer::answer(send, &Reply::<()>::Err(problem)).await,
        }
    }

    /// Changes of jobs, a frame each.
    async fn events(&self, caller: &Caller, wanted: Subscription, mut send: SendStream) {
        match self.backend.subscribe(caller, wanted).await {
            Ok(events) => {
                if transfer::begin(&mut send, &Reply::Ok(())).await {
                    let frames = events.map(|told| {
                        let frame = codec::frame(&told.map_err(io::Error::other)?, CLIENT_FRAME_LEN_MAX);
                        frame.map(Bytes::from).map_err(io::Error::other)
                    });
                    transfer::outgoing(Box::pin(frames), send).await;
                }
            }
            Err(problem) => transfer::answer(send, &Reply::<()>::Err(problem)).await,
        }
    }

    /// A place for one transfer, of this connection and of the node. None if none came free in time.
    async fn place(&self) -> Option<(OwnedSemaphorePermit, OwnedSemaphorePermit)> {
        let both = async {
            let own = Arc::clone(&self.own).acquire_owned().await.ok()?;
            let shared = Arc::clone(&self.places.transfers).acquire_owned().await.ok()?;
            Some((own, shared))
        };
        timeout(STALL_MAX, both).await.ok().flatten()
    }
}
