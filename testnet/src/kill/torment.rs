//! One node that ends again and again, and its worker.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use shoal_testnet::Node;

use super::load::Home;
use super::{LOOK_EVERY, PATIENCE};

/// A worker is killed so often for one kill of its node.
const NODES_PER_WORKER: usize = 5;
/// A point is passed at most so often before the node ends there.
const PASSES_MAX: u64 = 40;

/// Where a node ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Point {
    Acknowledge,
    Offer,
    Run,
    Upload,
    Settle,
}

impl Point {
    pub(super) const ALL: [Self; 5] = [Self::Acknowledge, Self::Offer, Self::Run, Self::Upload, Self::Settle];

    /// As the node is told.
    fn name(self) -> &'static str {
        match self {
            Self::Acknowledge => "acknowledge",
            Self::Offer => "offer",
            Self::Run => "run",
            Self::Upload => "upload",
            Self::Settle => "settle",
        }
    }

    pub(super) fn words(self) -> &'static str {
        match self {
            Self::Acknowledge => "between fsync and acknowledgement",
            Self::Offer => "during an offer",
            Self::Run => "while jobs run",
            Self::Upload => "during the upload of a result",
            Self::Settle => "during a settlement",
        }
    }
}

/// What was done to one node.
#[derive(Debug, Default)]
pub(super) struct Killed {
    /// Where the node has ended, each time.
    pub(super) nodes: Vec<Point>,
    /// How often its worker was killed.
    pub(super) workers: usize,
    /// How long it took to be back, each time.
    pub(super) back: Vec<Duration>,
}

/// What is to be done to one node.
#[derive(Debug)]
pub(super) struct Torment {
    points: Vec<(Point, u64)>,
}

impl Torment {
    /// Its share of so many kills among so many nodes: each point comes as often.
    pub(super) fn new(place: usize, nodes: usize, kills: usize, seed: u64) -> Self {
        let share = (place..kills).step_by(nodes);
        let points = share.filter_map(|kill| {
            let point = Point::ALL.get(kill / nodes % Point::ALL.len())?;
            // Knuth's multiplicative hash: the same for the same seed, and different from kill to kill.
            let chance = (kill as u64 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
            Some((*point, 1 + chance % PASSES_MAX))
        });
        Self { points: points.collect() }
    }

    /// Kills the node at each point in turn, and starts it again.
    pub(super) async fn run(self, node: &mut Node, home: &Home) -> anyhow::Result<Killed> {
        let mut killed = Killed::default();
        for (number, (point, passes)) in self.points.into_iter().enumerate() {
            node.crash_at(Some(format!("{}:{passes}", point.name())));
            if number == 0 {
                // The first life had no end in store.
                home.gone();
                node.kill()?;
            }
            let begun = Instant::now();
            match start(node, home).await {
                Ok(()) => killed.back.push(begun.elapsed()),
                // It may have come to its point by then: with what it had before.
                Err(error) => {
                    ended(node).await.map_err(|_| error)?;
                    home.gone();
                    killed.nodes.push(point);
                    continue;
                }
            }
            if number % NODES_PER_WORKER == NODES_PER_WORKER - 1 {
                killed.workers += usize::from(node.kill_worker());
            }
            ended(node).await.with_context(|| format!("the node does not come to the point {}", point.name()))?;
            home.gone();
            killed.nodes.push(point);
        }
        if !killed.nodes.is_empty() {
            node.crash_at(None);
            start(node, home).await?;
        }
        Ok(killed)
    }
}

async fn start(node: &mut Node, home: &Home) -> anyhow::Result<()> {
    node.start().await?;
    home.is_back(node).await
}

async fn ended(node: &mut Node) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !node.has_ended()? {
        ensure!(Instant::now() < deadline, "it has run on for {PATIENCE:?}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    Ok(())
}
