//! The places where a run can go: the workers of this node, and its peers, each of which stands among them as one more.
//!
//! A worker is remembered for a while after its connection ended, so that it comes back to its runs and stays cordoned.
//! A peer is remembered as long as its lease lasts or it holds a run.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::object::function::Needs;
use shoal_protocol::object::worker::{Offer, Worker as View};
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{BlobId, NodeId, ObjectId, WorkerId};

use crate::lease::Lease;
use crate::peers::{PEERS_MAX, Peer};

/// Workers of its own that a node knows at once. Why 1,024: placement looks at each of them for each shape of needs.
pub(crate) const WORKERS_MAX: usize = 1024;

/// How long a worker without runs is remembered after its connection ended, in milliseconds: ten minutes.
pub(crate) const REMEMBERED_MS: u64 = 600_000;

/// Components that a worker is known to have compiled. Why 64: beyond it a preference is worth less than its memory.
const WARM_MAX: usize = 64;

/// One worker, or one peer.
#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) id: WorkerId,
    pub(crate) name: String,
    pub(crate) local: bool,
    /// What a peer offers stands in `peer`.
    pub(crate) offer: Offer,
    pub(crate) peer: Option<Peer>,
    pub(crate) link: Link,
    /// Of the process that attached last; none: it has not attached since this node started.
    pub(crate) incarnation: Option<u64>,
    pub(crate) attached_ms: u64,
    pub(crate) lease: Lease,
    /// When the lease, or the memory of this worker, is looked at next: the time of its one timer.
    pub(crate) due_ms: u64,
    pub(crate) cordoned: bool,
    pub(crate) leaving: bool,
    /// It declined a run: it gets no other one until then.
    pub(crate) pause: Option<Pause>,
    /// Jobs whose current run is here, with the memory that the run needs.
    runs: BTreeMap<ObjectId, u32>,
    /// Runs that no longer count and that it has not yet let go of: they occupy slots and memory.
    strays: BTreeMap<Run, u32>,
    /// How many runs and strays need how much memory.
    memory: BTreeMap<u32, u32>,
    /// Components that have run here, oldest first.
    warm: Vec<BlobId>,
}

/// A worker's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Link {
    /// It has not been there since this node started.
    Never,
    /// This connection stands.
    Up(u64),
    /// This connection was the last one, and ended at that time.
    Down { connection: u64, since_ms: u64 },
}

/// Why a worker gets no runs for a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pause {
    pub(crate) until_ms: u64,
    pub(crate) why: String,
}

impl Worker {
    /// A worker that is only known by name.
    pub(crate) fn new(id: WorkerId, name: &str, lease: Lease) -> Self {
        Self {
            id,
            name: name.to_owned(),
            local: false,
            offer: Offer::default(),
            peer: None,
            link: Link::Never,
            incarnation: None,
            attached_ms: 0,
            lease,
            due_ms: lease.until_ms,
            cordoned: false,
            leaving: false,
            pause: None,
            runs: BTreeMap::new(),
            strays: BTreeMap::new(),
            memory: BTreeMap::new(),
            warm: Vec::new(),
        }
    }

    /// The node, if this is a peer.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.peer.as_ref().map(|peer| peer.node)
    }

    pub(crate) fn attached(&self) -> bool {
        matches!(self.link, Link::Up(_))
    }

    /// Jobs whose current run is here.
    pub(crate) fn runs(&self) -> impl Iterator<Item = ObjectId> + '_ {
        self.runs.keys().copied()
    }

    pub(crate) fn has_runs(&self) -> bool {
        !self.runs.is_empty()
    }

    pub(crate) fn has_strays(&self) -> bool {
        !self.strays.is_empty()
    }

    /// Runs that occupy or wait for a slot.
    pub(crate) fn occupied(&self) -> usize {
        self.runs.len() + self.strays.len()
    }

    /// Slots without a run.
    pub(crate) fn free_slots(&self) -> usize {
        (self.offer.slots as usize).saturating_sub(self.occupied())
    }

    /// The most memory that can be in use at once if one more run of `memory_mb` is handed over: as many runs as there
    /// are slots, the largest ones. Whichever of them run together, they fit.
    pub(crate) fn memory_with(&self, memory_mb: u32) -> u64 {
        let mut slots = u64::from(self.offer.slots);
        let mut sum = 0;
        let mut add = |size: u32, number: u32| {
            let taken = u64::from(number).min(slots);
            slots -= taken;
            sum += taken * u64::from(size);
        };
        let mut pending = Some(memory_mb);
        for (&size, &number) in self.memory.iter().rev() {
            if let Some(own) = pending.take_if(|own| *own >= size) {
                add(own, 1);
            }
            add(size, number);
        }
        if let Some(own) = pending {
            add(own, 1);
        }
        sum
    }

    /// Takes a run in.
    pub(crate) fn take(&mut self, job: ObjectId, needs: &Needs) {
        let memory_mb = needs.memory();
        if self.runs.insert(job, memory_mb).is_none() {
            *self.memory.entry(memory_mb).or_default() += 1;
        }
        if let Some(peer) = &mut self.peer {
            peer.take(job, needs);
        }
    }

    /// A run is gone, or counts no more.
    pub(crate) fn release(&mut self, job: ObjectId) {
        if let Some(memory_mb) = self.runs.remove(&job) {
            self.free(memory_mb);
            if let Some(peer) = &mut self.peer {
                peer.release(job);
            }
        }
    }

    /// A run counts no more, but may still be under way here.
    pub(crate) fn abandon(&mut self, run: Run) {
        if let Some(peer) = &mut self.peer {
            peer.abandon(run.job);
        }
        if let Some(memory_mb) = self.runs.remove(&run.job)
            && self.strays.insert(run, memory_mb).is_some()
        {
            self.free(memory_mb);
        }
    }

    /// A run that counts no more is gone.
    pub(crate) fn stray_gone(&mut self, run: Run) -> bool {
        let gone = self.strays.remove(&run);
        if let Some(memory_mb) = gone {
            self.free(memory_mb);
        }
        gone.is_some()
    }

    /// All strays that are not among these are gone. Whether there were any.
    pub(crate) fn keep_strays(&mut self, listed: &BTreeSet<Run>) -> bool {
        let gone: Vec<Run> = self.strays.keys().filter(|run| !listed.contains(run)).copied().collect();
        gone.iter().for_each(|run| {
            self.stray_gone(*run);
        });
        !gone.is_empty()
    }

    fn free(&mut self, memory_mb: u32) {
        if let Some(number) = self.memory.get_mut(&memory_mb) {
            *number -= 1;
            if *number == 0 {
                self.memory.remove(&memory_mb);
            }
        }
    }

    /// Whether it has run this component.
    pub(crate) fn is_warm(&self, component: BlobId) -> bool {
        self.warm.contains(&component)
    }

    /// It has run this component.
    pub(crate) fn warm_up(&mut self, component: BlobId) {
        if self.warm.last() == Some(&component) {
            return;
        }
        self.warm.retain(|known| *known != component);
        if self.warm.len() >= WARM_MAX {
            self.warm.remove(0);
        }
        self.warm.push(component);
    }

    /// It is another process: what it had compiled may be gone.
    pub(crate) fn cool_down(&mut self) {
        self.warm.clear();
    }

    /// As its readers see it, with the jobs of `runs` that `visible` lets through.
    pub(crate) fn view(&self, visible: impl Fn(ObjectId) -> bool) -> View {
        View {
            id: self.id,
            name: self.name.clone(),
            local: self.local,
            attached: self.attached(),
            cordoned: self.cordoned,
            offer: self.offer.clone(),
            running: self.runs().filter(|job| visible(*job)).collect(),
            attached_ms: self.attached_ms,
        }
    }
}

/// All known workers and peers, by id.
#[derive(Debug, Default)]
pub(crate) struct Workers {
    table: BTreeMap<WorkerId, Worker>,
}

impl Workers {
    pub(crate) fn get(&self, id: WorkerId) -> Option<&Worker> {
        self.table.get(&id)
    }

    pub(crate) fn get_mut(&mut self, id: WorkerId) -> Option<&mut Worker> {
        self.table.get_mut(&id)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Worker> + Clone {
        self.table.values()
    }

    /// The workers of this node.
    pub(crate) fn own(&self) -> impl Iterator<Item = &Worker> + Clone {
        self.table.values().filter(|worker| worker.peer.is_none())
    }

    /// Its peers.
    pub(crate) fn peers(&self) -> impl Iterator<Item = &Worker> + Clone {
        self.table.values().filter(|worker| worker.peer.is_some())
    }

    /// Whether one more of its own is welcome.
    pub(crate) fn has_room(&self) -> bool {
        self.own().count() < WORKERS_MAX
    }

    /// Whether one more peer is welcome.
    pub(crate) fn has_room_for_peer(&self) -> bool {
        self.peers().count() < PEERS_MAX
    }

    pub(crate) fn insert(&mut self, worker: Worker) {
        self.table.insert(worker.id, worker);
    }

    pub(crate) fn remove(&mut self, id: WorkerId) {
        self.table.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(slots: u32) -> Worker {
        let mut worker = Worker::new(ObjectId::MIN, "w", Lease::grant(0, 1));
        worker.offer.slots = slots;
        worker
    }

    fn job(n: u64) -> ObjectId {
        ObjectId::from_parts(n, 0, [0; 8])
    }

    fn needs(memory_mb: u32) -> Needs {
        Needs { memory_mb: Some(memory_mb), ..Needs::default() }
    }

    #[test]
    fn memory_is_that_of_the_largest_runs_that_fit_the_slots() {
        let mut worker = worker(2);
        assert_eq!(worker.memory_with(100), 100);
        worker.take(job(1), &needs(300));
        assert_eq!(worker.memory_with(100), 400);
        worker.take(job(2), &needs(50));
        assert_eq!(worker.memory_with(100), 400, "the third runs beside one of the others only");
        assert_eq!(worker.memory_with(400), 700);
        worker.take(job(3), &needs(300));
        assert_eq!(worker.memory_with(10), 600);
        worker.release(job(1));
        worker.release(job(3));
        assert_eq!(worker.memory_with(10), 60);
    }

    #[test]
    fn an_abandoned_run_occupies_its_slot_until_it_is_gone() {
        let mut worker = worker(1);
        let run = Run { job: job(1), epoch: 1 };
        worker.take(job(1), &needs(100));
        worker.abandon(run);
        assert_eq!((worker.free_slots(), worker.has_runs(), worker.memory_with(10)), (0, false, 100));
        assert!(worker.stray_gone(run) && !worker.stray_gone(run));
        assert_eq!((worker.free_slots(), worker.memory_with(10)), (1, 10));
    }

    #[test]
    fn what_a_worker_has_compiled_is_bounded() {
        let mut worker = worker(1);
        let component = |n: u8| BlobId([n; 32]);
        for n in 0..=64 {
            worker.warm_up(component(n));
        }
        assert!(!worker.is_warm(component(0)) && worker.is_warm(component(1)) && worker.is_warm(component(64)));
    }
}
