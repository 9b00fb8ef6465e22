//! One connection: its handshake, its control stream and who waits for which answer.
//!
//! A writer task sends the frames that are ready with one write, a reader task hands answers to their callers by id.
//! Both end when the connection ends or when the last handle of the link is gone; the reader then lets go of all that
//! still wait. A link that has ended stays so: [`crate::client`] opens the next one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{ConnectionError, RecvStream, SendStream};
use shoal_protocol::limits::CLIENT_FRAME_LEN_MAX;
use shoal_protocol::wire::client::{ALPN, Call, Opening, Reply, Request, Response, Welcome};
use shoal_protocol::{Octets, Traceparent, codec};
use shoal_transport::endpoint::SERVER_NAME;
use shoal_transport::{FrameError, NodeAddr, client_config, client_endpoint, read_frame, write_frame};
use tokio::sync::{mpsc, oneshot};

use crate::Error;

/// Frames that wait for the writer. Why 256: more than it takes with one write; callers beyond it wait.
const FRAMES_QUEUED_MAX: usize = 256;
/// Bytes that the writer joins into one write. Why 64 KiB: a few dozen packets; longer ones gain nothing.
const WRITE_LEN_MAX: usize = 64 * 1024;
/// How long a closing link waits for its last packet to leave.
const CLOSE_WAIT: Duration = Duration::from_millis(20);

/// A connection that the node has accepted.
pub(crate) struct Link {
    /// What the node said about itself and the token.
    pub(crate) welcome: Welcome,
    endpoint: quinn::Endpoint,
    connection: quinn::Connection,
    frames: mpsc::Sender<Vec<u8>>,
    waiting: Arc<Waiting>,
    next_id: AtomicU64,
}

/// Why a request got no answer.
pub(crate) enum Unanswered {
    /// It was never sent.
    NotSent,
    /// It may have been carried out.
    Lost,
    /// It is larger than a frame.
    TooLarge(Error),
}

impl Link {
    /// Connects and introduces itself. Tries the addresses of the host in turn, each for at most `timeout`.
    pub(crate) async fn open(address: &NodeAddr, token: Option<&str>, timeout: Duration) -> Result<Arc<Self>, Error> {
        let unreachable = |reason: String| Error::Unreachable { address: address.to_string(), reason };
        let places = address.resolve().await.map_err(|e| unreachable(format!("{}: {e}", address.host)))?;
        let config = client_config(address.node, None, ALPN)?;
        let mut reason = format!("{} has no address", address.host);
        for place in places {
            let endpoint = client_endpoint(place)?;
            let connecting = match endpoint.connect_with(config.clone(), place, SERVER_NAME) {
                Ok(connecting) => connecting,
                Err(error) => {
                    reason = error.to_string();
                    continue;
                }
            };
            match tokio::time::timeout(timeout, connecting).await {
                Ok(Ok(connection)) => {
                    let greeting = tokio::time::timeout(timeout, greet(&connection, token)).await;
                    let silent = || unreachable(format!("it accepted the connection and said nothing for {timeout:?}"));
                    let greeted = greeting.map_err(|_| silent())?;
                    let (welcome, send, receive) = greeted.map_err(|failed| failed.or_unreachable(unreachable))?;
                    return Ok(Self::start(endpoint, connection, welcome, send, receive));
                }
                Ok(Err(error)) => reason = why_no_connection(&error),
                Err(_) => reason = format!("no answer within {timeout:?}"),
            }
        }
        Err(unreachable(reason))
    }

    fn start(
        endpoint: quinn::Endpoint,
        connection: quinn::Connection,
        welcome: Welcome,
        send: SendStream,
        receive: RecvStream,
    ) -> Arc<Self> {
        let (frames, queue) = mpsc::channel(FRAMES_QUEUED_MAX);
        let waiting = Arc::new(Waiting(Mutex::new(Some(HashMap::new()))));
        tokio::spawn(write_frames(queue, send, connection.clone()));
        tokio::spawn(read_answers(receive, Arc::clone(&waiting), connection.clone()));
        Arc::new(Self { welcome, endpoint, connection, frames, waiting, next_id: AtomicU64::new(1) })
    }

    /// Whether it can still be used, as far as is known.
    pub(crate) fn is_open(&self) -> bool {
        // The connection knows first; the reader, which ends the list, only when it runs next.
        self.connection.close_reason().is_none() && self.waiting.is_open()
    }

    /// Sends one request and waits for its answer. May be dropped halfway: the answer is then ignored.
    pub(crate) async fn request(
        &self,
        call: &Call,
        body: &Octets,
        traceparent: Option<Traceparent>,
    ) -> Result<Response, Unanswered> {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let traceparent = traceparent.map(String::from);
        let request = Request { id, call: call.clone(), body: body.clone(), traceparent };
        let frame = codec::frame(&request, CLIENT_FRAME_LEN_MAX).map_err(|error| {
            let len = if let codec::Error::TooLong { len, .. } = error { len } else { body.len() };
            Unanswered::TooLarge(Error::TooLarge { len, max: CLIENT_FRAME_LEN_MAX })
        })?;
        let answer = self.waiting.add(id).ok_or(Unanswered::NotSent)?;
        let _entry = Entry { waiting: &self.waiting, id };
        self.frames.send(frame).await.map_err(|_| Unanswered::NotSent)?;
        answer.await.map_err(|_| Unanswered::Lost)
    }

    /// Opens a stream for a transfer and says what it is for.
    pub(crate) async fn open_stream(&self, opening: &Opening) -> Result<(SendStream, RecvStream), FrameError> {
        let (mut send, receive) = self.connection.open_bi().await.map_err(|e| FrameError::Write(e.into()))?;
        write_frame(&mut send, opening, CLIENT_FRAME_LEN_MAX).await?;
        Ok((send, receive))
    }

    /// Says goodbye, so that the node need not wait for the connection to time out.
    pub(crate) async fn close(&self) {
        self.connection.close(0u32.into(), b"");
        // Only its end matters here, and a node that is gone does not hold up the caller.
        let _ = tokio::time::timeout(CLOSE_WAIT, self.endpoint.wait_idle()).await;
    }
}

/// Why the node did not take the client.
enum NotWelcome {
    Refused(Error),
    Cut(String),
}

impl NotWelcome {
    fn or_unreachable(self, unreachable: impl Fn(String) -> Error) -> Error {
        match self {
            Self::Refused(error) => error,
            Self::Cut(reason) => unreachable(reason),
        }
    }
}

async fn greet(
    connection: &quinn::Connection,
    token: Option<&str>,
) -> Result<(Welcome, SendStream, RecvStream), NotWelcome> {
    let (mut send, mut receive) = connection.open_bi().await.map_err(|e| NotWelcome::Cut(why_no_connection(&e)))?;
    let opening = Opening::Control { token: token.map(str::to_owned) };
    // Whatever else went wrong: the node may have said why.
    if let Err(FrameError::Codec(codec::Error::TooLong { len, max })) =
        write_frame(&mut send, &opening, CLIENT_FRAME_LEN_MAX).await
    {
        return Err(NotWelcome::Refused(Error::TooLarge { len, max }));
    }
    match read_frame::<Reply<Welcome>>(&mut receive, CLIENT_FRAME_LEN_MAX).await {
        Ok(Some(Ok(welcome))) => Ok((welcome, send, receive)),
        Ok(Some(Err(problem))) => Err(NotWelcome::Refused(problem.into())),
        Ok(None) => Err(NotWelcome::Cut("it ended the connection without a word".into())),
        Err(FrameError::Codec(error)) => Err(NotWelcome::Refused(Error::unexpected("its welcome", &error))),
        Err(error) => Err(NotWelcome::Cut(error.to_string())),
    }
}

fn why_no_connection(error: &ConnectionError) -> String {
    // The alerts `access_denied` and `no_application_protocol` of RFC 8446 and RFC 7301.
    const ANOTHER_KEY: u8 = 49;
    const NO_PROTOCOL: u8 = 120;
    let is = |e: &ConnectionError, alert| {
        let code = quinn::TransportErrorCode::crypto(alert);
        match e {
            ConnectionError::TransportError(e) => e.code == code,
            ConnectionError::ConnectionClosed(e) => e.error_code == code,
            _ => false,
        }
    };
    match error {
        e if is(e, ANOTHER_KEY) => "another node than the one that the address names answers there".into(),
        e if is(e, NO_PROTOCOL) => "what answers there does not speak this version of the client protocol".into(),
        ConnectionError::TimedOut => "no answer".into(),
        other => other.to_string(),
    }
}

/// The callers that wait for an answer; none once the connection has ended.
struct Waiting(Mutex<Option<HashMap<u64, oneshot::Sender<Response>>>>);

impl Waiting {
    fn with<T>(&self, f: impl FnOnce(&mut Option<HashMap<u64, oneshot::Sender<Response>>>) -> T) -> T {
        // The map is whole between any two statements, so a panic elsewhere has not broken it.
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn add(&self, id: u64) -> Option<oneshot::Receiver<Response>> {
        let (sender, receiver) = oneshot::channel();
        self.with(|waiting| waiting.as_mut()?.insert(id, sender).is_none().then_some(receiver))
    }

    fn take(&self, id: u64) -> Option<oneshot::Sender<Response>> {
        self.with(|waiting| waiting.as_mut()?.remove(&id))
    }

    fn is_open(&self) -> bool {
        self.with(|waiting| waiting.is_some())
    }

    fn close(&self) {
        drop(self.with(Option::take));
    }
}

/// Takes a caller off the list when it goes away.
struct Entry<'a> {
    waiting: &'a Waiting,
    id: u64,
}

impl Drop for Entry<'_> {
    fn drop(&mut self) {
        self.waiting.take(self.id);
    }
}

async fn write_frames(mut queue: mpsc::Receiver<Vec<u8>>, mut send: SendStream, connection: quinn::Connection) {
    while let Some(mut batch) = queue.recv().await {
        while batch.len() < WRITE_LEN_MAX {
            match queue.try_recv() {
                Ok(frame) => batch.extend_from_slice(&frame),
                Err(_) => break,
            }
        }
        if let Err(error) = send.write_chunk(Bytes::from(batch)).await {
            tracing::debug!(%error, "the control stream takes no more");
            break;
        }
    }
    // Either nobody holds the link any more or it is of no more use; the reader ends by this, too.
    connection.close(0u32.into(), b"");
}

async fn read_answers(mut receive: RecvStream, waiting: Arc<Waiting>, connection: quinn::Connection) {
    loop {
        match read_frame::<Response>(&mut receive, CLIENT_FRAME_LEN_MAX).await {
            Ok(Some(response)) => {
                // Who no longer waits has gone away; that is no fault.
                if let Some(caller) = waiting.take(response.id) {
                    let _ = caller.send(response);
                }
            }
            Ok(None) => break,
            Err(error) => {
                tracing::debug!(%error, "the control stream ended");
                break;
            }
        }
    }
    waiting.close();
    connection.close(0u32.into(), b"");
}
