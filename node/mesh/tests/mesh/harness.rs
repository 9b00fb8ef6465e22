//! Nodes of a test: each with a task that collects what its mesh says, so that a test waits for conditions.

use std::collections::BTreeSet;
use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use shoal_mesh::{Address, Event, Gossiped, Inbound, Inbox, Mesh, Options, Verdict};
use shoal_protocol::NodeId;
use shoal_protocol::key::SecretKey;
use tokio::sync::{mpsc, watch};

/// How long a condition may take to come true. Why 20 s: far above what any of them needs on two busy cores.
const PATIENCE: Duration = Duration::from_secs(20);

/// One node.
pub(crate) struct Node {
    pub(crate) mesh: Mesh,
    /// Who is in the view, by the events.
    pub(crate) met: watch::Receiver<BTreeSet<NodeId>>,
    pub(crate) streams: mpsc::Receiver<Inbound>,
    pub(crate) gossip: mpsc::Receiver<Gossiped>,
    /// Whether this node's key was seen elsewhere.
    pub(crate) doubled: watch::Receiver<bool>,
}

/// Options of a node on loopback that joins through these.
pub(crate) fn options(join: &[&Node]) -> Options {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut secret = [0; 32];
    secret[..8].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_le_bytes());
    Options {
        secret: SecretKey::from_bytes(secret),
        mesh: SecretKey::of_open_mesh("test").public(),
        version: "0.0.0".to_owned(),
        listen: vec!["127.0.0.1:0".parse().unwrap()],
        join: join.iter().map(|node| node.address()).collect(),
        mdns: false,
        view_max: 64,
        k: NonZeroUsize::new(8).unwrap(),
        hole_punching: false,
    }
}

impl Node {
    pub(crate) async fn start(options: Options) -> Self {
        let (mesh, inbox) = Mesh::start(options).await.unwrap();
        Self::of(mesh, inbox)
    }

    /// Starts at a port that another node has just left.
    pub(crate) async fn start_once_free(options: Options) -> Self {
        let starting = async {
            loop {
                if let Ok((mesh, inbox)) = Mesh::start(options.clone()).await {
                    return Self::of(mesh, inbox);
                }
            }
        };
        within("the port is free", starting).await
    }

    fn of(mesh: Mesh, inbox: Inbox) -> Self {
        let Inbox { events, streams } = inbox;
        let (set_met, met) = watch::channel(BTreeSet::new());
        let (set_doubled, doubled) = watch::channel(false);
        let (heard, gossip) = mpsc::channel(4096);
        tokio::spawn(collect(events, set_met, set_doubled, heard));
        Self { mesh, met, streams, gossip, doubled }
    }

    pub(crate) fn id(&self) -> NodeId {
        self.mesh.node()
    }

    pub(crate) fn address(&self) -> Address {
        self.mesh.addresses().first().unwrap().parse().unwrap()
    }

    /// Waits until this many are in the view.
    pub(crate) async fn meets(&self, number: usize) {
        let mut met = self.met.clone();
        within(&format!("{number} are met"), met.wait_for(|met| met.len() == number)).await.unwrap();
    }

    /// Waits until these are in the view.
    pub(crate) async fn meets_all(&self, others: &[&Node]) {
        let mut met = self.met.clone();
        within("all are met", met.wait_for(|met| others.iter().all(|other| met.contains(&other.id())))).await.unwrap();
    }

    /// The next message, accepted.
    pub(crate) async fn hears(&mut self) -> Vec<u8> {
        let gossiped = within("gossip arrives", self.gossip.recv()).await.unwrap();
        self.mesh.judge(gossiped.id, Verdict::Accept);
        gossiped.bytes
    }
}

async fn collect(
    mut events: mpsc::Receiver<Event>,
    met: watch::Sender<BTreeSet<NodeId>>,
    doubled: watch::Sender<bool>,
    heard: mpsc::Sender<Gossiped>,
) {
    while let Some(event) = events.recv().await {
        match event {
            Event::Met(node) => met.send_modify(|met| assert!(met.insert(node), "met twice")),
            Event::Lost(node) => met.send_modify(|met| assert!(met.remove(&node), "lost, but never met")),
            Event::Gossip(gossiped) => drop(heard.send(gossiped).await),
            Event::OwnKeyElsewhere => drop(doubled.send_replace(true)),
        }
    }
}

/// Waits for something, but not for ever.
pub(crate) async fn within<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain until {what}"),
    }
}

/// Waits until a condition holds that nothing announces.
pub(crate) async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let mut looks = tokio::time::interval(Duration::from_millis(20));
    let looking = async {
        while !is_so() {
            looks.tick().await;
        }
    };
    within(what, looking).await;
}
