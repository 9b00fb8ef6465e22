//! Calms between the faults: everything heals for a while, and all nodes must come to hold the same documents.

use super::Mesh;
use crate::sim::Violation;
use crate::sim::mutations::Bugs;
use crate::sim::replicas::agreement::SAME_CHANGES;

/// How long after the faults have stopped all nodes must hold the same. Why 2 minutes: the longest time in which a link
/// is found dead, and sessions of everybody with everybody.
const AGREE_MS_MAX: u64 = 120_000;
/// How long faults last until a calm, in milliseconds.
const STORM_MS: std::ops::Range<u64> = 80_000..140_000;

/// When it is calm.
#[derive(Debug, Default)]
pub(super) struct Calm {
    /// When the next one begins.
    next_ms: u64,
    /// Since when it is calm.
    since_ms: Option<u64>,
    /// When it is looked at next.
    look_ms: u64,
}

impl<F: Bugs> Mesh<F> {
    /// Whether things may go wrong now.
    pub(super) fn faults_are_on(&self) -> bool {
        self.calm.since_ms.is_none() && self.now_ms < self.faults_ms
    }

    /// Faults come again, until the next calm.
    pub(super) fn storm(&mut self) {
        self.calm.since_ms = None;
        self.calm.next_ms = self.now_ms + self.random.within(STORM_MS);
        self.worlds.iter_mut().for_each(|world| world.calm = false);
    }

    /// Begins a calm when it is time, and ends it once all hold the same. The last one does not end.
    pub(super) fn calms(&mut self) -> Result<(), Violation> {
        let over = self.now_ms >= self.faults_ms;
        match self.calm.since_ms {
            None if over || self.now_ms >= self.calm.next_ms => {
                self.note("calm", &());
                self.calm.since_ms = Some(self.now_ms);
                self.worlds.iter_mut().for_each(|world| world.calm = true);
                self.heal()
            }
            Some(since_ms) if self.now_ms >= self.calm.look_ms => {
                self.calm.look_ms = self.now_ms + 1_000;
                if self.documents_agree() {
                    if !over {
                        self.documents_check()?;
                        self.storm();
                    }
                    return Ok(());
                }
                if self.now_ms > since_ms.max(if over { self.faults_ms } else { 0 }) + AGREE_MS_MAX {
                    let detail = format!("they do not {} ms after the last fault", self.now_ms - since_ms);
                    return Err(Violation { at_ms: self.now_ms, rule: SAME_CHANGES, detail });
                }
                Ok(())
            }
            None | Some(_) => Ok(()),
        }
    }
}
