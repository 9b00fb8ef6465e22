//! gossipsub by itself: as many processes of `node/mesh/examples/bare_gossip.rs` as there are nodes, all connected to all.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

/// How long one line may take to come.
const PATIENCE: Duration = Duration::from_secs(20);

/// The processes; they end when it is dropped.
pub(crate) struct BareMesh {
    peers: Vec<BarePeer>,
    published: u64,
}

struct BarePeer {
    // Held, since dropping it kills the process.
    _child: Child,
    input: ChildStdin,
    lines: Lines<BufReader<ChildStdout>>,
}

impl BareMesh {
    /// So many processes of this program. Returns when each knows that all others listen.
    ///
    /// # Errors
    /// When one does not start, or does not hear of all others in time.
    pub(crate) async fn start(program: &Path, count: usize) -> anyhow::Result<Self> {
        ensure!(
            program.exists(),
            "{} is missing: build it with `cargo build --release --workspace --examples`",
            program.display()
        );
        let mut peers: Vec<BarePeer> = Vec::with_capacity(count);
        let mut addresses: Vec<String> = Vec::with_capacity(count);
        for _ in 0..count {
            let mut peer = BarePeer::start(program)?;
            let address = peer.told("address").await?;
            for other in &addresses {
                peer.tell(&format!("dial {other}")).await?;
            }
            addresses.push(address);
            peers.push(peer);
        }
        let others = count.saturating_sub(1).to_string();
        for peer in &mut peers {
            while count > 1 && peer.told("heard").await? != others {}
        }
        Ok(Self { peers, published: 0 })
    }

    /// Publishes a message of so many bytes at one of them. How long it took until the last other one had it.
    ///
    /// # Errors
    /// When one does not get it.
    pub(crate) async fn publish(&mut self, at: usize, len: usize) -> anyhow::Result<Duration> {
        self.published += 1;
        let number = self.published;
        let publisher = self.peers.get_mut(at).context("no such peer")?;
        let sent = since_1970()?;
        publisher.tell(&format!("publish {number} {len}")).await?;
        let mut last = sent;
        for (place, peer) in self.peers.iter_mut().enumerate().filter(|(place, _)| *place != at) {
            let said = peer.told("got").await.with_context(|| format!("bare peer {place}"))?;
            let (got, micros) = said.split_once(' ').context("not a number and a time")?;
            ensure!(got == number.to_string(), "bare peer {place} got message {got} instead of {number}");
            last = last.max(Duration::from_micros(micros.parse()?));
        }
        Ok(last.saturating_sub(sent))
    }
}

impl BarePeer {
    fn start(program: &Path) -> anyhow::Result<Self> {
        let mut command = Command::new(program);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut child = command.spawn().with_context(|| format!("starting {}", program.display()))?;
        let input = child.stdin.take().context("no input")?;
        let lines = BufReader::new(child.stdout.take().context("no output")?).lines();
        Ok(Self { _child: child, input, lines })
    }

    async fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        Ok(self.input.write_all(format!("{line}\n").as_bytes()).await?)
    }

    /// What comes after this word, in the next line that begins with it.
    async fn told(&mut self, word: &str) -> anyhow::Result<String> {
        loop {
            let line = tokio::time::timeout(PATIENCE, self.lines.next_line()).await;
            let line = line.with_context(|| format!("no line with {word:?} in time"))??;
            let Some(line) = line else { bail!("it has ended") };
            if let Some((first, rest)) = line.split_once(' ')
                && first == word
            {
                return Ok(rest.to_owned());
            }
        }
    }
}

/// The time by the clock that processes on one machine share.
pub(crate) fn since_1970() -> anyhow::Result<Duration> {
    Ok(std::time::SystemTime::now().duration_since(std::time::SystemTime::UNIX_EPOCH)?)
}
