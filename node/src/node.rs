//! A node: its parts put together, started in order and stopped in order.
//!
//! Start: identity, store, documents, blobs, kernel, edges, worker. Stop: refuse, drain the worker, end the edges, save,
//! leave. A kill at any moment is a start without the stop before it.

use std::io::Write as _;
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use anyhow::{Context as _, anyhow, bail};
use serde::{Deserialize, Serialize};
use shoal_crdt::{Wanted, wanted};
use shoal_kernel::Input;
use shoal_mesh::{Inbox, Mesh};
use shoal_protocol::change::DocumentClass;
use shoal_protocol::id::IdSource;
use shoal_protocol::object::node::Mesh as MeshFacts;
use shoal_protocol::{Kind, NodeId, ObjectId, Problem, WorkerId};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::config::{Config, Listen};
use crate::crash;
use crate::documents::Documents;
use crate::gateway::Gateway;
use crate::identity::{self, Identity};
use crate::logs::LogBook;
use crate::metrics::Metrics;
use crate::peers::{self, DirectPaths, Peers};
use crate::replication::Sets;
use crate::runtime::{Runtime, Started, current_runs, now};
use crate::service::{self, GlobalKv, NodeFacts, NodeSettings, Service};
use crate::store::{self, Store};
use crate::supervisor::{self, Supervisor};

/// How long the last saving may take before the process ends anyway; what was acknowledged is durable already.
const SAVE_MAX: Duration = Duration::from_secs(20);
/// How often unreferenced blobs are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(600);
/// The file in the data folder that says where the node is, while it runs.
pub(crate) const NODE_FILE: &str = "node.json";

/// What `node.json` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Whereabouts {
    id: NodeId,
    name: String,
    gateway: String,
    http: String,
    /// Where other nodes reach it, `NODEID@IP:PORT`.
    #[serde(default)]
    mesh: Vec<String>,
    pid: u32,
    started_ms: u64,
}

/// Runs a node until it is told to stop.
pub(crate) async fn run(config: Config) -> anyhow::Result<()> {
    if std::env::var_os("SSLKEYLOGFILE").is_some() {
        tracing::warn!("SSLKEYLOGFILE is set: the keys of connections with other nodes are written to that file");
    }
    crash::plan()?;
    let metrics = Arc::new(Metrics::new());
    // First of all: a node that does not get the folder, or does not know its layout, leaves it as it is.
    identity::files::make_folder(&config.data)?;
    let (store, store_threads) = Store::open(&config.data, u64::from(config.journal_mb) << 20, observer(&metrics))?;
    let identity = Arc::new(Identity::open(&config.data)?);
    let (mesh_name, mesh_key) = identity.mesh();
    if let Some(other) = config.mesh.invited_to.iter().find(|mesh| **mesh != mesh_key) {
        bail!("the invitation is to the mesh {other}, and this node is in the mesh {mesh_name} ({mesh_key})");
    }
    let (documents, documents_thread) = Documents::open(mesh_key, store.clone())?;
    let operator = found_operator(&identity, &documents).await?;
    let token_file = identity.write_operator_token(operator)?;
    let blobs = shoal_blobs::Store::open(&config.data.join("blobs"), shoal_blobs::Options::default()).await?;
    let logs = Arc::new(LogBook::new(current_runs(store.clone())));
    let known = Box::new(documents.known());
    let kernel = shoal_kernel::Config {
        jobs_bytes_max: u64::from(config.jobs_mb) << 20,
        retention: config.keep,
        takeover_after_ms: config.takeover_after_ms,
        ..shoal_kernel::Config::new(identity.node_id())
    };
    let Started { runtime, thread: kernel_thread, wishes } =
        Runtime::start(kernel, store.clone(), known, metrics.clone(), logs.clone())?;
    documents.connect(runtime.clone());
    let kv = GlobalKv::open(mesh_key, runtime.clone(), documents.clone())?;

    let (mesh, inbox) = start_mesh(&config, &identity).await?;
    let direct = bind_direct(&config, &identity).await?;
    let peers = Peers::new(mesh.clone(), direct, metrics.clone());
    let gateway = bind_gateway(&config, identity.clone())?;
    let listener = bind_http(config.http).await?;
    let http = listener.local_addr()?;
    let configured = NodeSettings { name: config.name.clone(), labels: config.labels.clone() };
    let (replace_worker, replace) = watch::channel(());
    let facts = NodeFacts {
        mesh: MeshFacts { name: mesh_name.into(), key: mesh_key, open: true },
        gateway: gateway.node_addr().to_string(),
        http: format!("http://{http}"),
        started_ms: now().wall_ms,
        settings: RwLock::new(service::node_settings(&store, configured)?),
        stopping: AtomicBool::new(false),
        stop: Arc::new(Notify::new()),
        replace_worker: config.worker.then_some(replace_worker),
    };
    let own_worker = identity.workers.local();
    let asked_to_stop = facts.stop.clone();
    let whereabouts = Whereabouts {
        id: identity.node_id(),
        name: config.name.clone(),
        gateway: facts.gateway.clone(),
        http: facts.http.clone(),
        mesh: mesh.addresses(),
        pid: std::process::id(),
        started_ms: facts.started_ms,
    };
    let replicas = Sets::new(documents.clone(), kv.clone());
    let service = Service::new(service::Parts {
        runtime: runtime.clone(),
        documents,
        kv,
        blobs: blobs.clone(),
        logs: logs.clone(),
        identity,
        metrics,
        config: config.clone(),
        node: facts,
        removal: service::BlobDoor::default(),
        peers: peers.clone(),
        replicas: replicas.clone(),
    });

    let stop_edges = CancellationToken::new();
    let (local, address) = (gateway.local_worker(), gateway.node_addr());
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn({
        let (service, runtime, stop) = (service.clone(), runtime.clone(), stop_edges.clone());
        let logs = logs.clone();
        async move { gateway.serve(service, runtime, logs, stop).await }
    });
    tasks.spawn({
        let (service, stop) = (service.clone(), stop_edges.clone());
        async move {
            if let Err(error) = crate::api::serve(listener, service, stop.cancelled()).await {
                tracing::error!(%error, "the HTTP API has ended");
            }
        }
    });
    tasks.spawn(sweep(service.clone(), stop_edges.clone()));
    let parts = peers::Parts {
        service: service.clone(),
        runtime: runtime.clone(),
        blobs: blobs.clone(),
        logs,
        replicas,
        hints: Arc::default(),
        view: config.mesh.view,
        news: watch::Sender::default(),
        stop_node: asked_to_stop.clone(),
    };
    tasks.spawn(peers::serve(peers.clone(), parts, inbox, wishes, stop_edges.clone()));
    let supervisor = match config.worker {
        true => {
            let settings = worker_settings(&config, address, own_worker, replace)?;
            Some(Supervisor::start(settings, local, runtime.clone())?)
        }
        false => None,
    };
    write_whereabouts(&config.data, &whereabouts)?;
    announce(&config, &whereabouts, &token_file);

    wait_for_stop(&asked_to_stop).await?;
    tracing::info!("stopping: no new jobs, running ones may end");
    service.stop();
    let refusal =
        Problem::new(Kind::Unavailable, "the node is stopping: try again when it is back, or at another node");
    runtime.input(Input::Refuse(refusal.retry_after(1000))).await;
    if let Some(supervisor) = supervisor {
        supervisor.stop().await;
    }
    stop_edges.cancel();
    while tasks.join_next().await.is_some() {}
    peers.close_direct_paths().await;
    mesh.stop().await;
    runtime.stop().await;
    drop((service, runtime));
    let saved = tokio::task::spawn_blocking(move || {
        for thread in [kernel_thread, documents_thread] {
            drop(thread.join());
        }
        drop(store);
        store_threads.join();
    });
    blobs.close().await?;
    if tokio::time::timeout(SAVE_MAX, saved).await.is_err() {
        tracing::warn!("saving takes too long; the journal holds all that was acknowledged");
    }
    drop(std::fs::remove_file(config.data.join(NODE_FILE)));
    Ok(())
}

fn observer(metrics: &Arc<Metrics>) -> store::Observe {
    let metrics = metrics.clone();
    Box::new(move |elapsed, rows, bytes| metrics.fsync(elapsed, rows, bytes))
}

/// The operator's user. The first start founds it, signed by the operator's key, and lets the node sign for it.
pub(crate) async fn found_operator(identity: &Identity, documents: &Documents) -> anyhow::Result<ObjectId> {
    if let Some(operator) = identity.operator() {
        return Ok(operator);
    }
    let key = identity.operator_key();
    // A start that was cut off may have founded it without remembering.
    let founded = documents
        .directory()
        .of_class(DocumentClass::User, None)
        .map(|facts| facts.id())
        .find(|id| id.minted_by(&key.public()));
    let operator = match founded {
        Some(operator) => operator,
        None => {
            let id = IdSource::new(&key.public(), None).mint(now().wall_ms);
            let operations = vec![wanted::name("operator"), wanted::node(&identity.node_id())];
            let author = key.public();
            let founding = Wanted { document: id, class: DocumentClass::User, user: id, author, operations };
            documents.sign(founding, key.clone()).await?;
            id
        }
    };
    identity.set_operator(operator)?;
    Ok(operator)
}

/// A restarted node takes the port that it had: its workers come back to it by that. A port that somebody asked for and
/// cannot have is an error, the default port gives way to any.
fn bind_gateway(config: &Config, identity: Arc<Identity>) -> anyhow::Result<Gateway> {
    let Listen { address, any_port } = config.gateway;
    let mut addresses = Vec::new();
    if any_port || address.port() == 0 {
        addresses.extend(former_port(&config.data).map(|port| SocketAddr::new(address.ip(), port)));
    }
    addresses.push(address);
    if any_port {
        addresses.push(SocketAddr::new(address.ip(), 0));
    }
    Gateway::bind(&addresses, identity).map_err(|error| {
        let why = match error {
            shoal_transport::Error::Bind { source, .. } => source.to_string(),
            other => other.to_string(),
        };
        anyhow!("the gateway cannot listen on {address}: {why}; choose another address with --gateway, port 0 for any")
    })
}

/// Begins to listen for other nodes and to look for them. A port that somebody asked for and cannot have is an error, the
/// default port gives way to any.
pub(crate) async fn start_mesh(config: &Config, identity: &Identity) -> anyhow::Result<(Mesh, Inbox)> {
    let Listen { address, any_port } = config.mesh.listen;
    let options = |address| shoal_mesh::Options {
        secret: identity.node_key().clone(),
        mesh: identity.mesh().1,
        version: env!("CARGO_PKG_VERSION").into(),
        listen: vec![address],
        join: config.mesh.join.clone(),
        mdns: config.mesh.mdns,
        view_max: config.mesh.view as usize,
        k: NonZeroUsize::new(config.mesh.dht_k as usize).unwrap_or(NonZeroUsize::MIN),
        hole_punching: config.mesh.hole_punching,
    };
    match Mesh::start(options(address)).await {
        Ok(started) => Ok(started),
        Err(_) if any_port => Ok(Mesh::start(options(SocketAddr::new(address.ip(), 0))).await?),
        Err(error) => Err(anyhow!(
            "the mesh cannot listen on {address}: {error}; choose another address with --mesh, port 0 for any"
        )),
    }
}

/// Opens this node's end of direct paths. As with the mesh, the default port gives way to any.
async fn bind_direct(config: &Config, identity: &Identity) -> anyhow::Result<Option<DirectPaths>> {
    let Some(Listen { address, any_port }) = config.mesh.direct else { return Ok(None) };
    let (key, (_, mesh)) = (identity.node_key(), identity.mesh());
    let bind = |address| DirectPaths::bind(key, &mesh, address);
    match bind(address).await {
        Ok(bound) => Ok(Some(bound)),
        Err(_) if any_port && address.port() != 0 => Ok(Some(bind(SocketAddr::new(address.ip(), 0)).await?)),
        Err(error) => Err(anyhow!("{error}; choose another address with --direct, port 0 for any, or \"off\"")),
    }
}

async fn bind_http(listen: Listen) -> anyhow::Result<TcpListener> {
    let address = listen.address;
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(_) if listen.any_port => {
            TcpListener::bind(SocketAddr::new(address.ip(), 0)).await.context("no port is free for the HTTP API")
        }
        Err(error) => Err(anyhow!(
            "the HTTP API cannot listen on {address}: {error}; choose another address with --http, port 0 for any"
        )),
    }
}

/// The port of the gateway in the run before this one, where that one was killed.
fn former_port(data: &Path) -> Option<u16> {
    let address = std::fs::read_to_string(data.join("worker").join("address")).ok()?;
    address.trim().rsplit_once(':')?.1.parse().ok()
}

fn worker_settings(
    config: &Config,
    address: shoal_transport::NodeAddr,
    worker: WorkerId,
    replace: watch::Receiver<()>,
) -> anyhow::Result<supervisor::Settings> {
    let mut args: Vec<std::ffi::OsString> = vec!["worker".into(), "--local".into(), config.data.clone().into()];
    args.extend(["--name".into(), format!("{}-local", config.name).into()]);
    args.extend(["--slots".into(), config.slots.to_string().into()]);
    args.extend(["--memory-mb".into(), config.memory_mb.to_string().into()]);
    for (key, value) in &config.labels {
        args.extend(["--label".into(), format!("{key}={value}").into()]);
    }
    let program = supervisor::program::path().context("finding this program, to start the worker")?;
    let data = config.data.clone();
    Ok(supervisor::Settings { data, program, args, address, worker, attach_max: supervisor::ATTACH_MAX, replace })
}

/// Sweeps unreferenced blobs from time to time.
async fn sweep(service: Service, stop: CancellationToken) {
    match service.check_references().await {
        Ok(0) => {}
        Ok(missing) => tracing::warn!(missing, "blobs that functions, jobs or keys refer to are not here"),
        Err(problem) => tracing::warn!(%problem, "what refers to blobs cannot be compared with what is here"),
    }
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(SWEEP_EVERY) => {}
        }
        match service.sweep_blobs().await {
            Ok(0) => {}
            Ok(swept) => tracing::info!(swept, "removed blobs that nothing refers to"),
            Err(problem) => tracing::warn!(%problem, "blobs cannot be swept; it is tried again later"),
        }
    }
}

async fn wait_for_stop(asked: &Notify) -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    tokio::select! {
        _ = term.recv() => {}
        _ = int.recv() => {}
        () = asked.notified() => {}
    }
    Ok(())
}

fn write_whereabouts(data: &Path, whereabouts: &Whereabouts) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(whereabouts)?;
    crate::identity::files::write_private(&data.join(NODE_FILE), text.as_bytes())
        .with_context(|| format!("writing {NODE_FILE} into {}", data.display()))
}

/// What a person needs next.
fn announce(config: &Config, whereabouts: &Whereabouts, token: &Path) {
    let Whereabouts { id, name, gateway, http, mesh, .. } = whereabouts;
    let text = format!(
        "node {name} ({short}) is up, in the open mesh `default`: it admits anyone who can reach it\n\
         \n\
         \x20 dashboard   {http}/\n\
         \x20 clients     {gateway}\n\
         \x20 join by     {mesh}\n\
         \x20 data        {data}\n\
         \x20 token       {token}\n\
         \n\
         next: shoal status           what this node is and does\n\
         \x20     shoal peers            the other nodes\n\
         \x20     shoal deploy PATH      ship a function\n\
         \x20     shoal submit FUNCTION  hand over a job\n\
         stop: Ctrl-C\n",
        short = id.short(),
        mesh = mesh.first().map_or("no address", String::as_str),
        data = config.data.display(),
        token = token.display(),
    );
    // A terminal that is gone, or a file on a disk that is full, is no reason not to run.
    drop(std::io::stdout().write_all(text.as_bytes()));
}

impl Service {
    /// From now on the node says that it stops.
    fn stop(&self) {
        self.facts().stopping.store(true, Ordering::Release);
    }
}
