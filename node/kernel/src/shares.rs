//! What projects and their users have used of late, so that whoever has used less of their share comes first.
//!
//! Use is time in slots. What was used one half-life ago counts half. Nothing is decayed for that: what is used now is entered
//! with a factor that doubles with every half-life, which comes to the same where only the order matters, costs nothing while
//! nothing happens, and makes a key of the queue stay right until its own lane uses something. Whole numbers only: the same
//! inputs give the same order on every machine. Between two doublings the factor is linear, at most 6 % beside the power of two.
//!
//! A run is entered with what runs of its function take when it is handed over, and with what it has taken when it ends; one that
//! takes longer is entered again while it runs.

use std::collections::{BTreeMap, BTreeSet};

use shoal_protocol::object::project::{Quota, WEIGHT_USUAL};
use shoal_protocol::wire::peer::UseTally;
use shoal_protocol::{NodeId, ObjectId};

use crate::queue::{Keys, Lane};
use crate::record::Tally;

/// What was used once the past counts, in microseconds, that is forgotten. Why a millisecond: nobody's turn depends on it.
const FORGOTTEN_US: u64 = 1_000;

/// Whole half-lives after which the factor begins anew at one. Why 32: what is entered stays within 128 bits, and all lanes have
/// to be moved only so often.
const DOUBLINGS_MAX: u32 = 32;

/// The factor of the first half-life, and the fineness of what lies between two.
const ONE: u128 = 1 << 16;

/// Projects whose use elsewhere one other node may tell of. Why 256: some times as many as one hint has.
const TOLD_MAX: usize = 256;

/// Something that was used.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Use {
    /// Ever, in microseconds of slots. Only grows.
    pub(crate) total_us: u64,
    /// Microseconds of slots, each with the factor of its time.
    weighed: u128,
}

/// A project, or the owner of functions that are in none.
#[derive(Debug)]
struct Account {
    weight: u32,
    quota: Quota,
    here: Use,
    /// What it has used at other nodes.
    elsewhere: BTreeMap<NodeId, Use>,
    users: BTreeMap<ObjectId, Use>,
    running: u64,
}

impl Default for Account {
    fn default() -> Self {
        Self {
            weight: WEIGHT_USUAL,
            quota: Quota::default(),
            here: Use::default(),
            elsewhere: BTreeMap::new(),
            users: BTreeMap::new(),
            running: 0,
        }
    }
}

impl Account {
    fn weighed(&self) -> u128 {
        self.elsewhere.values().fold(self.here.weighed, |sum, used| sum.saturating_add(used.weighed))
    }
}

/// A run that is under way, as it is entered.
#[derive(Debug, Clone, Copy)]
struct Entry {
    lane: Lane,
    started_ms: Option<u64>,
    /// What it is entered with.
    charged_us: u64,
    weighed: u128,
    /// What of it is in the totals.
    counted_us: u64,
}

/// What all have used.
#[derive(Debug)]
pub(crate) struct Shares {
    half_life_ms: u64,
    /// When the factor was one.
    base_ms: u64,
    now_ms: u64,
    accounts: BTreeMap<ObjectId, Account>,
    runs: BTreeMap<ObjectId, Entry>,
    /// Runs under way of each user, whatever the project.
    running: BTreeMap<ObjectId, u64>,
    /// Lanes of which something is to be journaled.
    unwritten: BTreeSet<Lane>,
    /// What other nodes are told, as it was when something was last journaled.
    told: Vec<UseTally>,
}

impl Shares {
    pub(crate) fn new(half_life_ms: u64) -> Self {
        Self {
            half_life_ms: half_life_ms.max(1),
            base_ms: 0,
            now_ms: 0,
            accounts: BTreeMap::new(),
            runs: BTreeMap::new(),
            running: BTreeMap::new(),
            unwritten: BTreeSet::new(),
            told: Vec::new(),
        }
    }

    /// It is this time now. Whether the keys of all lanes are others with that.
    pub(crate) fn advance(&mut self, now_ms: u64) -> bool {
        self.now_ms = self.now_ms.max(now_ms);
        let doublings = self.now_ms.saturating_sub(self.base_ms) / self.half_life_ms;
        if doublings < u64::from(DOUBLINGS_MAX) {
            return false;
        }
        self.base_ms = self.base_ms.saturating_add(doublings.saturating_mul(self.half_life_ms));
        let halve = |weighed: &mut u128| *weighed = u32::try_from(doublings).map_or(0, |by| shifted(*weighed, by));
        for account in self.accounts.values_mut() {
            let uses = account.elsewhere.values_mut().chain(account.users.values_mut());
            uses.chain([&mut account.here]).for_each(|used| halve(&mut used.weighed));
        }
        self.runs.values_mut().for_each(|entry| halve(&mut entry.weighed));
        true
    }

    /// What is used now counts so many times as much as what was used at first.
    fn factor(&self) -> u128 {
        let since_ms = self.now_ms.saturating_sub(self.base_ms);
        let (whole, rest) = (since_ms / self.half_life_ms, since_ms % self.half_life_ms);
        let between = u128::from(rest).saturating_mul(ONE) / u128::from(self.half_life_ms);
        (ONE + between) << whole.min(u64::from(DOUBLINGS_MAX))
    }

    fn weigh(&self, us: u64) -> u128 {
        u128::from(us).saturating_mul(self.factor())
    }

    /// What is left of it by now, in microseconds.
    fn recent_us(&self, weighed: u128) -> u64 {
        u64::try_from(weighed / self.factor()).unwrap_or(u64::MAX)
    }

    /// The place of a lane among all.
    pub(crate) fn keys(&self, lane: Lane) -> Keys {
        let Some(account) = self.accounts.get(&lane.group) else { return Keys::default() };
        let user = account.users.get(&lane.user).map_or(0, |used| used.weighed);
        Keys { group: account.weighed() / u128::from(account.weight.max(1)), user }
    }

    /// A project has this weight and this quota.
    pub(crate) fn set_terms(&mut self, group: ObjectId, weight: u32, quota: Quota) {
        if weight == WEIGHT_USUAL && quota.is_empty() {
            return self.drop_terms(group);
        }
        let account = self.accounts.entry(group).or_default();
        (account.weight, account.quota) = (weight, quota);
    }

    /// A project has the usual weight and no quota, or is gone.
    pub(crate) fn drop_terms(&mut self, group: ObjectId) {
        if let Some(account) = self.accounts.get_mut(&group) {
            (account.weight, account.quota) = (WEIGHT_USUAL, Quota::default());
        }
    }

    pub(crate) fn quota(&self, group: ObjectId) -> Quota {
        self.accounts.get(&group).map_or_else(Quota::default, |account| account.quota)
    }

    pub(crate) fn weight(&self, group: ObjectId) -> u32 {
        self.accounts.get(&group).map_or(WEIGHT_USUAL, |account| account.weight)
    }

    /// Runs under way of a group.
    pub(crate) fn running(&self, group: ObjectId) -> u64 {
        self.accounts.get(&group).map_or(0, |account| account.running)
    }

    /// Runs under way of a user.
    pub(crate) fn running_of_user(&self, user: ObjectId) -> u64 {
        self.running.get(&user).copied().unwrap_or(0)
    }

    /// A run begins that is expected to take so long.
    pub(crate) fn begin(&mut self, job: ObjectId, lane: Lane, expected_us: u64) {
        self.end(job, None);
        let entry = Entry { lane, started_ms: None, charged_us: 0, weighed: 0, counted_us: 0 };
        self.runs.insert(job, entry);
        self.accounts.entry(lane.group).or_default().running += 1;
        *self.running.entry(lane.user).or_default() += 1;
        self.charge(job, expected_us);
    }

    /// Its guest has started.
    pub(crate) fn started(&mut self, job: ObjectId) {
        let now_ms = self.now_ms;
        if let Some(entry) = self.runs.get_mut(&job) {
            entry.started_ms.get_or_insert(now_ms);
        }
    }

    /// A run is no longer under way; it has used so much, or else for as long as it was seen to run. Its lane, if it was
    /// under way.
    pub(crate) fn end(&mut self, job: ObjectId, used_us: Option<u64>) -> Option<Lane> {
        let entry = self.runs.get(&job)?;
        let seen_us = entry.started_ms.map_or(0, |at_ms| self.now_ms.saturating_sub(at_ms).saturating_mul(1_000));
        let lane = entry.lane;
        let used_us = used_us.unwrap_or(seen_us);
        self.count(job, used_us);
        self.charge(job, used_us);
        self.runs.remove(&job);
        if let Some(account) = self.accounts.get_mut(&lane.group) {
            account.running = account.running.saturating_sub(1);
        }
        if let Some(running) = self.running.get_mut(&lane.user) {
            *running = running.saturating_sub(1);
            if *running == 0 {
                self.running.remove(&lane.user);
            }
        }
        Some(lane)
    }

    /// Enters a run with this instead of what it was entered with.
    fn charge(&mut self, job: ObjectId, us: u64) {
        let weighed = self.weigh(us);
        let Some(entry) = self.runs.get_mut(&job) else { return };
        let (lane, before) = (entry.lane, std::mem::replace(&mut entry.weighed, weighed));
        entry.charged_us = us;
        let account = self.accounts.entry(lane.group).or_default();
        let user = account.users.entry(lane.user).or_default();
        for used in [&mut account.here, user] {
            used.weighed = used.weighed.saturating_sub(before).saturating_add(weighed);
        }
        self.unwritten.insert(lane);
    }

    /// A run has used so much by now: the totals have it.
    fn count(&mut self, job: ObjectId, us: u64) {
        let Some(entry) = self.runs.get_mut(&job) else { return };
        let more_us = us.saturating_sub(entry.counted_us);
        entry.counted_us = entry.counted_us.max(us);
        let account = self.accounts.entry(entry.lane.group).or_default();
        let user = account.users.entry(entry.lane.user).or_default();
        for used in [&mut account.here, user] {
            used.total_us = used.total_us.saturating_add(more_us);
        }
    }

    /// Enters runs with what they have taken that take longer than expected. The lanes.
    pub(crate) fn accrue(&mut self) -> BTreeSet<Lane> {
        let mut lanes = BTreeSet::new();
        let seen = self.runs.iter().filter_map(|(job, entry)| {
            let us = self.now_ms.saturating_sub(entry.started_ms?).saturating_mul(1_000);
            Some((*job, us, us > entry.charged_us, entry.lane))
        });
        for (job, us, longer, lane) in seen.collect::<Vec<_>>() {
            self.count(job, us);
            if longer {
                self.charge(job, us);
                lanes.insert(lane);
            }
        }
        lanes
    }

    pub(crate) fn has_runs(&self) -> bool {
        !self.runs.is_empty()
    }

    /// What is to be journaled, of so many lanes at most; whether more is left.
    pub(crate) fn take_unwritten(&mut self, lanes_max: usize, wall_ms: u64) -> (Vec<Tally>, bool) {
        let under_way = self.under_way();
        let mut tallies = BTreeMap::new();
        for _ in 0..lanes_max {
            let Some(lane) = self.unwritten.pop_first() else { break };
            let Some(account) = self.accounts.get(&lane.group) else { continue };
            let tally = |user: Option<ObjectId>, used: Use| {
                let open = under_way.get(&(lane.group, user)).copied().unwrap_or_default();
                Tally {
                    group: lane.group,
                    user,
                    total_us: used.total_us.saturating_sub(open.total_us),
                    recent_us: self.recent_us(used.weighed.saturating_sub(open.weighed)),
                    at_ms: wall_ms,
                }
            };
            tallies.insert((lane.group, None), tally(None, account.here));
            if let Some(user) = account.users.get(&lane.user) {
                tallies.insert((lane.group, Some(lane.user)), tally(Some(lane.user), *user));
            }
        }
        (tallies.into_values().collect(), !self.unwritten.is_empty())
    }

    /// What is entered of runs that are under way. It is not journaled: a worker that still has such a run after a restart says
    /// in the end what all of it has used.
    fn under_way(&self) -> BTreeMap<(ObjectId, Option<ObjectId>), Use> {
        let mut sums: BTreeMap<(ObjectId, Option<ObjectId>), Use> = BTreeMap::new();
        for entry in self.runs.values() {
            for user in [None, Some(entry.lane.user)] {
                let sum = sums.entry((entry.lane.group, user)).or_default();
                sum.total_us = sum.total_us.saturating_add(entry.counted_us);
                sum.weighed = sum.weighed.saturating_add(entry.weighed);
            }
        }
        sums
    }

    /// Takes back what was journaled, which is `age_ms` old.
    pub(crate) fn restore(&mut self, tally: &Tally, age_ms: u64) {
        let halvings = u32::try_from(age_ms / self.half_life_ms).unwrap_or(u32::MAX);
        let rest = u128::from(age_ms % self.half_life_ms).saturating_mul(ONE) / u128::from(self.half_life_ms);
        let left = shifted(u128::from(tally.recent_us), halvings).saturating_mul(ONE) / (ONE + rest);
        let weighed = left.saturating_mul(self.factor());
        let account = self.accounts.entry(tally.group).or_default();
        let used = match tally.user {
            Some(user) => account.users.entry(user).or_default(),
            None => &mut account.here,
        };
        // Runs that are under way were entered before.
        used.total_us = used.total_us.saturating_add(tally.total_us);
        used.weighed = used.weighed.saturating_add(weighed);
    }

    /// Another node says what a group has used there. Whether that is new.
    pub(crate) fn heard(&mut self, from: NodeId, tally: &UseTally, known: bool) -> bool {
        let weighed = self.weigh(tally.recent_us);
        let here = self.accounts.get(&tally.group).is_some_and(|account| account.elsewhere.contains_key(&from));
        let of_it = |account: &&Account| !here && account.elsewhere.contains_key(&from);
        let told = self.accounts.values().filter(of_it).count();
        let Some(account) = self.accounts.get_mut(&tally.group) else {
            if known && tally.recent_us >= FORGOTTEN_US && told < TOLD_MAX {
                let elsewhere = [(from, Use { total_us: tally.total_us, weighed })].into();
                self.accounts.insert(tally.group, Account { elsewhere, ..Account::default() });
                return true;
            }
            return false;
        };
        match account.elsewhere.get_mut(&from) {
            Some(before) if before.total_us >= tally.total_us => false,
            Some(before) => {
                *before = Use { total_us: tally.total_us, weighed };
                true
            }
            None if tally.recent_us < FORGOTTEN_US || told >= TOLD_MAX => false,
            None => {
                account.elsewhere.insert(from, Use { total_us: tally.total_us, weighed });
                true
            }
        }
    }

    /// Drops what has come to nothing. What was journaled of it goes with these tallies, which say that nothing is left.
    pub(crate) fn forget(&mut self, wall_ms: u64) -> Vec<Tally> {
        let least = self.weigh(FORGOTTEN_US);
        let under_way: BTreeSet<Lane> = self.runs.values().map(|entry| entry.lane).collect();
        let mut gone = Vec::new();
        for (group, account) in &mut self.accounts {
            account.elsewhere.retain(|_, used| used.weighed >= least);
            account.users.retain(|user, used| {
                let lane = Lane { group: *group, user: *user };
                let stays = used.weighed >= least || under_way.contains(&lane) || self.unwritten.contains(&lane);
                if !stays {
                    gone.push(nothing(*group, Some(*user), wall_ms));
                }
                stays
            });
        }
        self.accounts.retain(|group, account| {
            let lane = |user| Lane { group: *group, user };
            let unwritten = self.unwritten.range(lane(ObjectId::MIN)..=lane(ObjectId::MAX)).next().is_some();
            let used = account.here.weighed >= least || account.running > 0 || unwritten;
            let stays = used || !account.users.is_empty() || !account.elsewhere.is_empty();
            let terms = account.weight != WEIGHT_USUAL || !account.quota.is_empty();
            if !stays && account.here.total_us > 0 {
                gone.push(nothing(*group, None, wall_ms));
                account.here = Use::default();
            }
            stays || terms
        });
        gone
    }

    /// Looks again at what other nodes are told.
    pub(crate) fn update_told(&mut self, len_max: usize) {
        let tally = |(group, account): (&ObjectId, &Account)| UseTally {
            group: *group,
            total_us: account.here.total_us,
            recent_us: self.recent_us(account.here.weighed),
        };
        let mut told: Vec<UseTally> = self.accounts.iter().map(tally).filter(|told| told.total_us > 0).collect();
        told.sort_by_key(|tally| (std::cmp::Reverse(tally.recent_us), tally.group));
        told.truncate(len_max);
        self.told = told;
    }

    pub(crate) fn told(&self) -> &[UseTally] {
        &self.told
    }

    /// What a group has used of late, here and elsewhere, and ever, here: in microseconds.
    pub(crate) fn used_us(&self, group: ObjectId) -> (u64, u64) {
        let account = self.accounts.get(&group);
        account.map_or((0, 0), |account| (self.recent_us(account.weighed()), account.here.total_us))
    }

    /// The groups that have used anything of late, or have a run under way.
    pub(crate) fn groups(&self) -> impl Iterator<Item = ObjectId> + '_ {
        let active = |account: &Account| account.running > 0 || self.recent_us(account.weighed()) > 0;
        self.accounts.iter().filter(move |(_, account)| active(account)).map(|(group, _)| *group)
    }
}

fn nothing(group: ObjectId, user: Option<ObjectId>, at_ms: u64) -> Tally {
    Tally { group, user, total_us: 0, recent_us: 0, at_ms }
}

fn shifted(number: u128, by: u32) -> u128 {
    number.checked_shr(by).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR_MS: u64 = 3_600_000;

    fn id(n: u64) -> ObjectId {
        ObjectId::from_parts(n, 0, [0; 8])
    }

    fn lane(group: u64, user: u64) -> Lane {
        Lane { group: id(group), user: id(user) }
    }

    fn used(shares: &mut Shares, job: u64, lane: Lane, us: u64) {
        shares.begin(id(job), lane, 7);
        shares.end(id(job), Some(us));
    }

    #[test]
    fn what_was_used_a_half_life_ago_counts_half() {
        let mut shares = Shares::new(HOUR_MS);
        used(&mut shares, 1, lane(1, 1), 8_000_000);
        for (hours, left) in [(1, 4_000_000), (2, 2_000_000), (3, 1_000_000)] {
            shares.advance(hours * HOUR_MS);
            assert_eq!(shares.used_us(id(1)), (left, 8_000_000));
        }
        shares.advance(3 * HOUR_MS + HOUR_MS / 2);
        let (between, _) = shares.used_us(id(1));
        assert!((660_000..=710_000).contains(&between), "{between}");
        // So much as is left is used by another one: then both have used the same.
        used(&mut shares, 2, lane(2, 1), between);
        let keys = |group| shares.keys(lane(group, 1)).group / ONE;
        assert!(keys(1).abs_diff(keys(2)) <= 20, "{} {}", keys(1), keys(2));
    }

    #[test]
    fn the_order_is_the_same_after_the_factor_began_anew() {
        let mut shares = Shares::new(HOUR_MS);
        shares.set_terms(id(2), 3, Quota::default());
        used(&mut shares, 1, lane(1, 1), 10_000_000_000);
        used(&mut shares, 2, lane(2, 1), 20_000_000_000);
        shares.begin(id(9), lane(1, 1), 5_000_000);
        let before = (shares.keys(lane(1, 1)).group, shares.keys(lane(2, 1)).group);
        assert!(before.0 > before.1, "twice as much with three times the weight: {before:?}");
        assert!(!shares.advance(31 * HOUR_MS) && shares.advance(33 * HOUR_MS));
        let after = (shares.keys(lane(1, 1)).group, shares.keys(lane(2, 1)).group);
        assert!(after.0 > after.1 && after.0 < before.0, "{after:?}");
        assert_eq!(shares.end(id(9), None), Some(lane(1, 1)));
        assert!(shares.advance(10_000_000 * HOUR_MS));
        assert_eq!(shares.keys(lane(1, 1)), Keys::default());
    }

    #[test]
    fn a_run_is_entered_as_expected_then_as_seen_then_as_it_was() {
        let mut shares = Shares::new(HOUR_MS);
        shares.begin(id(1), lane(1, 1), 50_000);
        assert_eq!((shares.used_us(id(1)), shares.running(id(1)), shares.running_of_user(id(1))), ((50_000, 0), 1, 1));
        shares.started(id(1));
        shares.advance(40);
        assert!(shares.accrue().is_empty());
        shares.advance(90);
        assert_eq!(shares.accrue(), [lane(1, 1)].into());
        assert!(shares.used_us(id(1)).0 >= 89_000, "{:?}", shares.used_us(id(1)));
        assert_eq!(shares.end(id(1), Some(95_000)), Some(lane(1, 1)));
        assert_eq!(shares.used_us(id(1)), (95_000, 95_000));
        assert_eq!((shares.end(id(1), Some(1)), shares.running(id(1)), shares.running_of_user(id(1))), (None, 0, 0));
        // One that never started costs nothing.
        shares.begin(id(2), lane(1, 1), 50_000);
        shares.end(id(2), None);
        assert_eq!(shares.used_us(id(1)), (95_000, 95_000));
    }

    #[test]
    fn what_was_journaled_comes_back_older() {
        let mut shares = Shares::new(HOUR_MS);
        used(&mut shares, 1, lane(1, 1), 4_000_000);
        used(&mut shares, 2, lane(1, 2), 2_000_000);
        let (tallies, more) = shares.take_unwritten(10, 1_000);
        assert_eq!((tallies.len(), more), (3, false));
        assert_eq!(shares.take_unwritten(10, 1_000), (Vec::new(), false));
        let mut again = Shares::new(HOUR_MS);
        again.advance(5 * HOUR_MS);
        tallies.iter().for_each(|tally| again.restore(tally, HOUR_MS));
        assert_eq!(again.used_us(id(1)), (3_000_000, 6_000_000));
        assert_eq!(again.keys(lane(1, 1)).user, 2 * again.keys(lane(1, 2)).user);
        // In time nothing is left, and the rows go.
        again.advance(25 * HOUR_MS);
        let gone = again.forget(0);
        assert_eq!((gone.len(), again.accounts.len()), (3, 0), "{gone:?}");
    }

    #[test]
    fn of_two_tallies_the_higher_total_stands() {
        let mut shares = Shares::new(HOUR_MS);
        let told = |total_us, recent_us| UseTally { group: id(1), total_us, recent_us };
        let (one, two) = (NodeId([1; 32]), NodeId([2; 32]));
        assert!(!shares.heard(one, &told(10_000, 10_000), false), "nobody here knows the project");
        assert!(shares.heard(one, &told(10_000, 10_000), true));
        assert!(!shares.heard(one, &told(9_000, 90_000), true));
        assert!(shares.heard(two, &told(5_000, 5_000), true));
        assert!(shares.heard(one, &told(30_000, 20_000), true));
        assert_eq!(shares.used_us(id(1)), (25_000, 0));
        for n in 0..1_000 {
            shares.heard(one, &UseTally { group: id(100 + n), total_us: 5_000, recent_us: 5_000 }, true);
        }
        assert_eq!(shares.accounts.len(), TOLD_MAX);
        shares.advance(20 * HOUR_MS);
        shares.forget(0);
        assert!(shares.accounts.is_empty());
    }
}
