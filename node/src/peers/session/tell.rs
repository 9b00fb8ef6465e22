//! What this node says: the kernel's messages in their order, hints when they have changed, and more of the logs.

use std::sync::Arc;
use std::time::Duration;

use shoal_mesh::Stream;
use shoal_protocol::codec;
use shoal_protocol::limits::PEER_FRAME_LEN_MAX;
use shoal_protocol::wire::peer::{Hello, PeerMessage};
use tokio::io::WriteHalf;
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use super::custody::Together;
use super::{End, Session};
use crate::frames;
use crate::runtime::ToPeer;

/// Bytes that are written at once.
const BATCH_LEN: usize = 256 * 1024;
/// Hints are sent at most this often. Why 50 ms: a slot that comes free is soon known, and a busy node does not speak of
/// each of a thousand jobs a second.
const HINT_PAUSE: Duration = Duration::from_millis(50);
/// What the replica has taken is told so long after. Why 2 s: gossip brings it to everybody, and a hint to each of a
/// view's neighbours that it has come would take more of all processors than the change itself.
const NEWS_PAUSE: Duration = Duration::from_secs(2);
/// A hint is repeated so often though nothing has changed. Why 30 s: nothing is lost on a stream, and to a node without
/// work these would be most of what it sends.
const HINT_EVERY: Duration = Duration::from_secs(30);
/// More of the logs is sent so often.
const LOGS_EVERY: Duration = Duration::from_millis(200);

impl Session {
    pub(super) async fn tell(self: Arc<Self>, mut writer: WriteHalf<Stream>, mut says: mpsc::Receiver<ToPeer>) -> End {
        let mut own = self.parts.runtime.hint();
        let mut news = self.parts.news.subscribe();
        let mut hint_every = tokio::time::interval(HINT_EVERY);
        let mut logs_every = tokio::time::interval(LOGS_EVERY);
        for interval in [&mut hint_every, &mut logs_every] {
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        }
        let mut greeted = false;
        // When the next hint is due, where something has changed since the last: of the workers, of the replica.
        let mut hint_at: Option<Instant> = None;
        let mut news_at: Option<Instant> = None;
        let mut hinted = Instant::now();
        let mut batch = Vec::new();
        let mut together = Together::default();
        loop {
            tokio::select! {
                biased;
                message = says.recv() => {
                    let Some(message) = message else { return End::Replaced };
                    let mut next = Some(message);
                    while let Some(message) = next.take() {
                        match self.append(&mut batch, &mut together, message) {
                            Ok(Said::Hello) => (greeted, hint_at) = (true, Some(Instant::now())),
                            Ok(Said::Other) => {}
                            Err(end) => return end,
                        }
                        if batch.len() < BATCH_LEN {
                            next = says.try_recv().ok();
                        }
                    }
                    together.flush(&*self).into_iter().for_each(|message| frame(&mut batch, &message));
                }
                () = until([hint_at, news_at].into_iter().flatten().min()) => {
                    (hint_at, news_at, hinted) = (None, None, Instant::now());
                    hint_every.reset();
                    self.append_hint(&mut batch);
                }
                _ = hint_every.tick(), if greeted => hint_at = Some(Instant::now()),
                Ok(()) = own.changed(), if greeted && hint_at.is_none() => hint_at = Some(hinted + HINT_PAUSE),
                Ok(()) = news.changed(), if greeted && news_at.is_none() => news_at = Some(Instant::now() + NEWS_PAUSE),
                _ = logs_every.tick(), if greeted && !self.guests().is_empty() => self.append_logs(&mut batch),
            }
            if !batch.is_empty() {
                if let Err(error) = frames::write_all(&mut writer, &batch).await {
                    return error.into();
                }
                batch.clear();
            }
        }
    }

    fn append_hint(&self, batch: &mut Vec<u8>) {
        frame(batch, &PeerMessage::Hint(self.parts.own_hint()));
    }

    fn append(&self, batch: &mut Vec<u8>, together: &mut Together, message: ToPeer) -> Result<Said, End> {
        let (messages, said) = match message {
            ToPeer::Close(problem) => return Err(End::Closed(problem)),
            ToPeer::Greet(runs) => {
                self.guests().extend(runs.iter().map(|run| (*run, 0)));
                let (name, version) = (self.parts.service.node_name(), env!("CARGO_PKG_VERSION").into());
                (together.say(self, PeerMessage::Hello(Hello { name, version, runs, keeps: true })), Said::Hello)
            }
            ToPeer::Keep(set, jobs) => (together.keep(self, set, jobs), Said::Other),
            ToPeer::KeepTaken(reign, jobs) => (together.say(self, self.keep_taken(&reign, jobs)), Said::Other),
            ToPeer::Claim(vote) => (together.say(self, PeerMessage::Claim(self.sign_vote(&vote))), Said::Other),
            ToPeer::Voted(vote) => (together.say(self, PeerMessage::Voted(self.sign_vote(&vote))), Said::Other),
            ToPeer::Say(PeerMessage::Offer(offer)) => {
                (together.say(self, PeerMessage::Offer(self.with_right(offer))), Said::Other)
            }
            ToPeer::Say(message) => (together.say(self, message), Said::Other),
        };
        for message in messages {
            self.note_said(&message);
            frame(batch, &message);
        }
        Ok(said)
    }

    /// What is said changes of which runs the logs are sent and heard.
    fn note_said(&self, message: &PeerMessage) {
        match message {
            PeerMessage::Taken { run, .. } => drop(self.guests().insert(*run, 0)),
            PeerMessage::Declined(run, _) | PeerMessage::Ended(run, _) => drop(self.guests().remove(run)),
            PeerMessage::Settled(run) => drop(self.placed().remove(&run.job)),
            _ => {}
        }
    }
}

/// Appends the frame of a message.
fn frame(batch: &mut Vec<u8>, message: &PeerMessage) {
    if let Err(error) = codec::append_frame(batch, message, PEER_FRAME_LEN_MAX) {
        tracing::error!(%error, "a message to a peer does not fit into a frame");
    }
}

/// Without a time it never ends.
async fn until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

enum Said {
    Hello,
    Other,
}
