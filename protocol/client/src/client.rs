//! The client: which connection is used, what is repeated when it is lost, and the calls that all typed methods make.
//!
//! A task of its own owns the making of connections, so that callers who find the link broken at the same time get one
//! new link, not one each. It ends when the last clone of the client is dropped.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use shoal_protocol::limits::CLIENT_REQUESTS_IN_FLIGHT_MAX;
use shoal_protocol::object::{Class, ListQuery, Page};
use shoal_protocol::problem::Kind;
use shoal_protocol::wire::client::{Call, Response, Welcome};
use shoal_protocol::{Octets, Problem, Traceparent, codec};
use shoal_transport::NodeAddr;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::Error;
use crate::link::{Link, Unanswered};

/// Times that one request is sent. Why 8: a node that falls over each time it sees this request is not helped by more.
pub(crate) const TRIES_MAX: u32 = 8;
/// How long what is waited for or followed may be out of reach of the node that is asked. Why ten minutes: a node is
/// restarted, or mended, in less.
pub(crate) const AWAY_MAX: Duration = Duration::from_secs(600);
/// The first pause before connecting again, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(2));
/// Callers that wait for a new link. Why 64: they come by the thousand, but the channel is emptied at once.
const CALLERS_QUEUED_MAX: usize = 64;

/// How a client connects.
#[derive(Debug, Clone)]
pub struct Options {
    /// The token; none: what everybody may read.
    pub token: Option<String>,
    /// How long to wait for the node at one address; 5 s unless said otherwise.
    pub connect_timeout: Duration,
    /// How long to try to get back a connection that was lost; 30 s unless said otherwise. Why 30 s: a node is restarted
    /// in less. The first connection is tried once.
    pub reconnect_for: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self { token: None, connect_timeout: Duration::from_secs(5), reconnect_for: Duration::from_secs(30) }
    }
}

/// A client of one node. Clones share one connection.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
    traceparent: Option<Traceparent>,
}

struct Shared {
    address: NodeAddr,
    in_flight: Semaphore,
    link: watch::Receiver<Arc<Link>>,
    broken: mpsc::Sender<oneshot::Sender<Result<Arc<Link>, Error>>>,
}

impl Client {
    /// Connects to the node that the address names, and to no other. `token` none: what everybody may read.
    ///
    /// # Errors
    /// [`Error::Unreachable`] if no such node answers; a problem `unauthenticated` if the token does not count.
    pub async fn connect(address: &NodeAddr, token: Option<String>) -> Result<Self, Error> {
        Self::connect_with(address, Options { token, ..Options::default() }).await
    }

    /// The same, with bounds of the caller's.
    pub async fn connect_with(address: &NodeAddr, options: Options) -> Result<Self, Error> {
        let first = Link::open(address, options.token.as_deref(), options.connect_timeout).await?;
        let (publish, link) = watch::channel(first);
        let (broken, asked) = mpsc::channel(CALLERS_QUEUED_MAX);
        let address = address.clone();
        tokio::spawn(keep_connected(address.clone(), options, asked, publish));
        let in_flight = Semaphore::new(CLIENT_REQUESTS_IN_FLIGHT_MAX);
        Ok(Self { shared: Arc::new(Shared { address, in_flight, link, broken }), traceparent: None })
    }

    /// A client of the same connection whose requests belong to a trace: jobs that it submits carry it to their guests.
    #[must_use]
    pub fn traced(&self, traceparent: Traceparent) -> Self {
        Self { shared: Arc::clone(&self.shared), traceparent: Some(traceparent) }
    }

    /// The address that it was given.
    pub fn address(&self) -> &NodeAddr {
        &self.shared.address
    }

    /// What the node said when it accepted the connection: its id, its name, and the user that the token stands for.
    pub fn welcome(&self) -> Welcome {
        self.shared.link.borrow().welcome.clone()
    }

    /// Ends the connection, so that the node knows at once. Other clones connect again when they are used.
    pub async fn close(self) {
        let link = self.shared.link.borrow().clone();
        link.close().await;
    }

    /// One operation with a body. The typed methods are made from this; it serves whatever they do not cover.
    ///
    /// # Errors
    /// The node's problem; [`Error::Disconnected`] if the call changes something and its outcome is unknown.
    pub async fn call<T: DeserializeOwned>(&self, call: Call, body: &(impl Serialize + ?Sized)) -> Result<T, Error> {
        let response = self.request(call, codec::encode(body).into()).await?;
        codec::decode(&response.body).map_err(|error| Error::unexpected("its answer", &error))
    }

    /// One operation without a body.
    pub async fn ask<T: DeserializeOwned>(&self, call: Call) -> Result<T, Error> {
        let response = self.request(call, Octets::default()).await?;
        codec::decode(&response.body).map_err(|error| Error::unexpected("its answer", &error))
    }

    /// One operation in the form of the wire: `body` is CBOR or empty, and so is the answer's, which also has the
    /// status and the ETag.
    pub async fn request(&self, call: Call, body: Octets) -> Result<Response, Error> {
        // Closed never: the semaphore lives as long as the client.
        let _slot = self.shared.in_flight.acquire().await.map_err(|_| Error::Disconnected)?;
        let may_repeat = changes_nothing(&call);
        for _ in 0..TRIES_MAX {
            match self.link().await?.request(&call, &body, self.traceparent).await {
                Ok(response) if (200..300).contains(&response.status) => return Ok(response),
                Ok(response) => return Err(problem_of(&response)),
                Err(Unanswered::TooLarge(error)) => return Err(error),
                Err(Unanswered::Lost) if !may_repeat => return Err(Error::Disconnected),
                Err(Unanswered::Lost | Unanswered::NotSent) => {}
            }
        }
        Err(Error::Disconnected)
    }

    /// A page of a class.
    pub async fn list<T: DeserializeOwned>(&self, class: Class, query: ListQuery) -> Result<Page<T>, Error> {
        self.ask(Call::List { class, query }).await
    }

    /// One object.
    pub async fn get<T: DeserializeOwned>(&self, class: Class, object: impl ToString) -> Result<T, Error> {
        self.ask(Call::Get { class, object: object.to_string() }).await
    }

    /// Makes an object.
    pub async fn create<T: DeserializeOwned>(
        &self,
        class: Class,
        body: &(impl Serialize + ?Sized),
    ) -> Result<T, Error> {
        self.call(Call::Create { class }, body).await
    }

    /// Sets attributes of an object: those that `patch` has. With `if_match` only if it still has this ETag.
    pub async fn set<T: DeserializeOwned>(
        &self,
        class: Class,
        object: impl ToString,
        if_match: Option<String>,
        patch: &(impl Serialize + ?Sized),
    ) -> Result<T, Error> {
        self.call(Call::Set { class, object: object.to_string(), if_match }, patch).await
    }

    /// Deletes an object, as its class means it.
    pub async fn delete(&self, class: Class, object: impl ToString) -> Result<(), Error> {
        self.request(Call::Delete { class, object: object.to_string() }, Octets::default()).await.map(|_| ())
    }

    /// Calls a method of an object. `query` holds parameters beside the body, such as `scope`.
    pub async fn method<T: DeserializeOwned>(
        &self,
        class: Class,
        object: impl ToString,
        method: &str,
        query: &[(&str, &str)],
        body: &(impl Serialize + ?Sized),
    ) -> Result<T, Error> {
        self.call(method_call(class, object, method, query), body).await
    }

    /// The link in use, or a new one if it is broken.
    pub(crate) async fn link(&self) -> Result<Arc<Link>, Error> {
        let link = self.shared.link.borrow().clone();
        if link.is_open() {
            return Ok(link);
        }
        let (reply, answer) = oneshot::channel();
        let gone = || Error::Local("the tokio runtime that the client was made in has ended".into());
        self.shared.broken.send(reply).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())?
    }
}

/// A call of a method.
pub(crate) fn method_call(class: Class, object: impl ToString, method: &str, query: &[(&str, &str)]) -> Call {
    let filters = query.iter().map(|&(key, value)| (key.to_owned(), value.to_owned())).collect();
    let query = ListQuery { filters, ..ListQuery::default() };
    Call::Method { class, object: object.to_string(), method: method.to_owned(), query }
}

/// Whether the call may be carried out twice without anybody noticing.
fn changes_nothing(call: &Call) -> bool {
    match call {
        Call::List { .. } | Call::Get { .. } => true,
        Call::Method { class, method, .. } => matches!(
            (class, method.as_str()),
            (Class::Job, "wait" | "events") | (Class::Kv, "get" | "list" | "watch") | (_, "prepare")
        ),
        Call::Create { .. } | Call::Set { .. } | Call::Delete { .. } => false,
    }
}

fn problem_of(response: &Response) -> Error {
    match codec::decode::<Problem>(&response.body) {
        Ok(problem) => problem.into(),
        Err(error) => Error::unexpected(&format!("its answer with status {}", response.status), &error),
    }
}

/// Makes a new link whenever somebody finds the old one broken, and gives it to all who have asked meanwhile.
async fn keep_connected(
    address: NodeAddr,
    options: Options,
    mut asked: mpsc::Receiver<oneshot::Sender<Result<Arc<Link>, Error>>>,
    publish: watch::Sender<Arc<Link>>,
) {
    while let Some(caller) = asked.recv().await {
        let current = publish.borrow().clone();
        let link = if current.is_open() {
            Ok(current)
        } else {
            tokio::select! {
                link = connect_again(&address, &options) => link,
                () = publish.closed() => return,
            }
        };
        if let Ok(link) = &link {
            publish.send_replace(Arc::clone(link));
        }
        // A caller who no longer waits has gone away; that is no fault.
        let _ = caller.send(link.clone());
        while let Ok(caller) = asked.try_recv() {
            let _ = caller.send(link.clone());
        }
    }
}

async fn connect_again(address: &NodeAddr, options: &Options) -> Result<Arc<Link>, Error> {
    let deadline = Instant::now() + options.reconnect_for;
    let (mut pause, pause_max) = PAUSE;
    loop {
        let error = match Link::open(address, options.token.as_deref(), options.connect_timeout).await {
            Ok(link) => return Ok(link),
            // A node that starts up or leaves.
            Err(error) if matches!(error, Error::Unreachable { .. }) || error.kind() == Some(Kind::Unavailable) => {
                error
            }
            Err(error) => return Err(error),
        };
        if Instant::now() + pause > deadline {
            return Err(error);
        }
        tracing::debug!(%error, ?pause, "connecting again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(pause_max);
    }
}
