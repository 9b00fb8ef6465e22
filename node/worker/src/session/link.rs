//! The connection to the node: where it is looked for, how it is made, what is written and read on its control stream.

use std::time::Duration;

use quinn::{Connection, Endpoint, SendStream};
use shoal_protocol::codec;
use shoal_protocol::key::SecretKey;
use shoal_protocol::limits::WORKER_FRAME_LEN_MAX;
use shoal_protocol::wire::worker::{ALPN, FromWorker, ToWorker};
use shoal_transport::endpoint::SERVER_NAME;
use shoal_transport::{FrameError, FrameReader, NodeAddr, client_config, client_endpoint};
use tokio::time::{sleep, timeout};

use crate::local::{self, LocalFiles, Stamp};

/// The pause before the second attempt; each further one doubles it.
const BACKOFF_MIN: Duration = Duration::from_millis(20);
/// The longest pause. Why 1 s: a node that comes back finds its worker within a second.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How long one attempt may take. Why 3 s: several round trips with a loss, anywhere on earth.
const ATTEMPT_MAX: Duration = Duration::from_secs(3);
/// How often the node's address file is looked at while no node is there.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// Bytes that wait to be written, beyond which logs and progress wait. Why 512 KiB: a second of a slow link.
const SHOWN_WHILE_BELOW: usize = 512 * 1024;

/// Where the node is.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// In a file that the node rewrites.
    File(LocalFiles),
    /// Known.
    Fixed(NodeAddr),
}

impl Target {
    /// Changes when the node has said anew where it is.
    pub(super) fn stamp(&self) -> Option<Stamp> {
        match self {
            Self::File(files) => Some(local::stamp(&files.address)),
            Self::Fixed(_) => None,
        }
    }

    fn address(&self) -> Result<NodeAddr, String> {
        match self {
            Self::File(files) => local::address(&files.address),
            Self::Fixed(address) => Ok(address.clone()),
        }
    }

    /// Waits until the stamp is another one.
    async fn changed(&self, stamp: Option<Stamp>) {
        while self.stamp() == stamp {
            sleep(LOOK_EVERY).await;
        }
    }
}

/// A connection with its control stream.
pub(super) struct Link {
    pub(super) connection: Connection,
    endpoint: Endpoint,
    send: SendStream,
    frames: FrameReader,
    outbox: Vec<u8>,
    /// The address file when the connection was made.
    pub(super) stamp: Option<Stamp>,
}

impl Link {
    /// Connects, however long it takes: where the address stands in a file it is read again for each attempt, and a
    /// new one is tried at once. Before the first attempt it waits for `first`.
    pub(super) async fn connect(target: Target, key: SecretKey, first: Duration) -> Self {
        sleep(first).await;
        let mut pause = BACKOFF_MIN;
        loop {
            let stamp = target.stamp();
            let attempt = async {
                match timeout(ATTEMPT_MAX, Self::attempt(&target, &key, stamp)).await {
                    Ok(Ok(link)) => return Some(link),
                    Ok(Err(error)) => tracing::debug!(error, "the node cannot be reached"),
                    Err(_) => tracing::debug!("the node does not answer"),
                }
                sleep(pause).await;
                None
            };
            tokio::select! {
                biased;
                link = attempt => match link {
                    Some(link) => return link,
                    None => pause = (pause * 2).min(BACKOFF_MAX),
                },
                () = target.changed(stamp) => pause = BACKOFF_MIN,
            }
        }
    }

    async fn attempt(target: &Target, key: &SecretKey, stamp: Option<Stamp>) -> Result<Self, String> {
        let address = target.address()?;
        let config = client_config(address.node, Some(key), ALPN).map_err(|error| error.to_string())?;
        let resolved = address.resolve().await.map_err(|error| format!("{address}: {error}"))?;
        let mut failure = format!("{address}: the name has no address");
        for place in resolved {
            let endpoint = client_endpoint(place).map_err(|error| error.to_string())?;
            let connecting =
                endpoint.connect_with(config.clone(), place, SERVER_NAME).map_err(|error| error.to_string())?;
            match connecting.await {
                Ok(connection) => {
                    let (send, receive) = connection.open_bi().await.map_err(|error| error.to_string())?;
                    let frames = FrameReader::new(receive, WORKER_FRAME_LEN_MAX);
                    return Ok(Self { connection, endpoint, send, frames, outbox: Vec::new(), stamp });
                }
                Err(error) => failure = format!("{place}: {error}"),
            }
        }
        Err(failure)
    }

    /// Puts a message behind those that wait to be written. What the runs produce is bounded by the runs.
    pub(super) fn say(&mut self, message: &FromWorker) {
        if let Err(error) = codec::append_frame(&mut self.outbox, message, WORKER_FRAME_LEN_MAX) {
            // All that a run can put into a message is bounded below a frame.
            tracing::error!(%error, "a message to the node is too long and was left out");
        }
    }

    /// Whether there is room for what can wait.
    pub(super) fn has_room(&self) -> bool {
        self.outbox.len() < SHOWN_WHILE_BELOW
    }

    /// The node's next message, or the reason why there will be none. May be dropped at any time; meanwhile writes what
    /// waits to be written.
    pub(super) async fn next(&mut self) -> Result<ToWorker, String> {
        let Self { send, frames, outbox, .. } = self;
        loop {
            if outbox.is_empty() {
                return heard(frames.next().await);
            }
            tokio::select! {
                message = frames.next() => return heard(message),
                written = send.write(outbox) => {
                    let written = written.map_err(|error| error.to_string())?;
                    outbox.drain(..written);
                }
            }
        }
    }

    /// Writes what waits, and then says goodbye. Bounded by its caller.
    pub(super) async fn leave(mut self) {
        if self.send.write_all(&self.outbox).await.is_ok() && self.send.finish().is_ok() {
            // The node closes once it has read everything.
            let _ = self.send.stopped().await;
        }
        self.connection.close(0u32.into(), b"the worker has left");
        self.endpoint.wait_idle().await;
    }
}

fn heard(message: Result<Option<ToWorker>, FrameError>) -> Result<ToWorker, String> {
    match message {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err("the node has ended the control stream".into()),
        Err(error) => Err(error.to_string()),
    }
}
