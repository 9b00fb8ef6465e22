//! Jobs with equal needs, one lane for each user of each project: which lane's turn it is goes by use, within a lane by age.
//!
//! A turn is found at the front of two ordered sets, whatever the number of lanes, and a lane moves when its use changes.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::ObjectId;

use super::Rank;
use crate::record::Accepted;

/// Whose jobs these are: those of one user, of functions of one project.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Lane {
    /// The project, or where there is none the owner of the function: [`Accepted::group`].
    pub(crate) group: ObjectId,
    /// Who submitted them.
    pub(crate) user: ObjectId,
}

impl Lane {
    pub(crate) fn of(accepted: &Accepted) -> Self {
        Self { group: accepted.group(), user: accepted.spec.owner }
    }
}

/// How much was used, of the share: whoever has used less comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Keys {
    /// By the project, for its weight.
    pub(crate) group: u128,
    /// By the user, within the project.
    pub(crate) user: u128,
}

/// The job that comes first, and by which right.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Turn {
    pub(crate) keys: Keys,
    pub(crate) rank: Rank,
}

/// What stands in an ordered set: use, then the age of the first job, so that of equals the older comes first.
type Entry = (u128, Rank, ObjectId);

/// All lanes of one shape.
#[derive(Debug, Default)]
pub(crate) struct Lanes {
    groups: BTreeMap<ObjectId, Group>,
    order: BTreeSet<Entry>,
}

#[derive(Debug, Default)]
struct Group {
    key: u128,
    users: BTreeMap<ObjectId, User>,
    order: BTreeSet<Entry>,
    /// Where it stands in the order of groups.
    at: Option<(u128, Rank)>,
}

#[derive(Debug, Default)]
struct User {
    key: u128,
    jobs: BTreeSet<Rank>,
    /// Where it stands in the order of its group.
    at: Option<(u128, Rank)>,
}

/// Moves what stands at `at` to where it belongs.
fn settle(order: &mut BTreeSet<Entry>, at: &mut Option<(u128, Rank)>, next: Option<(u128, Rank)>, id: ObjectId) {
    if *at == next {
        return;
    }
    if let Some((key, rank)) = *at {
        order.remove(&(key, rank, id));
    }
    if let Some((key, rank)) = next {
        order.insert((key, rank, id));
    }
    *at = next;
}

impl Lanes {
    pub(crate) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Puts a job in. Whether it was not there.
    pub(crate) fn insert(&mut self, lane: Lane, keys: Keys, job: Rank) -> bool {
        let group = self.groups.entry(lane.group).or_default();
        group.key = keys.group;
        let user = group.users.entry(lane.user).or_default();
        user.key = keys.user;
        let new = user.jobs.insert(job);
        self.settle(lane);
        new
    }

    /// Takes a job out. Whether it was there.
    pub(crate) fn remove(&mut self, lane: Lane, job: Rank) -> bool {
        let user = self.groups.get_mut(&lane.group).and_then(|group| group.users.get_mut(&lane.user));
        let was_there = user.is_some_and(|user| user.jobs.remove(&job));
        self.settle(lane);
        was_there
    }

    /// The use of a lane is another one now.
    pub(crate) fn rekey(&mut self, lane: Lane, keys: Keys) {
        let Some(group) = self.groups.get_mut(&lane.group) else { return };
        group.key = keys.group;
        if let Some(user) = group.users.get_mut(&lane.user) {
            user.key = keys.user;
        }
        self.settle(lane);
    }

    /// Each lane, with its keys from this.
    pub(crate) fn rekey_all(&mut self, keys: &impl Fn(Lane) -> Keys) {
        let lanes = self.groups.iter().flat_map(|(group, waiting)| {
            waiting.users.keys().map(|user| Lane { group: *group, user: *user }).collect::<Vec<_>>()
        });
        for lane in lanes.collect::<Vec<_>>() {
            self.rekey(lane, keys(lane));
        }
    }

    /// Sets the places of a lane and of its group right.
    fn settle(&mut self, lane: Lane) {
        let Some(group) = self.groups.get_mut(&lane.group) else { return };
        if let Some(user) = group.users.get_mut(&lane.user) {
            let next = user.jobs.first().map(|first| (user.key, *first));
            settle(&mut group.order, &mut user.at, next, lane.user);
            if next.is_none() {
                group.users.remove(&lane.user);
            }
        }
        let next = group.order.first().map(|(_, first, _)| (group.key, *first));
        settle(&mut self.order, &mut group.at, next, lane.group);
        if next.is_none() {
            self.groups.remove(&lane.group);
        }
    }

    /// Whose turn it is, among the groups and lanes that may go on.
    pub(crate) fn first(
        &self,
        group_is_open: impl Fn(ObjectId) -> bool,
        user_is_open: impl Fn(ObjectId) -> bool,
    ) -> Option<Turn> {
        self.order.iter().filter(|(_, _, id)| group_is_open(*id)).find_map(|(group_key, _, id)| {
            let group = self.groups.get(id)?;
            let (user, rank, _) = group.order.iter().find(|(_, _, user)| user_is_open(*user))?;
            Some(Turn { keys: Keys { group: *group_key, user: *user }, rank: *rank })
        })
    }

    /// Whether an older job of the same lane comes before this one.
    pub(crate) fn is_behind_its_own(&self, lane: Lane, job: Rank) -> bool {
        let user = self.groups.get(&lane.group).and_then(|group| group.users.get(&lane.user));
        user.and_then(|user| user.jobs.first()).is_some_and(|first| *first < job)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u64) -> ObjectId {
        ObjectId::from_parts(n, 0, [0; 8])
    }

    fn rank(n: u64) -> Rank {
        Rank::of(id(n), 0)
    }

    fn lane(group: u64, user: u64) -> Lane {
        Lane { group: id(group), user: id(user) }
    }

    fn keys(group: u128, user: u128) -> Keys {
        Keys { group, user }
    }

    fn first(lanes: &Lanes) -> Option<Rank> {
        lanes.first(|_| true, |_| true).map(|turn| turn.rank)
    }

    #[test]
    fn who_has_used_less_comes_first_and_of_equals_the_older() {
        let mut lanes = Lanes::default();
        lanes.insert(lane(1, 1), keys(0, 0), rank(20));
        lanes.insert(lane(2, 2), keys(0, 0), rank(10));
        assert_eq!(first(&lanes), Some(rank(10)));
        lanes.rekey(lane(2, 2), keys(5, 5));
        assert_eq!(first(&lanes), Some(rank(20)));
        lanes.rekey(lane(1, 1), keys(6, 6));
        assert_eq!(first(&lanes), Some(rank(10)));
        // A second user of the group that is first has used less than the other one.
        lanes.insert(lane(2, 3), keys(5, 1), rank(30));
        assert_eq!(first(&lanes), Some(rank(30)));
        assert!(lanes.remove(lane(2, 3), rank(30)) && !lanes.remove(lane(2, 3), rank(30)));
        assert_eq!(first(&lanes), Some(rank(10)));
        assert!(lanes.remove(lane(2, 2), rank(10)) && lanes.remove(lane(1, 1), rank(20)));
        assert!(lanes.is_empty() && lanes.order.is_empty());
    }

    #[test]
    fn closed_lanes_are_left_out() {
        let mut lanes = Lanes::default();
        lanes.insert(lane(1, 1), keys(0, 0), rank(1));
        lanes.insert(lane(1, 2), keys(0, 9), rank(2));
        lanes.insert(lane(2, 1), keys(7, 0), rank(3));
        let turn = |group: u64, user: u64| {
            lanes.first(|found| found != id(group), |found| found != id(user)).map(|turn| turn.rank)
        };
        assert_eq!(turn(9, 9), Some(rank(1)));
        assert_eq!(turn(9, 1), Some(rank(2)));
        assert_eq!(turn(1, 9), Some(rank(3)));
        assert_eq!(turn(1, 1), None);
    }

    #[test]
    fn a_lane_gives_its_oldest_job() {
        let mut lanes = Lanes::default();
        for n in [5, 3, 4] {
            lanes.insert(lane(1, 1), keys(0, 0), rank(n));
        }
        assert_eq!(first(&lanes), Some(rank(3)));
        assert!(lanes.is_behind_its_own(lane(1, 1), rank(4)) && !lanes.is_behind_its_own(lane(1, 1), rank(3)));
        lanes.remove(lane(1, 1), rank(3));
        assert_eq!(first(&lanes), Some(rank(4)));
        lanes.rekey_all(&|_| keys(3, 2));
        assert_eq!(lanes.first(|_| true, |_| true), Some(Turn { keys: keys(3, 2), rank: rank(4) }));
    }
}
