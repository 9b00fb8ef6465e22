//! How fast the networks themselves are: what a figure of a scenario can at best be.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::net::{Machine, Network};
use crate::report::Line;

/// Datagrams that go there and back.
const PINGS: usize = 5_000;
/// Bytes that go one way.
const STREAM_LEN: usize = 256 * 1024 * 1024;
const CHUNK_LEN: usize = 64 * 1024;
/// How often two sites try to reach each other, and how long each time.
const PUNCHES: usize = 5;
const PUNCH_WAIT: Duration = Duration::from_millis(200);
/// How long any of it may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// Measures a bridge and a switch, each between two machines without any delay.
///
/// # Errors
/// When a network cannot be made.
pub async fn networks() -> anyhow::Result<Vec<Line>> {
    let mut lines = Vec::new();
    for (kind, mut network) in [("bridge", Network::bridge(false)?), ("switch", Network::switch(1)?)] {
        let (a, b) = (network.join(&format!("{kind}-a"))?, network.join(&format!("{kind}-b"))?);
        let times = timeout(PATIENCE, round_trips(&a, &b)).await??;
        let micros = times.into_iter().map(|time| time.as_secs_f64() * 1e6);
        lines.push(Line::new(kind, format!("{kind}: there and back, UDP")).measured(micros, "µs"));
        let took = timeout(PATIENCE, stream(&a, &b)).await??;
        let mib = STREAM_LEN as f64 / took.as_secs_f64() / f64::from(1 << 20);
        lines.push(Line::new(kind, format!("{kind}: one TCP stream")).found(format!("{mib:.0} MiB/s")));
    }
    Ok(lines)
}

/// Looks whether a hole can be punched between two sites, and that none can once they are closed.
///
/// # Errors
/// When the network cannot be made.
pub async fn sites() -> anyhow::Result<Vec<Line>> {
    let mut network = Network::bridge(true)?;
    network.add_site("left")?;
    network.add_site("right")?;
    let outside = network.join("outside")?;
    let (a, b) = (network.join_site("left-1", "left")?, network.join_site("right-1", "right")?);
    let open = punch(&outside, &a, &b).await?;
    network.block_sites()?;
    let closed = punch(&outside, &a, &b).await?;
    let said = |passes: bool| if passes { "a datagram passes" } else { "nothing passes" };
    Ok(vec![
        Line::new("sites", "sites: through a hole").found(said(open)).promise("passes", open),
        Line::new("sites", "sites: when they are closed").found(said(closed)).promise("nothing", !closed),
    ])
}

/// Two machines learn from a third as what they are seen, send to each other at once, and one hears the other or not.
async fn punch(outside: &Machine, a: &Machine, b: &Machine) -> anyhow::Result<bool> {
    let witness = bind(outside).await?;
    let (a, b) = (bind(a).await?, bind(b).await?);
    let (seen_a, seen_b) = (seen(&witness, &a).await?, seen(&witness, &b).await?);
    for _ in 0..PUNCHES {
        a.send_to(b"a", seen_b).await?;
        b.send_to(b"b", seen_a).await?;
        let heard = async {
            let (_, from) = b.recv_from(&mut [0; 64]).await?;
            anyhow::Ok(from == seen_a)
        };
        if let Ok(heard) = timeout(PUNCH_WAIT, heard).await {
            return heard;
        }
    }
    Ok(false)
}

/// The address from which a socket's datagrams come.
async fn seen(witness: &UdpSocket, socket: &UdpSocket) -> anyhow::Result<SocketAddr> {
    socket.send_to(b"?", witness.local_addr()?).await?;
    let (_, from) = timeout(PATIENCE, witness.recv_from(&mut [0; 64])).await??;
    Ok(from)
}

async fn round_trips(a: &Machine, b: &Machine) -> anyhow::Result<Vec<Duration>> {
    let echo = bind(b).await?;
    let to = echo.local_addr()?;
    let answering = b.namespace.runtime().spawn(async move {
        let mut datagram = [0; 64];
        while let Ok((len, from)) = echo.recv_from(&mut datagram).await {
            drop(echo.send_to(datagram.get(..len).unwrap_or_default(), from).await);
        }
    });
    let socket = bind(a).await?;
    let asking = a.namespace.runtime().spawn(async move {
        let mut times = Vec::with_capacity(PINGS);
        for _ in 0..PINGS {
            let sent = Instant::now();
            socket.send_to(&[0; 64], to).await?;
            socket.recv_from(&mut [0; 64]).await?;
            times.push(sent.elapsed());
        }
        anyhow::Ok(times)
    });
    let times = asking.await?;
    answering.abort();
    times
}

async fn bind(machine: &Machine) -> anyhow::Result<UdpSocket> {
    let address = SocketAddr::from((machine.address, 0));
    machine.namespace.runtime().spawn(UdpSocket::bind(address)).await?.context("binding a socket")
}

async fn stream(a: &Machine, b: &Machine) -> anyhow::Result<Duration> {
    let address = SocketAddr::from((b.address, 0));
    let listener = b.namespace.runtime().spawn(TcpListener::bind(address)).await??;
    let to = listener.local_addr()?;
    let receiving = b.namespace.runtime().spawn(async move {
        let (mut stream, _) = listener.accept().await?;
        let mut chunk = vec![0; CHUNK_LEN];
        while stream.read(&mut chunk).await? > 0 {}
        stream.write_all(b"!").await
    });
    let sending = a.namespace.runtime().spawn(async move {
        let begun = Instant::now();
        let mut stream = TcpStream::connect(to).await?;
        let chunk = vec![0; CHUNK_LEN];
        for _ in 0..STREAM_LEN / CHUNK_LEN {
            stream.write_all(&chunk).await?;
        }
        stream.shutdown().await?;
        stream.read_exact(&mut [0]).await?;
        anyhow::Ok(begun.elapsed())
    });
    receiving.await??;
    sending.await?
}
