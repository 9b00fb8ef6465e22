//! A job's log, as it grows.

use std::sync::Arc;

use bytes::Bytes;
use quinn::{RecvStream, SendStream};
use shoal_protocol::ObjectId;
use shoal_protocol::limits::BLOB_CHUNK_LEN_MAX;
use shoal_protocol::wire::client::Opening;

use crate::client::TRIES_MAX;
use crate::link::Link;
use crate::{Client, Error};

/// The bytes of a job's log. When the connection is lost it is opened again and goes on where it was.
pub struct Log {
    client: Client,
    job: ObjectId,
    follow: bool,
    seen: u64,
    stream: Option<Stream>,
}

struct Stream {
    receive: RecvStream,
    /// Bytes that were already seen before the stream was opened again.
    skip: u64,
    _send: SendStream,
    _link: Arc<Link>,
}

impl Client {
    /// A job's log from its start; if `follow`, up to the job's end.
    pub async fn log(&self, job: ObjectId, follow: bool) -> Result<Log, Error> {
        let mut log = Log { client: self.clone(), job, follow, seen: 0, stream: None };
        log.stream = Some(log.open().await?);
        Ok(log)
    }
}

impl Log {
    /// The next bytes; none at the end. May be dropped halfway without loss.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, Error> {
        let mut tries = 0;
        loop {
            if self.stream.is_none() {
                self.stream = Some(self.open().await?);
            }
            let Some(stream) = &mut self.stream else { continue };
            match stream.receive.read_chunk(BLOB_CHUNK_LEN_MAX, true).await {
                Ok(Some(chunk)) => {
                    let mut bytes = chunk.bytes;
                    let skip = usize::try_from(stream.skip).unwrap_or(usize::MAX).min(bytes.len());
                    stream.skip -= skip as u64;
                    let new = bytes.split_off(skip);
                    if !new.is_empty() {
                        self.seen += new.len() as u64;
                        return Ok(Some(new));
                    }
                }
                Ok(None) => return Ok(None),
                Err(error) => {
                    tries += 1;
                    if tries >= TRIES_MAX {
                        return Err(Error::Interrupted(error.to_string()));
                    }
                    self.stream = None;
                }
            }
        }
    }

    async fn open(&self) -> Result<Stream, Error> {
        let opening = Opening::GetLog { job: self.job, follow: self.follow };
        let ((), link, send, receive) = self.client.open_answered::<()>(&opening).await?;
        Ok(Stream { receive, skip: self.seen, _send: send, _link: link })
    }
}
