//! A job's log, as it grows.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use shoal_protocol::ObjectId;
use shoal_protocol::limits::CLIENT_FRAME_LEN_MAX;
use shoal_protocol::object::job::{LogPart, LogPlace};
use shoal_protocol::problem::Kind;
use shoal_protocol::wire::client::Opening;
use shoal_transport::{FrameError, read_frame};
use tokio::time::Instant;

use crate::client::AWAY_MAX;
use crate::events::{AGAIN_AFTER, wait_away};
use crate::link::Link;
use crate::{Client, Error};

/// The bytes of a job's log. When the connection is lost, or the job's home is away for a while, it is opened again and goes
/// on where it was; a job that is run again meanwhile is followed from the start of its new log.
pub struct Log {
    client: Client,
    job: ObjectId,
    follow: bool,
    place: LogPlace,
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
    /// A job's log from its start; if `follow`, up to the job's end.
    pub async fn log(&self, job: ObjectId, follow: bool) -> Result<Log, Error> {
        self.log_from(job, LogPlace::default(), follow).await
    }

    /// The same behind a place that [`Log::place`] has said, of this client or of another one.
    pub async fn log_from(&self, job: ObjectId, place: LogPlace, follow: bool) -> Result<Log, Error> {
        let mut log = Log { client: self.clone(), job, follow, place, stream: None, ended: false };
        log.stream = Some(log.open().await?);
        Ok(log)
    }
}

impl Log {
    /// Where the log stands behind what [`Log::chunk`] has returned. Its epoch is that of the run which wrote it.
    pub fn place(&self) -> LogPlace {
        self.place
    }

    /// The next bytes; none at the end. May be dropped halfway without loss.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let mut away: Option<Instant> = None;
        while !self.ended {
            // Taken out while it is read: dropped in the middle of a frame it is opened anew.
            let Some(mut stream) = self.stream.take() else {
                let since = *away.get_or_insert_with(Instant::now);
                match self.open().await {
                    Ok(stream) => self.stream = Some(stream),
                    Err(error) if !self.may_come_back(&error) || since.elapsed() >= AWAY_MAX => return Err(error),
                    Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
                }
                continue;
            };
            match read_frame::<LogPart>(&mut stream.receive, CLIENT_FRAME_LEN_MAX).await {
                Ok(Some(LogPart::Written { at, bytes })) => {
                    self.place = LogPlace { offset: at.offset.saturating_add(bytes.len() as u64), ..at };
                    self.stream = Some(stream);
                    if !bytes.is_empty() {
                        return Ok(Some(bytes.0));
                    }
                }
                Ok(Some(LogPart::Ended)) => self.ended = true,
                Err(FrameError::Codec(error)) => return Err(Error::unexpected("a log", &error)),
                Ok(None) | Err(_) => away = Some(wait_away(away, stream.opened).await?),
            }
        }
        Ok(None)
    }

    async fn open(&self) -> Result<Stream, Error> {
        let opening = Opening::GetLog { job: self.job, follow: self.follow, from: Some(self.place) };
        let ((), link, send, receive) = self.client.open_answered::<()>(&opening).await?;
        Ok(Stream { receive, _send: send, _link: link, opened: Instant::now() })
    }

    /// Whether what is followed may be in reach again later.
    fn may_come_back(&self, error: &Error) -> bool {
        self.follow && (error.is_cut() || error.kind() == Some(Kind::Unavailable))
    }
}
