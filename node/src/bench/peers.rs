//! `shoal bench --peers`: Slurm and HyperQueue on this machine, in turn with Shoal.
//!
//! Each peer that is installed is started anew, in a folder of its own and on loopback, by its own programs. A round is the
//! same for all: one client hands over jobs that do next to nothing, one after the other (submits/s), and waits until the
//! last has ended (jobs/s, Shoal's with 64 under way); then it hands over a job, waits for its result, and hands over the
//! next. At last jobs that wait are handed over, the process that has acknowledged them is killed with SIGKILL and started
//! again, and those that are gone are counted. The rounds follow each other in turn, so that a machine that changes its
//! pace does so for all. The table has medians.
//!
//! What an acknowledgement means is not the same: [`System::acknowledged`] says it, and stands under the table.

mod child;
mod figures;
mod hyperqueue;
mod own;
mod slurm;

use std::time::Duration;

use anyhow::Context as _;

pub(super) use figures::Peers;
use figures::{Missing, Round, System};
use hyperqueue::HyperQueue;
use slurm::Slurm;

use super::{Bench, blocking, raw};

/// The pause between two looks at whether something has happened.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a round of a peer may take. Why 5 minutes: 20 times what the slowest took where this was written.
const ROUND_MAX: Duration = Duration::from_secs(300);

/// A peer that has started.
enum Peer {
    Slurm(Box<Slurm>),
    HyperQueue(Box<HyperQueue>),
}

impl Peer {
    async fn round(&mut self, number: u32) -> anyhow::Result<Round> {
        let round = async {
            match self {
                Self::Slurm(slurm) => slurm.round(number).await,
                Self::HyperQueue(hyperqueue) => hyperqueue.round(number).await,
            }
        };
        tokio::time::timeout(ROUND_MAX, round).await.context("it takes too long")?
    }

    fn system(&self) -> System {
        match self {
            Self::Slurm(slurm) => slurm.system(),
            Self::HyperQueue(hyperqueue) => hyperqueue.system(),
        }
    }
}

impl Bench {
    /// Measures Shoal and the peers in turn.
    pub(super) async fn peers(&mut self) -> anyhow::Result<()> {
        self.screen.title("beside its peers, in turn; medians");
        let mut missing = Vec::new();
        let mut peers = self.start_peers(&mut missing).await;
        let mut own = self.start_own().await?;
        let mut system = own::system();
        let mut systems: Vec<System> = peers.iter().map(|(peer, _)| peer.system()).collect();
        let (screen, rounds) = (self.screen, self.args.peer_rounds);
        for number in 1..=rounds {
            system.add(self.own_round(&mut own).await.context("Shoal")?, &screen);
            for ((peer, name), system) in peers.iter_mut().zip(&mut systems) {
                system.add(peer.round(number).await.context(*name)?, &screen);
            }
        }
        systems.insert(0, system);
        for (peer, _) in peers {
            if let Peer::Slurm(slurm) = peer {
                slurm.stop().await;
            }
        }
        let folder = self.folder.path().to_owned();
        let raw_fdatasync = blocking(move || raw::synced(&folder)).await?;
        let figures = Peers::new(rounds, systems, missing, raw_fdatasync);
        figures.show(&self.screen);
        self.report.peers = Some(figures);
        Ok(())
    }

    /// Starts those that are installed. Whoever is not there, or does not start, is noted with the reason.
    async fn start_peers(&self, missing: &mut Vec<Missing>) -> Vec<(Peer, &'static str)> {
        let (folder, slots) = (self.folder.path(), self.args.slots);
        let mut peers = Vec::new();
        match Slurm::start(&folder.join("slurm"), slots).await {
            Ok(slurm) => peers.push((Peer::Slurm(Box::new(slurm)), slurm::NAME)),
            Err(why) => missing.push(Missing::new(slurm::NAME, slurm::INSTALL, &why)),
        }
        match HyperQueue::start(&folder.join("hyperqueue"), slots).await {
            Ok(hyperqueue) => peers.push((Peer::HyperQueue(Box::new(hyperqueue)), hyperqueue::NAME)),
            Err(why) => missing.push(Missing::new(hyperqueue::NAME, hyperqueue::INSTALL, &why)),
        }
        peers
    }
}
