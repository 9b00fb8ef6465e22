//! This node.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use shoal_kernel::{Command, Load, Principal, Reply, rights};
use shoal_mesh::PeerInfo;
use shoal_protocol::name::{self, Labels};
use shoal_protocol::object::Class;
use shoal_protocol::object::node::{Mesh, Node, Peer, Replica};
use shoal_protocol::wire::peer::{Hint, WorkerHint};
use shoal_protocol::{BlobId, Kind, Problem};
use tokio::sync::{Notify, watch};

use super::answer::{Answer, Body, Format, PageRequest};
use super::{Caller, Leaving, Service, target};
use crate::config::Config;
use crate::metrics;
use crate::runtime::{job_counts, now};
use crate::store::{Mutation, Table};

/// The row of what was set of this node.
const SETTINGS: &[u8] = b"node_settings";

/// What the node says of itself.
pub(crate) struct Facts {
    /// The mesh.
    pub(crate) mesh: Mesh,
    /// The gateway: `quic://NODEID@host:port`.
    pub(crate) gateway: String,
    /// The HTTP API: `http://host:port`.
    pub(crate) http: String,
    /// When the process started, in milliseconds since the Unix epoch.
    pub(crate) started_ms: u64,
    /// What can be set.
    pub(crate) settings: RwLock<Settings>,
    /// Whether the node stops.
    pub(crate) stopping: AtomicBool,
    /// Told when somebody asks the node to stop.
    pub(crate) stop: Arc<Notify>,
    /// How far the node is that leaves.
    pub(crate) leaving: Leaving,
    /// Told when somebody wants a fresh process in the place of the node's own worker; none: the node starts no worker.
    pub(crate) replace_worker: Option<watch::Sender<()>>,
}

/// What can be set of a node, and stays set after a restart.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Settings {
    /// The name.
    pub(crate) name: String,
    /// Labels.
    #[serde(default)]
    pub(crate) labels: Labels,
}

impl Facts {
    /// The gateway's address.
    pub(crate) fn gateway(&self) -> String {
        self.gateway.clone()
    }

    fn settings(&self) -> Settings {
        self.settings.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// What was set, and what was configured when it was.
#[derive(Serialize, Deserialize)]
struct StoredSettings {
    set: Settings,
    configured: Settings,
}

/// What was set of this node stays set, until it is configured otherwise than it was then.
pub(crate) fn settings(store: &crate::store::Store, configured: Settings) -> Result<Settings, Problem> {
    let row = store.get(Table::Meta, SETTINGS)?;
    let stored: Option<StoredSettings> = row.and_then(|row| shoal_protocol::codec::decode(&row).ok());
    Ok(match stored {
        Some(stored) if stored.configured == configured => stored.set,
        _ => configured,
    })
}

impl Service {
    /// The node as everybody sees it.
    pub(crate) async fn node(&self) -> Node {
        let nobody = Principal { user: None, operator: true };
        let load = match self.0.runtime.request(nobody, Command::Load).await {
            Ok(Reply::Load(load)) => load,
            _ => Load::default(),
        };
        let facts = &self.0.node;
        let Settings { name, labels } = facts.settings();
        Node {
            id: self.0.identity.node_id(),
            name,
            version: env!("CARGO_PKG_VERSION").into(),
            mesh: facts.mesh.clone(),
            labels,
            addresses: vec![facts.gateway()],
            mesh_addresses: self.0.peers.mesh().addresses(),
            http: Some(facts.http.clone()),
            started_ms: Some(facts.started_ms),
            workers: load.workers,
            slots: load.slots,
            jobs: job_counts(self.0.runtime.store(), load.running).ok(),
            blobs: Some(self.blob_totals().await),
            resident_bytes: crate::metrics::resident_bytes(),
            stopping: self.is_stopping(),
            draining: facts.leaving.now(),
            peer: None,
        }
    }

    /// Its name, as it is set now.
    pub(crate) fn node_name(&self) -> String {
        self.0.node.settings().name
    }

    /// Its labels, as they are set now.
    pub(crate) fn node_labels(&self) -> Labels {
        self.0.node.settings().labels
    }

    /// Other nodes, as this one sees them: those that it has a way to, the neighbours first, then those that it had.
    pub(super) fn peer_nodes(&self) -> Vec<Node> {
        let digest = self.0.replicas.digest();
        let peers = &self.0.peers;
        let mut infos = peers.mesh().peers();
        infos.sort_by_key(|info| (!info.connected, !info.neighbour, info.node));
        infos
            .into_iter()
            .map(|info| peer_node(&self.0.node.mesh, &info, peers.known().get(&info.node), digest))
            .collect()
    }

    /// Whether the node takes requests: not while it stops, and not while it cannot write.
    pub(crate) fn health(&self) -> Result<(), Problem> {
        if self.is_stopping() {
            return Err(Problem::new(Kind::Unavailable, "the node is stopping"));
        }
        if let Some(draining) = self.0.node.leaving.now() {
            let detail = format!("the node leaves and hands over what it has to node {}", draining.to);
            return Err(Problem::new(Kind::Draining, detail));
        }
        match self.0.runtime.store().failure() {
            None => Ok(()),
            Some(problem) => {
                let detail = format!("the node cannot write to its disk, it recovers by itself: {}", problem.detail);
                // 503 and not 507: it is the node that is asked for, and whoever asks tries another one meanwhile.
                Err(Problem { detail, status: Kind::Unavailable.status(), ..problem })
            }
        }
    }

    /// Brings the gauges up to date that nobody moves when they change.
    pub(crate) async fn measure(&self) {
        let node = self.node().await;
        let jobs = node.jobs.unwrap_or_default();
        let metrics = self.metrics();
        metrics.load(metrics::Load {
            waiting: jobs.waiting,
            running: jobs.running,
            workers: u64::from(node.workers),
            slots: u64::from(node.slots),
        });
        metrics.projects(&self.shares(Vec::new()).await);
        metrics.mesh(&self.0.peers.mesh().counters(), self.0.replicas.counts());
        let store = self.0.runtime.store();
        metrics.journal_failures(store.generation(), store.failure().is_some());
    }

    /// Whether the node stops.
    pub(crate) fn is_stopping(&self) -> bool {
        self.0.node.stopping.load(Ordering::Acquire)
    }

    pub(super) async fn list_nodes(&self, page: PageRequest, format: Format) -> Result<Answer, Problem> {
        page.only(&["name"])?;
        let mut nodes = vec![self.node().await];
        nodes.extend(self.peer_nodes());
        let after =
            page.cursor.as_deref().and_then(|cursor| nodes.iter().position(|node| node.id.to_string() == cursor));
        let rest = nodes.into_iter().skip(after.map_or(0, |place| place + 1));
        let shown = rest.filter(|node| page.filter("name").is_none_or(|name| name == node.name));
        Answer::new(200, format, &page.page(shown.map(|node| (node.id.to_string(), node))))
    }

    pub(super) fn check_is_this(&self, object: &str) -> Result<(), Problem> {
        let id = self.0.identity.node_id().to_string();
        if object == id || object == "self" || object == self.0.node.settings().name {
            return Ok(());
        }
        if object.parse::<shoal_protocol::NodeId>().is_err() {
            let detail = format!("{object:?} is no id of a node (64 hexadecimal characters), nor `self`, nor its name");
            return Err(Problem::new(Kind::InvalidId, detail));
        }
        Err(target::not_found(Class::Node, object))
    }

    pub(super) async fn show_node(&self, object: &str, format: Format) -> Result<Answer, Problem> {
        if let Err(problem) = self.check_is_this(object) {
            let others = self.peer_nodes();
            let other = others.iter().find(|node| node.id.to_string() == object || node.name == object);
            return Answer::object(200, format, other.ok_or(problem)?);
        }
        Answer::object(200, format, &self.node().await)
    }

    pub(super) fn check_operates(caller: &Caller, what: &str) -> Result<(), Problem> {
        if rights::may_operate(&caller.principal) { Ok(()) } else { Err(rights::refusal(&caller.principal, what)) }
    }

    pub(super) async fn set_node(&self, caller: &Caller, object: &str, body: Body) -> Result<Answer, Problem> {
        Self::check_operates(caller, "change this node")?;
        self.check_is_this(object)?;
        let settings: Settings = body.patch(&self.0.node.settings())?;
        name::check("name", &settings.name)?;
        name::check_labels("labels", &settings.labels)?;
        let Config { name, labels, .. } = self.0.config.clone();
        let row = StoredSettings { set: settings.clone(), configured: Settings { name, labels } };
        let row = Mutation::put(Table::Meta, SETTINGS, shoal_protocol::codec::encode(&row));
        self.0.runtime.store().commit(vec![row]).await?;
        *self.0.node.settings.write().unwrap_or_else(PoisonError::into_inner) = settings;
        Answer::object(200, body.format, &self.node().await)
    }

    /// Method `stop`: the answer comes first, then the node stops in order.
    pub(super) fn stop_node(&self, caller: &Caller, object: &str, format: Format) -> Result<Answer, Problem> {
        Self::check_operates(caller, "stop this node")?;
        self.check_is_this(object)?;
        self.0.node.stop.notify_one();
        Answer::new(202, format, &serde_json::json!({ "stopping": true }))
    }
}

/// A peer as a node: what the mesh knows of it, and what it says of itself.
fn peer_node(mesh: &Mesh, info: &PeerInfo, hint: Option<Hint>, digest: BlobId) -> Node {
    let hint = hint.unwrap_or_default();
    let replica = match hint.replica {
        None => Replica::Unknown,
        Some(theirs) if theirs == digest => Replica::Equal,
        Some(_) => Replica::Differs,
    };
    let sum = |count: fn(&WorkerHint) -> u32| hint.workers.iter().map(count).fold(0, u32::saturating_add);
    let since = u64::try_from(info.since.elapsed().as_millis()).unwrap_or(u64::MAX);
    Node {
        id: info.node,
        name: if hint.name.is_empty() { info.node.short() } else { hint.name.clone() },
        version: info.version.clone(),
        mesh: mesh.clone(),
        labels: hint.labels.clone(),
        addresses: Some(hint.gateway.clone()).filter(|gateway| !gateway.is_empty()).into_iter().collect(),
        mesh_addresses: info.addresses.clone(),
        http: None,
        started_ms: None,
        workers: u32::try_from(hint.workers.len()).unwrap_or(u32::MAX),
        slots: sum(|worker| worker.offer.slots),
        jobs: None,
        blobs: None,
        resident_bytes: None,
        stopping: hint.stopping,
        draining: None,
        peer: Some(Peer {
            path: info.connected.then_some(info.path),
            rtt_us: info.rtt.map(|rtt| u64::try_from(rtt.as_micros()).unwrap_or(u64::MAX)),
            neighbour: info.neighbour,
            replica,
            free_slots: sum(|worker| worker.free_slots),
            waiting: hint.waiting,
            since_ms: now().wall_ms.saturating_sub(since),
            kept_out: info.kept_out.map(str::to_owned),
        }),
    }
}
