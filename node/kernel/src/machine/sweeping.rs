//! Settled jobs go when they are old, or when there are too many of their group: the oldest first, a few at a time.
//!
//! They are not in memory. The kernel counts them, asks the edge which are the oldest when one is due or there is one too many,
//! and asks again until none is. Age goes by the wall clock, as only that survives a restart.
//!
//! A job that was taken over stays longer while its home has not said that it knows how it ended: nobody else may be left to say so,
//! and the home would wait for that end for ever.

use shoal_protocol::ObjectId;

use super::Machine;
use crate::config::Keep;
use crate::effect::Effect;
use crate::faults::{Fault, Faults};
use crate::input::{Now, Recall};
use crate::record::{Group, Record, Retained};
use crate::timers::Timer;

/// Jobs that go in one step. Why 64: the edge reads two rows of each, a few milliseconds in all, and then others have their
/// turn.
pub const SWEEP_LEN_MAX: usize = 64;

/// How much longer a job stays whose home has not heard how it ended, in milliseconds: seven days. Why: as long as others are kept; a
/// home that is away for longer hardly comes back.
const UNHEARD_MS: u64 = 7 * 24 * 3_600_000;

/// So many of a group do. Why 1,024: each look has to pass them, in 16 reads.
const UNHEARD_MAX: u64 = 1_024;

impl<F: Faults> Machine<F> {
    /// Takes the counts of settled jobs back, and the bytes that they refer to: after [`Self::restore`], before any input. What is due is asked for with the
    /// next input.
    pub fn restore_settled(&mut self, now: Now, counts: impl Iterator<Item = (Group, u64, u64)>) {
        for (group, count, bytes) in counts.filter(|_| !F::has(Fault::SettledUncounted)) {
            // Some of them have settled while these were restored.
            let shelf = self.shelves.shelf(group);
            (shelf.count, shelf.bytes) = (shelf.count + count, shelf.bytes.saturating_add(bytes));
            self.sweep_at(group, now.mono_ms);
        }
    }

    /// A job has settled, and is kept from now on.
    pub(super) fn keep_settled(
        &mut self,
        now: Now,
        (group, job, bytes): (Group, ObjectId, u64),
        effects: &mut Vec<Effect>,
    ) {
        let retained = Retained { group, job, settled_ms: now.wall_ms, bytes };
        effects.push(Effect::Write(Record::Retained(retained)));
        self.shelve(now, group, bytes, effects);
    }

    /// Counts one more settled job of a group.
    pub(super) fn shelve(&mut self, now: Now, group: Group, bytes: u64, effects: &mut Vec<Effect>) {
        let Keep { age_ms, jobs } = self.config.retention.of(group);
        let shelf = self.shelves.shelf(group);
        shelf.count = shelf.count.saturating_add(1);
        shelf.bytes = shelf.bytes.saturating_add(bytes);
        if shelf.counted() > jobs {
            self.ask_oldest(group, None, effects);
        } else if shelf.due_ms.is_none() && !shelf.asked {
            self.sweep_at(group, now.mono_ms.saturating_add(age_ms));
        }
    }

    /// Somebody forgets a settled job.
    pub(super) fn forget_settled(&mut self, group: Group, bytes: u64) {
        if let Some(shelf) = self.shelves.get_mut(group) {
            shelf.count = shelf.count.saturating_sub(1);
            shelf.bytes = shelf.bytes.saturating_sub(bytes);
        }
    }

    /// The oldest of a group may be due.
    pub(super) fn sweep_due(&mut self, now: Now, group: Group, effects: &mut Vec<Effect>) {
        let Some(shelf) = self.shelves.get_mut(group) else { return };
        if shelf.due_ms.take_if(|due_ms| *due_ms <= now.mono_ms).is_some() {
            self.ask_oldest(group, None, effects);
        }
    }

    /// Asks for the oldest of a group, or goes on behind one of them.
    fn ask_oldest(&mut self, group: Group, after: Option<(u64, ObjectId)>, effects: &mut Vec<Effect>) {
        let shelf = self.shelves.shelf(group);
        if std::mem::replace(&mut shelf.asked, true) {
            return;
        }
        if after.is_none() {
            shelf.spared = 0;
        }
        effects.push(Effect::Oldest { group, after });
    }

    /// The edge says which settled jobs of a group are the oldest: up to [`SWEEP_LEN_MAX`], with when they settled and the bytes that they refer to.
    pub(super) fn oldest(&mut self, now: Now, group: Group, jobs: &[(u64, ObjectId, u64)], effects: &mut Vec<Effect>) {
        let keep = self.config.retention.of(group);
        let known: Vec<_> = jobs.iter().filter(|(_, job, _)| !self.shelves.is_going(*job)).collect();
        let Some(shelf) = self.shelves.get_mut(group) else { return };
        shelf.asked = false;
        let (mut gone, mut unheard) = (Vec::new(), Vec::new());
        let mut left = known.into_iter();
        let stays = left.find(|(settled_ms, job, bytes)| {
            let over = shelf.counted() > keep.jobs;
            let due_ms = settled_ms.saturating_add(keep.age_ms);
            if !over && due_ms > now.wall_ms {
                return true;
            }
            if self.jobs.has_any(&self.charges.elements_of(*job)) {
                // Its home has ended it, and has not told yet how these ended.
                shelf.spared += 1;
                return false;
            }
            let may_stay = due_ms.saturating_add(UNHEARD_MS) > now.wall_ms && shelf.spared < UNHEARD_MAX;
            if let Some(home) = self.charges.unheard(*job).filter(|_| may_stay) {
                shelf.spared += 1;
                unheard.push(Recall { node: home, job: *job, set: None, revision: 0 });
                return false;
            }
            shelf.count = shelf.count.saturating_sub(1);
            shelf.bytes = shelf.bytes.saturating_sub(*bytes);
            self.counters.swept_for_number += u64::from(over);
            gone.push(*job);
            false
        });
        let (count, spared) = (shelf.count, shelf.spared);
        self.sweep(gone, effects);
        // Their homes are told once more.
        let unheard = unheard.into_iter().filter(|recall| self.is_there(recall.node));
        effects.extend(unheard.map(Effect::Recall));
        match stays {
            Some((settled_ms, ..)) => {
                let left_ms = settled_ms.saturating_add(keep.age_ms).saturating_sub(now.wall_ms);
                // No longer than it may stay, should the wall clock have been set back; and soon, if there are some that may go as
                // soon as their homes have heard.
                let most_ms = if spared > 0 { RECHECK_MS.min(keep.age_ms) } else { keep.age_ms };
                self.sweep_at(group, now.mono_ms.saturating_add(left_ms.min(most_ms)));
            }
            None if jobs.is_empty() && count == 0 => self.shelves.remove(group),
            None if jobs.len() >= SWEEP_LEN_MAX => {
                let after = jobs.last().map(|(settled_ms, job, _)| (*settled_ms, *job));
                self.ask_oldest(group, after, effects);
            }
            // Others have settled since, and were not durable when the edge looked.
            None => self.sweep_at(group, now.mono_ms.saturating_add(keep.age_ms.min(RECHECK_MS))),
        }
    }

    fn sweep_at(&mut self, group: Group, at_ms: u64) {
        let shelf = self.shelves.shelf(group);
        if let Some(before_ms) = shelf.due_ms.replace(at_ms) {
            self.timers.remove(before_ms, Timer::Sweep(group));
        }
        self.timers.set(at_ms, Timer::Sweep(group));
    }
}

/// How long after a look that found nothing more the next one is, in milliseconds. Why a minute: it is rare, and costs one
/// read.
const RECHECK_MS: u64 = 60_000;
