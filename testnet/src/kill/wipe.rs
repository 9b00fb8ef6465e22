//! Homes that are lost with their disks, while clients submit.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use shoal_testnet::Node;
use shoal_testnet::report::Line;

use super::load::{Load, Outcome};
use super::{LOOK_EVERY, PATIENCE};

/// After how long jobs are taken over whose home is away, as nodes are told. Why 5 s: as short as makes sense beside kills that are
/// over in less.
pub(super) const TAKEOVER_AFTER: &str = "5s";
/// Which home is lost. Why not the first: others join by it.
const PLACE: usize = 1;
/// How long clients submit at least until the next disk goes.
const LOAD_MIN: Duration = Duration::from_millis(1_500);
/// And at most so much longer, by chance, in milliseconds.
const LOAD_MORE_MS: u64 = 1_000;

/// What became of it.
#[derive(Debug, Default)]
pub(super) struct Wiped {
    /// Homes that were lost.
    times: usize,
    /// Of the jobs that they had acknowledged.
    pub(super) outcome: Outcome,
    /// From the loss of a home until all its jobs had ended elsewhere.
    ended: Vec<Duration>,
}

impl Wiped {
    /// What the report says of it.
    pub(super) fn lines(&self) -> Vec<Line> {
        if self.times == 0 {
            return Vec::new();
        }
        let jobs = format!("{} jobs of {} homes", self.outcome.acknowledged, self.times);
        vec![
            Line::new("kill", "acknowledged by homes that were lost with their disks, and found").found(jobs),
            Line::new("kill", "from the loss of a home until its last job had ended").times(self.ended.iter().copied()),
        ]
    }
}

/// Deletes all that is in a folder.
async fn delete(folder: &Path) -> anyhow::Result<()> {
    let deadline = Instant::now() + PATIENCE;
    // Its worker may write a last word while it ends.
    while let Err(error) = std::fs::remove_dir_all(folder) {
        ensure!(Instant::now() < deadline, "its disk cannot be deleted: {error}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
    std::fs::create_dir(folder).context("there is no place for another node")
}

/// Kills a home so often and deletes its disk. It is always the one in the same place: a job that is on two disks is lost with both, and
/// of what has settled a third node need not have heard.
pub(super) async fn wipe(nodes: &mut [Node], load: &Load, times: usize, seed: u64) -> anyhow::Result<Wiped> {
    let mut wiped = Wiped::default();
    for round in 0..times {
        let node = nodes.get_mut(PLACE).context("there is no node that could be lost")?;
        let chance = (round as u64 + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        tokio::time::sleep(LOAD_MIN + Duration::from_millis(chance % LOAD_MORE_MS)).await;
        node.kill()?;
        load.home(PLACE).gone();
        node.kill_worker();
        delete(&node.data()).await?;
        let lost = Instant::now();
        let outcome = load.check_lost(PLACE).await;
        wiped.ended.push(lost.elapsed());
        wiped.outcome = std::mem::take(&mut wiped.outcome).and(outcome);
        wiped.times += 1;
        // In its place comes one that knows nothing, with a key of its own.
        node.start().await?;
        load.home(PLACE).is_back(node).await?;
    }
    Ok(wiped)
}
