//! A member that floods: it is cut off, and what honest members write meanwhile arrives.
//!
//! `cargo test --release --workspace --locked --test node a_member_that_floods -- --nocapture` prints the figures.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use shoal_mesh::{Event, Inbox, Lane, Options};
use shoal_protocol::change::{self, Change, DocumentClass, SignedChange};
use shoal_protocol::codec;
use shoal_protocol::entry::{self, Content, Entry};
use shoal_protocol::key::{PublicKey, SecretKey};
use shoal_protocol::limits::PEER_FRAME_LEN_MAX;
use shoal_protocol::object::ListQuery;
use shoal_protocol::object::function::{Function, Grant, NewFunction};
use shoal_protocol::object::kv::{Scope, Value};
use shoal_protocol::wire::gossip::Gossip;
use shoal_protocol::wire::peer::{Hello, Hint, PeerMessage};
use shoal_protocol::{NodeId, ObjectId};
use tokio::io::AsyncWriteExt as _;
use tokio::time::MissedTickBehavior;

use crate::mesh::{Mesh, until};

/// Messages of a flood in a second, and how they are paced.
const EACH_SECOND: u64 = 10_000;
const TICK: Duration = Duration::from_millis(10);
/// How soon a node must have cut the member off.
const CUT_OFF_MAX: Duration = Duration::from_secs(5);
/// The pause between two honest writes.
const WRITE_EVERY: Duration = Duration::from_millis(25);
/// The memory of a node at most.
const RESIDENT_MAX_KIB: u64 = 150 * 1024;

/// What a member floods with.
#[derive(Debug, Clone, Copy)]
enum Flood {
    /// Gossip that is no message.
    Rubbish,
    /// Gossip of changes that are well formed, signed, and refused.
    Refused,
    /// Gossip of entries that nobody can refuse, and nobody can use.
    Idle,
    /// Hints on a control stream.
    Hints,
}

/// The member.
struct Member {
    mesh: shoal_mesh::Mesh,
    key: SecretKey,
    of: PublicKey,
    victim: NodeId,
    sent: AtomicU64,
    stop: AtomicBool,
}

impl Member {
    /// Joins through the first node, and is met by it.
    async fn join(nodes: &Mesh, number: u8) -> Arc<Self> {
        let at = nodes.clients[0].node().await.unwrap();
        let key = SecretKey::from_bytes([200 + number; 32]);
        let options = Options {
            secret: key.clone(),
            mesh: at.mesh.key,
            version: "0.0.0".to_owned(),
            listen: vec!["127.0.0.1:0".parse().unwrap()],
            join: vec![nodes.nodes[0].mesh_address().unwrap().parse().unwrap()],
            mdns: false,
            view_max: 8,
            k: NonZeroUsize::new(8).unwrap(),
            hole_punching: false,
        };
        let (mesh, Inbox { mut events, mut streams }) = shoal_mesh::Mesh::start(options).await.unwrap();
        while !matches!(events.recv().await.unwrap(), Event::Met(node) if node == at.id) {}
        tokio::spawn(async move { while events.recv().await.is_some() {} });
        tokio::spawn(async move { while streams.recv().await.is_some() {} });
        let (sent, stop) = (AtomicU64::new(0), AtomicBool::new(false));
        Arc::new(Self { mesh, key, of: at.mesh.key, victim: at.id, sent, stop })
    }

    fn stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    async fn flood(self: Arc<Self>, kind: Flood) {
        match kind {
            Flood::Rubbish | Flood::Refused | Flood::Idle => self.gossip(kind).await,
            Flood::Hints => self.hints().await,
        }
    }

    async fn gossip(&self, kind: Flood) {
        let mut ticks = ticks();
        let mut number = 0_u64;
        while !self.stopped() {
            ticks.tick().await;
            for _ in 0..EACH_SECOND * TICK.as_millis() as u64 / 1000 {
                number += 1;
                self.mesh.publish(match kind {
                    Flood::Refused => codec::encode(&Gossip::Change(self.refused(number))),
                    Flood::Idle => codec::encode(&Gossip::Entry(self.idle(number))),
                    _ => number.to_be_bytes().repeat(20),
                });
            }
            self.sent.store(self.mesh.counters().gossip_sent_total, Ordering::Relaxed);
        }
    }

    /// Its number is that of no change.
    fn refused(&self, number: u64) -> SignedChange {
        let document = ObjectId::from_parts(number, 0, self.key.public().tag());
        let change = Change {
            version: change::VERSION,
            mesh: self.of,
            document,
            class: DocumentClass::User,
            user: document,
            author: self.key.public(),
            sequence: 0,
            deps: Vec::new(),
            operations: Vec::new(),
        };
        change.sign(&self.key)
    }

    /// Its namespace is known to nobody yet.
    fn idle(&self, number: u64) -> entry::SignedEntry {
        let namespace = ObjectId::from_parts(number, 0, self.key.public().tag());
        let entry = Entry {
            version: entry::VERSION,
            mesh: self.of,
            namespace,
            key: "key".to_owned(),
            content: Content::Tombstone,
            counter: 1,
            node: self.mesh.node(),
            author: namespace,
            job: None,
        };
        entry.sign(&self.key)
    }

    async fn hints(&self) {
        let hello = Hello { name: "flood".to_owned(), version: "0.0.0".to_owned(), runs: Vec::new(), keeps: false };
        let hello = codec::frame(&PeerMessage::Hello(hello), PEER_FRAME_LEN_MAX).unwrap();
        let many = EACH_SECOND * TICK.as_millis() as u64 / 1000;
        let hint = Hint { name: "flood".to_owned(), ..Hint::default() };
        let hints = codec::frame(&PeerMessage::Hint(hint), PEER_FRAME_LEN_MAX).unwrap().repeat(many as usize);
        let mut ticks = ticks();
        while !self.stopped() {
            ticks.tick().await;
            // The node may have begun a session itself: then this stream is closed, and another one opened.
            let Ok(mut stream) = self.mesh.open(self.victim, Lane::Peer).await else { continue };
            let mut wrote = stream.write_all(&hello).await;
            while wrote.is_ok() && !self.stopped() {
                ticks.tick().await;
                wrote = stream.write_all(&hints).await;
                self.sent.fetch_add(many, Ordering::Relaxed);
            }
        }
    }
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    ticks
}

/// Why the first node keeps this one out.
async fn kept_out(nodes: &Mesh, member: NodeId) -> Option<String> {
    let known = nodes.clients[0].nodes(ListQuery::default()).await.unwrap().items;
    known.into_iter().find(|node| node.id == member)?.peer?.kept_out
}

/// What honest members have written.
#[derive(Default)]
struct Written {
    functions: Vec<ObjectId>,
    keys: Vec<String>,
}

/// Honest writes until it is told to stop: functions at the node that signs for their owner, keys at each in turn.
async fn write(nodes: &Mesh, of: &Function, kind: Flood, stop: &AtomicBool) -> Written {
    let mut written = Written::default();
    while !stop.load(Ordering::Relaxed) {
        let name = format!("{kind:?}-{}", written.keys.len()).to_lowercase();
        let client = &nodes.clients[written.keys.len() % nodes.clients.len()];
        client.kv_set(of.id, Scope::Global, &name, Value::Text(name.clone())).await.unwrap();
        let new = NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new(&name, of.current) };
        written.functions.push(nodes.clients[0].deploy(&new).await.unwrap().id);
        written.keys.push(name);
        tokio::time::sleep(WRITE_EVERY).await;
    }
    written
}

/// Returns once every node has all of it.
async fn arrived(nodes: &Mesh, of: &Function, written: &Written) {
    for client in &nodes.clients {
        for function in &written.functions {
            until(|| async { client.function(*function).await.ok() }).await;
        }
        for key in &written.keys {
            until(|| async { client.kv_get(of.id, Scope::Global, key).await.ok() }).await;
        }
    }
}

fn resident_kib(nodes: &Mesh) -> u64 {
    nodes.nodes.iter().filter_map(|node| shoal_testnet::resident_kib(node.pid()?)).max().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_floods_is_cut_off_and_honest_changes_arrive() {
    let nodes = Mesh::start(3).await;
    let file = crate::file("node/functions/digest/digest.wasm");
    let component = nodes.clients[0].put_bytes(&file, true, "").await.unwrap().id;
    let digest = NewFunction { grants: [Grant::Blob].into(), ..NewFunction::new("digest", component) };
    let digest = nodes.deploy(&digest).await;
    println!("\nflood     cut off after     sent      /s  resident  honest changes  arrived last after  why");
    for (number, kind) in [Flood::Rubbish, Flood::Refused, Flood::Idle, Flood::Hints].into_iter().enumerate() {
        let member = Member::join(&nodes, number as u8).await;
        let begun = Instant::now();
        let flooding = tokio::spawn(Arc::clone(&member).flood(kind));
        let stop = AtomicBool::new(false);
        let cut_off = async {
            let why = until(|| kept_out(&nodes, member.mesh.node())).await;
            let (after, sent) = (begun.elapsed(), member.sent.load(Ordering::Relaxed));
            stop.store(true, Ordering::Relaxed);
            (after, sent, why)
        };
        let ((after, sent, why), written) = tokio::join!(cut_off, write(&nodes, &digest, kind, &stop));
        let resident = resident_kib(&nodes);
        let ended = Instant::now();
        arrived(&nodes, &digest, &written).await;
        println!(
            "{:<8} {:>10.2} s {:>10} {:>7.0} {:>5} MiB {:>15} {:>17.2} s  {why}",
            format!("{kind:?}"),
            after.as_secs_f64(),
            sent,
            sent as f64 / after.as_secs_f64(),
            resident / 1024,
            written.keys.len() + written.functions.len(),
            ended.elapsed().as_secs_f64(),
        );
        member.stop.store(true, Ordering::Relaxed);
        flooding.await.unwrap();
        member.mesh.stop().await;
        assert!(after < CUT_OFF_MAX, "{kind:?}: cut off only after {after:?}");
        assert!(resident < RESIDENT_MAX_KIB, "{kind:?}: {resident} KiB");
        assert!(!written.keys.is_empty());
    }
    nodes.stop().await;
}
