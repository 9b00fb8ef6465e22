//! One session over one stream: drives [`shoal_crdt::reconcile::Session`], which decides.

use std::collections::VecDeque;
use std::time::Instant;

use shoal_crdt::reconcile::{Misbehaviour, Report, Session, Step};
use shoal_protocol::Problem;
use shoal_protocol::wire::sync::{SYNC_FRAME_LEN_MAX, SyncMessage};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::mpsc;

use super::bulk::Bulk;
use super::{Origin, Shared};
use crate::frames::{self, FrameError};

/// Messages that wait to be written. Why 8: two batches, what they answer and the message before them; a peer that makes
/// more of them and does not read is not read either.
const WRITES_WAITING_MAX: usize = 8;

/// Why a session ended early. What was stored by then stays.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SyncError {
    /// The stream, or what came over it.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// The peer does what no peer does, or speaks another version.
    #[error(transparent)]
    Misbehaviour(#[from] Misbehaviour),
    /// Our own disk, or the node is stopping.
    #[error(transparent)]
    Store(#[from] Problem),
}

impl SyncError {
    /// Whether it speaks against the peer.
    pub(crate) fn is_hostile(&self) -> bool {
        match self {
            Self::Frame(error) => error.is_hostile(),
            Self::Misbehaviour(misbehaviour) => misbehaviour.is_hostile(),
            Self::Store(_) => false,
        }
    }
}

/// What a session begins with.
pub(super) enum Start {
    /// This node has opened the stream.
    Initiate,
    /// The peer has, and this was its first message.
    Respond(SyncMessage),
}

/// Runs a session to its end. Writing goes on beside reading: both sides send batches at the same time, and if each
/// wrote all of its own before it read on, none would.
///
/// Dropping the future is safe at any instant.
pub(super) async fn run<S: Shared>(
    stream: impl AsyncRead + AsyncWrite + Send,
    set: &S,
    bulk: &Bulk,
    start: Start,
) -> Result<Report, SyncError> {
    let (reader, writer) = tokio::io::split(stream);
    let (outgoing, queue) = mpsc::channel(WRITES_WAITING_MAX);
    let talk = Talk { set, bulk, outgoing };
    let (report, ()) = tokio::try_join!(talk.run(reader, start), write_all(writer, queue))?;
    Ok(report)
}

/// Writes what is queued, then ends the stream.
async fn write_all(
    mut writer: impl AsyncWrite + Unpin,
    mut queue: mpsc::Receiver<SyncMessage>,
) -> Result<(), SyncError> {
    while let Some(message) = queue.recv().await {
        frames::write(&mut writer, &message, SYNC_FRAME_LEN_MAX).await?;
    }
    // The peer has ended as well, and may be gone already.
    drop(writer.shutdown().await);
    Ok(())
}

/// The part that reads and decides.
struct Talk<'a, S> {
    set: &'a S,
    bulk: &'a Bulk,
    outgoing: mpsc::Sender<SyncMessage>,
}

impl<S: Shared> Talk<'_, S> {
    async fn run(self, mut reader: impl AsyncRead + Unpin, start: Start) -> Result<Report, SyncError> {
        let (mut session, steps) = self.begin(start)?;
        let mut filling = self.bulk.begin();
        let mut steps = VecDeque::from(steps);
        loop {
            while let Some(step) = steps.pop_front() {
                match step {
                    Step::Send(message) => self.send(message).await?,
                    Step::Read { items, len_max } => {
                        let found = self.set.read_items(&items, len_max)?;
                        steps.extend(self.set.with_index(|index| session.read(index, found)));
                    }
                    Step::Store(items) => {
                        let stored = self.set.receive(items, Origin::Sync).await?;
                        steps.extend(self.set.with_index(|index| session.stored(index, stored))?);
                        filling.watch(session.report().received, Instant::now());
                    }
                    Step::Done(report) => return Ok(report),
                }
            }
            let message = frames::expect(&mut reader, SYNC_FRAME_LEN_MAX).await?;
            steps.extend(self.set.with_index(|index| session.receive(index, message))?);
        }
    }

    fn begin(&self, start: Start) -> Result<(Session, Vec<Step>), Misbehaviour> {
        self.set.with_index(|index| match start {
            Start::Initiate => {
                let (session, open) = Session::initiate(S::KIND, index);
                Ok((session, vec![Step::Send(open)]))
            }
            Start::Respond(open) => {
                let mut session = Session::respond(S::KIND, index);
                let steps = session.receive(index, open)?;
                Ok((session, steps))
            }
        })
    }

    async fn send(&self, message: SyncMessage) -> Result<(), SyncError> {
        // The writer ends before this one only with an error, which ends both.
        self.outgoing.send(message).await.map_err(|_| FrameError::Ended.into())
    }
}
