//! Logs of jobs: what their runs have written, and what they write, here and at other homes.
//!
//! Every piece says where it stands, so that whoever follows can be cut off, by the end of a node or of a connection, and
//! go on where they were. A job that is run again has a new log: its pieces have another epoch.

use std::io;
use std::pin::Pin;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use shoal_protocol::limits::BLOB_CHUNK_LEN_MAX;
use shoal_protocol::object::job::{LogPart, LogPlace};
use shoal_protocol::{Kind, ObjectId, Problem, codec};
use tokio::time::Instant;

use super::custody::{Asking, Record};
use super::{ByteStream, Caller, Service};

/// How long the home of a job that is followed may be away. Why ten minutes: a node is restarted, or mended, in less.
const AWAY_MAX: Duration = Duration::from_secs(600);
/// How long after a home was not reached it is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(500);
/// What was open for so long was in order, though nothing may have come.
const LASTING: Duration = Duration::from_secs(10);

/// Bytes of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogPiece {
    /// Where the first of them stands.
    pub(crate) at: LogPlace,
    /// The bytes.
    pub(crate) bytes: Bytes,
}

impl LogPiece {
    /// Where the next byte stands.
    pub(crate) fn end(&self) -> LogPlace {
        LogPlace { offset: self.at.offset.saturating_add(self.bytes.len() as u64), ..self.at }
    }
}

/// A log as it comes. It ends where there is nothing more; what is cut off ends with an error.
pub(crate) type LogStream = Pin<Box<dyn Stream<Item = io::Result<LogPiece>> + Send>>;

/// The bytes alone.
pub(crate) fn raw(log: LogStream) -> ByteStream {
    Box::pin(log.map(|piece| piece.map(|piece| piece.bytes)))
}

/// The pieces as frames of [`LogPart`], with its end.
pub(crate) fn framed(log: LogStream) -> ByteStream {
    let parts = log.flat_map(|piece| {
        stream::iter(match piece {
            Ok(piece) => parts(piece).map(|part| Ok(frame(&part))).collect(),
            Err(error) => vec![Err(error)],
        })
    });
    // What is cut off does not look as if it had ended.
    let (parts, ended) = (parts.map(Some), stream::once(async { None }));
    let mut broken = false;
    Box::pin(parts.chain(ended).filter_map(move |part| {
        broken |= matches!(part, Some(Err(_)));
        let part = part.or_else(|| (!broken).then(|| Ok(frame(&LogPart::Ended))));
        std::future::ready(part)
    }))
}

fn parts(piece: LogPiece) -> impl Iterator<Item = LogPart> {
    let LogPiece { mut at, mut bytes } = piece;
    std::iter::from_fn(move || {
        let next = bytes.split_to(bytes.len().min(BLOB_CHUNK_LEN_MAX));
        let part = LogPart::Written { at, bytes: next.clone().into() };
        at.offset = at.offset.saturating_add(next.len() as u64);
        (!next.is_empty()).then_some(part)
    })
}

fn frame(part: &LogPart) -> Bytes {
    // With at most a chunk in it a part always fits.
    codec::frame(part, 2 * BLOB_CHUNK_LEN_MAX).unwrap_or_default().into()
}

impl Service {
    /// Opens the log of a job behind a place, wherever its home is. Followed, it goes on up to the job's end, also when
    /// its home is away for a while; of a job that has ended it is read at those who keep the job, too.
    pub(crate) async fn open_log(
        &self,
        caller: &Caller,
        job: ObjectId,
        from: LogPlace,
        follow: bool,
    ) -> Result<LogStream, Problem> {
        if self.answers_for(caller, job).await? && !(follow && self.is_followed_elsewhere(job)?) {
            return self.open_log_here(caller, job, from, follow).await;
        }
        let (service, caller, opened) = (self.clone(), caller.clone(), Instant::now());
        let mut relay = Relay { service, caller, job, place: from, follow, source: None, opened };
        relay.source = Some(relay.open().await?);
        Ok(Box::pin(stream::try_unfold(relay, Relay::next)))
    }

    /// The log of a job of this home: what the current run has written, then, if it is followed, what it writes until the
    /// job has settled.
    pub(crate) async fn open_log_here(
        &self,
        caller: &Caller,
        id: ObjectId,
        from: LogPlace,
        follow: bool,
    ) -> Result<LogStream, Problem> {
        self.job(caller, id, false).await?;
        if follow && self.is_followed_elsewhere(id)? {
            let detail = format!(
                "the home of job {id} is away, and the job had not ended when this node heard of it last: its log is followed again when its home is back"
            );
            return Err(Problem::new(Kind::Unavailable, detail).retry_after(1000));
        }
        if follow {
            let mut follower = Follower { service: self.clone(), job: id, place: from, rest: None };
            if self.0.logs.of(id).is_none() {
                // Whether the log of a job that has settled can be read shows now.
                follower.rest = self.stored_log(id, from).await?;
            }
            return Ok(Box::pin(stream::try_unfold(follower, Follower::next)));
        }
        match self.0.logs.of(id) {
            Some(log) => Ok(Box::pin(stream::iter(Some(Ok(live(&log, from).0))))),
            None => Ok(self.stored_log(id, from).await?.unwrap_or_else(|| Box::pin(stream::empty()))),
        }
    }

    /// Whether a job is only kept here, and has not ended as far as that is known here: what it writes comes to its home.
    fn is_followed_elsewhere(&self, id: ObjectId) -> Result<bool, Problem> {
        let record = self.record(id)?;
        let elsewhere = record.is_some_and(|job| job.home != self.node_id() && !job.standing.state.is_settled());
        Ok(elsewhere && !self.decides(id)?)
    }

    /// The log of a settled job behind a place; none: the job has not settled.
    async fn stored_log(&self, id: ObjectId, from: LogPlace) -> Result<Option<LogStream>, Problem> {
        let nothing = || Ok(Some(Box::pin(stream::empty()) as LogStream));
        // None: forgotten meanwhile.
        let Some(Record { standing, .. }) = self.record(id)? else { return nothing() };
        if !standing.state.is_settled() {
            return Ok(None);
        }
        let Some(outcome) = standing.outcome else { return nothing() };
        let offset = if from.epoch == standing.epoch { from.offset } else { 0 };
        let mut at = LogPlace { epoch: standing.epoch, offset: offset.min(outcome.log.size()) };
        let bytes = self.open_payload(&outcome.log, at.offset).await?.bytes;
        Ok(Some(Box::pin(bytes.map(move |bytes| {
            let piece = LogPiece { at, bytes: bytes? };
            at = piece.end();
            Ok(piece)
        }))))
    }
}

/// What a live log has behind a place, and whether nothing will follow there.
fn live(log: &crate::logs::Log, from: LogPlace) -> (LogPiece, bool) {
    let offset = if from.epoch == log.epoch() { from.offset } else { 0 };
    let (bytes, ended) = log.read(usize::try_from(offset).unwrap_or(usize::MAX));
    (LogPiece { at: LogPlace { epoch: log.epoch(), offset }, bytes }, ended)
}

/// Somebody who follows a log of this home.
struct Follower {
    service: Service,
    job: ObjectId,
    /// What they have.
    place: LogPlace,
    /// What is left to read of a job that has settled.
    rest: Option<LogStream>,
}

impl Follower {
    /// The next piece, and the follower after it; none: the job has settled and all was said.
    async fn next(mut self) -> io::Result<Option<(LogPiece, Self)>> {
        let service = self.service.clone();
        loop {
            if let Some(rest) = &mut self.rest {
                let next = rest.next().await.transpose()?;
                return Ok(next.map(|piece| (piece, self)));
            }
            let watch = service.0.runtime.watch(self.job);
            let changed = watch.changed();
            if let Some(log) = service.0.logs.of(self.job) {
                let grown = log.grown();
                let (piece, ended) = live(&log, self.place);
                self.place = piece.end();
                if !piece.bytes.is_empty() {
                    return Ok(Some((piece, self)));
                }
                if !ended {
                    tokio::select! {
                        () = grown => {}
                        () = changed => {}
                    }
                }
                continue;
            }
            self.rest = service.stored_log(self.job, self.place).await.map_err(io::Error::other)?;
            if self.rest.is_none() {
                changed.await;
            }
        }
    }
}

/// Somebody who reads a log of another home.
struct Relay {
    service: Service,
    caller: Caller,
    job: ObjectId,
    /// What they have.
    place: LogPlace,
    follow: bool,
    source: Option<LogStream>,
    /// When the source was opened.
    opened: Instant,
}

impl Relay {
    /// Not by a shared reference: a stream cannot be looked at from two threads.
    async fn open(&mut self) -> Result<LogStream, Problem> {
        let mut asking = Asking::new(self.job);
        loop {
            let home = asking.next(&self.service).await?;
            match self.service.0.peers.open_log(home, &self.caller, self.job, self.place, self.follow).await {
                Ok(log) => return Ok(log),
                Err(problem) => asking.failed(home, problem)?,
            }
        }
    }

    /// The next piece, and the relay after it. A home that went away is waited for.
    async fn next(mut self) -> io::Result<Option<(LogPiece, Self)>> {
        let mut away: Option<Instant> = None;
        loop {
            let Some(source) = &mut self.source else {
                let since = *away.get_or_insert_with(Instant::now);
                match self.open().await {
                    Ok(source) => (self.source, self.opened) = (Some(source), Instant::now()),
                    Err(problem) if problem.kind != Kind::Unavailable || since.elapsed() >= AWAY_MAX => {
                        return Err(io::Error::other(problem));
                    }
                    Err(_) => tokio::time::sleep(AGAIN_AFTER).await,
                }
                continue;
            };
            match source.next().await {
                Some(Ok(piece)) => {
                    self.place = piece.end();
                    return Ok(Some((piece, self)));
                }
                None => return Ok(None),
                Some(Err(error)) if !self.follow => return Err(error),
                Some(Err(error)) => {
                    tracing::debug!(%error, job = %self.job, "a log that is followed was cut off");
                    self.source = None;
                    // At once, if it was in order until now: the home may be there. One that can be opened and not be read is no home that
                    // comes back.
                    match away.filter(|_| self.opened.elapsed() < LASTING) {
                        None => away = Some(Instant::now()),
                        Some(since) if since.elapsed() >= AWAY_MAX => return Err(error),
                        Some(_) => tokio::time::sleep(AGAIN_AFTER).await,
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn piece(epoch: u64, offset: u64, bytes: &'static [u8]) -> io::Result<LogPiece> {
        Ok(LogPiece { at: LogPlace { epoch, offset }, bytes: Bytes::from_static(bytes) })
    }

    async fn frames(pieces: Vec<io::Result<LogPiece>>) -> (Vec<LogPart>, bool) {
        let (mut parts, mut cut) = (Vec::new(), false);
        let mut frames = framed(Box::pin(stream::iter(pieces)));
        while let Some(frame) = frames.next().await {
            match frame {
                Ok(frame) => parts.push(codec::decode(&frame[codec::FRAME_HEADER_LEN..]).unwrap()),
                Err(_) => cut = true,
            }
        }
        (parts, cut)
    }

    #[tokio::test]
    async fn pieces_go_in_frames_that_say_where_they_stand_and_that_it_is_the_end() {
        static LONG: [u8; 100_000] = [b'x'; 100_000];
        let (parts, cut) = frames(vec![piece(1, 5, &LONG), piece(2, 0, b"again")]).await;
        assert!(!cut && parts.last() == Some(&LogPart::Ended));
        let places: Vec<String> = parts
            .iter()
            .filter_map(|part| match part {
                LogPart::Written { at, .. } => Some(at.to_string()),
                LogPart::Ended => None,
            })
            .collect();
        assert_eq!(places, ["1-5".to_owned(), format!("1-{}", 5 + BLOB_CHUNK_LEN_MAX), "2-0".into()]);
    }

    #[tokio::test]
    async fn what_is_cut_off_does_not_look_as_if_it_had_ended() {
        let (parts, cut) = frames(vec![piece(1, 0, b"one"), Err(io::Error::other("gone"))]).await;
        assert!(cut && parts.len() == 1, "{parts:?}");
    }
}
