//! Changes of jobs, as they come.

use std::sync::Arc;
use std::time::Duration;

use quinn::{RecvStream, SendStream};
use shoal_protocol::limits::CLIENT_FRAME_LEN_MAX;
use shoal_protocol::object::job::{Subscription, Told};
use shoal_protocol::problem::Kind;
use shoal_protocol::wire::client::Opening;
use shoal_transport::{FrameError, read_frame};
use tokio::time::Instant;

use crate::client::AWAY_MAX;
use crate::link::Link;
use crate::{Client, Error};

/// How long after the node was not reached it is asked again, for what is followed.
pub(crate) const AGAIN_AFTER: Duration = Duration::from_millis(250);
/// What was open for so long was in order, though nothing may have come.
const LASTING: Duration = Duration::from_secs(10);
/// How long a node may say nothing, not even that it is there.
const SILENCE_MAX: Duration = Duration::from_secs(45);

/// Changes of jobs. When the connection is lost, or the node starts again, it subscribes again and goes on where it was; what
/// the node does not remember by then it says was missed.
pub struct Events {
    client: Client,
    wanted: Subscription,
    stream: Option<Stream>,
    ended: bool,
}

struct Stream {
    receive: RecvStream,
    _send: SendStream,
    _link: Arc<Link>,
    opened: Instant,
}

impl Client {
    /// Subscribes to changes of a job, or of those of this node that the caller may see.
    ///
    /// # Errors
    /// The node's problem, such as `not found` for a job, or `full` where too many subscribe.
    pub async fn subscribe(&self, wanted: Subscription) -> Result<Events, Error> {
        let mut events = Events { client: self.clone(), wanted, stream: None, ended: false };
        events.stream = Some(events.open().await?);
        Ok(events)
    }
}

impl Events {
    /// The next change, or what was missed; none: the job has ended. May be dropped halfway without loss.
    pub async fn next(&mut self) -> Result<Option<Told>, Error> {
        let mut away: Option<Instant> = None;
        while !self.ended {
            // Taken out while it is read: dropped in the middle of a frame it is opened anew.
            let Some(mut stream) = self.stream.take() else {
                let since = *away.get_or_insert_with(Instant::now);
                match self.open().await {
                    Ok(stream) => self.stream = Some(stream),
                    Err(error) if !may_come_back(&error) || since.elapsed() >= AWAY_MAX => return Err(error),
                    Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
                }
                continue;
            };
            let read = read_frame::<Told>(&mut stream.receive, CLIENT_FRAME_LEN_MAX);
            match tokio::time::timeout(SILENCE_MAX, read).await {
                Ok(Ok(Some(told))) => {
                    self.stream = Some(stream);
                    away = None;
                    self.wanted.after = told.id().or(self.wanted.after);
                    if self.wanted.job.is_some() {
                        self.ended = matches!(&told, Told::Changed { event, .. } if event.state.is_settled());
                    }
                    if !matches!(told, Told::Alive { .. }) {
                        return Ok(Some(told));
                    }
                }
                Ok(Err(FrameError::Codec(error))) => return Err(Error::unexpected("an event", &error)),
                // Cut, silent, or ended by the node, which wants to see the token again.
                Ok(Ok(None) | Err(_)) | Err(_) => away = Some(wait_away(away, stream.opened).await?),
            }
        }
        Ok(None)
    }

    async fn open(&self) -> Result<Stream, Error> {
        let opening = Opening::Subscribe(self.wanted.clone());
        let ((), link, send, receive) = self.client.open_answered::<()>(&opening).await?;
        Ok(Stream { receive, _send: send, _link: link, opened: Instant::now() })
    }
}

/// Waits before what was cut off is opened again: not the first time, nor where it has lasted, as the connection may be lost and the node
/// be there. Since when it does not last.
pub(crate) async fn wait_away(away: Option<Instant>, opened: Instant) -> Result<Instant, Error> {
    let Some(since) = away.filter(|_| opened.elapsed() < LASTING) else { return Ok(Instant::now()) };
    if since.elapsed() >= AWAY_MAX {
        let why = "the node breaks off again and again, and has sent nothing for ten minutes";
        return Err(Error::Interrupted(why.into()));
    }
    tokio::time::sleep(AGAIN_AFTER).await;
    Ok(since)
}

/// Whether what is followed may be in reach again later.
fn may_come_back(error: &Error) -> bool {
    error.is_cut() || matches!(error.kind(), Some(Kind::Unavailable | Kind::Full))
}
