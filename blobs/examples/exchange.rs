//! How fast a blob goes from node to node: one process serves, this one fetches, over loopback.
//!
//! `cargo run --release -p shoal-blobs --example exchange -- [MIB] [ROUNDS]`
//!
//! Four ways, each with both ends as processes of their own and stores on disk, in turn: bare iroh-blobs over iroh, and the
//! exchange over iroh, over TCP, and over TCP with everything made durable. The blob is removed from the fetching side
//! before each round.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::stream;
use iroh::endpoint::Builder;
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, PublicKey, SecretKey};
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::{BlobsProtocol, Hash, HashAndFormat};
use shoal_blobs::exchange::direct::{Direct, Gate};
use shoal_blobs::exchange::{FetchOptions, Provider, ServeError, ServeOptions, Served};
use shoal_blobs::{Options, Store};
use shoal_protocol::{BlobId, NodeId};
use tokio::net::{TcpListener, TcpStream};

const MIB: usize = 1024 * 1024;
const PROTOCOL: &str = "/shoal/bench/blob/1";

struct Open;

impl Gate for Open {
    type Place = ();

    fn admits(&self, _node: NodeId) -> bool {
        true
    }

    fn place(&self, _node: NodeId) -> Option<()> {
        Some(())
    }

    async fn allows(&self, _node: NodeId, _blob: BlobId) -> bool {
        true
    }

    fn served(&self, _node: NodeId, result: &Result<Served, ServeError>) {
        if let Err(cause) = result {
            eprintln!("served: {cause}");
        }
    }
}

fn piece(seed: u64) -> Bytes {
    let mut bytes = vec![0; MIB];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes.into()
}

/// The most memory that a process had resident since it was asked to begin, in MiB.
fn resident_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap() / 1024
}

fn forget_peak(pid: u32) {
    // May be refused: then the figure is of the whole life.
    let _ = std::fs::write(format!("/proc/{pid}/clear_refs"), "5");
}

/// User and system time of a process, in seconds.
fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit_once(')').unwrap().1.split_whitespace().collect();
    (fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap()) / 100.0
}

async fn bare_endpoint(secret: Option<SecretKey>) -> Endpoint {
    let mut builder = Builder::empty()
        .crypto_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")
        .unwrap();
    if let Some(secret) = secret {
        builder = builder.secret_key(secret);
    }
    builder.bind().await.unwrap()
}

/// The serving process: prints where it is and what it has, then serves until its input ends.
async fn serve(kind: &str, mib: u64) {
    let folder = tempfile::tempdir().unwrap();
    let pieces = stream::iter((0..mib).map(|seed| Ok(piece(seed))));
    let _keep: Box<dyn std::any::Any> = match kind {
        "bare" => {
            let fs = FsStore::load(folder.path()).await.unwrap();
            let tag = fs.add_stream(pieces).await.temp_tag().await.unwrap();
            let endpoint = bare_endpoint(Some(SecretKey::from_bytes(&[1; 32]))).await;
            let address = endpoint.bound_sockets()[0];
            println!("{} {address} {}", endpoint.id(), BlobId(*tag.hash().as_bytes()));
            let router = Router::builder(endpoint).accept(iroh_blobs::ALPN, BlobsProtocol::new(&fs, None)).spawn();
            Box::new((fs, tag, router))
        }
        _ => {
            let store = Store::open(folder.path(), Options::default()).await.unwrap();
            let held = store.put(u64::MAX, pieces).await.unwrap();
            let direct = Arc::new(Direct::bind(&[1; 32], &["127.0.0.1:0".parse().unwrap()], PROTOCOL).await.unwrap());
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let address = if kind == "iroh" { direct.addresses()[0] } else { listener.local_addr().unwrap() };
            println!("{} {address} {}", direct.node(), held.id());
            let (serving, served) = (direct.clone(), store.clone());
            tokio::spawn(async move { serving.serve(served, Arc::new(Open), ServeOptions::default()).await });
            tokio::spawn(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    let store = store.clone();
                    tokio::spawn(async move { store.serve(stream, async |_| true, &ServeOptions::default()).await });
                }
            });
            Box::new((held, direct))
        }
    };
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await.unwrap().unwrap();
    // Not closed in order: the folder goes with the process.
    drop(folder);
    std::process::exit(0);
}

struct Server {
    child: Child,
    node: NodeId,
    address: SocketAddr,
    id: BlobId,
}

impl Server {
    fn start(kind: &str, mib: u64) -> Self {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["serve", kind, &mib.to_string()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let fields: Vec<&str> = line.split_whitespace().collect();
        Self {
            child,
            node: fields[0].parse().unwrap(),
            address: fields[1].parse().unwrap(),
            id: fields[2].parse().unwrap(),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        self.child.wait().unwrap();
    }
}

/// Fetches once with iroh-blobs alone.
async fn fetch_bare(server: &Server, folder: &Path) -> Duration {
    let fs = FsStore::load(folder).await.unwrap();
    let endpoint = bare_endpoint(None).await;
    let peer = EndpointAddr::new(PublicKey::from_bytes(&server.node.0).unwrap()).with_ip_addr(server.address);
    let since = Instant::now();
    let connection = endpoint.connect(peer, iroh_blobs::ALPN).await.unwrap();
    fs.remote().fetch(connection, HashAndFormat::raw(Hash::from_bytes(server.id.0))).await.unwrap();
    let took = since.elapsed();
    endpoint.close().await;
    fs.shutdown().await.unwrap();
    took
}

async fn fetch(server: &Server, folder: &Path, kind: &str) -> Duration {
    let store = Store::open(folder, Options::default()).await.unwrap();
    let direct = Arc::new(Direct::bind(&[2; 32], &["127.0.0.1:0".parse().unwrap()], PROTOCOL).await.unwrap());
    let address = server.address;
    let provider = match kind {
        "iroh" => {
            let (direct, node) = (direct.clone(), server.node);
            Provider::new(node, move || {
                let direct = direct.clone();
                async move {
                    direct.connect(node, &[address]).await?;
                    direct.open(node).await
                }
            })
        }
        _ => Provider::new(server.node, move || TcpStream::connect(address)),
    };
    let since = Instant::now();
    let options = FetchOptions { durable: kind == "tcp, durable", ..FetchOptions::new(u64::MAX) };
    let fetched = store.fetch(server.id, vec![provider], options).await.unwrap();
    let took = since.elapsed();
    assert_eq!((fetched.moved, fetched.trials.len()), (fetched.held.size(), 1), "{:?}", fetched.trials);
    direct.close().await;
    store.close().await.unwrap();
    took
}

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |n: usize, default| arguments.get(n).map_or(default, |text| text.parse().unwrap());
    if arguments.first().is_some_and(|first| first == "serve") {
        return serve(&arguments[1], number(2, 0)).await;
    }
    let (mib, rounds) = (number(0, 1024), number(1, 3));
    let (me, kinds) = (std::process::id(), ["bare", "iroh", "tcp", "tcp, durable"]);
    let servers = kinds.map(|kind| Server::start(kind, mib));
    println!("{mib} MiB over loopback, {rounds} rounds in turn");
    for round in 1..=rounds {
        for (kind, server) in kinds.iter().zip(&servers) {
            let folder = tempfile::tempdir().unwrap();
            let there = server.child.id();
            forget_peak(me);
            forget_peak(there);
            let before = (cpu_seconds(me), cpu_seconds(there));
            let took = match *kind {
                "bare" => fetch_bare(server, folder.path()).await,
                _ => fetch(server, folder.path(), kind).await,
            };
            println!(
                "round {round}  {kind:<13} {:>7.0} MiB/s   CPU {:.1} s here, {:.1} s there   at most {} MiB here, {} MiB there",
                mib as f64 / took.as_secs_f64(),
                cpu_seconds(me) - before.0,
                cpu_seconds(there) - before.1,
                resident_mib(me),
                resident_mib(there),
            );
            std::io::stdout().flush().unwrap();
        }
    }
}
