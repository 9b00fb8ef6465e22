//! One node, the machine that it runs on, and the connections to it.

use std::future::Future;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use rustix::process::Pid;
use shoal_client::{Client, Options};
use shoal_protocol::NodeId;
use shoal_protocol::object::{Class, ListQuery, Page};
use tokio::sync::OnceCell;

use super::MESH_PORT;
use super::user::User;
use super::view::{Metrics, NodeView};
use crate::http;
use crate::net::{Machine, Traffic};
use crate::process::{Node, resident_kib};
use crate::scenario::Group;

/// Entries on a page of a list: the most that a node gives.
pub(crate) const PAGE_LEN: u32 = 1000;
/// How long one connection may take. A busy machine with forty nodes needs some of it.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A node.
#[derive(Debug)]
pub(crate) struct Host {
    name: String,
    has_worker: bool,
    knows_address: bool,
    node: Node,
    machine: Option<Machine>,
    up_at: Option<Instant>,
    id: Option<NodeId>,
    operator: OnceCell<Connection>,
    user: OnceCell<Connection>,
}

/// A client, which says nothing of itself.
struct Connection(Client);

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connection")
    }
}

impl Host {
    pub(super) fn new(
        name: &str,
        group: &Group,
        machine: Option<Machine>,
        mdns: bool,
        shoal: &Path,
        folder: &Path,
    ) -> anyhow::Result<Self> {
        let mesh = match &machine {
            Some(_) => format!("0.0.0.0:{MESH_PORT}"),
            None => "127.0.0.1:0".to_owned(),
        };
        let launcher = machine.as_ref().map(|machine| machine.namespace.launcher()).unwrap_or_default();
        let node = Node::within(shoal, folder)?
            .with_name(name)
            .with_slots(group.slots)
            .with_mesh(&mesh, mdns)
            .with_launcher(&launcher)
            .with_arguments(&arguments(name, group));
        let node = match &group.log {
            Some(filter) => node.with_log(filter),
            None => node,
        };
        Ok(Self {
            name: name.to_owned(),
            has_worker: group.worker,
            knows_address: false,
            node,
            machine,
            up_at: None,
            id: None,
            operator: OnceCell::new(),
            user: OnceCell::new(),
        })
    }

    /// Its name.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Whether it runs, as far as was done to it here.
    pub(crate) fn is_up(&self) -> bool {
        self.up_at.is_some()
    }

    /// When it was last up, while it runs.
    pub(crate) fn up_at(&self) -> Option<Instant> {
        self.up_at
    }

    /// Whether it runs jobs.
    pub(crate) fn has_worker(&self) -> bool {
        self.has_worker
    }

    /// Its id.
    ///
    /// # Errors
    /// When it was never up.
    pub(crate) fn id(&self) -> anyhow::Result<NodeId> {
        self.id.with_context(|| format!("{} was never up", self.name))
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    pub(super) fn machine(&self) -> Option<&Machine> {
        self.machine.as_ref()
    }

    /// Starts it. `join`: the address of another.
    pub(super) async fn start(&mut self, join: Option<&str>) -> anyhow::Result<()> {
        if let (Some(address), false) = (join, self.knows_address) {
            self.node.add_arguments(&["--join".to_owned(), address.to_owned()]);
            self.knows_address = true;
        }
        self.node.start().await.with_context(|| format!("starting {}", self.name))?;
        self.id = Some(self.node.gateway()?.node);
        self.up_at = Some(Instant::now());
        // Connected to at once, so that later looks at the node do not count how long that takes.
        self.operator().await.map(drop)
    }

    /// Stops it in order.
    ///
    /// # Errors
    /// When it does not end well.
    pub(crate) async fn stop(&mut self) -> anyhow::Result<()> {
        self.forget();
        self.node.stop().await.with_context(|| format!("stopping {}", self.name))
    }

    /// Kills it and its worker.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.forget();
        self.node.kill_worker();
        self.node.kill().with_context(|| format!("killing {}", self.name))
    }

    fn forget(&mut self) {
        self.up_at = None;
        self.operator = OnceCell::new();
        self.user = OnceCell::new();
    }

    /// Runs this with its sockets on the node's machine.
    async fn there<T: Send + 'static>(
        &self,
        future: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T> {
        match &self.machine {
            Some(machine) => machine.namespace.runtime().spawn(future).await?,
            None => future.await,
        }
    }

    async fn connect(&self, token: String) -> anyhow::Result<Connection> {
        let address = self.node.gateway()?;
        let options = Options { token: Some(token), connect_timeout: CONNECT_MAX, ..Options::default() };
        let client = self.there(async move { Ok(Client::connect_with(&address, options).await?) }).await;
        Ok(Connection(client.with_context(|| format!("connecting to {}", self.name))?))
    }

    /// A connection of its operator's.
    ///
    /// # Errors
    /// When it cannot be reached.
    pub(crate) async fn operator(&self) -> anyhow::Result<Client> {
        let connection = self.operator.get_or_try_init(async || self.connect(self.node.token()?).await).await?;
        Ok(connection.0.clone())
    }

    /// A connection of the user's.
    ///
    /// # Errors
    /// When it cannot be reached, or does not know the user yet.
    pub(crate) async fn client(&self, user: &User) -> anyhow::Result<Client> {
        let connection = self.user.get_or_try_init(async || self.connect(user.token().to_owned()).await).await?;
        Ok(connection.0.clone())
    }

    /// What it says of itself and of all that it knows.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn view(&self) -> anyhow::Result<Vec<NodeView>> {
        let query = ListQuery { limit: Some(PAGE_LEN), ..ListQuery::default() };
        let page: Page<NodeView> = self.operator().await?.list(Class::Node, query).await?;
        Ok(page.items)
    }

    /// Its metrics.
    ///
    /// # Errors
    /// When it does not answer.
    pub(crate) async fn metrics(&self) -> anyhow::Result<Metrics> {
        let (address, token) = (self.node.http()?, self.node.token()?);
        Ok(Metrics::parse(&self.there(async move { http::get(&address, "/metrics", &token).await }).await?))
    }

    /// Memory of the node's process that is resident, in KiB.
    pub(crate) fn resident_kib(&self) -> Option<u64> {
        self.pid().and_then(resident_kib)
    }

    /// The program that it runs.
    pub(crate) fn program(&self) -> &Path {
        self.node.program()
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        self.node.log()
    }

    /// Its worker's process, while it lives.
    pub(crate) fn worker_pid(&self) -> Option<Pid> {
        self.node.worker()
    }

    /// Bytes that its machine has sent and received so far, on the link to others.
    ///
    /// # Errors
    /// When it shares its machine with others.
    pub(crate) fn traffic(&self) -> anyhow::Result<Traffic> {
        self.machine.as_ref().context("nodes that share one machine have no link of their own")?.traffic()
    }

    /// The node's process, while it runs.
    pub(crate) fn pid(&self) -> Option<Pid> {
        self.node.pid()
    }
}

fn arguments(name: &str, group: &Group) -> Vec<String> {
    let mut words = vec!["--label".to_owned(), format!("node={name}")];
    for (key, value) in &group.labels {
        words.extend(["--label".to_owned(), format!("{key}={value}")]);
    }
    if let Some(view) = group.view {
        words.extend(["--view".to_owned(), view.to_string()]);
    }
    if let Some(k) = group.dht_k {
        words.extend(["--dht-k".to_owned(), k.to_string()]);
    }
    words.extend((!group.hole_punching).then(|| "--no-hole-punching".to_owned()));
    words.extend((!group.worker).then(|| "--no-worker".to_owned()));
    words.extend(group.arguments.clone());
    words
}
