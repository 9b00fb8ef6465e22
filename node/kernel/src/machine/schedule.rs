//! Handing jobs to workers. A step costs shapes × workers, plus that for each job that it places.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};

use shoal_protocol::{ObjectId, WorkerId};

use super::Machine;
use crate::effect::Effect;
use crate::faults::Faults;
use crate::grants::ASK_LEN;
use crate::input::Now;
use crate::jobs::{Phase, Placed};
use crate::peers::{Peer, Room};
use crate::placement::{self, Obstacle, Request};
use crate::queue::{ShapeId, Turn};
use crate::record::Accepted;
use crate::timers::Timer;
use crate::workers::Worker;

/// How long the oldest job of its needs waits, although a worker could hold it, until that worker is kept free for it;
/// in milliseconds. Why 5 s: without it a job that needs much would wait for ever behind a stream of small ones, and
/// with no wait at all every second job would hold a worker idle.
const RESERVE_AFTER_MS: u64 = 5_000;

/// What older jobs without a place hold against younger ones within a step.
#[derive(Debug, Default)]
struct Claims {
    /// Kept free for a job that has waited for long.
    reserved: Option<WorkerId>,
    /// Workers that could run an older job if they had less to do: nothing is handed to them ahead of it, or a stream of
    /// short runs would never leave it a slot.
    awaited: BTreeSet<WorkerId>,
}

impl<F: Faults> Machine<F> {
    /// Hands over what can be handed over, in the order of the queue.
    ///
    /// While the node refuses jobs nothing is placed either: it is stopping, or cannot journal an epoch.
    pub(super) fn place(&mut self, now: Now, effects: &mut Vec<Effect>) {
        if self.refusing.is_some() {
            return;
        }
        if self.any_capacity() {
            self.place_all(now, effects);
            self.rebalance(now, effects);
        }
        self.seek(now, effects);
    }

    /// Gives every job that waits its turn.
    fn place_all(&mut self, now: Now, effects: &mut Vec<Effect>) {
        self.counters.quota_waits += u64::from(self.queue.shapes().any(|shape| self.turn_of(shape).is_none()));
        let turns = self.queue.shapes().filter_map(|shape| Some(Reverse((self.turn_of(shape)?, shape))));
        let mut heads: BinaryHeap<Reverse<(Turn, ShapeId)>> = turns.collect();
        let mut claims = Claims::default();
        let mut asked = Vec::new();
        // Within a step capacity only shrinks: a shape that was refused once is not looked at again.
        while let Some(Reverse((turn, shape))) = heads.pop() {
            // What has been handed over since may have changed whose turn it is: never to somebody's who was before.
            let Some(now_first) = self.turn_of(shape) else { continue };
            if now_first > turn {
                heads.push(Reverse((now_first, shape)));
                continue;
            }
            let id = now_first.rank.job();
            match self.find_place(now, id, shape, &claims) {
                Some(_) if !self.may_begin(id) => {
                    // Its custodians have a word first: it comes back with that.
                    self.await_word(now, id);
                    asked.push(id);
                    let next = self.turn_of(shape).filter(|_| asked.len() < ASK_LEN);
                    heads.extend(next.map(|next| Reverse((next, shape))));
                }
                Some((worker, ahead)) => {
                    if let Some(id) = self.next_to_run(now, id, effects) {
                        self.counters.prefetched += u64::from(ahead);
                        self.offer(now, id, worker, effects);
                    }
                    heads.extend(self.turn_of(shape).map(|next| Reverse((next, shape))));
                }
                None => self.claim(now, id, shape, &mut claims),
            }
        }
        self.reserved = claims.reserved;
        self.ask_for(&asked, effects);
    }

    /// Whether any worker or peer takes one more run at all: most steps under load end here.
    fn any_capacity(&self) -> bool {
        let own = |worker: &Worker| worker.occupied() < self.occupied_max(worker);
        let room = |peer: &Peer| peer.rooms().iter().any(Room::has_slot);
        self.workers.iter().any(|worker| worker.attached() && worker.peer.as_ref().map_or_else(|| own(worker), room))
    }

    /// Runs that a worker may hold: its slots, and what it is handed ahead.
    fn occupied_max(&self, worker: &Worker) -> usize {
        let slots = worker.offer.slots as usize;
        let prefetch = &self.config.prefetch;
        slots + slots.saturating_mul(prefetch.per_slot as usize) + prefetch.extra as usize
    }

    /// Where a waiting job goes, and whether that is ahead of a free slot.
    fn find_place(&self, now: Now, id: ObjectId, shape: ShapeId, claims: &Claims) -> Option<(WorkerId, bool)> {
        let needs = self.queue.needs(shape)?;
        let job = self.jobs.get(id)?;
        let request = Request {
            needs,
            component: job.accepted.spec.component,
            avoid: job.failed_at(),
            reserved: claims.reserved,
        };
        let own = self.find_own(now, job.accepted.spec.function, &request, claims);
        // What may run only once waits here: a worker that dies would take it along before it has begun.
        let once = job.accepted.terms.effects.is_once();
        own.filter(|(_, ahead)| !(*ahead && once)).or_else(|| {
            let peer = placement::choose_peer(self.workers.peers(), &request, now.mono_ms);
            peer.map(|worker| (worker, false))
        })
    }

    /// The worker of this node that has a run now, or promises to have it soon: the second says which.
    fn find_own(
        &self,
        now: Now,
        function: ObjectId,
        request: &Request<'_>,
        claims: &Claims,
    ) -> Option<(WorkerId, bool)> {
        let free = placement::choose(self.workers.own(), request, now.mono_ms).map(|worker| (worker, false));
        free.or_else(|| self.find_ahead(now, function, request, claims).map(|worker| (worker, true)))
    }

    /// Where a run of another home goes. It has what this home's jobs leave: no place that is kept for one of them, and
    /// nothing ahead of those that wait.
    pub(super) fn find_for_guest(&self, now: Now, accepted: &Accepted) -> Option<WorkerId> {
        let request = Request {
            needs: &accepted.spec.needs,
            component: accepted.spec.component,
            avoid: None,
            reserved: self.reserved.filter(|_| self.queue.len() > 0),
        };
        if self.queue.len() > 0 {
            return placement::choose(self.workers.own(), &request, now.mono_ms);
        }
        self.find_own(now, accepted.spec.function, &request, &Claims::default()).map(|(worker, _)| worker)
    }

    /// The busy worker that will come to this job first, if that promises to be soon. Only asked when no worker that
    /// fits has a free slot.
    fn find_ahead(&self, now: Now, function: ObjectId, request: &Request<'_>, claims: &Claims) -> Option<WorkerId> {
        // A first run of a function may take any time: it does not wait behind others, nor others behind it.
        self.functions.run_us(function)?;
        let wait_us_max = self.config.prefetch.wait_ms * 1_000;
        self.workers
            .own()
            .filter(|worker| !claims.awaited.contains(&worker.id) && request.avoid != Some(worker.id))
            .filter(|worker| worker.occupied() < self.occupied_max(worker))
            .filter(|worker| {
                matches!(
                    placement::examine(worker, request.needs, now.mono_ms),
                    Err(Obstacle::SlotsInUse { slots: 1.. })
                )
            })
            .filter_map(|worker| self.wait_us(now, worker).map(|wait_us| (wait_us, worker.id)))
            .filter(|(wait_us, _)| *wait_us <= wait_us_max)
            .min()
            .map(|(_, worker)| worker)
    }

    /// How long a worker will take to come to one more run, in microseconds; none where that cannot be told.
    fn wait_us(&self, now: Now, worker: &Worker) -> Option<u64> {
        if worker.has_strays() {
            return None;
        }
        let mut left_us: u64 = 0;
        for (function, placed) in worker.runs().filter_map(|id| Some((self.function_of(id)?, self.placed(id)?))) {
            let run_us = self.functions.run_us(function)?;
            let started_ms = placed.started_ms;
            let past_us = started_ms.map_or(0, |ms| now.mono_ms.saturating_sub(ms).saturating_mul(1_000));
            // A run beyond its average may take any time: the longer it has taken, the longer it is expected to.
            left_us = left_us.saturating_add(if past_us <= run_us { run_us - past_us } else { past_us });
        }
        Some(left_us / u64::from(worker.offer.slots.max(1)))
    }

    /// The function of a run, whoever its home is.
    fn function_of(&self, job: ObjectId) -> Option<ObjectId> {
        let own = self.jobs.get(job).map(|job| job.accepted.spec.function);
        own.or_else(|| self.guests.get(job).map(|guest| guest.accepted.spec.function))
    }

    /// Notes what a job that found no place waits for, before younger ones of other shapes have their turn.
    fn claim(&self, now: Now, id: ObjectId, shape: ShapeId, claims: &mut Claims) {
        let (Some(needs), Some(job)) = (self.queue.needs(shape), self.jobs.get(id)) else { return };
        let busy =
            |worker: &&Worker| placement::examine(worker, needs, now.mono_ms).is_err_and(|obstacle| obstacle.is_load());
        claims.awaited.extend(self.workers.own().filter(busy).map(|worker| worker.id));
        let Phase::Queued { since_ms } = job.phase else { return };
        if claims.reserved.is_none() && now.mono_ms.saturating_sub(since_ms) >= RESERVE_AFTER_MS {
            claims.reserved = placement::reserve(self.workers.own(), needs, now.mono_ms);
        }
    }

    /// Takes jobs that wait at a busy worker to another one that is idle. Only after all that waits in the queue had
    /// its turn; only what the worker cannot have begun: a worker runs what it was handed first, so the first runs, as
    /// many as it has slots, may be under way although it has not said so yet (it may be compiling).
    fn rebalance(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let own = |worker: &Worker| worker.free_slots() > 0;
        let idle = |peer: &Peer| peer.rooms().iter().any(Room::has_slot);
        let idle = |worker: &Worker| worker.peer.as_ref().map_or_else(|| own(worker), idle);
        if !self.workers.iter().any(|worker| worker.attached() && idle(worker)) {
            return;
        }
        let withdraw_ms = self.config.prefetch.withdraw_ms;
        let mut waiting: Vec<(u64, ObjectId)> = Vec::new();
        for worker in self.workers.own().filter(|worker| worker.attached()) {
            waiting.extend(self.waiting_at(worker));
        }
        let mut next_ms: Option<u64> = None;
        for (offered_ms, id) in waiting {
            let Some(target) = self.idle_place(now, id) else { continue };
            let due_ms = offered_ms.saturating_add(withdraw_ms);
            if due_ms <= now.mono_ms {
                self.withdraw(now, id, effects);
                self.offer(now, id, target, effects);
            } else {
                next_ms = Some(next_ms.map_or(due_ms, |next| next.min(due_ms)));
            }
        }
        if let Some(at_ms) = next_ms {
            self.timers.set(at_ms, Timer::Place);
        }
    }

    /// The jobs that a worker was handed ahead of its slots and has not begun, with the time at which they were handed.
    pub(super) fn waiting_at(&self, worker: &Worker) -> Vec<(u64, ObjectId)> {
        let slots = worker.offer.slots as usize;
        if worker.occupied() <= slots {
            return Vec::new();
        }
        let placed = worker.runs().filter_map(|id| self.placed(id).map(|placed| (placed, id)));
        let mut runs: Vec<(&Placed, ObjectId)> = placed.collect();
        runs.sort_unstable_by_key(|(placed, _)| placed.turn);
        let ahead = runs.into_iter().skip(slots).filter(|(placed, _)| placed.started_ms.is_none());
        // Runs of other homes, and of regents of this one, stay where they are: who decides them takes them back if it wants to.
        ahead
            // Nor is one taken back that may run only once: it may have begun.
            .filter(|(_, id)| {
                let job = self.jobs.get(*id).filter(|job| job.placed().is_some());
                job.is_some_and(|job| !job.is_stopping() && !job.accepted.terms.effects.is_once())
            })
            .map(|(placed, id)| (placed.offered_ms, id))
            .collect()
    }

    /// A worker that could start a placed job at once, or else a peer.
    fn idle_place(&self, now: Now, id: ObjectId) -> Option<WorkerId> {
        let job = self.jobs.get(id)?;
        let accepted = &job.accepted;
        let request = Request {
            needs: &accepted.spec.needs,
            component: accepted.spec.component,
            avoid: job.failed_at(),
            reserved: None,
        };
        let own = placement::choose(self.workers.own(), &request, now.mono_ms);
        own.or_else(|| placement::choose_peer(self.workers.peers(), &request, now.mono_ms))
    }
}
