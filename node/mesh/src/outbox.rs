//! Which nodes came and went, until somebody has heard of it. Pure.
//!
//! The queue to the rest of the node has a bound, and may be full. Of gossip the excess is dropped; a node that came or
//! went is told of later instead. What is kept is bounded by the view: the latest state of each node, and whether it was
//! away in between, since whoever held streams to it must know that they are gone.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::NodeId;

/// What is next to be told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum News {
    OwnKeyElsewhere,
    Met(NodeId),
    Lost(NodeId),
}

/// What has not been told yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Those who are here, as the other side knows it.
    told: BTreeSet<NodeId>,
    /// Those with news: whether they are here now, and whether they were away since they were told of.
    untold: BTreeMap<NodeId, (bool, bool)>,
    own_key_elsewhere: bool,
}

impl Outbox {
    pub(crate) fn met(&mut self, node: NodeId) {
        self.untold.entry(node).or_insert((true, false)).0 = true;
    }

    pub(crate) fn lost(&mut self, node: NodeId) {
        if self.told.contains(&node) {
            self.untold.insert(node, (false, true));
        } else {
            // Whoever has not heard that it came need not hear that it went.
            self.untold.remove(&node);
        }
    }

    pub(crate) fn own_key_elsewhere(&mut self) {
        self.own_key_elsewhere = true;
    }

    /// The next news; it counts as told.
    pub(crate) fn pop(&mut self) -> Option<News> {
        if std::mem::take(&mut self.own_key_elsewhere) {
            return Some(News::OwnKeyElsewhere);
        }
        loop {
            let (node, (here, was_away)) = self.untold.pop_first()?;
            if self.told.contains(&node) && (was_away || !here) {
                self.told.remove(&node);
                if here {
                    self.untold.insert(node, (true, false));
                }
                return Some(News::Lost(node));
            }
            if here && self.told.insert(node) {
                return Some(News::Met(node));
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.untold.is_empty() && !self.own_key_elsewhere
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 32]);

    fn drain(outbox: &mut Outbox) -> Vec<News> {
        std::iter::from_fn(|| outbox.pop()).collect()
    }

    #[test]
    fn the_latest_state_is_told_once() {
        let mut outbox = Outbox::default();
        outbox.met(A);
        outbox.met(A);
        assert_eq!(drain(&mut outbox), [News::Met(A)]);
        outbox.met(A);
        assert_eq!(drain(&mut outbox), []);
        outbox.lost(A);
        assert_eq!(drain(&mut outbox), [News::Lost(A)]);
        assert!(outbox.is_empty());
    }

    #[test]
    fn who_was_away_meanwhile_is_lost_and_met() {
        let mut outbox = Outbox::default();
        outbox.met(A);
        drain(&mut outbox);
        outbox.lost(A);
        outbox.met(A);
        assert_eq!(drain(&mut outbox), [News::Lost(A), News::Met(A)]);
    }

    #[test]
    fn who_came_and_went_unheard_is_not_told_of() {
        let mut outbox = Outbox::default();
        outbox.met(A);
        outbox.lost(A);
        assert_eq!(drain(&mut outbox), []);
    }
}
