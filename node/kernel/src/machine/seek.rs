//! Looking for more peers, when those that are attached do not do.
//!
//! A job whose needs name a label or a capability can be found a place beyond the neighbours: whoever has such a worker
//! says so where others can look it up. The kernel says what to look for and how often; who is found attaches as a peer.

use shoal_protocol::object::function::Needs;

use super::Machine;
use crate::effect::Effect;
use crate::faults::Faults;
use crate::input::Now;
use crate::placement;
use crate::queue::SHAPES_MAX;
use crate::timers::Timer;

/// How often it is looked for a place that nobody here has, in milliseconds. Why 3 s: a person who has just submitted
/// waits for it, and a search that finds nothing takes about a second of several nodes' time.
const SEEK_EVERY_MS: u64 = 3_000;

/// How long those that fit have to come free before it is looked for others, and how often then, in milliseconds. Why
/// 30 s: most of what waits for a slot has it by then, and who is found may be as busy.
const SEEK_BUSY_EVERY_MS: u64 = 30_000;

/// What was looked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sought {
    /// It is not looked for again before.
    due_ms: u64,
    /// Somebody here had it then, only busy.
    fitting: bool,
}

impl<F: Faults> Machine<F> {
    /// Looks for peers for the jobs that still wait.
    pub(super) fn seek(&mut self, now: Now, effects: &mut Vec<Effect>) {
        let heads: Vec<_> = self.queue.shapes().collect();
        let mut next_ms: Option<u64> = None;
        for shape in heads {
            let Some(needs) = self.queue.needs(shape).filter(|needs| can_be_looked_up(needs)) else { continue };
            let known = self.seeks.get(needs).copied();
            let due_ms = match known.filter(|known| known.due_ms > now.mono_ms) {
                Some(known) => known.due_ms,
                None => {
                    let (needs, fitting) = (needs.clone(), self.somebody_fits(now, needs));
                    // What was looked for long ago was for another job.
                    let known = known.filter(|known| now.mono_ms - known.due_ms <= SEEK_BUSY_EVERY_MS);
                    let had_time = known.is_some_and(|known| known.fitting);
                    self.seek_now(now, needs, fitting, !fitting || had_time, effects)
                }
            };
            next_ms = Some(next_ms.map_or(due_ms, |next| next.min(due_ms)));
        }
        if let Some(at_ms) = next_ms {
            self.timers.set(at_ms, Timer::Place);
        }
    }

    /// Looks for a place, or only notes when to look again; that is what it returns.
    fn seek_now(&mut self, now: Now, needs: Needs, fitting: bool, seek: bool, effects: &mut Vec<Effect>) -> u64 {
        let pause_ms = if fitting { SEEK_BUSY_EVERY_MS } else { SEEK_EVERY_MS };
        let due_ms = now.mono_ms.saturating_add(pause_ms);
        if self.seeks.len() >= SHAPES_MAX {
            self.seeks.retain(|_, known| known.due_ms > now.mono_ms);
        }
        if self.seeks.len() < SHAPES_MAX || self.seeks.contains_key(&needs) {
            self.seeks.insert(needs.clone(), Sought { due_ms, fitting });
            if seek {
                self.counters.seeks += 1;
                effects.push(Effect::Seek { needs });
            }
        }
        due_ms
    }

    /// Whether a worker or a peer that is here has what is needed, however busy it is.
    fn somebody_fits(&self, now: Now, needs: &Needs) -> bool {
        let attached = self.workers.iter().filter(|worker| worker.attached());
        attached.map(|worker| placement::examine(worker, needs, now.mono_ms)).any(|found| match found {
            Ok(()) => true,
            Err(obstacle) => !obstacle.is_misfit(),
        })
    }
}

/// Whether the needs name something that nodes are found by.
fn can_be_looked_up(needs: &Needs) -> bool {
    !needs.labels.is_empty() || !needs.capabilities.is_empty()
}
