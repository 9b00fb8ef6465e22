//! What this node says to the homes whose runs it holds, and what they say about these.
//!
//! The executor's heartbeats come from here, not from an edge: so they wait for the journal as everything does, and a run
//! is not listed before it is durable that it is here.

use shoal_protocol::wire::peer::PeerMessage;
use shoal_protocol::wire::worker::Run;
use shoal_protocol::{NodeId, ObjectId};

use super::Machine;
use crate::effect::Effect;
use crate::faults::Faults;
use crate::input::Now;
use crate::timers::Timer;

/// The shortest lease of a home that is renewed as it asks, in milliseconds. Why 1 s: three heartbeats a second are enough
/// work for one neighbour.
const LEASE_MS_MIN: u64 = 1_000;

/// The longest, in milliseconds. Why 10 minutes: a home that counts longer than that is renewed more often than it needs.
const LEASE_MS_MAX: u64 = 600_000;

/// How long a home of whose runs some are here may be away until it is looked for, in milliseconds, and how long it is
/// waited after that: twice as long each time. Why 3 s: neighbours come back by themselves within that.
const REACH_FIRST_MS: u64 = 3_000;

/// The longest such pause, in milliseconds. Why 1 minute: a home that comes back after a day has its results within it.
const REACH_MAX_MS: u64 = 60_000;

impl<F: Faults> Machine<F> {
    /// The runs of a home that this node holds, under way or ended and not yet settled.
    pub fn guest_runs(&self, home: NodeId) -> Vec<Run> {
        self.guests.runs(home)
    }

    /// A connection to a home stands.
    pub(super) fn home_connected(&mut self, home: NodeId, connection: u64, effects: &mut Vec<Effect>) {
        self.stop_beating(home);
        self.home_cannot_save(home, effects);
        self.guests.connected(home, connection);
    }

    /// A home has welcomed us: what it no longer wants goes, of the rest it hears how far it is.
    pub(super) fn home_attached(
        &mut self,
        now: Now,
        home: NodeId,
        connection: u64,
        lease_ms: u64,
        drop: &[Run],
        effects: &mut Vec<Effect>,
    ) {
        if self.guests.home(home).is_none_or(|known| known.connection != Some(connection)) {
            return;
        }
        let lease_ms = lease_ms.clamp(LEASE_MS_MIN, LEASE_MS_MAX);
        self.guests.welcomed(home, lease_ms);
        for run in drop {
            self.home_settled(now, home, *run, effects);
        }
        for run in self.guests.runs(home) {
            if self.placed(run.job).is_some() {
                self.say_again(now, home, run.job, effects);
            }
        }
        self.report(now, home, effects);
        self.stop_beating(home);
        self.beat_at(home, now.mono_ms.saturating_add(lease_ms / 3));
    }

    /// A connection to a home has ended. What is here of it goes on; its endings wait until it is there again.
    pub(super) fn home_detached(&mut self, now: Now, home: NodeId, connection: u64, effects: &mut Vec<Effect>) {
        if self.guests.home(home).is_some_and(|known| known.connection == Some(connection)) {
            self.stop_beating(home);
            self.home_cannot_save(home, effects);
            self.guests.disconnected(home);
            self.wait_for(now, home);
        }
    }

    /// A home is away of whose runs some may be here. It may not know where they are: a restart has made it forget who
    /// is no neighbour, so it is this node that looks for it.
    pub(super) fn wait_for(&mut self, now: Now, id: NodeId) {
        if let Some(home) = self.guests.home_mut(id).filter(|home| home.beat_ms.is_none()) {
            home.reach_ms = REACH_FIRST_MS;
            self.beat_at(id, now.mono_ms.saturating_add(REACH_FIRST_MS));
        }
    }

    /// A heartbeat to a home is due; or one that is away is looked for.
    pub(super) fn beat(&mut self, now: Now, id: NodeId, effects: &mut Vec<Effect>) {
        let Some(home) = self.guests.home_mut(id).filter(|home| home.beat_ms.is_some_and(|at| at <= now.mono_ms))
        else {
            return;
        };
        home.beat_ms = None;
        if let Some(lease_ms) = home.lease_ms {
            self.to_home(id, PeerMessage::Heartbeat { runs: self.guests.runs(id) }, effects);
            self.deliver_again(now, id, lease_ms, effects);
            self.beat_at(id, now.mono_ms.saturating_add(lease_ms / 3));
        } else if home.connection.is_none() {
            home.reach_ms = home.reach_ms.saturating_mul(2).min(REACH_MAX_MS);
            let at_ms = now.mono_ms.saturating_add(home.reach_ms);
            effects.push(Effect::Reach { node: id });
            self.beat_at(id, at_ms);
        }
    }

    fn beat_at(&mut self, id: NodeId, at_ms: u64) {
        if let Some(home) = self.guests.home_mut(id) {
            home.beat_ms = Some(at_ms);
            self.timers.set(at_ms, Timer::Beat(id));
        }
    }

    fn stop_beating(&mut self, id: NodeId) {
        if let Some(at_ms) = self.guests.home_mut(id).and_then(|home| home.beat_ms.take()) {
            self.timers.remove(at_ms, Timer::Beat(id));
        }
    }

    /// A home wants a run to stop; it settles there when the run has ended, however.
    pub(super) fn home_cancel(&mut self, now: Now, home: NodeId, run: Run, effects: &mut Vec<Effect>) {
        if self.guests.of_home(home, run).is_none() {
            return;
        }
        let Some(guest) = self.guests.get_mut(run.job) else { return };
        guest.cancelled = true;
        match guest.placed_mut() {
            Some(placed) => {
                placed.cancel_ms = placed.cancel_ms.or(Some(now.mono_ms));
                effects.push(Effect::Cancel { worker: placed.worker, run });
            }
            // It has ended before: the home has not heard of it, or hears of it twice.
            None => self.say_again(now, home, run.job, effects),
        }
    }

    /// To a home the ending of a run is durable, or the run counts for nothing: it is forgotten here.
    pub(super) fn home_settled(&mut self, now: Now, home: NodeId, run: Run, effects: &mut Vec<Effect>) {
        if self.guests.of_home(home, run).is_some() {
            self.placeable = true;
            self.drop_guest(now, run.job, effects);
        }
    }

    /// Says again how far a run is.
    pub(super) fn say_again(&mut self, now: Now, home: NodeId, job: ObjectId, effects: &mut Vec<Effect>) {
        let Some(guest) = self.guests.get(job) else { return };
        let run = guest.run;
        let Some(placed) = guest.placed() else {
            // One that the home was not told yet has its turn (`report`).
            if let Some(outcome) =
                guest.outcome().filter(|_| self.guests.home(home).is_some_and(|home| home.was_told(job)))
            {
                self.to_home(home, PeerMessage::Ended(run, Box::new(outcome.clone())), effects);
            }
            return;
        };
        let worker = self.workers.get(placed.worker).map(|worker| worker.name.clone()).unwrap_or_default();
        self.to_home(home, PeerMessage::Taken { run, worker }, effects);
        if placed.started_ms.is_some() {
            self.to_home(home, PeerMessage::Started(run), effects);
        }
        self.deliver(now, job, effects);
    }

    /// Tells a home of endings that it has not heard of, as many as it may have open.
    pub(super) fn report(&mut self, now: Now, id: NodeId, effects: &mut Vec<Effect>) {
        while let Some(job) = self.guests.home_mut(id).and_then(|home| home.tell_next()) {
            self.deliver(now, job, effects);
            let Some(guest) = self.guests.get(job) else { continue };
            if let Some(outcome) = guest.outcome() {
                self.to_home(id, PeerMessage::Ended(guest.run, Box::new(outcome.clone())), effects);
            }
        }
    }

    /// Says something to a home, if it hears it. What it does not hear now it hears when it welcomes us again.
    pub(super) fn to_home(&self, home: NodeId, message: PeerMessage, effects: &mut Vec<Effect>) {
        if self.guests.home(home).is_some_and(|known| known.is_up()) {
            effects.push(Effect::ToHome { home, message });
        }
    }
}
