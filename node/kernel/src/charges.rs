//! The jobs of other homes that this node keeps: which they are, and which revision of each is on disk. The records
//! themselves stand in the store alone.
//!
//! Invariant: a revision here is that of the last record that was written, and never falls.

use std::collections::BTreeMap;
use std::ops::Bound;

use shoal_protocol::custody::CustodianSet;
use shoal_protocol::limits::KEEP_JOBS_MAX;
use shoal_protocol::object::job::{Array, State};
use shoal_protocol::wire::custody::Holding;
use shoal_protocol::{NodeId, ObjectId};

use crate::gone::Gone;
use crate::record::ChargeState;

/// Jobs of other homes that a node keeps. Why 400,000: at some 60 bytes each 24 MB, twice as many as a node has unsettled
/// jobs of its own.
pub(crate) const CHARGES_MAX: usize = 400_000;

/// When a home is looked for first that is away and whose jobs are kept here, in milliseconds. Why 5 s: most come back by
/// themselves.
const REACH_FIRST_MS: u64 = 5_000;

/// It is looked for at least so often, in milliseconds. Why a minute: as often as those that are here are compared.
const REACH_MAX_MS: u64 = 60_000;

/// One job of another home.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Known {
    pub(crate) set: u32,
    pub(crate) revision: u64,
    /// Its input is another job's result, and is not here.
    pub(crate) lacks_input: bool,
    /// How it has ended.
    pub(crate) ended: Option<State>,
    /// This node has taken it over.
    pub(crate) taken: bool,
    /// Of one that this node has settled: its home has said that it knows. After a restart it has to say so again.
    heard: bool,
    /// It is an element of an array: whoever goes on with that goes on with it.
    element: bool,
}

impl Known {
    pub(crate) fn settled(&self) -> bool {
        self.ended.is_some()
    }
}

/// A home whose jobs are kept here.
#[derive(Debug)]
struct Home {
    node: NodeId,
    /// While it is away: when it is looked for again, and after how long for the next time, in milliseconds.
    away: Option<(u64, u64)>,
    /// Since when it is away, as this node sees it.
    gone_ms: Option<u64>,
    sets: BTreeMap<u32, CustodianSet>,
    jobs: BTreeMap<ObjectId, Known>,
    /// Those of them that stand for their elements.
    arrays: BTreeMap<ObjectId, Array>,
    /// Those that it has said to forget: a record that was on its way then brings none back. What a record refers to is fetched before it
    /// comes in, and may take longer than the word that its job is forgotten.
    gone: Gone,
}

impl Home {
    /// The array that is kept here and that this is an element of.
    fn array_of(&self, element: ObjectId) -> Option<ObjectId> {
        let (id, array) = self.arrays.range(..element).next_back()?;
        array.place(id.index_of(element)?)?;
        Some(*id)
    }

    /// Jobs that nobody goes on with. Elements of arrays go with these.
    fn orphans(&self) -> impl Iterator<Item = (&ObjectId, &Known)> {
        self.jobs.iter().filter(|(_, known)| !known.settled() && !known.taken && !known.element)
    }
}

/// All of them, by the tag of their home, which the ids of its jobs carry.
#[derive(Debug, Default)]
pub(crate) struct Charges {
    homes: BTreeMap<[u8; 8], Home>,
    total: usize,
}

impl Charges {
    pub(crate) fn is_full(&self) -> bool {
        self.total >= CHARGES_MAX
    }

    /// The homes of which jobs are kept here, by their tags.
    pub(crate) fn homes(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.homes.values().filter(|home| !home.jobs.is_empty()).map(|home| home.node)
    }

    /// A home whose jobs, or some of them, this node decides.
    pub(crate) fn taken_of(&self) -> Option<NodeId> {
        let home = self.homes.values().find(|home| home.jobs.values().any(|known| known.taken));
        home.map(|home| home.node)
    }

    pub(crate) fn keeps_for(&self, home: NodeId) -> bool {
        self.homes.get(&home.tag()).is_some_and(|home| !home.jobs.is_empty())
    }

    /// The homes whose jobs are kept here that are to be looked for now: they are not here.
    pub(crate) fn away(&mut self, now_ms: u64, is_here: impl Fn(NodeId) -> bool) -> Vec<NodeId> {
        let mut due = Vec::new();
        for home in self.homes.values_mut().filter(|home| !home.jobs.is_empty()) {
            if is_here(home.node) {
                (home.away, home.gone_ms) = (None, None);
                continue;
            }
            home.gone_ms.get_or_insert(now_ms);
            let (at_ms, pause_ms) = home.away.unwrap_or((now_ms.saturating_add(REACH_FIRST_MS), REACH_FIRST_MS));
            let is_due = at_ms <= now_ms;
            let pause_ms = if is_due { pause_ms.saturating_mul(2).min(REACH_MAX_MS) } else { pause_ms };
            home.away = Some((if is_due { now_ms.saturating_add(pause_ms) } else { at_ms }, pause_ms));
            due.extend(is_due.then_some(home.node));
        }
        due
    }

    /// A home is there: how long it is away counts anew, also if it goes again before the next look.
    pub(crate) fn home_is_there(&mut self, home: NodeId) {
        if let Some(home) = self.homes.get_mut(&home.tag()) {
            (home.away, home.gone_ms) = (None, None);
        }
    }

    pub(crate) fn get(&self, job: ObjectId) -> Option<Known> {
        self.homes.get(&job.tag())?.jobs.get(&job).copied()
    }

    /// Whether this set of the home is known.
    pub(crate) fn knows(&self, set: &CustodianSet) -> bool {
        self.homes.get(&set.home.tag()).is_some_and(|home| home.sets.contains_key(&set.number))
    }

    /// A set of a home, of which this node is a custodian.
    pub(crate) fn put_set(&mut self, set: CustodianSet) {
        self.home(set.home).sets.insert(set.number, set);
    }

    /// A job is kept here at this revision.
    pub(crate) fn put(&mut self, charge: ChargeState) {
        let ChargeState { job, home, set, revision, lacks_input, array, ended, taken } = charge;
        let element = self.array_of(job).is_some();
        let home = self.home(home);
        home.arrays.extend(array.map(|array| (job, array)));
        let known = Known { set, revision, lacks_input, ended, taken, heard: false, element };
        if home.jobs.insert(job, known).is_none() {
            self.total += 1;
        }
    }

    /// A job that this node has taken over stands otherwise.
    pub(crate) fn note(&mut self, job: ObjectId, revision: u64, ended: Option<State>) {
        let home = self.homes.get_mut(&job.tag());
        if let Some(known) = home.and_then(|home| home.jobs.get_mut(&job)) {
            (known.revision, known.ended, known.taken, known.heard) = (revision, ended, true, false);
        }
    }

    /// A settled job that this node had taken over is only kept here from now on.
    pub(crate) fn hand_back(&mut self, job: ObjectId) {
        let home = self.homes.get_mut(&job.tag());
        if let Some(known) = home.and_then(|home| home.jobs.get_mut(&job)) {
            known.taken = false;
        }
    }

    /// The home of a job knows it at this revision.
    pub(crate) fn heard(&mut self, job: ObjectId, revision: u64) {
        let home = self.homes.get_mut(&job.tag());
        if let Some(known) = home.and_then(|home| home.jobs.get_mut(&job)) {
            known.heard |= known.revision <= revision;
        }
    }

    /// The home that has not said that it knows how a job has ended, which this node has taken over and settled.
    pub(crate) fn unheard(&self, job: ObjectId) -> Option<NodeId> {
        let home = self.homes.get(&job.tag())?;
        let known = home.jobs.get(&job).filter(|known| known.taken && known.settled() && !known.heard);
        known.map(|_| home.node)
    }

    /// A set of a home that is known here.
    pub(crate) fn set(&self, home: NodeId, number: u32) -> Option<&CustodianSet> {
        self.homes.get(&home.tag())?.sets.get(&number)
    }

    /// The set under which a job is kept here.
    pub(crate) fn set_of(&self, job: ObjectId) -> Option<&CustodianSet> {
        let home = self.homes.get(&job.tag())?;
        let known = home.jobs.get(&job).or_else(|| home.jobs.get(&self.array_of(job)?))?;
        home.sets.get(&known.set)
    }

    /// The sets of homes that have been away for so long, with jobs that nobody goes on with; and since when each is away.
    pub(crate) fn orphaned(&self, now_ms: u64, after_ms: u64) -> Vec<(NodeId, u32, u64)> {
        let mut orphaned = BTreeMap::new();
        for home in self.homes.values() {
            let Some(gone_ms) = home.gone_ms.filter(|gone_ms| gone_ms.saturating_add(after_ms) <= now_ms) else {
                continue;
            };
            for (_, known) in home.orphans() {
                orphaned.insert((home.node, known.set), gone_ms);
            }
        }
        orphaned.into_iter().map(|((home, set), gone_ms)| (home, set, gone_ms)).collect()
    }

    /// Jobs under a set of a home that nobody goes on with, and that may be: so many.
    pub(crate) fn open_under(
        &self,
        home: NodeId,
        set: u32,
        limit: usize,
        may: impl Fn(ObjectId) -> bool,
    ) -> Vec<ObjectId> {
        let Some(home) = self.homes.get(&home.tag()) else { return Vec::new() };
        let orphans = home.orphans().filter(|(_, known)| known.set == set);
        orphans.map(|(job, _)| *job).filter(|job| may(*job)).take(limit).collect()
    }

    /// The array that is kept here and that this is an element of.
    pub(crate) fn array_of(&self, element: ObjectId) -> Option<ObjectId> {
        self.homes.get(&element.tag())?.array_of(element)
    }

    /// The elements of an array that are kept here.
    pub(crate) fn elements_of(&self, id: ObjectId) -> Vec<ObjectId> {
        let home = self.homes.get(&id.tag());
        let Some((home, array)) = home.and_then(|home| Some((home, home.arrays.get(&id)?))) else { return Vec::new() };
        let Some(last) = id.element(array.last) else { return Vec::new() };
        let within = home.jobs.range((Bound::Excluded(id), Bound::Included(last))).map(|(job, _)| *job);
        within.filter(|job| id.index_of(*job).is_some_and(|index| array.place(index).is_some())).collect()
    }

    /// Those of them that have not ended, as far as is known here.
    pub(crate) fn open_elements(&self, id: ObjectId) -> Vec<ObjectId> {
        let open = |element: &ObjectId| self.get(*element).is_some_and(|known| !known.settled());
        self.elements_of(id).into_iter().filter(open).collect()
    }

    /// A job is kept here no more. Whether it was.
    pub(crate) fn remove(&mut self, job: ObjectId) -> bool {
        let home = self.homes.get_mut(&job.tag());
        let removed = home.is_some_and(|home| {
            home.arrays.remove(&job);
            home.jobs.remove(&job).is_some()
        });
        self.total -= usize::from(removed);
        removed
    }

    /// Its home has said to forget a job.
    pub(crate) fn note_gone(&mut self, job: ObjectId) {
        if let Some(home) = self.homes.get_mut(&job.tag()) {
            home.gone.insert(job);
        }
    }

    /// Whether its home has said to forget a job a moment ago.
    pub(crate) fn is_gone(&self, job: ObjectId) -> bool {
        self.homes.get(&job.tag()).is_some_and(|home| home.gone.contains(job))
    }

    /// A page of what is kept of a home, behind a job.
    pub(crate) fn page(&self, home: NodeId, after: Option<ObjectId>) -> Holding {
        let first = after.map_or(Bound::Unbounded, Bound::Excluded);
        let jobs = self.homes.get(&home.tag()).into_iter().flat_map(|home| home.jobs.range((first, Bound::Unbounded)));
        let mut jobs = jobs.map(|(job, known)| (*job, known.set, known.revision));
        let page: Vec<_> = jobs.by_ref().take(KEEP_JOBS_MAX).collect();
        Holding { after, jobs: page, more: jobs.next().is_some() }
    }

    fn home(&mut self, node: NodeId) -> &mut Home {
        self.homes.entry(node.tag()).or_insert_with(|| Home {
            node,
            away: None,
            gone_ms: None,
            sets: BTreeMap::new(),
            jobs: BTreeMap::new(),
            arrays: BTreeMap::new(),
            gone: Gone::default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: NodeId = NodeId([1; 32]);

    fn job(n: u64) -> ObjectId {
        ObjectId::from_parts(n, 0, HOME.tag())
    }

    fn state(n: u64, revision: u64) -> ChargeState {
        ChargeState {
            job: job(n),
            home: HOME,
            set: 1,
            revision,
            lacks_input: false,
            array: None,
            ended: None,
            taken: false,
        }
    }

    fn put(charges: &mut Charges, n: u64, revision: u64) {
        charges.put(state(n, revision));
    }

    #[test]
    fn a_page_ends_where_the_next_begins() {
        let mut charges = Charges::default();
        (0..1_000).for_each(|n| put(&mut charges, n, n));
        let first = charges.page(HOME, None);
        assert!(first.more && first.is_sound() && first.jobs.len() == KEEP_JOBS_MAX);
        let second = charges.page(HOME, first.jobs.last().map(|(job, ..)| *job));
        assert!(!second.more && second.is_sound() && second.jobs.len() == 1_000 - KEEP_JOBS_MAX);
        assert_eq!(second.jobs[0], (job(KEEP_JOBS_MAX as u64), 1, KEEP_JOBS_MAX as u64));
        assert_eq!(charges.page(NodeId([2; 32]), None), Holding::default(), "another home has none");
    }

    #[test]
    fn a_home_that_is_away_is_looked_for_ever_more_rarely_until_it_is_here() {
        let mut charges = Charges::default();
        assert_eq!(charges.away(0, |_| false), []);
        put(&mut charges, 1, 0);
        assert!(charges.keeps_for(HOME) && !charges.keeps_for(NodeId([2; 32])));
        let looks: Vec<u64> = (0..300).filter(|s| charges.away(s * 1_000, |_| false) == [HOME]).collect();
        assert_eq!(looks, [5, 15, 35, 75, 135, 195, 255]);
        assert_eq!(charges.away(300_000, |_| true), []);
        assert_eq!(charges.away(301_000, |_| false), []);
        assert_eq!(charges.away(306_000, |_| false), [HOME]);
    }

    #[test]
    fn elements_are_those_of_the_array_before_them() {
        let mut charges = Charges::default();
        let array = Array { first: 0, last: 9, step: 3, at_once: None };
        let state = ChargeState { array: Some(array), ..state(1, 0) };
        charges.put(state);
        let element = |index| job(1).element(index).unwrap();
        assert_eq!((charges.array_of(element(3)), charges.array_of(element(4))), (Some(job(1)), None));
        assert_eq!((charges.array_of(job(1)), charges.array_of(element(12))), (None, None));
        charges.put(ChargeState { job: element(3), array: None, ..state });
        charges.put(ChargeState { revision: 1, array: None, ..state });
        put(&mut charges, 2, 0);
        assert_eq!(charges.elements_of(job(1)), [element(3)]);
        assert!(charges.remove(job(1)) && charges.array_of(element(3)).is_none());
    }

    #[test]
    fn jobs_are_orphaned_when_their_home_has_been_away_for_long_and_nobody_goes_on_with_them() {
        let mut charges = Charges::default();
        (1..=3).for_each(|n| put(&mut charges, n, 0));
        charges.put(ChargeState { ended: Some(State::Failed), ..state(4, 1) });
        charges.away(1_000, |_| false);
        assert_eq!(charges.orphaned(60_999, 60_000), []);
        assert_eq!(charges.orphaned(61_000, 60_000), [(HOME, 1, 1_000)]);
        assert_eq!(charges.open_under(HOME, 1, 2, |_| true), [job(1), job(2)]);
        charges.note(job(1), 7, None);
        assert_eq!(charges.open_under(HOME, 1, 2, |_| true), [job(2), job(3)]);
        charges.note(job(2), 7, None);
        charges.note(job(3), 7, Some(State::Succeeded));
        let array = Array { first: 0, last: 9, step: 3, at_once: None };
        charges.put(ChargeState { array: Some(array), ..state(6, 0) });
        // What is new of it says nothing of its elements.
        charges.put(state(6, 1));
        let element = job(6).element(3).unwrap();
        charges.put(ChargeState { job: element, ..state(6, 0) });
        assert_eq!(charges.open_under(HOME, 1, 9, |_| true), [job(6)], "its elements follow");
        assert_eq!(charges.open_elements(job(6)), [element]);
        charges.note(job(6), 7, None);
        assert_eq!(charges.orphaned(61_000, 60_000), []);
        put(&mut charges, 5, 0);
        charges.away(62_000, |_| true);
        charges.away(63_000, |_| false);
        assert_eq!(charges.orphaned(122_999, 60_000), [], "it was there in between");
    }

    #[test]
    fn what_is_kept_is_counted_once() {
        let mut charges = Charges::default();
        put(&mut charges, 1, 0);
        put(&mut charges, 1, 3);
        assert_eq!((charges.total, charges.get(job(1)).map(|known| known.revision)), (1, Some(3)));
        assert_eq!(charges.homes().collect::<Vec<_>>(), [HOME]);
        assert!(charges.remove(job(1)) && !charges.remove(job(1)));
        assert_eq!((charges.total, charges.homes().count()), (0, 0));
    }
}
