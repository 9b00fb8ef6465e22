//! Who answers for a home that is not in reach: found in the DHT once for all who ask within a moment.
//!
//! A look-up takes a round trip at best, seconds where a contact is dead, and of many at once most are refused: whoever reads a
//! thousand jobs of a home that is gone would be told of most that nobody keeps them.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use shoal_protocol::NodeId;

/// How long an answer of the DHT counts. Why 5 s: a home that is back is asked before that in any case, and who does not have the job
/// says so, upon which others are looked for.
const FOUND_FOR: Duration = Duration::from_secs(5);
/// How long it counts that nobody was found. Why half a second: who asks is told to come back in one.
const NOBODY_FOR: Duration = Duration::from_millis(500);
/// Homes of which that is remembered. Why 1,024: those whose jobs are asked for within a moment are few.
const HOMES_MAX: usize = 1_024;
/// Look-ups at once. Why 16: homes that are away at once are few, and each look-up asks several nodes.
const LOOK_UPS_MAX: usize = 16;

/// What stands in the ids of a home's jobs.
type Tag = [u8; 8];

/// What the DHT has said of homes.
#[derive(Default)]
pub(super) struct Keepers {
    seen: Mutex<HashMap<Tag, Seen>>,
    turns: [tokio::sync::Mutex<()>; LOOK_UPS_MAX],
}

/// What it has said of one.
#[derive(Clone, Copy)]
struct Seen {
    keeper: Option<NodeId>,
    at: Instant,
}

impl Seen {
    fn counts(&self, is_here: impl Fn(NodeId) -> bool) -> bool {
        let age = self.at.elapsed();
        self.keeper.map_or(age < NOBODY_FOR, |keeper| age < FOUND_FOR && is_here(keeper))
    }
}

impl Keepers {
    /// What was found a moment ago, nobody included; or what this look-up finds, which others wait for as well.
    pub(super) async fn find(
        &self,
        tag: Tag,
        is_here: impl Fn(NodeId) -> bool,
        look_up: impl Future<Output = Option<NodeId>>,
    ) -> Option<NodeId> {
        if let Some(seen) = self.seen_of(tag, &is_here) {
            return seen;
        }
        let place = usize::from(tag[0]) % LOOK_UPS_MAX;
        // There are as many as the remainder may be.
        let turn = match self.turns.get(place) {
            Some(turn) => turn.lock().await,
            None => return look_up.await,
        };
        if let Some(seen) = self.seen_of(tag, &is_here) {
            return seen;
        }
        let keeper = look_up.await;
        let mut seen = self.seen();
        seen.retain(|_, seen| seen.at.elapsed() < FOUND_FOR);
        if seen.len() < HOMES_MAX {
            seen.insert(tag, Seen { keeper, at: Instant::now() });
        }
        drop(turn);
        keeper
    }

    fn seen_of(&self, tag: Tag, is_here: impl Fn(NodeId) -> bool) -> Option<Option<NodeId>> {
        let seen = self.seen().get(&tag).copied()?;
        seen.counts(is_here).then_some(seen.keeper)
    }

    fn seen(&self) -> MutexGuard<'_, HashMap<Tag, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

    use super::*;

    const TAG: Tag = [7; 8];
    const KEEPER: NodeId = NodeId([1; 32]);

    #[tokio::test]
    async fn many_who_ask_at_once_share_a_look_up_and_one_who_is_gone_is_looked_for_anew() {
        let (keepers, asked) = (Keepers::default(), AtomicUsize::new(0));
        let find = |is_here: bool| {
            keepers.find(TAG, move |_| is_here, async {
                asked.fetch_add(1, Relaxed);
                tokio::task::yield_now().await;
                Some(KEEPER)
            })
        };
        let found = futures_util::future::join_all((0..100).map(|_| find(true))).await;
        assert_eq!((found, asked.load(Relaxed)), (vec![Some(KEEPER); 100], 1));
        assert_eq!((find(false).await, asked.load(Relaxed)), (Some(KEEPER), 2));
    }

    #[tokio::test]
    async fn that_nobody_was_found_is_shared_as_well() {
        let (keepers, asked) = (Keepers::default(), AtomicUsize::new(0));
        let find = || {
            keepers.find(TAG, |_| true, async {
                asked.fetch_add(1, Relaxed);
                None
            })
        };
        let found = futures_util::future::join_all((0..100).map(|_| find())).await;
        assert_eq!((found, asked.load(Relaxed)), (vec![None; 100], 1));
    }
}
