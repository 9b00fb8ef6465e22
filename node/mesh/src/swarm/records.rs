//! What this node provides in the DHT.
//!
//! libp2p puts a record at those peers that it knows at that moment, and again only after minutes. A node that has just
//! started knows nobody, and its neighbours' first records lie at few: so all are announced again whenever the number of
//! peers has doubled, and when the own addresses have changed, since a record carries them.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use libp2p::kad::RecordKey;
use libp2p::kad::store::RecordStore as _;

use super::Driver;

/// From one round of announcements to the next.
const ROUNDS_APART: Duration = Duration::from_millis(500);
/// Announcements that begin at one tick. Why 16: 64 a second, each asks a handful of peers.
const AT_ONCE: usize = 16;
/// Records of the DHT that have expired are swept so often.
const SWEEP_EVERY: Duration = Duration::from_secs(60);

/// What is to be announced, and what was.
pub(super) struct Records {
    due: VecDeque<RecordKey>,
    /// Peers that were here at the last round.
    peers: usize,
    anew: bool,
    next_round: Instant,
    next_sweep: Instant,
}

impl Records {
    pub(super) fn new(now: Instant) -> Self {
        Self { due: VecDeque::new(), peers: 0, anew: false, next_round: now, next_sweep: now + SWEEP_EVERY }
    }
}

impl Driver {
    pub(super) fn provide(&mut self, key: Vec<u8>) {
        if let Err(error) = self.swarm.behaviour_mut().kad.start_providing(RecordKey::from(key)) {
            tracing::warn!(%error, "the DHT does not take a record of this node");
        }
    }

    pub(super) fn withdraw(&mut self, key: Vec<u8>) {
        let key = RecordKey::from(key);
        self.records.due.retain(|due| *due != key);
        self.swarm.behaviour_mut().kad.stop_providing(&key);
    }

    /// All records are to be announced again: they carry addresses that have changed.
    pub(super) fn announce_anew(&mut self) {
        self.records.anew = true;
    }

    /// Announces what is due, and sweeps what has expired.
    pub(super) fn announce(&mut self, now: Instant) {
        if now >= self.records.next_round {
            self.begin_round(now);
        }
        for _ in 0..AT_ONCE {
            let Some(key) = self.records.due.pop_front() else { break };
            self.provide(key.to_vec());
        }
        let kad = &mut self.swarm.behaviour_mut().kad;
        if now >= self.records.next_sweep {
            self.records.next_sweep = now + SWEEP_EVERY;
            kad.store_mut().sweep(now);
        }
        let held = kad.store_mut().len() as u64;
        let blocked = self.swarm.behaviour().gate.blocked(now) as u64;
        self.shared.tally.dht_records.store(held, std::sync::atomic::Ordering::Relaxed);
        self.shared.tally.blocked_now.store(blocked, std::sync::atomic::Ordering::Relaxed);
    }

    fn begin_round(&mut self, now: Instant) {
        let peers = self.shared.book().iter().filter(|(_, peer)| peer.identified).count();
        if peers == 0 {
            self.records.peers = 0;
            return;
        }
        if peers < self.records.peers.saturating_mul(2) && !self.records.anew {
            return;
        }
        self.records.peers = self.records.peers.max(peers).max(1);
        self.records.anew = false;
        self.records.next_round = now + ROUNDS_APART;
        let provided = self.swarm.behaviour_mut().kad.store_mut().provided();
        self.records.due = provided.map(|record| record.key.clone()).collect();
    }
}
